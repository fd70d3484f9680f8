"""Occupancy around a posed human where each voxel is rigid with one joint: posed inference without blending.

A canonical voxel v that is rigid with joint a(v) moves by B_a, so that a posed point x comes from B_a^-1 x. Where one joint a
moves every voxel (``joint:NAME``) that is the exact inverse, and the result is phi(B_a^-1 x). Where joints differ from voxel to
voxel (``per-voxel``) a point may come from several places, or from none::

    phi_posed(x) = max over joints a of phi(B_a^-1 x), over those a for which the voxel at B_a^-1 x is rigid with a itself

and 0 where there is none: the union of the posed pieces, the most probable one where they overlap. Under the rest pose each
point has one candidate, its own voxel, and the result is phi.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from chorus.kernels.arrays import Lattice
from chorus.kernels.skinning import INVERSES

Inverse = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], str], NDArray[np.float64]]
"""``posed.to_canonical``: points (P, 3), weights (P, J), bones (J, 3, 4), inverse -> points (P, 3)."""
Sample = Callable[[NDArray[np.float64]], NDArray[np.float32]]
"""phi at points (P, 3) metres, (P,) float32."""


def voxels_at(points: NDArray[np.float64], lattice: Lattice) -> NDArray[np.int64]:
    """The flat index of the voxel that holds each point (P, 3) metres, (P,) int64; -1 outside the lattice."""
    cell = np.floor((points - np.array(lattice.origin)) / lattice.spacing + 0.5)
    inside = ((cell >= 0) & (cell < lattice.shape)).all(1)
    found = np.full(len(points), -1, np.int64)
    found[inside] = np.ravel_multi_index(tuple(cell[inside].astype(np.int64).T), lattice.shape)
    return found


def posed_rigid(
    phi: NDArray[np.float32],
    joints: NDArray[np.int32],
    bones: NDArray[np.float64],
    lattice: Lattice,
    to_canonical: Inverse,
    sample: Sample | None = None,
) -> NDArray[np.float32]:
    """phi around a posed person, (N, N, N) float32, as the module says. In float64, the same numbers on every machine.

    phi     (N, N, N) float32 on the lattice                joints  (V,) joint of each canonical voxel
    bones   (J, 3, 4) float64 bone transforms B_j, metres   sample  reads phi at points; None: the voxel that holds the point
    """
    values, posed = phi.ravel(), np.zeros(phi.size, np.float32)
    # Only voxels with some phi can give any: their joints, and the points that these carry into their box.
    present = np.flatnonzero(values)
    points, ones = lattice.centres().numpy(), np.ones((len(posed), 1))
    several = len(np.unique(joints)) > 1
    for joint in np.unique(joints[present]):
        x = to_canonical(points, ones, bones[joint : joint + 1], INVERSES[0])
        voxel = voxels_at(x, lattice)
        found = np.where(voxel >= 0, values[voxel], np.float32(0)) if sample is None else sample(x)
        if several:
            found[(voxel < 0) | (joints[voxel] != joint)] = 0
        np.maximum(posed, found, out=posed)
    return posed.reshape(phi.shape)
