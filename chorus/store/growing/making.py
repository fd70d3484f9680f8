"""New stores that appear whole or not at all, made of rows of others; shards of which all rows are taken keep their files."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import StoreError, check_path
from chorus.files import exclusive_lock, fsync_path, write_new
from chorus.store.filters import Filter
from chorus.store.filters.filtering import FILTER_JSON
from chorus.store.growing.rows import check_intact, kept_pictures, rows_of_shard
from chorus.store.keeping import kept_beside
from chorus.store.pictures import PICTURES, EncodedPicture, picture_file
from chorus.store.reader import Store
from chorus.store.schema import SHARDS, Header
from chorus.store.shard import Shard
from chorus.store.shard_files import new_shard_name
from chorus.store.shard_writing import write_shard
from chorus.store.writer import StoreWriter

SHARD_SIZE = 4096
"""Images in a shard that is written anew."""
MOST_PICTURE_BYTES = 1 << 28
"""Bytes of pictures in memory at which a shard with fewer images is committed."""
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)

Progress = Callable[[int, int], object]
"""Called with the number of images done and of all."""


@dataclass
class Grown:
    """What became of the rows of the stores that a new one was made of.

    path      the new store                     images   its rows
    shards    its shards                        linked   those that are hard links of older ones
    copied    those that are copies             written  those written anew, from parts of older ones
    skipped   rows left out because their key was there already
    """

    path: Path
    images: int = 0
    shards: int = 0
    linked: int = 0
    copied: int = 0
    written: int = 0
    skipped: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a dictionary for JSON."""
        return {**asdict(self), "path": str(self.path)}


@contextmanager
def appearing(output: str | Path) -> Iterator[Path]:
    """A context with a path to make a folder at, which becomes ``output`` at the end, whole, and not at all on an error.

    Raises StoreError where ``output`` exists and is not an empty folder, where its folder does not exist, and where another
    process is making it. What a process that died had made is removed.
    """
    output = check_path("output", output)
    if os.path.lexists(output) and (not output.is_dir() or output.is_symlink() or any(output.iterdir())):
        raise StoreError(f"output: expected a new name, got {str(output)!r}, which exists")
    if not output.absolute().parent.is_dir():
        raise StoreError(f"output: expected a name in a folder that exists, got {str(output)!r}")
    place = output.absolute().with_name(f".{output.name}.part")
    place.mkdir(exist_ok=True)
    try:
        with exclusive_lock(place / ".lock", wait=False):
            for left in place.iterdir():
                if left.name != ".lock":
                    shutil.rmtree(left)
            made = place / output.name
            try:
                yield made
                fsync_path(made)
                os.rename(made, output)
                fsync_path(output.absolute().parent)
            finally:
                shutil.rmtree(place, ignore_errors=True)
    except BlockingIOError:
        raise StoreError(f"output: expected {str(output)!r} to be made by one process, but another is at it") from None


class StoreMaker:
    """Makes a store of rows of others in a folder that nobody reads yet. A context manager, as ``StoreWriter``.

    path         the folder, which does not exist      header      of the new store
    provenance   of the shards written anew            shard_size  images in these
    done         called with the number of rows after each shard
    """

    def __init__(
        self, path: Path, header: Header, provenance: dict[str, Any], shard_size: int = SHARD_SIZE, done: Any = None
    ) -> None:
        self._writer = StoreWriter(
            path,
            category=header.category,
            num_joints=header.num_joints,
            body_hash=header.body_hash,
            provenance=provenance,
            shard_size=shard_size,
            person_masks=header.person_masks,
        )
        self._path, self._done = path, done
        self._names: list[str] = []
        self.made = Grown(path)

    def __enter__(self) -> StoreMaker:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._writer.__exit__(kind, error, trace)
        if kind is None:
            folders = [self._path / SHARDS, self._path / PICTURES, self._path]
            for folder in folders:
                if folder.exists():
                    fsync_path(folder)
            self.made.shards = sum(1 for _ in (self._path / SHARDS).iterdir())
            self.made.written = self.made.shards - self.made.linked - self.made.copied

    def add(self, store: Store, rows: NDArray[np.int64]) -> None:
        """Add rows of a store, (m,) int64 ascending. StoreError where a shard that must be written anew is damaged."""
        for number, where in store.by_shard(rows):
            shard, local = store.shards[number], rows[where] - store.first_rows[number]
            # A link between pending rows would cut them into a small shard.
            if len(local) == len(shard) and (not self._writer.num_pending or len(shard) >= SHARD_SIZE // 4):
                self._take_whole(store, shard)
            else:
                check_intact(store, shard)
                keys = shard.array("image/key")[local].tolist()
                self._writer.add_rows(rows_of_shard(shard, local), kept_pictures(store, keys))
                if self._writer.picture_bytes > MOST_PICTURE_BYTES:
                    self._writer.flush()
            self.made.images += len(local)
            if self._done is not None:
                self._done(len(local))

    def keep_filter(self, chosen: Filter) -> None:
        """Give the new store a filter."""
        text = json.dumps(chosen.to_json(), indent=1) + "\n"
        write_new(self._path / FILTER_JSON, lambda part: part.write_text(text, encoding="utf-8"))

    def _take_whole(self, store: Store, shard: Shard) -> None:
        self._writer.flush()
        target = self._path / SHARDS / new_shard_name(p.name for p in (self._path / SHARDS).iterdir())
        beside = picture_file(store.path, shard.path.name) if isinstance(store.path, Path) else None
        pictures: dict[bytes, EncodedPicture] = {}
        if beside is None:  # at a URL, in the folder of an old store, or not there
            keys = shard.array("image/key").tolist()
            kept = zip(keys, kept_pictures(store, keys), strict=True)
            pictures = {key: picture for key, picture in kept if picture is not None}
        with kept_beside(target, pictures, write_shard):
            if beside is not None:
                (self._path / PICTURES).mkdir(exist_ok=True)
                _link_or_copy(beside, self._path / PICTURES / target.name)
            if isinstance(shard.path, Path):
                linked = _link_or_copy(shard.path, target)
            else:
                write_new(target, shard.copy_to)
                linked = False
        self.made.linked += linked
        self.made.copied += not linked


def _link_or_copy(source: Path, target: Path) -> bool:
    """Whether ``target`` has become a hard link of ``source``; else it is a copy."""
    try:
        os.link(source, target, follow_symlinks=False)
        return True
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    write_new(target, lambda part: shutil.copyfile(source, part))
    return False
