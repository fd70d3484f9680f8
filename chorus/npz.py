"""Reading .npz and .npy files that others may have written: no pickles, and no more memory than the file accounts for."""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from chorus.errors import InputError

MOST_RATIO = 1100
"""Deflate makes data at most 1032 times smaller: what claims to be more than this times the file is not in it."""
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, OverflowError, SyntaxError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What zipfile and numpy raise on damaged files. RuntimeError: encrypted, of an unknown kind (NotImplementedError), nested."""


def read_npz(
    path: str | os.PathLike[str], choose: Callable[[list[str]], Iterable[str]] = list, *, most_bytes: int = 1 << 40
) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz by name.

    choose      from the names of all arrays to those that are read         most_bytes  that all arrays of the file may have

    Nothing in the file is run. Raises FileNotFoundError and NotADirectoryError where there is no file; InputError for one that
    is none, damaged, encrypted, packed otherwise than numpy does or to another size than its arrays have, with arrays of
    objects or records, with a name twice, and for more bytes than ``most_bytes`` or than the file can hold.
    """
    path = Path(path)
    with _errors(path, "an .npz of plain arrays"):
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError("another file, which has no named arrays, or a truncated one")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename.removesuffix(".npy") for member in members]
            if len(set(names)) < len(names):
                raise InputError(f"a name twice among {', '.join(sorted(names))[:200]}")
            size, holds = sum(member.file_size for member in members), MOST_RATIO * path.stat().st_size
            if size > min(most_bytes, holds):
                raise InputError(f"arrays of {size} bytes, where there can be at most {min(most_bytes, holds)} bytes; split it")
            arrays, chosen = {}, set(choose(names))
            for name, member in zip(names, members, strict=True):
                if name not in chosen:
                    continue
                if member.compress_type not in _PACKED:
                    raise InputError(f"{name}: packed in another way than numpy does")
                with archive.open(member) as stream:
                    arrays[name] = _array(stream, member.file_size, name)
                    stream.read(1)  # the end, where the checksum is compared
            return arrays


def read_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array of a .npy. Raises as ``read_npz`` does."""
    path = Path(path)
    with _errors(path, "an .npy of a plain array"), path.open("rb") as stream:
        return _array(stream, path.stat().st_size, path.name)


@contextmanager
def _errors(path: Path, expected: str) -> Iterator[None]:
    """A context in which what is wrong with a file becomes an InputError that says so; that there is none stays as it is."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except InputError as error:
        raise InputError(f"{path}: expected {expected}, got {error}") from None
    except _DAMAGED as error:
        raise InputError(
            f"{path}: expected {expected}, got a damaged or foreign file ({str(error)[:120] or 'no end'})"
        ) from None


def _array(stream: IO[bytes], size: int, name: str) -> NDArray[Any]:
    """The array in a .npy of ``size`` bytes, which its header must account for before memory is taken."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):  # 3: names of fields in UTF-8
        raise InputError(f"{name}: a .npy of version {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise InputError(f"{name}: an array of objects or records ({dtype})")
    if not all(type(length) is int and 0 <= length <= np.iinfo(np.int64).max for length in shape):
        raise InputError(f"{name}: an array of shape {shape}"[:200])
    count = math.prod(shape)
    left = size - stream.tell()
    # Without bytes there may be one empty text, or axes that other arrays of the file have as well.
    if count * dtype.itemsize != left or (not left and (count > 1 or max(shape, default=0) > 1 << 24)):
        raise InputError(f"{name}: {left} bytes for shape {shape} of {dtype}"[:200])
    array = np.empty(count, dtype)
    if left:
        into = memoryview(array.view(np.uint8).data)
        while len(into):
            data = stream.read(min(len(into), 1 << 20))
            if not data:
                raise InputError(f"{name}: a truncated array")
            into[: len(data)] = data
            into = into[len(data) :]
    return array.reshape(shape, order="F" if fortran else "C")
