"""What the CPU votes need of images before they are cast: a matrix per image and joint, and the masks' blocks summed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.bricks import SIDE
from chorus.kernels.cpu.simd import LANES

FLOAT_ERROR = 4e-6
"""Relative error granted to the float32 arithmetic of the bound and of the votes, some 30 roundings."""

VIEW_ROWS = 10
BLOCK_ROWS = 5

_jit = nb.njit(nogil=True, cache=True, error_model="numpy")


@dataclass(frozen=True)
class Prepared:
    """One pass of images, sorted by group, in the kernel's layout; I is padded to whole vectors of 16 images.

    matrix  (I * J * 12,) float32  rows U, V, Z of K [R | t] B_j, principal point left out
    lanes   (I / 16 * J * 12 * 16,) float32  the same for vectors of 16 images, images fastest
    view    (I / 16 * 10 * 16,) float32  likewise cx, cy; the last u and v inside the image; the first u and v inside the
            mask's box, and the last; what float32 may be off in U or V, and in Z
    blocks  (I / 16 * 5 * 16,) int32  likewise the mask's first block column and row, blocks per row, entries per row of
            its table in ``some`` and ``full``, and where that table starts
    start   (I,) int64  first word of each mask
    some    (C,) int32  per mask the summed-area table of its blocks that are not empty
    full    (C,) int32  the same of its full blocks
    """

    matrix: NDArray[np.float32]
    lanes: NDArray[np.float32]
    view: NDArray[np.float32]
    blocks: NDArray[np.int32]
    start: NDArray[np.int64]
    some: NDArray[np.int32]
    full: NDArray[np.int32]


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
def _sum_blocks(words, first, across, down, table, some, full):  # type: ignore[no-untyped-def]
    """Summed-area tables (down + 1, across + 1) from ``table`` on, of the mask's blocks not empty and of its full ones."""
    stride = across + 1
    for c in range(stride):
        some[table + c] = 0
        full[table + c] = 0
    for row in range(down):
        not_empty, filled = 0, 0
        above, here = table + row * stride, table + (row + 1) * stride
        some[here] = 0
        full[here] = 0
        for column in range(across):
            at = first + 8 * (row * across + column)
            any_bit, all_bits = np.int32(0), np.int32(-1)
            for k in range(8):
                any_bit |= words[at + k]
                all_bits &= words[at + k]
            not_empty += any_bit != 0
            filled += all_bits == -1
            some[here + column + 1] = some[above + column + 1] + not_empty
            full[here + column + 1] = full[above + column + 1] + filled


@_jit
def _prepare(  # type: ignore[no-untyped-def]
    begin,
    end,
    poses,
    R,
    t,
    K,
    size,
    box,
    start,
    words,
    joints,
    parents,
    rest_inverse,
    reach,
    tables,
    matrix,
    lanes,
    view,
    blocks,
    some,
    full,
):
    """Fill the arrays of ``Prepared`` for images begin .. end - 1; ``reach`` bounds |x|, |y|, |z| of the grid in metres."""
    J = len(parents)
    M = np.empty((J, 12))
    for i in range(begin, end):
        _transforms(poses[i], joints, parents, rest_inverse, R[i], t[i], K[i], M)
        scale_u, scale_z = 0.0, 0.0
        for j in range(J):
            for c in range(12):
                matrix[(i * J + j) * 12 + c] = M[j, c]
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
        at = i // LANES * (VIEW_ROWS * LANES) + i % LANES
        view[at] = K[i, 0, 2]
        view[at + LANES] = K[i, 1, 2]
        # The largest float32 below W, so that u < W is u <= last, and the sign of last - u.
        view[at + 2 * LANES] = np.nextafter(np.float32(width), np.float32(0.0))
        view[at + 3 * LANES] = np.nextafter(np.float32(height), np.float32(0.0))
        # An empty mask gets a box that no pixel is in and every rectangle misses.
        view[at + 4 * LANES] = 1e9 if empty else x0
        view[at + 5 * LANES] = 1e9 if empty else y0
        view[at + 6 * LANES] = -1e9 if empty else np.nextafter(np.float32(x1), np.float32(0.0))
        view[at + 7 * LANES] = -1e9 if empty else np.nextafter(np.float32(y1), np.float32(0.0))
        # u = U / Z + cx: an error of U, or of Z where it stands for as many pixels as the image and its centre are wide.
        pixels = max(width, height) + abs(K[i, 0, 2]) + abs(K[i, 1, 2])
        view[at + 8 * LANES] = FLOAT_ERROR * (scale_u + pixels * scale_z)
        view[at + 9 * LANES] = FLOAT_ERROR * scale_z
        column, row = x0 >> 4, y0 >> 4
        across, down = ((x1 + 15) >> 4) - column, ((y1 + 15) >> 4) - row
        if empty:
            across, down = 0, 0
        at = i // LANES * (BLOCK_ROWS * LANES) + i % LANES
        blocks[at] = column
        blocks[at + LANES] = row
        blocks[at + 2 * LANES] = across
        blocks[at + 3 * LANES] = across + 1
        blocks[at + 4 * LANES] = tables[i]
        _sum_blocks(words, start[i], across, down, tables[i], some, full)


def prepare(field: VoxelField, images: VoteImages, order: NDArray[np.intp], run: Callable[[Any, int], None]) -> Prepared:
    """The images ``order``, in that order; ``run(work, count)`` calls work(begin, end) for pieces of 0 .. count - 1."""
    n, J = len(order), field.num_joints
    vectors = -(-n // LANES)
    poses, R, t, K, size, box, start = (
        np.ascontiguousarray(np.asarray(a)[order])
        for a in (images.poses, images.R, images.t, images.K, images.size, images.box, images.start)
    )
    for name, values in (("poses", poses), ("R", R), ("t", t), ("K", K)):
        if not np.isfinite(values).all():  # they would become addresses
            raise ValueError(f"images.{name}: expected finite numbers, got some that are not")
    across_down = (box[:, 2:].astype(np.int64) + 15) // 16 - box[:, :2] // 16
    entries = np.where((box[:, 2:] > box[:, :2]).all(1), (across_down + 1).prod(1), 1)
    tables = np.cumsum(entries) - entries
    ready = Prepared(
        matrix=np.zeros(vectors * LANES * J * 12, np.float32),
        lanes=np.zeros(vectors * J * 12 * LANES, np.float32),
        view=np.zeros(vectors * VIEW_ROWS * LANES, np.float32),
        blocks=np.zeros(vectors * BLOCK_ROWS * LANES, np.int32),
        start=start,
        some=np.zeros(int(entries.sum()), np.int32),
        full=np.zeros(int(entries.sum()), np.int32),
    )
    far = max(
        abs(edge)
        for first, count in zip(field.origin, field.shape, strict=True)
        for edge in (first, first + field.spacing * (count + SIDE))
    )

    def work(begin: int, end: int) -> None:
        _prepare(
            begin,
            end,
            poses,
            R,
            t,
            K,
            size,
            box,
            start,
            np.asarray(images.words),
            np.asarray(field.rest_joints),
            np.asarray(field.parents),
            np.asarray(field.rest_inverse),
            far,
            tables,
            ready.matrix,
            ready.lanes,
            ready.view,
            ready.blocks,
            ready.some,
            ready.full,
        )

    run(work, n)
    return ready
