"""What the Triton kernels take, in groups: each is a NamedTuple whose fields a kernel reads by name, as ``images.lanes``.

C is the capacity of a pass, its places for images (a multiple of 128); S its number of segments, runs of images of one group;
J the number of joints; B the number of bricks of the field, and N of those that a launch takes, a program each; E the number
of pairs of brick and joint.

Triton makes code of its own for integers in a tuple that are 1 or multiples of 16, whatever ``do_not_specialize`` says. So the
only integer in a group is one that is always a multiple of 16. Other sizes are arguments of their own, or float32 in the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

F16 = Annotated[Tensor, "*fp16"]
F32 = Annotated[Tensor, "*fp32"]
F64 = Annotated[Tensor, "*fp64"]
U8 = Annotated[Tensor, "*u8"]
I16 = Annotated[Tensor, "*i16"]
I32 = Annotated[Tensor, "*i32"]
I64 = Annotated[Tensor, "*i64"]
Float = Annotated[float, "fp32"]
MultipleOf16 = Annotated[int, "i32:16"]


class Shape(NamedTuple):
    """Voxels of a grid along x, y, z, as float32 (exact below 2^24); kernels read them by ``integers``."""

    x: Float
    y: Float
    z: Float

    @classmethod
    def of(cls, shape: Sequence[int]) -> Shape:
        return cls(*map(float, shape))


@triton.jit
def integers(shape: Shape):  # type: ignore[no-untyped-def]  # Triton reads annotations, and knows no type for this
    """(NX, NY, NZ) int32."""
    return tl.cast(shape.x, tl.int32), tl.cast(shape.y, tl.int32), tl.cast(shape.z, tl.int32)


class SourceImages(NamedTuple):
    """The images of a call as they came (``VoteImages`` but for the words), rows side by side."""

    poses: F32
    R: F64
    t: F64
    K: F64
    size: I32
    box: I32
    start: I64


class Skeleton(NamedTuple):
    """The body's joints.

    joints        (J, 3) float64  in the zero pose, metres
    parents       (J,) int32      -1 for the root
    rest_inverse  (J, 4, 4) float64  A_j(zero -> rest)^-1
    reach         no voxel has a coordinate beyond it, metres
    """

    joints: F64
    parents: I32
    rest_inverse: F64
    reach: Float


class Scratch(NamedTuple):
    """What only the kernels that prepare a pass need.

    chain        (J, 12, C) float64  the joints' frames A_j
    scale        (C,) float32  a power of two that brings the largest entry of an image's matrices into [2^12, 2^13)
    table_start  (C,) int64    first entry of each mask's summed-area tables
    """

    chain: F64
    scale: F32
    table_start: I64


class Images(NamedTuple):
    """The images of a pass.

    lanes          (J, 12, C) float32  rows U, V, Z of K' [R | t] B_j, K' with the fraction of its principal point only; images
                   fastest
    split          (C, J, 3, 8) float16  the same, scaled, for the matrix units: of a row's four entries the high parts, then
                   the low parts
    view           (C, VIEW) int64  where an image's pixels and its mask's bits lie; see ``pixels.VIEW``
    words          int32  all masks' words
    image_weights  (C,) uint8  what an image counts; anything where all count 1
    rows           (C,) int64  which of the call's images lies where
    capacity       C
    """

    lanes: F32
    split: F16
    view: I64
    words: I32
    image_weights: U8
    rows: I64
    capacity: MultipleOf16


class CullingTables(NamedTuple):
    """What culling asks about the images of a pass.

    bound_terms  (BOUND_TERMS, C) float32  of what the bound of a brick's projection is made; see ``prepare.BOUND_TERMS``
    blocks       (BLOCK_ROWS, C) int32     where the mask's blocks lie; see ``prepare.BLOCK_ROWS``
    any_sums     int32  summed-area tables (down + 1, across + 1) of the masks' blocks that are not empty, one after another
    full_sums    int32  the same of the blocks that are full
    """

    bound_terms: F32
    blocks: I32
    any_sums: I32
    full_sums: I32


class BrickArrays(NamedTuple):
    """The field's bricks (see ``chorus.kernels.bricks``) with the joints of each by falling mean weight.

    selected      (N,) int32  the bricks that this launch takes
    first         (B, 3) int32    first voxel
    centre        (B, 3) float32  metres
    joint_offset  (B + 1,) int32  where the joints of each brick begin
    joint         (E,) int32
    mean          (E,) float32    mean skinning weight
    variation     (B,) float32    the most weight that moves between joints from the mean to a voxel
    weight        (E * 64,) float32  the voxels' skinning weights
    shape         of the grid
    spacing       metres between voxels
    """

    selected: I32
    first: I32
    centre: F32
    joint_offset: I32
    joint: I32
    mean: F32
    variation: F32
    weight: F32
    shape: Shape
    spacing: Float


class Packs(NamedTuple):
    """Bricks for the matrix units: four joints a pack.

    joints   (N, 4 packs) int32  joints of each brick's packs, padded with any
    operand  (N, packs, 2, 16, 64) float16  high and low parts of w_j (x, y, z, 1), scaled; 0 in the padding
    number   packs of each brick, as float32
    """

    joints: I32
    operand: F16
    number: Float


class Lists(NamedTuple):
    """Which images each brick must be projected into, segment by segment.

    images    (bricks, 2, C) int16  images, less the segment's first, within the segment's range: ON_MASK from the front and
              BOTH from the back; then INSIDE
    lengths   (bricks, S, 4) int32  of the lists ON_MASK, BOTH, INSIDE; then how many images are settled outside
    segments  (S, 2) int32  first image and number of images of each segment
    groups    (S,) int32
    """

    images: I16
    lengths: I32
    segments: I32
    groups: I32


class BodyCells(NamedTuple):
    """The depth of the posed body in the images of a pass (``chorus.kernels.depth``).

    limit    (C,) float32  near + margin, metres
    scale    (C,) float32  what the matrix units' z is multiplied by to be metres; 1 for the lattice kernel
    cells    (CELL_ROWS, C) int32  how the cells lie; see ``hidden.CELL_ROWS``
    start    (C,) int64  first value of each image
    beyond   int16  millimetres beyond ``near``, unsigned; 65535 where there is no body
    table    (C,) int64  first entry of each image's table
    nearest  int32  the least value of windows of 1, 2, 4 and 8 blocks, window by its first block
    """

    limit: F32
    scale: F32
    cells: I32
    start: I64
    beyond: I16
    table: I64
    nearest: I32


class Counts(NamedTuple):
    """The result: votes on the mask and inside the image, int32 (groups, V) each."""

    num: I32
    den: I32


class Contacts(NamedTuple):
    """Regions of the body and who touches them: bit sets.

    brick_regions  (N,) int32      of any voxel of a brick
    voxel_regions  (N, 64) int32   of each voxel
    touched        int32           of each of the call's images, the result
    """

    brick_regions: I32
    voxel_regions: I32
    touched: I32


class Lattice(NamedTuple):
    """Voxels in space.

    x, y, z  centre of the first voxel, metres
    spacing  metres
    """

    shape: Shape
    x: Float
    y: Float
    z: Float
    spacing: Float


class Tiles(NamedTuple):
    """The vertices of a mesh, sorted in space and cut into T tiles.

    points   (T, 3, TILE) float32  metres; the last tile is filled with vertices far away
    boxes    (6, T) float32  centres and half sides of the tiles' bounding boxes
    weights  (JOINTS, T * TILE) float32  the vertices' skinning weights
    """

    points: F32
    boxes: F32
    weights: F32


class Candidates(NamedTuple):
    """Tiles that can hold one of the k nearest vertices of a voxel of a brick.

    tiles   (N, T) int32
    bounds  (N, T) float32  squared distances of their boxes from the brick's
    length  (N,) int32    how many; 0 where no vertex is within tau of any voxel
    reach   (N,) float32  no less than the k-th distance from the brick's centre
    """

    tiles: I32
    bounds: F32
    length: I32
    reach: F32


class KthDistances(NamedTuple):
    """What decides which vertices are among the k nearest of a voxel.

    square  (N, 64) float32  the k-th smallest squared distance; -1 for voxels outside the lattice and those that no box is near
    share   (N, 64) float32  what each vertex at that distance counts, below 1 where more share it than are wanted
    """

    square: F32
    share: F32


class SkinningWeights(NamedTuple):
    """The result: weights (J, V) float32 and near (V,) uint8, whether a vertex is within tau."""

    weights: F32
    near: U8
