"""Round-trip error: how far voxels come back from where they started, warped by Eq. 5 and back by inverse LBS (Eq. 11).

The two directions use different skinning weights: those of the field into the pose (Eq. 4, 9, smoothed, in the rest pose), and
back those at the warped points around the posed mesh (Eq. 4, 9, without smoothing, which needs a lattice). A point whose
nearest vertices change once the body is posed, as between an arm and the chest, does not come back: an error of the method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy.spatial import KDTree

from chorus.body.model import Body
from chorus.errors import InputError, check_array
from chorus.field import CanonicalField, FieldParameters
from chorus.kernels.kinematics import linear_blend_skinning
from chorus.kernels.skinning import INVERSES, PELVIS
from chorus.occupancy.posed import to_canonical
from chorus.provenance import machine, versions
from chorus.votes.parts import EPSILON, PARTS, body_parts

PERCENTILES = (50, 75, 90, 95)
ZONES = ("near", "far")
"""Voxels within EPSILON of the rest-pose mesh, and those beyond it within tau."""
NO_PART, EVERYWHERE = "hips", "all"
"""Rows of the voxels nearest to vertices without a part (those of the pelvis), and of all voxels."""


@dataclass(frozen=True, eq=False)
class Roundtrip:
    """Percentiles of the distances between voxels and where they come back to, over all poses.

    metres      (inverses, rows, zones, percentiles) float64; NaN where a part has no voxel in the zone
    lost        (inverses,) int64 number of points whose blended transform has no inverse; they count as infinitely far
    voxels      (rows, zones) int64 number of voxels in each pose
    rows        the parts of Table 4 by the nearest rest-pose vertex, NO_PART, EVERYWHERE
    inverses, zones, percentiles  the other axes
    poses, noise, seed            number of random poses, their noise in radians, and their seed
    body        its name      parameters  of the field
    """

    metres: NDArray[np.float64]
    lost: NDArray[np.int64]
    voxels: NDArray[np.int64]
    poses: int
    noise: float
    seed: int
    body: str
    parameters: FieldParameters
    rows: tuple[str, ...] = (*PARTS, NO_PART, EVERYWHERE)
    inverses: tuple[str, ...] = INVERSES
    zones: tuple[str, ...] = ZONES
    percentiles: tuple[int, ...] = PERCENTILES

    def metres_of(self, inverse: str, row: str, zone: str) -> dict[int, float]:
        """One cell of the table: percentile -> metres. ValueError for unknown names."""
        found = self.metres[self.inverses.index(inverse), self.rows.index(row), self.zones.index(zone)]
        return dict(zip(self.percentiles, found.tolist(), strict=True))

    def to_json(self) -> dict[str, Any]:
        """The table as a dictionary for JSON, with null for numbers that are not finite."""
        return {
            "table": "roundtrip",
            "body": self.body,
            "resolution": self.parameters.resolution,
            "spacing_m": self.parameters.spacing,
            "poses": self.poses,
            "noise_rad": self.noise,
            "seed": self.seed,
            "near_m": EPSILON,
            "far_m": self.parameters.tau,
            "lost": dict(zip(self.inverses, self.lost.tolist(), strict=True)),
            "voxels": {r: dict(zip(self.zones, v, strict=True)) for r, v in zip(self.rows, self.voxels.tolist(), strict=True)},
            "percentiles_m": {
                inverse: {
                    row: {
                        zone: {str(q): round(m, 6) if np.isfinite(m) else None for q, m in cell.items()}
                        for zone in self.zones
                        for cell in [self.metres_of(inverse, row, zone)]
                    }
                    for row in self.rows
                }
                for inverse in self.inverses
            },
            "machine": machine(),
            "versions": versions(),
        }


def weights_around(
    points: NDArray[np.float64], vertices: NDArray[np.float64], vertex_weights: NDArray[Any], parameters: FieldParameters
) -> NDArray[np.float64]:
    """Skinning weights at points around a mesh by Eq. 4 and 9, without smoothing, (P, J) float64.

    points (P, 3) and vertices (V, 3) metres in the same frame; vertex_weights (V, J)
    """
    p = parameters
    d, index = (np.asarray(found) for found in KDTree(vertices).query(points, k=np.arange(1, p.k + 1), workers=-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(d[:, :1] > 0, 1 / d, np.arange(p.k) == 0)  # a vertex at distance 0 takes all the weight
    share /= share.sum(1, keepdims=True)
    weights = np.zeros((len(points), vertex_weights.shape[1]))
    for n in range(p.k):  # (P, k, J) at once would be gigabytes
        weights += share[:, n, None] * vertex_weights[index[:, n]]
    alpha = np.maximum((p.tau - d[:, 0]) / (p.tau + d[:, 0]), 0) ** p.s
    weights *= alpha[:, None]
    weights[:, PELVIS] += 1 - alpha
    return weights


def random_poses(body: Body, count: int, noise: float, seed: int) -> NDArray[np.float64]:
    """The rest pose with normal noise on every axis of every joint but the global orientation, (count, J, 3) radians."""
    poses = np.repeat(body.rest_pose[None], count, 0)
    poses[:, 1:] += np.random.default_rng(seed).normal(0, noise, poses[:, 1:].shape)
    return poses


def roundtrip(
    field: CanonicalField,
    poses: int | Any = 100,
    noise: float = 0.25,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Roundtrip:
    """Move a field's voxels within tau of the body into poses and back, by both inverses.

    poses        number of random poses, or poses (n, J, 3) axis-angle in radians with zero rows 0
    noise, seed  of random poses: sigma in radians on every axis of every joint, and the seed
    progress     called with (done, total) after each pose

    Raises InputError for no poses, a negative noise, poses of another shape, and a field without canonicalization, in which
    nothing moves.
    """
    body, p = field.body, field.parameters
    if not p.canonicalize:
        raise InputError("field: expected one with canonicalization: without it no voxel moves")
    if p.rule.rigid_joints(body, p.resolution) is not None:
        raise InputError(f"field: expected lbs or lbs-nearest, got {p.canonicalization!r}, whose voxels all come back by B^-1")
    if not (np.isfinite(noise) and noise >= 0):
        raise InputError(f"noise: expected radians, not negative, got {noise}")
    chosen = random_poses(body, poses, noise, seed) if isinstance(poses, int) and poses > 0 else poses
    chosen = check_array("poses", chosen, ("n", body.num_joints, 3), np.float64)
    if not len(chosen):
        raise InputError("poses: expected at least one, got none")
    if chosen[:, 0].any():
        raise InputError("poses: expected zero rows 0 (the global orientation belongs to the camera), got others")

    centres = field.centres.reshape(-1, 3).astype(np.float64)
    to_body, nearest = (np.asarray(found) for found in KDTree(body.rest_vertices).query(centres, workers=-1))
    moving = np.flatnonzero(to_body <= p.tau)
    zone = (to_body[moving] > EPSILON).astype(np.int64)
    part_of = np.full(len(body.vertices), len(PARTS))
    for r, vertices in enumerate(body_parts(body).values()):
        part_of[vertices] = r
    part = part_of[nearest[moving]]
    start = centres[moving]
    weights = field.weights.reshape(len(centres), -1)[moving].astype(np.float64)

    distances = np.empty((len(INVERSES), len(chosen), len(moving)), np.float32)
    for i, pose in enumerate(chosen):
        bones = body.bone_transforms(pose[None])[0]
        moved = linear_blend_skinning(start, weights, bones)
        back = weights_around(moved, body.posed_vertices(pose[None])[0], body.weights, p)
        for n, inverse in enumerate(INVERSES):
            distances[n, i] = np.linalg.norm(to_canonical(moved, back, bones, inverse) - start, axis=1)
        if progress is not None:
            progress(i + 1, len(chosen))
    lost = (~np.isfinite(distances)).sum((1, 2))
    np.nan_to_num(distances, copy=False, nan=np.inf, posinf=np.inf)

    rows = len(PARTS) + 2
    voxels = np.zeros((rows, len(ZONES)), np.int64)
    metres = np.full((len(INVERSES), *voxels.shape, len(PERCENTILES)), np.nan)
    for row in range(rows):
        for z in range(len(ZONES)):
            chosen_voxels = (zone == z) & ((part == row) | (row == rows - 1))
            voxels[row, z] = chosen_voxels.sum()
            if voxels[row, z]:
                # "higher" takes measured distances, as interpolating between two infinite ones would give NaN.
                metres[:, row, z] = np.percentile(distances[..., chosen_voxels], PERCENTILES, (1, 2), method="higher").T
    return Roundtrip(metres, lost, voxels, len(chosen), noise, seed, body.name, p)


def as_rich(found: Roundtrip, inverse: str) -> Table:
    """The percentiles of one inverse as a table for the terminal, in millimetres."""
    p = found.parameters
    table = Table(
        title=f"{inverse}: from the voxel, into the pose and back, mm\n{found.poses} poses, {found.noise:g} rad, "
        f"{p.resolution}^3 voxels of {1000 * p.spacing:.1f} mm; near: within {EPSILON:g} m of the body, far: to {p.tau:g} m",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
    )
    table.add_column("nearest\npart", no_wrap=True)
    for zone in found.zones:
        table.add_column(f"{zone}\nvoxels", justify="right", no_wrap=True)
        for q in found.percentiles:
            table.add_column(f"{zone}\n{q} %", justify="right", no_wrap=True)
    for r, row in enumerate(found.rows):
        cells = []
        for z, zone in enumerate(found.zones):
            cells.append(f"{found.voxels[r, z]:,}")
            cells += ["" if np.isnan(m) else f"{1000 * m:.0f}" for m in found.metres_of(inverse, row, zone).values()]
        table.add_row(row, *cells)
    return table
