"""The compiled loops of the CPU votes: bricks x images, with exact culling.

Before a
brick's 64 voxels are projected, a bound on where they fall in the image decides most pairs: a brick whose rectangle
misses the mask's blocks (or lies in full ones) and lies inside the image (or misses it) needs no work per voxel.

The bound: with brick centre c, mean weights m_j, their spread s_j, and (U, V, Z) the homogeneous pixel of a point,
    U(x) - u Z(x) = sum_j w_j(x) D_j(x),   D_j = U_j - u Z_j,   u = U(c) / Z(c)  under the mean weights,
and the D_j(c) have the weighted mean 0, so -L <= (u(x) - u) Z(x) <= R with R = S + max_j r_j, r_j the exact reach of D_j over
the brick, and S the least of sum_j s_j |D_j(c)|, of t (max_j D_j(c) - min_j D_j(c)), t being the most that weight moves between
joints from the mean to a voxel, and of max_j D_j(c); L likewise.
It is dilated by a pixel, and by what float32 may be off, so culling never changes a count.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from chorus.kernels.bricks import SIDE, VOXELS
from chorus.kernels.cpu.prepare import BLOCK_ROWS, VIEW_ROWS
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
    iand,
    idrop,
    ikeep,
    ikeep_positive,
    iload,
    imul,
    ior,
    ishl,
    ishr,
    isplat,
    istore,
    isub,
    izero,
    load,
    lt,
    mul,
    prefetch,
    sign_bits,
    sign_or,
    splat,
    splat_at,
    store,
    sub,
    trailing_zeros,
    truncate,
    vabs,
    vmax,
    vmin,
    where_positive,
)

ALL_LANES = (1 << LANES) - 1
MIN_DEPTH = 0.02
"""Bricks that come nearer to the camera plane than this (metres) are never culled."""

_jit = nb.njit(nogil=True, cache=True, error_model="numpy")
f4 = np.float32
TINY = f4(1.2e-38)
"""z > 0 is z - TINY >= 0 for every normal float32."""


@_jit
def _centres(lanes, block, J, joint, e0, e1, cx, cy, cz, centres):  # type: ignore[no-untyped-def]
    """(U, V, Z) of a brick's centre under each of its joints, for 16 images, into ``centres``: 3 vectors a joint."""
    x, y, z = splat(cx), splat(cy), splat(cz)
    for e in range(e0, e1):
        at = (block * J + np.int64(joint[e])) * (12 * LANES)
        to = (e - e0) * (3 * LANES)
        for _ in range(3):
            value = fma(load(lanes, at + 2 * LANES), z, load(lanes, at + 3 * LANES))
            value = fma(load(lanes, at), x, fma(load(lanes, at + LANES), y, value))
            store(centres, to, value)
            at += 4 * LANES
            to += LANES


@_jit
def _bound(  # type: ignore[no-untyped-def]
    lanes, view, blocks, some, block, J, joint, e0, e1, mean, spread, variation, half, centres, corners
):
    """Where a brick falls in 16 images, as bits: outside the image, inside it, off the mask, inside the mask's box.

    ``half`` is half the side of the cube of voxel centres. ``corners`` receives, for images not off the mask, where the
    corners of the rectangle of blocks that the brick may meet lie in the summed-area tables (4 vectors), its area, and its
    first block among the mask's.
    Images in which the brick reaches the camera plane are in no set (unless all of it is behind the camera: outside).
    """
    seen = block * (10 * LANES)
    zero, one = splat(f4(0.0)), splat(f4(1.0))
    U, V, Z = zero, zero, zero
    for e in range(e0, e1):
        m = splat_at(mean, e)
        at = (e - e0) * (3 * LANES)
        U = fma(m, load(centres, at), U)
        V = fma(m, load(centres, at + LANES), V)
        Z = fma(m, load(centres, at + 2 * LANES), Z)
    inverse = div(one, Z)
    u, v = mul(U, inverse), mul(V, inverse)
    reach_u, reach_v, reach_z = zero, zero, zero  # of any joint, over half the brick
    spread_u, spread_v, spread_z = zero, zero, zero
    most_u, least_u, most_v, least_v = zero, zero, zero, zero
    for e in range(e0, e1):
        at = (block * J + np.int64(joint[e])) * (12 * LANES)
        zx, zy, zz = load(lanes, at + 8 * LANES), load(lanes, at + 9 * LANES), load(lanes, at + 10 * LANES)
        reach_z = vmax(reach_z, add(add(vabs(zx), vabs(zy)), vabs(zz)))
        x, y, z = load(lanes, at), load(lanes, at + LANES), load(lanes, at + 2 * LANES)
        x, y, z = vabs(sub(x, mul(u, zx))), vabs(sub(y, mul(u, zy))), vabs(sub(z, mul(u, zz)))
        reach_u = vmax(reach_u, add(add(x, y), z))
        x, y, z = load(lanes, at + 4 * LANES), load(lanes, at + 5 * LANES), load(lanes, at + 6 * LANES)
        x, y, z = vabs(sub(x, mul(v, zx))), vabs(sub(y, mul(v, zy))), vabs(sub(z, mul(v, zz)))
        reach_v = vmax(reach_v, add(add(x, y), z))
        if e1 - e0 > 1:
            s = splat_at(spread, e)
            at = (e - e0) * (3 * LANES)
            z = load(centres, at + 2 * LANES)
            x, y = sub(load(centres, at), mul(u, z)), sub(load(centres, at + LANES), mul(v, z))
            spread_u, spread_v = fma(s, vabs(x), spread_u), fma(s, vabs(y), spread_v)
            spread_z = fma(s, vabs(sub(z, Z)), spread_z)
            most_u, least_u, most_v, least_v = vmax(most_u, x), vmin(least_u, x), vmax(most_v, y), vmin(least_v, y)
    t, h = splat(variation), splat(half)
    spread_u, spread_v = vmin(spread_u, mul(t, sub(most_u, least_u))), vmin(spread_v, mul(t, sub(most_v, least_v)))
    dz = fma(reach_z, h, spread_z)
    left, right = fma(reach_u, h, vmin(spread_u, sub(zero, least_u))), fma(reach_u, h, vmin(spread_u, most_u))
    above, below = fma(reach_v, h, vmin(spread_v, sub(zero, least_v))), fma(reach_v, h, vmin(spread_v, most_v))
    error = load(view, seen + 8 * LANES)
    dz = add(dz, load(view, seen + 9 * LANES))
    nearest = sub(Z, dz)
    known = gt(nearest, splat(f4(MIN_DEPTH)))
    behind = bits(lt(add(Z, dz), zero))
    inverse = div(one, nearest)
    u, v = add(u, load(view, seen)), add(v, load(view, seen + LANES))
    u0, u1 = sub(u, fma(add(left, error), inverse, one)), add(u, fma(add(right, error), inverse, one))
    v0, v1 = sub(v, fma(add(above, error), inverse, one)), add(v, fma(add(below, error), inverse, one))
    width, height = load(view, seen + 2 * LANES), load(view, seen + 3 * LANES)
    x0, y0 = load(view, seen + 4 * LANES), load(view, seen + 5 * LANES)
    x1, y1 = load(view, seen + 6 * LANES), load(view, seen + 7 * LANES)
    outside = either(either(lt(u1, zero), lt(v1, zero)), either(gt(u0, width), gt(v0, height)))
    inside = both(both(ge(u0, zero), ge(v0, zero)), both(ge(width, u1), ge(height, v1)))
    off_box = either(either(lt(u1, x0), lt(v1, y0)), either(gt(u0, x1), gt(v0, y1)))
    in_box = both(both(ge(u0, x0), ge(v0, y0)), both(ge(x1, u1), ge(y1, v1)))
    outside, off_box = both(known, outside), both(known, off_box)
    result = behind | bits(outside), bits(both(known, inside)), bits(both(known, in_box))

    # Blocks of the rectangle, clipped to the mask's, and how many of them are not empty: 0 is off the mask, too.
    at = block * (BLOCK_ROWS * LANES)
    four, ione = isplat(4), isplat(1)
    c0 = isub(ishr(truncate(vmax(u0, x0)), four), iload(blocks, at))
    r0 = isub(ishr(truncate(vmax(v0, y0)), four), iload(blocks, at + LANES))
    c1 = iadd(isub(ishr(truncate(vmin(u1, x1)), four), iload(blocks, at)), ione)
    r1 = iadd(isub(ishr(truncate(vmin(v1, y1)), four), iload(blocks, at + LANES)), ione)
    stride, table = iload(blocks, at + 3 * LANES), iload(blocks, at + 4 * LANES)
    top, bottom = iadd(table, imul(r0, stride)), iadd(table, imul(r1, stride))
    a, b, c, d = iadd(top, c0), iadd(top, c1), iadd(bottom, c0), iadd(bottom, c1)
    a, b, c, d = ikeep(known, a), ikeep(known, b), ikeep(known, c), ikeep(known, d)
    a, b, c, d = idrop(off_box, a), idrop(off_box, b), idrop(off_box, c), idrop(off_box, d)
    istore(corners, 0, a)
    istore(corners, LANES, b)
    istore(corners, 2 * LANES, c)
    istore(corners, 3 * LANES, d)
    istore(corners, 4 * LANES, imul(isub(c1, c0), isub(r1, r0)))
    istore(corners, 5 * LANES, iadd(imul(r0, iload(blocks, at + 2 * LANES)), c0))
    met = isub(iadd(gather(some, 0, d), gather(some, 0, a)), iadd(gather(some, 0, b), gather(some, 0, c)))
    return result[0], result[1], bits(both(known, izero(met))), result[2]


@_jit
def _warp_row(  # type: ignore[no-untyped-def]
    matrix, row, joint, e0, e1, weight, centres, centre, dy, dz, spacing, out
):
    """One homogeneous row of the brick's 64 voxels: sum_j w_j (M_j [x; 1]), into ``out`` (4 steps in x, 16 lanes in y, z).

    ``row`` is where the image's first joint has that row in ``matrix``, ``centre`` where ``centres`` has it for the brick's
    first joint. Lattice form: a joint's affine value is computed once on the 16 (y, z) and stepped in x.
    """
    # The steps are -3, -1, 1, 3 half spacings: sums and differences, which many processors do beside the multiplications.
    one_half, three_halves = splat(f4(0.5) * spacing), splat(f4(1.5) * spacing)
    if e1 - e0 == 1:
        m = row + np.int64(joint[e0]) * 12
        base = fma(splat_at(matrix, m + 1), dy, fma(splat_at(matrix, m + 2), dz, splat_at(centres, centre)))
        near, far = mul(splat_at(matrix, m), one_half), mul(splat_at(matrix, m), three_halves)
        store(out, 0, sub(base, far))
        store(out, 16, sub(base, near))
        store(out, 32, add(base, near))
        store(out, 48, add(base, far))
    else:
        zero = splat(f4(0.0))
        a0, a1, a2, a3 = zero, zero, zero, zero
        for e in range(e0, e1):
            m = row + np.int64(joint[e]) * 12
            base = splat_at(centres, centre + (e - e0) * (3 * LANES))
            base = fma(splat_at(matrix, m + 1), dy, fma(splat_at(matrix, m + 2), dz, base))
            near, far = mul(splat_at(matrix, m), one_half), mul(splat_at(matrix, m), three_halves)
            at = e * VOXELS
            a0 = fma(load(weight, at), sub(base, far), a0)
            a1 = fma(load(weight, at + 16), sub(base, near), a1)
            a2 = fma(load(weight, at + 32), add(base, near), a2)
            a3 = fma(load(weight, at + 48), add(base, far), a3)
        store(out, 0, a0)
        store(out, 16, a1)
        store(out, 32, a2)
        store(out, 48, a3)


@_jit
def _flush(group, num_all, den_all, num, den, first, b, shape, num_out, den_out):  # type: ignore[no-untyped-def]
    """Add a brick's counts to the outputs of a group and clear them."""
    nx, ny, nz = shape
    for x in range(min(SIDE, nx - first[b, 0])):
        for y in range(min(SIDE, ny - first[b, 1])):
            at = ((first[b, 0] + x) * ny + first[b, 1] + y) * nz + first[b, 2]
            for z in range(min(SIDE, nz - first[b, 2])):
                lane = (x * SIDE + y) * SIDE + z
                num_out[group, at + z] += num[lane] + num_all
                den_out[group, at + z] += den[lane] + den_all
    num[:] = 0
    den[:] = 0


@_jit
def _project(U, V, Z, u_centre, v_centre):  # type: ignore[no-untyped-def]
    """Homogeneous (U, V, Z) of 64 voxels to pixels, in place in U and V."""
    one = splat(f4(1.0))
    for s in range(0, VOXELS, LANES):
        inverse = div(one, load(Z, s))
        store(U, s, fma(load(U, s), inverse, u_centre))
        store(V, s, fma(load(V, s), inverse, v_centre))


@_jit
def _outside(U, V, Z, s, x0, y0, x1, y1):  # type: ignore[no-untyped-def]
    """Negative where a voxel is behind the camera or its pixel outside x0 <= u <= x1, y0 <= v <= y1."""
    u, v = load(U, s), load(V, s)
    out = sign_or(sub(load(Z, s), splat(TINY)), sign_or(sub(u, x0), sub(x1, u)))
    return sign_or(out, sign_or(sub(v, y0), sub(y1, v)))


@_jit
def vote(  # type: ignore[no-untyped-def]
    begin,
    end,
    count,
    sweep,
    cull,
    matrix,
    lanes,
    view,
    blocks,
    start,
    some,
    full,
    words,
    group,
    times,
    first,
    centre,
    joint_offset,
    joint,
    mean,
    spread,
    variation,
    weight,
    spacing,
    shape,
    lattice_y,
    lattice_z,
    num_out,
    den_out,
    stats,
):
    """Votes of bricks begin .. end - 1 for all ``count`` images, added to num_out, den_out (G, V).

    stats (4,) int64 gains brick-image pairs: all, decided without projecting voxels, outside the image; and voxels looked up.
    """
    vectors = len(matrix) // (12 * LANES)
    J = vectors // (len(view) // (VIEW_ROWS * LANES))
    num, den = np.zeros(VOXELS, np.int32), np.zeros(VOXELS, np.int32)
    centres, corners = np.empty(3 * LANES * J, np.float32), np.zeros(6 * LANES, np.int32)
    U, V, Z = np.empty(VOXELS, np.float32), np.empty(VOXELS, np.float32), np.empty(VOXELS, np.float32)
    out_of_box, bit_at, word_at = np.empty(VOXELS, np.float32), np.empty(VOXELS, np.int32), np.empty(VOXELS, np.int32)
    queue = np.empty(VOXELS // LANES + 1, np.int64)
    dy, dz = load(lattice_y, 0), load(lattice_z, 0)
    zero, ione, three, four, five = splat(f4(0.0)), isplat(1), isplat(3), isplat(4), isplat(5)
    fifteen, thirty_one = isplat(15), isplat(31)
    half = f4(1.5) * spacing
    decided, out_of_sight, lookups = 0, 0, 0
    for sweep_begin in range(0, count, sweep):
        sweep_end = min(count, sweep_begin + sweep)
        for b in range(begin, end):
            e0, e1 = joint_offset[b], joint_offset[b + 1]
            current = group[sweep_begin]
            num_all, den_all = np.int32(0), np.int32(0)
            for i0 in range(sweep_begin, sweep_end, LANES):
                _centres(lanes, i0 // LANES, J, joint, e0, e1, centre[b, 0], centre[b, 1], centre[b, 2], centres)
                outside = inside = off_mask = in_box = np.int32(0)
                if cull:
                    outside, inside, off_mask, in_box = _bound(
                        lanes,
                        view,
                        blocks,
                        some,
                        i0 // LANES,
                        J,
                        joint,
                        e0,
                        e1,
                        mean,
                        spread,
                        variation[b],
                        half,
                        centres,
                        corners,
                    )
                    # What the surviving images will read first, asked for before it is needed.
                    ahead = ALL_LANES & ~(outside | (inside & off_mask))
                    while ahead:
                        lane = trailing_zeros(ahead)
                        ahead &= ahead - 1
                        prefetch(words, start[i0 + lane] + 8 * np.int64(corners[5 * LANES + lane]))
                        prefetch(matrix, (np.int64(i0 + lane) * J + joint[e0]) * 12)
                for lane in range(min(LANES, sweep_end - i0)):
                    if outside >> lane & 1:
                        out_of_sight += 1
                        continue
                    i = i0 + lane
                    if group[i] != current:
                        _flush(current, num_all, den_all, num, den, first, b, shape, num_out, den_out)
                        current = group[i]
                        num_all, den_all = np.int32(0), np.int32(0)
                    time = times[i]
                    is_inside, is_off = inside >> lane & 1, off_mask >> lane & 1
                    if is_inside:
                        den_all += time
                        if is_off:
                            decided += 1
                            continue
                        if in_box >> lane & 1:
                            filled = full[corners[3 * LANES + lane]] - full[corners[2 * LANES + lane]]
                            filled += full[corners[lane]] - full[corners[LANES + lane]]
                            if filled == corners[4 * LANES + lane]:
                                decided += 1
                                num_all += time
                                continue

                    row = i * J * 12
                    _warp_row(matrix, row, joint, e0, e1, weight, centres, lane, dy, dz, spacing, U)
                    _warp_row(matrix, row + 4, joint, e0, e1, weight, centres, lane + LANES, dy, dz, spacing, V)
                    _warp_row(matrix, row + 8, joint, e0, e1, weight, centres, lane + 2 * LANES, dy, dz, spacing, Z)
                    at = i0 * VIEW_ROWS + lane
                    _project(U, V, Z, splat_at(view, at), splat_at(view, at + LANES))
                    if not is_inside:
                        width, height = splat_at(view, at + 2 * LANES), splat_at(view, at + 3 * LANES)
                        for s in range(0, VOXELS, LANES):
                            out = _outside(U, V, Z, s, zero, zero, width, height)
                            istore(den, s, iadd(iload(den, s), ikeep_positive(out, isplat(time))))
                    if is_off:
                        continue
                    # In three steps, so that the long chains of the four vectors overlap: pixels, addresses, mask bits.
                    x0, y0 = splat_at(view, at + 4 * LANES), splat_at(view, at + 5 * LANES)
                    x1, y1 = splat_at(view, at + 6 * LANES), splat_at(view, at + 7 * LANES)
                    at = i0 * BLOCK_ROWS + lane
                    block_x, block_y, across = isplat(blocks[at]), isplat(blocks[at + LANES]), isplat(blocks[at + 2 * LANES])
                    chosen = 0
                    for s in range(0, VOXELS, LANES):
                        out = _outside(U, V, Z, s, x0, y0, x1, y1)
                        store(out_of_box, s, out)
                        # Kept where the next vector overwrites it, unless some voxel is in the box: no branch to mispredict.
                        queue[chosen] = s
                        chosen += sign_bits(out) != ALL_LANES
                    for k in range(chosen):
                        s = queue[k]
                        out = load(out_of_box, s)
                        column = truncate(where_positive(out, load(U, s), x0))
                        line = truncate(where_positive(out, load(V, s), y0))
                        block = iadd(imul(isub(ishr(line, four), block_y), across), isub(ishr(column, four), block_x))
                        pixel = ior(ishl(iand(line, fifteen), four), iand(column, fifteen))
                        istore(word_at, s, ior(ishl(block, three), ishr(pixel, five)))
                        istore(bit_at, s, iand(pixel, thirty_one))
                    for k in range(chosen):
                        s = queue[k]
                        word = gather(words, start[i], iload(word_at, s))
                        hits = imul(iand(ishr(word, iload(bit_at, s)), ione), isplat(time))
                        istore(num, s, iadd(iload(num, s), ikeep_positive(load(out_of_box, s), hits)))
                    lookups += chosen * LANES
            _flush(current, num_all, den_all, num, den, first, b, shape, num_out, den_out)
    stats[0] += np.int64(end - begin) * count
    stats[1] += decided + out_of_sight
    stats[2] += out_of_sight
    stats[3] += lookups
