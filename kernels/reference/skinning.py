"""Skinning weights around a mesh, their smoothing, and the posed look-up: what every backend computes, and the definition.

For a voxel centre x and a mesh with vertices v_i and skinning weights w_i (Eq. 4, 9, 10)::

    w(x)  = sum_i w_i / |x - v_i|  /  sum_i 1 / |x - v_i|      over the k nearest vertices; where one is at distance 0, its w_i
    alpha = max((tau - d) / (tau + d), 0)^s                    d = distance of the nearest vertex
    w(x) <- alpha w(x) + (1 - alpha) e_pelvis

A voxel is *near* where d <= tau; elsewhere the pelvis (joint 0) has all the weight. Smoothing is ``steps`` Jacobi steps
w <- 0.7 w + 0.3 mean of the 6 neighbours at near voxels that are not on the boundary of the lattice; the others keep their
weights. Rows then still sum to 1: a step takes means of rows that do, and each joint is smoothed independently of the others.

Where several vertices share the k-th distance, any choice among them is right, and so is any mean of choices (the Triton
kernel gives all of them an equal share of what is left of the k).

The posed look-up (Eq. 11) takes every voxel x of the posed frame to the canonical point, with the weights around the posed
mesh and the bones B_j (rest pose -> pose, ``kinematics.bone_transforms``)::

    blend_of_inverses   x_c = sum_j w_j(x) B_j^-1 x            inverse_of_blend   x_c = (sum_j w_j(x) B_j)^-1 x

and reads phi at the voxel of the canonical grid that holds x_c (the nearest centre); 0 outside it and where a blend has no
inverse.

Backends (``cpu_neighbours``, ``triton_neighbours``) offer the same three functions and ``posed_phi``, which chains them, with
these signatures. In exact arithmetic they agree; a float32 backend may take another k-th neighbour where two distances differ
by less than rounding, and another canonical voxel where x_c lies that close to a face. (alpha is steep at tau: float32 may be
off by 0.02 of the weight at a voxel that is within 1e-7 m of it.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

PELVIS = 0
"""The joint that rules what is far from the body (e_1 of Eq. 9)."""
RELAXATION = 0.3
INVERSES = ("blend_of_inverses", "inverse_of_blend")
SERIES_ERROR = 1e-8
"""What the Chebyshev series of the smoothing leaves out, as a share of the weight."""
SERIES_COST = 2.0
"""A term of the series in steps: it moves three arrays instead of two."""
_POINTS = 2048
"""Voxels whose distances to all vertices are held at a time."""


@dataclass(frozen=True)
class Lattice:
    """A box of NX NY NZ voxels; voxel (i, j, k) has flat index (i NY + j) NZ + k.

    shape    (NX, NY, NZ)
    origin   centre of voxel (0, 0, 0) in metres
    spacing  distance of neighbouring centres in metres
    """

    shape: tuple[int, int, int]
    origin: tuple[float, float, float]
    spacing: float

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"lattice.shape: expected three positive numbers, got {self.shape}")
        if not self.spacing > 0:
            raise ValueError(f"lattice.spacing: expected a positive length, got {self.spacing}")

    @property
    def num_voxels(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    def centres(self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
        """Voxel centres, (V, 3) metres."""
        axes = [
            start + self.spacing * torch.arange(n, dtype=dtype, device=device)
            for start, n in zip(self.origin, self.shape, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


def cube(resolution: int, extent: float) -> Lattice:
    """The lattice of N^3 voxels in a cube centred at the origin, ``extent`` metres wide."""
    spacing = extent / resolution
    return Lattice((resolution,) * 3, ((0.5 - resolution / 2) * spacing,) * 3, spacing)


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


def check_lookup(lattice: Lattice, weights: Tensor, bones: Tensor, phi: Tensor, grid: Lattice, inverse: str) -> None:
    """Raise ValueError where the arguments of a ``posed_lookup`` do not fit together."""
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


def invert_bones(bones: Tensor) -> Tensor:
    """Inverses of rigid transforms, (J, 3, 4) -> (J, 3, 4): [R | t]^-1 = [R^T | -R^T t]."""
    rotation = bones[:, :, :3].mT
    return torch.cat([rotation, -rotation @ bones[:, :, 3:]], -1)


@lru_cache(maxsize=64)
def series(steps: int) -> tuple[float, ...]:
    """Coefficients c of (0.7 + 0.3 y)^steps = sum_m c_m T_m(y) on [-1, 1], what is below SERIES_ERROR in all left out.

    With y the mean of the 6 neighbours, an operator with its spectrum in [-1, 1], this is ``steps`` Jacobi steps, and the T_m
    follow from T_(m+1) = 2 y T_m - T_(m-1). The number of terms grows as the square root of the steps: 18 for 30, 93 for 853.
    The c are positive and sum to 1.
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


def neighbour_weights(
    lattice: Lattice, vertices: Tensor, vertex_weights: Tensor, *, k: int, tau: float, s: float
) -> tuple[Tensor, Tensor]:
    """Weights around a mesh before smoothing (Eq. 4, 9, 10): (V, J) of the dtype of ``vertices``, and near, (V,) bool.

    vertices        (P, 3) metres, the mesh in the pose in question
    vertex_weights  (P, J) skinning weights
    """
    check_mesh(vertices, vertex_weights, k, tau, s)
    centres = lattice.centres(vertices.dtype, vertices.device)
    table = vertex_weights.to(vertices.dtype)
    weights = torch.empty(len(centres), table.shape[1], dtype=vertices.dtype, device=vertices.device)
    near = torch.empty(len(centres), dtype=torch.bool, device=vertices.device)
    for first in range(0, len(centres), _POINTS):
        rows = slice(first, first + _POINTS)
        distance = torch.cdist(centres[rows], vertices, compute_mode="donot_use_mm_for_euclid_dist")
        d, index = distance.topk(k, dim=1, largest=False)
        share = torch.where(d[:, :1] > 0, 1 / d, torch.arange(k, device=d.device) == 0)
        share = share / share.sum(1, keepdim=True)
        alpha = ((tau - d[:, :1]) / (tau + d[:, :1])).clamp(min=0) ** s
        weights[rows] = alpha * torch.einsum("vk,vkj->vj", share, table[index])
        weights[rows, PELVIS] += 1 - alpha[:, 0]
        near[rows] = d[:, 0] <= tau
    return weights, near


def smooth(lattice: Lattice, weights: Tensor, near: Tensor, *, steps: int) -> Tensor:
    """Weights (V, J) after ``steps`` Jacobi steps; near (V,) bool. The argument is left as it is."""
    grid = weights.reshape(*lattice.shape, -1).clone()
    inner = (slice(1, -1),) * 3
    free = near.reshape(lattice.shape)[inner][..., None]
    if min(lattice.shape) < 3:
        return grid.reshape(weights.shape)
    for _ in range(steps):
        around = torch.zeros_like(grid[inner])
        for axis in range(3):
            for shift in (slice(0, -2), slice(2, None)):
                around += grid[tuple(shift if a == axis else slice(1, -1) for a in range(3))]
        stepped = (1 - RELAXATION) * grid[inner] + RELAXATION / 6 * around
        stepped = stepped / stepped.sum(-1, keepdim=True)
        grid[inner] = torch.where(free, stepped, grid[inner])
    return grid.reshape(weights.shape)


def canonical_points(lattice: Lattice, weights: Tensor, bones: Tensor, *, inverse: str = INVERSES[0]) -> Tensor:
    """Where each voxel of the posed frame comes from (Eq. 11), (V, 3) metres; arguments as for ``posed_lookup``."""
    x = lattice.centres(weights.dtype, weights.device)
    bones = bones.to(weights)
    if inverse == "blend_of_inverses":
        blend = torch.einsum("vj,jab->vab", weights, invert_bones(bones))
        return torch.einsum("vab,vb->va", blend[..., :3], x) + blend[..., 3]
    blend = torch.einsum("vj,jab->vab", weights, bones)
    solved: Tensor = torch.linalg.solve_ex(blend[..., :3], (x - blend[..., 3])[..., None])[0]
    return solved[..., 0]


def posed_lookup(
    lattice: Lattice, weights: Tensor, bones: Tensor, phi: Tensor, grid: Lattice, *, inverse: str = INVERSES[0]
) -> Tensor:
    """phi in the posed frame (Eq. 11), (NX, NY, NZ) of the dtype of ``phi`` on ``lattice``.

    weights  (V, J) around the posed mesh
    bones    (J, 3, 4) B_j: rest pose -> pose
    phi      values on ``grid`` around the rest pose
    """
    check_lookup(lattice, weights, bones, phi, grid, inverse)
    points = canonical_points(lattice, weights, bones, inverse=inverse)
    origin = torch.tensor(grid.origin, dtype=points.dtype, device=points.device)
    cell = torch.floor((points - origin) / grid.spacing + 0.5)
    shape = torch.tensor(grid.shape, device=points.device)
    inside = (cell >= 0).all(1) & (cell < shape).all(1)  # False too where a blend had no inverse: NaN compares with nothing
    i, j, k = torch.where(inside[:, None], cell, 0).long().unbind(1)
    return torch.where(inside, phi[i, j, k], 0).reshape(lattice.shape)


def posed_phi(
    lattice: Lattice,
    vertices: Tensor,
    vertex_weights: Tensor,
    bones: Tensor,
    phi: Tensor,
    grid: Lattice,
    *,
    k: int,
    tau: float,
    s: float,
    steps: int,
    inverse: str = INVERSES[0],
) -> Tensor:
    """phi around a posed mesh: ``neighbour_weights``, ``smooth`` and ``posed_lookup`` in one, (NX, NY, NZ)."""
    weights, near = neighbour_weights(lattice, vertices, vertex_weights, k=k, tau=tau, s=s)
    return posed_lookup(lattice, smooth(lattice, weights, near, steps=steps), bones, phi, grid, inverse=inverse)


skinning_weights, sample_canonical = neighbour_weights, posed_lookup
