"""Occupancies for other software: volumes as .npy and NIfTI, points as PLY, each with its affine (docs/exports.md).

Voxel (i, j, k) of an N^3 occupancy of ``extent`` metres has its centre at ((i, j, k) + 0.5) extent / N - extent / 2 in the
person's frame: metres, +x the person's left, +y up, +z forward, the origin at the pelvis of the rest pose.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, check_array, check_number
from chorus.files import write_atomically, write_json

SUFFIXES = (".npy", ".nii", ".nii.gz", ".ply")
"""Endings of the files that are written."""
_TO_RAS = np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]])  # NIfTI: x to the right, y forward, z up
_MILLIMETRES = 1000.0


def voxel_affine(resolution: int, extent: float) -> NDArray[np.float64]:
    """(4, 4): from a voxel's (i, j, k, 1) to its centre in the person's frame, metres."""
    step = extent / resolution
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = step / 2 - extent / 2
    return affine


def nifti_affine(resolution: int, extent: float) -> NDArray[np.float64]:
    """(4, 4): from a voxel's (i, j, k, 1) to NIfTI's own frame: millimetres, x to the person's right, y forward, z up."""
    affine = voxel_affine(resolution, extent)
    affine[:3] = _MILLIMETRES * _TO_RAS @ affine[:3]
    return affine


def export_volume(path: Path, phi: Any, extent: float, about: Mapping[str, Any]) -> list[Path]:
    """Write phi (N, N, N) as float32 in the format of the ending: .npy, .nii or .nii.gz. Returns the files written.

    about  kept beside it: in NAME.npy.json of a .npy, which also has the affine, and as the NIfTI's extension (comment)

    Raises InputError for other arrays and endings, ImportError without nibabel for NIfTI.
    """
    values, extent = _checked(phi, extent)
    resolution = len(values)
    if path.name.endswith(".npy"):
        beside = path.with_name(path.name + ".json")
        write_atomically(path, lambda part: _save_npy(part, values))
        facts = {"affine": voxel_affine(resolution, extent).tolist(), "unit": "metres", "index_order": "i, j, k along x, y, z"}
        write_json(beside, {**facts, **about})
        return [path, beside]
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"path: expected a name ending in .npy, .nii or .nii.gz, got {str(path)!r}")
    nibabel = _nibabel()
    image = nibabel.Nifti1Image(values, nifti_affine(resolution, extent))
    image.set_sform(image.affine, code="aligned")
    image.set_qform(image.affine, code="aligned")
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"probability of the object (chorus)"
    text = json.dumps(about, ensure_ascii=True, default=str).encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", text))
    content = image.to_bytes()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)  # the same bytes for the same occupancy
    write_atomically(path, lambda part: part.write_bytes(content))
    return [path]


def export_points(path: Path, phi: Any, extent: float, threshold: float, about: Mapping[str, Any]) -> int:
    """Write the centres of the voxels with phi >= threshold as a binary PLY of points; returns their number.

    Each vertex has x, y, z (float, metres, the person's frame), red, green, blue, alpha (uchar, matplotlib's viridis from 0 to
    1; alpha is phi) and probability (float). Raises InputError where there is no such voxel.
    """
    from matplotlib import colormaps

    values, extent = _checked(phi, extent)
    threshold = check_number("threshold", threshold)
    index = np.argwhere(values >= threshold)
    if not len(index):
        raise InputError(f"threshold: expected one that a voxel reaches, of at most {values.max():g}, got {threshold:g}")
    chosen = values[tuple(index.T)]
    affine = voxel_affine(len(values), extent)
    points = np.empty(len(index), [*((c, "<f4") for c in "xyz"), *((c, "u1") for c in _COLOURS), ("probability", "<f4")])
    for axis, place in zip("xyz", (index @ affine[:3, :3].T + affine[:3, 3]).T, strict=True):
        points[axis] = place
    colours = np.rint(255 * colormaps["viridis"](np.clip(chosen, 0, 1))).astype(np.uint8)
    for channel, name in enumerate(_COLOURS[:3]):
        points[name] = colours[:, channel]
    points["alpha"], points["probability"] = np.rint(255 * np.clip(chosen, 0, 1)), chosen
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += [
        f"comment {name}: {' '.join(str(value).split())[:200]}"
        for name, value in about.items()
        if isinstance(value, (str, int, float))
    ]
    lines += ["comment metres; +x the person's left, +y up, +z forward", f"element vertex {len(points)}"]
    lines += [f"property float {axis}" for axis in "xyz"] + [f"property uchar {name}" for name in _COLOURS]
    header = "\n".join([*lines, "property float probability", "end_header", ""]).encode("ascii", "backslashreplace")
    write_atomically(path, lambda part: part.write_bytes(header + points.tobytes()))
    return len(points)


_COLOURS = ("red", "green", "blue", "alpha")


def _checked(phi: Any, extent: float) -> tuple[NDArray[np.float32], float]:
    values: NDArray[np.float32] = check_array("phi", phi, ("N", "N", "N"), np.float32)
    size = check_number("extent", extent)
    if not len(values) or not size > 0:
        raise InputError(f"extent: expected a positive number of metres and a voxel, got {extent!r} and {values.shape}")
    return values, size


def _save_npy(path: Path, values: NDArray[np.float32]) -> None:
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError:
        raise ImportError("NIfTI needs nibabel, which is not installed: pip install '.[nifti]' in a checkout") from None
    return nibabel
