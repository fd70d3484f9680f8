"""Smoothing of skinning weights on the CPU: one joint at a time, 16 voxels at a time; many steps as one Chebyshev series.

Used by ``skinning``. A step w <- w + m (0.3 mean of 6 neighbours - 0.3 w), m = 1 at voxels that are free to change, is
linear and keeps the sum of a row: smoothing joint by joint is the definition, without its division by a sum that is 1.
"""

from __future__ import annotations

import math
from functools import lru_cache
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus.kernels.cpu.layout import borrowing
from chorus.kernels.cpu.simd import LANES, add, fma, load, mul, splat, store
from chorus.kernels.jit import compiled
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


class Padded(NamedTuple):
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


class Box(NamedTuple):
    """Where one joint is smoothed: x0 <= x < x1 and y0 <= y < y1 in voxels, v0 <= v < v1 in vectors along z."""

    x0: int
    x1: int
    y0: int
    y1: int
    v0: int
    v1: int


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


@compiled()
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


@compiled()
def _put(weight, cell, a, b, grid):  # type: ignore[no-untyped-def]
    """Weights of the slots into the cells a .. b - 1 of a grid."""
    for slot in range(len(cell)):
        if a <= cell[slot] < b:
            grid[cell[slot]] = weight[slot]


@compiled()
def _take(weight, cell, a, b, free, grid):  # type: ignore[no-untyped-def]
    """Weights of the free slots from the cells a .. b - 1 of a grid; what rounding made negative is 0."""
    for slot in range(len(cell)):
        if a <= cell[slot] < b and free[cell[slot]] != 0:
            weight[slot] = max(grid[cell[slot]], np.float32(0))


@borrowing
def _sum_around(grid, at, row, plane):  # type: ignore[no-untyped-def]
    """Sum of the 6 neighbours of 16 voxels."""
    around = add(load(grid, at - 1), load(grid, at + 1))
    around = add(around, add(load(grid, at - row), load(grid, at + row)))
    return add(around, add(load(grid, at - plane), load(grid, at + plane)))


@borrowing
def _moved(here, around, free, at, share):  # type: ignore[no-untyped-def]
    """``here`` and ``share`` of (``around`` - 6 ``here``), where a voxel is free.

    Exactly ``here`` where all seven are equal: rounding must not drift over hundreds of steps.
    """
    change = mul(splat(np.float32(share)), fma(splat(np.float32(-6)), here, around))
    return fma(load(free, at), change, here)


@borrowing
def _vectors(lattice, box, x, y):  # type: ignore[no-untyped-def]
    """Cell of voxel (x, y, 0), and the vectors along z in the box that hold a free voxel: first, last + 1."""
    line = x * lattice.shape[1] + y
    return line * lattice.row, max(box.v0, lattice.first[line]), min(box.v1, lattice.last[line])


@borrowing
def _step(old, new, lattice, box):  # type: ignore[no-untyped-def]
    """One Jacobi step in a box."""
    row, plane = lattice.row, lattice.shape[1] * lattice.row
    for x in range(box.x0, box.x1):
        for y in range(box.y0, box.y1):
            cell, first, last = _vectors(lattice, box, x, y)
            for at in range(cell + first * LANES, cell + last * LANES, LANES):
                around = _sum_around(old, at, row, plane)
                store(new, at, _moved(load(old, at), around, lattice.free, at, RELAXATION / 6))


@borrowing
def _begin(zeroth, now, total, lattice, box, c0, c1):  # type: ignore[no-untyped-def]
    """T_1 and c_0 T_0 + c_1 T_1 in a box; T_0 is the weight itself."""
    row, plane = lattice.row, lattice.shape[1] * lattice.row
    for x in range(box.x0, box.x1):
        for y in range(box.y0, box.y1):
            cell, first, last = _vectors(lattice, box, x, y)
            for at in range(cell + first * LANES, cell + last * LANES, LANES):
                here = load(zeroth, at)
                value = _moved(here, _sum_around(zeroth, at, row, plane), lattice.free, at, 1 / 6)
                store(now, at, value)
                store(total, at, fma(splat(c1), value, mul(splat(c0), here)))


@borrowing
def _term(before, now, total, lattice, box, c):  # type: ignore[no-untyped-def]
    """T_(m+1) = 2 Y T_m - T_(m-1) in a box, in place of T_(m-1), and c_(m+1) of it added to the total.

    Where a voxel is not free every T_m is the weight itself, so that nothing changes there.
    """
    row, plane = lattice.row, lattice.shape[1] * lattice.row
    for x in range(box.x0, box.x1):
        for y in range(box.y0, box.y1):
            cell, first, last = _vectors(lattice, box, x, y)
            for at in range(cell + first * LANES, cell + last * LANES, LANES):
                value = _moved(load(before, at), _sum_around(now, at, row, plane), lattice.free, at, 1 / 3)
                store(before, at, value)
                store(total, at, fma(splat(c), value, load(total, at)))


def _smooth_box(
    lattice: Padded,
    cell: NDArray[np.int64],
    weight: NDArray[np.float32],
    is_pelvis: bool,
    steps: int,
    by_series: bool,
    box: Box,
    arrays: list[NDArray[np.float32]],
) -> None:
    """Smooth one joint's weights (S,) in a box, in scratch arrays of the padded lattice."""
    plane = lattice.shape[1] * lattice.row
    a, b = (box.x0 - 1) * plane, (box.x1 + 1) * plane  # the box and the planes beside it
    for array in arrays:  # what is far from the mesh belongs to the pelvis
        array[a:b] = 1.0 if is_pelvis else 0.0
        _put(weight, cell, a, b, array)
    old, new = arrays[:2]
    if by_series:
        c = [np.float32(x) for x in series(steps)]
        result = arrays[2]
        _begin(old, new, result, lattice, box, c[0], c[1])
        for coefficient in c[2:]:
            _term(old, new, result, lattice, box, coefficient)
            old, new = new, old
    else:
        for _ in range(steps):
            _step(old, new, lattice, box)
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
    """Smooth weights in place: near, voxel (S,) as in ``skinning.NearWeights``, weight (J, S) float32.

    use_series  None takes the Chebyshev series where it is cheaper (``reference.skinning.series_pays``)
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
        (x0, y0, z0), (x1, y1, z1) = low.tolist(), high.tolist()
        box = Box(x0, x1, y0, y1, z0 // LANES, -(-z1 // LANES))
        arrays = scratch.get()
        try:
            _smooth_box(lattice, cell, weight[joint], joint == PELVIS, steps, by_series, box, arrays)
        finally:  # or the other threads would wait for them
            scratch.put(arrays)

    each(threads, box_of, range(len(weight)))
    size = np.prod(np.maximum(support[:, 3:] - support[:, :3], 0), axis=1)
    each(threads, smooth_joint, [int(j) for j in np.argsort(-size, kind="stable")])
