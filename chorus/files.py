"""Files that are there whole or not at all: temporary name, fsync, rename, fsync of the folder, under a lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chorus.errors import StoreError

PART_SUFFIX = ".part"
"""Ends the names of files still being written; readers never look at them."""


@contextmanager
def exclusive_lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file ``path``, created where missing; waits for another holder, or not: BlockingIOError where there is one.

    The system releases it when its holder dies, however it dies. StoreError where there are no such locks.
    """
    try:
        import fcntl  # not on Windows, where stores can be read but not written
    except ImportError:
        raise StoreError(f"{path}: expected a system with POSIX file locks for writing a store, got none") from None
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError as error:
            raise StoreError(f"{path}: expected a file system with locks for writing a store, got {error}") from None
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing would not do where a fork has inherited the handle
    finally:
        os.close(handle)


def fsync_path(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the medium."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a file under a temporary name and give it the name ``path`` once it is on the medium.

    Readers see all of the file or nothing, also after a crash. Refuses a name that is taken (StoreError); the caller
    holds the folder's lock, so that none can take it in between. On any error the temporary file is removed.
    """
    part = path.with_name(path.name + PART_SUFFIX)
    if path.exists() or path.is_symlink():
        raise StoreError(f"{path}: expected a new name, but there is such a file")
    try:
        write(part)
        fsync_path(part)
        os.rename(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files in ``folder``; the caller holds its lock.

    Every writer holds the lock from making a temporary file to renaming it. So who holds it knows that the writers of
    all temporary files there are dead.
    """
    leftovers = sorted(p for p in folder.iterdir() if p.name.endswith(PART_SUFFIX))
    for path in leftovers:
        path.unlink()
    return leftovers
