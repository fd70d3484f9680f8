"""What the compiled loops of votes and contacts are given: images, bricks and scratch memory as tuples of flat arrays.

numba takes a NamedTuple as it takes its fields one by one. Images lie in *vectors* of 16: where a row is said to hold a
quantity "of 16 images", element ``row + lane`` is that of image ``lane`` of the vector.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from chorus.kernels.arrays import VoxelField
from chorus.kernels.bricks import SIDE, VOXELS, bricks_of
from chorus.kernels.cpu.simd import LANES
from chorus.kernels.jit import compiled

MATRIX = 12
"""Elements of the 3 x 4 matrix of an image and joint."""
CX, CY, LAST_U, LAST_V, BOX_U0, BOX_V0, BOX_U1, BOX_V1, ERROR_UV, ERROR_Z = range(0, 10 * LANES, LANES)
"""Rows of ``PreparedImages.frame`` within a vector: principal point; last u and v inside the image; first u and v inside the
mask's box, and the last; what float32 may be off in U or V, and in Z."""
FRAME_ROWS = 10
FIRST_COLUMN, FIRST_ROW, ACROSS, STRIDE, TABLE = range(0, 5 * LANES, LANES)
"""Rows of ``PreparedImages.blocks`` within a vector: the mask's first block column and row, blocks per row, entries per row of
its table in ``occupied`` and ``full``, and where that table starts."""
BLOCKS_ROWS = 5
TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT, AREA, FIRST_BLOCK = range(0, 6 * LANES, LANES)
"""Rows of ``Scratch.corners``: where the corners of a rectangle of blocks lie in the summed-area tables, how many blocks it
has, and which of the mask's blocks is its first."""
RECTANGLE_U0, RECTANGLE_U1, RECTANGLE_V0, RECTANGLE_V1, NEAREST, FARTHEST, LEAST = range(0, 7 * LANES, LANES)
"""Rows of ``Scratch.rectangle``: first and last u and v that a brick may fall on in 16 images, its least and
largest depth in metres; then the least value of the body there (``hidden``)."""

jit = compiled(error_model="numpy")
# Taking an array out of a tuple counts a reference, and numba cannot prove all of these counts away: in the loops of the votes
# they would cost two thirds of the time. What keeps no array beyond its call needs none; neither such a function nor what it
# calls may make or return an array.
borrowing = compiled(error_model="numpy", _nrt=False)
"""``jit`` for functions that only read and write the arrays they are given."""
inlined = compiled(error_model="numpy", _nrt=False, forceinline=True)
"""``borrowing`` for parts of a hot loop: what they are given need not be handed over on the stack."""


class PreparedImages(NamedTuple):
    """One pass of n images in the kernels' order; I is n padded to whole vectors of 16.

    matrix        (I * J * 12,) float32  rows U, V, Z of K [R | t] B_j, principal point left out
    matrix_lanes  (I / 16 * J * 12 * 16,) float32  the same for vectors of 16 images, images fastest
    frame          (I / 16 * 10 * 16,) float32  rows CX .. ERROR_Z of 16 images
    blocks        (I / 16 * 5 * 16,) int32  rows FIRST_COLUMN .. TABLE of 16 images
    occupied      (C,) int32  summed-area tables of the masks' blocks that are not empty
    full          (C,) int32  the same of their full blocks
    start         (n,) int64  first word of each mask
    words         (T,) int32  the masks' words, as ``VoteImages`` has them
    num_joints    J of the joints that voxels follow (``joints_of``): the others have no matrix
    """

    matrix: NDArray[np.float32]
    matrix_lanes: NDArray[np.float32]
    frame: NDArray[np.float32]
    blocks: NDArray[np.int32]
    occupied: NDArray[np.int32]
    full: NDArray[np.int32]
    start: NDArray[np.int64]
    words: NDArray[np.int32]
    num_joints: int


class BrickArrays(NamedTuple):
    """The arrays of ``chorus.kernels.bricks.Bricks``, and the lattice that the bricks are cut from.

    joint    (E,) int32  which of ``joints_of`` a pair has: the index of its matrix
    shape    (NX, NY, NZ)
    spacing  of the lattice in metres, float32
    y, z     (16,) float32  the 16 voxel centres of a brick that share an x, from the brick's centre, metres
    """

    first: NDArray[np.int32]
    centre: NDArray[np.float32]
    joint_offset: NDArray[np.int64]
    joint: NDArray[np.int32]
    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    variation: NDArray[np.float32]
    weight: NDArray[np.float32]
    shape: tuple[int, int, int]
    spacing: np.float32
    y: NDArray[np.float32]
    z: NDArray[np.float32]


def joints_of(field: VoxelField) -> NDArray[np.int64]:
    """The joints that some voxel of a field follows, ascending: all of them with lbs, one where the field is anchored."""
    return np.flatnonzero(np.bincount(bricks_of(field).joint, minlength=field.num_joints))


_laid_out: WeakKeyDictionary[VoxelField, BrickArrays] = WeakKeyDictionary()


def brick_arrays(field: VoxelField) -> BrickArrays:
    """The bricks of a field as the compiled loops take them, kept as long as the field lives."""
    found = _laid_out.get(field)
    if found is None:
        found = _laid_out[field] = _lay_out(field)
    return found


def _lay_out(field: VoxelField) -> BrickArrays:
    bricks, joints = bricks_of(field), joints_of(field)
    matrix_of = np.zeros(field.num_joints, np.int32)
    matrix_of[joints] = np.arange(len(joints))
    lane = np.arange(LANES)
    y, z = ((steps - 1.5) * field.spacing for steps in (lane // SIDE, lane % SIDE))
    return BrickArrays(
        first=bricks.first,
        centre=bricks.centre,
        joint_offset=bricks.joint_offset,
        joint=matrix_of[bricks.joint],
        mean=bricks.mean,
        spread=bricks.spread,
        variation=bricks.variation,
        weight=bricks.weight,
        shape=field.shape,
        spacing=np.float32(field.spacing),
        y=y.astype(np.float32),
        z=z.astype(np.float32),
    )


class Scratch(NamedTuple):
    """Memory of one thread, for one brick.

    centres  (J * 3 * 16,) float32  (U, V, Z) of the brick's centre in 16 images, under each of the brick's joints
    corners  (6 * 16,) int32  rows TOP_LEFT .. FIRST_BLOCK of 16 images
    rectangle  (7 * 16,) float32  rows RECTANGLE_U0 .. LEAST of 16 images
    u, v, z  (64,) float32  the brick's voxels in one image: pixel and depth
    """

    centres: NDArray[np.float32]
    corners: NDArray[np.int32]
    rectangle: NDArray[np.float32]
    u: NDArray[np.float32]
    v: NDArray[np.float32]
    z: NDArray[np.float32]


@jit
def scratch_for(num_joints):  # type: ignore[no-untyped-def]
    """Scratch memory for bricks of at most ``num_joints`` joints."""
    centres, corners = np.empty(3 * LANES * num_joints, np.float32), np.zeros(6 * LANES, np.int32)
    rectangle = np.zeros(7 * LANES, np.float32)
    u, v, z = np.empty(VOXELS, np.float32), np.empty(VOXELS, np.float32), np.empty(VOXELS, np.float32)
    return Scratch(centres, corners, rectangle, u, v, z)
