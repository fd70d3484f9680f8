"""The project's errors, which name what was expected and what came, and the check of arrays."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class InputError(ValueError):
    """Input that cannot be used: names the argument, what was expected and what came."""


class StoreError(InputError):
    """A store, or a shard of one, that is missing, damaged, of another version, or other than asked for."""


class MismatchError(InputError):
    """Inputs that do not belong together: made with different bodies, fields, grids or grouping schemes."""


class StageError(RuntimeError):
    """A stage of the front end that cannot continue, because of a model, a device or a bug, not because of an image."""


def to_numpy(value: Any) -> NDArray[Any]:
    """A numpy view (or copy) of an array-like, a torch tensor on any device, or anything with DLPack."""
    if hasattr(value, "detach"):  # a torch tensor; numpy cannot take one that is on a GPU or needs gradients
        value = value.detach().cpu()
    elif hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray):
        return np.from_dlpack(value)
    return np.asarray(value)


def check_array(name: str, value: Any, shape: tuple[int | str, ...], dtype: DTypeLike, *, finite: bool = True) -> NDArray[Any]:
    """``value`` as a contiguous numpy array of ``dtype`` and ``shape``.

    value   array-like, torch tensor or DLPack; real numbers
    shape   lengths; a string stands for any length, and equal strings for equal lengths
    finite  whether NaN and infinities are refused

    Raises InputError, beginning with ``name``, for another shape, and where the conversion would change a number (floats
    rounded to a smaller float type excepted).
    """
    try:
        array = to_numpy(value)
    except (ValueError, OverflowError):  # numpy's words are about arrays, not about what was given
        raise InputError(f"{name}: expected real numbers of shape {_show(shape)}, got rows of different lengths") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name}: expected real numbers of shape {_show(shape)}, got dtype {array.dtype}")
    lengths: dict[str, int] = {}
    fits = array.ndim == len(shape) and all(
        have == (lengths.setdefault(want, have) if isinstance(want, str) else want)
        for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise InputError(f"{name}: expected shape {_show(shape)}, got {array.shape}")
    if finite:
        _refuse(name, "finite numbers", array, ~np.isfinite(array))
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(array, dtype)
    # numpy would silently truncate 0.5 to an integer, wrap 2^32 and turn 1e300 into infinity.
    if converted.dtype.kind in "iu":
        _refuse(name, f"whole numbers that fit {converted.dtype}", array, converted != array)
    elif finite:
        _refuse(name, f"numbers that fit {converted.dtype}", array, ~np.isfinite(converted))
    return converted


def check_kind(name: str, value: Any, kind: type[Any]) -> None:
    """InputError, beginning with ``name``, for a value that is no ``kind``."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise InputError(f"{name}: expected {article} {kind.__name__}, got {_short(value)}")


def check_texts(name: str, value: Any) -> list[str]:
    """A text or a sequence of texts as a list; InputError, beginning with ``name``, for anything else."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, Sequence) or not all(isinstance(text, str) for text in value):
        raise InputError(f"{name}: expected a text or a list of texts, got {_short(value)}")
    return list(value)


def check_whole(name: str, value: Any, least: int) -> int:
    """A whole number that is at least ``least``; InputError, beginning with ``name``, for anything else."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name}: expected a whole number of at least {least}, got {_short(value)}")
    return int(value)


def check_number(name: str, value: Any, *, finite: bool = True) -> float:
    """A real number, finite unless not asked for; InputError, beginning with ``name``, for anything else."""
    array = to_numpy(value) if isinstance(value, (int, float, np.number, np.ndarray)) or hasattr(value, "detach") else None
    if array is None or array.ndim or array.dtype.kind not in "iuf" or (finite and not np.isfinite(array)):
        raise InputError(f"{name}: expected a {'finite ' if finite else ''}number, got {_short(value)}")
    return float(array)


def is_url(text: str) -> bool:
    """Whether a text is a URL, or one that has lost a slash in a ``Path``, and no path that exists."""
    # Two letters at least: C:/ is a path.
    return "://" in text or (re.match(r"[a-z][a-z0-9+.-]+:/", text, re.IGNORECASE) is not None and not os.path.exists(text))


def check_path(name: str, value: Any) -> Path:
    """A path; InputError, beginning with ``name``, for what is none, such as a URL."""
    if not isinstance(value, (str, os.PathLike)):
        raise InputError(f"{name}: expected a path, got {_short(value)}")
    if is_url(os.fsdecode(value)):
        raise InputError(f"{name}: expected a path on this machine, got the URL {str(value)!r}: only stores are read there")
    return Path(value)


def _short(value: Any) -> str:
    """A value for a message: itself where that is short, else its type and, for arrays, shape."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    text = repr(value)
    return text if isinstance(value, (str, int, float, type(None))) and len(text) < 80 else f"a {type(value).__name__}"


def _refuse(name: str, expected: str, array: NDArray[Any], bad: NDArray[np.bool_]) -> None:
    """Raise an InputError that shows the first bad number, if any."""
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"{name}: expected {expected}, got {array[where]} at index {where}")


def _show(shape: tuple[int | str, ...]) -> str:
    return "(" + ", ".join(str(s) for s in shape) + ("," if len(shape) == 1 else "") + ")"
