"""Slices through a skinning field: how far each joint carries the space around the body, as in the paper's figure 13."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.field import CanonicalField
from chorus.figures.saving import save_figure
from chorus.figures.shells import plain
from chorus.figures.three_sides import SIDES, turned
from chorus.render.rasterize import render_orthographic

WEIGHTS = matplotlib.colormaps["cividis"]
PLANES: dict[str, tuple[str, int]] = {
    "front": ("from the front", 2),
    "side": ("from the person's left", 0),
    "above": ("from above", 1),
}
"""Name -> (side of SIDES that looks at the slice, axis across it)."""
DEFAULT_JOINTS = ("pelvis", "spine3", "head", "left_shoulder", "left_elbow", "left_hand", "left_hip", "left_knee")
OUTLINE_PIXELS = 600
COLUMNS = 4


def save_skinning_slices(
    path: str | Path,
    field: CanonicalField,
    *,
    joints: Sequence[str] = (),
    plane: str = "front",
    at: float | None = None,
    title: str = "",
) -> None:
    """A panel for each joint: its weight in a slice of the field, and the body's outline; lines at weights of 0.1, 0.5 and 0.9.

    joints  names of the body's; none given: those of DEFAULT_JOINTS that it has       plane  a name of PLANES
    at      metres along the axis across the slice; None: through the middle of the body's vertices

    Raises InputError for joints that the body does not have, another plane, and a slice outside the field.
    """
    if plane not in PLANES:
        raise InputError(f"plane: expected {' or '.join(PLANES)}, got {plane!r}")
    body, N = field.body, field.resolution
    chosen = tuple(joints) or tuple(name for name in DEFAULT_JOINTS if name in body.joint_names) or body.joint_names[:8]
    for name in chosen:
        if name not in body.joint_names:
            raise InputError(f"joint: expected one of {', '.join(body.joint_names)}; got {name!r}")
    side, axis = PLANES[plane]
    at = float(np.median(body.rest_vertices[:, axis])) if at is None else at
    layer = int(np.floor((at + field.extent / 2) / field.parameters.spacing))
    if not 0 <= layer < N:
        raise InputError(f"at: expected metres within {field.extent / 2:g} of the middle, got {at:g}")
    weights = field.weights[tuple(slice(layer, layer + 1) if a == axis else slice(None) for a in range(3))]
    half, rows = field.extent / 2, -(-len(chosen) // COLUMNS)
    columns = min(COLUMNS, len(chosen))
    figure = Figure(figsize=(1.9 * columns + 0.9, 2.05 * rows + 0.5), dpi=200, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    outline = _outline(field, side)
    for ax in axes.flat[len(chosen) :]:
        ax.set_axis_off()
    for ax, name in zip(axes.flat, chosen, strict=False):
        values = weights[..., body.joint_names.index(name)]
        picture = turned(np.repeat(values, N, axis), side)[0]  # every layer is the slice
        ax.imshow(picture, cmap=WEIGHTS, vmin=0, vmax=1, extent=(-half, half, half, -half), interpolation="nearest")
        _lines(ax, picture, field.extent)
        places = np.linspace(-half, half, OUTLINE_PIXELS)
        ax.contour(places, places, outline, levels=[0.5], colors="white", linewidths=0.9)
        plain(ax)
        ax.set_title(name.replace("_", " "), fontsize=9)
    seen = {"front": "z", "side": "x", "above": "y"}[plane]
    figure.suptitle(title or f"skinning weights at {seen} = {at:.2f} m, {side}", fontsize=11)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), WEIGHTS), ax=axes, shrink=0.7, pad=0.02, aspect=28)
    bar.set_label("share of the joint in what carries a voxel", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _scale(axes[-1, 0], half)
    save_figure(path, figure)


def _lines(ax: Axes, picture: NDArray[np.float32], extent: float) -> None:
    levels = [level for level in (0.1, 0.5, 0.9) if picture.min() < level < picture.max()]
    if levels:
        centres = (np.arange(len(picture)) + 0.5) * (extent / len(picture)) - extent / 2
        colours = ["white" if level < 0.5 else "black" for level in levels]
        ax.contour(centres, centres, picture, levels=levels, colors=colours, linewidths=0.5, linestyles="dotted")


def _outline(field: CanonicalField, side: str) -> NDArray[np.bool_]:
    body = field.body
    _, face = render_orthographic(
        body.rest_vertices, body.faces, SIDES[side], OUTLINE_PIXELS, OUTLINE_PIXELS, field.extent / OUTLINE_PIXELS
    )
    return face >= 0


def _scale(ax: Axes, half: float) -> None:
    ax.plot([-half + 0.12, -half + 1.12], [half - 0.12] * 2, color="white", linewidth=1.6, solid_capstyle="butt")
    ax.text(-half + 0.62, half - 0.2, "1 m", ha="center", va="bottom", fontsize=7, color="white")
