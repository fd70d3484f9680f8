"""Module paths of version 0.1 that have moved: still importable under their old names, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

MOVED = {
    "chorus.aggregation": "chorus.occupancy.aggregation",
    "chorus.camera_fit": "chorus.camera.fit",
    "chorus.clusters": "chorus.occupancy.clusters",
    "chorus.contacts": "chorus.votes.contacts",
    "chorus.evaluate.ablate": "chorus.evaluate.ablation.run",
    "chorus.evaluate.coco_eft": "chorus.ingest.coco_eft",
    "chorus.evaluate.pap_report": "chorus.evaluate.pap.categories",
    "chorus.explain": "chorus.votes.explain",
    "chorus.feeding": "chorus.votes.prefetch",
    "chorus.frontend.filtering": "chorus.store.filters.filtering",
    "chorus.objects": "chorus.simulate.objects",
    "chorus.parts": "chorus.votes.parts",
    "chorus.photo": "chorus.reconstruct.photo",
    "chorus.posed": "chorus.occupancy.posed",
    "chorus.scene": "chorus.reconstruct.scene",
    "chorus.selection": "chorus.votes.selection",
    "chorus.surfaces": "chorus.occupancy.surfaces",
    "chorus.views": "chorus.camera.views",
    "chorus.worlds": "chorus.simulate.worlds",
}
"""The modules that the documentation of 0.1 named -> where they are."""


class _Loader(importlib.abc.Loader):
    def exec_module(self, module: ModuleType) -> None:
        new = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} has moved to {new}", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = importlib.import_module(new)  # the import system hands out what stands here


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, _Loader()) if fullname in MOVED else None


def install() -> None:
    """Let the old paths be imported; done once, by ``import chorus``."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
