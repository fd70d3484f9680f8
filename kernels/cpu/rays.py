"""Rays through voxels: which voxels of each image share a ray, and one step of noisy-OR EM over them.

A ray of an image is a square cell of pixels about as wide as a voxel's footprint; voxels whose centres fall into one cell lie
on one ray. Votes are kept as codes, one for each image and voxel:

    code = ray << 2 | hidden << 1 | on the mask,   -1 where the voxel projects outside of the image

rays of an image being numbered 0, 1, ... in the order in which its voxels meet them. Pixels are computed in float64. What a
step adds is rounded to multiples of 1 / SCALE and summed as integers, so that sums are the same in whatever order and on
however many threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus.kernels.cpu.layout import borrowing, inlined
from chorus.kernels.depth import CELLS, NO_BODY, SIDE
from chorus.kernels.jit import compiled
from chorus.kernels.masks import BLOCK, WORDS_PER_BLOCK
from chorus.kernels.threads import default_threads, run_pieces, split

HIT, HIDDEN, RAY_SHIFT = 1, 2, 2
OUTSIDE = -1
SCALE = float(1 << 32)
"""Responsibilities are summed in multiples of 1 / SCALE."""
IMAGES_PER_TASK = 32
_SPREAD = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: spreads keys over a table (Fibonacci hashing)."""


class RayImages(NamedTuple):
    """I images, their masks, and what hides voxels in them.

    matrices      (I, J, 12) float64  rows of K [R | t] B_j
    size          (I, 2) int32        height, width in pixels
    reach         (I,) float64        side of a ray's cell in pixels, times the depth in metres at which it has that side
    box, start, words                 masks, packed as ``masks`` says: (I, 4) int32, (I,) int64, (T,) uint32
    shift, body_box, limit, body_start, depth   as in ``BodyDepth``; depth (D,) uint16 of length 0 where no vote is hidden
    """

    matrices: NDArray[np.float64]
    size: NDArray[np.int32]
    reach: NDArray[np.float64]
    box: NDArray[np.int32]
    start: NDArray[np.int64]
    words: NDArray[np.uint32]
    shift: NDArray[np.int32]
    body_box: NDArray[np.int32]
    limit: NDArray[np.float32]
    body_start: NDArray[np.int64]
    depth: NDArray[np.uint16]


class RayPoints(NamedTuple):
    """K points of the rest pose with sparse skinning weights.

    x       (K, 3) float64 metres
    offset  (K + 1,) int64 entries of point k: offset[k] .. offset[k + 1] - 1     joint, weight  (E,) of each entry
    """

    x: NDArray[np.float64]
    offset: NDArray[np.int64]
    joint: NDArray[np.int32]
    weight: NDArray[np.float32]


@borrowing
def _project(i, images, points, pixel):  # type: ignore[no-untyped-def]
    """pixel (K, 3) <- u, v, z of points in image i, z = 0 of those outside; gives the mean depth of the others."""
    m, height, width = images.matrices, images.size[i, 0], images.size[i, 1]
    total, seen = 0.0, 0
    for k in range(len(points.x)):
        x, y, z = points.x[k, 0], points.x[k, 1], points.x[k, 2]
        U, V, Z = 0.0, 0.0, 0.0
        for e in range(points.offset[k], points.offset[k + 1]):
            j, weight = points.joint[e], np.float64(points.weight[e])
            U += weight * (m[i, j, 0] * x + m[i, j, 1] * y + m[i, j, 2] * z + m[i, j, 3])
            V += weight * (m[i, j, 4] * x + m[i, j, 5] * y + m[i, j, 6] * z + m[i, j, 7])
            Z += weight * (m[i, j, 8] * x + m[i, j, 9] * y + m[i, j, 10] * z + m[i, j, 11])
        u, v = U / Z, V / Z
        pixel[k, 2] = 0.0
        if Z > 0.0 and 0.0 <= u < width and 0.0 <= v < height:
            pixel[k, 0], pixel[k, 1], pixel[k, 2] = u, v, Z
            total += Z
            seen += 1
    return total / seen


@inlined
def _on_mask(i, images, column, row):  # type: ignore[no-untyped-def]
    """1 where a pixel is on the mask of image i, else 0."""
    x0, y0, x1, y1 = images.box[i, 0], images.box[i, 1], images.box[i, 2], images.box[i, 3]
    if column < x0 or column >= x1 or row < y0 or row >= y1:
        return 0
    left, top, across = x0 // BLOCK, y0 // BLOCK, -(-x1 // BLOCK) - x0 // BLOCK
    block = ((row >> 4) - top) * across + (column >> 4) - left
    bit = (row & 15) << 4 | (column & 15)
    return (images.words[images.start[i] + block * WORDS_PER_BLOCK + (bit >> 5)] >> np.uint32(bit & 31)) & 1


@inlined
def _is_hidden(i, images, column, row, z):  # type: ignore[no-untyped-def]
    """Whether the body hides what is at depth z on a pixel of image i (``kernels.depth``)."""
    box = images.body_box
    x0, y0, x1, y1 = box[i, 0], box[i, 1], box[i, 2], box[i, 3]
    column, row = column >> images.shift[i], row >> images.shift[i]
    block_column, block_row = column // SIDE, row // SIDE
    if block_column < x0 or block_column >= x1 or block_row < y0 or block_row >= y1:
        return False
    block = (block_row - y0) * (x1 - x0) + block_column - x0
    value = images.depth[images.body_start[i] + block * CELLS + (row % SIDE) * SIDE + column % SIDE]
    return value != NO_BODY and z > np.float64(images.limit[i]) + value * 1e-3


@borrowing
def _trace_image(i, images, points, scratch, codes):  # type: ignore[no-untyped-def]
    """Fill codes[i], and give the number of rays. scratch: pixels (K, 3), and a table of 2^n >= 2 K cells with their rays."""
    pixel, key, number = scratch
    # A ray is never finer than a pixel, of which the mask says one thing only.
    side = max(images.reach[i] / _project(i, images, points, pixel), 1.0)
    last, found, with_depth = len(key) - 1, 0, len(images.depth) > 0
    for c in range(len(key)):
        key[c] = -1
    for k in range(len(points.x)):
        if pixel[k, 2] == 0.0:
            codes[i, k] = OUTSIDE
            continue
        column, row = int(pixel[k, 0]), int(pixel[k, 1])
        cell = (int(pixel[k, 1] / side) << 32) + int(pixel[k, 0] / side)
        mixed = np.uint64(cell) * np.uint64(_SPREAD)
        slot = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(last))
        while key[slot] != -1 and key[slot] != cell:
            slot = (slot + 1) & last
        if key[slot] == -1:
            key[slot], number[slot] = cell, found
            found += 1
        code = (number[slot] << RAY_SHIFT) + _on_mask(i, images, column, row)
        if with_depth and _is_hidden(i, images, column, row, pixel[k, 2]):
            code += HIDDEN
        codes[i, k] = code
    return found


@compiled()
def _trace(begin, end, images, points, codes, rays):  # type: ignore[no-untyped-def]
    """Fill codes (I, K) and rays (I,), the number of rays, of images begin .. end - 1."""
    K, table = len(points.x), 1
    while table < 2 * K:
        table *= 2
    scratch = np.empty((K, 3)), np.empty(table, np.int64), np.empty(table, np.int32)
    for i in range(begin, end):
        rays[i] = _trace_image(i, images, points, scratch, codes)


@compiled()
def _count(begin, end, codes, group, weight, den):  # type: ignore[no-untyped-def]
    """den (2, G, K) gains the weights of the images that see each voxel: those in which it is not hidden, and is."""
    for i in range(begin, end):
        for k in range(codes.shape[1]):
            code = codes[i, k]
            if code != OUTSIDE:
                den[(code & HIDDEN) >> 1, group[i], k] += weight[i]


@compiled()
def _step(begin, end, votes, phi, leak, hidden_explains, num):  # type: ignore[no-untyped-def]
    """num (2, G, K) gains weight * phi_v / P * SCALE of the votes on the mask: those not hidden, and hidden."""
    codes, rays, group, weight = votes
    K = codes.shape[1]
    miss = np.empty(K)
    for i in range(begin, end):
        miss[: rays[i]] = 1.0 - leak
        for k in range(K):
            code = codes[i, k]
            if code != OUTSIDE:
                miss[code >> RAY_SHIFT] *= 1.0 - (hidden_explains * phi[k] if code & HIDDEN else phi[k])
        for k in range(K):
            code = codes[i, k]
            if code != OUTSIDE and code & HIT:
                share = phi[k] / (1.0 - miss[code >> RAY_SHIFT])
                num[(code & HIDDEN) >> 1, group[i], k] += weight[i] * np.int64(share * SCALE + 0.5)


class RayVotes(NamedTuple):
    """The votes of I images for K voxels.

    codes  (I, K) int32, as the module says      rays    (I,) int32, how many rays each image has
    group  (I,) int64, group of views            weight  (I,) int64, how often an image counts
    """

    codes: NDArray[np.int32]
    rays: NDArray[np.int32]
    group: NDArray[np.int64]
    weight: NDArray[np.int64]


def trace(images: RayImages, points: RayPoints) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """codes (I, K) int32 and rays (I,) int32 of ``RayVotes``."""
    n = len(images.size)
    codes, rays = np.empty((n, len(points.x)), np.int32), np.empty(n, np.int32)
    run_pieces(default_threads(), lambda a, b: _trace(a, b, images, points, codes, rays), split(n, IMAGES_PER_TASK))
    return codes, rays


def _summed(votes: RayVotes, num_groups: int, add) -> NDArray[np.int64]:  # type: ignore[no-untyped-def]
    """(2, G, K) int64: ``add(begin, end, into)`` over all images, a few large pieces of them, each with sums of its own."""
    n = len(votes.rays)
    pieces = split(n, max(1, -(-n // default_threads())))
    sums = np.zeros((len(pieces), 2, num_groups, votes.codes.shape[1]), np.int64)
    step = pieces[0][1] if pieces else 1
    run_pieces(default_threads(), lambda a, b: add(a, b, sums[a // step]), pieces)
    total: NDArray[np.int64] = sums.sum(0)
    return total


def count(votes: RayVotes, num_groups: int) -> NDArray[np.int64]:
    """Images (weights summed) that see each voxel, (2, G, K) int64: where it is not hidden, and where it is."""
    return _summed(votes, num_groups, lambda a, b, den: _count(a, b, votes.codes, votes.group, votes.weight, den))


def step(
    votes: RayVotes, phi: NDArray[np.float64], num_groups: int, *, leak: float, hidden_explains: float
) -> NDArray[np.int64]:
    """Responsibilities of the voxels for the masks, (2, G, K) int64 in units of 1 / SCALE: not hidden, and hidden votes.

    Of a vote on the mask phi_v / P, P = 1 - (1 - leak) prod_u (1 - phi_u) over all voxels u on its ray, a hidden one with
    ``hidden_explains`` phi_u; of others 0. Sums hold up to 2^30 images, weights counted.

    phi  (K,) float64 in 0 .. 1
    """
    return _summed(votes, num_groups, lambda a, b, num: _step(a, b, votes, phi, leak, hidden_explains, num))
