"""Identifiers and flags in files that other tools write: the forms they come in, and the same one given twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from chorus.errors import InputError
from chorus.ingest.record import short_repr

_Row = TypeVar("_Row")

LARGEST = 1 << 53
"""Bound of identifiers: above it a number written as a float is no longer the integer it was."""


def identifier(where: str, value: Any) -> int:
    """An integer of 0 or more: as one (37), as a float without fraction (37.0) or as decimal text ("37").

    Raises InputError, beginning with ``where``, for anything else, and for a float of 2^53 or more, which may be rounded.
    """
    number = value
    if (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18) or (
        isinstance(value, float) and math.isfinite(value) and value.is_integer() and abs(value) < LARGEST
    ):
        number = int(value)
    if type(number) is not int or not 0 <= number < 1 << 62:
        raise InputError(f"{where}: expected an integer, 0 or more, got {short_repr(value)}")
    return number


_FLAGS = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True, "": False}


def flag(where: str, value: Any) -> bool:
    """A yes or no: True, 1, 1.0, "1", "true" or "yes", and their opposites; None is no. InputError for anything else."""
    if value is None:
        return False
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    raise InputError(f"{where}: expected 0 or 1, got {short_repr(value)}")


def unique(
    where: str, rows: Iterable[_Row], key: Callable[[_Row], int], same: Callable[[_Row], Any]
) -> tuple[dict[int, _Row], int]:
    """Rows by identifier, and how many were given again with the same content and left out.

    key   identifier of a row        same  what must be equal for two rows of one identifier to be the same

    Raises InputError, beginning with ``where`` and naming the identifier, for two rows of one identifier that differ.
    """
    found: dict[int, _Row] = {}
    again = 0
    for row in rows:
        number = key(row)
        if number not in found:
            found[number] = row
            continue
        if same(found[number]) != same(row):
            one, other = short_repr(same(found[number])), short_repr(same(row))
            raise InputError(f"{where}: expected one meaning for id {number}, got {one} and {other}")
        again += 1
    return found, again
