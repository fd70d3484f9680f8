"""Skinning weights around a mesh, their smoothing, and inverse LBS: the contract.

For a voxel centre x and a mesh with vertices v_i and skinning weights w_i (Eq. 4, 9, 10)::

    w(x)  = sum_i w_i / |x - v_i|  /  sum_i 1 / |x - v_i|      over the k nearest vertices; where one is at distance 0, its w_i
    alpha = max((tau - d) / (tau + d), 0)^s                    d = distance of the nearest vertex
    w(x) <- alpha w(x) + (1 - alpha) e_pelvis

A voxel is *near* where d <= tau; elsewhere the pelvis (joint 0) has all the weight. Smoothing is ``steps`` Jacobi steps
w <- 0.7 w + 0.3 mean of the 6 adjacent voxels at near voxels that are not on the boundary of the lattice; the others keep their
weights. Rows then still sum to 1: a step takes means of rows that do, and each joint is smoothed independently of the others.

Where several vertices share the k-th distance, any choice among them is right, and so is any mean of choices (the Triton
kernel gives all of them an equal share of what is left of the k).

Inverse linear blend skinning (Eq. 11) takes every voxel x of the posed frame to the canonical point, with the weights around
the posed mesh and the bones B_j (rest pose -> pose, ``kinematics.bone_transforms``)::

    blend_of_inverses   x_c = sum_j w_j(x) B_j^-1 x            inverse_of_blend   x_c = (sum_j w_j(x) B_j)^-1 x

and samples phi at the voxel of the canonical grid that holds x_c (the nearest centre): 0 outside it and where a blend has no
inverse.

A backend's skinning module offers these, with the signatures of ``chorus.kernels.reference.skinning``::

    skinning_weights(lattice, vertices, vertex_weights, *, k, tau, s) -> weights (V, J), near (V,) bool
    smooth(lattice, weights, near, *, steps)                          -> weights (V, J)
    sample_canonical(lattice, weights, bones, phi, grid, *, inverse)  -> phi in the posed frame, (NX, NY, NZ)
    posed_phi(lattice, vertices, vertex_weights, bones, phi, grid, *, k, tau, s, steps, inverse)    the three in one

In exact arithmetic they agree; a float32 backend may take another k-th vertex where two distances differ by less than
rounding, and another canonical voxel where x_c lies that close to a face. (alpha is steep at tau: float32 may be off by 0.02
of the weight at a voxel that is within 1e-7 m of it.)

A module that sorts vertices may also offer ``tile_order(vertices)`` and take its result as ``order=`` in ``posed_phi``: whoever
poses a mesh many times then keeps the order.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from chorus.kernels.arrays import Lattice

PELVIS = 0
"""The joint that rules what is far from the body (e_1 of Eq. 9)."""
RELAXATION = 0.3
INVERSES = ("blend_of_inverses", "inverse_of_blend")
SERIES_ERROR = 1e-8
"""What the Chebyshev series of the smoothing leaves out, as a share of the weight."""
SERIES_COST = 2.0
"""A term of the series in steps: it moves three arrays instead of two."""


def check_mesh(vertices: Any, vertex_weights: Any, k: int, tau: float, s: float) -> None:
    """Raise ValueError where a mesh (tensors or arrays) or the parameters of Eq. 4, 9, 10 cannot be used."""
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise ValueError(f"vertices: expected shape (P, 3), got {tuple(vertices.shape)}")
    if vertex_weights.ndim != 2 or len(vertex_weights) != len(vertices) or not vertex_weights.shape[1]:
        raise ValueError(f"vertex_weights: expected shape ({len(vertices)}, J), got {tuple(vertex_weights.shape)}")
    if not 1 <= k <= len(vertices):
        raise ValueError(f"k: expected 1 .. {len(vertices)}, the number of vertices, got {k}")
    if not (tau > 0 and s > 0):
        raise ValueError(f"tau, s: expected positive numbers, got {tau} and {s}")


def check_sampling(lattice: Lattice, weights: Tensor, bones: Tensor, phi: Tensor, grid: Lattice, inverse: str) -> None:
    """Raise ValueError where the arguments of a ``sample_canonical`` do not fit together."""
    if weights.ndim != 2 or len(weights) != lattice.num_voxels:
        raise ValueError(f"weights: expected shape ({lattice.num_voxels}, J), got {tuple(weights.shape)}")
    check_bones(bones, weights.shape[1], phi, grid, inverse)


def check_bones(bones: Any, joints: int, phi: Any, grid: Lattice, inverse: str) -> None:
    """Raise ValueError where bones, phi and its grid do not fit together, or ``inverse`` is none of INVERSES."""
    if bones.shape != (joints, 3, 4):
        raise ValueError(f"bones: expected shape ({joints}, 3, 4), got {tuple(bones.shape)}")
    if tuple(phi.shape) != grid.shape:
        raise ValueError(f"phi: expected the grid's shape {grid.shape}, got {tuple(phi.shape)}")
    if inverse not in INVERSES:
        raise ValueError(f"inverse: expected {' or '.join(INVERSES)}, got {inverse!r}")


@lru_cache(maxsize=64)
def series(steps: int) -> tuple[float, ...]:
    """Coefficients c of (0.7 + 0.3 y)^steps = sum_m c_m T_m(y) on [-1, 1], what is below SERIES_ERROR in all left out.

    With y the mean of the 6 adjacent voxels, an operator with its spectrum in [-1, 1], this is ``steps`` Jacobi steps, and
    the T_m follow from T_(m+1) = 2 y T_m - T_(m-1). The number of terms grows as the square root of the steps: 18 for 30, 93
    for 853. The c are positive and sum to 1.
    """
    count = steps + 1
    angle = (np.arange(count) + 0.5) * (np.pi / count)
    value = (1 - RELAXATION + RELAXATION * np.cos(angle)) ** steps
    c = np.array([2 / count * float(value @ np.cos(m * angle)) for m in range(min(count, 64 + 8 * math.isqrt(steps)))])
    c[0] /= 2
    left = 1 - np.cumsum(c)
    c = c[: int(np.argmax(left < SERIES_ERROR)) + 1]
    return tuple(float(x) for x in c / c.sum())


def series_pays(steps: int) -> bool:
    """Whether the series is cheaper than the steps themselves: from about 45 steps on. The paper's 30 are taken one by one."""
    return steps > 1 and SERIES_COST * len(series(steps)) < steps
