"""Silhouettes on a coarse grid of cells: what of a mask, and of voxels moved into a pose, falls into each cell of an image.

The cells of an image are squares of ``cell`` pixels from its origin, ``rows`` by ``columns`` of them, stored row by row. Used
to compare fields by the masks of images that they were not made from (``chorus.occupancy.choice``); exact integers once a
point's cell is decided, in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus.kernels.cpu.layout import borrowing, inlined
from chorus.kernels.cpu.prepare import Skeleton, Views, image_matrices
from chorus.kernels.jit import compiled
from chorus.kernels.masks import BLOCK, WORDS_PER_BLOCK
from chorus.kernels.threads import default_threads, run_pieces, split

IMAGES_PER_TASK = 128


class CellImages(NamedTuple):
    """I images as cells.

    matrices   (I, J, 12) float64  rows of K [R | t] B_j
    size       (I, 2) int32        height, width in pixels      cell  (I,) float64  side of a cell in pixels
    first      (I + 1,) int64      where an image's cells begin in ``pixels`` and ``hidden``; first[I] is their number
    columns    (I,) int32          cells in a row
    pixels     (C,) int32          pixels of the mask in each cell
    hidden     (C,) bool           cells that are left out of every comparison
    part       (I,) int64          which part of the histograms an image counts in
    most       the cells of the image that has most
    """

    matrices: NDArray[np.float64]
    size: NDArray[np.int32]
    cell: NDArray[np.float64]
    first: NDArray[np.int64]
    columns: NDArray[np.int32]
    pixels: NDArray[np.int32]
    hidden: NDArray[np.bool_]
    part: NDArray[np.int64]
    most: int


class Points(NamedTuple):
    """K points of the rest pose with sparse skinning weights, and a level each.

    x       (3, K) float64 metres                  level   (K,) int32, above 0
    offset  (K + 1,) int64 entries of point k: offset[k] .. offset[k + 1] - 1     joint, weight  (E,) of each entry
    one     whether all are rigid with one joint
    """

    x: NDArray[np.float64]
    offset: NDArray[np.int64]
    joint: NDArray[np.int32]
    weight: NDArray[np.float32]
    level: NDArray[np.int32]
    one: bool


@compiled()
def _fill_matrices(begin, end, views, skeleton, matrices):  # type: ignore[no-untyped-def]
    """matrices (I, J, 12) of images begin .. end - 1, principal point included."""
    for i in range(begin, end):
        K, M = views.K[i], matrices[i]
        image_matrices(views.poses[i], views.R[i], views.t[i], K, skeleton, M)
        for j in range(len(M)):
            for c in range(4):
                M[j, c] += K[0, 2] * M[j, 8 + c]
                M[j, 4 + c] += K[1, 2] * M[j, 8 + c]


@compiled(error_model="numpy")
def _count_pixels(begin, end, box, start, words, images):  # type: ignore[no-untyped-def]
    """Fill ``images.pixels`` of images begin .. end - 1 from their masks (packed as ``masks`` says)."""
    for i in range(begin, end):
        left, top = box[i, 0] // BLOCK, box[i, 1] // BLOCK
        across, down = -(-box[i, 2] // BLOCK) - left, -(-box[i, 3] // BLOCK) - top
        scale = 1.0 / images.cell[i]
        if box[i, 2] <= box[i, 0]:
            continue
        for block in range(across * down):
            y, x = (top + block // across) * BLOCK, (left + block % across) * BLOCK
            for w in range(WORDS_PER_BLOCK):
                word = words[start[i] + block * WORDS_PER_BLOCK + w]
                bit = 0
                while word:
                    if word & 1:
                        row, column = y + 2 * w + bit // BLOCK, x + bit % BLOCK
                        images.pixels[images.first[i] + int(row * scale) * images.columns[i] + int(column * scale)] += 1
                    word >>= 1
                    bit += 1


@inlined
def _mark(U, V, Z, height, width, scale, columns):  # type: ignore[no-untyped-def]
    """The cell of a point with homogeneous pixel (U, V, Z) in an image; -1 behind the camera or outside the image."""
    inverse = 1.0 / Z
    u, v = U * inverse, V * inverse
    seen = (Z > 0.0) & (u >= 0.0) & (u < width) & (v >= 0.0) & (v < height)
    return np.int32(v * scale) * columns + np.int32(u * scale) if seen else np.int32(-1)


@borrowing
def _draw(i, images, points, at, levels):  # type: ignore[no-untyped-def]
    """levels (cells of image i,) <- the highest level of the points that fall into each cell, 0 for none; how many cells.

    at  (K,) scratch
    """
    height, width, scale = np.float64(images.size[i, 0]), np.float64(images.size[i, 1]), 1.0 / images.cell[i]
    count, columns, X, M = len(points.level), images.columns[i], points.x, images.matrices
    if points.one:  # one matrix, and a loop without branches, which takes several points at a time
        j = points.joint[0]
        m00, m01, m02, m03 = M[i, j, 0], M[i, j, 1], M[i, j, 2], M[i, j, 3]
        m10, m11, m12, m13 = M[i, j, 4], M[i, j, 5], M[i, j, 6], M[i, j, 7]
        m20, m21, m22, m23 = M[i, j, 8], M[i, j, 9], M[i, j, 10], M[i, j, 11]
        for k in range(count):
            x, y, z = X[0, k], X[1, k], X[2, k]
            U, V = m00 * x + m01 * y + m02 * z + m03, m10 * x + m11 * y + m12 * z + m13
            at[k] = _mark(U, V, m20 * x + m21 * y + m22 * z + m23, height, width, scale, columns)
    else:
        for k in range(count):
            x, y, z = X[0, k], X[1, k], X[2, k]
            U, V, Z = 0.0, 0.0, 0.0
            for e in range(points.offset[k], points.offset[k + 1]):
                j, weight = points.joint[e], np.float64(points.weight[e])
                U += weight * (M[i, j, 0] * x + M[i, j, 1] * y + M[i, j, 2] * z + M[i, j, 3])
                V += weight * (M[i, j, 4] * x + M[i, j, 5] * y + M[i, j, 6] * z + M[i, j, 7])
                Z += weight * (M[i, j, 8] * x + M[i, j, 9] * y + M[i, j, 10] * z + M[i, j, 11])
            at[k] = _mark(U, V, Z, height, width, scale, columns)
    cells = images.first[i + 1] - images.first[i]
    for c in range(cells):
        levels[c] = 0
    for k in range(count):
        c = at[k]
        if c >= 0 and points.level[k] > levels[c]:
            levels[c] = points.level[k]
    return cells


@compiled(error_model="numpy")
def _hide(begin, end, images, points):  # type: ignore[no-untyped-def]
    """Mark as hidden the cells of images begin .. end - 1 into which some point falls."""
    at, levels = np.empty(len(points.level), np.int32), np.empty(images.most, np.int32)
    for i in range(begin, end):
        for c in range(_draw(i, images, points, at, levels)):
            images.hidden[images.first[i] + c] = levels[c] > 0


@compiled(error_model="numpy")
def _compare(begin, end, rows, images, points, histogram):  # type: ignore[no-untyped-def]
    """histogram (parts, levels, 2) gains, by part and highest level, the cells not hidden and the mask's pixels in them."""
    at, levels = np.empty(len(points.level), np.int32), np.empty(images.most, np.int32)
    for row in rows[begin:end]:
        first, part = images.first[row], images.part[row]
        for c in range(_draw(row, images, points, at, levels)):
            if not images.hidden[first + c]:
                histogram[part, levels[c], 0] += 1
                histogram[part, levels[c], 1] += images.pixels[first + c]


def matrices_of(views: Views, skeleton: Skeleton) -> NDArray[np.float64]:
    """K [R | t] B_j of images and the joints that a skeleton uses, (I, J, 12) float64, rows U, V, Z one after the other."""
    found = np.empty((len(views.poses), len(skeleton.used), 12))
    pieces = split(len(found), IMAGES_PER_TASK)
    run_pieces(default_threads(), lambda a, b: _fill_matrices(a, b, views, skeleton, found), pieces)
    return found


def count_pixels(box: NDArray[np.int32], start: NDArray[np.int64], words: NDArray[np.uint32], images: CellImages) -> None:
    """Fill ``images.pixels``, which is zero, from packed masks: box (I, 4), start (I,), words (T,)."""
    threads = default_threads()
    run_pieces(threads, lambda a, b: _count_pixels(a, b, box, start, words, images), split(len(box), IMAGES_PER_TASK))


def hide(images: CellImages, points: Points) -> None:
    """Fill ``images.hidden``: the cells into which some point falls."""
    run_pieces(default_threads(), lambda a, b: _hide(a, b, images, points), split(len(images.cell), IMAGES_PER_TASK))


def compare(images: CellImages, rows: NDArray[np.int64], points: Points, parts: int, levels: int) -> NDArray[np.int64]:
    """Cells and mask pixels by part of the images and highest level of the points in the cell, (parts, levels, 2) int64.

    rows  (n,) which images are compared             levels  0 for a cell without a point, to levels - 1

    On the calling thread: what is compared with these images can be compared side by side.
    """
    found = np.zeros((parts, levels, 2), np.int64)
    _compare(0, len(rows), rows, images, points, found)
    return found
