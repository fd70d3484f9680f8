"""A voxel field cut into bricks of 4 x 4 x 4 voxels with the few joints each needs: the layout the fast kernels share.

After smoothing and de-weighting a voxel depends on 3.7 joints on average and most bricks on one, so a brick carries a
short joint list and 64 weights per joint instead of every voxel carrying all joints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from chorus.kernels.arrays import VoxelField

SIDE = 4
VOXELS = SIDE**3
TILE = 4
"""Bricks are ordered in tiles of 4 x 4 x 4: neighbours share joints, so a run of bricks touches few matrices."""


@dataclass(frozen=True)
class Bricks:
    """B bricks and their E (brick, joint) pairs.

    first         (B, 3) int32    index of the brick's first voxel; bricks at the upper faces may stick out of the grid
    centre        (B, 3) float32  centre of the brick's 64 voxel centres, metres
    joint_offset  (B + 1,) int64  pairs of brick b: joint_offset[b] .. joint_offset[b + 1] - 1
    joint         (E,) int32      joint of each pair
    mean          (E,) float32    mean weight of the joint over the brick's voxels (sums to 1 over the brick's joints)
    spread        (E,) float32    largest deviation of a voxel's weight from that mean
    variation     (B,) float32    most weight that moves between joints from the mean to a voxel: max sum_j |w_j - mean_j| / 2
    weight        (E * 64,) float32  weight of each voxel, x slowest; 0 for voxels outside the grid
    """

    first: NDArray[np.int32]
    centre: NDArray[np.float32]
    joint_offset: NDArray[np.int64]
    joint: NDArray[np.int32]
    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    variation: NDArray[np.float32]
    weight: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.first)


def cut_into_bricks(field: VoxelField) -> Bricks:
    """The bricks of a field on the CPU."""
    shape = np.array(field.shape)
    counts = -(-shape // SIDE)
    grid = np.stack(np.meshgrid(*(np.arange(c) for c in counts), indexing="ij"), -1).reshape(-1, 3)
    tile = grid // TILE
    order = np.lexsort((*grid.T[::-1], *tile.T[::-1]))
    grid = grid[order]
    rank = np.empty(len(grid), np.int64)
    rank[order] = np.arange(len(grid))

    offset, joint, weight = (np.asarray(a) for a in (field.offset, field.joint, field.weight))
    voxel = np.repeat(np.arange(field.num_voxels), np.diff(offset))
    xyz = np.stack(np.unravel_index(voxel, field.shape), -1)
    brick = rank[np.ravel_multi_index(tuple((xyz // SIDE).T), tuple(counts))]
    lane = np.ravel_multi_index(tuple((xyz % SIDE).T), (SIDE,) * 3)
    pair_key, pair = np.unique(brick * field.num_joints + joint, return_inverse=True)
    pair_brick, pair_joint = np.divmod(pair_key, field.num_joints)
    weights = np.zeros((len(pair_key), VOXELS), np.float32)
    weights[pair, lane] = weight

    voxels = grid[:, None] * SIDE + np.indices((SIDE,) * 3).reshape(3, -1).T
    inside = np.all(voxels < shape, axis=-1)[pair_brick]
    mean = (weights.sum(1, dtype=np.float64) / inside.sum(1)).astype(np.float32)
    off = np.where(inside, np.abs(weights - mean[:, None]), 0)
    spread = off.max(1, initial=0)
    moved = np.add.reduceat(off, np.searchsorted(pair_brick, np.arange(len(grid)))).max(1) / 2
    first = (grid * SIDE).astype(np.int32)
    return Bricks(
        first=first,
        centre=(np.array(field.origin) + field.spacing * (first + (SIDE - 1) / 2)).astype(np.float32),
        joint_offset=np.searchsorted(pair_brick, np.arange(len(grid) + 1)).astype(np.int64),
        joint=pair_joint.astype(np.int32),
        mean=mean,
        spread=(spread * (1 + 1e-6)).astype(np.float32),
        variation=(moved * (1 + 1e-5)).astype(np.float32),
        weight=weights.ravel(),
    )


_cut: WeakKeyDictionary[VoxelField, Bricks] = WeakKeyDictionary()


def bricks_of(field: VoxelField) -> Bricks:
    """The bricks of a field, cut once and kept as long as the field lives."""
    found = _cut.get(field)
    if found is None:
        found = _cut[field] = cut_into_bricks(field)
    return found


class RegionBricks(NamedTuple):
    """The R bricks that hold region voxels.

    brick  (R,) int64       index of the brick among the field's
    any    (R,) int32       regions of any of its voxels
    slice  (R * 4,) int32   regions of any of the 16 voxels of each step in x
    voxel  (R * 64,) int32  regions of each voxel, x slowest; 0 for voxels outside the grid
    """

    brick: NDArray[np.int64]
    any: NDArray[np.int32]
    slice: NDArray[np.int32]
    voxel: NDArray[np.int32]


def region_bricks(field: VoxelField, regions: Tensor, cut: Bricks) -> RegionBricks:
    """The regions (V,) int32 laid out by the field's bricks; bricks with most voxels in regions come first."""
    bit_sets = np.asarray(regions)
    voxel = np.flatnonzero(bit_sets)
    xyz = np.stack(np.unravel_index(voxel, field.shape), -1)
    counts = tuple(-(-n // SIDE) for n in field.shape)
    rank = np.empty(int(np.prod(counts)), np.int64)
    rank[np.ravel_multi_index(tuple((cut.first // SIDE).T), counts)] = np.arange(len(cut))
    brick, of_voxel = np.unique(rank[np.ravel_multi_index(tuple((xyz // SIDE).T), counts)], return_inverse=True)
    lane = np.ravel_multi_index(tuple((xyz % SIDE).T), (SIDE,) * 3)
    by_voxel = np.zeros((len(brick), VOXELS), np.int32)
    by_voxel[of_voxel, lane] = bit_sets[voxel]
    order = np.argsort(-np.count_nonzero(by_voxel, axis=1), kind="stable")
    by_voxel = by_voxel[order]
    return RegionBricks(
        brick=brick[order].astype(np.int64),
        any=np.bitwise_or.reduce(by_voxel, axis=1),
        slice=np.bitwise_or.reduce(by_voxel.reshape(-1, SIDE, SIDE * SIDE), axis=2).ravel(),
        voxel=by_voxel.ravel(),
    )
