"""The k nearest vertices of every voxel near a mesh: vertices in tiles, voxels in bricks, bounds from neighbour to neighbour.

Used by ``cpu_neighbours``. Everything is float64, so that the k-th vertex is the one the definition takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from chorus.kernels.spatial import select, spatial_order

SIDE = 4
VOXELS = SIDE**3
TILE = 16
"""Vertices of a tile."""
_SLACK = 1.0 + 1e-12
"""Bounds are widened by more than float64 rounds."""


@dataclass(frozen=True, eq=False)
class Tiles:
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


@nb.njit(nogil=True, cache=True, fastmath=True)
def _bounds(x, y, z, side, centre, half, count, bound):  # type: ignore[no-untyped-def]
    """bound[t] <- least squared distance of tile t's box from a cube around (x, y, z) that reaches ``side`` each way."""
    for t in range(count):
        a = abs(centre[0, t] - x) - half[0, t] - side
        b = abs(centre[1, t] - y) - half[1, t] - side
        c = abs(centre[2, t] - z) - half[2, t] - side
        a, b, c = a if a > 0 else 0.0, b if b > 0 else 0.0, c if c > 0 else 0.0
        bound[t] = a * a + b * b + c * c


@nb.njit(nogil=True, cache=True)
def _any_within(bound, count, limit):  # type: ignore[no-untyped-def]
    """Whether one of the bounds is not above the limit; mostly the first few tell."""
    for t in range(count):  # noqa: SIM110 (numba)
        if bound[t] <= limit:
            return True
    return False


@nb.njit(nogil=True, cache=True)
def near_bricks(first, last, counts, origin, spacing, centre, half, tau, out):  # type: ignore[no-untyped-def]
    """out[b] <- whether a voxel of brick b can be within tau of a tile, for flat brick indices first .. last - 1."""
    bound = np.empty(centre.shape[1])
    side = (SIDE - 1) / 2 * spacing
    for b in range(first, last):
        x = origin[0] + (b // (counts[1] * counts[2]) * SIDE + (SIDE - 1) / 2) * spacing
        y = origin[1] + (b // counts[2] % counts[1] * SIDE + (SIDE - 1) / 2) * spacing
        z = origin[2] + (b % counts[2] * SIDE + (SIDE - 1) / 2) * spacing
        _bounds(x, y, z, side, centre, half, len(bound), bound)
        out[b] = _any_within(bound, len(bound), tau * tau * _SLACK)


@nb.njit(nogil=True, cache=True)
def _nearest(x, y, z, points, lanes, tile, bound, count, k, ids, distance, squared):  # type: ignore[no-untyped-def]
    """The k nearest vertices of a point: places in ids[:k], squared distances in distance[:k], neither sorted.

    Comes with k places in ids: whatever they are, the k-th distance is not above the largest of theirs.
    """
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
            found, limit = k, distance[:k].max()
    if found > k:
        select(distance, ids, found, k)


@nb.njit(nogil=True, cache=True, error_model="numpy")
def weigh_bricks(  # type: ignore[no-untyped-def]
    first, last, bricks, shape, origin, spacing, points, lanes, centre, half, table, k, tau, s, near, voxel, weight
):
    """Weights (Eq. 4, 9, 10) of the voxels in bricks first .. last - 1: near and voxel (B * 64,), weight (J, B * 64).

    table  (16 T, J) float64 skinning weights of the vertices in the tiles' order
    """
    T, J = centre.shape[1], table.shape[1]
    ids = np.empty(4 * k + 2 * TILE, np.int64)
    ids[:k] = np.arange(k)
    distance, squared, share, row = np.empty(len(ids)), np.empty(TILE), np.empty(k), np.empty(J)
    every, tile = np.arange(T), np.empty(T, np.int64)
    bound, some_centre, some_half = np.empty(T), np.empty((3, T)), np.empty((3, T))
    side = (SIDE - 1) / 2 * spacing
    for brick in range(first, last):
        i0, j0, k0 = bricks[brick, 0] * SIDE, bricks[brick, 1] * SIDE, bricks[brick, 2] * SIDE
        x, y, z = origin[0] + i0 * spacing + side, origin[1] + j0 * spacing + side, origin[2] + k0 * spacing + side
        _bounds(x, y, z, 0.0, centre, half, T, bound)
        _nearest(x, y, z, points, lanes, every, bound, T, k, ids, distance, squared)
        reach = (np.sqrt(distance[:k].max()) + np.sqrt(3.0) * side) * _SLACK
        _bounds(x, y, z, side, centre, half, T, bound)
        count = 0
        for t in range(T):
            if bound[t] <= reach * reach * _SLACK:
                tile[count] = t
                for c in range(3):
                    some_centre[c, count], some_half[c, count] = centre[c, t], half[c, t]
                count += 1
        for step in range(VOXELS):
            # There and back again, so that every voxel is next to the one before.
            a, b, c = step // (SIDE * SIDE), step // SIDE % SIDE, step % SIDE
            b = b if a % 2 == 0 else SIDE - 1 - b
            c = c if (step // SIDE) % 2 == 0 else SIDE - 1 - c
            i, j, m = i0 + a, j0 + b, k0 + c
            if i >= shape[0] or j >= shape[1] or m >= shape[2]:
                continue
            x, y, z = origin[0] + i * spacing, origin[1] + j * spacing, origin[2] + m * spacing
            _bounds(x, y, z, 0.0, some_centre, some_half, count, bound)
            if not _any_within(bound, count, tau * tau * _SLACK):
                continue
            _nearest(x, y, z, points, lanes, tile, bound, count, k, ids, distance, squared)
            d = np.sqrt(distance[:k].min())
            if d > tau:
                continue
            slot = brick * VOXELS + (a * SIDE + b) * SIDE + c
            near[slot] = True
            voxel[slot] = (i * shape[1] + j) * shape[2] + m
            if d > 0.0:
                for n in range(k):
                    share[n] = 1.0 / np.sqrt(distance[n])
            else:
                share[:k] = 0.0
                share[distance[:k].argmin()] = 1.0
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
