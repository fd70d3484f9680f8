"""``index.json``: which shards a store has, for places that cannot be listed, and what else a reader need not ask for."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chorus.errors import StoreError, check_path
from chorus.files import exclusive_lock, write_json
from chorus.store.pictures import PICTURES, picture_file
from chorus.store.schema import SHARD_SUFFIX, SHARDS, Problem, header_fields, is_plain, read_store_json
from chorus.store.shard import Location, Shard
from chorus.store.shard_files import COMPACTION, finish_compaction, shard_paths
from chorus.store.urls import StoreUrl

INDEX = "index.json"
INDEX_FORMAT = "chorus-index"
INDEX_VERSION = 1
LOCK = ".lock"


@dataclass(frozen=True)
class Entry:
    """What is known of a shard before it is read.

    name      of its file                       nbytes    its size
    sha256    digest of the shard, or None      words     (start, end) bytes of the masks' words in the file, or None
    pictures  whether a file of pictures is beside it
    """

    name: str
    nbytes: int
    sha256: str | None = None
    words: tuple[tuple[int, int], ...] | None = None
    pictures: bool = False


def words_of(arrays: dict[str, Location]) -> tuple[tuple[int, int], ...]:
    """(start, end) bytes of the masks' words in a shard's file, ascending."""
    places = [arrays[name] for name in ("mask/words", "person_mask/words") if name in arrays]
    return tuple(sorted((place.offset, place.offset + place.nbytes) for place in places if place.nbytes))


def write_index(path: str | Path) -> Path:
    """Write ``index.json`` into a store in a folder, of the shards that it has now; returns the file's path.

    A web server needs it, since it cannot be asked what is there; elsewhere it saves requests. To be written again when the
    store has changed: readers of the index see the shards of then. StoreError for a damaged store.
    """
    root = check_path("path", path)
    read_store_json(root)
    with exclusive_lock(root / LOCK):
        finish_compaction(root)
        write_index_locked(root)
    return root / INDEX


def write_index_locked(root: Path) -> None:
    """``write_index`` for who holds the store's lock."""
    shards = [Shard.read(file) for file in shard_paths(root)]
    rows = [
        {
            "name": shard.path.name,
            "bytes": shard.nbytes,
            "sha256": shard.sha256,
            "words": [list(span) for span in words_of(shard.arrays)],
            "pictures": picture_file(root, shard.path.name) is not None,
        }
        for shard in shards
    ]
    write_json(root / INDEX, {"format": INDEX_FORMAT, "version": INDEX_VERSION, "shards": rows})


def index_problems(root: Path) -> list[Problem]:
    """Shards of a store in a folder that its index names, but that are not there or others; none where it has no index."""
    if not is_plain(root / INDEX, stat.S_ISREG):
        return []
    try:
        entries = _entries((root / INDEX).read_bytes(), str(root / INDEX))
    except StoreError as error:
        return [Problem(INDEX, "", str(error))]
    there = {path.name: path for path in shard_paths(root)}
    found = []
    for entry in entries:
        path = there.get(entry.name)
        if path is None:
            found.append(Problem(entry.name, "", f"expected, as {INDEX} has it, but it is not there"))
        elif path.stat().st_size != entry.nbytes:
            found.append(
                Problem(entry.name, "", f"expected {entry.nbytes} bytes, as {INDEX} has it, got {path.stat().st_size}")
            )
    return found


def read_index(root: StoreUrl) -> list[Entry] | None:
    """The shards that the index of a store at a URL names; None where it has none. StoreError for a broken one."""
    try:
        content = (root / INDEX).read_bytes()
    except FileNotFoundError:
        return None
    return _entries(content, str(root / INDEX))


def _entries(content: bytes, where: str) -> list[Entry]:
    fields = header_fields(content, INDEX_FORMAT, (INDEX_VERSION,), where)
    try:
        return [_entry(row) for row in fields["shards"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"{where}: expected what `chorus store index` writes, got a broken one ({error!r})") from None


def entries_of(root: StoreUrl) -> list[Entry]:
    """The shards of a store at a URL, by name: those of its index, or, where folders can be listed, those that are there.

    Raises StoreError where neither tells, and for a store that was copied in the middle of a compaction.
    """
    indexed = read_index(root)
    if root.scheme.startswith("http"):
        if indexed is None:
            raise StoreError(
                f"{root}: expected {INDEX}, since a web server cannot be asked which shards there are, got none; "
                "`chorus store index STORE` writes it into the store's folder"
            )
        return sorted(indexed, key=lambda entry: entry.name)
    if (root / COMPACTION).files():
        raise StoreError(
            f"{root}: expected no folder {COMPACTION}, which a compaction leaves that did not finish; "
            "`chorus store compact` in the store's folder finishes it"
        )
    known = {entry.name: entry for entry in indexed or ()}
    pictures = (root / PICTURES).files()
    found: list[Entry] = []
    for name, nbytes in sorted((root / SHARDS).files().items()):
        if not name.endswith(SHARD_SUFFIX):
            continue
        entry = known.get(name)
        if entry is not None and entry.nbytes == nbytes:
            found.append(entry)
        else:
            found.append(Entry(name, nbytes, pictures=name in pictures))
    return found


def _entry(row: Any) -> Entry:
    name, sha256 = str(row["name"]), str(row["sha256"])
    if not name.endswith(SHARD_SUFFIX) or "/" in name or "\\" in name or len(sha256) != 64 or not sha256.isalnum():
        raise ValueError(f"{name!r} {sha256!r}")
    nbytes, spans = int(row["bytes"]), row["words"]
    words = tuple((int(start), int(end)) for start, end in spans)
    flat: Sequence[int] = [0, *(at for span in words for at in span), nbytes]
    if list(flat) != sorted(flat):
        raise ValueError(f"words {spans!r} of {name!r}")
    return Entry(name, nbytes, sha256, words, bool(row["pictures"]))
