"""Which files are the shards of a store in a folder, their names, and compactions that were committed but not finished.

``compact_store`` puts new shards into ``compaction.part``, beside a list of those that they replace, and commits by renaming
that folder to ``compaction``. From then on the new ones count and the old ones do not, wherever they lie; the rest is moving
and removing files, which any writer can finish after the one that began it has died (docs/store-format.md, Compaction).
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chorus.errors import StoreError
from chorus.files import PART_SUFFIX, fsync_path
from chorus.store.schema import SHARD_SUFFIX, SHARDS, header_fields, is_plain

COMPACTION = "compaction"
"""The folder of a committed compaction."""
REPLACED = "replaced.json"
"""The file in it that names the shards replaced and the new ones."""
COMPACTION_FORMAT = "chorus-compaction"
_TRIES = 100


@dataclass(frozen=True)
class Compaction:
    """A committed compaction: names of the shards that it replaces, and of those that stand for them."""

    replaced: tuple[str, ...]
    by: tuple[str, ...]

    def to_json(self) -> bytes:
        """The content of ``REPLACED``."""
        fields = {"format": COMPACTION_FORMAT, "version": 1, "replaced": list(self.replaced), "by": list(self.by)}
        return json.dumps(fields, indent=1).encode()


def shard_paths(root: Path) -> list[Path]:
    """The shards of a store, files shards/*.h5, sorted by name. StoreError for a link, which could lead outside the store.

    Where a compaction was committed but not finished, its new shards count, and not those that they replace.
    """
    seen: tuple[Compaction | None, dict[str, Path]] | None = None
    for _ in range(_TRIES):
        # A folder is not listed in one moment. Twice the same, and no compaction in between: none was under way.
        now = read_compaction(root), _listed(root)
        if now == seen:
            break
        seen = now
    compaction, paths = now
    if compaction is not None:
        for name in compaction.replaced:
            paths.pop(name, None)
        for name in compaction.by:
            paths.setdefault(name, root / COMPACTION / name)
    found = [paths[name] for name in sorted(paths)]
    for path in found:
        if not is_plain(path, stat.S_ISREG):
            raise StoreError(f"{path}: expected a regular file, got a link or a folder")
    return found


def _listed(root: Path) -> dict[str, Path]:
    folder = root / SHARDS
    if not is_plain(folder, stat.S_ISDIR):
        raise StoreError(f"{folder}: expected a folder (not a link) with the store's shards, got a link, a file or nothing")
    return {path.name: path for path in folder.iterdir() if path.name.endswith(SHARD_SUFFIX)}


def read_compaction(root: Path) -> Compaction | None:
    """The compaction that was committed in a store and not finished; None where there is none. StoreError for a broken one."""
    folder = root / COMPACTION
    if not folder.exists() and not folder.is_symlink():
        return None
    path = folder / REPLACED
    if not is_plain(folder, stat.S_ISDIR) or not is_plain(path, stat.S_ISREG):
        if not folder.exists():  # finished in this moment
            return None
        raise StoreError(f"{folder}: expected the folder of a compaction with {REPLACED}, got something else")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    fields = header_fields(content, COMPACTION_FORMAT, (1,), str(path))
    names = [fields.get("replaced"), fields.get("by")]
    for found in names:
        if not isinstance(found, list) or not all(isinstance(name, str) and _is_name(name) for name in found):
            raise StoreError(f"{path}: expected names of shards, got {found!r}")
    return Compaction(tuple(fields["replaced"]), tuple(fields["by"]))


def _is_name(name: str) -> bool:
    return name.endswith(SHARD_SUFFIX) and Path(name).name == name and "\0" not in name


def finish_compaction(root: Path) -> None:
    """Finish a committed compaction and remove what one left that was not committed. The caller holds the store's lock."""
    compaction = read_compaction(root)
    if compaction is not None:
        for name in compaction.by:
            if (root / COMPACTION / name).exists():
                os.rename(root / COMPACTION / name, root / SHARDS / name)
        fsync_path(root / SHARDS)
        for name in compaction.replaced:
            (root / SHARDS / name).unlink(missing_ok=True)
        fsync_path(root / SHARDS)
        os.rename(root / COMPACTION, root / (COMPACTION + PART_SUFFIX))  # in one step: half of it would be a broken one
        fsync_path(root)
    leftover = root / (COMPACTION + PART_SUFFIX)
    if leftover.exists():
        shutil.rmtree(leftover)


def shard_number(name: str) -> int | None:
    """The number that a shard's name begins with, which counts commits; None for a name from elsewhere."""
    number = name.partition("-")[0]
    return int(number) if number.isdecimal() and len(number) < 18 else None


def new_shard_name(names: Iterable[str]) -> str:
    """A name for the next shard, behind those of ``names``.

    The number keeps rows in the order of commits; the random part makes the name unique even where locks do not work.
    """
    return numbered_name(1 + max((number for name in names if (number := shard_number(name)) is not None), default=-1))


def numbered_name(number: int) -> str:
    """A new name with this number."""
    return f"{number:08d}-{uuid.uuid4().hex[:16]}{SHARD_SUFFIX}"
