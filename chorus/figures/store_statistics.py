"""Pictures of what stores hold: what was kept and why the rest was not, and where the cameras stood."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator

from chorus.camera.views import AZIMUTH_BINS
from chorus.errors import InputError
from chorus.evaluate.statistics.stores import ELEVATION_EDGES, StoreStatistics
from chorus.evaluate.statistics.views import HIGH, NO_VIEW, QUADRANTS
from chorus.figures.three_sides import COLOURS

SHOWN_CAMERAS = 5000
"""On the map of directions: more points would only paint it full. Spread evenly over the kept images."""
REASONS = 10
"""Bars of reasons at most; the rest is summed."""


def save_statistics(path: str | Path, stores: Sequence[StoreStatistics]) -> None:
    """A picture with one row a store: kept and rejected images, azimuths, elevations, and a map of camera directions.

    The map is a Mollweide projection, equal in area, with the front of the person in its middle and the person's left on the
    right, as one who faces the person sees it. Raises InputError for no stores.
    """
    if not stores:
        raise InputError("stores: expected at least one, got none")
    figure = Figure(figsize=(16.5, 3.6 * len(stores) + 0.5), layout="constrained", dpi=100)
    grid = figure.add_gridspec(len(stores), 4, width_ratios=[1.35, 0.9, 1.0, 1.6])
    for row, s in enumerate(stores):
        bars = figure.add_subplot(grid[row, 0])
        reasons = list(s.rejected.items())
        if len(reasons) > REASONS:
            rest = sum(number for _, number in reasons[REASONS - 1 :])
            reasons = [*reasons[: REASONS - 1], (f"{len(s.rejected) - REASONS + 1} other reasons", rest)]
        names = ["kept", *(name for name, _ in reasons)]
        numbers = [s.kept, *(number for _, number in reasons)]
        colours = [COLOURS(0.6), *["0.65"] * len(reasons)]
        drawn = bars.barh(np.arange(len(names)), numbers, color=colours)
        bars.bar_label(drawn, [f"{n:,} ({100 * n / max(s.images, 1):.0f} %)" for n in numbers], padding=3, fontsize=8)
        bars.set_yticks(np.arange(len(names)), names)
        bars.set_ylim(max(len(names), 4) - 0.5, -0.5)
        bars.set_xlim(0, 1.4 * max(*numbers, 1))
        bars.set_title(f"{s.name}: {s.images:,} images", fontsize=10)
        bars.spines[["top", "right"]].set_visible(False)

        around = figure.add_subplot(grid[row, 1], projection="polar")
        if not isinstance(around, PolarAxes):
            raise TypeError(f"expected polar axes, got {type(around).__name__}")
        width = 2 * np.pi / AZIMUTH_BINS
        around.bar((np.arange(AZIMUTH_BINS) + 0.5) * width, s.azimuths, width=0.94 * width, color=COLOURS(0.6))
        around.set_theta_zero_location("W")  # from above, with the front up, the person's left is on the left
        around.set_theta_direction(-1)
        around.set_xticks([0, np.pi / 2, np.pi, 3 * np.pi / 2], ["left", "front", "right", "back"])
        around.set_rlabel_position(45)
        around.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        around.tick_params(labelsize=7)
        around.set_title("azimuth (from above)", fontsize=10)

        up = figure.add_subplot(grid[row, 2])
        up.barh((ELEVATION_EDGES[:-1] + ELEVATION_EDGES[1:]) / 2, s.elevations, height=9.2, color=COLOURS(0.6))
        up.set_yticks(np.arange(-90, 91, 30))
        up.set_ylim(-90, 90)
        up.set_ylabel("elevation, degrees")
        up.set_xlabel("images")
        up.set_title("elevation", fontsize=10)
        up.spines[["top", "right"]].set_visible(False)

        sphere = figure.add_subplot(grid[row, 3], projection="mollweide")
        shown = (
            s.directions[np.unique(np.linspace(0, len(s.directions) - 1, SHOWN_CAMERAS).astype(int))]
            if s.kept
            else s.directions
        )
        longitude, latitude = np.arctan2(shown[:, 0], shown[:, 2]), np.arcsin(np.clip(shown[:, 1], -1, 1))
        sphere.scatter(longitude, latitude, s=4, color=COLOURS(0.35), alpha=0.5, linewidths=0)
        ticks = np.radians([-90, 0, 90])
        sphere.set_xticks(ticks, ["right", "front", "left"], fontsize=8)
        for label in sphere.get_xticklabels():  # they lie on the equator, among the points
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
        sphere.set_yticks(np.radians([-60, -30, 0, 30, 60]), ["-60°", "-30°", "0°", "30°", "60°"], fontsize=7)
        sphere.grid(alpha=0.4)
        bits = "no cameras" if s.entropy is None else f"{s.entropy:.2f} bits"
        sphere.set_title(f"camera directions: {bits}", fontsize=10)
    figure.savefig(path)


def save_views(path: str | Path, stores: Sequence[StoreStatistics]) -> None:
    """A picture with one row a store: for each view augmentation, in which quadrants the kept cameras stood, and how high.

    Raises InputError for no stores, and for those whose statistics were not taken by view.
    """
    if not stores or not all(s.views for s in stores):
        raise InputError("stores: expected at least one with images, by view augmentation, got none")
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
    figure.savefig(path)
