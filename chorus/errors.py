"""The project's errors, which name what was expected and what came, and the check of arrays."""

from __future__ import annotations

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
    array = to_numpy(value)
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


def _refuse(name: str, expected: str, array: NDArray[Any], bad: NDArray[np.bool_]) -> None:
    """Raise an InputError that shows the first bad number, if any."""
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise InputError(f"{name}: expected {expected}, got {array[where]} at index {where}")


def _show(shape: tuple[int | str, ...]) -> str:
    return "(" + ", ".join(str(s) for s in shape) + ("," if len(shape) == 1 else "") + ")"
