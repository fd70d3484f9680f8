"""Surfaces of an occupancy: marching cubes of phi >= threshold in metres, and mesh files (GLB, PLY, OBJ).

Vertices are in the person's frame (metres, +x the person's left, +y up, +z forward), which is glTF's too. Needs trimesh and
scikit-image, the extra ``mesh``; importing this module does not.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, check_array, check_number
from chorus.files import check_output_file, write_atomically

if TYPE_CHECKING:
    from trimesh import Trimesh

FORMATS = (".glb", ".ply", ".obj")
OBJECT, PERSON = "object", "person"
"""Names of the two nodes of a scene."""
COLOURS: Mapping[str, tuple[float, float, float]] = {OBJECT: (0.93, 0.42, 0.13), PERSON: (0.62, 0.66, 0.72)}
"""RGB in 0..1 of meshes by name; others are grey."""
MANY_PIECES, LARGE = 20, 1.0
"""From so many pieces, or cubic metres, on a surface is hardly that of one object that a person holds, wears or rides."""
_GREY = (0.7, 0.7, 0.7)
_MARGIN = 1e-4
"""Share of the largest phi that every voxel is kept away from the level, so that no two vertices coincide."""
_VOLUME_ERROR = 1e-3  # relative, of a threshold that is searched by volume
_HALVINGS = 40  # of the interval of thresholds, at most


@dataclass(frozen=True)
class SurfaceFacts:
    """A surface in numbers.

    vertices, faces  number of each            pieces     number of connected components
    watertight       every edge has two faces  volume_m3  enclosed volume; meaningless where not watertight
    area_m2          area of the surface       low, high  corners (x, y, z) of its bounding box in metres
    """

    vertices: int
    faces: int
    pieces: int
    watertight: bool
    volume_m3: float
    area_m2: float
    low: tuple[float, float, float]
    high: tuple[float, float, float]


def doubts(pieces: int, volume_m3: float) -> str:
    """Why a surface is hardly that of one object, in words; "" where nothing speaks against it.

    A share of the sum of phi, or a low threshold, may enclose the veil of small probabilities around the person too.
    """
    if pieces < MANY_PIECES and volume_m3 < LARGE:
        return ""
    return (
        f"{1000 * volume_m3:,.4g} litres in {pieces:,} piece{'' if pieces == 1 else 's'} are hardly one object; a higher "
        "threshold or a smaller share of the sum encloses less"
    )


def describe(mesh: Trimesh) -> SurfaceFacts:
    """The numbers of a mesh whose vertices are in metres."""
    low, high = (tuple(float(c) for c in corner) for corner in mesh.bounds)
    return SurfaceFacts(
        len(mesh.vertices),
        len(mesh.faces),
        int(mesh.body_count),
        bool(mesh.is_watertight and mesh.is_winding_consistent),
        float(mesh.volume),
        float(mesh.area),
        cast(Any, low),
        cast(Any, high),
    )


def surface(phi: Any, extent: float, threshold: float) -> Trimesh:
    """The closed surface around the voxels with phi >= threshold, outward normals, metres in phi's frame.

    phi        (N, N, N) in [0, 1], indexed [ix, iy, iz], on a cube of ``extent`` metres centred at the origin
    threshold  positive; compared in float32, as phi is

    Marching cubes between voxel centres at the level ``threshold``, or, where phi takes that very value, half way to the next
    lower one, so that voxels at the threshold are inside. Beyond the grid phi is 0: at the cube's faces the surface closes, up
    to half a voxel outside. Raises InputError where no voxel is inside, ImportError without the extra ``mesh``.
    """
    values = _checked(phi, extent)
    level = _checked_threshold(values, extent, threshold)
    vertices, faces = _march(values, extent, level)
    mesh: Trimesh = _package("trimesh").Trimesh(vertices, faces, process=False)
    return mesh


def threshold_of_mass(phi: Any, share: float) -> float:
    """The threshold of the smallest superlevel set that holds ``share`` of the sum of phi, 0 < share <= 1.

    phi (N, N, N). Raises InputError for a share out of range and where phi is 0 everywhere.
    """
    values = _checked(phi, 1.0)
    if not 0 < check_number("mass", share, finite=False) <= 1:
        raise InputError(f"mass: expected a share of the sum of phi, more than 0 and at most 1, got {share}")
    falling = np.sort(values[values > 0])[::-1]
    if not falling.size:
        raise InputError("phi: expected some of it to be positive, got 0 everywhere")
    held = np.cumsum(falling, dtype=np.float64)
    return float(falling[np.argmax(held >= share * held[-1])])


def threshold_of_volume(phi: Any, extent: float, cubic_metres: float) -> float:
    """The threshold at which ``surface`` encloses a volume in m^3, within 0.1 %, or the nearest where the volume jumps.

    phi (N, N, N) on a cube of ``extent`` metres. Raises InputError for a volume that is not positive, or more than the voxels
    with positive phi can fill.
    """
    values = _checked(phi, extent)
    if not 0 < check_number("volume", cubic_metres, finite=False) < np.inf:
        raise InputError(f"volume: expected a positive number of m^3, got {cubic_metres}")
    positive = values[values > 0]
    if not positive.size:
        raise InputError("phi: expected some of it to be positive, got 0 everywhere")
    low, high = 1e-3 * float(positive.min()), float(positive.max())
    best = (_volume(values, extent, low), low)
    if best[0] < cubic_metres * (1 - _VOLUME_ERROR):
        raise InputError(
            f"volume: expected at most the {best[0]:.4g} m^3 around all voxels with positive phi, got {cubic_metres:.4g} m^3"
        )
    for _ in range(_HALVINGS):
        if abs(best[0] - cubic_metres) <= _VOLUME_ERROR * cubic_metres:
            break
        middle = float(np.float32((low + high) / 2))
        if not low < middle < high:
            break
        enclosed = _volume(values, extent, middle)
        low, high = (middle, high) if enclosed > cubic_metres else (low, middle)
        best = min(best, (enclosed, middle), key=lambda tried: abs(tried[0] - cubic_metres))
    return best[1]


def choose_threshold(
    phi: Any, extent: float, threshold: float | None = None, mass: float | None = None, volume: float | None = None
) -> float:
    """The threshold: given itself, as a share of the sum of phi (``mass``), or as a volume in m^3. Exactly one must be given.

    Raises InputError otherwise, and as ``threshold_of_mass`` and ``threshold_of_volume`` do.
    """
    given = [name for name, v in (("threshold", threshold), ("mass", mass), ("volume", volume)) if v is not None]
    if len(given) != 1:
        raise InputError(f"threshold, mass, volume: expected one of them, got {' and '.join(given) or 'none'}")
    if mass is not None:
        return threshold_of_mass(phi, mass)
    return threshold_of_volume(phi, extent, volume) if volume is not None else check_number("threshold", threshold)


def body_mesh(vertices: Any, faces: Any) -> Trimesh:
    """A body's mesh as a Trimesh, unchanged: vertices (V, 3) metres, faces (F, 3). ImportError without the extra ``mesh``."""
    mesh: Trimesh = _package("trimesh").Trimesh(
        check_array("vertices", vertices, ("V", 3), np.float64), check_array("faces", faces, ("F", 3), np.int64), process=False
    )
    return mesh


def write_meshes(
    path: str | os.PathLike[str], meshes: Mapping[str, Trimesh], provenance: Mapping[str, Any] | None = None
) -> None:
    """Write named meshes to one file, coloured by COLOURS: separate objects in GLB and OBJ, one mesh in PLY.

    provenance  JSON to keep in the file: in the scene's extras (GLB), or as one line in a comment (PLY, OBJ)

    The suffix of the path, .glb, .ply (binary) or .obj, selects the format. The file is written atomically. Raises InputError
    for another suffix, a missing folder, and no meshes.
    """
    path = Path(path)
    check_output_file("path", path, FORMATS)
    if not meshes:
        raise InputError("meshes: expected at least one, got none")
    trimesh = _package("trimesh")
    scene = trimesh.Scene(metadata=None if provenance is None else {"provenance": dict(provenance)})
    note = "" if provenance is None else json.dumps(dict(provenance))  # without line breaks
    for name, mesh in meshes.items():
        colour = COLOURS.get(name, _GREY)
        plain = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        if path.suffix == ".glb":  # a material: many viewers ignore vertex colours
            material = trimesh.visual.material.PBRMaterial(
                name=name, baseColorFactor=[round(255 * c) for c in (*colour, 1.0)], metallicFactor=0.0, roughnessFactor=0.8
            )
            plain.visual = trimesh.visual.TextureVisuals(material=material)
        else:
            plain.visual = trimesh.visual.ColorVisuals(plain, vertex_colors=[round(255 * c) for c in (*colour, 1.0)])
        scene.add_geometry(plain, node_name=name, geom_name=name)
    if path.suffix == ".glb":
        data = scene.export(file_type="glb", include_normals=True)
    elif path.suffix == ".ply":
        data = trimesh.util.concatenate(list(scene.geometry.values())).export(file_type="ply")
        if note:
            data = data.replace(b"\nelement vertex", b"\ncomment " + note.encode() + b"\nelement vertex", 1)
    else:
        data = scene.export(file_type="obj", digits=8, header=note or None).encode()
    write_atomically(path, lambda part: part.write_bytes(data))


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"surfaces need trimesh and scikit-image, the extra `mesh` (pip install '.[mesh]' in a checkout): {error}"
        ) from error


def _checked(phi: Any, extent: float) -> NDArray[np.float32]:
    if not (np.isfinite(extent) and extent > 0):
        raise InputError(f"extent: expected a positive number of metres, got {extent}")
    values: NDArray[np.float32] = check_array("phi", phi, ("N", "N", "N"), np.float32)
    if not values.size:
        raise InputError("phi: expected voxels, got none")
    return values


def _checked_threshold(values: NDArray[np.float32], extent: float, threshold: float) -> float:
    """The level for marching cubes, such that voxels at the threshold are inside; InputError where none is.

    The error names a threshold that would do, and the volume that it encloses.
    """
    level = np.float32(check_number("threshold", threshold, finite=False))
    if not (np.isfinite(level) and level > 0):
        raise InputError(f"threshold: expected a positive number, got {threshold}")
    highest = float(values.max())
    if highest < level:
        would_do = "the probability is 0 everywhere"
        if highest > 0:
            lower = float(f"{2 / 3 * highest:.1g}") if highest > 1e-3 else highest / 2
            would_do = f"a threshold of {lower:g} encloses {1000 * _volume(values, extent, lower):,.4g} litres"
        raise InputError(
            f"threshold: expected at most the highest probability, {highest:.4g}, got {threshold:.4g} ({would_do})"
        )
    if not (values == level).any():
        return float(level)
    outside = values[values < level]
    below = max(0.0, float(outside.max())) if outside.size else 0.0
    return (float(level) + below) / 2


def _march(values: NDArray[np.float32], extent: float, level: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices (V, 3) in metres and outward faces (F, 3) of the surface between voxels above and below the level."""
    margin = _MARGIN * float(values.max())
    inside = values > level
    apart = np.where(inside, np.maximum(values, level + margin), np.minimum(values, level - margin))
    # Lorensen's table, not Lewiner's: the latter sometimes leaves holes at ambiguous faces.
    outside = min(0.0, level - margin)
    vertices, faces, _, _ = _package("skimage.measure").marching_cubes(
        np.pad(apart, 1, constant_values=outside), level, method="lorensen", gradient_direction="ascent"
    )
    spacing = extent / len(values)
    return (vertices.astype(np.float64) - 0.5) * spacing - extent / 2, faces.astype(np.int64)


def _volume(values: NDArray[np.float32], extent: float, level: float) -> float:
    """The volume that the surface at a level encloses, in m^3."""
    vertices, faces = _march(values, extent, _checked_threshold(values, extent, level))
    a, b, c = vertices[faces].transpose(1, 0, 2)
    return float(np.einsum("fa,fa->", a, np.cross(b, c)) / 6)
