"""A picture of an ablation: the mPAP of every row, and its difference to the reference by category."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chorus.errors import InputError
from chorus.evaluate.ablation.report import section_title
from chorus.evaluate.ablation.run import AblationTable
from chorus.figures.saving import LONGEST, save_figure
from chorus.figures.three_sides import COLOURS
from chorus.texts import counted

GAP = 0.5
"""Space between sections, in rows."""
MARKERS = "os^Dvph*XP"


def save_ablations(path: str | Path, table: AblationTable) -> None:
    """Rows from top to bottom in their sections. Left: mPAP, vanilla and occlusion-aware; right: difference of PAP to the row's
    reference, by category. Bars are 95 % t-intervals over the seeds. Raises InputError for a table without rows."""
    if not table.rows:
        raise InputError("table: expected at least one row, got none")
    heights, headings, at = [], [], 0.0
    previous: str | None = None
    for row in table.rows:
        title = section_title(table, row)
        if title != previous:
            at += GAP if previous is not None else 0.0
            headings.append((at, title))
            previous, at = title, at + 1
        heights.append(at)
        at += 1
    figure = Figure(figsize=(12.5, 1.6 + 0.29 * at), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.25))
    _draw_means(left, table, heights)
    _draw_differences(right, table, heights)
    left.set_yticks(heights, [row.name for row in table.rows], fontsize=8)
    left.set_ylim(at, -0.8)
    for ax in (left, right):
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
        ax.tick_params(axis="x", labelsize=8)
        ax.grid(axis="x", color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        for height in heights:
            ax.axhline(height, color="0.95", linewidth=0.6, zorder=0)
    for height, heading in headings:
        left.text(0, height, heading, transform=left.get_yaxis_transform(), fontsize=9, fontweight="bold", va="center")
    tested = sum(table.categories.values())
    figure.suptitle(
        f"ablations: {counted(len(table.categories), 'category', 'categories')}, {counted(tested, 'test image')}, "
        f"{counted(len(table.seeds), 'seed')}, 95 % t-intervals",
        fontsize=11,
    )
    save_figure(path, figure)


def _draw_means(ax: Axes, table: AblationTable, heights: list[float]) -> None:
    for which, name, colour, marker, shift in (
        ("vanilla", "vanilla", COLOURS(0.15), "o", -0.14),
        ("aware_vanilla", "occlusion-aware", COLOURS(0.65), "s", 0.14),
    ):
        means = 100 * np.array([row.mean(which) for row in table.rows])
        ax.errorbar(
            means[:, 0],
            np.array(heights) + shift,
            xerr=means[:, 1],
            fmt=marker,
            color=colour,
            markersize=4,
            linewidth=1.1,
            label=name,
        )
    ax.set_xlabel("mPAP in percent (two sources: PAP of their category)", fontsize=9)
    ax.set_xlim(left=0)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.05), ncols=2, frameon=False)


def _draw_differences(ax: Axes, table: AblationTable, heights: list[float]) -> None:
    ax.axvline(0, color="0.4", linewidth=0.8)
    spread = np.linspace(-0.27, 0.27, len(table.categories)) if len(table.categories) > 1 else np.zeros(1)
    for i, category in enumerate(table.categories):
        points = [
            (*table.difference(row.name, row.setting.reference, category=category), height)
            for row, height in zip(table.rows, heights, strict=True)
            if category in row.scores and row.name != row.setting.reference
        ]
        if points:
            mean, half, height = np.array(points).T
            ax.errorbar(
                100 * mean,
                height + spread[i],
                xerr=100 * half,
                fmt=MARKERS[i % len(MARKERS)],
                markersize=3.5,
                linewidth=0.9,
                color=COLOURS(i / max(len(table.categories), 2) * 0.95),
                label=category,
            )
    # Most rows change little, a few nearly everything: linear near zero, logarithmic beyond.
    ax.set_xscale("symlog", linthresh=5, linscale=1.2)
    ticks = [-80, -40, -20, -10, -5, -2, 0, 2, 5, 10, 20, 40]
    ax.set_xticks(ticks, [f"{t:+d}" if t else "0" for t in ticks])
    ax.minorticks_off()
    ax.set_xlabel("difference of PAP to the reference, in points (linear up to 5)", fontsize=9)
    longest = min(max(map(len, table.categories), default=1), LONGEST)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.05), ncols=max(1, min(5, 80 // (longest + 6))), frameon=False)
