"""Numbers that cannot be in the project's units (metres, pixels, radians): said aloud, since they make no error.

A translation in millimetres puts the person kilometres away, where every voxel falls on one pixel; a camera matrix in units of
the image's size does the same; degrees make knots of limbs. All of this can be computed, and means nothing.
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FARTHEST_M = 100.0
"""Distance of a person from the camera above which it is taken for millimetres or centimetres."""
HEIGHTS_M = (0.3, 3.0)
"""Heights of a body in its rest pose outside of which it is taken for another unit."""
SHORTEST_FOCAL = 0.1
"""Focal length, as a share of the image's longer side, below which it is taken for one that is not in pixels."""
LARGEST_ANGLE = 4 * np.pi
"""Angle of an axis-angle rotation, radians, above which it is taken for degrees."""


class UnitWarning(UserWarning):
    """Numbers that are probably in another unit than the project's."""


class _Images(Protocol):
    """What ``Watch`` looks at: an ImageBatch, which stands above this module."""

    @property
    def cameras(self) -> Any: ...
    @property
    def poses(self) -> NDArray[np.float32]: ...
    @property
    def keys(self) -> NDArray[np.bytes_]: ...


class Watch:
    """Looks at images as they come and warns once of each kind of number that is out of bounds.

    what  names the images in the warning, as in "ball.chorus"
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._said: set[str] = set()

    def look(self, images: _Images) -> None:
        """UnitWarning for a camera or a pose in other units, which names the first image and how many there are."""
        cameras = images.cameras
        distance = np.linalg.norm(cameras.t, axis=1)
        self._say(
            "t",
            distance > FARTHEST_M,
            distance,
            images,
            f"camera.t: expected metres: the person stands within {FARTHEST_M:g} m",
        )
        share = cameras.K[:, (0, 1), (0, 1)].min(1) / np.maximum(1, np.max(cameras.image_size, axis=1))
        self._say(
            "K",
            share < SHORTEST_FOCAL,
            cameras.K[:, 0, 0],
            images,
            f"camera.K: expected a focal length in pixels, at least {SHORTEST_FOCAL:g} of the image's side",
        )
        angle = np.linalg.norm(images.poses, axis=2).max(1)
        self._say("pose", angle > LARGEST_ANGLE, angle, images, "pose: expected axis-angle in radians, less than two turns")

    def _say(self, kind: str, bad: NDArray[np.bool_], values: NDArray[Any], images: _Images, expected: str) -> None:
        if kind in self._said or not bad.any():
            return
        self._said.add(kind)
        row = int(np.flatnonzero(bad)[0])
        first = bytes(images.keys[row]).decode(errors="replace")
        warnings.warn(
            f"{self._what}: {expected}; got {values[row]:.4g} for {first!r}, and the like in {int(bad.sum()):,} of "
            f"{len(bad):,} images. Are these other units?",
            UnitWarning,
            stacklevel=4,
        )


def check_height(name: str, vertices: NDArray[np.float64]) -> None:
    """UnitWarning for a body, (V, 3) vertices in the rest pose, that is lower or higher than any person in metres."""
    height = float(np.ptp(vertices[:, 1]))
    low, high = HEIGHTS_M
    if not low <= height <= high:
        warnings.warn(
            f"body {name!r}: expected metres, a height of {low:g} to {high:g} m; got {height:.4g}. Are these other units?",
            UnitWarning,
            stacklevel=4,
        )
