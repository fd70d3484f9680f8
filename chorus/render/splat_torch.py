"""The splats of ``chorus.render.splat`` for batches of images on a torch device, with the same results bit by bit.

Every product and sum is computed in float64 in the order of the compiled loops, as a separate operation, so that no fused
operation rounds differently; the largest level on a pixel is a maximum of integers, which does not depend on the order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chorus.render.splat import EDGE_END, EDGE_START

BATCH = 16
"""Images drawn at once: footprints of 16 at 48^3, with all voxels drawn, take about two gigabytes."""


def _project(x: Tensor, y: Tensor, z: Tensor, P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(u, v, depth) of the lattice x (n,) by y (n,) by z (n,) by each P (B, 3, 4): (B, n, n, n) float64 each; u and v are 0
    where the depth is not positive."""
    x, y, z = x[:, None, None], y[:, None], z
    a, b, depth = (
        P[:, r, 0, None, None, None] * x
        + P[:, r, 1, None, None, None] * y
        + P[:, r, 2, None, None, None] * z
        + P[:, r, 3, None, None, None]
        for r in range(3)
    )
    seen = depth > 0
    safe = torch.where(seen, depth, 1.0)
    return torch.where(seen, a / safe, 0.0), torch.where(seen, b / safe, 0.0), depth


def _raise(levels: Tensor, image: Tensor, row: Tensor, column: Tensor, level: Tensor) -> None:
    """Raise pixels of ``levels`` (B, h, w) to ``level`` (M,), given their image, row and column (M,)."""
    pixel = (image * levels.shape[1] + row.long()) * levels.shape[2] + column.long()
    levels.view(-1).scatter_reduce_(0, pixel, level, "amax")


def _put(levels: Tensor, image: Tensor, u: Tensor, v: Tensor, level: Tensor) -> None:
    inside = (u >= 0) & (u < levels.shape[2]) & (v >= 0) & (v < levels.shape[1])
    _raise(levels, image[inside], v[inside], u[inside], level[inside])


def splat_centres(phi: Tensor, extent: float, P: Tensor, thresholds: Tensor, levels: Tensor) -> None:
    """``splat.splat_centres`` for B images: phi (B, N, N, N) float32, P (B, 3, 4) float64, thresholds (T,) float32, levels
    (B, h, w) int32, all on one device."""
    reached, image, centre = _levels_and_centres(phi, extent, P, thresholds)
    drawn = (reached > 0) & (centre[2] > 0)
    _put(levels, image[drawn], centre[0][drawn], centre[1][drawn], reached[drawn])


def _levels_and_centres(
    phi: Tensor, extent: float, P: Tensor, thresholds: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Level and image of each voxel, (B, N, N, N) each, and u, v, depth of its centre."""
    B, N = phi.shape[:2]
    spacing = extent / N
    axis = (torch.arange(N, dtype=torch.float64, device=phi.device) + 0.5) * spacing - extent / 2
    reached = torch.bucketize(phi, thresholds, right=True, out_int32=True)
    image = torch.arange(B, device=phi.device)[:, None, None, None].expand_as(reached)
    return reached, image, _project(axis, axis, axis, P)


def splat_footprints(phi: Tensor, extent: float, P: Tensor, thresholds: Tensor, levels: Tensor) -> None:
    """``splat.splat_footprints`` for B images; arguments as of ``splat_centres``."""
    height, width = levels.shape[1:]
    N = phi.shape[1]
    axis = torch.arange(N + 1, dtype=torch.float64, device=phi.device) * (extent / N) - extent / 2
    near, far = slice(0, N), slice(1, N + 1)
    corner_slices = [(far if c & 1 else near, far if c >> 1 & 1 else near, far if c >> 2 else near) for c in range(8)]
    corners = [
        torch.stack([value[:, a, b, c] for a, b, c in corner_slices], -1) for value in _project(axis, axis, axis, P)
    ]  # u, v, depth, each (B, N, N, N, 8)
    reached, image, centre = _levels_and_centres(phi, extent, P, thresholds)
    bounded = (corners[2] > 0).all(-1)
    cut = (reached > 0) & ~bounded & (centre[2] > 0)
    _put(levels, image[cut], centre[0][cut], centre[1][cut], reached[cut])
    u_low, u_high, v_low, v_high = corners[0].amin(-1), corners[0].amax(-1), corners[1].amin(-1), corners[1].amax(-1)
    drawn = (reached > 0) & bounded & (u_high > 0) & (u_low < width) & (v_high > 0) & (v_low < height)
    image, level, u, v = image[drawn], reached[drawn], corners[0][drawn], corners[1][drawn]
    left, right = u_low[drawn].floor().clamp(min=0), u_high[drawn].ceil().clamp(max=width)
    row, bottom = v_low[drawn].floor().clamp(min=0), v_high[drawn].ceil().clamp(max=height)
    while len(row):  # every voxel's next row of pixels, until none has one left
        first, last = _strip(u, v, row, left, right)
        column = first
        wide = (column < last).nonzero()[:, 0]
        while len(wide):
            _raise(levels, image[wide], row[wide], column[wide], level[wide])
            column = column + 1
            wide = wide[column[wide] < last[wide]]
        row = row + 1
        more = row < bottom
        image, level, u, v, left, right, row, bottom = (t[more] for t in (image, level, u, v, left, right, row, bottom))


def _strip(u: Tensor, v: Tensor, row: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Columns first .. last - 1, float64 (M,), that the hulls of projected cubes, corners (M, 8), overlap in rows (M,)."""
    start_corner, end_corner = (torch.from_numpy(corner).to(u.device) for corner in (EDGE_START, EDGE_END))
    ua, ub, va, vb = u[:, start_corner], u[:, end_corner], v[:, start_corner], v[:, end_corner]
    swap = va > vb
    ua, ub, va, vb = torch.where(swap, ub, ua), torch.where(swap, ua, ub), torch.where(swap, vb, va), torch.where(swap, va, vb)
    top = row[:, None]
    start = torch.where(va >= top, ua, ua + (ub - ua) * ((top - va) / (vb - va)))
    end = torch.where(vb <= top + 1, ub, ua + (ub - ua) * ((top + 1 - va) / (vb - va)))
    missed = (vb < top) | (va > top + 1)
    low, high = torch.minimum(start, end), torch.maximum(start, end)
    first = low.masked_fill(missed, torch.inf).amin(1).floor()
    last = high.masked_fill(missed, -torch.inf).amax(1).ceil()
    return torch.maximum(first, left), torch.minimum(last, right)
