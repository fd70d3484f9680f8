"""The k nearest vertices of every voxel near a mesh: vertices in tiles, voxels in bricks, bounds from one voxel to the next.

Used by ``skinning``. Everything is float64, so that the k-th vertex is the one the definition takes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus.kernels.arrays import Lattice
from chorus.kernels.cpu.layout import borrowing, jit
from chorus.kernels.jit import compiled
from chorus.kernels.spatial import select, spatial_order

SIDE = 4
VOXELS = SIDE**3
TILE = 16
"""Vertices of a tile."""
_SLACK = 1.0 + 1e-12
"""Bounds are widened by more than float64 rounds."""


class LatticeArrays(NamedTuple):
    """A ``Lattice`` as the compiled loops take it: shape (3,) int64, origin (3,) float64 metres, spacing in metres."""

    shape: NDArray[np.int64]
    origin: NDArray[np.float64]
    spacing: float


def lattice_arrays(lattice: Lattice) -> LatticeArrays:
    """The lattice as the compiled loops take it."""
    return LatticeArrays(np.array(lattice.shape, np.int64), np.array(lattice.origin, np.float64), float(lattice.spacing))


class Decay(NamedTuple):
    """How skinning weights decay with the distance from the mesh: k vertices of Eq. 4, tau (metres) and s of Eq. 10."""

    k: int
    tau: float
    s: float


class Slots(NamedTuple):
    """Skinning weights of the S = 64 B voxels of B bricks, brick by brick.

    near    (S,) bool; whether a slot's voxel is within tau of the mesh and inside the lattice
    voxel   (S,) int64 its flat index; 0 where it is not near
    weight  (J, S) float32; 0 where it is not near
    """

    near: NDArray[np.bool_]
    voxel: NDArray[np.int64]
    weight: NDArray[np.float32]


class Tiles(NamedTuple):
    """P vertices sorted in space and cut into T tiles of 16.

    order   (P,) int64; vertex in each place of the sorted order
    points  (16 T, 3) float64 metres; infinite in the places that fill the last tile
    lanes   (T, 3, 16) float64 the same, as vectors
    centre  (3, T) float64 centres of the tiles' bounding boxes
    half    (3, T) float64 half their sides
    """

    order: NDArray[np.int64]
    points: NDArray[np.float64]
    lanes: NDArray[np.float64]
    centre: NDArray[np.float64]
    half: NDArray[np.float64]


def cut_into_tiles(vertices: NDArray[np.float64]) -> Tiles:
    """Tiles of (P, 3) vertices."""
    order = spatial_order(vertices, TILE)
    count = -(-len(order) // TILE)
    points = np.full((count * TILE, 3), np.inf)
    points[: len(order)] = vertices[order]
    boxes = points.copy()
    boxes[len(order) :] = boxes[len(order) - 1]
    low, high = (extreme(boxes.reshape(count, TILE, 3), axis=1).T for extreme in (np.min, np.max))
    half = (high - low) / 2 * _SLACK + 1e-15
    lanes = np.ascontiguousarray(points.reshape(count, TILE, 3).mT)
    return Tiles(order, points, lanes, np.ascontiguousarray((low + high) / 2), np.ascontiguousarray(half))


@compiled(fastmath=True)
def _bounds(x, y, z, side, centre, half, count, bound):  # type: ignore[no-untyped-def]
    """bound[t] <- least squared distance of tile t's box from a cube around (x, y, z) that reaches ``side`` each way."""
    for t in range(count):
        a = abs(centre[0, t] - x) - half[0, t] - side
        b = abs(centre[1, t] - y) - half[1, t] - side
        c = abs(centre[2, t] - z) - half[2, t] - side
        a, b, c = a if a > 0 else 0.0, b if b > 0 else 0.0, c if c > 0 else 0.0
        bound[t] = a * a + b * b + c * c


@borrowing
def _any_within(bound, count, limit):  # type: ignore[no-untyped-def]
    """Whether one of the bounds is not above the limit; mostly the first few tell."""
    for t in range(count):  # noqa: SIM110 (numba)
        if bound[t] <= limit:
            return True
    return False


@jit
def near_bricks(first, last, counts, lattice, tiles, tau, out):  # type: ignore[no-untyped-def]
    """out[b] <- whether a voxel of brick b can be within tau of a tile, for flat brick indices first .. last - 1."""
    origin, spacing, centre, half = lattice.origin, lattice.spacing, tiles.centre, tiles.half
    bound = np.empty(centre.shape[1])
    side = (SIDE - 1) / 2 * spacing
    for b in range(first, last):
        x = origin[0] + (b // (counts[1] * counts[2]) * SIDE + (SIDE - 1) / 2) * spacing
        y = origin[1] + (b // counts[2] % counts[1] * SIDE + (SIDE - 1) / 2) * spacing
        z = origin[2] + (b % counts[2] * SIDE + (SIDE - 1) / 2) * spacing
        _bounds(x, y, z, side, centre, half, len(bound), bound)
        out[b] = _any_within(bound, len(bound), tau * tau * _SLACK)


class _Candidates(NamedTuple):
    """Memory for the tiles that can hold one of the k nearest vertices, and for the vertices found.

    tile          (T,) int64; indices of the candidates         bound  (T,) their least squared distance
    centre, half  (3, T) their boxes
    ids           vertices found, by their place in the sorted order          distance  squared, of each
    squared       (16,) distances of a tile's vertices
    """

    tile: NDArray[np.int64]
    bound: NDArray[np.float64]
    centre: NDArray[np.float64]
    half: NDArray[np.float64]
    ids: NDArray[np.int64]
    distance: NDArray[np.float64]
    squared: NDArray[np.float64]


@jit
def _empty_candidates(T, k):  # type: ignore[no-untyped-def]
    """Memory for T tiles and k vertices; the first k vertices are as good as any to begin with."""
    ids = np.empty(4 * k + 2 * TILE, np.int64)
    ids[:k] = np.arange(k)
    distance, squared = np.empty(len(ids)), np.empty(TILE)
    return _Candidates(np.empty(T, np.int64), np.empty(T), np.empty((3, T)), np.empty((3, T)), ids, distance, squared)


@borrowing
def _largest(values, count):  # type: ignore[no-untyped-def]
    """The largest of the first ``count`` values."""
    most = values[0]
    for i in range(1, count):
        most = max(most, values[i])
    return most


@borrowing
def _where_least(values, count):  # type: ignore[no-untyped-def]
    """Index of the least of the first ``count`` values, the first of equals."""
    at = 0
    for i in range(1, count):
        if values[i] < values[at]:
            at = i
    return at


@borrowing
def _nearest(x, y, z, tiles, tile, count, k, candidates):  # type: ignore[no-untyped-def]
    """The k nearest vertices of a point among the first ``count`` tiles of ``tile``: places in ids[:k], squared distances in
    distance[:k], neither sorted; ``bound`` holds the tiles' bounds.

    Comes with k places in ids: whatever they are, the k-th distance is not above the largest of theirs.
    """
    points, lanes, bound = tiles.points, tiles.lanes, candidates.bound
    ids, distance, squared = candidates.ids, candidates.distance, candidates.squared
    limit = 0.0
    for i in range(k):
        point = points[ids[i]]
        a, b, c = point[0] - x, point[1] - y, point[2] - z
        limit = max(limit, a * a + b * b + c * c)
    found = 0
    for t in range(count):
        if bound[t] > limit * _SLACK:
            continue
        place = tile[t] * TILE
        corners = lanes[tile[t]]  # lanes of a view count from 0: numba then vectorises the loop
        for lane in range(TILE):
            a, b, c = corners[0, lane] - x, corners[1, lane] - y, corners[2, lane] - z
            squared[lane] = a * a + b * b + c * c
        for lane in range(TILE):  # without a branch: whether a vertex is near enough cannot be predicted
            distance[found] = squared[lane]
            ids[found] = place + lane
            found += squared[lane] <= limit
        if found + TILE > len(ids):
            select(distance, ids, found, k)
            found, limit = k, _largest(distance, k)
    if found > k:
        select(distance, ids, found, k)


@borrowing
def _find_candidates(x, y, z, side, tiles, every, k, candidates):  # type: ignore[no-untyped-def]
    """How many tiles can hold one of the k nearest vertices of any voxel in a brick: they come first in ``candidates``.

    The brick's voxels lie within ``side`` of (x, y, z) along each axis; ``every`` (T,) are all tiles.
    """
    T = len(every)
    _bounds(x, y, z, 0.0, tiles.centre, tiles.half, T, candidates.bound)
    _nearest(x, y, z, tiles, every, T, k, candidates)
    reach = (np.sqrt(_largest(candidates.distance, k)) + np.sqrt(3.0) * side) * _SLACK
    _bounds(x, y, z, side, tiles.centre, tiles.half, T, candidates.bound)
    count = 0
    for t in range(T):
        if candidates.bound[t] <= reach * reach * _SLACK:
            candidates.tile[count] = t
            for c in range(3):
                candidates.centre[c, count], candidates.half[c, count] = tiles.centre[c, t], tiles.half[c, t]
            count += 1
    return count


@borrowing
def _blend(ids, distance, d, table, decay, share, row, weight, slot):  # type: ignore[no-untyped-def]
    """Skinning weights of one voxel into column ``slot`` of ``weight``: Eq. 4 over the k vertices found, and Eq. 9, 10.

    d  distance of the nearest vertex; ``share`` (k,) and ``row`` (J,) are memory
    """
    k, tau, s = decay
    J = len(row)
    if d > 0.0:
        for n in range(k):
            share[n] = 1.0 / np.sqrt(distance[n])
    else:
        share[:k] = 0.0
        share[_where_least(distance, k)] = 1.0
    row[:] = 0.0
    total = 0.0
    for n in range(k):
        total += share[n]
        source = table[ids[n]]
        for jj in range(J):
            row[jj] += share[n] * source[jj]
    alpha = ((tau - d) / (tau + d)) ** s
    scale = alpha / total
    for jj in range(J):
        if row[jj] > 0.0:
            weight[jj, slot] = scale * row[jj]
    weight[0, slot] = scale * row[0] + (1.0 - alpha)


@borrowing
def _weigh_brick(brick, bricks, lattice, tiles, every, table, decay, slots, candidates, share, row):  # type: ignore[no-untyped-def]
    """Skinning weights of one brick's voxels; ``every`` (T,) are all tiles, ``share`` (k,) and ``row`` (J,) memory."""
    shape, origin, spacing = lattice.shape, lattice.origin, lattice.spacing
    k, tau, bound, distance = decay.k, decay.tau, candidates.bound, candidates.distance
    side = (SIDE - 1) / 2 * spacing
    i0, j0, k0 = bricks[brick, 0] * SIDE, bricks[brick, 1] * SIDE, bricks[brick, 2] * SIDE
    x, y, z = origin[0] + i0 * spacing + side, origin[1] + j0 * spacing + side, origin[2] + k0 * spacing + side
    count = _find_candidates(x, y, z, side, tiles, every, k, candidates)
    for step in range(VOXELS):
        # There and back again, so that every voxel is next to the one before.
        a, b, c = step // (SIDE * SIDE), step // SIDE % SIDE, step % SIDE
        b = b if a % 2 == 0 else SIDE - 1 - b
        c = c if (step // SIDE) % 2 == 0 else SIDE - 1 - c
        i, j, m = i0 + a, j0 + b, k0 + c
        if i >= shape[0] or j >= shape[1] or m >= shape[2]:
            continue
        x, y, z = origin[0] + i * spacing, origin[1] + j * spacing, origin[2] + m * spacing
        _bounds(x, y, z, 0.0, candidates.centre, candidates.half, count, bound)
        if not _any_within(bound, count, tau * tau * _SLACK):
            continue
        _nearest(x, y, z, tiles, candidates.tile, count, k, candidates)
        d = np.sqrt(distance[_where_least(distance, k)])
        if d > tau:
            continue
        slot = brick * VOXELS + (a * SIDE + b) * SIDE + c
        slots.near[slot] = True
        slots.voxel[slot] = (i * shape[1] + j) * shape[2] + m
        _blend(candidates.ids, distance, d, table, decay, share, row, slots.weight, slot)


@jit
def weigh_bricks(first, last, bricks, lattice, tiles, table, decay, slots):  # type: ignore[no-untyped-def]
    """Skinning weights (Eq. 4, 9, 10) of the voxels in bricks first .. last - 1 into ``slots``.

    bricks  (B, 3) int64 index of each brick
    table   (16 T, J) float64 skinning weights of the vertices in the tiles' order
    """
    T = tiles.centre.shape[1]
    candidates, every = _empty_candidates(T, decay.k), np.arange(T)
    share, row = np.empty(decay.k), np.empty(table.shape[1])
    for brick in range(first, last):
        _weigh_brick(brick, bricks, lattice, tiles, every, table, decay, slots, candidates, share, row)
