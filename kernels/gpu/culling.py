"""Which images a brick must be projected into: everything else is settled here, brick by brick, exactly.

The bound is that of ``cpu_vote`` with a ball for the brick (a lane an image, one pass over the brick's joints). With mean
weights m_j, brick centre c, D_j = U_j(c) - u Z_j(c) for a reference pixel u, and k = sum_j m_j D_j / sum_j m_j Z_j the distance
from it to where the blended centre falls, the voxels lie within

    [ r a + S + error ] / (least Z)
    a^2 = max_j |row U_j|^2 + 2 |u + k| max_j |row U_j . row Z_j| + (u + k)^2 max_j |row Z_j|^2
    S = min( t (range D + |k| range Z),  max D - mean D + |k| range Z )

of it, r being half the brick's diagonal and t the most weight that moves between joints from the mean to a voxel; the other
side likewise. Dilated by a pixel. Images that surely see all of the brick, off the mask or on full blocks of it, are counted
here for all its voxels; images that surely do not see it are dropped; the rest go to three lists (``triton_vote``).
A brick with one joint has the exact reach h (|x| + |y| + |z|) of row U - (u + k) row Z instead of r a, h being half its side.
"""

from __future__ import annotations

import triton
import triton.language as tl

from chorus.kernels.gpu.ahead_of_time import TARGETS, Compilation, types_of
from chorus.kernels.gpu.vote_kernels import ALIGN, add_counts

MOST_IMAGES = 128


def images_at_a_time(capability: tuple[int, int] | None) -> int:
    """Images that a program, which is one warp, looks at together; None for what is no NVIDIA device.

    Devices with 48 warps a multiprocessor give a program fewer registers, and four images a lane would spill.
    """
    return MOST_IMAGES if capability is None or (capability[1] == 0 and capability[0] < 12) else 64


MIN_DEPTH = tl.constexpr(0.02)
"""Bricks that come nearer to the camera plane than this (metres) are never settled."""


@triton.jit
def _entries(some, a, b, c, d, on):
    """Blocks of a rectangle that a summed-area table counts."""
    return (tl.load(some + d, mask=on, other=0) + tl.load(some + a, mask=on, other=0)) - (
        tl.load(some + b, mask=on, other=0) + tl.load(some + c, mask=on, other=0)
    )


@triton.jit(do_not_specialize=["num_segments", "NX", "NY", "NZ"])
def cull_bricks(
    lanes,
    cull,
    blocks,
    some,
    full,
    weights,
    bricks,
    firsts,
    centres,
    joint_offset,
    joint,
    mean,
    variation,
    begins,
    groups,
    lists,
    counts,
    num,
    den,
    rows,
    regions,
    touched,
    capacity,
    num_segments,
    NX,
    NY,
    NZ,
    spacing,
    CULL: tl.constexpr,
    WEIGHTED: tl.constexpr,
    CONTACTS: tl.constexpr,
    IMAGES: tl.constexpr,
):
    """Fill the lists of the B ``bricks`` (B,) int32 in a segment, and count what needs no list. Grid (B, segments).

    lists   (B, 2, C) int16  images, less the segment's first, within the segment's range: ON_MASK from the front and BOTH from
            the back; then INSIDE
    counts  (B, segments, 4) int32  lengths of the lists ON_MASK, BOTH, INSIDE; images settled outside
    Other arguments as in ``triton_prepare`` and ``chorus.kernels.bricks``; CULL false: every image goes to the list BOTH.
    CONTACTS: nothing is counted; images settled on full blocks touch ``regions`` (B,) int32 bits, set in ``touched`` (I,) at
    ``rows`` (C,) int64, those that may meet the mask go to BOTH, and the rest to no list.
    """
    place = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(1)
    brick = tl.load(bricks + place)
    begin = tl.multiple_of(tl.load(begins + segment * 2), ALIGN)
    length = tl.load(begins + segment * 2 + 1)
    mine = lists + place * 2 * capacity + begin
    lane = tl.arange(0, IMAGES)
    cx = tl.load(centres + brick * 3)
    cy = tl.load(centres + brick * 3 + 1)
    cz = tl.load(centres + brick * 3 + 2)
    e0 = tl.load(joint_offset + brick)
    e1 = tl.load(joint_offset + brick + 1)
    t = tl.load(variation + brick)
    radius = spacing * 2.5981  # half the diagonal of the cube of voxel centres, 1.5 sqrt(3) spacings, and a little
    on_mask, both, in_part, outside_all = 0, 0, 0, 0
    num_all, den_all = 0, 0
    for at in range(0, length, IMAGES):
        valid = at + lane < length
        image = begin + at + lane
        on_list, both_list, part_list = valid & (lane < 0), valid, valid & (lane < 0)
        if CULL:
            m = lanes + tl.load(joint + e0) * 12 * capacity + image
            U, V, Z = _centre(m, capacity, cx, cy, cz)
            # The reference pixel: where the joint with the most weight takes the brick; any would do, so none that is far
            # outside the image, where float32 is coarse.
            ask = cull + image
            width = tl.load(ask + 2 * capacity)
            height = tl.load(ask + 3 * capacity)
            most = 4.0 * (width + height)
            inverse = 1.0 / tl.where(tl.abs(Z) > 1e-3, Z, 1.0)
            u, v = tl.minimum(tl.maximum(U * inverse, -most), most), tl.minimum(tl.maximum(V * inverse, -most), most)
            weight = tl.load(mean + e0)
            du, dv = U - u * Z, V - v * Z
            mean_u, mean_v, mean_z = weight * du, weight * dv, weight * Z
            low_u, low_v, low_z, top_u, top_v, top_z = du, dv, Z, du, dv, Z
            for e in range(e0 + 1, e1):
                m = lanes + tl.load(joint + e) * 12 * capacity + image
                U, V, Z = _centre(m, capacity, cx, cy, cz)
                weight = tl.load(mean + e)
                du, dv = U - u * Z, V - v * Z
                mean_u, mean_v, mean_z = mean_u + weight * du, mean_v + weight * dv, mean_z + weight * Z
                low_u, low_v, low_z = tl.minimum(low_u, du), tl.minimum(low_v, dv), tl.minimum(low_z, Z)
                top_u, top_v, top_z = tl.maximum(top_u, du), tl.maximum(top_v, dv), tl.maximum(top_z, Z)
            inverse = 1.0 / mean_z
            off_u, off_v = mean_u * inverse, mean_v * inverse
            u, v = u + off_u, v + off_v
            range_z = top_z - low_z
            turn_u, turn_v = tl.abs(off_u) * range_z, tl.abs(off_v) * range_z
            square_z = tl.load(ask + 12 * capacity)
            reach_u = tl.load(ask + 10 * capacity)
            reach_v = tl.load(ask + 11 * capacity)
            reach_u += tl.abs(u) * (2.0 * tl.load(ask + 13 * capacity) + tl.abs(u) * square_z)
            reach_v += tl.abs(v) * (2.0 * tl.load(ask + 14 * capacity) + tl.abs(v) * square_z)
            if e1 - e0 == 1:
                m = lanes + tl.load(joint + e0) * 12 * capacity + image
                reach_u = 1.5 * spacing * _reach(m, m + 8 * capacity, u, capacity)
                reach_v = 1.5 * spacing * _reach(m + 4 * capacity, m + 8 * capacity, v, capacity)
            else:
                reach_u, reach_v = radius * tl.sqrt(reach_u), radius * tl.sqrt(reach_v)
            most_u, most_v = t * (top_u - low_u + turn_u), t * (top_v - low_v + turn_v)
            left = reach_u + tl.minimum(most_u, mean_u - low_u + turn_u)
            right = reach_u + tl.minimum(most_u, top_u - mean_u + turn_u)
            above = reach_v + tl.minimum(most_v, mean_v - low_v + turn_v)
            below = reach_v + tl.minimum(most_v, top_v - mean_v + turn_v)
            error = tl.load(ask + 8 * capacity)
            depth = radius * tl.sqrt(square_z) + tl.load(ask + 9 * capacity) + t * range_z
            nearest = mean_z - depth
            known = valid & (nearest > MIN_DEPTH)  # beyond the segment's images lies anything, also numbers
            inverse = 1.0 / tl.where(known, nearest, 1.0)
            u += tl.load(ask)
            v += tl.load(ask + capacity)
            u0, u1 = u - ((left + error) * inverse + 1.0), u + ((right + error) * inverse + 1.0)
            v0, v1 = v - ((above + error) * inverse + 1.0), v + ((below + error) * inverse + 1.0)
            x0 = tl.load(ask + 4 * capacity)
            y0 = tl.load(ask + 5 * capacity)
            x1 = tl.load(ask + 6 * capacity)
            y1 = tl.load(ask + 7 * capacity)
            outside = known & ((u1 < 0.0) | (v1 < 0.0) | (u0 >= width) | (v0 >= height))
            outside |= mean_z + depth < 0.0
            inside = known & (u0 >= 0.0) & (v0 >= 0.0) & (u1 < width) & (v1 < height)
            touching = known & (u1 >= x0) & (v1 >= y0) & (u0 < x1) & (v0 < y1)
            in_box = inside & (u0 >= x0) & (v0 >= y0) & (u1 < x1) & (v1 < y1)
            # Blocks of the rectangle, clipped to the mask's; only those of images whose box it touches are numbers to rely on.
            cell = blocks + image
            c0 = _block(tl.maximum(u0, x0), touching) - tl.load(cell)
            r0 = _block(tl.maximum(v0, y0), touching) - tl.load(cell + capacity)
            c1 = _block(tl.minimum(u1, x1 - 1.0), touching) - tl.load(cell) + 1
            r1 = _block(tl.minimum(v1, y1 - 1.0), touching) - tl.load(cell + capacity) + 1
            stride = tl.load(cell + 3 * capacity)
            table = tl.load(cell + 4 * capacity)
            top, bottom = table + r0 * stride, table + r1 * stride
            touching &= _entries(some, top + c0, top + c1, bottom + c0, bottom + c1, touching) != 0
            in_box &= touching
            on = in_box
            if tl.max(in_box.to(tl.int32), 0) > 0:  # rare enough to ask first
                area = (c1 - c0) * (r1 - r0)
                on &= _entries(full, top + c0, top + c1, bottom + c0, bottom + c1, in_box) == area
            outside &= valid
            if CONTACTS:
                to = touched + tl.load(rows + image, mask=on, other=0)
                tl.atomic_or(to, tl.load(regions + place), mask=on, sem="relaxed")
            else:
                weight_ = tl.load(weights + image, mask=inside, other=0).to(tl.int32) if WEIGHTED else inside.to(tl.int32)
                den_all += tl.sum(weight_, 0)
                num_all += tl.sum(tl.where(on, weight_, 0), 0)
            on_list = inside & touching & ~on
            # What a comparison did not settle, also for want of a number, is looked at voxel by voxel.
            part = valid & ~inside & ~outside
            part_list = part & known & ~touching
            both_list = part & ~part_list
            if CONTACTS:
                both_list |= on_list
                on_list &= ~valid
                part_list &= ~valid
            outside_all += tl.sum(outside.to(tl.int32), 0)
        index = (at + lane).to(tl.int16)
        ones = on_list.to(tl.int32) + (both_list.to(tl.int32) << 10) + (part_list.to(tl.int32) << 20)
        before = tl.cumsum(ones, 0) - ones
        tl.store(mine + on_mask + (before & 1023), index, mask=on_list)
        tl.store(mine + (length - 1 - both) - (before >> 10 & 1023), index, mask=both_list)
        tl.store(mine + capacity + in_part + (before >> 20), index, mask=part_list)
        total = tl.sum(ones, 0)
        on_mask += total & 1023
        both += total >> 10 & 1023
        in_part += total >> 20
    to = counts + (place * num_segments + segment) * 4
    tl.store(to, on_mask)
    tl.store(to + 1, both)
    tl.store(to + 2, in_part)
    tl.store(to + 3, outside_all)
    if CULL and not CONTACTS:  # noqa: SIM102 (decided when compiling, the other when running)
        if den_all > 0:
            voxel = tl.arange(0, 64)
            group = tl.load(groups + segment).to(tl.int64) * NX * NY * NZ
            x = tl.load(firsts + brick * 3) + voxel // 16
            y = tl.load(firsts + brick * 3 + 1) + voxel // 4 % 4
            z = tl.load(firsts + brick * 3 + 2) + voxel % 4
            add_counts(den + group, tl.zeros([64], tl.int32) + den_all, x, y, z, NX, NY, NZ)
            add_counts(num + group, tl.zeros([64], tl.int32) + num_all, x, y, z, NX, NY, NZ)


@triton.jit
def _centre(m, capacity, cx, cy, cz):
    """(U, V, Z) of a brick's centre under one joint of every image."""
    U = _affine(m, capacity, cx, cy, cz)
    V = _affine(m + 4 * capacity, capacity, cx, cy, cz)
    Z = _affine(m + 8 * capacity, capacity, cx, cy, cz)
    return U, V, Z


@triton.jit
def _reach(row, row_z, u, capacity):
    """|x| + |y| + |z| of row - u row_z, without the translation."""
    x = tl.load(row) - u * tl.load(row_z)
    y = tl.load(row + capacity) - u * tl.load(row_z + capacity)
    z = tl.load(row + 2 * capacity) - u * tl.load(row_z + 2 * capacity)
    return tl.abs(x) + tl.abs(y) + tl.abs(z)


@triton.jit
def _affine(m, capacity, cx, cy, cz):
    a = tl.load(m)
    b = tl.load(m + capacity)
    c = tl.load(m + 2 * capacity)
    d = tl.load(m + 3 * capacity)
    return a * cx + (b * cy + (c * cz + d))


@triton.jit
def _block(pixel, on):
    """Block of a pixel >= 0, int32; 0 where not ``on``."""
    return tl.where(on, pixel, 0.0).to(tl.int32) >> 4


def compilations() -> list[Compilation]:
    """The kernel, with and without culling and weights."""
    pointers = types_of(
        """
        *fp32: lanes cull centres mean variation
        *i32: blocks some full bricks firsts joint_offset joint begins groups counts num den regions touched
        *u8: weights
        *i16: lists
        *i64: rows
        """
    )
    numbers = types_of(
        """
        i32: capacity num_segments NX NY NZ
        fp32: spacing
        """
    )
    small = frozenset({"sm_86", "sm_89", "sm_120"})
    return [
        Compilation(
            f"cull_bricks[{name}]",
            cull_bricks,
            dict(pointers, **numbers),
            {"CULL": cull, "WEIGHTED": weighted, "CONTACTS": contacts, "IMAGES": images},
            1,
            1,
            frozenset(pointers) | {"capacity"},
            images,
            targets,
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
