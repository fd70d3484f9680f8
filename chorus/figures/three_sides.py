"""Pictures of an occupancy around the canonical body, from three sides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import zoom

from chorus.body.model import Body
from chorus.figures.saving import save_figure
from chorus.render.rasterize import face_normals, render_orthographic, shade

COLOURS = matplotlib.colormaps["plasma"]
PIXELS = 420
OPACITY = 18.0
"""What a metre of phi = 1 takes of the light, as an exponent; of lower phi, its cube."""
MARGIN = 0.12
"""Metres around the body and the distribution that are shown."""
SHOWN = 0.2
"""A picture shows all places with at least this phi."""
LOOKED_THROUGH = 0.25
"""Metres of one phi that the colours of the scale are those of."""

# Rotations from the person frame to a viewer's axes (x right, y down, z away from the viewer).
SIDES: dict[str, NDArray[np.float64]] = {
    "from the front": np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]]),
    "from the person's left": np.array([[0, 0, -1.0], [0, -1, 0], [-1, 0, 0]]),
    "from above": np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]),
}
EDGES = {"from the front": ("right", "left"), "from the person's left": ("front", "back"), "from above": ("left", "right")}
"""Which of the person's sides is at a picture's left and right."""


def turned(grid: NDArray[Any], side: str) -> NDArray[Any]:
    """A grid (N, N, N) indexed [ix, iy, iz] as it is seen from a side of SIDES: (N, N, N) indexed [layer, row, column].

    The views look along axes, so that it is the grid transposed and flipped.
    """
    rotation = SIDES[side]
    axes = np.abs(rotation).argmax(1)
    seen = grid.transpose(axes[2], axes[1], axes[0])
    return np.flip(seen, tuple(k for k in range(3) if rotation[2 - k].sum() < 0))


def render_side(
    phi: NDArray[np.floating[Any]],
    extent: float,
    body: Body,
    side: str,
    *,
    vertices: NDArray[np.float64] | None = None,
    pixels: int = PIXELS,
    top: float = 1.0,
) -> NDArray[np.uint8]:
    """The body inside the volume-rendered distribution, seen from a side of SIDES: (P, P, 3) uint8 RGB.

    phi       (N, N, N) in [0, 1], indexed [ix, iy, iz]      extent  side of its cube in metres
    vertices  (V, 3) metres, of the posed body; None: the rest pose
    top       the value of phi with the brightest colour

    The distribution is composited front to back along the line of sight; the part behind the body is hidden.
    """
    rotation = SIDES[side]
    vertices = body.rest_vertices if vertices is None else vertices
    depth, face = render_orthographic(vertices, body.faces, rotation, pixels, pixels, extent / pixels)
    normals = face_normals(vertices, body.faces) @ rotation.T * [1, -1, -1]
    image = shade(face, normals).astype(np.float64) / 255

    N = phi.shape[0]
    centres = (np.arange(N) + 0.5) * (extent / N) - extent / 2
    seen = np.zeros_like(image)
    light = np.ones((pixels, pixels))
    for z, layer in zip(centres, turned(phi, side), strict=True):
        value = np.clip(zoom(layer, pixels / N, order=1, grid_mode=True, mode="nearest") / top, 0, 1)
        # One metre at phi = top is opaque, while low phi is almost transparent.
        alpha = np.where(z < depth, opacity(value, extent / N), 0.0)
        seen += (light * alpha)[..., None] * COLOURS(value)[..., :3]
        light *= 1 - alpha
    image = seen + light[..., None] * image
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def opacity(value: NDArray[np.floating[Any]], metres: float) -> NDArray[np.float64]:
    """How much of the light so many metres of phi, as a share of the brightest, take: low phi is almost transparent."""
    return 1 - np.exp(-OPACITY * metres * np.asarray(value, np.float64) ** 3)


def scale_colours() -> ListedColormap:
    """COLOURS as they look in the pictures: over white, paler the lower phi is."""
    value = np.linspace(0, 1, 256)
    alpha = opacity(value, LOOKED_THROUGH)[:, None]
    return ListedColormap(alpha * COLOURS(value)[:, :3] + 1 - alpha)


def cropped(
    grids: Sequence[NDArray[np.floating[Any]]], extent: float, vertices: NDArray[np.float64]
) -> tuple[list[NDArray[np.floating[Any]]], float]:
    """The middle of grids (N, N, N) that has all of the body and of what is probable, and the side of that cube in metres."""
    N = len(grids[0])
    if any(len(grid) != N for grid in grids):
        return list(grids), extent
    spacing, reach = extent / N, float(np.abs(vertices).max())
    for grid in grids:
        places = np.argwhere(grid >= min(SHOWN, 0.5 * float(grid.max())) if grid.max() > 0 else np.zeros(grid.shape, bool))
        if len(places):
            reach = max(reach, spacing * float(np.abs(places + 0.5 - N / 2).max() + 0.5))
    cut = max(0, int((extent / 2 - reach - MARGIN) / spacing))
    middle = slice(cut, N - cut)
    return [grid[middle, middle, middle] for grid in grids], extent - 2 * cut * spacing


def save_three_sides(
    path: str | Path,
    rows: Sequence[tuple[str, NDArray[np.floating[Any]]]],
    extent: float,
    body: Body,
    title: str,
    *,
    vertices: NDArray[np.float64] | None = None,
) -> None:
    """A PNG with a row for each distribution (label, phi) and a column for each side; all share one colour scale up to 1.

    extent, vertices  as for ``render_side``; of the cube, what is around the body and the distributions is shown
    """
    grids, extent = cropped([phi for _, phi in rows], extent, body.rest_vertices if vertices is None else vertices)
    rows = [(label, grid) for (label, _), grid in zip(rows, grids, strict=True)]
    figure = Figure(figsize=(3.1 * len(SIDES) + 0.9, 3.0 * len(rows) + 0.6), layout="constrained", dpi=110)
    axes = figure.subplots(len(rows), len(SIDES), squeeze=False)
    figure.suptitle(title, fontsize=12)
    half = extent / 2
    for row, ((label, phi), line) in enumerate(zip(rows, axes, strict=True)):
        for side, ax in zip(SIDES, line, strict=True):
            ax.imshow(render_side(phi, extent, body, side, vertices=vertices), extent=(-half, half, -half, half))
            ax.set_xticks([])
            ax.set_yticks([])
            ax.plot([half - 0.57, half - 0.07], [0.06 - half] * 2, color="0.3", linewidth=1.5)
            ax.text(half - 0.32, 0.09 - half, "0.5 m", ha="center", fontsize=7, color="0.3")
            if row == 0:
                ax.set_title(side, fontsize=10)
                for place, align, edge in zip((0.02, 0.98), ("left", "right"), EDGES[side], strict=True):
                    ax.text(place, 0.97, edge, transform=ax.transAxes, ha=align, va="top", fontsize=7, color="0.4")
        if len(rows) > 1:  # a row alone needs no name
            line[0].set_ylabel(label, fontsize=10)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), scale_colours()), ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("probability (phi)")
    save_figure(path, figure)
