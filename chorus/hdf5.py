"""Opening and making HDF5 files, in one place: without HDF5's own locks, and with errors that say what a file is instead.

HDF5 asks for a lock on every file it opens, which fails on file systems without locks (NFS, Lustre) and on read-only media.
Our files never change once they have their name, so there is nothing to lock.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import h5py

from chorus.errors import InputError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_KNOWN = (
    (b"PK\x03\x04", "a zip or .npz file"),
    (b"\x93NUMPY", "a .npy file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"glTF", "a .glb surface"),
    (b"ply", "a .ply surface"),
    (b"\x80", "a pickle"),
    (b"{", "a JSON file"),
    (b"[", "a JSON file"),
)
"""How files begin that are given by mistake."""


class Openable(Protocol):
    """A file that is not on this machine, but can be opened like one; its text is its name."""

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The file, open for reading."""


@contextmanager
def reading(path: Path | Openable, expected: str, error: Callable[[str], Exception]) -> Iterator[h5py.File]:
    """A context with the HDF5 file ``path``, open for reading.

    expected  what it should be, as in "an occupancy file of `chorus aggregate`"
    error     makes an exception of a sentence

    Raises ``error``, with a sentence that names what is there instead, where the file is missing, cannot be read, is no HDF5
    file, or is cut short; and where HDF5 fails on damage inside the context.
    """
    if not isinstance(path, Path):
        with path.open("rb") as opened, _guarded(opened, str(path), expected, error) as file:
            yield file
        return
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as cause:  # HDF5's own words name its source files and line numbers
        raise error(f"{path}: expected {expected}, got {_instead(path, cause)}") from None
    with file:
        try:
            yield file
        except InputError:
            raise
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as cause:  # h5py raises any of these on damage
            raise error(f"{path}: expected {expected}, got a damaged one ({cause})") from None


@contextmanager
def _guarded(opened: IO[bytes], name: str, expected: str, error: Callable[[str], Exception]) -> Iterator[h5py.File]:
    """``reading`` of a file that is open."""
    try:
        with h5py.File(opened, "r") as file:
            yield file
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as cause:
        raise error(f"{name}: expected {expected}, got a damaged one or a file of another kind ({cause})") from None


def image(fill: Callable[[h5py.File], object], **layout: Any) -> bytes:
    """The content of an HDF5 file, made in memory: HDF5 that writes to a full disk leaves handles that crash the process.

    fill    called with the file, open for writing      layout  further arguments of ``h5py.File``
    """
    # HDF5 knows files by their names, also in memory: threads that write at the same time need different ones.
    with h5py.File(f"in-memory-{secrets.token_hex(8)}.h5", "w", driver="core", backing_store=False, **layout) as file:
        fill(file)
        file.flush()
        return bytes(file.id.get_file_image())


def _instead(path: Path, cause: OSError) -> str:
    """What is at a path that HDF5 cannot open."""
    if path.is_dir():
        return "a store" if (path / "store.json").exists() else "a folder"
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return f"a file that cannot be read ({error.strerror or error})"
    if not start:
        return "an empty one"
    if start.startswith(_SIGNATURE):
        return f"a damaged or truncated one ({cause})"
    return next((what for begin, what in _KNOWN if start.startswith(begin)), "a file of another kind")
