"""The Triton kernels of ``triton_neighbours``: k-th nearest vertices, weights, smoothing, look-up. float32."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from chorus.kernels.gpu.ahead_of_time import Compilation

SIDE = 4
TILE = 32
"""Vertices of a tile."""
CHUNK = 256
"""Tiles that ``find_candidates`` looks at in one go."""
CELLS = 256
"""Voxels of a program that smooths: one a thread, or loads of different alignment would be shuffled to fit each other."""
POINTS = 128
"""Voxels of a program that looks up."""
FEWEST_COLUMNS = 32
"""Joints that ``weigh_bricks`` is compiled for at least; for more, the next power of two."""
STAGES = 2
"""Software pipelining of all kernels here; said at every launch, as what Triton takes by default is another number."""
_SIDE = tl.constexpr(SIDE)
_LARGEST = tl.constexpr(0x7F7FFFFF)  # bits of the largest float32; non-negative floats are ordered as their bits
_SLACK = tl.constexpr(1.00001)  # bounds are widened by more than float32 rounds


@triton.jit
def _brick_centre(brick, counts_y, counts_z, origin_x, origin_y, origin_z, spacing):
    """First voxel of a brick, and the centre of its 64 voxel centres."""
    i = brick // (counts_y * counts_z) * _SIDE
    j = brick // counts_z % counts_y * _SIDE
    k = brick % counts_z * _SIDE
    half: tl.constexpr = (_SIDE - 1) / 2
    return i, j, k, origin_x + (i + half) * spacing, origin_y + (j + half) * spacing, origin_z + (k + half) * spacing


@triton.jit
def _voxels(i, j, k, origin_x, origin_y, origin_z, spacing):
    """Indices and centres of the 64 voxels of the brick that begins at (i, j, k): the same bits in every kernel."""
    lane = tl.arange(0, 64)
    i, j, k = i + lane // 16, j + lane // 4 % 4, k + lane % 4
    x = tl.fma(i.to(tl.float32), spacing, origin_x)
    y = tl.fma(j.to(tl.float32), spacing, origin_y)
    z = tl.fma(k.to(tl.float32), spacing, origin_z)
    return i, j, k, x, y, z


@triton.jit
def _outside(x, centre, half, side):
    """How far a box begins beyond ``side`` of x along an axis, at least 0."""
    return tl.maximum(tl.abs(centre - x) - half - side, 0.0)


@triton.jit(do_not_specialize=["num_tiles", "num_vertices", "first_brick", "counts_y", "counts_z", "k"])
def find_candidates(
    boxes,
    num_tiles,
    num_vertices,
    first_brick,
    counts_y,
    counts_z,
    origin_x,
    origin_y,
    origin_z,
    spacing,
    tau,
    k,
    lists,
    bounds,
    counts,
    reaches,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Tiles that can hold one of the k nearest vertices of a voxel of a brick; a program a brick.

    boxes    (6, T) float32 centres and half sides of the tiles' bounding boxes
    lists    (B, T) int32 out: the tiles          bounds   (B, T) float32 out: squared distances of their boxes from the brick's
    counts   (B,) int32 out: how many; 0 where no vertex is within tau of any voxel
    reaches  (B,) float32 out: no less than the k-th distance from the brick's centre
    """
    program = tl.program_id(0)
    _, _, _, x, y, z = _brick_centre(first_brick + program, counts_y, counts_z, origin_x, origin_y, origin_z, spacing)
    side = (_SIDE - 1) / 2 * spacing
    lane = tl.arange(0, CHUNK)
    # The least bound under which lie whole tiles of k vertices in all: bisected on its bits.
    low, high = tl.full((), -1, tl.int32), tl.full((), _LARGEST, tl.int32)
    for _ in range(31):
        middle = low + (high - low) // 2
        below = tl.zeros((CHUNK,), tl.int32)
        for first in range(0, num_tiles, CHUNK):
            t = first + lane
            valid = t < num_tiles
            a = tl.abs(tl.load(boxes + t, mask=valid, other=0) - x) + tl.load(boxes + 3 * num_tiles + t, mask=valid, other=0)
            b = tl.abs(tl.load(boxes + num_tiles + t, mask=valid, other=0) - y)
            b += tl.load(boxes + 4 * num_tiles + t, mask=valid, other=0)
            c = tl.abs(tl.load(boxes + 2 * num_tiles + t, mask=valid, other=0) - z)
            c += tl.load(boxes + 5 * num_tiles + t, mask=valid, other=0)
            farthest = (a * a + b * b + c * c).to(tl.int32, bitcast=True)
            below += tl.where(valid & (farthest <= middle), tl.minimum(num_vertices - t * TILE, TILE), 0)
        enough = tl.sum(below) >= k
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle)
    reach = tl.sqrt(high.to(tl.float32, bitcast=True)) * _SLACK
    limit = (reach + 1.7320508 * side) * _SLACK
    count = tl.full((), 0, tl.int32)
    nearest = tl.full((), 3e38, tl.float32)
    row = program.to(tl.int64) * num_tiles
    for first in range(0, num_tiles, CHUNK):
        t = first + lane
        valid = t < num_tiles
        a = _outside(x, tl.load(boxes + t, mask=valid, other=0), tl.load(boxes + 3 * num_tiles + t, mask=valid, other=0), side)
        b = tl.load(boxes + num_tiles + t, mask=valid, other=0)
        b = _outside(y, b, tl.load(boxes + 4 * num_tiles + t, mask=valid, other=0), side)
        c = tl.load(boxes + 2 * num_tiles + t, mask=valid, other=0)
        c = _outside(z, c, tl.load(boxes + 5 * num_tiles + t, mask=valid, other=0), side)
        bound = a * a + b * b + c * c
        nearest = tl.minimum(nearest, tl.min(tl.where(valid, bound, 3e38)))
        keep = valid & (bound <= limit * limit)
        place = count + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(lists + row + place, t, mask=keep)
        tl.store(bounds + row + place, bound, mask=keep)
        count += tl.sum(keep.to(tl.int32))
    tl.store(counts + program, tl.where(nearest <= tau * tau * _SLACK, count, 0))
    tl.store(reaches + program, reach)


@triton.jit
def _squared(points, tile, x, y, z, TILE: tl.constexpr):
    """Squared distances of a tile's vertices from 64 voxels, (TILE, 64): the same bits at every call.

    Voxels are the lanes of a warp: what is known of them takes few registers, and a vertex is read by all lanes at once.
    """
    vertex = points + tile * (3 * TILE) + tl.arange(0, TILE)
    dx = tl.load(vertex)[:, None] - x[None, :]
    dy = tl.load(vertex + TILE)[:, None] - y[None, :]
    dz = tl.load(vertex + 2 * TILE)[:, None] - z[None, :]
    return tl.fma(dz, dz, tl.fma(dy, dy, dx * dx))


@triton.jit
def _narrow(low, high, below_low, below_high, threshold, found, k, busy):
    """What a count at a threshold says of the k-th smallest, where ``busy``: low < it <= high, with the counts at both."""
    enough = busy & (found >= k) & (threshold <= high)
    high, below_high = tl.where(enough, threshold, high), tl.where(enough, found, below_high)
    short = busy & (found < k) & (threshold >= low)
    return tl.where(short, threshold, low), high, tl.where(short, found, below_low), below_high


@triton.jit(do_not_specialize=["num_tiles", "first_brick", "NX", "NY", "NZ", "counts_y", "counts_z", "k"])
def find_kth(
    points,
    boxes,
    lists,
    bounds,
    counts,
    reaches,
    num_tiles,
    first_brick,
    NX,
    NY,
    NZ,
    counts_y,
    counts_z,
    origin_x,
    origin_y,
    origin_z,
    spacing,
    tau,
    k,
    farthest,
    shares,
    TILE: tl.constexpr,
):
    """The k-th smallest squared distance from each of the 64 voxels of a brick, by counting; a program a brick.

    points    (T, 3, TILE) float32 vertices in the tiles' order
    farthest  (B, 64) float32 out: that distance; -1 for voxels outside the lattice and those that no box is near
    shares    (B, 64) float32 out: what each vertex at that distance counts, below 1 where more share it than are wanted
    """
    program = tl.program_id(0)
    count = tl.load(counts + program)
    if count == 0:
        return
    i, j, m, cx, cy, cz = _brick_centre(first_brick + program, counts_y, counts_z, origin_x, origin_y, origin_z, spacing)
    i, j, m, x, y, z = _voxels(i, j, m, origin_x, origin_y, origin_z, spacing)
    row = program.to(tl.int64) * num_tiles

    # Where it lies: at least at the nearest box, at most at the reach from the centre and the way from there.
    low2 = tl.full((64,), 3e38, tl.float32)
    for n in range(count):
        box = boxes + tl.load(lists + row + n)
        a = _outside(x, tl.load(box), tl.load(box + 3 * num_tiles), 0.0)
        b = _outside(y, tl.load(box + num_tiles), tl.load(box + 4 * num_tiles), 0.0)
        c = _outside(z, tl.load(box + 2 * num_tiles), tl.load(box + 5 * num_tiles), 0.0)
        low2 = tl.minimum(low2, a * a + b * b + c * c)
    away = tl.sqrt((x - cx) * (x - cx) + (y - cy) * (y - cy) + (z - cz) * (z - cz))
    high2 = (tl.load(reaches + program) + away) * _SLACK
    wanted = (i < NX) & (j < NY) & (m < NZ) & (low2 <= tau * tau * _SLACK)
    low = tl.maximum((low2 * (2.0 - _SLACK)).to(tl.int32, bitcast=True) - 1, -1)
    high = (high2 * high2 * _SLACK).to(tl.int32, bitcast=True)
    below_low, below_high = tl.zeros((64,), tl.int32), tl.zeros((64,), tl.int32) + (k + 1)
    nobody = tl.zeros((TILE, 64), tl.int32)
    busy = wanted
    while tl.max(busy.to(tl.int32)) > 0:
        # Into four parts, not two: a distance costs more than comparing it.
        step = high - low
        first, second = low + step // 4, low + step // 2
        third = second + step // 4
        limit = tl.max(tl.where(busy, third.to(tl.float32, bitcast=True), 0.0)) * _SLACK
        below_first, below_second, below_third = nobody, nobody, nobody
        for n in range(count):
            if tl.load(bounds + row + n) <= limit:  # a tile beyond every threshold adds to no count
                square = _squared(points, tl.load(lists + row + n), x, y, z, TILE)
                # -1 where not above the threshold: the sign of a difference of bits, added at once. A comparison takes longer.
                bits = square.to(tl.int32, bitcast=True)
                below_first -= (bits - (first + 1)[None, :]) >> 31
                below_second -= (bits - (second + 1)[None, :]) >> 31
                below_third -= (bits - (third + 1)[None, :]) >> 31
        low, high, below_low, below_high = _narrow(low, high, below_low, below_high, third, tl.sum(below_third, 0), k, busy)
        low, high, below_low, below_high = _narrow(low, high, below_low, below_high, second, tl.sum(below_second, 0), k, busy)
        low, high, below_low, below_high = _narrow(low, high, below_low, below_high, first, tl.sum(below_first, 0), k, busy)
        busy = busy & (below_high != k) & (high - low > 1)
    at = program.to(tl.int64) * 64 + tl.arange(0, 64)
    tl.store(farthest + at, tl.where(wanted, high.to(tl.float32, bitcast=True), -1.0))
    left = (k - below_low).to(tl.float32) / (below_high - below_low).to(tl.float32)
    tl.store(shares + at, tl.where(below_high > k, left, 1.0))


@triton.jit(do_not_specialize=["num_tiles", "joints", "first_brick", "NX", "NY", "NZ", "counts_y", "counts_z"])
def weigh_bricks(
    points,
    table,
    lists,
    bounds,
    counts,
    farthest,
    shares,
    num_tiles,
    joints,
    first_brick,
    NX,
    NY,
    NZ,
    counts_y,
    counts_z,
    origin_x,
    origin_y,
    origin_z,
    spacing,
    tau,
    s,
    weights,
    near,
    JOINTS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Weights (Eq. 4, 9, 10) of the 64 voxels of a brick from the k-th distances; what is far is left as it is.

    table    (JOINTS, T * TILE) float32 weights of the vertices in the tiles' order
    weights  (J, V) float32 and near (V,) uint8: out
    """
    program = tl.program_id(0)
    count = tl.load(counts + program)
    if count == 0:
        return
    i, j, m, _, _, _ = _brick_centre(first_brick + program, counts_y, counts_z, origin_x, origin_y, origin_z, spacing)
    i, j, m, x, y, z = _voxels(i, j, m, origin_x, origin_y, origin_z, spacing)
    row = program.to(tl.int64) * num_tiles
    at = program.to(tl.int64) * 64 + tl.arange(0, 64)
    last, share = tl.load(farthest + at), tl.load(shares + at)
    limit = tl.max(last) * _SLACK
    blended = tl.zeros((JOINTS, 64), tl.float32)
    total = tl.zeros((TILE, 64), tl.float32)
    least = tl.full((TILE, 64), 3e38, tl.float32)
    for n in range(count):
        if tl.load(bounds + row + n) <= limit:
            tile = tl.load(lists + row + n)
            square = _squared(points, tile, x, y, z, TILE)
            taken = square <= last[None, :]
            if tl.sum(taken.to(tl.int32)) > 0:
                # At distance 0 the inverse is so large that nothing else counts.
                inverse = tl.where(taken, tl.rsqrt(tl.maximum(square, 1e-30)), 0.0)
                inverse *= tl.where(square == last[None, :], share[None, :], 1.0)
                column = table + tl.arange(0, JOINTS)[:, None] * (num_tiles * TILE) + tile * TILE
                blended = tl.dot(tl.load(column + tl.arange(0, TILE)[None, :]), inverse, blended, input_precision="ieee")
                total += inverse
                least = tl.minimum(least, square)
    d = tl.sqrt(tl.min(least, 0))
    close = (last >= 0) & (d <= tau)
    nearness = (tau - d) / (tau + d)
    alpha = tl.where(nearness > 0, tl.exp2(s * tl.log2(tl.maximum(nearness, 1e-30))), 0.0)
    scale = alpha / tl.where(close, tl.sum(total, 0), 1.0)
    joint = tl.arange(0, JOINTS)[:, None]
    blended = blended * scale[None, :] + tl.where(joint == 0, 1.0 - alpha[None, :], 0.0)
    voxel = (i.to(tl.int64) * NY + j) * NZ + m
    out = weights + joint.to(tl.int64) * NX * NY * NZ + voxel[None, :]
    tl.store(out, blended, mask=close[None, :] & (joint < joints))
    tl.store(near + voxel, close.to(tl.uint8), mask=close)


@triton.jit(do_not_specialize=["num_voxels", "NZ", "plane"])
def smooth_step(now, out, total, free, num_voxels, NZ, plane, take, coefficient, CELLS: tl.constexpr, SERIES: tl.constexpr):
    """out <- a step, or a term, of ``now`` at the free voxels of one joint; the others are left as they are.

    SERIES false: out <- now + take (sum of the 6 neighbours - 6 now)
    SERIES true:  out <- out + take (sum of the 6 neighbours - 6 out), take = 1/3: T_(m+1) from T_m and T_(m-1); and
                  total <- total + coefficient out
    free  (V,) int32        now, out, total  (J, V) float32
    """
    voxel = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    is_free = tl.load(free + voxel, mask=voxel < num_voxels, other=0) != 0
    at = tl.program_id(1).to(tl.int64) * num_voxels + voxel
    around = tl.load(now + at - 1, mask=is_free, other=0) + tl.load(now + at + 1, mask=is_free, other=0)
    around += tl.load(now + at - NZ, mask=is_free, other=0) + tl.load(now + at + NZ, mask=is_free, other=0)
    around += tl.load(now + at - plane, mask=is_free, other=0) + tl.load(now + at + plane, mask=is_free, other=0)
    here = tl.load((out if SERIES else now) + at, mask=is_free, other=0)
    # Exactly 0 where all seven are equal: rounding must not drift over hundreds of steps.
    value = here + take * tl.fma(here, -6.0, around)
    tl.store(out + at, value, mask=is_free)
    if SERIES:
        sum_so_far = tl.load(total + at, mask=is_free, other=0)
        tl.store(total + at, tl.fma(value, coefficient, sum_so_far), mask=is_free)


@triton.jit(do_not_specialize=["joints", "num_voxels", "NY", "NZ", "PX", "PY", "PZ"])
def look_up(
    weights,
    matrices,
    phi,
    out,
    joints,
    num_voxels,
    NY,
    NZ,
    origin_x,
    origin_y,
    origin_z,
    spacing,
    PX,
    PY,
    PZ,
    grid_x,
    grid_y,
    grid_z,
    grid_spacing,
    POINTS: tl.constexpr,
    INVERTED: tl.constexpr,
):
    """Eq. 11: out (V,) <- phi (PX, PY, PZ) at the canonical voxel of each voxel.

    matrices  (J, 12) float32 of B_j^-1 where INVERTED, else of B_j
    """
    voxel = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    valid = voxel < num_voxels
    x = origin_x + (voxel // (NY * NZ)).to(tl.float32) * spacing
    y = origin_y + (voxel // NZ % NY).to(tl.float32) * spacing
    z = origin_z + (voxel % NZ).to(tl.float32) * spacing
    zero = tl.zeros((POINTS,), tl.float32)
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    weight = weights + voxel
    for n in range(joints):
        w = tl.load(weight, mask=valid, other=0)
        weight += num_voxels
        m = matrices + n * 12
        a0, a1, a2, a3 = a0 + w * tl.load(m), a1 + w * tl.load(m + 1), a2 + w * tl.load(m + 2), a3 + w * tl.load(m + 3)
        b0, b1, b2, b3 = b0 + w * tl.load(m + 4), b1 + w * tl.load(m + 5), b2 + w * tl.load(m + 6), b3 + w * tl.load(m + 7)
        c0, c1, c2, c3 = c0 + w * tl.load(m + 8), c1 + w * tl.load(m + 9), c2 + w * tl.load(m + 10), c3 + w * tl.load(m + 11)
    if INVERTED:
        u = a0 * x + a1 * y + a2 * z + a3
        v = b0 * x + b1 * y + b2 * z + b3
        w = c0 * x + c1 * y + c2 * z + c3
    else:
        x, y, z = x - a3, y - b3, z - c3
        # Cramer's rule: columns of the adjugate. A blend without an inverse gives NaN or infinity: inside nothing.
        d0, d1, d2 = b1 * c2 - b2 * c1, b2 * c0 - b0 * c2, b0 * c1 - b1 * c0
        determinant = a0 * d0 + a1 * d1 + a2 * d2
        u = (d0 * x + (a2 * c1 - a1 * c2) * y + (a1 * b2 - a2 * b1) * z) / determinant
        v = (d1 * x + (a0 * c2 - a2 * c0) * y + (a2 * b0 - a0 * b2) * z) / determinant
        w = (d2 * x + (a1 * c0 - a0 * c1) * y + (a0 * b1 - a1 * b0) * z) / determinant
    i, j = tl.floor((u - grid_x) / grid_spacing + 0.5), tl.floor((v - grid_y) / grid_spacing + 0.5)
    k = tl.floor((w - grid_z) / grid_spacing + 0.5)
    inside = valid & (i >= 0) & (i < PX) & (j >= 0) & (j < PY) & (k >= 0) & (k < PZ)
    i, j, k = tl.where(inside, i, 0.0), tl.where(inside, j, 0.0), tl.where(inside, k, 0.0)
    cell = (i.to(tl.int64) * PY + j.to(tl.int64)) * PZ + k.to(tl.int64)
    tl.store(out + voxel, tl.load(phi + cell, mask=inside, other=0), mask=valid)


def weigh_warps(columns: int) -> int:
    """Warps of ``weigh_bricks``: more where sums of many joints would not fit the registers of few."""
    return min(max(4, columns // 8), 16)


def compilations() -> list[Compilation]:
    """Every kernel and variant of this module."""
    pointers: dict[str, Any] = {
        **dict.fromkeys(("points", "table", "boxes", "bounds", "reaches", "farthest", "shares", "weights"), "*fp32"),
        **dict.fromkeys(("now", "out", "total", "phi", "matrices"), "*fp32"),
        **dict.fromkeys(("lists", "counts", "free"), "*i32"),
        "near": "*u8",
    }
    floats = (
        "origin_x",
        "origin_y",
        "origin_z",
        "spacing",
        "tau",
        "s",
        "take",
        "coefficient",
        "grid_x",
        "grid_y",
        "grid_z",
        "grid_spacing",
    )
    found = []
    for name, fn, constants, work, warps in (
        ("find_candidates", find_candidates, {"TILE": TILE, "CHUNK": CHUNK}, 0, 4),
        ("find_kth", find_kth, {"TILE": TILE}, 64 * TILE, 4),
        ("weigh_bricks_32", weigh_bricks, {"JOINTS": 32, "TILE": TILE}, 64 * TILE, weigh_warps(32)),
        ("weigh_bricks_64", weigh_bricks, {"JOINTS": 64, "TILE": TILE}, 64 * TILE, weigh_warps(64)),
        ("smooth_step", smooth_step, {"CELLS": CELLS, "SERIES": False}, CELLS, CELLS // 32),
        ("smooth_term", smooth_step, {"CELLS": CELLS, "SERIES": True}, CELLS, CELLS // 32),
        ("look_up", look_up, {"POINTS": POINTS, "INVERTED": True}, POINTS, 4),
        ("look_up_inverse", look_up, {"POINTS": POINTS, "INVERTED": False}, POINTS, 4),
    ):
        names = [n for n in fn.arg_names if n not in constants]
        signature = {n: pointers.get(n, "fp32" if n in floats else "i32") for n in names}
        divisible = frozenset(n for n in names if n in pointers)
        found.append(Compilation(name, fn, signature, constants, warps, STAGES, divisible, work))
    return found
