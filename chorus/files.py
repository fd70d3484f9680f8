"""Places to write to, atomic writes (a temporary file, fsync, rename, fsync of the folder), and file locks for writers."""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chorus.errors import InputError, StoreError

PART_SUFFIX = ".part"
"""Part of every temporary name, and the end of those in a store; readers ignore such files."""
_NO_FOLDER_SYNC = (errno.EACCES, errno.EINVAL, errno.ENOTSUP)
"""Errors of fsync on a folder that are ignored: file systems without it, and folders that can be written but not read."""


def cache_folder() -> Path:
    """The folder of what can be made or fetched again: the environment variable CHORUS_CACHE, or the platform's own."""
    chosen = os.environ.get("CHORUS_CACHE")
    if chosen:
        return Path(chosen)
    import platformdirs  # imported late: needed only without CHORUS_CACHE

    return Path(platformdirs.user_cache_dir("chorus-hoi", appauthor=False))


def check_output_file(name: str, path: Path, suffixes: Sequence[str] = (), *, replace: bool = True) -> None:
    """InputError where a file cannot be written to ``path``; called before minutes of work, not after.

    name      of the argument or option, for the message
    suffixes  endings, such as ".png", of which the path must have one; none given: any
    replace   whether a file that exists may be replaced
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(f"{name}: expected a name ending in {' or '.join(suffixes)}, got {str(path)!r}")
    if path.is_dir():
        raise InputError(f"{name}: expected a file, got the folder {str(path)!r}")
    if os.path.lexists(path):
        if not path.is_file():
            raise InputError(f"{name}: expected a file that can be replaced, got {str(path)!r}, which is none")
        if not replace:
            raise InputError(f"{name}: expected a new name (or --force, to replace the file), got the file {str(path)!r}")
    _check_folder_of(name, path, "a file")


def check_output_folder(name: str, path: Path, result: str = "", *, replace: bool = True) -> None:
    """InputError where files cannot be written into the folder ``path``, which may be a new name in a folder that exists.

    result   a file that an earlier result in the folder has
    replace  whether such a result may be replaced
    """
    if not path.is_dir():
        if os.path.lexists(path):
            raise InputError(f"{name}: expected a folder, got the file {str(path)!r}")
        _check_folder_of(name, path, "a folder")
        return
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"{name}: expected a folder that can be written to, got {str(path)!r}")
    if not replace and os.path.lexists(path / result):
        raise InputError(f"{name}: expected a folder without {result} (or --force, to replace it), got {str(path)!r}")


def _check_folder_of(name: str, path: Path, what: str) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{name}: expected {what} in a folder that exists, got {str(path)!r}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{name}: expected {what} in a folder that can be written to, got {str(path)!r}")


def write_text(path: Path, text: str) -> None:
    """``write_atomically`` of a text, in UTF-8."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """``write_atomically`` of a value as JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def json_value(text: Any) -> Any:
    """The value of a JSON text that others may have written: str, or bytes in UTF-8.

    ValueError for anything else, also for what is nested too deep, for which Python raises RecursionError.
    """
    if not isinstance(text, (str, bytes)):
        raise ValueError(f"expected JSON, got a {type(text).__name__}")
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("expected JSON, got one that is nested too deep") from None


@contextmanager
def exclusive_lock(path: Path, wait: bool = True) -> Iterator[None]:
    """A context that holds an exclusive lock on the file ``path``, which is created if missing.

    wait  whether to wait for another holder; False: BlockingIOError where there is one

    The system releases the lock when its holder dies. StoreError on systems and file systems without POSIX locks.
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
            # Not fcntl.lockf instead: most file systems that refuse one refuse both (Linux makes flock of NFS from it), it
            # excludes neither threads nor writers that have flock, and closing another handle of the file drops it.
            raise StoreError(
                f"{path}: expected a file system with locks (flock) for writing a store, got {error}; write the store on a "
                "local disk and copy its folder there: reading needs no locks"
            ) from None
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing does not release it where a forked process has inherited the handle
    finally:
        os.close(handle)


def fsync_path(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the storage medium."""
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows syncs only what could be written to
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, write: Callable[[Path], object], *, part: Path | None = None) -> None:
    """Write a file or folder under a temporary name, fsync it, and rename it to ``path``.

    write  called with the temporary path, which is in the same folder and has the suffix of ``path`` (some writers choose the
           format by it)
    part   a fixed temporary path instead, so that leftovers of a dead writer can be found; the caller must hold a lock

    Readers see the old file or all of the new one, even after a crash; of several writers the last one wins. The file has the
    permissions of any new file. On an error the temporary file is removed, the old one stays, and the error is raised.
    """
    if part is None:
        part = path.with_name(f".{secrets.token_hex(8)}{PART_SUFFIX}{path.suffix}")
    _write_and_rename(part, path, write, os.replace)


def write_new(path: Path, write: Callable[[Path], object]) -> None:
    """``write_atomically`` for a path that must not exist, under the temporary name ``path`` + ".part".

    The caller must hold the folder's lock, so that no other writer creates the path in between, and so that the temporary
    files that ``remove_leftovers`` finds belong to dead writers. Raises StoreError where the path exists.
    """
    if path.exists() or path.is_symlink():
        raise StoreError(f"{path}: expected a new name, got an existing file")
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
    if os.name == "nt":  # Windows has no fsync for folders
        return
    try:
        fsync_path(path.parent)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files in ``folder``, whose lock the caller must hold; returns their paths.

    Every writer holds the lock from creating a temporary file to renaming it, so temporary files found under the lock
    belong to dead writers.
    """
    leftovers = sorted(p for p in folder.iterdir() if p.name.endswith(PART_SUFFIX))
    for path in leftovers:
        path.unlink()
    return leftovers


_warned: set[tuple[str, str]] = set()


def warn_once(log: logging.Logger, about: str, message: str) -> None:
    """Log a warning unless this process has logged one about the same thing: a cache that fails is asked for again and again.

    log  the logger      about  what the warning is about, of which one is enough
    """
    if (log.name, about) in _warned:
        log.debug("%s", message)
        return
    _warned.add((log.name, about))
    log.warning("%s", message)
