"""Many small shards of a store into few large ones, in one step for its readers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chorus._version import __version__
from chorus.errors import StoreError, check_path, check_whole
from chorus.files import PART_SUFFIX, exclusive_lock, fsync_path, remove_leftovers, write_new
from chorus.store.growing.making import MOST_PICTURE_BYTES, SHARD_SIZE, Grown, Progress
from chorus.store.growing.rows import check_intact, fitting, kept_pictures, rows_of_shard
from chorus.store.keeping import kept_beside, remove_dead
from chorus.store.opening import open_store
from chorus.store.pictures import picture_file
from chorus.store.reader import Store
from chorus.store.remote.index import INDEX, write_index_locked
from chorus.store.schema import SHARD_SUFFIX, SHARDS
from chorus.store.shard import Shard
from chorus.store.shard_files import (
    COMPACTION,
    REPLACED,
    Compaction,
    finish_compaction,
    numbered_name,
    shard_number,
    shard_paths,
)
from chorus.store.shard_writing import shard_header, write_bytes_new, write_shard
from chorus.store.table import joined
from chorus.store.writer import LOCK


def compact_store(path: str | Path, *, shard_size: int = SHARD_SIZE, progress: Progress | None = None) -> Grown:
    """Write neighbouring small shards of a store as large ones, which take their place in one step. Rows keep bits and order.

    path      a store in a folder     shard_size  images that a new shard may have; shards with more than half stay as they are
    progress  called with the number of rows written anew and of all that will be

    Writers wait meanwhile. Whenever this process is killed, readers find the old shards or the new ones, and the next writer,
    or the next call, removes what is left of the others. Who opened the store before must open it again: shards are gone.
    Pictures go with their rows; an ``index.json`` is written again. Raises StoreError where a shard that is to be replaced is
    damaged; then nothing has changed.
    """
    root, size = check_path("path", path), check_whole("shard_size", shard_size, 1)
    open_store(root, verify=False)  # before a lock is left in what is no store
    with exclusive_lock(root / LOCK):
        finish_compaction(root)
        remove_leftovers(root / SHARDS)
        remove_dead(root, {file.name for file in shard_paths(root)})
        store = open_store(root, verify=False)
        groups = _groups(store.shards, size, [_picture_bytes(root, shard) for shard in store.shards])
        indexed = (root / INDEX).exists()
        if groups:
            (root / INDEX).unlink(missing_ok=True)  # it names shards that are going to go
            _replace(store, groups, progress)
            if indexed:
                write_index_locked(root)
        after = open_store(root, verify=False)
    return Grown(root, images=len(after), shards=len(after.shards), written=len(groups))


def _picture_bytes(root: Path, shard: Shard) -> int:
    path = picture_file(root, shard.path.name)
    return 0 if path is None else path.stat().st_size


def _groups(shards: Sequence[Shard], size: int, pictures: Sequence[int]) -> list[list[int]]:
    """Numbers of neighbouring shards, two or more in each group, that together have at most ``size`` images, and pictures of no
    more bytes than are held in memory.

    pictures  bytes of each shard's
    """
    groups: list[list[int]] = []
    group: list[int] = []
    images = held = 0
    for number, (shard, more) in enumerate(zip(shards, pictures, strict=True)):
        too_large = 2 * len(shard) > size or 2 * more > MOST_PICTURE_BYTES
        if too_large or images + len(shard) > size or held + more > MOST_PICTURE_BYTES:
            groups.append(group)
            group, images, held = [], 0, 0
        if not too_large:
            group.append(number)
            images, held = images + len(shard), held + more
    return [group for group in [*groups, group] if len(group) > 1]


def _replace(store: Store, groups: Sequence[Sequence[int]], progress: Progress | None) -> None:
    root = Path(store.path)
    folder = root / (COMPACTION + PART_SUFFIX)
    folder.mkdir()
    names = [shard.path.name for shard in store.shards]
    total = sum(len(store.shards[number]) for group in groups for number in group)
    replaced: list[str] = []
    by: list[str] = []
    done = 0
    try:
        for group in groups:
            name = _name_between(names, group)
            _write_group(store, [store.shards[number] for number in group], folder / name)
            by.append(name)
            replaced += [names[number] for number in group]
            done += sum(len(store.shards[number]) for number in group)
            if progress is not None:
                progress(done, total)
        content = Compaction(tuple(replaced), tuple(by)).to_json()
        write_new(folder / REPLACED, lambda part: write_bytes_new(part, content))
        fsync_path(folder)
        os.rename(folder, root / COMPACTION)  # from here on the new shards count
        fsync_path(root)
    except BaseException:
        if not (root / COMPACTION).exists():
            finish_compaction(root)  # removes what was not committed
            remove_dead(root, set(names))
        raise
    finish_compaction(root)
    remove_dead(root, {file.name for file in shard_paths(root)})


def _write_group(store: Store, shards: Sequence[Shard], target: Path) -> None:
    parts = []
    pictures = {}
    for shard in shards:
        check_intact(store, shard)
        parts.append(rows_of_shard(shard, np.arange(len(shard))))
        keys = shard.array("image/key").tolist()
        found = zip(keys, kept_pictures(store, keys), strict=True)
        pictures.update({key: picture for key, picture in found if picture is not None})
    provenance: dict[str, Any] = {"software": f"chorus {__version__}", "operation": "compact"}
    provenance["made_from"] = fitting(shard.provenance for shard in shards)
    header = shard_header(store.header, sum(map(len, shards)), provenance)
    arrays = joined(parts, store.has_person_masks)
    with kept_beside(Path(store.path) / SHARDS / target.name, pictures, write_shard):
        write_new(target, lambda part: write_shard(part, header, arrays))


def _name_between(names: Sequence[str], group: Sequence[int]) -> str:
    """A new name that sorts where those of a group of neighbours do, so that rows keep their order."""
    before = names[group[0] - 1] if group[0] else ""
    after = names[group[-1] + 1] if group[-1] + 1 < len(names) else None
    number = shard_number(names[group[0]])
    for _ in range(64 if number is not None else 0):
        name = numbered_name(number or 0)
        if name not in names and before < name and (after is None or name < after):
            return name
    for member in group:  # names from elsewhere: "-" sorts before ".", so this is just before the member
        name = f"{names[member].removesuffix(SHARD_SUFFIX)}-{numbered_name(0)[9:]}"
        if before < name and (after is None or name < after):
            return name
    raise StoreError(f"no name for a new shard sorts between {before!r} and {after!r}: rename one of the two")
