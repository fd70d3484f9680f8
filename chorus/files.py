"""Atomic writes: a file is made under a temporary name, fsynced, renamed, and its folder fsynced; and locks for writers."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chorus.errors import StoreError

PART_SUFFIX = ".part"
"""Ends the temporary names of a store's files, and is in all others; readers never look at them."""
_NO_FOLDER_SYNC = (errno.EACCES, errno.EINVAL, errno.ENOTSUP)
"""What file systems answer that cannot fsync a folder, and folders that may be written to but not read."""


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
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows syncs only what could be written to
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, write: Callable[[Path], object], *, part: Path | None = None) -> None:
    """Let ``write`` make a file, or a folder, under a temporary name, and give it the name ``path`` once it is on the medium.

    write  is given the temporary name: in the same folder, with the suffix of ``path``, by which some writers tell the format
    part   another temporary name, so that what a dead writer left can be found; then the caller holds a lock

    Readers see the old file or all of the new one, also after a crash; of several writers the last one wins. A file has the
    permissions of any new file. On any error the temporary file is removed, the old one stays, and the error is raised.
    """
    if part is None:
        part = path.with_name(f".{secrets.token_hex(8)}{PART_SUFFIX}{path.suffix}")
    _write_and_rename(part, path, write, os.replace)


def write_new(path: Path, write: Callable[[Path], object]) -> None:
    """``write_atomically`` under the temporary name ``path`` + ".part", for a name that is not taken: else StoreError.

    The caller holds the folder's lock, so that none can take the name in between, and ``remove_leftovers`` knows that the
    writers of the temporary files it finds are dead.
    """
    if path.exists() or path.is_symlink():
        raise StoreError(f"{path}: expected a new name, but there is such a file")
    _write_and_rename(path.with_name(path.name + PART_SUFFIX), path, write, os.rename)


def _write_and_rename(part: Path, path: Path, write: Callable[[Path], object], rename: Callable[[Path, Path], object]) -> None:
    try:
        write(part)
        fsync_path(part)
        rename(part, path)
    except BaseException:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
        raise
    if os.name == "nt":  # which has no fsync for folders
        return
    try:
        fsync_path(path.parent)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files in ``folder``; the caller holds its lock.

    Every writer holds the lock from making a temporary file to renaming it. So who holds it knows that the writers of
    all temporary files there are dead.
    """
    leftovers = sorted(p for p in folder.iterdir() if p.name.endswith(PART_SUFFIX))
    for path in leftovers:
        path.unlink()
    return leftovers
