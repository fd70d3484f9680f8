"""Precision-recall curves of projective average precision, and pictures of single scored images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.evaluate.pap.categories import CURVE_RECALL, CategoryPap, PapReport, percent
from chorus.evaluate.pap.metric import interpolated_precision, score_image
from chorus.evaluate.pap.pixels import (
    PAPER,
    PapImage,
    PapProtocol,
    body_pixels,
    downscale_mask,
    downscaled_size,
    render_levels,
)
from chorus.figures.saving import save_figure
from chorus.figures.three_sides import COLOURS
from chorus.texts import counted

SHOWN_IMAGES = 60
"""Number of single images whose curves are drawn behind a category's mean, spread evenly over its images."""


def save_curves(path: str | Path, report: PapReport, columns: int = 4) -> None:
    """A picture with one panel for each category: mean interpolated precision over recall, without and with human occlusion,
    strict dashed, over thin curves of single images. Raises InputError for a report of no categories."""
    if not report.categories:
        raise InputError("report: expected at least one category, got none")
    columns = min(columns, len(report.categories))
    rows = -(-len(report.categories) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.4, 3.9 * rows + 0.7), layout="constrained", dpi=100)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(report.categories) :]:
        ax.set_axis_off()
    for ax, category in zip(axes, report.categories, strict=False):
        _draw_single(ax, category)
        for score, colour, style in (
            ("vanilla", COLOURS(0.15), "-"),
            ("strict", COLOURS(0.15), "--"),
            ("aware_vanilla", COLOURS(0.65), "-"),
            ("aware_strict", COLOURS(0.65), "--"),
        ):
            curve = category.curve(score)
            if curve is not None:
                name = {"vanilla": "vanilla", "strict": "strict"}.get(score, score.replace("aware_", "occlusion-aware, "))
                ax.plot(CURVE_RECALL, curve, style, color=colour, label=f"{name}: {percent(category.mean(score))}")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1.02)
        ax.set_title(f"{category.category}, {counted(len(category.values('vanilla')), 'image')}", fontsize=10)
        ax.set_xlabel("recall", fontsize=8)
        ax.set_ylabel("interpolated precision", fontsize=8)
        ax.tick_params(labelsize=7)
        if ax.get_legend_handles_labels()[0]:  # none where every target is empty
            ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    means = ", ".join(f"{percent(report.mpap(score))} {score.replace('_', ' ')}" for score in ("vanilla", "strict"))
    mean = f"mPAP of {counted(len(report.counted), 'category', 'categories')}: {means}" if report.counted else "no mPAP"
    figure.suptitle(f"projective average precision, in percent; {mean}", fontsize=11)
    save_figure(path, figure)


def _draw_single(ax: Axes, category: CategoryPap) -> None:
    scored = [r.counts for r in category.results if r.counts.target]
    if scored:
        chosen = np.unique(np.linspace(0, len(scored) - 1, SHOWN_IMAGES).astype(int))
        curves = np.stack([interpolated_precision(scored[i], CURVE_RECALL) for i in chosen])
        ax.plot(CURVE_RECALL, curves.T, color="0.8", linewidth=0.5, zorder=0)


def save_scored_image(path: str | Path, image: PapImage, protocol: PapProtocol = PAPER) -> None:
    """A picture of how one image is scored, at the downscaled size: the mask, the largest phi on each pixel with
    the mask's outline, and hits and misses at the threshold with the best F1."""
    height, width = (int(side) for side in image.camera.image_size[0])
    size = downscaled_size(height, width, protocol.shorter_side)
    target = downscale_mask(image.mask, size)
    levels = render_levels(image.phi, image.extent, image.camera, size, protocol)
    scores = score_image(image, protocol)
    f1 = 2 * scores.counts.hits / np.maximum(scores.counts.predicted + scores.counts.target, 1)
    best = int(f1.argmax())
    figure = Figure(figsize=(10.5, 3.9 * max(0.75, size[0] / size[1])), layout="constrained", dpi=100)
    left, middle, right = figure.subplots(1, 3)
    left.imshow(_over_body(target.astype(float)[..., None] * [0.86, 0.27, 0.12] + ~target[..., None] * 0.95, image, size))
    left.set_title(f"target, {int(target.sum())} of {target.size} px (grey: body)", fontsize=9)
    shown = middle.imshow(levels / protocol.num_thresholds, cmap=COLOURS, vmin=0, vmax=1)
    if target.any() and not target.all():
        middle.contour(target, [0.5], colors="deepskyblue", linewidths=1.2)
    middle.set_title("largest phi on each pixel", fontsize=9)
    figure.colorbar(shown, ax=middle, shrink=0.7)
    drawn = levels > best
    colours = np.array([[0.95, 0.95, 0.95], [0.86, 0.27, 0.12], [0.25, 0.45, 0.85], [0.2, 0.65, 0.3]])
    right.imshow(colours[target + 2 * drawn.astype(int)])
    right.set_title(f"phi >= {protocol.thresholds[best]:.2f}: hit green, missed red, false blue", fontsize=9)
    for ax in (left, middle, right):
        ax.set_axis_off()
    figure.suptitle(
        f"{image.key}: PAP {percent(scores.vanilla)}, strict {percent(scores.strict)}; occlusion-aware "
        f"{percent(scores.aware_vanilla)}, strict {percent(scores.aware_strict)}",
        fontsize=10,
    )
    save_figure(path, figure)


def _over_body(picture: NDArray[np.float64], image: PapImage, size: tuple[int, int]) -> NDArray[np.float64]:
    """A picture (h, w, 3) with the body's pixels darkened, if the image has body vertices."""
    if image.body_vertices is not None:
        picture = np.where(body_pixels(image.body_vertices, image.camera, size)[..., None], 0.55 * picture, picture)
    return picture
