"""Where the cameras stood for each view augmentation of the prompts (A.1): does "back view" give views of the back?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from chorus.camera.cameras import Cameras
from chorus.evaluate.statistics.entropy import camera_directions, camera_entropy

QUADRANTS = ("front", "left", "back", "right")
"""Quadrants of the azimuth, 90 degrees each: the camera is in front of the person, at the person's left, ..."""
HIGH = 30.0
"""Least elevation in degrees, above or below the horizon, of a camera that is counted as above or below."""
NO_VIEW = "(none)"
"""Shown for images made without a view augmentation."""


@dataclass(frozen=True)
class ViewStatistics:
    """The images made with one view augmentation ("" for none), and where the cameras of those kept stood.

    quadrants  images kept by QUADRANTS    above, below  with cameras at least HIGH degrees above or below the horizon
    entropy    of the kept cameras' directions, bits (Table 1); None where none was kept
    """

    view: str
    images: int
    kept: int
    quadrants: tuple[int, int, int, int]
    above: int
    below: int
    entropy: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "view": self.view,
            "images": self.images,
            "kept": self.kept,
            "quadrants": dict(zip(QUADRANTS, self.quadrants, strict=True)),
            "above": self.above,
            "below": self.below,
            "camera_entropy_bits": self.entropy,
        }


def quadrant(directions: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index in QUADRANTS of unit vectors (I, 3) from the person to the cameras, (I,) int64.

    Azimuth goes from the person's left (+x) to the front (+z); the front is 45 <= azimuth < 135 degrees. A camera straight
    above counts as left.
    """
    azimuth = np.degrees(np.arctan2(directions[:, 2], directions[:, 0]))
    turned = np.floor((azimuth + 45) / 90).astype(np.int64) % 4  # left, front, right, back
    return np.asarray(np.array([1, 0, 3, 2])[turned], np.int64)


def view_statistics(views: NDArray[np.str_], kept: NDArray[np.bool_], cameras: Cameras) -> tuple[ViewStatistics, ...]:
    """The statistics of each view augmentation, the most frequent first.

    views (n,) of all images made; kept (n,) bool; cameras of those kept, in their order. InputError for a camera at the
    person's origin, which has no direction.
    """
    of_kept = views[kept]
    directions = camera_directions(cameras) if len(of_kept) else np.zeros((0, 3))
    quadrants = quadrant(directions)
    high = np.degrees(np.arctan2(directions[:, 1], np.hypot(directions[:, 0], directions[:, 2])))
    names, counts = np.unique(views, return_counts=True)
    found = []
    for name, images in sorted(zip(names.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0])):
        these = of_kept == name
        number = int(these.sum())
        first, second, third, fourth = np.bincount(quadrants[these], minlength=4).tolist()
        found.append(
            ViewStatistics(
                name,
                images,
                number,
                (first, second, third, fourth),
                int((high[these] >= HIGH).sum()),
                int((high[these] <= -HIGH).sum()),
                camera_entropy(cameras[these]) if number else None,
            )
        )
    return tuple(found)


def views_table(title: str, views: Sequence[ViewStatistics]) -> Table:
    """One row a view augmentation, for a terminal; shares are of the images kept."""
    caption = f"in % of the cameras kept: where they stood; high, low: {HIGH:g} degrees and more above or below the horizon"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("view", overflow="fold", min_width=12)
    for heading in ("images", "kept", "%", *QUADRANTS, "high", "low", "bits"):
        table.add_column(heading, justify="right", no_wrap=True)
    for v in views:
        shares = [f"{100 * n / v.kept:.0f}" if v.kept else "-" for n in (*v.quadrants, v.above, v.below)]
        entropy = "-" if v.entropy is None else f"{v.entropy:.2f}"
        table.add_row(v.view or NO_VIEW, f"{v.images:,}", f"{v.kept:,}", f"{100 * v.kept / v.images:.0f}", *shares, entropy)
    return table
