"""The cache of shards that were fetched: files named by their content's digest, of bounded size, least recently used go first.

Any number of processes share one. A file in it has all of its content from the moment it has its name. A file may be removed
while it is read: a memory map keeps what it maps until it is closed, and who asks again fetches again.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chorus.errors import InputError, StoreError
from chorus.files import PART_SUFFIX, cache_folder

LIMIT = "CHORUS_CACHE_LIMIT"
"""The environment variable with the most bytes of fetched shards that are kept, as in 20G."""
DEFAULT_LIMIT = 32 << 30
FOLDER = "stores"
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_DEAD_AFTER = 24 * 3600.0  # seconds after which a temporary file's writer must have died


def cache_limit() -> int:
    """Bytes from CHORUS_CACHE_LIMIT, or 32 GiB. InputError for what is no size."""
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return DEFAULT_LIMIT
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if not match:
        raise InputError(f"{LIMIT}: expected bytes, as in 20G, got {text!r}")
    return int(float(match[1]) * (1 << _UNITS[match[2].upper()]))


class ShardCache:
    """A folder of fetched files. Can be pickled and used by several threads and processes.

    folder  made when the first file is     limit  most bytes on the disk; what is being read may exceed it
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.folder = cache_folder() / FOLDER if folder is None else folder
        self.limit = cache_limit() if limit is None else limit
        self._lock = threading.Lock()
        self._making: dict[str, int] = {}
        self._mapped: dict[str, weakref.ref[mmap.mmap]] = {}

    def __reduce__(self) -> tuple[type[ShardCache], tuple[Path, int]]:
        return ShardCache, (self.folder, self.limit)

    def map(self, name: str) -> mmap.mmap | None:
        """A file's content, mapped read-only, and noted as used now; None where it is not there."""
        path = self.folder / name
        try:
            mapping = self.hold(name, path)
            os.utime(path)
        except (OSError, ValueError):  # not there, just removed, or empty
            return None
        return mapping

    def hold(self, name: str, path: Path) -> mmap.mmap:
        """The content of a file that has this name, or will have it, mapped; it is not removed while the map is referenced."""
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with self._lock:
            self._mapped[name] = weakref.ref(mapping)
        return mapping

    def find(self, name: str) -> Path | None:
        """The path of a file, noted as used now; None where it is not there. It may be removed at any moment."""
        path = self.folder / name
        with suppress(OSError):
            os.utime(path)
            return path
        return None

    def done_with(self, name: str) -> None:
        """Note that a file will not be used again soon: it is the next to go."""
        with suppress(OSError):
            os.utime(self.folder / name, (0, 0))

    def remove(self, name: str) -> None:
        """Remove a file, where it is there."""
        with suppress(OSError):
            (self.folder / name).unlink()

    @contextmanager
    def making(self, name: str, nbytes: int) -> Iterator[Path]:
        """A context with the path of an empty file to be filled, which gets its name at the end, and is removed on an error.

        nbytes  that it will take, for which room is made. StoreError where the folder cannot be written to or the disk is full.
        """
        part = self.folder / f"{name}.{secrets.token_hex(8)}{PART_SUFFIX}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                self._make_room(nbytes)
                self._making[part.name] = nbytes
            part.touch()
            yield part
            if part.exists():  # not removed, since it is of no use
                os.replace(part, self.folder / name)
        except (StoreError, FileNotFoundError):
            raise
        except OSError as error:
            raise StoreError(
                f"{self.folder}: expected room for {nbytes:,} bytes of a fetched shard, got {error}; CHORUS_CACHE names "
                f"another folder, {LIMIT} a smaller size"
            ) from None
        finally:
            with self._lock:
                self._making.pop(part.name, None)
            with suppress(OSError):
                part.unlink()

    def _make_room(self, nbytes: int) -> None:
        """Remove the least recently used files that this process does not read until there is room."""
        files: list[tuple[float, int, os.DirEntry[str]]] = []
        total = sum(self._making.values())
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name in self._making:
                    continue
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    size = _on_disk(status)
                    if entry.name.endswith(PART_SUFFIX):
                        if abs(time.time() - status.st_mtime) > _DEAD_AFTER:
                            os.unlink(entry.path)
                            continue
                    else:
                        files.append((status.st_mtime, size, entry))
                    total += size
        for _, size, entry in sorted(files, key=lambda file: file[0]):
            if total + nbytes <= self.limit:
                return
            held = self._mapped.get(entry.name)
            if held is not None and held() is not None:
                continue
            with suppress(OSError):
                os.unlink(entry.path)
                total -= size


def _on_disk(status: os.stat_result) -> int:
    """Bytes that a file takes: those that are not all fetched have holes."""
    blocks = getattr(status, "st_blocks", None)  # not on Windows
    return status.st_size if blocks is None else 512 * int(blocks)
