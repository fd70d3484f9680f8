"""detectron2 and mmpose as modules of the documented types and nothing behind them, for the adapters' tests.

What they are given is kept, so that a test can look at it; what they say, a test decides.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

LVIS = (*(f"thing_{i}" for i in range(1228)), "baby", "soccer_ball")
"""1230 names as those of LVIS v0.5 are: with underscores, people under the first of their synonyms."""


class Node(SimpleNamespace):
    """A configuration: names with dots become nodes."""

    def merge_from_file(self, path: str) -> None:
        for line in Path(path).read_text().splitlines():
            name, _, value = line.partition(": ")
            *nodes, last = name.split(".")
            at: Any = self
            for node in nodes:
                at = getattr(at, node)
            if not hasattr(at, last):
                raise KeyError(f"Non-existent config key: {name}")
            setattr(at, last, (value,) if last == "TEST" else value)


class FakeInstances:
    """detectron2's Instances: fields of N rows."""

    def __init__(self, size: tuple[int, int], rows: list[tuple[list[float], float, int]], device: str) -> None:
        height, width = size
        boxes = torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4)
        self.pred_boxes = SimpleNamespace(tensor=boxes)
        self.scores = torch.tensor([row[1] for row in rows], dtype=torch.float32)
        self.pred_classes = torch.tensor([row[2] for row in rows], dtype=torch.int64)
        self.pred_masks = torch.zeros((len(rows), height, width), dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(self.pred_masks, boxes.int().tolist(), strict=True):
            mask[max(y0, 0) : y1, max(x0, 0) : x1] = True
        self.device = device

    def to(self, device: str) -> FakeInstances:
        self.device = device
        return self


@dataclass
class FakeDetectron2:
    """The library. ``says``: weights and picture (BGR) -> rows of box, score, class; only those above the threshold return."""

    says: Callable[[str, np.ndarray], list[tuple[list[float], float, int]]]
    zoo: Path
    configurations: list[Node] = field(default_factory=list)
    seen: list[np.ndarray] = field(default_factory=list)
    point_rend: int = 0

    def install(self, monkeypatch: pytest.MonkeyPatch, coco: tuple[str, ...]) -> None:
        library = self

        class DefaultPredictor:
            def __init__(self, settings: Node) -> None:
                if not isinstance(settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST, float):
                    raise TypeError("threshold")
                if "missing" in settings.MODEL.WEIGHTS:
                    raise AssertionError(f"Checkpoint {settings.MODEL.WEIGHTS} not found!")
                self._settings = settings
                library.configurations.append(settings)

            def __call__(self, original_image: np.ndarray) -> dict[str, FakeInstances]:
                assert original_image.dtype == np.uint8
                assert original_image.shape[2] == 3
                assert original_image.flags.c_contiguous
                library.seen.append(original_image)
                rows = library.says(self._settings.MODEL.WEIGHTS, original_image)
                rows = [row for row in rows if row[1] > self._settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST]
                return {"instances": FakeInstances(original_image.shape[:2], rows, self._settings.MODEL.DEVICE)}

        def get_cfg() -> Node:
            return Node(
                MODEL=Node(WEIGHTS="", DEVICE="cuda", ROI_HEADS=Node(SCORE_THRESH_TEST=0.05)),
                DATASETS=Node(TEST=("coco_2017_val",)),
            )

        def add_pointrend_config(settings: Node) -> None:
            library.point_rend += 1
            settings.MODEL.POINT_HEAD = Node(NAME="")

        def get_config_file(name: str) -> str:
            if not (self.zoo / name).is_file():
                raise RuntimeError(f"{name} not available in Model Zoo!")
            return str(self.zoo / name)

        metadata = {"coco_2017_val": coco, "lvis_v0.5_val": LVIS}
        modules = {
            "detectron2": {},
            "detectron2.config": {"get_cfg": get_cfg},
            "detectron2.engine": {"DefaultPredictor": DefaultPredictor},
            "detectron2.data": {
                "MetadataCatalog": SimpleNamespace(get=lambda name: SimpleNamespace(thing_classes=metadata.get(name)))
            },
            "detectron2.model_zoo": {
                "get_config_file": get_config_file,
                "get_checkpoint_url": lambda name: f"https://zoo/{name}.pkl",
            },
            "detectron2.projects": {},
            "detectron2.projects.point_rend": {"add_pointrend_config": add_pointrend_config},
        }
        install(monkeypatch, modules)


def install(monkeypatch: pytest.MonkeyPatch, modules: dict[str, dict[str, Any]]) -> None:
    """Put modules of these contents in sys.modules, each also an attribute of its parent."""
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
