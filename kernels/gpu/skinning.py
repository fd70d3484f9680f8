"""Skinning weights around a mesh, their smoothing and inverse LBS sampling on the GPU: Triton twins of ``reference.skinning``.

No list of nearest vertices is ever made. Vertices are sorted in space and cut into tiles of 32; for a brick of 4 x 4 x 4 voxels
``find_candidates`` keeps the tiles that can hold one of the k nearest vertices of any of its voxels; ``find_kth`` narrows down,
for all of them at once, the bits of the k-th smallest squared distance by counting vertices below thresholds, until each count
is k; ``weigh_bricks`` adds up the inverse distances times the vertices' weights as a matrix product. Vertices at equal k-th
distances get equal shares.
``smooth_step`` is a Jacobi step, or a term of its Chebyshev series; ``sample`` is Eq. 11.

Everything is float32. Weights are kept joint by joint, (J, V): neighbouring lanes then read neighbouring voxels.
"""

from __future__ import annotations

import math
import os

import torch
import triton
from torch import Tensor

from chorus.kernels.arrays import Lattice
from chorus.kernels.gpu.arguments import Candidates, KthDistances, Shape, SkinningWeights, Tiles
from chorus.kernels.gpu.arguments import Lattice as LatticeArgument
from chorus.kernels.gpu.skinning_kernels import (
    CELLS,
    CHUNK,
    FEWEST_COLUMNS,
    POINTS,
    SIDE,
    STAGES,
    TILE,
    find_candidates,
    find_kth,
    sample,
    smooth_step,
    weigh_bricks,
    weigh_warps,
)
from chorus.kernels.kinematics import inverse_rigid
from chorus.kernels.skinning import (
    INVERSES,
    PELVIS,
    RELAXATION,
    check_bones,
    check_mesh,
    check_sampling,
    series,
    series_pays,
)
from chorus.kernels.spatial import spatial_order

BRICKS_PER_LAUNCH = 1 << 14
"""Bounds the memory of the candidate lists: 8 bytes a brick and tile."""
_FAR_AWAY = 1e18  # where the places that fill the last tile are: its square is still a float32


def check_device(**tensors: Tensor) -> torch.device:
    """The one GPU that all tensors are on; ValueError otherwise (the interpreter takes any device)."""
    devices = {tensor.device for tensor in tensors.values()}
    if len(devices) != 1:
        places = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"tensors: expected all on one device, got {places}")
    device = devices.pop()
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"{next(iter(tensors))}: expected a tensor on a GPU, got one on {device}")
    return device


def tile_order(vertices: Tensor) -> Tensor:
    """An order of (P, 3) vertices in which runs of TILE lie close together, (P,) int64 on the same device.

    Found on the CPU, in milliseconds. It need not be of this pose: vertices that lie close together remain so.
    """
    order = spatial_order(vertices.double().cpu().contiguous().numpy().copy(), TILE)
    return torch.from_numpy(order).to(vertices.device)


def _argument(lattice: Lattice) -> LatticeArgument:
    x, y, z = map(float, lattice.origin)
    return LatticeArgument(Shape.of(lattice.shape), x, y, z, float(lattice.spacing))


def _cut_into_tiles(vertices: Tensor, vertex_weights: Tensor, order: Tensor) -> Tiles:
    """The (P, 3) vertices in this order, TILE by TILE, with their (P, J) weights."""
    P, J = vertex_weights.shape
    T = -(-P // TILE)
    padded = torch.cat([order, order[-1:].expand(T * TILE - P)])
    sorted_points = vertices.float()[padded]
    low, high = sorted_points.view(T, TILE, 3).aminmax(dim=1)
    boxes = torch.cat([(low + high) / 2, (high - low) / 2 * 1.000001 + 1e-6], 1).T.contiguous()
    sorted_points[P:] = _FAR_AWAY
    points = sorted_points.view(T, TILE, 3).mT.contiguous()
    weights = torch.zeros(max(FEWEST_COLUMNS, triton.next_power_of_2(J)), T * TILE, device=vertices.device)
    weights[:J] = vertex_weights.float()[padded].T
    return Tiles(points, boxes, weights)


def _joint_weights(
    lattice: Lattice, vertices: Tensor, vertex_weights: Tensor, k: int, tau: float, s: float, order: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(J, V) float32 weights before smoothing, and near, (V,) uint8."""
    check_mesh(vertices, vertex_weights, k, tau, s)
    device = check_device(vertices=vertices, vertex_weights=vertex_weights)
    P, J = vertex_weights.shape
    tiles = _cut_into_tiles(vertices, vertex_weights, tile_order(vertices) if order is None else order)
    T, columns = len(tiles.points), len(tiles.weights)
    out = SkinningWeights(
        weights=torch.zeros(J, lattice.num_voxels, device=device),
        near=torch.zeros(lattice.num_voxels, dtype=torch.uint8, device=device),
    )
    out.weights[PELVIS] = 1.0
    total = math.prod(-(-n // SIDE) for n in lattice.shape)
    most = min(total, BRICKS_PER_LAUNCH)
    candidates = Candidates(
        tiles=torch.empty(most, T, dtype=torch.int32, device=device),
        bounds=torch.empty(most, T, device=device),
        length=torch.empty(most, dtype=torch.int32, device=device),
        reach=torch.empty(most, device=device),
    )
    kth = KthDistances(*torch.empty(2, most, SIDE**3, device=device))
    where = _argument(lattice)
    for first in range(0, total, most):
        grid = (min(most, total - first),)
        find_candidates[grid](
            tiles, candidates, where, T, P, first, tau, k, TILE=TILE, CHUNK=CHUNK, num_warps=4, num_stages=STAGES
        )
        find_kth[grid](tiles, candidates, kth, where, T, first, tau, k, TILE=TILE, num_warps=4, num_stages=STAGES)
        weigh_bricks[grid](
            tiles,
            candidates,
            kth,
            where,
            out,
            T,
            J,
            first,
            tau,
            s,
            JOINTS=columns,
            TILE=TILE,
            num_warps=weigh_warps(columns),
            num_stages=STAGES,
        )
    return out.weights, out.near


def _smooth_joints(lattice: Lattice, weights: Tensor, near: Tensor, steps: int) -> Tensor:
    """(J, V) weights after ``steps`` Jacobi steps; near (V,) uint8."""
    if not steps or min(lattice.shape) < 3:
        return weights
    inner = torch.zeros(lattice.shape, dtype=torch.int32, device=near.device)
    inner[1:-1, 1:-1, 1:-1] = near.view(lattice.shape)[1:-1, 1:-1, 1:-1]
    J, V = weights.shape
    _, NY, NZ = lattice.shape
    grid = (triton.cdiv(V, CELLS), J)

    def step(now: Tensor, out: Tensor, total: Tensor, take: float, c: float, is_term: bool) -> None:
        smooth_step[grid](
            now,
            out,
            total,
            inner,
            V,
            NZ,
            NY * NZ,
            take,
            c,
            CELLS=CELLS,
            SERIES=is_term,
            num_warps=CELLS // 32,
            num_stages=STAGES,
        )

    old, new = weights, weights.clone()
    if not series_pays(steps):
        for _ in range(steps):
            step(old, new, new, RELAXATION / 6, 0.0, False)
            old, new = new, old
        return old
    c = series(steps)
    step(old, new, new, 1 / 6, 0.0, False)  # T_1: the mean of the 6 voxels around
    total = c[0] * old + c[1] * new
    total = torch.where(inner.view(-1) != 0, total, old)
    for coefficient in c[2:]:
        step(new, old, total, 1 / 3, coefficient, True)
        old, new = new, old
    return total.clamp_(min=0)


def _sample(lattice: Lattice, weights: Tensor, bones: Tensor, phi: Tensor, grid: Lattice, inverse: str) -> Tensor:
    """Eq. 11 with (J, V) weights."""
    check_device(weights=weights, bones=bones, phi=phi)
    matrices = (inverse_rigid(bones.double()) if inverse == INVERSES[0] else bones).float().contiguous()
    J, V = weights.shape
    out = torch.empty(lattice.shape, device=weights.device)
    sample[(triton.cdiv(V, POINTS),)](
        weights,
        matrices,
        phi.float().contiguous(),
        out,
        _argument(lattice),
        _argument(grid),
        J,
        V,
        POINTS=POINTS,
        INVERTED=inverse == INVERSES[0],
        num_warps=4,
        num_stages=STAGES,
    )
    return out


def skinning_weights(
    lattice: Lattice, vertices: Tensor, vertex_weights: Tensor, *, k: int, tau: float, s: float, order: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As ``reference.skinning.skinning_weights``, on the GPU: (V, J) float32 (a view of (J, V)) and near, (V,) bool.

    order  of ``tile_order``, where one is kept
    """
    weights, near = _joint_weights(lattice, vertices, vertex_weights, k, tau, s, order)
    return weights.T, near.bool()


def smooth(lattice: Lattice, weights: Tensor, near: Tensor, *, steps: int) -> Tensor:
    """As ``reference.skinning.smooth``, on the GPU: (V, J) float32."""
    check_device(weights=weights, near=near)
    return _smooth_joints(lattice, weights.float().T.contiguous().clone(), near.to(torch.uint8), steps).T


def sample_canonical(
    lattice: Lattice, weights: Tensor, bones: Tensor, phi: Tensor, grid: Lattice, *, inverse: str = INVERSES[0]
) -> Tensor:
    """As ``reference.skinning.sample_canonical``, on the GPU: (NX, NY, NZ) float32."""
    check_sampling(lattice, weights, bones, phi, grid, inverse)
    return _sample(lattice, weights.float().T.contiguous(), bones, phi, grid, inverse)


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
    order: Tensor | None = None,
) -> Tensor:
    """As ``reference.skinning.posed_phi``, on the GPU: (NX, NY, NZ) float32. ``order`` of ``tile_order``, where one is kept."""
    check_bones(bones, vertex_weights.shape[1], phi, grid, inverse)
    weights, near = _joint_weights(lattice, vertices, vertex_weights, k, tau, s, order)
    return _sample(lattice, _smooth_joints(lattice, weights, near, steps), bones, phi, grid, inverse)
