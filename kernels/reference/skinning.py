"""The definition of skinning weights, their smoothing and inverse LBS, in PyTorch. See ``chorus.kernels.skinning``."""

from __future__ import annotations

import torch
from torch import Tensor

from chorus.kernels.arrays import Lattice
from chorus.kernels.kinematics import inverse_rigid
from chorus.kernels.skinning import INVERSES, PELVIS, RELAXATION, check_mesh, check_sampling

_POINTS = 2048
"""Voxels whose distances to all vertices are held at a time."""


def skinning_weights(
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
    """Where each voxel of the posed frame comes from (Eq. 11), (V, 3) metres; arguments as for ``sample_canonical``."""
    x = lattice.centres(weights.dtype, weights.device)
    bones = bones.to(weights)
    if inverse == "blend_of_inverses":
        blend = torch.einsum("vj,jab->vab", weights, inverse_rigid(bones))
        return torch.einsum("vab,vb->va", blend[..., :3], x) + blend[..., 3]
    blend = torch.einsum("vj,jab->vab", weights, bones)
    solved: Tensor = torch.linalg.solve_ex(blend[..., :3], (x - blend[..., 3])[..., None])[0]
    return solved[..., 0]


def sample_canonical(
    lattice: Lattice, weights: Tensor, bones: Tensor, phi: Tensor, grid: Lattice, *, inverse: str = INVERSES[0]
) -> Tensor:
    """phi in the posed frame (Eq. 11), (NX, NY, NZ) of the dtype of ``phi`` on ``lattice``.

    weights  (V, J) around the posed mesh
    bones    (J, 3, 4) B_j: rest pose -> pose
    phi      values on ``grid`` around the rest pose
    """
    check_sampling(lattice, weights, bones, phi, grid, inverse)
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
    """phi around a posed mesh: ``skinning_weights``, ``smooth`` and ``sample_canonical`` in one, (NX, NY, NZ)."""
    weights, near = skinning_weights(lattice, vertices, vertex_weights, k=k, tau=tau, s=s)
    return sample_canonical(lattice, smooth(lattice, weights, near, steps=steps), bones, phi, grid, inverse=inverse)
