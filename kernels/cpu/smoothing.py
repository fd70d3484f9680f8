"""Smoothing of skinning weights on the CPU: one joint at a time, 16 voxels at a time; many steps as one Chebyshev series.

Used by ``cpu_neighbours``. A step w <- w + m (0.3 mean of 6 neighbours - 0.3 w), m = 1 at voxels that are free to change, is
linear and keeps the sum of a row: smoothing joint by joint is the definition, without its division by a sum that is 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from chorus.kernels.cpu.simd import LANES, add, fma, load, mul, splat, store
from chorus.kernels.skinning import PELVIS, RELAXATION, series, series_pays
from chorus.kernels.threads import each

REACH_ERROR = 1e-10
"""Share of a weight that may diffuse out of the box in which its joint is smoothed."""


@lru_cache(maxsize=64)
def reach(steps: int) -> int:
    """Voxels along an axis beyond which ``steps`` steps carry less than REACH_ERROR of a weight (Chernoff's bound)."""
    t = np.linspace(0.02, 8, 400)
    grown = steps * np.log(1 - RELAXATION / 3 + RELAXATION / 3 * np.cosh(t))
    return min(steps, math.ceil(float(((grown - math.log(REACH_ERROR / 2)) / t).min())))


@dataclass(frozen=True, eq=False)
class Padded:
    """A lattice whose rows along z are padded to whole vectors.

    shape  (NX, NY, NZ)           row    NZ padded: cell of voxel (i, j, k) = (i NY + j) row + k
    free   (NX NY row,) float32   1 at voxels that smoothing changes, 0 elsewhere
    first  (NX NY,) int64         first vector of the row with a free voxel     last  one past the last
    """

    shape: tuple[int, int, int]
    row: int
    free: NDArray[np.float32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]


def pad(shape: tuple[int, int, int], near: NDArray[np.bool_], voxel: NDArray[np.int64]) -> tuple[Padded, NDArray[np.int64]]:
    """The padded lattice, and the cell of each slot: that of its voxel, -1 where the slot is not near."""
    row = -(-shape[2] // LANES) * LANES
    cell = np.where(near, voxel + voxel // shape[2] * (row - shape[2]), -1)
    free = np.zeros((*shape[:2], row), np.float32)
    free.reshape(-1)[cell[near]] = 1.0
    for axis, n in enumerate(shape):
        free[(slice(None),) * axis + ([0, n - 1],)] = 0.0
    some = free.reshape(-1, row // LANES, LANES).max(-1)
    any_free = some.max(1) > 0
    first = np.where(any_free, some.argmax(1), row // LANES)
    last = np.where(any_free, row // LANES - some[:, ::-1].argmax(1), 0)
    return Padded(shape, row, free.reshape(-1), first, last), cell


@nb.njit(nogil=True, cache=True)
def _support(weight, cell, row, NY, box):  # type: ignore[no-untyped-def]
    """box <- first and last + 1 along each axis of the slots with weight; False where there are none."""
    box[:3] = 1 << 60
    box[3:] = -1
    for slot in range(len(cell)):
        if cell[slot] >= 0 and weight[slot] != 0:
            line = cell[slot] // row
            at = (line // NY, line % NY, cell[slot] % row)
            for c in range(3):
                box[c], box[c + 3] = min(box[c], at[c]), max(box[c + 3], at[c] + 1)
    return box[3] >= 0


@nb.njit(nogil=True, cache=True)
def _put(weight, cell, a, b, grid):  # type: ignore[no-untyped-def]
    """Weights of the slots into the cells a .. b - 1 of a grid."""
    for slot in range(len(cell)):
        if a <= cell[slot] < b:
            grid[cell[slot]] = weight[slot]


@nb.njit(nogil=True, cache=True)
def _take(weight, cell, a, b, free, grid):  # type: ignore[no-untyped-def]
    """Weights of the free slots from the cells a .. b - 1 of a grid; what rounding made negative is 0."""
    for slot in range(len(cell)):
        if a <= cell[slot] < b and free[cell[slot]] != 0:
            weight[slot] = max(grid[cell[slot]], np.float32(0))


@nb.njit(nogil=True, cache=True)
def _step(old, new, free, x0, x1, y0, y1, v0, v1, NY, row, first, last):  # type: ignore[no-untyped-def]
    """One Jacobi step in a box: x and y in voxels, z in vectors."""
    six, take = splat(np.float32(-6)), splat(np.float32(RELAXATION / 6))
    plane = NY * row
    for x in range(x0, x1):
        for y in range(y0, y1):
            line = x * NY + y
            for v in range(max(v0, first[line]), min(v1, last[line])):
                at = line * row + v * LANES
                here = load(old, at)
                around = add(load(old, at - 1), load(old, at + 1))
                around = add(around, add(load(old, at - row), load(old, at + row)))
                around = add(around, add(load(old, at - plane), load(old, at + plane)))
                # Exactly 0 where all seven are equal: rounding must not drift over hundreds of steps.
                change = mul(take, fma(six, here, around))
                store(new, at, fma(load(free, at), change, here))


@nb.njit(nogil=True, cache=True)
def _begin(zeroth, now, total, free, c0, c1, x0, x1, y0, y1, v0, v1, NY, row, first, last):  # type: ignore[no-untyped-def]
    """T_1 and c_0 T_0 + c_1 T_1 in a box; T_0 is the weight itself."""
    six, sixth, a, b = splat(np.float32(-6)), splat(np.float32(1 / 6)), splat(c0), splat(c1)
    plane = NY * row
    for x in range(x0, x1):
        for y in range(y0, y1):
            line = x * NY + y
            for v in range(max(v0, first[line]), min(v1, last[line])):
                at = line * row + v * LANES
                here = load(zeroth, at)
                around = add(load(zeroth, at - 1), load(zeroth, at + 1))
                around = add(around, add(load(zeroth, at - row), load(zeroth, at + row)))
                around = add(around, add(load(zeroth, at - plane), load(zeroth, at + plane)))
                value = fma(load(free, at), mul(sixth, fma(six, here, around)), here)
                store(now, at, value)
                store(total, at, fma(b, value, mul(a, here)))


@nb.njit(nogil=True, cache=True)
def _term(before, now, total, free, c, x0, x1, y0, y1, v0, v1, NY, row, first, last):  # type: ignore[no-untyped-def]
    """T_(m+1) = 2 Y T_m - T_(m-1) in a box, in place of T_(m-1), and c_(m+1) of it added to the total.

    Where a voxel is not free every T_m is the weight itself, so that nothing changes there.
    """
    six, third, much = splat(np.float32(-6)), splat(np.float32(1 / 3)), splat(c)
    plane = NY * row
    for x in range(x0, x1):
        for y in range(y0, y1):
            line = x * NY + y
            for v in range(max(v0, first[line]), min(v1, last[line])):
                at = line * row + v * LANES
                around = add(load(now, at - 1), load(now, at + 1))
                around = add(around, add(load(now, at - row), load(now, at + row)))
                around = add(around, add(load(now, at - plane), load(now, at + plane)))
                old = load(before, at)
                value = fma(load(free, at), mul(third, fma(six, old, around)), old)
                store(before, at, value)
                store(total, at, fma(much, value, load(total, at)))


def _smooth_box(
    lattice: Padded,
    cell: NDArray[np.int64],
    weight: NDArray[np.float32],
    is_pelvis: bool,
    a: int,
    b: int,
    steps: int,
    by_series: bool,
    box: tuple[Any, ...],
    arrays: list[NDArray[np.float32]],
) -> None:
    """Smooth one joint's weights (S,) in a box, whose slab of planes is the cells a .. b - 1 of the scratch arrays."""
    for array in arrays:  # what is far from the mesh belongs to the pelvis
        array[a:b] = 1.0 if is_pelvis else 0.0
        _put(weight, cell, a, b, array)
    old, new = arrays[:2]
    if by_series:
        c = [np.float32(x) for x in series(steps)]
        result = arrays[2]
        _begin(old, new, result, lattice.free, c[0], c[1], *box)
        for coefficient in c[2:]:
            _term(old, new, result, lattice.free, coefficient, *box)
            old, new = new, old
    else:
        for _ in range(steps):
            _step(old, new, lattice.free, *box)
            old, new = new, old
        result = old
    _take(weight, cell, a, b, lattice.free, result)


def smooth_slots(
    shape: tuple[int, int, int],
    near: NDArray[np.bool_],
    voxel: NDArray[np.int64],
    weight: NDArray[np.float32],
    steps: int,
    threads: int,
    use_series: bool | None = None,
) -> None:
    """Smooth weights in place: near, voxel (S,) as in ``cpu_neighbours.NearWeights``, weight (J, S) float32.

    use_series  None takes the Chebyshev series where it is cheaper (``neighbours.series_pays``)
    """
    if not steps or min(shape) < 3 or not near.any():
        return
    lattice, cell = pad(shape, near, voxel)
    by_series = series_pays(steps) if use_series is None else use_series and steps > 1
    row, NY = lattice.row, shape[1]
    plane, margin = NY * row, reach(steps)
    threads = max(1, min(threads, len(weight)))
    scratch: SimpleQueue[list[NDArray[np.float32]]] = SimpleQueue()
    for _ in range(threads):
        scratch.put([np.empty(shape[0] * plane, np.float32) for _ in range(3 if by_series else 2)])
    support = np.empty((len(weight), 6), np.int64)

    def box_of(joint: int) -> None:
        if not _support(near if joint == PELVIS else weight[joint], cell, row, NY, support[joint]):
            support[joint] = 0

    def smooth_joint(joint: int) -> None:
        low, high = np.maximum(support[joint, :3] - margin, 1), np.minimum(support[joint, 3:] + margin, np.array(shape) - 1)
        if (low >= high).any():
            return
        box = (
            int(low[0]),
            int(high[0]),
            int(low[1]),
            int(high[1]),
            int(low[2]) // LANES,
            -(-int(high[2]) // LANES),
            NY,
            row,
            lattice.first,
            lattice.last,
        )
        a, b = (int(low[0]) - 1) * plane, (int(high[0]) + 1) * plane
        arrays = scratch.get()
        try:
            _smooth_box(lattice, cell, weight[joint], joint == PELVIS, a, b, steps, by_series, box, arrays)
        finally:  # or the other threads would wait for them
            scratch.put(arrays)

    each(threads, box_of, range(len(weight)))
    size = np.prod(np.maximum(support[:, 3:] - support[:, :3], 0), axis=1)
    each(threads, smooth_joint, [int(j) for j in np.argsort(-size, kind="stable")])
