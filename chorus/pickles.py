"""Pickles of plain data, read without executing anything: numbers, texts, lists, dictionaries and numpy arrays.

A pickle is a program that calls the classes and functions it names. Here every name is looked up in a table of stand-ins that
only keep their arguments; any other name is refused, and nothing is ever imported or called for a file. Arrays are built
afterwards, from bytes whose number is checked.
"""

from __future__ import annotations

import math
import pickle
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.unpickling import SafeUnpickler

MAX_BYTES = 1 << 31
"""The most bytes of a file."""
_MAX_DEPTH = 32
_BUILTINS = ("__builtin__", "builtins")


class StandIn:
    """Replaces an object of a pickle: keeps the arguments and the state that it is given."""

    origin = "object"

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __new__(cls, *args: Any) -> StandIn:
        made = super().__new__(cls)
        made.args, made.state = args, None  # NEWOBJ does not call __init__
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Array(StandIn):
    """A numpy array whose state is its content."""

    origin = "numpy.ndarray"


class Buffer(StandIn):
    """A numpy array made of a buffer."""

    origin = "numpy array in a buffer"


class Dtype(StandIn):
    """A numpy type."""

    origin = "numpy.dtype"


class Scalar(StandIn):
    """A numpy number."""

    origin = "numpy scalar"


class _Joblib(StandIn):
    """An array of joblib, whose bytes follow it in the file. Its ``state`` becomes the array."""

    origin = "array of joblib"


class _Path(StandIn):
    origin = "path"


def reconstruct_array(*args: Any) -> Array:
    """``numpy.core.multiarray._reconstruct``."""
    return Array(*args)


def _dictionary(*_: Any) -> dict[Any, Any]:
    """``collections.defaultdict`` and ``OrderedDict``: a dictionary, filled by what follows."""
    return {}


def _no_bytes(*args: Any) -> bytes:
    """``bytes``: how Python 3 writes no bytes at all with protocols 0 to 2."""
    if args:
        raise InputError(f"expected no bytes at all, got {len(args)} arguments")
    return b""


NUMPY: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Dtype,
}
"""Stand-ins for the names of numpy's pickles."""
for _core in ("numpy.core", "numpy._core"):
    NUMPY[f"{_core}.multiarray", "_reconstruct"] = reconstruct_array
    NUMPY[f"{_core}.multiarray", "scalar"] = Scalar
    NUMPY[f"{_core}.numeric", "_frombuffer"] = Buffer
_KNOWN: dict[tuple[str, str], Any] = {
    **NUMPY,
    ("collections", "defaultdict"): _dictionary,
    ("collections", "OrderedDict"): _dictionary,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _Joblib,
    **{(m, "dict"): _dictionary for m in _BUILTINS},
    **{(m, "bytes"): _no_bytes for m in _BUILTINS},
    **{(m, name): _Path for m in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath", "PurePosixPath")},
}


class _Reader(SafeUnpickler):
    """Also reads the bytes that joblib writes between two instructions."""

    dispatch: ClassVar[dict[int, Any]] = dict(SafeUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self.encode
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        raise InputError(f"asks for {module}.{name}; expected numbers, texts, lists, dictionaries and numpy arrays only")

    def load_build(self) -> None:
        super().load_build()
        made = self.stack[-1]
        if isinstance(made, _Joblib) and not isinstance(made.state, np.ndarray):
            made.state = _array_of_joblib(made.state, self._file_read)

    dispatch[pickle.BUILD[0]] = load_build


def read_pickle(source: Path | BinaryIO) -> Any:
    """The content of a pickle, of any protocol, or of what joblib wrote without compression.

    Returns numbers, texts, bytes, lists and tuples (as lists), dictionaries, None, and numpy arrays of numbers and texts; an
    array of objects with one element is this element. Raises InputError for damaged streams, for any other object, and for
    files of more than MAX_BYTES.
    """
    try:
        if isinstance(source, Path):
            if source.stat().st_size > MAX_BYTES:
                raise InputError(f"expected at most {MAX_BYTES} bytes, got {source.stat().st_size}")
            data = source.read_bytes()
        else:
            data = source.read()
        return _Plain().of(_Reader(data).load())
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged stream raises nearly anything
        raise InputError(
            f"expected a pickle of plain data, got a damaged or foreign file ({type(error).__name__}: {str(error)[:100]})"
        ) from None


class _Plain:
    """What stand-ins stand for. A list that a stream has many times is made once, so that none grows beyond the stream."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._kept: list[Any] = []  # so that no other object gets the number of one that was seen

    def of(self, value: Any, depth: int = 0) -> Any:
        """The plain data of a value. InputError for data that is none, or nested too deep."""
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return value
        if depth > _MAX_DEPTH:
            raise InputError(f"expected data no more than {_MAX_DEPTH} deep")
        if id(value) not in self._made:
            self._made[id(value)] = self._new(value, depth + 1)
            self._kept.append(value)
        return self._made[id(value)]

    def _new(self, value: Any, depth: int) -> Any:
        if isinstance(value, (list, tuple)):
            return [self.of(item, depth) for item in value]
        if isinstance(value, dict):
            return {key: self.of(item, depth) for key, item in value.items()}
        if isinstance(value, Array):
            objects = _objects(value)
            return read_array(value, texts=True) if objects is None else self.of(objects, depth)
        if isinstance(value, Buffer):
            return read_buffer(value, texts=True)
        if isinstance(value, Scalar):
            return _scalar(value)
        if isinstance(value, _Joblib) and isinstance(value.state, np.ndarray):
            return value.state
        if isinstance(value, _Path) and all(isinstance(part, str) for part in value.args):
            return "/".join(value.args).replace("//", "/")
        raise InputError(f"expected plain data, got {getattr(value, 'origin', type(value).__name__)}")


def _objects(value: Array) -> Any:
    """The elements of an array of objects, the element of one of shape () or (1,); None for other arrays."""
    state = value.state
    if not (isinstance(state, tuple) and len(state) in (4, 5) and isinstance(state[-3], Dtype)):
        return None
    if _code(state[-3]) not in ("O", "O8") or not isinstance(state[-1], list):
        return None
    return state[-1][0] if len(state[-1]) == 1 else state[-1]


def _scalar(value: Scalar) -> Any:
    if len(value.args) != 2:
        raise InputError("expected a numpy number, got one without a type")
    return make_array(value.args[1], read_dtype(value.args[0]), (), False).item()


def make_array(data: Any, dtype: np.dtype[Any], shape: Any, order: Any) -> NDArray[Any]:
    """An array from its bytes, whose number is checked; a copy."""
    if isinstance(data, str):  # Python 2's bytes
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise InputError(f"expected the bytes of an array, got {type(data).__name__}")
    if not (isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape) and len(shape) <= 8):
        raise InputError(f"expected the shape of an array, got {reprlib.repr(shape)}")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise InputError(f"expected {math.prod(shape) * dtype.itemsize} bytes for shape {shape}, got {len(data)}")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if order else "C")
    return array.astype(dtype.newbyteorder("="))


def _code(value: Any) -> Any:
    code = value.args[0] if isinstance(value, Dtype) and value.args else None
    return code.decode("latin1") if isinstance(code, bytes) else code


def read_dtype(value: Any, *, texts: bool = False) -> np.dtype[Any]:
    """The type of real numbers, or of ``texts``, that a stand-in is for. InputError for any other."""
    code = _code(value)
    is_text = texts and isinstance(code, str) and code[:1] in "US" and code[1:].isdecimal() and len(code) < 8
    if not is_text and code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
        raise InputError(f"expected an array of real numbers, got dtype {reprlib.repr(code)}")
    state = value.state
    byteorder = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
    byteorder = byteorder.decode("latin1") if isinstance(byteorder, bytes) else byteorder
    if byteorder not in ("<", ">", "=", "|"):
        raise InputError(f"expected a byte order, got {reprlib.repr(byteorder)}")
    return np.dtype(f"{byteorder}{code}")


def read_array(value: Array, *, texts: bool = False) -> NDArray[Any]:
    """The array that a stand-in with its state is for."""
    state = value.state
    if not (isinstance(state, tuple) and len(state) in (4, 5)):
        raise InputError("expected the state of a numpy array")
    shape, dtype, fortran, data = state[-4:]  # before them, a version that has always been 1
    return make_array(data, read_dtype(dtype, texts=texts), shape, bool(fortran))


def read_buffer(value: Buffer, *, texts: bool = False) -> NDArray[Any]:
    """The array that a stand-in with a buffer is for."""
    if len(value.args) != 4:
        raise InputError("expected a buffer, a dtype, a shape and an order")
    data, dtype, shape, order = value.args
    return make_array(data, read_dtype(dtype, texts=texts), shape, order == "F")


def _array_of_joblib(state: Any, read: Any) -> NDArray[Any]:
    """The array whose description is ``state``, from the bytes that follow it, after padding where there is any."""
    if not isinstance(state, Mapping) or not isinstance(state.get("shape"), tuple):
        raise InputError("expected the description of an array of joblib")
    dtype, shape = read_dtype(state.get("dtype"), texts=True), state["shape"]
    if not all(isinstance(n, int) and 0 <= n <= MAX_BYTES for n in shape) or math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise InputError(f"expected the shape of an array, got {reprlib.repr(shape)}")
    if state.get("numpy_array_alignment_bytes") is not None:
        read(read(1)[0])
    return make_array(read(math.prod(shape) * dtype.itemsize), dtype, shape, state.get("order") == "F")
