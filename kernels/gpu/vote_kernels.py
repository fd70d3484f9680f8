"""The vote kernels: a brick x a list of images, warp, projection, mask look-up and count in one pass.

``triton_cull`` leaves for every brick and segment (a run of images of one group) three lists of images, of which a program
takes one: ON_MASK, images that surely see the whole brick, which need the mask's bit only; INSIDE, images whose border may cut
it and whose mask it surely misses; BOTH, the others.

- ``vote_lattice``: float32. A brick is a lattice of 4 x 4 x 4: a joint's affine value is computed on (y, z) and stepped in x.
- ``vote_tensor``: matrix instructions. A pack is four joints: (U, V, Z) of 64 images x 64 voxels is the product of the images'
  matrix rows (K = 4 joints x 4) with the brick's operand w_j (x, y, z, 1). Both are split into a sum of two float16, and all
  four partial products are added in float32: row [high, high, .., low, low] times column [w, w]. Rows and operand are scaled by
  powers of two, which U / Z does not see.

Counts are integers, added atomically: the same bits for every split.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from chorus.kernels.gpu.ahead_of_time import TARGETS, Compilation, types_of
from chorus.kernels.gpu.pixels import count_inside, count_on_mask, count_votes

VIEW = 8
"""int64 per image in ``view``: (centre - corner) x, y; blocks' width, height; address of the mask's words less that of the
first; corner x, y; image's width, height; three unused. Pairs: first in the low 32 bits."""
ON_MASK, BOTH, INSIDE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
KINDS = {"on mask": 0, "both": 1, "inside": 2}
LATTICE_IMAGES = 64
"""Images in a tile of the float32 kernel."""
ALIGN = tl.constexpr(16)
"""A segment's first image is a multiple of it, so that neighbours are loaded together; what lies between is no image."""


@dataclass(frozen=True)
class TensorShape:
    """How the matrix kernel is cut for a kind of device.

    images      in a tile
    most_packs  bricks with more packs take the kernel with a loop
    """

    images: int
    num_warps: int
    num_stages: int
    most_packs: int


HOPPER = TensorShape(64, 4, 2, 3)
"""wgmma wants 64 rows; its operands lie in shared memory."""
BLACKWELL = TensorShape(64, 4, 1, 1)
"""Accumulators take 192 of the 512 columns of tensor memory, once more for every pack."""
OTHERS = TensorShape(32, 4, 2, 3)
"""Everything in registers: with 64 rows they would spill."""
SMALL_BLACKWELL = TensorShape(32, 4, 1, 3)
"""The same; here a second stage makes one variant spill."""


def tensor_shape(capability: tuple[int, int] | None) -> TensorShape:
    """The shape for an NVIDIA compute capability; None for other devices."""
    if capability is None:
        return OTHERS
    return {9: HOPPER, 10: BLACKWELL, 12: SMALL_BLACKWELL}.get(capability[0], OTHERS)


@triton.jit
def low(pair):
    return pair.to(tl.int32)


@triton.jit
def high_half(pair):
    return (pair >> 32).to(tl.int32)


@triton.jit
def add_counts(out, counts, voxel_x, voxel_y, voxel_z, NX, NY, NZ):
    """Add to one group's counts, int32 (V,), those of voxels inside the grid."""
    inside = (voxel_x < NX) & (voxel_y < NY) & (voxel_z < NZ) & (counts != 0)
    tl.atomic_add(out + ((voxel_x.to(tl.int64) * NY + voxel_y) * NZ + voxel_z), counts, mask=inside, sem="relaxed")


@triton.jit
def list_of(lists, counts, begins, place, segment, capacity, num_segments, KIND: tl.constexpr):
    """Where the list of a segment at a place of the grid starts, how long it is, and the segment's first image."""
    count = tl.load(counts + (place.to(tl.int64) * num_segments + segment) * 4 + KIND)
    begin = tl.load(begins + segment * 2)
    first = lists + place.to(tl.int64) * 2 * capacity + begin
    if KIND == BOTH:  # filled from the end of the same range
        first += tl.load(begins + segment * 2 + 1) - count
    elif KIND == INSIDE:
        first += capacity
    return first, count, begin


@triton.jit
def _flush(num, den, counts, axis: tl.constexpr, voxel_x, voxel_y, voxel_z, NX, NY, NZ, KIND: tl.constexpr):
    """Add a program's counters, summed over images, to one group's counts."""
    if KIND == ON_MASK:
        add_counts(num, tl.sum(counts, axis), voxel_x, voxel_y, voxel_z, NX, NY, NZ)
    elif KIND == INSIDE:
        add_counts(den, tl.sum(counts, axis), voxel_x, voxel_y, voxel_z, NX, NY, NZ)
    else:
        add_counts(num, tl.sum(counts & 0xFFFF, axis), voxel_x, voxel_y, voxel_z, NX, NY, NZ)
        add_counts(den, tl.sum((counts >> 16) & 0xFFFF, axis), voxel_x, voxel_y, voxel_z, NX, NY, NZ)


@triton.jit
def _add_pack(u, v, z, rows, joints, operand, pack):
    """Homogeneous pixels plus the part of four joints."""
    k = tl.arange(0, 32)
    entry = tl.load(joints + pack * 4 + k // 8) * 24 + k % 8
    m = rows + tl.max_contiguous(tl.multiple_of(entry, 8), 8)[None, :]
    # The entries' low parts meet the same weights as their high parts.
    column = operand + (pack * 32 + (k // 8) * 4 + k % 4)[:, None] * 64 + tl.arange(0, 64)[None, :]
    high = tl.load(column)
    low = tl.load(column + 16 * 64)
    row = tl.load(m)
    u = tl.dot(row, low, tl.dot(row, high, u))
    row = tl.load(m + 8)
    v = tl.dot(row, low, tl.dot(row, high, v))
    row = tl.load(m + 16)
    z = tl.dot(row, low, tl.dot(row, high, z))
    return u, v, z


@triton.jit(do_not_specialize=["J", "num_segments", "num_packs", "NX", "NY", "NZ"])
def vote_tensor(
    split,
    view,
    words,
    weights,
    lists,
    counts,
    bricks,
    firsts,
    joints,
    operand,
    begins,
    groups,
    num,
    den,
    capacity,
    J,
    num_segments,
    num_packs,
    NX,
    NY,
    NZ,
    PACKS: tl.constexpr,
    KIND: tl.constexpr,
    WEIGHTED: tl.constexpr,
    IMAGES: tl.constexpr,
    PTX: tl.constexpr,
):
    """Votes of the bricks with PACKS packs (with ``num_packs``, where PACKS is 0), by matrix instructions.

    split    (C, J, 3, 8) float16  rows U, V, Z of an image's matrices: four entries' high parts, then their low parts
    bricks   (B,) int32  indices of these bricks; firsts (all bricks, 3) int32
    joints   (B, 4 packs) int32  joints of their packs, padded with any
    operand  (B, packs, 2, 16, 64) float16  high and low parts of w_j (x, y, z, 1), scaled; 0 in the padding
    Grid (B, segments).
    """
    row = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(1)
    brick = tl.load(bricks + row)
    mine, count, begin = list_of(lists, counts, begins, brick, segment, capacity, num_segments, KIND)
    if count == 0:
        return
    lane = tl.arange(0, IMAGES)
    voxel = tl.arange(0, 64)
    acc = tl.zeros([IMAGES, 64], tl.int32)
    for at in range(0, count, IMAGES):
        valid = at + lane < count
        image = begin + tl.load(mine + at + lane, mask=valid, other=0).to(tl.int32)
        u = tl.zeros([IMAGES, 64], tl.float32)
        v = tl.zeros([IMAGES, 64], tl.float32)
        z = tl.zeros([IMAGES, 64], tl.float32)
        rows = split + image.to(tl.int64)[:, None] * (J * 24)
        if PACKS > 0:
            for p in tl.static_range(PACKS):
                u, v, z = _add_pack(u, v, z, rows, joints, operand, row * PACKS + p)
        else:
            for p in range(num_packs):
                u, v, z = _add_pack(u, v, z, rows, joints, operand, row * num_packs + p)
        see = view + image.to(tl.int64) * 8
        weight = tl.load(weights + image, mask=valid, other=0).to(tl.int32)[:, None] if WEIGHTED else 1
        shift = tl.load(see)
        bx, by = low(shift)[:, None], high_half(shift)[:, None]
        if KIND != ON_MASK:
            corner = tl.load(see + 3)
            size = tl.load(see + 4, mask=valid, other=0)
            x0, y0 = low(corner)[:, None], high_half(corner)[:, None]
            width, height = low(size)[:, None], high_half(size)[:, None]
        if KIND != INSIDE:
            blocks = tl.load(see + 1, mask=valid, other=0)
            mask = (words + tl.load(see + 2)).to(tl.int64)[:, None]
            wide, high = low(blocks)[:, None], high_half(blocks)[:, None]
        if KIND == ON_MASK:
            acc = count_on_mask(acc, u, v, z, bx, by, wide, high, mask, weight, WEIGHTED, PTX)
        elif KIND == INSIDE:
            acc = count_inside(acc, u, v, z, bx + x0, by + y0, width, height, weight, PTX)
        else:
            acc = count_votes(acc, u, v, z, bx, by, wide, high, mask, weight, x0, y0, width, height, WEIGHTED, PTX)
    group = tl.load(groups + segment).to(tl.int64) * NX * NY * NZ
    x = tl.load(firsts + brick * 3) + voxel // 16
    y = tl.load(firsts + brick * 3 + 1) + voxel // 4 % 4
    z_ = tl.load(firsts + brick * 3 + 2) + voxel % 4
    _flush(num + group, den + group, acc, 0, x, y, z_, NX, NY, NZ, KIND)


@triton.jit
def _lattice_row(a0, a1, a2, a3, m, weight, cx, cy, cz, dy, dz, spacing, capacity, ONE_JOINT: tl.constexpr):
    """One row (U, V or Z) of a brick's voxels at its four x, plus one joint's part; ``m`` points at the images' first entry.

    Every operation is written as it is to be done (and compiled with ``enable_fp_fusion=False``): what an image counts must not
    depend on the list that culling put it in, which other code may read.
    """
    mx = tl.load(m)
    my = tl.load(m + capacity)
    mz = tl.load(m + 2 * capacity)
    centre = tl.fma(mx, cx, tl.fma(my, cy, tl.fma(mz, cz, tl.load(m + 3 * capacity))))
    base = tl.fma(my[None, :], dy[:, None], tl.fma(mz[None, :], dz[:, None], centre[None, :]))
    b0 = tl.fma(mx[None, :], -1.5 * spacing, base)
    b1 = tl.fma(mx[None, :], -0.5 * spacing, base)
    b2 = tl.fma(mx[None, :], 0.5 * spacing, base)
    b3 = tl.fma(mx[None, :], 1.5 * spacing, base)
    if ONE_JOINT:  # the weight is 1
        a0, a1, a2, a3 = b0, b1, b2, b3
    else:
        a0 = tl.fma(tl.load(weight)[:, None], b0, a0)
        a1 = tl.fma(tl.load(weight + 16)[:, None], b1, a1)
        a2 = tl.fma(tl.load(weight + 32)[:, None], b2, a2)
        a3 = tl.fma(tl.load(weight + 48)[:, None], b3, a3)
    return a0, a1, a2, a3


@triton.jit
def lattice_tile(
    lanes, joint, weight, image, e0, e1, cx, cy, cz, dy, dz, spacing, capacity, ONE_JOINT: tl.constexpr, IMAGES: tl.constexpr
):
    """U, V and Z, each at the four x, of a brick's 16 (y, z) x IMAGES; ``weight`` points at its first joint's."""
    zero = tl.zeros([16, IMAGES], tl.float32)
    u0, u1, u2, u3 = zero, zero, zero, zero
    v0, v1, v2, v3 = zero, zero, zero, zero
    z0, z1, z2, z3 = zero, zero, zero, zero
    if ONE_JOINT:
        m = lanes + tl.load(joint + e0).to(tl.int64) * 12 * capacity + image
        u0, u1, u2, u3 = _lattice_row(u0, u1, u2, u3, m, weight, cx, cy, cz, dy, dz, spacing, capacity, True)
        m += 4 * capacity
        v0, v1, v2, v3 = _lattice_row(v0, v1, v2, v3, m, weight, cx, cy, cz, dy, dz, spacing, capacity, True)
        m += 4 * capacity
        z0, z1, z2, z3 = _lattice_row(z0, z1, z2, z3, m, weight, cx, cy, cz, dy, dz, spacing, capacity, True)
    else:
        for e in range(e0, e1):
            m = lanes + tl.load(joint + e).to(tl.int64) * 12 * capacity + image
            w = weight + (e - e0) * 64
            u0, u1, u2, u3 = _lattice_row(u0, u1, u2, u3, m, w, cx, cy, cz, dy, dz, spacing, capacity, False)
            m += 4 * capacity
            v0, v1, v2, v3 = _lattice_row(v0, v1, v2, v3, m, w, cx, cy, cz, dy, dz, spacing, capacity, False)
            m += 4 * capacity
            z0, z1, z2, z3 = _lattice_row(z0, z1, z2, z3, m, w, cx, cy, cz, dy, dz, spacing, capacity, False)
    return u0, u1, u2, u3, v0, v1, v2, v3, z0, z1, z2, z3


@triton.jit(do_not_specialize=["num_segments", "NX", "NY", "NZ"])
def vote_lattice(
    lanes,
    view,
    words,
    weights,
    lists,
    counts,
    bricks,
    firsts,
    centres,
    joint_offset,
    joint,
    voxel_weight,
    begins,
    groups,
    num,
    den,
    capacity,
    num_segments,
    NX,
    NY,
    NZ,
    spacing,
    ONE_JOINT: tl.constexpr,
    KIND: tl.constexpr,
    WEIGHTED: tl.constexpr,
    IMAGES: tl.constexpr,
    PTX: tl.constexpr,
):
    """Votes of bricks with one joint (ONE_JOINT) or any number, in float32.

    lanes         (J, 12, C) float32  rows U, V, Z of the images' matrices, images fastest
    bricks        (B,) int32  indices of these bricks; the arrays of all bricks are those of ``chorus.kernels.bricks``
    voxel_weight  (E * 64,) float32
    Grid (B, segments).
    """
    segment = tl.program_id(1)
    brick = tl.load(bricks + tl.program_id(0))
    mine, count, begin = list_of(lists, counts, begins, brick, segment, capacity, num_segments, KIND)
    if count == 0:
        return
    lane = tl.arange(0, IMAGES)
    yz = tl.arange(0, 16)
    dy = ((yz // 4).to(tl.float32) - 1.5) * spacing
    dz = ((yz % 4).to(tl.float32) - 1.5) * spacing
    cx = tl.load(centres + brick * 3)
    cy = tl.load(centres + brick * 3 + 1)
    cz = tl.load(centres + brick * 3 + 2)
    e0 = tl.load(joint_offset + brick)
    e1 = tl.load(joint_offset + brick + 1)
    weights_here = voxel_weight + e0.to(tl.int64) * 64 + yz
    n0 = tl.zeros([16, IMAGES], tl.int32)
    n1, n2, n3 = n0, n0, n0
    for at in range(0, count, IMAGES):
        valid = at + lane < count
        image = begin + tl.load(mine + at + lane, mask=valid, other=0).to(tl.int32)
        u0, u1, u2, u3, v0, v1, v2, v3, z0, z1, z2, z3 = lattice_tile(
            lanes, joint, weights_here, image, e0, e1, cx, cy, cz, dy, dz, spacing, capacity, ONE_JOINT, IMAGES
        )
        see = view + image.to(tl.int64) * 8
        weight = tl.load(weights + image, mask=valid, other=0).to(tl.int32)[None, :] if WEIGHTED else 1
        shift = tl.load(see)
        bx, by = low(shift)[None, :], high_half(shift)[None, :]
        if KIND != ON_MASK:
            corner = tl.load(see + 3)
            size = tl.load(see + 4, mask=valid, other=0)
            x0, y0 = low(corner)[None, :], high_half(corner)[None, :]
            width, height = low(size)[None, :], high_half(size)[None, :]
        if KIND != INSIDE:
            blocks = tl.load(see + 1, mask=valid, other=0)
            mask = (words + tl.load(see + 2)).to(tl.int64)[None, :]
            wide, high = low(blocks)[None, :], high_half(blocks)[None, :]
        if KIND == ON_MASK:
            n0 = count_on_mask(n0, u0, v0, z0, bx, by, wide, high, mask, weight, WEIGHTED, PTX)
            n1 = count_on_mask(n1, u1, v1, z1, bx, by, wide, high, mask, weight, WEIGHTED, PTX)
            n2 = count_on_mask(n2, u2, v2, z2, bx, by, wide, high, mask, weight, WEIGHTED, PTX)
            n3 = count_on_mask(n3, u3, v3, z3, bx, by, wide, high, mask, weight, WEIGHTED, PTX)
        elif KIND == INSIDE:
            cx_, cy_ = bx + x0, by + y0
            n0 = count_inside(n0, u0, v0, z0, cx_, cy_, width, height, weight, PTX)
            n1 = count_inside(n1, u1, v1, z1, cx_, cy_, width, height, weight, PTX)
            n2 = count_inside(n2, u2, v2, z2, cx_, cy_, width, height, weight, PTX)
            n3 = count_inside(n3, u3, v3, z3, cx_, cy_, width, height, weight, PTX)
        else:
            n0 = count_votes(n0, u0, v0, z0, bx, by, wide, high, mask, weight, x0, y0, width, height, WEIGHTED, PTX)
            n1 = count_votes(n1, u1, v1, z1, bx, by, wide, high, mask, weight, x0, y0, width, height, WEIGHTED, PTX)
            n2 = count_votes(n2, u2, v2, z2, bx, by, wide, high, mask, weight, x0, y0, width, height, WEIGHTED, PTX)
            n3 = count_votes(n3, u3, v3, z3, bx, by, wide, high, mask, weight, x0, y0, width, height, WEIGHTED, PTX)
    group = tl.load(groups + segment).to(tl.int64) * NX * NY * NZ
    x = tl.load(firsts + brick * 3)
    y = tl.load(firsts + brick * 3 + 1) + yz // 4
    z = tl.load(firsts + brick * 3 + 2) + yz % 4
    _flush(num + group, den + group, n0, 1, x, y, z, NX, NY, NZ, KIND)
    _flush(num + group, den + group, n1, 1, x + 1, y, z, NX, NY, NZ, KIND)
    _flush(num + group, den + group, n2, 1, x + 2, y, z, NX, NY, NZ, KIND)
    _flush(num + group, den + group, n3, 1, x + 3, y, z, NX, NY, NZ, KIND)


def compilations() -> list[Compilation]:
    """Both kernels, every variant in use."""
    pointers = types_of(
        """
        *i64: view
        *i32: words counts bricks firsts begins groups num den
        *u8: weights
        *i16: lists
        """
    )
    numbers = types_of(
        """
        i32: capacity num_segments NX NY NZ
        """
    )
    tensor = dict(pointers, split="*fp16", joints="*i32", operand="*fp16")
    lattice = dict(pointers, lanes="*fp32", centres="*fp32", joint_offset="*i32", joint="*i32", voxel_weight="*fp32")
    shapes = (
        (HOPPER, frozenset({"sm_90"})),
        (BLACKWELL, frozenset({"sm_100"})),
        (SMALL_BLACKWELL, frozenset({"sm_120"})),
        (OTHERS, frozenset(TARGETS) - {"sm_90", "sm_100", "sm_120"}),
    )
    found = []
    for kind, number in KINDS.items():
        for weighted in (False, True):
            flags = {"KIND": number, "WEIGHTED": weighted, "PTX": True}
            tail = f",{kind}" + ",weighted" * weighted
            for shape, targets in shapes:
                found += [
                    Compilation(
                        f"vote_tensor[packs={packs or 'n'}{tail}]",
                        vote_tensor,
                        dict(tensor, **numbers, J="i32", num_packs="i32"),
                        dict(flags, PACKS=packs, IMAGES=shape.images),
                        shape.num_warps,
                        shape.num_stages,
                        frozenset(tensor) | {"capacity"},
                        shape.images * 64,
                        targets,
                        False,
                    )
                    for packs in (0, *range(1, shape.most_packs + 1))
                ]
            found += [
                Compilation(
                    f"vote_lattice[{'one joint' if one else 'joints'}{tail}]",
                    vote_lattice,
                    dict(lattice, **numbers, spacing="fp32"),
                    dict(flags, ONE_JOINT=one, IMAGES=LATTICE_IMAGES),
                    4,
                    1,
                    frozenset(lattice) | {"capacity"},
                    LATTICE_IMAGES * 64,
                    None,
                    False,
                )
                for one in (True, False)
            ]
    return found
