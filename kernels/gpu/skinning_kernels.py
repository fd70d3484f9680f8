"""The Triton kernels of ``skinning``: k-th nearest vertices, skinning weights, smoothing, inverse LBS sampling. float32."""

from __future__ import annotations

import triton
import triton.language as tl

from chorus.kernels.gpu.ahead_of_time import Compilation, Types
from chorus.kernels.gpu.arguments import Candidates, KthDistances, Lattice, SkinningWeights, Tiles, integers

SIDE = 4
TILE = 32
"""Vertices of a tile."""
CHUNK = 256
"""Tiles that ``find_candidates`` looks at in one go."""
CELLS = 256
"""Voxels of a program that smooths: one a thread, or loads of different alignment would be shuffled to fit each other."""
POINTS = 128
"""Voxels of a program that samples."""
FEWEST_COLUMNS = 32
"""Joints that ``weigh_bricks`` is compiled for at least; for more, the next power of two."""
STAGES = 2
"""Software pipelining of all kernels here; said at every launch, as what Triton takes by default is another number."""
_SIDE = tl.constexpr(SIDE)
_LARGEST = tl.constexpr(0x7F7FFFFF)  # bits of the largest float32; non-negative floats are ordered as their bits
_SLACK = tl.constexpr(1.00001)  # bounds are widened by more than float32 rounds


@triton.jit
def _brick_of(brick, lattice: Lattice):
    """First voxel of a brick, and the centre of its 64 voxel centres; bricks are numbered with z fastest."""
    _, NY, NZ = integers(lattice.shape)
    counts_y, counts_z = tl.cdiv(NY, _SIDE), tl.cdiv(NZ, _SIDE)
    i = brick // (counts_y * counts_z) * _SIDE
    j = brick // counts_z % counts_y * _SIDE
    k = brick % counts_z * _SIDE
    half: tl.constexpr = (_SIDE - 1) / 2
    x, y, z = (i + half) * lattice.spacing, (j + half) * lattice.spacing, (k + half) * lattice.spacing
    return (i, j, k), (lattice.x + x, lattice.y + y, lattice.z + z)


@triton.jit
def _voxels(first, lattice: Lattice):
    """Indices and centres of the 64 voxels of the brick with this first voxel: the same bits in every kernel."""
    lane = tl.arange(0, 64)
    i, j, k = first[0] + lane // 16, first[1] + lane // 4 % 4, first[2] + lane % 4
    x = tl.fma(i.to(tl.float32), lattice.spacing, lattice.x)
    y = tl.fma(j.to(tl.float32), lattice.spacing, lattice.y)
    z = tl.fma(k.to(tl.float32), lattice.spacing, lattice.z)
    return (i, j, k), (x, y, z)


@triton.jit
def _outside(x, centre, half, side):
    """How far a box begins beyond ``side`` of x along an axis, at least 0."""
    return tl.maximum(tl.abs(centre - x) - half - side, 0.0)


@triton.jit(do_not_specialize=["num_tiles", "num_vertices", "first_brick", "k"])
def find_candidates(
    tiles: Tiles,
    candidates: Candidates,
    lattice: Lattice,
    num_tiles,
    num_vertices,
    first_brick,
    tau,
    k,
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Fill the ``candidates`` of the bricks from ``first_brick`` on; a program a brick."""
    program = tl.program_id(0)
    _, centre = _brick_of(first_brick + program, lattice)
    x, y, z = centre
    boxes = tiles.boxes
    side = (_SIDE - 1) / 2 * lattice.spacing
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
        tl.store(candidates.tiles + row + place, t, mask=keep)
        tl.store(candidates.bounds + row + place, bound, mask=keep)
        count += tl.sum(keep.to(tl.int32))
    tl.store(candidates.length + program, tl.where(nearest <= tau * tau * _SLACK, count, 0))
    tl.store(candidates.reach + program, reach)


@triton.jit
def _squared(points, tile, centres, TILE: tl.constexpr):
    """Squared distances of a tile's vertices from 64 voxels, (TILE, 64): the same bits at every call.

    Voxels are the lanes of a warp: what is known of them takes few registers, and a vertex is read by all lanes at once.
    """
    x, y, z = centres
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


@triton.jit(do_not_specialize=["num_tiles", "first_brick", "k"])
def find_kth(
    tiles: Tiles,
    candidates: Candidates,
    kth: KthDistances,
    lattice: Lattice,
    num_tiles,
    first_brick,
    tau,
    k,
    TILE: tl.constexpr,
):
    """The k-th smallest squared distance from each of the 64 voxels of a brick, by counting; a program a brick.

    Fills ``kth`` from the ``candidates``.
    """
    program = tl.program_id(0)
    count = tl.load(candidates.length + program)
    if count == 0:
        return
    first_voxel, centre = _brick_of(first_brick + program, lattice)
    voxels, centres = _voxels(first_voxel, lattice)
    i, j, m = voxels
    x, y, z = centres
    cx, cy, cz = centre
    NX, NY, NZ = integers(lattice.shape)
    row = program.to(tl.int64) * num_tiles

    # Where it lies: at least at the nearest box, at most at the reach from the centre and the way from there.
    low2 = tl.full((64,), 3e38, tl.float32)
    for n in range(count):
        box = tiles.boxes + tl.load(candidates.tiles + row + n)
        a = _outside(x, tl.load(box), tl.load(box + 3 * num_tiles), 0.0)
        b = _outside(y, tl.load(box + num_tiles), tl.load(box + 4 * num_tiles), 0.0)
        c = _outside(z, tl.load(box + 2 * num_tiles), tl.load(box + 5 * num_tiles), 0.0)
        low2 = tl.minimum(low2, a * a + b * b + c * c)
    away = tl.sqrt((x - cx) * (x - cx) + (y - cy) * (y - cy) + (z - cz) * (z - cz))
    high2 = (tl.load(candidates.reach + program) + away) * _SLACK
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
            if tl.load(candidates.bounds + row + n) <= limit:  # a tile beyond every threshold adds to no count
                square = _squared(tiles.points, tl.load(candidates.tiles + row + n), centres, TILE)
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
    tl.store(kth.square + at, tl.where(wanted, high.to(tl.float32, bitcast=True), -1.0))
    left = (k - below_low).to(tl.float32) / (below_high - below_low).to(tl.float32)
    tl.store(kth.share + at, tl.where(below_high > k, left, 1.0))


@triton.jit(do_not_specialize=["num_tiles", "num_joints", "first_brick"])
def weigh_bricks(
    tiles: Tiles,
    candidates: Candidates,
    kth: KthDistances,
    lattice: Lattice,
    out: SkinningWeights,
    num_tiles,
    num_joints,
    first_brick,
    tau,
    s,
    JOINTS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Weights (Eq. 4, 9, 10) of the 64 voxels of a brick from the k-th distances; what is far is left as it is.

    JOINTS is no less than ``num_joints``; a program a brick.
    """
    program = tl.program_id(0)
    count = tl.load(candidates.length + program)
    if count == 0:
        return
    first_voxel, _ = _brick_of(first_brick + program, lattice)
    voxels, centres = _voxels(first_voxel, lattice)
    i, j, m = voxels
    NX, NY, NZ = integers(lattice.shape)
    row = program.to(tl.int64) * num_tiles
    at = program.to(tl.int64) * 64 + tl.arange(0, 64)
    last, share = tl.load(kth.square + at), tl.load(kth.share + at)
    limit = tl.max(last) * _SLACK
    blended = tl.zeros((JOINTS, 64), tl.float32)
    total = tl.zeros((TILE, 64), tl.float32)
    least = tl.full((TILE, 64), 3e38, tl.float32)
    for n in range(count):
        if tl.load(candidates.bounds + row + n) <= limit:
            tile = tl.load(candidates.tiles + row + n)
            square = _squared(tiles.points, tile, centres, TILE)
            taken = square <= last[None, :]
            if tl.sum(taken.to(tl.int32)) > 0:
                # At distance 0 the inverse is so large that nothing else counts.
                inverse = tl.where(taken, tl.rsqrt(tl.maximum(square, 1e-30)), 0.0)
                inverse *= tl.where(square == last[None, :], share[None, :], 1.0)
                column = tiles.weights + tl.arange(0, JOINTS)[:, None] * (num_tiles * TILE) + tile * TILE
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
    to = out.weights + joint.to(tl.int64) * NX * NY * NZ + voxel[None, :]
    tl.store(to, blended, mask=close[None, :] & (joint < num_joints))
    tl.store(out.near + voxel, close.to(tl.uint8), mask=close)


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


@triton.jit(do_not_specialize=["num_joints", "num_voxels"])
def sample(
    weights,
    matrices,
    phi,
    out,
    lattice: Lattice,
    grid: Lattice,
    num_joints,
    num_voxels,
    POINTS: tl.constexpr,
    INVERTED: tl.constexpr,
):
    """Eq. 11, inverse LBS: out (V,) <- phi, which lies on ``grid``, at the canonical place of each voxel of ``lattice``.

    weights   (J, V) float32  skinning weights
    matrices  (J, 12) float32 of B_j^-1 where INVERTED, else of B_j
    """
    voxel = tl.program_id(0).to(tl.int64) * POINTS + tl.arange(0, POINTS)
    valid = voxel < num_voxels
    _, NY, NZ = integers(lattice.shape)
    x = lattice.x + (voxel // (NY * NZ)).to(tl.float32) * lattice.spacing
    y = lattice.y + (voxel // NZ % NY).to(tl.float32) * lattice.spacing
    z = lattice.z + (voxel % NZ).to(tl.float32) * lattice.spacing
    zero = tl.zeros((POINTS,), tl.float32)
    a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
    weight = weights + voxel
    for n in range(num_joints):
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
    PX, PY, PZ = integers(grid.shape)
    i, j = tl.floor((u - grid.x) / grid.spacing + 0.5), tl.floor((v - grid.y) / grid.spacing + 0.5)
    k = tl.floor((w - grid.z) / grid.spacing + 0.5)
    inside = valid & (i >= 0) & (i < PX) & (j >= 0) & (j < PY) & (k >= 0) & (k < PZ)
    i, j, k = tl.where(inside, i, 0.0), tl.where(inside, j, 0.0), tl.where(inside, k, 0.0)
    cell = (i.to(tl.int64) * PY + j.to(tl.int64)) * PZ + k.to(tl.int64)
    tl.store(out + voxel, tl.load(phi + cell, mask=inside, other=0), mask=valid)


def weigh_warps(columns: int) -> int:
    """Warps of ``weigh_bricks``: more where sums of many joints would not fit the registers of few."""
    return min(max(4, columns // 8), 16)


def compilations() -> list[Compilation]:
    """Every kernel and variant of this module."""
    numbers = dict.fromkeys(("num_tiles", "num_vertices", "num_joints", "num_voxels", "first_brick", "NZ", "plane", "k"), "i32")
    numbers |= dict.fromkeys(("tau", "s", "take", "coefficient"), "fp32")
    search: Types = {"tiles": Tiles, "candidates": Candidates, "kth": KthDistances, "lattice": Lattice, **numbers}
    weigh: Types = {**search, "out": SkinningWeights}
    smooth: Types = {**dict.fromkeys(("now", "out", "total"), "*fp32"), "free": "*i32", **numbers}
    sampling: Types = {
        **dict.fromkeys(("weights", "matrices", "phi", "out"), "*fp32"),
        "lattice": Lattice,
        "grid": Lattice,
        **numbers,
    }
    return [
        Compilation(name, fn, signature, constants, warps, STAGES, votes)
        for name, fn, signature, constants, votes, warps in (
            ("find_candidates", find_candidates, search, {"TILE": TILE, "CHUNK": CHUNK}, 0, 4),
            ("find_kth", find_kth, search, {"TILE": TILE}, 64 * TILE, 4),
            ("weigh_bricks_32", weigh_bricks, weigh, {"JOINTS": 32, "TILE": TILE}, 64 * TILE, weigh_warps(32)),
            ("weigh_bricks_64", weigh_bricks, weigh, {"JOINTS": 64, "TILE": TILE}, 64 * TILE, weigh_warps(64)),
            ("smooth_step", smooth_step, smooth, {"CELLS": CELLS, "SERIES": False}, CELLS, CELLS // 32),
            ("smooth_term", smooth_step, smooth, {"CELLS": CELLS, "SERIES": True}, CELLS, CELLS // 32),
            ("sample", sample, sampling, {"POINTS": POINTS, "INVERTED": True}, POINTS, 4),
            ("sample_inverse", sample, sampling, {"POINTS": POINTS, "INVERTED": False}, POINTS, 4),
        )
    ]
