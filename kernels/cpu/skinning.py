"""Skinning weights around a mesh on the CPU: the numba twin of ``reference.skinning``, sparse in space, one joint at a time.

Nearest vertices (``nearest_vertices``): vertices are sorted in space and cut into tiles of 16, each with its bounding box; a
brick of 4 x 4 x 4 voxels keeps the tiles that can hold one of the k nearest of any of its voxels; a voxel looks into those no
farther than the worst of the previous voxel's k, which bounds its own k-th distance. All in float64: which vertex is the k-th
is decided by the same numbers as in the definition.

Smoothing (``smoothing``): each joint is a scalar field of its own, in an array that fits the cache, touched only where the
joint reaches; many steps are one polynomial of the step, evaluated by its Chebyshev series.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chorus.kernels.arrays import Lattice
from chorus.kernels.cpu.nearest_vertices import (
    SIDE,
    VOXELS,
    Decay,
    Slots,
    cut_into_tiles,
    lattice_arrays,
    near_bricks,
    weigh_bricks,
)
from chorus.kernels.cpu.smoothing import smooth_slots
from chorus.kernels.jit import compiled
from chorus.kernels.kinematics import inverse_rigid
from chorus.kernels.skinning import INVERSES, PELVIS, check_bones, check_mesh, check_sampling
from chorus.kernels.threads import default_threads, each

_BRICKS_PER_TASK = 32


@dataclass(frozen=True, eq=False)
class NearWeights:
    """Weights of the voxels in the bricks near a mesh; every other voxel belongs to the pelvis.

    lattice  the voxels
    near     (S,) bool; whether the voxel in a slot is within tau of the mesh and inside the lattice; 64 slots a brick
    voxel    (S,) int64 its flat index; 0 where it is not near
    weight   (J, S) float32; 0 where it is not near
    """

    lattice: Lattice
    near: NDArray[np.bool_]
    voxel: NDArray[np.int64]
    weight: NDArray[np.float32]

    @property
    def slots(self) -> Slots:
        """The arrays as the compiled loops take them."""
        return Slots(self.near, self.voxel, self.weight)

    def dense(self) -> tuple[Tensor, Tensor]:
        """(V, J) float32 weights of all voxels, and near, (V,) bool."""
        weights = np.zeros((self.lattice.num_voxels, len(self.weight)), np.float32)
        weights[:, PELVIS] = 1.0
        near = np.zeros(len(weights), np.bool_)
        slots = np.flatnonzero(self.near)
        near[self.voxel[slots]] = True
        weights[self.voxel[slots]] = self.weight[:, slots].T
        return torch.from_numpy(weights), torch.from_numpy(near)

    def sparse(self, below: float) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """offset, joint, weight as in ``arrays.VoxelField``: weights smaller than ``below`` dropped, rows rescaled to 1."""
        offset = np.ones(self.lattice.num_voxels + 1, np.int64)
        offset[0] = 0
        _count_entries(self.near, self.voxel, self.weight, np.float32(below), offset[1:])
        np.cumsum(offset, out=offset)
        joint, weight = np.full(offset[-1], PELVIS, np.int32), np.ones(offset[-1], np.float32)
        _fill_entries(self.near, self.voxel, self.weight, np.float32(below), offset, joint, weight)
        return offset, joint, weight


@compiled()
def _count_entries(near, voxel, weight, below, count):  # type: ignore[no-untyped-def]
    """count[v] <- weights of near voxel v that are not below the threshold."""
    for slot in np.flatnonzero(near):
        kept = 0
        for j in range(len(weight)):
            kept += weight[j, slot] >= below
        count[voxel[slot]] = kept


@compiled(error_model="numpy")
def _fill_entries(near, voxel, weight, below, offset, joint, out):  # type: ignore[no-untyped-def]
    """Joints and weights of the near voxels' entries; offset as counted."""
    for slot in np.flatnonzero(near):
        first = offset[voxel[slot]]
        entry, total = first, np.float32(0)
        for j in range(len(weight)):
            if weight[j, slot] >= below:
                joint[entry], out[entry] = j, weight[j, slot]
                total += weight[j, slot]
                entry += 1
        for e in range(first, entry):
            out[e] /= total


def near_weights(
    lattice: Lattice,
    vertices: NDArray[np.float64],
    vertex_weights: NDArray[np.floating],
    *,
    k: int,
    tau: float,
    s: float,
    steps: int = 0,
    threads: int | None = None,
) -> NearWeights:
    """Weights around a mesh (Eq. 4, 9, 10), smoothed where ``steps`` says so.

    vertices        (P, 3) float64 metres, the mesh in the pose in question
    vertex_weights  (P, J) skinning weights
    threads         None for every processor this process may run on; the result is the same bits for any number
    """
    check_mesh(vertices, vertex_weights, k, tau, s)
    if not np.isfinite(vertices).all():
        raise ValueError("vertices: expected finite numbers, got some that are not")
    threads = threads or default_threads()
    tiles = cut_into_tiles(np.array(vertices, np.float64, order="C"))
    voxels = lattice_arrays(lattice)
    counts = -(-voxels.shape // SIDE)
    some = np.zeros(int(counts.prod()), np.bool_)

    def sift(first: int) -> None:
        last = min(first + 4096, len(some))
        near_bricks(first, last, counts, voxels, tiles, tau, some)

    each(threads, sift, range(0, len(some), 4096))
    bricks = np.stack(np.unravel_index(np.flatnonzero(some), tuple(counts)), -1)
    table = np.zeros((len(tiles.points), vertex_weights.shape[1]))
    table[: len(tiles.order)] = vertex_weights[tiles.order]
    count, decay = len(bricks) * VOXELS, Decay(int(k), float(tau), float(s))
    slots = Slots(np.zeros(count, np.bool_), np.zeros(count, np.int64), np.zeros((table.shape[1], count), np.float32))

    def weigh(first: int) -> None:
        weigh_bricks(first, min(first + _BRICKS_PER_TASK, len(bricks)), bricks, voxels, tiles, table, decay, slots)

    each(threads, weigh, range(0, len(bricks), _BRICKS_PER_TASK))
    smooth_slots(lattice.shape, slots.near, slots.voxel, slots.weight, steps, threads)
    return NearWeights(lattice, *slots)


def skinning_weights(
    lattice: Lattice, vertices: Tensor, vertex_weights: Tensor, *, k: int, tau: float, s: float
) -> tuple[Tensor, Tensor]:
    """As ``reference.skinning.skinning_weights``, on the CPU: (V, J) float32 and near, (V,) bool."""
    return near_weights(lattice, vertices.double().numpy(), vertex_weights.numpy(), k=k, tau=tau, s=s).dense()


def smooth(lattice: Lattice, weights: Tensor, near: Tensor, *, steps: int, threads: int | None = None) -> Tensor:
    """As ``reference.smooth``, on the CPU: (V, J) float32, all the voxels that are not near the pelvis's alone."""
    voxel = np.flatnonzero(near.numpy())
    slots = np.ascontiguousarray(weights.float().numpy()[voxel].T)
    everywhere = np.ones(len(voxel), np.bool_)
    smooth_slots(lattice.shape, everywhere, voxel, slots, steps, threads or default_threads())
    return NearWeights(lattice, everywhere, voxel, slots).dense()[0]


@compiled()
def _blend_matrices(first, last, weight, matrices, blend):  # type: ignore[no-untyped-def]
    """blend (12, last - first) <- sum_j w_j M_j of the slots; matrices (J, 12)."""
    blend[:] = 0.0
    for j in range(len(weight)):
        row = weight[j, first:last]
        if not row.any():
            continue
        for c in range(12):
            m, total = matrices[j, c], blend[c]
            for lane in range(len(row)):
                total[lane] += m * row[lane]


@compiled(error_model="numpy")
def _solve(m, x, y, z):  # type: ignore[no-untyped-def]
    """The point that a 3 x 4 matrix (12,) takes to (x, y, z), by Cramer's rule; not finite where there is none."""
    x, y, z = x - m[3], y - m[7], z - m[11]
    # Rows of the adjugate.
    a0, a1, a2 = m[5] * m[10] - m[6] * m[9], m[2] * m[9] - m[1] * m[10], m[1] * m[6] - m[2] * m[5]
    b0, b1, b2 = m[6] * m[8] - m[4] * m[10], m[0] * m[10] - m[2] * m[8], m[2] * m[4] - m[0] * m[6]
    c0, c1, c2 = m[4] * m[9] - m[5] * m[8], m[1] * m[8] - m[0] * m[9], m[0] * m[5] - m[1] * m[4]
    scale = 1.0 / (m[0] * a0 + m[1] * b0 + m[2] * c0)
    u0 = scale * (a0 * x + a1 * y + a2 * z)
    u1 = scale * (b0 * x + b1 * y + b2 * z)
    u2 = scale * (c0 * x + c1 * y + c2 * z)
    return u0, u1, u2


@compiled(error_model="numpy")
def _sample(first, last, slots, lattice, matrices, inverted, phi, grid, out):  # type: ignore[no-untyped-def]
    """Eq. 11 for the near voxels in slots first .. last - 1; matrices (J, 12): B_j^-1 where ``inverted``, else B_j."""
    shape, origin, spacing = lattice.shape, lattice.origin, lattice.spacing
    grid_origin, grid_spacing = grid.origin, grid.spacing
    blend = np.empty((12, last - first))
    _blend_matrices(first, last, slots.weight, matrices, blend)
    for lane in range(last - first):
        if not slots.near[first + lane]:
            continue
        v = slots.voxel[first + lane]
        x = origin[0] + (v // (shape[1] * shape[2])) * spacing
        y = origin[1] + (v // shape[2] % shape[1]) * spacing
        z = origin[2] + (v % shape[2]) * spacing
        m = blend[:, lane]
        if inverted:
            u0 = m[0] * x + m[1] * y + m[2] * z + m[3]
            u1 = m[4] * x + m[5] * y + m[6] * z + m[7]
            u2 = m[8] * x + m[9] * y + m[10] * z + m[11]
        else:
            u0, u1, u2 = _solve(m, x, y, z)
        i = np.floor((u0 - grid_origin[0]) / grid_spacing + 0.5)
        j = np.floor((u1 - grid_origin[1]) / grid_spacing + 0.5)
        k = np.floor((u2 - grid_origin[2]) / grid_spacing + 0.5)
        # A blend without an inverse gives NaN or infinity: inside nothing.
        if 0 <= i < phi.shape[0] and 0 <= j < phi.shape[1] and 0 <= k < phi.shape[2]:
            out[v] = phi[int(i), int(j), int(k)]
        else:
            out[v] = 0.0


def sample(
    weights: NearWeights,
    bones: NDArray[np.float64],
    phi: NDArray[np.float32],
    grid: Lattice,
    *,
    inverse: str = INVERSES[0],
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Eq. 11 with the weights of ``near_weights``: bones (J, 3, 4), phi on ``grid`` -> (NX, NY, NZ) float32."""
    check_bones(bones, len(weights.weight), phi, grid, inverse)
    lattice, inverted = weights.lattice, inverse == INVERSES[0]
    matrices = (inverse_rigid(torch.from_numpy(bones)).numpy() if inverted else bones).reshape(-1, 12)
    out = _far_values(lattice, bones[PELVIS], phi, grid)
    slots, voxels, canonical = weights.slots, lattice_arrays(lattice), lattice_arrays(grid)
    size = 8 * VOXELS

    def work(first: int) -> None:
        last = min(first + size, len(slots.near))
        _sample(first, last, slots, voxels, matrices, inverted, phi, canonical, out)

    each(threads or default_threads(), work, range(0, len(slots.near), size))
    return out.reshape(lattice.shape)


def _far_values(lattice: Lattice, pelvis: NDArray[np.float64], phi: NDArray[np.float32], grid: Lattice) -> NDArray[np.float32]:
    """phi where every voxel is rigid with the pelvis, (V,): what voxels far from the mesh have under both inverses."""
    if lattice == grid and np.array_equal(pelvis, np.eye(3, 4)):
        return phi.ravel().copy()
    count = lattice.num_voxels
    alone = Slots(np.ones(count, np.bool_), np.arange(count), np.ones((1, count), np.float32))
    out = np.empty(count, np.float32)
    matrix = inverse_rigid(torch.from_numpy(pelvis[None])).numpy().reshape(1, 12)
    _sample(0, count, alone, lattice_arrays(lattice), matrix, True, phi, lattice_arrays(grid), out)
    return out


def sample_canonical(
    lattice: Lattice, weights: Tensor, bones: Tensor, phi: Tensor, grid: Lattice, *, inverse: str = INVERSES[0]
) -> Tensor:
    """As the reference, on the CPU: weights (V, J), phi float32 on ``grid`` -> (NX, NY, NZ) float32."""
    check_sampling(lattice, weights, bones, phi, grid, inverse)
    slots = np.arange(lattice.num_voxels)
    rows = np.ascontiguousarray(weights.float().numpy().T)
    every = NearWeights(lattice, np.ones(len(slots), np.bool_), slots, rows)
    return torch.from_numpy(sample(every, bones.double().numpy(), phi.float().contiguous().numpy(), grid, inverse=inverse))


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
    threads: int | None = None,
) -> Tensor:
    """As ``reference.posed_phi``, on the CPU: phi float32 on ``grid`` -> (NX, NY, NZ) float32 around the posed mesh."""
    weights = near_weights(
        lattice, vertices.double().numpy(), vertex_weights.numpy(), k=k, tau=tau, s=s, steps=steps, threads=threads
    )
    values = phi.float().contiguous().numpy()
    return torch.from_numpy(sample(weights, bones.double().numpy(), values, grid, inverse=inverse, threads=threads))
