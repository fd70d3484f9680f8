"""Pictures of where cameras stood around the person, by azimuth bin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from chorus.camera.views import AZIMUTH_BINS
from chorus.figures.saving import save_figure
from chorus.figures.three_sides import COLOURS
from chorus.occupancy.counts import Occupancy
from chorus.texts import counted


def draw_azimuths(ax: Axes, counts: NDArray[np.integer[Any]]) -> None:
    """Images by azimuth bin (12,) on polar axes, seen from above: 0 degrees is the person's left, 90 the front."""
    if not isinstance(ax, PolarAxes):
        raise TypeError(f"expected polar axes, got {type(ax).__name__}")
    width = 2 * np.pi / AZIMUTH_BINS
    ax.bar((np.arange(AZIMUTH_BINS) + 0.5) * width, counts, width=0.94 * width, color=COLOURS(0.6))
    ax.set_theta_zero_location("W")  # from above, with the front up, the person's left is on the left
    ax.set_theta_direction(-1)
    ax.set_rlabel_position(45)
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_xticks([0, np.pi / 2, np.pi, 3 * np.pi / 2], ["left", "front", "right", "back"])


def save_view_distribution(path: str | Path, occupancies: Sequence[tuple[str, Occupancy]]) -> None:
    """A PNG of the images in each azimuth bin of occupancies (label, occupancy), side by side."""
    figure = Figure(figsize=(4.2 * len(occupancies), 4.4), layout="constrained", dpi=100)
    for i, (label, occupancy) in enumerate(occupancies):
        ax = figure.add_subplot(1, len(occupancies), i + 1, projection="polar")
        counts = occupancy.group_images.reshape(occupancy.scheme.shape).sum((0, 2))
        draw_azimuths(ax, counts)
        ax.set_title(f"{label}\n{counted(counts.sum(), 'image')}, {counts.min()} to {counts.max()} a bin", fontsize=10)
    figure.suptitle("where the cameras stood (azimuth around the person)", fontsize=11)
    save_figure(path, figure)
