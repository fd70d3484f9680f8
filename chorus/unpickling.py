"""The machine that reads pickles of others: nothing is imported or called but stand-ins, and no stream blows up.

Python's own reader written in C sets aside memory for whatever index a stream names, hashes keys nested without end, and lets a
stream set attributes of the functions that it was given. This one is its twin in Python with these instructions made safe.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
from typing import Any, ClassVar

_KEYS = (str, bytes, int, float, bool, type(None))


# Typeshed has the C reader's methods alone.
_Machine: Any = pickle._Unpickler


class SafeUnpickler(_Machine):  # type: ignore[misc]  # a class, as said above
    """``pickle.Unpickler`` for data that is trusted with nothing; ``find_class`` must return stand-ins.

    data  the whole stream; texts of Python 2 are read as latin-1

    Keys of dictionaries must be texts, bytes, numbers or None; sets become lists; only objects whose class has a
    ``__setstate__`` are given a state. Raises nearly anything on damage.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_Machine.dispatch)

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._left = 2 * len(data) + 1024

    def encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """``_codecs.encode``: how Python 3 writes bytes with protocol 2. A stream has no more of them than its own length."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"expected text in latin-1, got a {type(text).__name__}")
        self._left -= len(text)
        if self._left < 0:
            raise pickle.UnpicklingError("expected no more bytes than the stream has, got one text again and again")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("asks for data outside of the stream")

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError("asks for an extension")

    def _check_keys(self, keys: list[Any]) -> None:
        if not all(isinstance(key, _KEYS) for key in keys):
            raise pickle.UnpicklingError("expected texts or numbers as keys")

    def load_build(self) -> None:
        """State for a stand-in, never for a class or function."""
        state = self.stack.pop()
        give = getattr(type(self.stack[-1]), "__setstate__", None)
        if give is None:
            raise pickle.UnpicklingError(f"expected an object that has a state, got a {type(self.stack[-1]).__name__}")
        give(self.stack[-1], state)

    def load_setitem(self) -> None:
        self._check_keys([self.stack[-2]])
        _Machine.load_setitem(self)

    def load_setitems(self) -> None:
        self._check_keys(self.stack[::2])  # since the mark
        _Machine.load_setitems(self)

    def load_dict(self) -> None:
        self._check_keys(self.stack[::2])
        _Machine.load_dict(self)

    def load_empty_set(self) -> None:
        self.append([])

    def load_frozenset(self) -> None:
        items = self.pop_mark()  # first: it changes what ``append`` appends to
        self.append(items)

    def load_bytearray8(self) -> None:
        """Bytes that can be changed, of which no more are set aside than there are."""
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(min(length, sys.maxsize))))

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.EMPTY_SET[0]] = load_empty_set
    dispatch[pickle.ADDITEMS[0]] = _Machine.load_appends
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
