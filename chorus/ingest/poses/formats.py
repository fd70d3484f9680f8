"""Layouts of files with poses and cameras, by name: each brings its arrays to the one of ``chorus.ingest.poses.layout``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from chorus.body.model import Body
from chorus.errors import InputError
from chorus.ingest.poses.arrays import json_arrays, read_csv, read_json, read_npz
from chorus.ingest.poses.layout import NAMES, People, checked_people
from chorus.units import UnitCheck

AUTO = "auto"
SUFFIXES = (".npz", ".json", ".csv")


@dataclass(frozen=True)
class Format:
    """A layout of arrays about people.

    name     as --format has it
    what     which software's, and the frame, in a few words
    needs    names that arrays of this layout have, by which it is recognised
    convert  arrays by name and the body -> arrays by the names of ``layout.NAMES``
    """

    name: str
    what: str
    needs: tuple[str, ...]
    convert: Callable[[Mapping[str, Any], Body], dict[str, Any]]


def _plain(content: Mapping[str, Any], body: Body) -> dict[str, Any]:
    """Our own layout, in the forms that people's files have it."""
    found = dict(content)
    if "key" in found and "keys" not in found:
        found["keys"] = found.pop("key")
    n = np.size(found.get("keys", ()))
    if "pose" in found:
        found["pose"] = axis_angles("pose", found["pose"], body.num_joints)
    for name in ("R", "K"):
        value = found.get(name)
        if value is not None and np.shape(value) == (3, 3):  # one camera for all
            found[name] = np.tile(np.asarray(value), (n, 1, 1))
    return found


def axis_angles(name: str, value: Any, joints: int) -> Any:
    """Rotations (n, J, 3) axis-angle, from these, from (n, 3 J) in one row, or from matrices (n, J, 3, 3); else ``value``.

    Raises InputError for matrices that are no rotations.
    """
    try:
        array = np.asarray(value)
    except ValueError:  # said where the shape is checked
        return value
    if array.ndim == 2 and array.shape[1] == 3 * joints and array.dtype.kind in "iuf":
        return array.reshape(-1, joints, 3)
    if array.ndim == 4 and array.shape[2:] == (3, 3) and array.dtype.kind in "iuf":
        return from_matrices(name, array)
    return value


def from_matrices(name: str, matrices: Any) -> Any:
    """Axis-angle (..., 3) float64 in radians of rotation matrices (..., 3, 3); InputError for what are none within 1e-2."""
    given = np.asarray(matrices, np.float64)
    if not np.isfinite(given).all():
        raise InputError(f"{name}: expected rotation matrices, got numbers that are not finite")
    flat = given.reshape(-1, 3, 3)
    off = np.abs(flat @ flat.swapaxes(1, 2) - np.eye(3)).max((1, 2), initial=0)
    off = np.maximum(off, np.abs(np.linalg.det(flat) - 1))
    if len(flat) and off.max() > 1e-2:
        where = [int(i) for i in np.unravel_index(int(off.argmax()), given.shape[:-2] or (1,))]
        raise InputError(
            f"{name}: expected rotation matrices (R R^T = 1, det R = 1), got one off by {off.max():.3g} at {where}"
        )
    return Rotation.from_matrix(flat).as_rotvec().reshape(*given.shape[:-2], 3)


PLAIN = Format("plain", "this project's own: keys, pose, and a camera (R, t, K)", ("pose",), _plain)
FORMATS: dict[str, Format] = {PLAIN.name: PLAIN}
"""Layouts by name, in the order in which they are looked for."""


def read_people(path: str | os.PathLike[str], body: Body, format: str = AUTO) -> People:
    """People with poses and cameras from a file. InputError, naming the file, for what cannot be used.

    format  a name in FORMATS, or AUTO: by the names of the arrays

    Numbers that can hardly be in metres, radians and pixels are warned of (``chorus.units.UnitsWarning``).
    """
    path = Path(path)
    units = UnitCheck()
    try:
        content = _read(path)
        chosen = _recognised(content) if format == AUTO else FORMATS[format]
        people = checked_people(chosen.convert(content, body), body, units)
        if not len(people):
            raise InputError("keys: expected people, got none")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    units.warn()
    return people


def _read(path: Path) -> dict[str, Any]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES or not path.is_file():
        raise InputError(f"expected a file that ends in {', '.join(SUFFIXES)}")
    if suffix == ".npz":
        return read_npz(path)
    return read_csv(path) if suffix == ".csv" else json_arrays(read_json(path))


def _recognised(content: Mapping[str, Any]) -> Format:
    for format in FORMATS.values():
        if all(name in content for name in format.needs):
            return format
    raise InputError(f"expected arrays named as in docs/imports.md ({', '.join(NAMES)}), got {', '.join(list(content)[:12])}")
