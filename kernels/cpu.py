"""Votes on the CPU: numba with 16-lane vectors, sparse joints in bricks, masks read as stored, exact culling.

``prepare`` folds K [R | t] B_j into one 3 x 4 matrix per image and joint; ``vote`` then walks bricks x images. Before a
brick's 64 voxels are projected, a bound on where they fall in the image decides most pairs: a brick whose rectangle
misses the mask's blocks (or lies in full ones) and lies inside the image (or misses it) needs no work per voxel.

The bound: with brick centre c, mean weights m_j, their spread s_j, and (U, V, Z) the homogeneous pixel of a point,
    U(x) - u Z(x) = sum_j w_j(x) D_j(x),   D_j = U_j - u Z_j,   u = U(c) / Z(c)  under the mean weights,
so |u(x) - u| <= (sum_j s_j |D_j(c)| + sum_j (m_j + s_j) r_j) / min Z, with r_j the exact reach of D_j over the brick.
It is dilated by a pixel, and by what float32 may be off, so culling never changes a count.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numba as nb
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField, check_call, empty_counts
from chorus.kernels.bricks import SIDE, TILE, VOXELS, Bricks, cut_into_bricks
from chorus.kernels.simd import (
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
    ikeep_positive,
    iload,
    imul,
    ior,
    ishl,
    ishr,
    isplat,
    istore,
    isub,
    load,
    lt,
    mul,
    sign_bits,
    sign_or,
    splat,
    splat_at,
    store,
    sub,
    truncate,
    vabs,
    vmax,
    vmin,
    where_positive,
)  # fmt: skip

IMAGES_PER_PASS = 2048
"""Images prepared at a time: bounds the working memory (about 12 KB an image)."""
IMAGES_PER_SWEEP = 128
"""Images that a run of bricks sees before the next run: their matrices stay in the second-level cache."""
BRICKS_PER_TASK = TILE**3
ALL_LANES = (1 << LANES) - 1

FLOAT_ERROR = 4e-6
"""Relative error granted to the float32 arithmetic of the bound and of the votes, some 30 roundings."""
MIN_DEPTH = 0.02
"""Bricks that come nearer to the camera plane than this (metres) are never culled."""

_jit = nb.njit(nogil=True, cache=True, error_model="numpy")
f4 = np.float32


@dataclass(frozen=True)
class Prepared:
    """One pass of images, sorted by group, in the kernel's layout; I is padded to whole vectors of 16 images.

    matrix     (I * J * 12,) float32  rows U, V, Z of K [R | t] B_j, principal point left out
    lanes      (I / 16 * J * 12 * 16,) float32  the same for vectors of 16 images, images fastest
    view       (I / 16 * 10 * 16,) float32  likewise cx, cy, W, H, x0, y0, x1, y1 (box), and what float32 may be off in U, V
               and in Z
    place      (I, 6) int64  first word, blocks per row, first block column and row, blocks in all, start in ``cells``
    cells      (C,) int32  per mask two summed-area tables of its blocks interleaved: not empty, full
    """

    matrix: NDArray[np.float32]
    lanes: NDArray[np.float32]
    view: NDArray[np.float32]
    place: NDArray[np.int64]
    cells: NDArray[np.int32]


@_jit
def _transforms(poses, joints, parents, rest_inverse, R, t, K, matrix):  # type: ignore[no-untyped-def]
    """matrix (J, 12) of one image: K' [R | t] A_j(zero -> theta) A_j(zero -> rest)^-1 in float64, K' without its centre."""
    J = len(parents)
    G = np.empty((J, 3, 4))  # global joint transforms
    local = np.empty((3, 3))
    P = np.empty((3, 4))
    for r in range(3):
        for c in range(3):
            P[r, c] = R[r, c]
        P[r, 3] = t[r]
    for c in range(4):
        P[0, c] = K[0, 0] * P[0, c] + K[0, 1] * P[1, c]
        P[1, c] = K[1, 1] * P[1, c]
    for j in range(J):
        x, y, z = np.float64(poses[j, 0]), np.float64(poses[j, 1]), np.float64(poses[j, 2])
        square = x * x + y * y + z * z
        if square < 1e-16:
            a, b = 1.0 - square / 6.0, 0.5 - square / 24.0
        else:
            angle = np.sqrt(square)
            a, b = np.sin(angle) / angle, (1.0 - np.cos(angle)) / square
        local[0, 0] = 1.0 - b * (y * y + z * z)
        local[1, 1] = 1.0 - b * (x * x + z * z)
        local[2, 2] = 1.0 - b * (x * x + y * y)
        local[0, 1], local[1, 0] = b * x * y - a * z, b * x * y + a * z
        local[0, 2], local[2, 0] = b * x * z + a * y, b * x * z - a * y
        local[1, 2], local[2, 1] = b * y * z - a * x, b * y * z + a * x
        p = parents[j]
        for r in range(3):
            if p < 0:
                for c in range(3):
                    G[j, r, c] = local[r, c]
                G[j, r, 3] = joints[j, r]
            else:
                for c in range(3):
                    G[j, r, c] = G[p, r, 0] * local[0, c] + G[p, r, 1] * local[1, c] + G[p, r, 2] * local[2, c]
                G[j, r, 3] = G[p, r, 3]
                for c in range(3):
                    G[j, r, 3] += G[p, r, c] * (joints[j, c] - joints[p, c])
    A = np.empty((3, 4))
    B = np.empty((3, 4))
    for j in range(J):
        for r in range(3):
            A[r, 3] = G[j, r, 3]
            for c in range(3):
                A[r, c] = G[j, r, c]
                A[r, 3] -= G[j, r, c] * joints[j, c]
        for r in range(3):
            for c in range(4):
                B[r, c] = A[r, 0] * rest_inverse[j, 0, c] + A[r, 1] * rest_inverse[j, 1, c] + A[r, 2] * rest_inverse[j, 2, c]
            B[r, 3] += A[r, 3]
        for r in range(3):
            for c in range(4):
                value = P[r, 0] * B[0, c] + P[r, 1] * B[1, c] + P[r, 2] * B[2, c]
                matrix[j, 4 * r + c] = value + (P[r, 3] if c == 3 else 0.0)


@_jit
def _summed_cells(words, first, across, down, cells):  # type: ignore[no-untyped-def]
    """Summed-area tables (down + 1, across + 1, 2) of the mask's blocks that are not empty, and that are full."""
    stride = 2 * (across + 1)
    for c in range(stride):
        cells[c] = 0
    for row in range(down):
        some, full = 0, 0
        above, here = row * stride, (row + 1) * stride
        cells[here] = 0
        cells[here + 1] = 0
        for column in range(across):
            at = first + 8 * (row * across + column)
            any_bit, all_bits = np.int32(0), np.int32(-1)
            for k in range(8):
                any_bit |= words[at + k]
                all_bits &= words[at + k]
            some += any_bit != 0
            full += all_bits == -1
            c = 2 * (column + 1)
            cells[here + c] = cells[above + c] + some
            cells[here + c + 1] = cells[above + c + 1] + full


@_jit
def _prepare(  # type: ignore[no-untyped-def]
    begin, end, poses, R, t, K, size, box, start, words, joints, parents, rest_inverse, reach, cell_start,
    matrix, lanes, view, place, cells,
):  # fmt: skip
    """Fill the arrays of ``Prepared`` for images begin .. end - 1; ``reach`` bounds |x|, |y|, |z| of the grid in metres."""
    J = len(parents)
    M = np.empty((J, 12))
    for i in range(begin, end):
        _transforms(poses[i], joints, parents, rest_inverse, R[i], t[i], K[i], M)
        for j in range(J):
            for c in range(12):
                matrix[(i * J + j) * 12 + c] = M[j, c]
        scale_u, scale_z = 0.0, 0.0
        for j in range(J):
            for c in range(12):
                lanes[((i // LANES * J + j) * 12 + c) * LANES + i % LANES] = M[j, c]
            for r in range(3):
                size_of_terms = abs(M[j, 4 * r + 3])
                for c in range(3):
                    size_of_terms += reach * abs(M[j, 4 * r + c])
                if r < 2:
                    scale_u = max(scale_u, size_of_terms)
                else:
                    scale_z = max(scale_z, size_of_terms)
        height, width = size[i, 0], size[i, 1]
        x0, y0, x1, y1 = box[i, 0], box[i, 1], box[i, 2], box[i, 3]
        empty = x1 <= x0 or y1 <= y0
        at = i // LANES * (10 * LANES) + i % LANES
        view[at] = K[i, 0, 2]
        view[at + LANES] = K[i, 1, 2]
        view[at + 2 * LANES] = width
        view[at + 3 * LANES] = height
        # An empty mask gets a box that no pixel is in and every rectangle misses.
        view[at + 4 * LANES] = 1e9 if empty else x0
        view[at + 5 * LANES] = 1e9 if empty else y0
        view[at + 6 * LANES] = -1e9 if empty else x1
        view[at + 7 * LANES] = -1e9 if empty else y1
        # u = U / Z + cx: an error of U, or of Z where it stands for as many pixels as the image and its centre are wide.
        pixels = max(width, height) + abs(K[i, 0, 2]) + abs(K[i, 1, 2])
        view[at + 8 * LANES] = FLOAT_ERROR * (scale_u + pixels * scale_z)
        view[at + 9 * LANES] = FLOAT_ERROR * scale_z
        first_column, first_row = x0 >> 4, y0 >> 4
        across, down = ((x1 + 15) >> 4) - first_column, ((y1 + 15) >> 4) - first_row
        if empty:
            across, down = 0, 0
        place[i, 0] = start[i]
        place[i, 1] = across
        place[i, 2] = first_column
        place[i, 3] = first_row
        place[i, 4] = down
        place[i, 5] = cell_start[i]
        _summed_cells(words, start[i], across, down, cells[cell_start[i] : cell_start[i + 1]])


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
def _bound(lanes, view, block, J, joint, e0, e1, mean, spread, half, centres, cells_seen):  # type: ignore[no-untyped-def]
    """Where a brick falls in 16 images, as bits: outside the image, inside it, off the mask's box, inside the box, known.

    ``half`` is half the side of the cube of voxel centres. ``cells_seen`` receives, for images in ``known`` that are not off
    the box, the first and last column and row of blocks that the brick may meet, 16 each. Images in which the brick reaches the
    camera plane are not ``known`` and in no other mask (unless all of it is behind the camera: outside).
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
    du, dv, dz = zero, zero, zero
    for e in range(e0, e1):
        at = (block * J + np.int64(joint[e])) * (12 * LANES)
        s = splat_at(spread, e)
        reach = mul(add(splat_at(mean, e), s), splat(half))
        zx, zy, zz = load(lanes, at + 8 * LANES), load(lanes, at + 9 * LANES), load(lanes, at + 10 * LANES)
        dz = fma(reach, add(add(vabs(zx), vabs(zy)), vabs(zz)), dz)
        x, y, z = load(lanes, at), load(lanes, at + LANES), load(lanes, at + 2 * LANES)
        x, y, z = vabs(sub(x, mul(u, zx))), vabs(sub(y, mul(u, zy))), vabs(sub(z, mul(u, zz)))
        du = fma(reach, add(add(x, y), z), du)
        x, y, z = load(lanes, at + 4 * LANES), load(lanes, at + 5 * LANES), load(lanes, at + 6 * LANES)
        x, y, z = vabs(sub(x, mul(v, zx))), vabs(sub(y, mul(v, zy))), vabs(sub(z, mul(v, zz)))
        dv = fma(reach, add(add(x, y), z), dv)
        if e1 - e0 > 1:
            at = (e - e0) * (3 * LANES)
            z = load(centres, at + 2 * LANES)
            du = fma(s, vabs(sub(load(centres, at), mul(u, z))), du)
            dv = fma(s, vabs(sub(load(centres, at + LANES), mul(v, z))), dv)
            dz = fma(s, vabs(sub(z, Z)), dz)
    error = load(view, seen + 8 * LANES)
    dz = add(dz, load(view, seen + 9 * LANES))
    nearest = sub(Z, dz)
    known = bits(gt(nearest, splat(f4(MIN_DEPTH))))
    behind = bits(lt(add(Z, dz), zero))
    inverse = div(one, nearest)
    du, dv = fma(add(du, error), inverse, one), fma(add(dv, error), inverse, one)
    u, v = add(u, load(view, seen)), add(v, load(view, seen + LANES))
    u0, u1, v0, v1 = sub(u, du), add(u, du), sub(v, dv), add(v, dv)
    width, height = load(view, seen + 2 * LANES), load(view, seen + 3 * LANES)
    x0, y0 = load(view, seen + 4 * LANES), load(view, seen + 5 * LANES)
    x1, y1 = load(view, seen + 6 * LANES), load(view, seen + 7 * LANES)
    outside = bits(either(either(lt(u1, zero), lt(v1, zero)), either(ge(u0, width), ge(v0, height))))
    inside = bits(both(both(ge(u0, zero), ge(v0, zero)), both(lt(u1, width), lt(v1, height))))
    off_box = bits(either(either(lt(u1, x0), lt(v1, y0)), either(ge(u0, x1), ge(v0, y1))))
    in_box = bits(both(both(ge(u0, x0), ge(v0, y0)), both(lt(u1, x1), lt(v1, y1))))
    four = isplat(4)
    istore(cells_seen, 0, ishr(truncate(vmax(u0, x0)), four))
    istore(cells_seen, LANES, ishr(truncate(vmax(v0, y0)), four))
    istore(cells_seen, 2 * LANES, ishr(truncate(vmin(u1, sub(x1, one))), four))
    istore(cells_seen, 3 * LANES, ishr(truncate(vmin(v1, sub(y1, one))), four))
    return behind | (known & outside), known & inside, known & off_box, known & in_box, known


@_jit
def _cells_hit(seen, lane, in_box, place, i, cells):  # type: ignore[no-untyped-def]
    """0: the blocks a brick may meet hold no pixel of the mask; 2: all of them are full and it meets no other; 1: neither."""
    c0, c1 = seen[lane] - place[i, 2], seen[2 * LANES + lane] - place[i, 2] + 1
    r0, r1 = seen[LANES + lane] - place[i, 3], seen[3 * LANES + lane] - place[i, 3] + 1
    stride = 2 * (place[i, 1] + 1)
    top, bottom = place[i, 5] + r0 * stride, place[i, 5] + r1 * stride
    a, b, c, d = top + 2 * c0, top + 2 * c1, bottom + 2 * c0, bottom + 2 * c1
    if cells[d] - cells[c] - cells[b] + cells[a] == 0:
        return 0
    if in_box and cells[d + 1] - cells[c + 1] - cells[b + 1] + cells[a + 1] == (c1 - c0) * (r1 - r0):
        return 2
    return 1


@_jit
def _warp_row(  # type: ignore[no-untyped-def]
    matrix, row, joint, e0, e1, weight, centres, centre, dy, dz, spacing, out
):
    """One homogeneous row of the brick's 64 voxels: sum_j w_j (M_j [x; 1]), into ``out`` (4 steps in x, 16 lanes in y, z).

    ``row`` is where the image's first joint has that row in ``matrix``, ``centre`` where ``centres`` has it for the brick's
    first joint. Lattice form: a joint's affine value is computed once on the 16 (y, z) and stepped in x.
    """
    s0, s1 = splat(f4(-1.5) * spacing), splat(f4(-0.5) * spacing)
    s2, s3 = splat(f4(0.5) * spacing), splat(f4(1.5) * spacing)
    if e1 - e0 == 1:
        m = row + np.int64(joint[e0]) * 12
        base = fma(splat_at(matrix, m + 1), dy, fma(splat_at(matrix, m + 2), dz, splat_at(centres, centre)))
        step = splat_at(matrix, m)
        store(out, 0, fma(step, s0, base))
        store(out, 16, fma(step, s1, base))
        store(out, 32, fma(step, s2, base))
        store(out, 48, fma(step, s3, base))
    else:
        zero = splat(f4(0.0))
        a0, a1, a2, a3 = zero, zero, zero, zero
        for e in range(e0, e1):
            m = row + np.int64(joint[e]) * 12
            base = splat_at(centres, centre + (e - e0) * (3 * LANES))
            base = fma(splat_at(matrix, m + 1), dy, fma(splat_at(matrix, m + 2), dz, base))
            step = splat_at(matrix, m)
            at = e * VOXELS
            a0 = fma(load(weight, at), fma(step, s0, base), a0)
            a1 = fma(load(weight, at + 16), fma(step, s1, base), a1)
            a2 = fma(load(weight, at + 32), fma(step, s2, base), a2)
            a3 = fma(load(weight, at + 48), fma(step, s3, base), a3)
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
def _vote(  # type: ignore[no-untyped-def]
    begin, end, count, sweep, cull, matrix, lanes, view, place, cells, words, group, times,
    first, centre, joint_offset, joint, mean, spread, weight, spacing, shape, lattice_y, lattice_z, num_out, den_out, stats,
):  # fmt: skip
    """Votes of bricks begin .. end - 1 for all ``count`` images, added to num_out, den_out (G, V).

    stats (4,) int64 gains brick-image pairs: all, decided without projecting voxels, outside the image; and voxels looked up.
    """
    row_stride = len(matrix) // len(place)
    J = row_stride // 12
    num, den = np.zeros(VOXELS, np.int32), np.zeros(VOXELS, np.int32)
    centres, cells_seen = np.empty(3 * LANES * J, np.float32), np.empty(4 * LANES, np.int32)
    U, V, Z = np.empty(VOXELS, np.float32), np.empty(VOXELS, np.float32), np.empty(VOXELS, np.float32)
    dy, dz = load(lattice_y, 0), load(lattice_z, 0)
    one, tiniest = splat(f4(1.0)), splat(f4(1.2e-38))
    ione, three, four, five = isplat(1), isplat(3), isplat(4), isplat(5)
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
                outside = inside = off_box = in_box = known = np.int32(0)
                if cull:
                    outside, inside, off_box, in_box, known = _bound(
                        lanes, view, i0 // LANES, J, joint, e0, e1, mean, spread, half, centres, cells_seen
                    )
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
                    is_inside, hit = inside >> lane & 1, 1
                    if off_box >> lane & 1:
                        hit = 0
                    elif known >> lane & 1:
                        hit = _cells_hit(cells_seen, lane, in_box >> lane & 1, place, i, cells)
                    if is_inside:
                        den_all += time
                        if hit != 1:
                            decided += 1
                            num_all += time * (hit >> 1)
                            continue

                    row = i * row_stride
                    _warp_row(matrix, row, joint, e0, e1, weight, centres, lane, dy, dz, spacing, U)
                    _warp_row(matrix, row + 4, joint, e0, e1, weight, centres, lane + LANES, dy, dz, spacing, V)
                    _warp_row(matrix, row + 8, joint, e0, e1, weight, centres, lane + 2 * LANES, dy, dz, spacing, Z)
                    at = i0 * 10 + lane
                    u_centre, v_centre = splat_at(view, at), splat_at(view, at + LANES)
                    if not is_inside:
                        # The largest float below W: u < W is then the sign of a difference, as u >= 0 is.
                        width = splat(np.nextafter(view[at + 2 * LANES], f4(0.0)))
                        height = splat(np.nextafter(view[at + 3 * LANES], f4(0.0)))
                        for s in range(0, VOXELS, LANES):
                            z = load(Z, s)
                            inverse = div(one, z)
                            u, v = fma(load(U, s), inverse, u_centre), fma(load(V, s), inverse, v_centre)
                            out = sign_or(sub(z, tiniest), sign_or(u, sub(width, u)))
                            out = sign_or(out, sign_or(v, sub(height, v)))
                            istore(den, s, iadd(iload(den, s), ikeep_positive(out, isplat(time))))
                    if hit == 0:
                        continue
                    x0, y0 = splat_at(view, at + 4 * LANES), splat_at(view, at + 5 * LANES)
                    x1 = splat(np.nextafter(view[at + 6 * LANES], f4(-1e9)))
                    y1 = splat(np.nextafter(view[at + 7 * LANES], f4(-1e9)))
                    word0, across = place[i, 0], isplat(np.int32(place[i, 1]))
                    block_x, block_y = isplat(np.int32(place[i, 2])), isplat(np.int32(place[i, 3]))
                    for s in range(0, VOXELS, LANES):
                        z = load(Z, s)
                        inverse = div(one, z)
                        u, v = fma(load(U, s), inverse, u_centre), fma(load(V, s), inverse, v_centre)
                        out = sign_or(sub(z, tiniest), sign_or(sub(u, x0), sub(x1, u)))
                        out = sign_or(out, sign_or(sub(v, y0), sub(y1, v)))
                        if sign_bits(out) == ALL_LANES:
                            continue
                        lookups += LANES
                        column, row_px = truncate(where_positive(out, u, x0)), truncate(where_positive(out, v, y0))
                        block = iadd(imul(isub(ishr(row_px, four), block_y), across), isub(ishr(column, four), block_x))
                        pixel = ior(ishl(iand(row_px, fifteen), four), iand(column, fifteen))
                        word = gather(words, word0, ior(ishl(block, three), ishr(pixel, five)))
                        hits = iand(ishr(word, iand(pixel, thirty_one)), ione)
                        istore(num, s, iadd(iload(num, s), ikeep_positive(out, imul(hits, isplat(time)))))
            _flush(current, num_all, den_all, num, den, first, b, shape, num_out, den_out)
    stats[0] += np.int64(end - begin) * count
    stats[1] += decided + out_of_sight
    stats[2] += out_of_sight
    stats[3] += lookups


@dataclass
class CullingStats:
    """What ``count_votes`` did with its brick-image pairs."""

    pairs: int = 0
    decided: int = 0
    """without projecting a voxel: all inside or outside the image and all off or on the mask"""
    outside: int = 0
    """of those, outside the image or behind the camera"""
    lookups: int = 0
    """voxels whose mask bit was read"""


_bricks_of: WeakKeyDictionary[VoxelField, Bricks] = WeakKeyDictionary()


def bricks(field: VoxelField) -> Bricks:
    """The bricks of a field, cut once and kept as long as the field lives."""
    found = _bricks_of.get(field)
    if found is None:
        found = _bricks_of[field] = cut_into_bricks(field)
    return found


def default_threads() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="chorus-votes")


def _run(threads: int, work: Any, pieces: list[tuple[int, int]]) -> None:
    if threads == 1:
        for piece in pieces:
            work(*piece)
    else:
        list(_pool(threads).map(lambda piece: work(*piece), pieces))


def _split(total: int, step: int) -> list[tuple[int, int]]:
    return [(first, min(total, first + step)) for first in range(0, total, step)]


def prepare(field: VoxelField, images: VoteImages, order: NDArray[np.intp], threads: int) -> Prepared:
    """Matrices, views and summed block tables of the images ``order``, in that order."""
    n, J = len(order), field.num_joints
    padded = -(-n // LANES) * LANES
    poses, R, t, K, size, box, start = (
        np.ascontiguousarray(np.asarray(a)[order])
        for a in (images.poses, images.R, images.t, images.K, images.size, images.box, images.start)
    )
    blocks = (box[:, 2:].astype(np.int64) + 15) // 16 - box[:, :2] // 16
    tables = np.where((box[:, 2:] > box[:, :2]).all(1), 2 * (blocks + 1).prod(1), 2)
    cell_start = np.concatenate([[0], np.cumsum(tables)])
    ready = Prepared(
        matrix=np.zeros(padded * J * 12, np.float32),
        lanes=np.zeros(J * 12 * padded, np.float32),
        view=np.zeros(10 * padded, np.float32),
        place=np.zeros((padded, 6), np.int64),
        cells=np.zeros(cell_start[-1], np.int32),
    )
    far = max(
        abs(edge)
        for start_m, count in zip(field.origin, field.shape, strict=True)
        for edge in (start_m, start_m + field.spacing * (count + SIDE))
    )

    def work(begin: int, end: int) -> None:
        _prepare(
            begin, end, poses, R, t, K, size, box, start, np.asarray(images.words), np.asarray(field.rest_joints),
            np.asarray(field.parents), np.asarray(field.rest_inverse), far, cell_start,
            ready.matrix, ready.lanes, ready.view, ready.place, ready.cells,
        )  # fmt: skip

    _run(threads, work, _split(n, 64))
    return ready


def count_votes(
    field: VoxelField,
    images: VoteImages,
    group: Tensor,
    weight: Tensor | None = None,
    *,
    num_groups: int,
    out: tuple[Tensor, Tensor] | None = None,
    threads: int | None = None,
    cull: bool = True,
    stats: CullingStats | None = None,
) -> tuple[Tensor, Tensor]:
    """Votes by group: (num, den), int32 (G, V). Arguments as in ``chorus.kernels.arrays``, on the CPU.

    threads  None for every processor this process may run on
    cull     False projects every voxel into every image; the counts are the same bits
    stats    filled with what the culling did
    """
    check_call(field, images, group, weight, num_groups)
    threads = threads or default_threads()
    cut = bricks(field)
    out = out or empty_counts(field, num_groups, "cpu")
    num, den = out[0].numpy(), out[1].numpy()
    groups = np.asarray(group).astype(np.int64)
    times = np.ones(len(images), np.int32) if weight is None else np.asarray(weight).astype(np.int32)
    # Sorting by group lets a brick keep one group's 64 counts in registers' reach and add them up once.
    order = np.argsort(groups, kind="stable")
    lane = np.arange(LANES)
    lattice_y = (((lane // SIDE) - 1.5) * field.spacing).astype(np.float32)
    lattice_z = (((lane % SIDE) - 1.5) * field.spacing).astype(np.float32)
    pieces = _split(len(cut), BRICKS_PER_TASK)
    totals = np.zeros((len(pieces), 4), np.int64)
    words = np.asarray(images.words)
    for begin, end in _split(len(images), IMAGES_PER_PASS):
        rows = order[begin:end]
        ready = prepare(field, images, rows, threads)
        row_groups, row_times = groups[rows], times[rows]

        def work(first: int, last: int, ready: Prepared = ready, g: Any = row_groups, w: Any = row_times) -> None:
            _vote(
                first, last, len(g), IMAGES_PER_SWEEP, cull,
                ready.matrix, ready.lanes, ready.view, ready.place, ready.cells, words, g, w,
                cut.first, cut.centre, cut.joint_offset, cut.joint, cut.mean, cut.spread, cut.weight,
                np.float32(field.spacing), field.shape, lattice_y, lattice_z, num, den, totals[first // BRICKS_PER_TASK],
            )  # fmt: skip

        _run(threads, work, pieces)
    if stats is not None:
        pairs, decided, outside, lookups = (int(x) for x in totals.sum(0))
        stats.pairs, stats.decided, stats.outside, stats.lookups = pairs, decided, outside, lookups
    return out
