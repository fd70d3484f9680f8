"""The figures of a report, as texts that a page holds: ``data:`` addresses of PNG and SVG files."""

from __future__ import annotations

import base64
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.errors import InputError
from chorus.figures.saving import save_figure
from chorus.figures.shells import Posed, plain, save_shells
from chorus.figures.three_sides import SIDES, save_three_sides, turned
from chorus.render.rasterize import render_orthographic

PIXELS = 360
"""Those of a metre and a half, in shells."""
KINDS = {".png": "image/png", ".svg": "image/svg+xml"}
PHI, ERROR = matplotlib.colormaps["inferno_r"], matplotlib.colormaps["cividis"]
_OUTLINE = 480


def has_3d() -> bool:
    """Whether the extra ``figures3d`` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("embreex", "trimesh", "skimage"))


def embedded(draw: Callable[[Path], object], suffix: str = ".png") -> str:
    """What ``draw`` writes to a path with this suffix, as a ``data:`` address."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"figure{suffix}"
        draw(path)
        return f"data:{KINDS[suffix]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def shells_picture(
    rows: Sequence[Posed], body: Body, extent: float, thresholds: Sequence[float], progress: Callable[[int, int], None] | None
) -> str:
    """Nested shells from four sides; projections of phi where the extra ``figures3d`` is not installed."""
    if has_3d():
        return embedded(
            lambda path: save_shells(path, rows, body, extent, thresholds=thresholds, pixels=PIXELS, progress=progress)
        )
    flat = [(row.label, row.phi) for row in rows[:1]]
    return embedded(lambda path: save_three_sides(path, flat, extent, body, ""))


def azimuth_picture(counts: NDArray[np.int64]) -> str:
    """Images in each azimuth bin (12,)."""
    from chorus.figures.azimuths import draw_azimuths

    figure = Figure(figsize=(3.6, 3.4), layout="constrained")
    draw_azimuths(figure.add_subplot(projection="polar"), counts)
    return embedded(lambda path: save_figure(path, figure), ".svg")


def uncertainty_picture(phi: NDArray[np.float32], error: NDArray[np.float32], body: Body, extent: float) -> str:
    """Slices of phi and of its standard error (N, N, N each) through the place where phi is largest, from front and side."""
    if not phi.max() > 0:
        raise InputError("phi: expected some of it to be positive, got 0 everywhere")
    peak = np.unravel_index(int(phi.argmax()), phi.shape)
    figure = Figure(figsize=(9.4, 2.7), layout="constrained", dpi=150)
    axes = figure.subplots(1, 4)
    half = extent / 2
    place = 0
    for side, axis in (("from the front", 2), ("from the person's left", 0)):
        outline = _outline(body, side, extent)
        for values, colours, top, name in (
            (phi, PHI, float(phi.max()), "phi"),
            (error, ERROR, float(error.max()), "standard error"),
        ):
            ax, layer = axes[place], np.take(values, [peak[axis]], axis=axis)
            shown = turned(np.repeat(layer, len(values), axis), side)[0]
            drawn = ax.imshow(shown, cmap=colours, vmin=0, vmax=top, extent=(-half, half, half, -half))
            places = np.linspace(-half, half, _OUTLINE)
            ax.contour(places, places, outline, levels=[0.5], colors="0.35" if colours is PHI else "white", linewidths=0.8)
            _finish(ax, f"{name}, {side}")
            bar = figure.colorbar(drawn, ax=ax, shrink=0.85, pad=0.02)
            bar.ax.tick_params(labelsize=7)
            place += 1
    return embedded(lambda path: save_figure(path, figure))


def _finish(ax: Axes, title: str) -> None:
    plain(ax)
    ax.set_title(title, fontsize=8)


def _outline(body: Body, side: str, extent: float) -> NDArray[np.bool_]:
    _, face = render_orthographic(body.rest_vertices, body.faces, SIDES[side], _OUTLINE, _OUTLINE, extent / _OUTLINE)
    seen: NDArray[np.bool_] = face >= 0
    return seen
