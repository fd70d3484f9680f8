"""The vote kernels: a brick x a list of images, warp, projection, mask look-up and count in one pass.

``culling`` leaves for every brick and segment (a run of images of one group) three lists of images, of which a program
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
from typing import Any, NamedTuple

import triton
import triton.language as tl

from chorus.kernels.gpu.ahead_of_time import TARGETS, Compilation, Types
from chorus.kernels.gpu.arguments import BodyCells, BrickArrays, Counts, Images, Lists, Packs, integers
from chorus.kernels.gpu.pixels import BOTH, HIDDEN, INSIDE, KINDS, ON_MASK, View, count, count_hidden, load_shield, load_view

LATTICE_IMAGES = 64
"""Images in a tile of the float32 kernel."""
ALIGN = tl.constexpr(16)
"""A segment's first image is a multiple of it, so that images are loaded side by side; what lies between is no image."""


@dataclass(frozen=True)
class TensorShape:
    """How the matrix kernel is cut for a kind of device.

    images       in a tile
    most_packs   bricks with more packs take the kernel with a loop
    most_hidden  the same for hidden votes, which need more registers
    """

    images: int
    num_warps: int
    num_stages: int
    most_packs: int
    most_hidden: int

    def unrolled(self, kind: int) -> int:
        """Most packs of a kernel without a loop, by what is asked (``pixels.KINDS`` or HIDDEN)."""
        return self.most_hidden if kind == HIDDEN.value else self.most_packs


HOPPER = TensorShape(64, 4, 2, 3, 3)
"""wgmma wants 64 rows; its operands lie in shared memory."""
BLACKWELL = TensorShape(64, 4, 1, 1, 1)
"""Accumulators take 192 of the 512 columns of tensor memory, once more for every pack."""
OTHERS = TensorShape(32, 4, 2, 3, 3)
"""Everything in registers: with 64 rows they would spill."""
SMALL_BLACKWELL = TensorShape(32, 4, 1, 3, 1)
"""The same; here a second stage makes one variant spill."""


def tensor_shape(capability: tuple[int, int] | None) -> TensorShape:
    """The shape for an NVIDIA compute capability; None for other devices."""
    if capability is None:
        return OTHERS
    return {9: HOPPER, 10: BLACKWELL, 12: SMALL_BLACKWELL}.get(capability[0], OTHERS)


@triton.jit
def first_voxel(bricks: BrickArrays, brick):
    """(x, y, z) of a brick's first voxel."""
    first = bricks.first + brick * 3
    return tl.load(first), tl.load(first + 1), tl.load(first + 2)


@triton.jit
def add_counts(out, counts, voxel, shape):
    """Add to one group's counts, int32 (V,), those of the voxels (x, y, z) that lie inside the grid."""
    x, y, z = voxel
    inside = (x < shape[0]) & (y < shape[1]) & (z < shape[2]) & (counts != 0)
    tl.atomic_add(out + ((x.to(tl.int64) * shape[1] + y) * shape[2] + z), counts, mask=inside, sem="relaxed")


@triton.jit
def of_group(counts: Counts, lists: Lists, segment, shape):
    """The counts of a segment's group."""
    first = tl.load(lists.groups + segment).to(tl.int64) * shape[0] * shape[1] * shape[2]
    return Counts(counts.num + first, counts.den + first)


@triton.jit
def list_of(lists: Lists, place, segment, capacity, KIND: tl.constexpr):
    """Where the list of a segment at a place of the grid starts, how long it is, and the segment's first image."""
    slot: tl.constexpr = 0 if KIND == HIDDEN else KIND
    length = tl.load(lists.lengths + (place.to(tl.int64) * tl.num_programs(1) + segment) * 4 + slot)
    begin = tl.load(lists.segments + segment * 2)
    first = lists.images + place.to(tl.int64) * 2 * capacity + begin
    if KIND == BOTH:  # filled from the end of the same range
        first += tl.load(lists.segments + segment * 2 + 1) - length
    elif KIND == INSIDE:
        first += capacity
    return first, length, begin


@triton.jit
def _flush(counts: Counts, counters, AXIS: tl.constexpr, voxel, shape, KIND: tl.constexpr):
    """Add a program's counters, summed over images, to one group's counts."""
    if KIND == ON_MASK:
        add_counts(counts.num, tl.sum(counters, AXIS), voxel, shape)
    elif KIND == INSIDE:
        add_counts(counts.den, tl.sum(counters, AXIS), voxel, shape)
    else:
        add_counts(counts.num, tl.sum(counters & 0xFFFF, AXIS), voxel, shape)
        add_counts(counts.den, tl.sum((counters >> 16) & 0xFFFF, AXIS), voxel, shape)


@triton.jit
def _add_pack(u, v, z, rows, packs: Packs, pack):
    """Homogeneous pixels plus the part of four joints."""
    k = tl.arange(0, 32)
    entry = tl.load(packs.joints + pack * 4 + k // 8) * 24 + k % 8
    m = rows + tl.max_contiguous(tl.multiple_of(entry, 8), 8)[None, :]
    # The entries' low parts meet the same weights as their high parts.
    column = packs.operand + (pack * 32 + (k // 8) * 4 + k % 4)[:, None] * 64 + tl.arange(0, 64)[None, :]
    high = tl.load(column)
    low = tl.load(column + 16 * 64)
    row = tl.load(m)
    u = tl.dot(row, low, tl.dot(row, high, u))
    row = tl.load(m + 8)
    v = tl.dot(row, low, tl.dot(row, high, v))
    row = tl.load(m + 16)
    z = tl.dot(row, low, tl.dot(row, high, z))
    return u, v, z


@triton.jit(do_not_specialize=["J"])
def vote_tensor(
    images: Images,
    bricks: BrickArrays,
    packs: Packs,
    lists: Lists,
    counts: Counts,
    body: BodyCells,
    J,
    PACKS: tl.constexpr,
    KIND: tl.constexpr,
    WEIGHTED: tl.constexpr,
    IMAGES: tl.constexpr,
    PTX: tl.constexpr,
):
    """Votes of the bricks with PACKS packs (with ``packs.number``, where PACKS is 0), by matrix instructions.

    Adds to ``counts`` what the lists KIND say; ``body`` is read for HIDDEN alone. Grid (N, S), a program a brick of
    ``bricks.selected`` and a segment.
    """
    row = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(1)
    brick = tl.load(bricks.selected + row)
    mine, length, begin = list_of(lists, brick, segment, images.capacity, KIND)
    if length == 0:
        return
    lane = tl.arange(0, IMAGES)
    voxel = tl.arange(0, 64)
    counters = tl.zeros([IMAGES, 64], tl.int32)
    for at in range(0, length, IMAGES):
        valid = at + lane < length
        image = begin + tl.load(mine + at + lane, mask=valid, other=0).to(tl.int32)
        u = tl.zeros([IMAGES, 64], tl.float32)
        v = tl.zeros([IMAGES, 64], tl.float32)
        z = tl.zeros([IMAGES, 64], tl.float32)
        rows = images.split + image.to(tl.int64)[:, None] * (J * 24)
        if PACKS > 0:
            for p in tl.static_range(PACKS):
                u, v, z = _add_pack(u, v, z, rows, packs, row * PACKS + p)
        else:
            num_packs = tl.cast(packs.number, tl.int32)
            for p in range(num_packs):
                u, v, z = _add_pack(u, v, z, rows, packs, row * num_packs + p)
        view = load_view(images, image, valid, 1, KIND, WEIGHTED)
        if KIND == HIDDEN:
            shield = load_shield(body, images.capacity, image, 1)
            counters = count_hidden(counters, u, v, z, view, shield, WEIGHTED, PTX)
        else:
            counters = count(counters, u, v, z, view, KIND, WEIGHTED, PTX)
    shape = integers(bricks.shape)
    x, y, z = first_voxel(bricks, brick)
    voxels = (x + voxel // 16, y + voxel // 4 % 4, z + voxel % 4)
    _flush(of_group(counts, lists, segment, shape), counters, 0, voxels, shape, KIND)


class BrickLattice(NamedTuple):
    """A brick as ``vote_lattice`` steps through it: 16 (y, z), and four x.

    x, y, z  its centre, metres         dy, dz  (16,) from there to the voxels, metres       spacing  metres
    begin, end  its joints are those of the entries begin .. end - 1
    weight   (16,) pointers to the skinning weights of its first joint, at the first x
    """

    x: Any
    y: Any
    z: Any
    dy: Any
    dz: Any
    spacing: Any
    begin: Any
    end: Any
    weight: Any


@triton.jit
def load_lattice(bricks: BrickArrays, brick):
    """The ``BrickLattice`` of a brick."""
    yz = tl.arange(0, 16)
    dy = ((yz // 4).to(tl.float32) - 1.5) * bricks.spacing
    dz = ((yz % 4).to(tl.float32) - 1.5) * bricks.spacing
    x = tl.load(bricks.centre + brick * 3)
    y = tl.load(bricks.centre + brick * 3 + 1)
    z = tl.load(bricks.centre + brick * 3 + 2)
    begin = tl.load(bricks.joint_offset + brick)
    end = tl.load(bricks.joint_offset + brick + 1)
    weight = bricks.weight + begin.to(tl.int64) * 64 + yz
    return BrickLattice(x, y, z, dy, dz, bricks.spacing, begin, end, weight)


@triton.jit
def _add_row(row, m, weight, lattice: BrickLattice, capacity, ONE_JOINT: tl.constexpr):
    """One row (U, V or Z) of a brick's voxels at its four x, plus one joint's part; ``m`` points at the images' first entry.

    Every operation is written as it is to be done (and compiled with ``enable_fp_fusion=False``): what an image counts must not
    depend on the list that culling put it in, which other code may read.
    """
    mx = tl.load(m)
    my = tl.load(m + capacity)
    mz = tl.load(m + 2 * capacity)
    centre = tl.fma(mx, lattice.x, tl.fma(my, lattice.y, tl.fma(mz, lattice.z, tl.load(m + 3 * capacity))))
    base = tl.fma(my[None, :], lattice.dy[:, None], tl.fma(mz[None, :], lattice.dz[:, None], centre[None, :]))
    b0 = tl.fma(mx[None, :], -1.5 * lattice.spacing, base)
    b1 = tl.fma(mx[None, :], -0.5 * lattice.spacing, base)
    b2 = tl.fma(mx[None, :], 0.5 * lattice.spacing, base)
    b3 = tl.fma(mx[None, :], 1.5 * lattice.spacing, base)
    if not ONE_JOINT:  # of whom the weight is 1
        a0, a1, a2, a3 = row
        b0 = tl.fma(tl.load(weight)[:, None], b0, a0)
        b1 = tl.fma(tl.load(weight + 16)[:, None], b1, a1)
        b2 = tl.fma(tl.load(weight + 32)[:, None], b2, a2)
        b3 = tl.fma(tl.load(weight + 48)[:, None], b3, a3)
    return b0, b1, b2, b3


@triton.jit
def lattice_tile(images: Images, bricks: BrickArrays, lattice: BrickLattice, image, ONE_JOINT: tl.constexpr):
    """(U, V, Z), each at the four x, of a brick's 16 (y, z) x the images."""
    zero = tl.zeros([16, image.shape[0]], tl.float32)
    u = (zero, zero, zero, zero)
    v = (zero, zero, zero, zero)
    z = (zero, zero, zero, zero)
    capacity = images.capacity
    if ONE_JOINT:
        m = images.lanes + tl.load(bricks.joint + lattice.begin).to(tl.int64) * 12 * capacity + image
        u = _add_row(u, m, lattice.weight, lattice, capacity, True)
        v = _add_row(v, m + 4 * capacity, lattice.weight, lattice, capacity, True)
        z = _add_row(z, m + 8 * capacity, lattice.weight, lattice, capacity, True)
    else:
        for e in range(lattice.begin, lattice.end):
            m = images.lanes + tl.load(bricks.joint + e).to(tl.int64) * 12 * capacity + image
            weight = lattice.weight + (e - lattice.begin) * 64
            u = _add_row(u, m, weight, lattice, capacity, False)
            m += 4 * capacity
            v = _add_row(v, m, weight, lattice, capacity, False)
            m += 4 * capacity
            z = _add_row(z, m, weight, lattice, capacity, False)
    return u, v, z


@triton.jit
def count_lattice(counters, u, v, z, view: View, KIND: tl.constexpr, WEIGHTED: tl.constexpr, PTX: tl.constexpr):
    """``pixels.count`` of a ``lattice_tile``: the counters at the four x."""
    n0, n1, n2, n3 = counters
    n0 = count(n0, u[0], v[0], z[0], view, KIND, WEIGHTED, PTX)
    n1 = count(n1, u[1], v[1], z[1], view, KIND, WEIGHTED, PTX)
    n2 = count(n2, u[2], v[2], z[2], view, KIND, WEIGHTED, PTX)
    n3 = count(n3, u[3], v[3], z[3], view, KIND, WEIGHTED, PTX)
    return n0, n1, n2, n3


@triton.jit
def vote_lattice(
    images: Images,
    bricks: BrickArrays,
    lists: Lists,
    counts: Counts,
    body: BodyCells,
    ONE_JOINT: tl.constexpr,
    KIND: tl.constexpr,
    WEIGHTED: tl.constexpr,
    IMAGES: tl.constexpr,
    PTX: tl.constexpr,
):
    """Votes of bricks with one joint (ONE_JOINT) or any number, in float32.

    Adds to ``counts`` what the lists KIND say; ``body`` is read for HIDDEN alone. Grid (N, S), a program a brick of
    ``bricks.selected`` and a segment.
    """
    segment = tl.program_id(1)
    brick = tl.load(bricks.selected + tl.program_id(0))
    mine, length, begin = list_of(lists, brick, segment, images.capacity, KIND)
    if length == 0:
        return
    lane = tl.arange(0, IMAGES)
    lattice = load_lattice(bricks, brick)
    zero = tl.zeros([16, IMAGES], tl.int32)
    counters = (zero, zero, zero, zero)
    for at in range(0, length, IMAGES):
        valid = at + lane < length
        image = begin + tl.load(mine + at + lane, mask=valid, other=0).to(tl.int32)
        u, v, z = lattice_tile(images, bricks, lattice, image, ONE_JOINT)
        view = load_view(images, image, valid, 0, KIND, WEIGHTED)
        if KIND == HIDDEN:
            shield = load_shield(body, images.capacity, image, 0)
            n0, n1, n2, n3 = counters
            n0 = count_hidden(n0, u[0], v[0], z[0], view, shield, WEIGHTED, PTX)
            n1 = count_hidden(n1, u[1], v[1], z[1], view, shield, WEIGHTED, PTX)
            n2 = count_hidden(n2, u[2], v[2], z[2], view, shield, WEIGHTED, PTX)
            n3 = count_hidden(n3, u[3], v[3], z[3], view, shield, WEIGHTED, PTX)
            counters = (n0, n1, n2, n3)
        else:
            counters = count_lattice(counters, u, v, z, view, KIND, WEIGHTED, PTX)
    shape = integers(bricks.shape)
    counts = of_group(counts, lists, segment, shape)
    x, y, z = first_voxel(bricks, brick)
    yz = tl.arange(0, 16)
    y, z = y + yz // 4, z + yz % 4
    _flush(counts, counters[0], 1, (x, y, z), shape, KIND)
    _flush(counts, counters[1], 1, (x + 1, y, z), shape, KIND)
    _flush(counts, counters[2], 1, (x + 2, y, z), shape, KIND)
    _flush(counts, counters[3], 1, (x + 3, y, z), shape, KIND)


def compilations() -> list[Compilation]:
    """Both kernels, every variant in use."""
    lattice: Types = {"images": Images, "bricks": BrickArrays, "lists": Lists, "counts": Counts, "body": BodyCells}
    tensor: Types = {**lattice, "packs": Packs, "J": "i32"}
    shapes = (
        (HOPPER, frozenset({"sm_90"})),
        (BLACKWELL, frozenset({"sm_100"})),
        (SMALL_BLACKWELL, frozenset({"sm_120"})),
        (OTHERS, frozenset(TARGETS) - {"sm_90", "sm_100", "sm_120"}),
    )
    found = []
    for kind, number in (KINDS | {"hidden": HIDDEN.value}).items():
        for weighted in (False, True):
            flags = {"KIND": number, "WEIGHTED": weighted, "PTX": True}
            tail = f",{kind}" + ",weighted" * weighted
            for shape, targets in shapes:
                found += [
                    Compilation(
                        f"vote_tensor[packs={packs or 'n'}{tail}]",
                        vote_tensor,
                        tensor,
                        {**flags, "PACKS": packs, "IMAGES": shape.images},
                        shape.num_warps,
                        shape.num_stages,
                        votes=shape.images * 64,
                        targets=targets,
                        fusion=False,
                    )
                    for packs in (0, *range(1, shape.unrolled(number) + 1))
                ]
            found += [
                Compilation(
                    f"vote_lattice[{'one joint' if one else 'joints'}{tail}]",
                    vote_lattice,
                    lattice,
                    {**flags, "ONE_JOINT": one, "IMAGES": LATTICE_IMAGES},
                    num_warps=4,
                    num_stages=1,
                    votes=LATTICE_IMAGES * 64,
                    fusion=False,
                )
                for one in (True, False)
            ]
    return found
