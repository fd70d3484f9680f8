"""Where a brick falls in 16 images, by a bound: decides most pairs of an image and a brick without projecting a voxel.

A brick whose rectangle misses the mask's blocks (or lies in full ones) and lies inside the image (or misses it) needs no work
per voxel. The bound: with brick centre c, mean weights m_j, their spread s_j, and (U, V, Z) the homogeneous pixel of a point,
    U(x) - u Z(x) = sum_j w_j(x) D_j(x),   D_j = U_j - u Z_j,   u = U(c) / Z(c)  under the mean weights,
and the D_j(c) have the weighted mean 0, so -L <= (u(x) - u) Z(x) <= R with R = S + max_j r_j, r_j the exact reach of D_j over
the brick, and S the least of sum_j s_j |D_j(c)|, of t (max_j D_j(c) - min_j D_j(c)), t being the most that weight moves between
joints from the mean to a voxel, and of max_j D_j(c); L likewise.
It is dilated by a pixel, and by what float32 may be off, so culling never changes a count.
"""

from __future__ import annotations

import numpy as np

from chorus.kernels.cpu.layout import (
    ACROSS,
    AREA,
    BLOCKS_ROWS,
    BOTTOM_LEFT,
    BOTTOM_RIGHT,
    BOX_U0,
    BOX_U1,
    BOX_V0,
    BOX_V1,
    CX,
    CY,
    ERROR_UV,
    ERROR_Z,
    FARTHEST,
    FIRST_BLOCK,
    FIRST_COLUMN,
    FIRST_ROW,
    FRAME_ROWS,
    LAST_U,
    LAST_V,
    MATRIX,
    NEAREST,
    RECTANGLE_U0,
    RECTANGLE_U1,
    RECTANGLE_V0,
    RECTANGLE_V1,
    STRIDE,
    TABLE,
    TOP_LEFT,
    TOP_RIGHT,
    borrowing,
    inlined,
)
from chorus.kernels.cpu.simd import (
    LANES,
    add,
    bits,
    both,
    div,
    either,
    fma,
    gather,
    ge,
    gt,
    iadd,
    idrop,
    ikeep,
    iload,
    imul,
    ishr,
    isplat,
    istore,
    isub,
    izero,
    load,
    lt,
    mul,
    splat,
    splat_at,
    store,
    sub,
    truncate,
    vabs,
    vmax,
    vmin,
)

MIN_DEPTH = 0.02
"""Bricks that come nearer to the camera plane than this (metres) are never culled."""

f4 = np.float32


@inlined
def project_centre(images, vector, bricks, b, centres):  # type: ignore[no-untyped-def]
    """(U, V, Z) of a brick's centre under each of its joints, for 16 images, into ``centres``: 3 vectors a joint."""
    x, y, z = splat(bricks.centre[b, 0]), splat(bricks.centre[b, 1]), splat(bricks.centre[b, 2])
    lanes, joint = images.matrix_lanes, bricks.joint
    to = 0
    for e in range(bricks.joint_offset[b], bricks.joint_offset[b + 1]):
        at = (vector * images.num_joints + np.int64(joint[e])) * (MATRIX * LANES)
        for _ in range(3):
            value = fma(load(lanes, at + 2 * LANES), z, load(lanes, at + 3 * LANES))
            value = fma(load(lanes, at), x, fma(load(lanes, at + LANES), y, value))
            store(centres, to, value)
            at += 4 * LANES
            to += LANES


@inlined
def _mean_centre(bricks, b, centres):  # type: ignore[no-untyped-def]
    """(U, V, Z) of a brick's centre in 16 images under the brick's mean weights."""
    if bricks.joint_offset[b + 1] - bricks.joint_offset[b] == 1:
        return load(centres, 0), load(centres, LANES), load(centres, 2 * LANES)
    U, V, Z = splat(f4(0.0)), splat(f4(0.0)), splat(f4(0.0))
    at = 0
    for e in range(bricks.joint_offset[b], bricks.joint_offset[b + 1]):
        m = splat_at(bricks.mean, e)
        U = fma(m, load(centres, at), U)
        V = fma(m, load(centres, at + LANES), V)
        Z = fma(m, load(centres, at + 2 * LANES), Z)
        at += 3 * LANES
    return U, V, Z


@inlined
def _row_reach(lanes, at, u, zx, zy, zz):  # type: ignore[no-untyped-def]
    """|D_j| at most, per metre from the brick's centre: the row U_j or V_j at ``at`` of ``lanes`` less u times the row Z_j."""
    x, y, z = load(lanes, at), load(lanes, at + LANES), load(lanes, at + 2 * LANES)
    return add(add(vabs(sub(x, mul(u, zx))), vabs(sub(y, mul(u, zy)))), vabs(sub(z, mul(u, zz))))


@inlined
def _reach(images, vector, bricks, b, centres, u, v, Z):  # type: ignore[no-untyped-def]
    """How far a brick's voxels may be from its centre's pixel (u, v) and depth Z: left, right, above, below, times the voxel's
    depth, and in depth."""
    lanes, joint = images.matrix_lanes, bricks.joint
    e0, e1 = bricks.joint_offset[b], bricks.joint_offset[b + 1]
    zero, half = splat(f4(0.0)), splat(f4(1.5) * bricks.spacing)
    if e1 - e0 == 1:  # rigid: nothing but the reach itself
        at = (vector * images.num_joints + np.int64(joint[e0])) * (MATRIX * LANES)
        zx, zy, zz = load(lanes, at + 8 * LANES), load(lanes, at + 9 * LANES), load(lanes, at + 10 * LANES)
        across, down = (
            mul(_row_reach(lanes, at, u, zx, zy, zz), half),
            mul(_row_reach(lanes, at + 4 * LANES, v, zx, zy, zz), half),
        )
        return across, across, down, down, mul(add(add(vabs(zx), vabs(zy)), vabs(zz)), half)
    reach_u, reach_v, reach_z = zero, zero, zero  # of any joint, over half the brick
    spread_u, spread_v, spread_z = zero, zero, zero
    most_u, least_u, most_v, least_v = zero, zero, zero, zero
    for e in range(e0, e1):
        at = (vector * images.num_joints + np.int64(joint[e])) * (MATRIX * LANES)
        zx, zy, zz = load(lanes, at + 8 * LANES), load(lanes, at + 9 * LANES), load(lanes, at + 10 * LANES)
        reach_z = vmax(reach_z, add(add(vabs(zx), vabs(zy)), vabs(zz)))
        reach_u = vmax(reach_u, _row_reach(lanes, at, u, zx, zy, zz))
        reach_v = vmax(reach_v, _row_reach(lanes, at + 4 * LANES, v, zx, zy, zz))
        s = splat_at(bricks.spread, e)
        at = (e - e0) * (3 * LANES)
        z = load(centres, at + 2 * LANES)
        x, y = sub(load(centres, at), mul(u, z)), sub(load(centres, at + LANES), mul(v, z))
        spread_u, spread_v = fma(s, vabs(x), spread_u), fma(s, vabs(y), spread_v)
        spread_z = fma(s, vabs(sub(z, Z)), spread_z)
        most_u, least_u, most_v, least_v = vmax(most_u, x), vmin(least_u, x), vmax(most_v, y), vmin(least_v, y)
    moved = splat(bricks.variation[b])
    spread_u = vmin(spread_u, mul(moved, sub(most_u, least_u)))
    spread_v = vmin(spread_v, mul(moved, sub(most_v, least_v)))
    left, right = fma(reach_u, half, vmin(spread_u, sub(zero, least_u))), fma(reach_u, half, vmin(spread_u, most_u))
    above, below = fma(reach_v, half, vmin(spread_v, sub(zero, least_v))), fma(reach_v, half, vmin(spread_v, most_v))
    return left, right, above, below, fma(reach_z, half, spread_z)


@borrowing
def bound(images, vector, bricks, b, centres, corners, rectangle):  # type: ignore[no-untyped-def]
    """Where a brick falls in 16 images, as bits: outside the image, inside it, off the mask, inside the mask's box.

    ``centres`` as ``project_centre`` fills them. ``corners`` receives the rectangle of blocks that the brick may meet, for
    images not off the mask, ``rectangle`` the pixels and depths, for all. Images in which the brick reaches the camera plane
    are in no set (unless all of it is behind the camera: outside).
    """
    frame, blocks, seen, at = images.frame, images.blocks, vector * (FRAME_ROWS * LANES), vector * (BLOCKS_ROWS * LANES)
    zero, one = splat(f4(0.0)), splat(f4(1.0))
    U, V, Z = _mean_centre(bricks, b, centres)
    inverse = div(one, Z)
    u, v = mul(U, inverse), mul(V, inverse)
    left, right, above, below, depth = _reach(images, vector, bricks, b, centres, u, v, Z)
    error = load(frame, seen + ERROR_UV)
    depth = add(depth, load(frame, seen + ERROR_Z))
    nearest = sub(Z, depth)
    known = gt(nearest, splat(f4(MIN_DEPTH)))
    behind = bits(lt(add(Z, depth), zero))
    inverse = div(one, nearest)
    u, v = add(u, load(frame, seen + CX)), add(v, load(frame, seen + CY))
    u0, u1 = sub(u, fma(add(left, error), inverse, one)), add(u, fma(add(right, error), inverse, one))
    v0, v1 = sub(v, fma(add(above, error), inverse, one)), add(v, fma(add(below, error), inverse, one))
    store(rectangle, RECTANGLE_U0, u0)
    store(rectangle, RECTANGLE_U1, u1)
    store(rectangle, RECTANGLE_V0, v0)
    store(rectangle, RECTANGLE_V1, v1)
    store(rectangle, NEAREST, nearest)
    store(rectangle, FARTHEST, add(Z, depth))
    width, height = load(frame, seen + LAST_U), load(frame, seen + LAST_V)
    x0, y0 = load(frame, seen + BOX_U0), load(frame, seen + BOX_V0)
    x1, y1 = load(frame, seen + BOX_U1), load(frame, seen + BOX_V1)
    outside = either(either(lt(u1, zero), lt(v1, zero)), either(gt(u0, width), gt(v0, height)))
    inside = both(both(ge(u0, zero), ge(v0, zero)), both(ge(width, u1), ge(height, v1)))
    off_box = either(either(lt(u1, x0), lt(v1, y0)), either(gt(u0, x1), gt(v0, y1)))
    in_box = both(both(ge(u0, x0), ge(v0, y0)), both(ge(x1, u1), ge(y1, v1)))
    outside, off_box = both(known, outside), both(known, off_box)

    # Blocks of the rectangle, clipped to the mask's, and how many of them are not empty: 0 is off the mask, too.
    four, ione = isplat(4), isplat(1)
    first_column, first_row = iload(blocks, at + FIRST_COLUMN), iload(blocks, at + FIRST_ROW)
    c0 = isub(ishr(truncate(vmax(u0, x0)), four), first_column)
    r0 = isub(ishr(truncate(vmax(v0, y0)), four), first_row)
    c1 = iadd(isub(ishr(truncate(vmin(u1, x1)), four), first_column), ione)
    r1 = iadd(isub(ishr(truncate(vmin(v1, y1)), four), first_row), ione)
    stride, table = iload(blocks, at + STRIDE), iload(blocks, at + TABLE)
    top, bottom = iadd(table, imul(r0, stride)), iadd(table, imul(r1, stride))
    a, b, c, d = iadd(top, c0), iadd(top, c1), iadd(bottom, c0), iadd(bottom, c1)
    a, b, c, d = ikeep(known, a), ikeep(known, b), ikeep(known, c), ikeep(known, d)
    a, b, c, d = idrop(off_box, a), idrop(off_box, b), idrop(off_box, c), idrop(off_box, d)
    istore(corners, TOP_LEFT, a)
    istore(corners, TOP_RIGHT, b)
    istore(corners, BOTTOM_LEFT, c)
    istore(corners, BOTTOM_RIGHT, d)
    istore(corners, AREA, imul(isub(c1, c0), isub(r1, r0)))
    istore(corners, FIRST_BLOCK, iadd(imul(r0, iload(blocks, at + ACROSS)), c0))
    occupied = images.occupied
    met = isub(iadd(gather(occupied, 0, d), gather(occupied, 0, a)), iadd(gather(occupied, 0, b), gather(occupied, 0, c)))
    return behind | bits(outside), bits(both(known, inside)), bits(both(known, izero(met))), bits(both(known, in_box))


@inlined
def lies_on_full_blocks(full, corners, lane):  # type: ignore[no-untyped-def]
    """Whether a rectangle of blocks of the image ``lane``, inside the mask's box, has full blocks alone."""
    filled = full[corners[BOTTOM_RIGHT + lane]] - full[corners[BOTTOM_LEFT + lane]]
    filled += full[corners[TOP_LEFT + lane]] - full[corners[TOP_RIGHT + lane]]
    return filled == corners[AREA + lane]
