"""What the CPU votes need of images before they are cast: a matrix per image and joint, and the masks' blocks summed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.bricks import SIDE
from chorus.kernels.cpu.layout import (
    ACROSS,
    BLOCKS_ROWS,
    BOX_U0,
    BOX_U1,
    BOX_V0,
    BOX_V1,
    CX,
    CY,
    ERROR_UV,
    ERROR_Z,
    FIRST_COLUMN,
    FIRST_ROW,
    FRAME_ROWS,
    LAST_U,
    LAST_V,
    MATRIX,
    STRIDE,
    TABLE,
    PreparedImages,
    borrowing,
    jit,
    joints_of,
)
from chorus.kernels.cpu.simd import LANES
from chorus.kernels.threads import run_pieces, split

FLOAT_ERROR = 4e-6
"""Relative error granted to the float32 arithmetic of the bound and of the votes, some 30 roundings."""
IMAGES_PER_TASK = 64


class Skeleton(NamedTuple):
    """The body's joints, as ``VoxelField`` has them: zero pose (J, 3), parents (J,), A_j(zero -> rest)^-1 (J, 4, 4).

    used    (j,) int64   the joints that get a matrix
    needed  (J,) bool    they and their ancestors
    """

    rest_joints: NDArray[np.float64]
    parents: NDArray[np.int32]
    rest_inverse: NDArray[np.float64]
    used: NDArray[np.int64]
    needed: NDArray[np.bool_]


def skeleton_of(field: VoxelField) -> Skeleton:
    """The field's skeleton; joints that no voxel follows need no matrix."""
    return skeleton_with(
        np.asarray(field.rest_joints), np.asarray(field.parents), np.asarray(field.rest_inverse), joints_of(field)
    )


def skeleton_with(
    rest_joints: NDArray[np.float64], parents: NDArray[np.int32], rest_inverse: NDArray[np.float64], used: NDArray[np.int64]
) -> Skeleton:
    """A skeleton whose joints ``used`` get matrices."""
    needed = np.zeros(len(parents), np.bool_)
    needed[used] = True
    for j in range(len(parents) - 1, 0, -1):  # parents come before their children
        if needed[j] and parents[j] >= 0:
            needed[parents[j]] = True
    return Skeleton(rest_joints, parents, rest_inverse, used, needed)


class Views(NamedTuple):
    """Poses, cameras, sizes and boxes of the n images of a pass, as ``VoteImages`` has them."""

    poses: NDArray[np.float32]
    R: NDArray[np.float64]
    t: NDArray[np.float64]
    K: NDArray[np.float64]
    size: NDArray[np.int32]
    box: NDArray[np.int32]


@jit
def _rotation(axis_angle, out):  # type: ignore[no-untyped-def]
    """out (3, 3) <- the rotation of an axis-angle vector (3,) float32, in float64 (Rodrigues)."""
    x, y, z = np.float64(axis_angle[0]), np.float64(axis_angle[1]), np.float64(axis_angle[2])
    square = x * x + y * y + z * z
    if square < 1e-16:
        a, b = 1.0 - square / 6.0, 0.5 - square / 24.0
    else:
        angle = np.sqrt(square)
        a, b = np.sin(angle) / angle, (1.0 - np.cos(angle)) / square
    out[0, 0] = 1.0 - b * (y * y + z * z)
    out[1, 1] = 1.0 - b * (x * x + z * z)
    out[2, 2] = 1.0 - b * (x * x + y * y)
    out[0, 1], out[1, 0] = b * x * y - a * z, b * x * y + a * z
    out[0, 2], out[2, 0] = b * x * z + a * y, b * x * z - a * y
    out[1, 2], out[2, 1] = b * y * z - a * x, b * y * z + a * x


@jit
def _joint_transforms(pose, skeleton, G):  # type: ignore[no-untyped-def]
    """G (J, 3, 4) <- global transforms of the joints needed in a pose (J, 3)."""
    joints, parents = skeleton.rest_joints, skeleton.parents
    local = np.empty((3, 3))
    for j in range(len(parents)):
        if not skeleton.needed[j]:
            continue
        _rotation(pose[j], local)
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


@jit
def image_matrices(pose, R, t, K, skeleton, matrix):  # type: ignore[no-untyped-def]
    """matrix (j, 12) of one image and the joints used: K' [R | t] A_j(zero -> theta) A_j(zero -> rest)^-1 in float64, K'
    without its centre."""
    joints, rest_inverse = skeleton.rest_joints, skeleton.rest_inverse
    J = len(joints)
    G, P, A, B = np.empty((J, 3, 4)), np.empty((3, 4)), np.empty((3, 4)), np.empty((3, 4))
    for r in range(3):
        for c in range(3):
            P[r, c] = R[r, c]
        P[r, 3] = t[r]
    for c in range(4):
        P[0, c] = K[0, 0] * P[0, c] + K[0, 1] * P[1, c]
        P[1, c] = K[1, 1] * P[1, c]
    _joint_transforms(pose, skeleton, G)
    for row in range(len(skeleton.used)):
        j = skeleton.used[row]
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
                matrix[row, 4 * r + c] = value + (P[r, 3] if c == 3 else 0.0)


@borrowing
def _store_matrices(M, i, reach, ready):  # type: ignore[no-untyped-def]
    """M (j, 12) of image i in both layouts; returns how large the terms of U or V, and of Z, are for |x|, |y|, |z| <= reach."""
    J = len(M)
    scale_uv, scale_z = 0.0, 0.0
    for j in range(J):
        for c in range(MATRIX):
            ready.matrix[(i * J + j) * MATRIX + c] = M[j, c]
            ready.matrix_lanes[((i // LANES * J + j) * MATRIX + c) * LANES + i % LANES] = M[j, c]
        for r in range(3):
            size_of_terms = abs(M[j, 4 * r + 3])
            for c in range(3):
                size_of_terms += reach * abs(M[j, 4 * r + c])
            if r < 2:
                scale_uv = max(scale_uv, size_of_terms)
            else:
                scale_z = max(scale_z, size_of_terms)
    return scale_uv, scale_z


@borrowing
def _store_frame(frame, i, K, size, box, scale_uv, scale_z):  # type: ignore[no-untyped-def]
    """Image i's part of ``PreparedImages.frame``."""
    height, width = size[0], size[1]
    x0, y0, x1, y1 = box[0], box[1], box[2], box[3]
    empty = x1 <= x0 or y1 <= y0
    at = i // LANES * (FRAME_ROWS * LANES) + i % LANES
    frame[at + CX] = K[0, 2]
    frame[at + CY] = K[1, 2]
    # The largest float32 below W, so that u < W is u <= last, and the sign of last - u.
    frame[at + LAST_U] = np.nextafter(np.float32(width), np.float32(0.0))
    frame[at + LAST_V] = np.nextafter(np.float32(height), np.float32(0.0))
    # An empty mask gets a box that no pixel is in and every rectangle misses.
    frame[at + BOX_U0] = 1e9 if empty else x0
    frame[at + BOX_V0] = 1e9 if empty else y0
    frame[at + BOX_U1] = -1e9 if empty else np.nextafter(np.float32(x1), np.float32(0.0))
    frame[at + BOX_V1] = -1e9 if empty else np.nextafter(np.float32(y1), np.float32(0.0))
    # u = U / Z + cx: an error of U, or of Z where it stands for as many pixels as the image and its centre are wide.
    pixels = max(width, height) + abs(K[0, 2]) + abs(K[1, 2])
    frame[at + ERROR_UV] = FLOAT_ERROR * (scale_uv + pixels * scale_z)
    frame[at + ERROR_Z] = FLOAT_ERROR * scale_z


@borrowing
def _sum_blocks(words, first, across, down, table, occupied, full):  # type: ignore[no-untyped-def]
    """Summed-area tables (down + 1, across + 1) from ``table`` on, of the mask's blocks not empty and of its full ones."""
    stride = across + 1
    for c in range(stride):
        occupied[table + c] = 0
        full[table + c] = 0
    for row in range(down):
        not_empty, filled = 0, 0
        above, here = table + row * stride, table + (row + 1) * stride
        occupied[here] = 0
        full[here] = 0
        for column in range(across):
            at = first + 8 * (row * across + column)
            any_bit, all_bits = np.int32(0), np.int32(-1)
            for k in range(8):
                any_bit |= words[at + k]
                all_bits &= words[at + k]
            not_empty += any_bit != 0
            filled += all_bits == -1
            occupied[here + column + 1] = occupied[above + column + 1] + not_empty
            full[here + column + 1] = full[above + column + 1] + filled


@borrowing
def _store_blocks(i, box, table, ready):  # type: ignore[no-untyped-def]
    """Image i's part of ``PreparedImages.blocks``, and its tables, which start at ``table``."""
    x0, y0, x1, y1 = box[0], box[1], box[2], box[3]
    column, row = x0 >> 4, y0 >> 4
    across, down = ((x1 + 15) >> 4) - column, ((y1 + 15) >> 4) - row
    if x1 <= x0 or y1 <= y0:
        across, down = 0, 0
    blocks, at = ready.blocks, i // LANES * (BLOCKS_ROWS * LANES) + i % LANES
    blocks[at + FIRST_COLUMN] = column
    blocks[at + FIRST_ROW] = row
    blocks[at + ACROSS] = across
    blocks[at + STRIDE] = across + 1
    blocks[at + TABLE] = table
    _sum_blocks(ready.words, ready.start[i], across, down, table, ready.occupied, ready.full)


@jit
def _prepare(begin, end, views, skeleton, reach, tables, ready):  # type: ignore[no-untyped-def]
    """Fill ``ready`` for images begin .. end - 1; ``reach`` bounds |x|, |y|, |z| of the grid in metres, ``tables`` (n,) says
    where an image's summed-area tables start."""
    M = np.empty((len(skeleton.used), MATRIX))
    for i in range(begin, end):
        K, box = views.K[i], views.box[i]
        image_matrices(views.poses[i], views.R[i], views.t[i], K, skeleton, M)
        scale_uv, scale_z = _store_matrices(M, i, reach, ready)
        _store_frame(ready.frame, i, K, views.size[i], box, scale_uv, scale_z)
        _store_blocks(i, box, tables[i], ready)


def prepare(field: VoxelField, images: VoteImages, order: NDArray[np.intp], threads: int) -> PreparedImages:
    """The images ``order`` (n,), in that order, as the compiled loops take them. ValueError for poses or cameras not finite."""
    skeleton = skeleton_of(field)
    n, J = len(order), len(skeleton.used)
    vectors = -(-n // LANES)
    names = ("poses", "R", "t", "K", "size", "box", "start")
    *values, start = (np.ascontiguousarray(np.asarray(getattr(images, name))[order]) for name in names)
    views = Views(*values)
    for name in ("poses", "R", "t", "K"):
        if not np.isfinite(getattr(views, name)).all():  # they would become addresses
            raise ValueError(f"images.{name}: expected finite numbers, got some that are not")
    box = views.box
    across_down = (box[:, 2:].astype(np.int64) + 15) // 16 - box[:, :2] // 16
    entries = np.where((box[:, 2:] > box[:, :2]).all(1), (across_down + 1).prod(1), 1)
    tables = np.cumsum(entries) - entries
    ready = PreparedImages(
        matrix=np.zeros(vectors * LANES * J * MATRIX, np.float32),
        matrix_lanes=np.zeros(vectors * J * MATRIX * LANES, np.float32),
        frame=np.zeros(vectors * FRAME_ROWS * LANES, np.float32),
        blocks=np.zeros(vectors * BLOCKS_ROWS * LANES, np.int32),
        occupied=np.zeros(int(entries.sum()), np.int32),
        full=np.zeros(int(entries.sum()), np.int32),
        start=start,
        words=np.asarray(images.words),
        num_joints=J,
    )
    reach = max(
        abs(edge)
        for first, count in zip(field.origin, field.shape, strict=True)
        for edge in (first, first + field.spacing * (count + SIDE))
    )

    def work(begin: int, end: int) -> None:
        _prepare(begin, end, views, skeleton, reach, tables, ready)

    run_pieces(threads, work, split(n, IMAGES_PER_TASK))
    return ready
