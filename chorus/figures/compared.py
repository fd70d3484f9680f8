"""Pictures of what the paper's estimator and the recommended one make of the same images, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chorus.body.model import Body, load_body
from chorus.evaluate.estimators import ESTIMATORS, PAPER, RECOMMENDED, EstimatorsTable
from chorus.evaluate.scenes import SCENES, Scene
from chorus.field import CanonicalField
from chorus.figures.saving import save_figure
from chorus.figures.three_sides import COLOURS, SIDES, render_side, turned
from chorus.occupancy.aggregation import aggregate

COLUMNS = 4
"""Scenes side by side, at most."""
MARGIN = 0.15
"""Around the body and the truth, metres."""
SHOWN = {PAPER: "as in the paper", RECOMMENDED: "recommended"}


def save_compared(path: str | Path, table: EstimatorsTable, body: Body | None = None) -> None:
    """A PNG with a column for each scene of a table: phi by the paper's estimator and, below, by the recommended one.

    Each scene is drawn again with the table's first seed. What a picture shows is phi where it reaches the threshold at which
    the table scores that seed, from the side of SIDES that shows most of the truth, and the outline of the true voxels; its
    title is the table's IoU. All share one colour scale up to 1. body: None for the built-in one.
    """
    body = load_body() if body is None else body
    field = CanonicalField(body, table.resolution, extent=table.extent)
    blocks, columns = -(-len(table.scenes) // COLUMNS), min(COLUMNS, len(table.scenes))
    rows = len(SHOWN)
    figure = Figure(figsize=(2.6 * columns + 0.9, 2.85 * rows * blocks + 0.6), layout="constrained", dpi=110)
    axes = figure.subplots(rows * blocks, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for number, name in enumerate(table.scenes):
        block, column = divmod(number, COLUMNS)
        shown = axes[rows * block : rows * (block + 1), column]
        _draw_scene(list(shown), table, SCENES[name], field)
        if column == 0:
            for ax, label in zip(shown, SHOWN.values(), strict=True):
                ax.set_ylabel(label, fontsize=10)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLOURS), ax=axes, shrink=0.6 / blocks, pad=0.02)
    bar.set_label("phi where the object is said to be; line: the truth")
    save_figure(path, figure)


def _draw_scene(axes: Sequence[Axes], table: EstimatorsTable, scene: Scene, field: CanonicalField) -> None:
    seed, body = table.seeds[0], field.body
    images = scene.recorded([batch for batch, _ in scene.draw(table.num_images, seed, body)], body)
    truth = scene.truth(field.centres, body)
    side = most_seen(truth, field)
    outline = turned(truth, side).any(0)
    half = min(table.extent / 2, MARGIN + max(np.abs(body.rest_vertices).max(), np.abs(field.centres[truth]).max()))
    centres = (np.arange(table.resolution) + 0.5) * (table.extent / table.resolution) - table.extent / 2
    edges = (-table.extent / 2, table.extent / 2, table.extent / 2, -table.extent / 2)  # left, right, lower, upper
    for ax, name in zip(axes, SHOWN, strict=True):
        estimator, row = ESTIMATORS[name], table.row(scene.name, name)
        options: dict[str, Any] = {"canonicalization": estimator.canonicalization, "hidden_weight": estimator.hidden_weight}
        phi = aggregate(list(images), field, **options).probability
        ax.set_axis_on()
        ax.set_xticks([])
        ax.set_yticks([])
        ax.imshow(render_side(np.where(phi >= row.threshold[0], phi, 0), field.extent, body, side), extent=edges)
        ax.contour(centres, centres, outline, levels=[0.5], colors="black", linewidths=1.2)
        ax.set_xlim(-half, half)
        ax.set_ylim(half, -half)
        heading = f"{scene.heading}, {side}\n" if name == PAPER else ""
        ax.set_title(f"{heading}IoU {row.mean:.2f} ± {row.half_width:.2f}", fontsize=9)


def most_seen(truth: NDArray[np.bool_], field: CanonicalField) -> str:
    """The side of SIDES from which the largest part of a picture shows true voxels (N, N, N) past the body."""
    shown, nothing = truth.astype(np.float32), np.zeros(truth.shape, np.float32)

    def seen(side: str) -> int:
        pictures = (render_side(phi, field.extent, field.body, side, pixels=96) for phi in (shown, nothing))
        return int(np.not_equal(*pictures).any(2).sum())

    return max(SIDES, key=seen)
