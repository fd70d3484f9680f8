"""Splatting of voxels and points to pixels, and area averages of masks, on the CPU, for the projective average precision.

The loops are compiled and release the GIL; each call handles one image, so that a pool of threads scores a batch.
"""
# mypy: allow-untyped-decorators

from __future__ import annotations

from typing import Any

import numpy as np

from chorus.kernels.jit import compiled

# The 12 edges of a cube whose corner c has offsets (c & 1, c >> 1 & 1, c >> 2) along x, y, z.
EDGE_START = np.array([0, 2, 4, 6, 0, 1, 4, 5, 0, 1, 2, 3])
EDGE_END = np.array([1, 3, 5, 7, 2, 3, 6, 7, 4, 5, 6, 7])


@compiled()
def level_of(value: Any, thresholds: Any) -> Any:
    """How many of the ascending thresholds ``value`` reaches (value >= threshold), 0 .. T."""
    low, high = 0, len(thresholds)
    while low < high:
        middle = (low + high) // 2
        if value >= thresholds[middle]:
            low = middle + 1
        else:
            high = middle
    return low


@compiled()
def _project(x: float, y: float, z: float, P: Any) -> Any:
    """(u, v, depth) of a point by P = K [R | t], (3, 4); u and v are 0 where the depth is not positive."""
    depth = P[2, 0] * x + P[2, 1] * y + P[2, 2] * z + P[2, 3]
    if not depth > 0.0:
        return 0.0, 0.0, depth
    u = (P[0, 0] * x + P[0, 1] * y + P[0, 2] * z + P[0, 3]) / depth
    v = (P[1, 0] * x + P[1, 1] * y + P[1, 2] * z + P[1, 3]) / depth
    return u, v, depth


@compiled()
def _put(u: float, v: float, level: int, levels: Any) -> None:
    """Raise the pixel that holds (u, v) to ``level``, if it lies in the image."""
    height, width = levels.shape
    # Compared as floating point first, as coordinates far outside overflow an integer.
    if 0.0 <= u < width and 0.0 <= v < height:
        row, column = int(v), int(u)
        levels[row, column] = max(levels[row, column], level)


@compiled()
def splat_centres(phi: Any, extent: float, P: Any, thresholds: Any, levels: Any) -> None:
    """Raise each pixel of ``levels`` (H, W) int32 to the highest level among the voxels whose centres fall on it.

    phi         (N, N, N) float32 in a cube of ``extent`` metres     P  (3, 4) float64 K [R | t] of this image size
    thresholds  (T,) float32, ascending; the level of a voxel is how many of them its phi reaches
    """
    N = phi.shape[0]
    spacing = extent / N
    for i in range(N):
        x = (i + 0.5) * spacing - extent / 2
        for j in range(N):
            y = (j + 0.5) * spacing - extent / 2
            for k in range(N):
                level = level_of(phi[i, j, k], thresholds)
                if level == 0:
                    continue
                u, v, depth = _project(x, y, (k + 0.5) * spacing - extent / 2, P)
                if depth > 0.0:
                    _put(u, v, level, levels)


@compiled()
def _project_corners(N: int, extent: float, P: Any) -> Any:
    """(u, v, depth) of the corners of the voxels, (N + 1, N + 1, N + 1, 3)."""
    spacing = extent / N
    corners = np.empty((N + 1, N + 1, N + 1, 3))
    for i in range(N + 1):
        for j in range(N + 1):
            for k in range(N + 1):
                corners[i, j, k] = _project(i * spacing - extent / 2, j * spacing - extent / 2, k * spacing - extent / 2, P)
    return corners


@compiled()
def splat_footprints(phi: Any, extent: float, P: Any, thresholds: Any, levels: Any) -> None:
    """Raise each pixel of ``levels`` (H, W) int32 to the highest level among the voxels whose projection overlaps it.

    The projection of a voxel is the convex hull of its 8 projected corners; a pixel overlaps it where they share some area,
    so the pixel of the centre is always among them. A voxel cut by the plane z = 0 of the camera has an
    unbounded projection; only the pixel of its centre is drawn. Arguments as of ``splat_centres``.
    """
    height, width = levels.shape
    N = phi.shape[0]
    spacing = extent / N
    corners = _project_corners(N, extent, P)
    u, v = np.empty(8), np.empty(8)
    for i in range(N):
        for j in range(N):
            for k in range(N):
                level = level_of(phi[i, j, k], thresholds)
                if level == 0:
                    continue
                nearest = u_low = v_low = np.inf
                u_high = v_high = -np.inf
                for c in range(8):
                    a, b, d = i + (c & 1), j + ((c >> 1) & 1), k + (c >> 2)
                    at_u, at_v = corners[a, b, d, 0], corners[a, b, d, 1]
                    u[c], v[c] = at_u, at_v
                    nearest = min(nearest, corners[a, b, d, 2])
                    u_low, u_high = min(u_low, at_u), max(u_high, at_u)
                    v_low, v_high = min(v_low, at_v), max(v_high, at_v)
                if not nearest > 0.0:
                    half = spacing / 2 - extent / 2
                    at_u, at_v, depth = _project(i * spacing + half, j * spacing + half, k * spacing + half, P)
                    if depth > 0.0:
                        _put(at_u, at_v, level, levels)
                    continue
                if u_high <= 0.0 or u_low >= width or v_high <= 0.0 or v_low >= height:
                    continue
                left, right = max(np.floor(u_low), 0.0), min(np.ceil(u_high), float(width))
                top, bottom = max(np.floor(v_low), 0.0), min(np.ceil(v_high), float(height))
                _fill(u, v, int(left), int(right), int(top), int(bottom), level, levels)


@compiled()
def _fill(u: Any, v: Any, left: int, right: int, top: int, bottom: int, level: int, levels: Any) -> None:
    """Raise the pixels of columns left .. right - 1 and rows top .. bottom - 1 that the hull of a cube's corners overlaps."""
    for row in range(top, bottom):
        any_raised = False
        for column in range(left, right):
            any_raised |= levels[row, column] < level
        if not any_raised:
            continue
        # In the strip row <= v <= row + 1 the hull reaches as far as the projected edges of the cube do: each edge of the hull
        # is one of them, and the remaining ones lie inside.
        first, last = np.inf, -np.inf
        for e in range(12):
            ua, va, ub, vb = u[EDGE_START[e]], v[EDGE_START[e]], u[EDGE_END[e]], v[EDGE_END[e]]
            if va > vb:
                ua, va, ub, vb = ub, vb, ua, va
            if vb < row or va > row + 1:
                continue
            start = ua if va >= row else ua + (ub - ua) * ((row - va) / (vb - va))
            end = ub if vb <= row + 1 else ua + (ub - ua) * ((row + 1 - va) / (vb - va))
            first, last = min(first, start, end), max(last, start, end)
        # Both may be far outside; clipped before they become integers.
        first, last = max(np.floor(first), float(left)), min(np.ceil(last), float(right))
        for column in range(int(first), int(last)):
            levels[row, column] = max(levels[row, column], level)


@compiled()
def mark_points(points: Any, P: Any, marked: Any) -> None:
    """Set the pixels of ``marked`` (H, W) bool on which points (V, 3) fall that are in front of the camera."""
    height, width = marked.shape
    for point in points:
        u, v, depth = _project(point[0], point[1], point[2], P)
        if depth > 0.0 and 0.0 <= u < width and 0.0 <= v < height:
            marked[int(v), int(u)] = True


@compiled()
def covered_area(mask: Any, area: Any) -> None:
    """Add to ``area`` (h, w) int64 the area of a mask (H, W) that falls on each of h x w equal cells of its image.

    In integers: a cell's whole area is H W (a mask's pixel is w wide and h high, a cell W wide and H high).
    """
    height, width = mask.shape
    h, w = area.shape
    for row in range(height):
        first_row, last_row = row * h // height, ((row + 1) * h - 1) // height
        for column in range(width):
            if not mask[row, column]:
                continue
            for j in range(first_row, last_row + 1):
                down = min((row + 1) * h, (j + 1) * height) - max(row * h, j * height)
                for i in range(column * w // width, ((column + 1) * w - 1) // width + 1):
                    area[j, i] += down * (min((column + 1) * w, (i + 1) * width) - max(column * w, i * width))
