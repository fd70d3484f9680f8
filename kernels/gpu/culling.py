"""Which images a brick must be projected into: everything else is settled here, brick by brick, exactly.

The bound is that of ``cpu.vote_loops`` with a ball for the brick (a lane an image, one pass over the brick's joints). With mean
weights m_j, brick centre c, D_j = U_j(c) - u Z_j(c) for a reference pixel u, and k = sum_j m_j D_j / sum_j m_j Z_j the distance
from it to where the blended centre falls, the voxels lie within

    [ r a + S + error ] / (least Z)
    a^2 = max_j |row U_j|^2 + 2 |u + k| max_j |row U_j . row Z_j| + (u + k)^2 max_j |row Z_j|^2
    S = min( t (range D + |k| range Z),  max D - mean D + |k| range Z )

of it, r being half the brick's diagonal and t the most weight that moves between joints from the mean to a voxel; the other
side likewise. Dilated by a pixel. Images that surely see all of the brick, off the mask or on full blocks of it, are counted
here for all its voxels; images that surely do not see it are dropped; the rest go to three lists (``vote_kernels``).
A brick with one joint has the exact reach h (|x| + |y| + |z|) of row U - (u + k) row Z instead of r a, h being half its side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from chorus.kernels.gpu.ahead_of_time import TARGETS, Compilation, Types
from chorus.kernels.gpu.arguments import BrickArrays, Contacts, Counts, CullingTables, Images, Lists, integers
from chorus.kernels.gpu.vote_kernels import ALIGN, add_counts, first_voxel, of_group

MOST_IMAGES = 128


def images_at_a_time(capability: tuple[int, int] | None) -> int:
    """Images that a program, which is one warp, looks at together; None for what is no NVIDIA device.

    Devices with 48 warps a multiprocessor give a program fewer registers, and four images a lane would spill.
    """
    return MOST_IMAGES if capability is None or (capability[1] == 0 and capability[0] < 12) else 64


MIN_DEPTH = tl.constexpr(0.02)
"""Bricks that come nearer to the camera plane than this (metres) are never settled."""


class Brick(NamedTuple):
    """A brick as culling sees it.

    x, y, z    its centre, metres        begin, end  its joints are those of the entries begin .. end - 1
    variation  t above                   spacing     between voxels, metres
    """

    x: Any
    y: Any
    z: Any
    begin: Any
    end: Any
    variation: Any
    spacing: Any


class Blend(NamedTuple):
    """Over a brick's joints, for each image: blended, least and largest D (for u and for v) and Z of its centre.

    u, v  the reference pixel, relative to the image's integer centre
    """

    u: Any
    v: Any
    mean_u: Any
    mean_v: Any
    mean_z: Any
    low_u: Any
    low_v: Any
    low_z: Any
    top_u: Any
    top_v: Any
    top_z: Any


class Rectangle(NamedTuple):
    """Pixels u0 .. u1, v0 .. v1 that hold all projections of a brick's voxels, for each image.

    known     whether they do; what is not known has any numbers
    farthest  no voxel is farther in front of the camera, metres
    """

    u0: Any
    u1: Any
    v0: Any
    v1: Any
    known: Any
    farthest: Any


class Verdict(NamedTuple):
    """What a rectangle settles, for each image: masks.

    outside   the whole brick is outside the image, or behind the camera
    inside    the whole brick is inside the image
    touching  some of it may be on the mask
    known     whether there was a rectangle
    on        all of it is on the mask
    """

    outside: Any
    inside: Any
    touching: Any
    known: Any
    on: Any


@triton.jit
def cull_bricks(
    images: Images,
    tables: CullingTables,
    bricks: BrickArrays,
    lists: Lists,
    counts: Counts,
    contacts: Contacts,
    CULL: tl.constexpr,
    WEIGHTED: tl.constexpr,
    CONTACTS: tl.constexpr,
    IMAGES: tl.constexpr,
):
    """Fill the lists of the bricks ``bricks.selected`` in a segment, and count what needs no list. Grid (N, S).

    ``lists`` are by place in ``bricks.selected``. CULL false: every image goes to the list BOTH.
    CONTACTS: nothing is counted; images settled on full blocks touch the brick's regions, those that may meet the mask go to
    BOTH, and the rest to no list.
    """
    place = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(1)
    index = tl.load(bricks.selected + place)
    begin = tl.multiple_of(tl.load(lists.segments + segment * 2), ALIGN)
    length = tl.load(lists.segments + segment * 2 + 1)
    mine = lists.images + place * 2 * images.capacity + begin
    lane = tl.arange(0, IMAGES)
    brick = load_brick(bricks, index)
    lengths = (0, 0, 0)
    num_outside, num_all, den_all = 0, 0, 0
    for at in range(0, length, IMAGES):
        valid = at + lane < length
        image = begin + at + lane
        on_mask, both, inside_only = valid & (lane < 0), valid, valid & (lane < 0)
        if CULL:
            verdict = _judge(images, tables, bricks, brick, image, valid)
            if CONTACTS:
                to = contacts.touched + tl.load(images.rows + image, mask=verdict.on, other=0)
                tl.atomic_or(to, tl.load(contacts.brick_regions + place), mask=verdict.on, sem="relaxed")
            else:
                if WEIGHTED:
                    votes = tl.load(images.image_weights + image, mask=verdict.inside, other=0).to(tl.int32)
                else:
                    votes = verdict.inside.to(tl.int32)
                den_all += tl.sum(votes, 0)
                num_all += tl.sum(tl.where(verdict.on, votes, 0), 0)
            on_mask = verdict.inside & verdict.touching & ~verdict.on
            # What a comparison did not settle, also for want of a number, is looked at voxel by voxel.
            part = valid & ~verdict.inside & ~verdict.outside
            inside_only = part & verdict.known & ~verdict.touching
            both = part & ~inside_only
            if CONTACTS:
                both |= on_mask
                on_mask &= ~valid
                inside_only &= ~valid
            num_outside += tl.sum(verdict.outside.to(tl.int32), 0)
        lengths = _append(mine, at + lane, length, images.capacity, lengths, (on_mask, both, inside_only))
    to = lists.lengths + (place * tl.num_programs(1) + segment) * 4
    tl.store(to, lengths[0])
    tl.store(to + 1, lengths[1])
    tl.store(to + 2, lengths[2])
    tl.store(to + 3, num_outside)
    if CULL and not CONTACTS:  # noqa: SIM102 (decided when compiling, the other when running)
        if den_all > 0:
            _add_to_all_voxels(counts, lists, segment, bricks, index, num_all, den_all)


@triton.jit
def load_brick(bricks: BrickArrays, index):
    x = tl.load(bricks.centre + index * 3)
    y = tl.load(bricks.centre + index * 3 + 1)
    z = tl.load(bricks.centre + index * 3 + 2)
    begin = tl.load(bricks.joint_offset + index)
    end = tl.load(bricks.joint_offset + index + 1)
    return Brick(x, y, z, begin, end, tl.load(bricks.variation + index), bricks.spacing)


@triton.jit
def _judge(images: Images, tables: CullingTables, bricks: BrickArrays, brick: Brick, image, valid):
    """The ``Verdict`` on a brick and images."""
    terms = tables.bound_terms + image
    width = tl.load(terms + 2 * images.capacity)
    height = tl.load(terms + 3 * images.capacity)
    blend = blend_centre(images, bricks, brick, image, width, height)
    rectangle = bound_brick(images, bricks, brick, image, terms, valid, blend)
    return _settle(tables, image, rectangle, width, height, valid, images.capacity)


@triton.jit
def blend_centre(images: Images, bricks: BrickArrays, brick: Brick, image, width, height):
    """The ``Blend`` of a brick's centre over its joints."""
    m = images.lanes + tl.load(bricks.joint + brick.begin) * 12 * images.capacity + image
    U, V, Z = _centre(m, images.capacity, brick)
    # The reference pixel: where the joint with the most weight takes the brick; any would do, so none that is far outside the
    # image, where float32 is coarse.
    most = 4.0 * (width + height)
    inverse = 1.0 / tl.where(tl.abs(Z) > 1e-3, Z, 1.0)
    u, v = tl.minimum(tl.maximum(U * inverse, -most), most), tl.minimum(tl.maximum(V * inverse, -most), most)
    weight = tl.load(bricks.mean + brick.begin)
    du, dv = U - u * Z, V - v * Z
    mean_u, mean_v, mean_z = weight * du, weight * dv, weight * Z
    low_u, low_v, low_z, top_u, top_v, top_z = du, dv, Z, du, dv, Z
    for e in range(brick.begin + 1, brick.end):
        m = images.lanes + tl.load(bricks.joint + e) * 12 * images.capacity + image
        U, V, Z = _centre(m, images.capacity, brick)
        weight = tl.load(bricks.mean + e)
        du, dv = U - u * Z, V - v * Z
        mean_u, mean_v, mean_z = mean_u + weight * du, mean_v + weight * dv, mean_z + weight * Z
        low_u, low_v, low_z = tl.minimum(low_u, du), tl.minimum(low_v, dv), tl.minimum(low_z, Z)
        top_u, top_v, top_z = tl.maximum(top_u, du), tl.maximum(top_v, dv), tl.maximum(top_z, Z)
    return Blend(u, v, mean_u, mean_v, mean_z, low_u, low_v, low_z, top_u, top_v, top_z)


@triton.jit
def bound_brick(images: Images, bricks: BrickArrays, brick: Brick, image, terms, valid, blend: Blend):
    """The ``Rectangle`` of a brick by the bound above; ``terms`` points at the images' bound terms."""
    capacity = images.capacity
    inverse = 1.0 / blend.mean_z
    off_u, off_v = blend.mean_u * inverse, blend.mean_v * inverse
    u, v = blend.u + off_u, blend.v + off_v
    range_z = blend.top_z - blend.low_z
    turn_u, turn_v = tl.abs(off_u) * range_z, tl.abs(off_v) * range_z
    radius = brick.spacing * 2.5981  # half the diagonal of the cube of voxel centres, 1.5 sqrt(3) spacings, and a little
    square_z = tl.load(terms + 12 * capacity)
    reach_u = tl.load(terms + 10 * capacity)
    reach_v = tl.load(terms + 11 * capacity)
    reach_u += tl.abs(u) * (2.0 * tl.load(terms + 13 * capacity) + tl.abs(u) * square_z)
    reach_v += tl.abs(v) * (2.0 * tl.load(terms + 14 * capacity) + tl.abs(v) * square_z)
    if brick.end - brick.begin == 1:
        m = images.lanes + tl.load(bricks.joint + brick.begin) * 12 * capacity + image
        reach_u = 1.5 * brick.spacing * _reach(m, m + 8 * capacity, u, capacity)
        reach_v = 1.5 * brick.spacing * _reach(m + 4 * capacity, m + 8 * capacity, v, capacity)
    else:
        reach_u, reach_v = radius * tl.sqrt(reach_u), radius * tl.sqrt(reach_v)
    t = brick.variation
    most_u, most_v = t * (blend.top_u - blend.low_u + turn_u), t * (blend.top_v - blend.low_v + turn_v)
    left = reach_u + tl.minimum(most_u, blend.mean_u - blend.low_u + turn_u)
    right = reach_u + tl.minimum(most_u, blend.top_u - blend.mean_u + turn_u)
    above = reach_v + tl.minimum(most_v, blend.mean_v - blend.low_v + turn_v)
    below = reach_v + tl.minimum(most_v, blend.top_v - blend.mean_v + turn_v)
    error = tl.load(terms + 8 * capacity)
    depth = radius * tl.sqrt(square_z) + tl.load(terms + 9 * capacity) + t * range_z
    nearest = blend.mean_z - depth
    known = valid & (nearest > MIN_DEPTH)  # beyond the segment's images lies anything, also numbers
    inverse = 1.0 / tl.where(known, nearest, 1.0)
    u += tl.load(terms)
    v += tl.load(terms + capacity)
    u0, u1 = u - ((left + error) * inverse + 1.0), u + ((right + error) * inverse + 1.0)
    v0, v1 = v - ((above + error) * inverse + 1.0), v + ((below + error) * inverse + 1.0)
    return Rectangle(u0, u1, v0, v1, known, blend.mean_z + depth)


@triton.jit
def _settle(tables: CullingTables, image, rectangle: Rectangle, width, height, valid, capacity):
    """The ``Verdict`` of a rectangle against the image, the mask's box and its blocks."""
    u0, u1, v0, v1, known, farthest = rectangle
    box = tables.bound_terms + image
    x0 = tl.load(box + 4 * capacity)
    y0 = tl.load(box + 5 * capacity)
    x1 = tl.load(box + 6 * capacity)
    y1 = tl.load(box + 7 * capacity)
    outside = known & ((u1 < 0.0) | (v1 < 0.0) | (u0 >= width) | (v0 >= height))
    outside |= farthest < 0.0
    inside = known & (u0 >= 0.0) & (v0 >= 0.0) & (u1 < width) & (v1 < height)
    touching = known & (u1 >= x0) & (v1 >= y0) & (u0 < x1) & (v0 < y1)
    on = inside & (u0 >= x0) & (v0 >= y0) & (u1 < x1) & (v1 < y1)
    # Blocks of the rectangle, clipped to the mask's; only those of images whose box it touches are numbers to rely on.
    cell = tables.blocks + image
    c0 = _block(tl.maximum(u0, x0), touching) - tl.load(cell)
    r0 = _block(tl.maximum(v0, y0), touching) - tl.load(cell + capacity)
    c1 = _block(tl.minimum(u1, x1 - 1.0), touching) - tl.load(cell) + 1
    r1 = _block(tl.minimum(v1, y1 - 1.0), touching) - tl.load(cell + capacity) + 1
    stride = tl.load(cell + 3 * capacity)
    table = tl.load(cell + 4 * capacity)
    top, bottom = table + r0 * stride, table + r1 * stride
    touching &= _blocks_in(tables.any_sums, top, bottom, c0, c1, touching) != 0
    on &= touching
    if tl.max(on.to(tl.int32), 0) > 0:  # rare enough to ask first
        area = (c1 - c0) * (r1 - r0)
        on &= _blocks_in(tables.full_sums, top, bottom, c0, c1, on) == area
    outside &= valid
    return Verdict(outside, inside, touching, known, on)


@triton.jit
def _blocks_in(sums, top, bottom, left, right, on):
    """Blocks of a rectangle that a summed-area table counts; rows begin at ``top`` and ``bottom``."""
    return (tl.load(sums + (bottom + right), mask=on, other=0) + tl.load(sums + (top + left), mask=on, other=0)) - (
        tl.load(sums + (top + right), mask=on, other=0) + tl.load(sums + (bottom + left), mask=on, other=0)
    )


@triton.jit
def _append(mine, image, length, capacity, lengths, chosen):
    """Append the ``chosen`` images to the lists (ON_MASK, BOTH, INSIDE), and say how long these are then."""
    on_mask, both, inside_only = chosen
    index = image.to(tl.int16)
    ones = on_mask.to(tl.int32) + (both.to(tl.int32) << 10) + (inside_only.to(tl.int32) << 20)
    before = tl.cumsum(ones, 0) - ones
    tl.store(mine + lengths[0] + (before & 1023), index, mask=on_mask)
    tl.store(mine + (length - 1 - lengths[1]) - (before >> 10 & 1023), index, mask=both)
    tl.store(mine + capacity + lengths[2] + (before >> 20), index, mask=inside_only)
    total = tl.sum(ones, 0)
    return lengths[0] + (total & 1023), lengths[1] + (total >> 10 & 1023), lengths[2] + (total >> 20)


@triton.jit
def _add_to_all_voxels(counts: Counts, lists: Lists, segment, bricks: BrickArrays, brick, num, den):
    """Add to the counts of every voxel of a brick."""
    shape = integers(bricks.shape)
    counts = of_group(counts, lists, segment, shape)
    voxel = tl.arange(0, 64)
    x, y, z = first_voxel(bricks, brick)
    voxels = (x + voxel // 16, y + voxel // 4 % 4, z + voxel % 4)
    add_counts(counts.den, tl.zeros([64], tl.int32) + den, voxels, shape)
    add_counts(counts.num, tl.zeros([64], tl.int32) + num, voxels, shape)


@triton.jit
def _centre(m, capacity, brick: Brick):
    """(U, V, Z) of a brick's centre under one joint of every image."""
    U = _affine(m, capacity, brick)
    V = _affine(m + 4 * capacity, capacity, brick)
    Z = _affine(m + 8 * capacity, capacity, brick)
    return U, V, Z


@triton.jit
def _reach(row, row_z, u, capacity):
    """|x| + |y| + |z| of row - u row_z, without the translation."""
    x = tl.load(row) - u * tl.load(row_z)
    y = tl.load(row + capacity) - u * tl.load(row_z + capacity)
    z = tl.load(row + 2 * capacity) - u * tl.load(row_z + 2 * capacity)
    return tl.abs(x) + tl.abs(y) + tl.abs(z)


@triton.jit
def _affine(m, capacity, brick: Brick):
    a = tl.load(m)
    b = tl.load(m + capacity)
    c = tl.load(m + 2 * capacity)
    d = tl.load(m + 3 * capacity)
    return a * brick.x + (b * brick.y + (c * brick.z + d))


@triton.jit
def _block(pixel, on):
    """Block of a pixel >= 0, int32; 0 where not ``on``."""
    return tl.where(on, pixel, 0.0).to(tl.int32) >> 4


def compilations() -> list[Compilation]:
    """The kernel, with and without culling and weights."""
    signature: Types = {
        "images": Images,
        "tables": CullingTables,
        "bricks": BrickArrays,
        "lists": Lists,
        "counts": Counts,
        "contacts": Contacts,
    }
    small = frozenset({"sm_86", "sm_89", "sm_120"})
    return [
        Compilation(
            f"cull_bricks[{name}]",
            cull_bricks,
            signature,
            {"CULL": cull, "WEIGHTED": weighted, "CONTACTS": contacts, "IMAGES": images},
            num_warps=1,
            num_stages=1,
            votes=images,
            targets=targets,
        )
        for name, cull, weighted, contacts in (
            ("cull", True, False, False),
            ("cull,weighted", True, True, False),
            ("all", False, False, False),
            ("contacts", True, False, True),
            ("contacts,all", False, False, True),
        )
        for images, targets in ((64, small), (MOST_IMAGES, frozenset(TARGETS) - small))
    ]
