"""Pictures of store statistics: images kept and rejected by reason, and camera directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chorus.errors import InputError
from chorus.evaluate.statistics.stores import ELEVATION_EDGES, StoreStatistics
from chorus.evaluate.statistics.views import HIGH, NO_VIEW, QUADRANTS
from chorus.figures.azimuths import draw_azimuths
from chorus.figures.saving import save_figure
from chorus.figures.three_sides import COLOURS
from chorus.texts import counted, shortened

SHOWN_CAMERAS = 5000
"""Most cameras drawn on the map of directions, spread evenly over the kept images; more would only fill it."""
REASONS = 10
"""Most bars of reasons; the remaining reasons share one bar."""


def save_statistics(path: str | Path, stores: Sequence[StoreStatistics]) -> None:
    """A picture with one row for each store: kept and rejected images, azimuths, elevations, and a map of camera directions.

    The map is a Mollweide projection, with the front of the person in the middle and the person's left on the right, as
    seen by someone who faces the person. Raises InputError for no stores.
    """
    if not stores:
        raise InputError("stores: expected at least one, got none")
    stores = _told_apart(stores)
    figure = Figure(figsize=(16.5, 3.6 * len(stores) + 0.5), layout="constrained", dpi=100)
    grid = figure.add_gridspec(len(stores), 4, width_ratios=[1.35, 0.9, 1.0, 1.6])
    for row, s in enumerate(stores):
        _draw_reasons(figure.add_subplot(grid[row, 0]), s)
        around = figure.add_subplot(grid[row, 1], projection="polar")
        draw_azimuths(around, s.azimuths)
        around.tick_params(labelsize=7)
        around.set_title("azimuth (from above)", fontsize=10)
        _draw_elevations(figure.add_subplot(grid[row, 2]), s)
        _draw_directions(figure.add_subplot(grid[row, 3], projection="mollweide"), s)
    save_figure(path, figure)


def _told_apart(stores: Sequence[StoreStatistics]) -> list[StoreStatistics]:
    """The stores, those of one name with their files' names as well."""
    names = [s.name for s in stores]
    return [replace(s, name=f"{s.name} ({Path(s.path).name})") if names.count(s.name) > 1 else s for s in stores]


def _draw_reasons(ax: Axes, s: StoreStatistics) -> None:
    """Images kept, and those rejected by reason."""
    reasons = list(s.rejected.items())
    if len(reasons) > REASONS:
        rest = sum(number for _, number in reasons[REASONS - 1 :])
        reasons = [*reasons[: REASONS - 1], (f"{len(s.rejected) - REASONS + 1} other reasons", rest)]
    names = ["kept", *(shortened(name, 30) for name, _ in reasons)]
    numbers = [s.kept, *(number for _, number in reasons)]
    colours = [COLOURS(0.6), *["0.65"] * len(reasons)]
    bars = ax.barh(np.arange(len(names)), numbers, color=colours)
    ax.bar_label(bars, [f"{n:,} ({100 * n / max(s.images, 1):.0f} %)" for n in numbers], padding=3, fontsize=8)
    ax.set_yticks(np.arange(len(names)), names)
    ax.set_ylim(max(len(names), 4) - 0.5, -0.5)
    ax.set_xlim(0, 1.4 * max(*numbers, 1))
    ax.set_title(f"{s.name}: {counted(s.images, 'image')}", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_elevations(ax: Axes, s: StoreStatistics) -> None:
    ax.barh((ELEVATION_EDGES[:-1] + ELEVATION_EDGES[1:]) / 2, s.elevations, height=9.2, color=COLOURS(0.6))
    ax.set_yticks(np.arange(-90, 91, 30))
    ax.set_ylim(-90, 90)
    ax.set_ylabel("elevation, degrees")
    ax.set_xlabel("images")
    ax.set_title("elevation", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_directions(ax: Axes, s: StoreStatistics) -> None:
    """The map of camera directions; longitude 0 is the front of the person."""
    directions = s.directions
    if s.kept:
        directions = directions[np.unique(np.linspace(0, len(directions) - 1, SHOWN_CAMERAS).astype(int))]
    longitude = np.arctan2(directions[:, 0], directions[:, 2])
    latitude = np.arcsin(np.clip(directions[:, 1], -1, 1))
    ax.scatter(longitude, latitude, s=4, color=COLOURS(0.35), alpha=0.5, linewidths=0)
    ax.set_xticks(np.radians([-90, 0, 90]), ["right", "front", "left"], fontsize=8)
    for label in ax.get_xticklabels():  # they lie on the equator, among the points
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
    ax.set_yticks(np.radians([-60, -30, 0, 30, 60]), ["-60°", "-30°", "0°", "30°", "60°"], fontsize=7)
    ax.grid(alpha=0.4)
    bits = "no cameras" if s.entropy is None else f"{s.entropy:.2f} bits"
    ax.set_title(f"camera directions: {bits}", fontsize=10)


def save_views(path: str | Path, stores: Sequence[StoreStatistics]) -> None:
    """A picture with one row for each store: quadrants and elevations of the kept cameras by view augmentation.

    Raises InputError for no stores, and for those whose statistics were not taken by view.
    """
    if not stores or not all(s.views for s in stores):
        raise InputError("stores: expected at least one with images, by view augmentation, got none")
    stores = _told_apart(stores)
    heights = [0.32 * len(s.views) + 1.0 for s in stores]
    figure = Figure(figsize=(13, sum(heights) + 0.4), layout="constrained", dpi=100)
    grid = figure.add_gridspec(len(stores), 2, width_ratios=[2, 1], height_ratios=heights)
    shades = [COLOURS(x) for x in (0.75, 0.5, 0.2, 0.35)]
    for row, s in enumerate(stores):
        at, kept = np.arange(len(s.views)), np.array([max(v.kept, 1) for v in s.views])
        around, up = figure.add_subplot(grid[row, 0]), figure.add_subplot(grid[row, 1])
        start = np.zeros(len(s.views))
        for q, name in enumerate(QUADRANTS):
            share = 100 * np.array([v.quadrants[q] for v in s.views]) / kept
            around.barh(at, share, left=start, color=shades[q], label=name, height=0.8)
            start += share
        around.set_yticks(at, [f"{v.view or NO_VIEW} ({v.kept:,} of {v.images:,})" for v in s.views], fontsize=8)
        around.set_title(f"{s.name}: where the cameras stood, % of those kept", fontsize=10)
        around.legend(ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
        up.barh(at, 100 * np.array([v.above for v in s.views]) / kept, color=COLOURS(0.6), height=0.8)
        up.barh(at, -100 * np.array([v.below for v in s.views]) / kept, color="0.6", height=0.8)
        up.set_xlim(-100, 100)
        up.axvline(0, color="0.3", linewidth=0.8)
        up.set_yticks([])
        up.set_title(f"% below -{HIGH:g}°  |  above {HIGH:g}°", fontsize=10)
        for axes in (around, up):
            axes.set_ylim(len(s.views) - 0.4, -0.6)
            axes.spines[["top", "right"]].set_visible(False)
    save_figure(path, figure)
