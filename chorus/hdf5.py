"""Opening and making HDF5 files, in one place: without HDF5's own locks, and with errors that say what a file is instead.

HDF5 asks for a lock on every file it opens, which fails on file systems without locks (NFS, Lustre) and on read-only media.
Our files never change once they have their name, so there is nothing to lock.
"""

from __future__ import annotations

import math
import mmap
import secrets
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.npz import MOST_RATIO

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_SLACK = 1 << 20
_HEAP = b"GCOL\x01"
_NAMES = b"HEAP\x00"
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
        _check_names(path)
        file = h5py.File(path, "r", locking=False)
    except OSError as cause:  # HDF5's own words name its source files and line numbers
        raise error(f"{path}: expected {expected}, got {_instead(path, cause)}") from None
    except ValueError as cause:
        raise error(f"{path}: expected {expected}, got a damaged one ({cause})") from None
    with file:
        try:
            if file.userblock_size:  # behind which nobody looked at the names
                raise ValueError("it does not begin as HDF5 does")
            yield file
        except InputError:
            raise
        except (OSError, RuntimeError, LookupError, TypeError, ValueError, OverflowError, MemoryError) as cause:
            # h5py raises any of these on damage
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


def array(file: h5py.File, name: str) -> NDArray[Any]:
    """An array of a file that others may have written, in memory. To be called inside ``reading``.

    name  of the array, with a / after each group

    KeyError where there is none. ValueError for one that is not wholly in this file (links, external and virtual storage), of
    objects or records, packed by other filters than deflate and shuffle, or of more bytes than the file can hold.
    """
    item: Any = file
    for part in name.split("/"):
        if item.get(part, getclass=True, getlink=True) is not h5py.HardLink:
            if part not in item:
                raise KeyError(f"{name}: expected an array, got none")
            raise ValueError(f"{name}: expected an array in the file itself, got a link")
        item = item[part]
    if not isinstance(item, h5py.Dataset) or not isinstance(item.shape, tuple) or item.dtype.kind not in "biufS":
        raise ValueError(f"{name}: expected an array of numbers or fixed-width bytes, got something else")
    made = item.id.get_create_plist()
    filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count() or not set(filters) <= _FILTERS:
        raise ValueError(f"{name}: expected an array in the file itself, packed by deflate or not at all, got another")
    stored, most = item.id.get_storage_size(), MOST_RATIO if filters else 1
    sizes = [math.prod(shape) * item.dtype.itemsize for shape in (item.shape, item.chunks or ())]
    # A chunk larger than its array would be unpacked whole for a part.
    too_large = sizes[0] > most * stored or (item.chunks is not None and sizes[1] > sizes[0] + _SLACK)
    if stored > file.id.get_filesize() or too_large:
        raise ValueError(f"{name}: expected no more than its {stored} bytes in the file can hold, got shape {item.shape}")
    return np.asarray(item[()])


def attribute(item: Any, name: str, *, fixed: bool = False) -> Any:
    """A single number or text that a file, group or array has as an attribute; None where it has none of this name.

    fixed  whether a text must be of fixed length (bytes): looking for texts of any length (str) reads the whole file

    To be called inside ``reading``. ValueError for several, for one larger than the file, and for a damaged heap of texts.
    """
    if name not in item.attrs:
        return None
    found = item.attrs.get_id(name)
    if found.shape != () or found.get_storage_size() > item.file.id.get_filesize():
        raise ValueError(f"{name}: expected one number or text, got shape {found.shape}")
    text = h5py.check_string_dtype(found.dtype)
    if text is None and found.dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected a number or text, got {found.dtype}")
    if text is not None and text.length is None:
        if fixed:
            raise ValueError(f"{name}: expected a text of fixed length, got one of any length")
        _check_heaps(item.file)
    return item.attrs[name]


def _check_heaps(file: h5py.File) -> None:
    """ValueError for a damaged heap of texts of any length ("global heap"), in which libhdf5 would search without end.

    A heap is "GCOL", version 1, 3 bytes, its size in 8 bytes; then objects: 2 bytes number, 6 bytes, 8 bytes size, and, unless
    the number is 0, that many bytes, up to a multiple of 8. Number 0 is free space, whose size has these 16 bytes in it.
    """
    if tuple(file.id.get_create_plist().get_sizes()) != (8, 8):
        raise ValueError("expected offsets and lengths of 8 bytes")
    with open(file.filename, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_HEAP)
        while at >= 0:
            end = at + int.from_bytes(data[at + 8 : at + 16], "little")
            place = at + 16
            while end <= len(data) and place + 16 <= end:  # a heap that is cut off is an error of libhdf5's
                size = int.from_bytes(data[place + 8 : place + 16], "little")
                step = -(-size // 8) * 8 + 16 if data[place : place + 2] != b"\0\0" else size
                if step < 16 or place + step > end:
                    raise ValueError(f"expected texts that lie one behind the other in their heap, not so at byte {place}")
                place += step
            at = data.find(_HEAP, at + 1)


def _check_names(path: Path) -> None:
    """ValueError for a file of an old version whose list of free places among the names of a group has no end; OSError where it
    cannot be read. libhdf5 follows that list without end, and takes memory for each step.

    Versions 0 and 1 keep names in heaps: "HEAP", version 0, 3 bytes; then in 8 bytes each the size of the names, the first free
    place in them and where they are. A free place begins with the next one, or 1, and its size. Later versions have checksums.
    """
    with path.open("rb") as opened:
        start = opened.read(16)
        if start[:8] != _SIGNATURE or len(start) < 16 or start[8] > 1:
            return
        if start[13:15] != b"\x08\x08":
            raise ValueError("expected offsets and lengths of 8 bytes")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = data.find(_NAMES)
            while at >= 0:
                size, free, names = struct.unpack_from("<QQQ", data, at + 8) if at + 32 <= len(data) else (0, 1, 0)
                passed = 0
                while free < size and names + free + 16 <= len(data) and free != 1:
                    passed += 16  # the least that a free place takes
                    if passed > size:
                        raise ValueError(f"expected a list of free places that ends, not so in the heap at byte {at}")
                    (free,) = struct.unpack_from("<Q", data, names + free)
                at = data.find(_NAMES, at + 1)


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
