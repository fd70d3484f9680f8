"""Which weights a stage has used: what was asked for, which commit of the hub that is, where it lies, and how large it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Weights:
    """One model on this machine.

    model       hub id or path, as it was chosen     asked  the revision that was asked for; "" for the main branch
    revision    the commit of the hub that was used; "" for what is no model of the hub
    place       the folder or file; "" where it is not known
    size        bytes of its files; None where they are not known
    downloaded  bytes of it that were not on this machine before
    """

    model: str
    asked: str = ""
    revision: str = ""
    place: str = ""
    size: int | None = None
    downloaded: int = 0


def find(model: str, index: str = "", revision: str | None = None) -> Weights:
    """What this machine holds of a model now.

    index     the file that the folder of a model of the hub holds; "" for what the hub does not have: a path, or a name that
              only the stage understands
    revision  commit, tag or branch of the hub; None for the main branch
    """
    path = os.path.expanduser(model)
    if os.path.exists(path):
        return Weights(model, revision or "", place=path, size=sum(_sizes(Path(path))))
    if not index:
        return Weights(model)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, index, revision=revision)
    if not isinstance(cached, str):
        return Weights(model, revision or "")
    folder = Path(cached).parent  # snapshots/COMMIT
    return Weights(model, revision or "", folder.name, str(folder), sum(_sizes(folder)))


def held(model: str) -> int:
    """Bytes that the hub's cache holds of a model, of all its revisions; 0 for what is no id of the hub's form."""
    if model.count("/") != 1 or os.path.exists(os.path.expanduser(model)):
        return 0
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    # Revisions share files: what is the same in two of them is kept once, and links in their snapshots lead to it.
    files = [p for part in ("blobs", "snapshots") for p in (folder / part).rglob("*")]
    return sum(p.stat().st_size for p in files if p.is_file() and not p.is_symlink())


def _sizes(place: Path) -> Iterator[int]:
    """Bytes of a file, or of each file of a folder; the cache's links count as what they lead to."""
    files = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
    for file in files:
        yield file.stat().st_size
