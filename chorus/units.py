"""Numbers that can hardly be in the unit that they should be in: millimetres for metres, degrees for radians, shares of the
image for pixels.

Such numbers are valid and nothing is refused for them, but what is made of them is nonsense. They are looked for where numbers
enter, and warned of (``UnitsWarning``) with the field, the first value, its image, and how many images are like it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_DISTANCE = 100.0
"""Metres between camera and person, above which the translation is taken to be in another unit."""
TALLEST, SHORTEST = 3.0, 0.3
"""Metres of a body's greatest extent, beyond which it is taken to be in another unit."""
LARGEST_ANGLE = 3 * math.pi
"""Radians of a joint's rotation, above which it is taken to be in degrees: one turn and a half, where half a turn does."""
LEAST_FOCAL, LARGE_IMAGE, SMALL_PART = 10.0, 100, 2.0
"""In images with a side above LARGE_IMAGE pixels, a focal length below LEAST_FOCAL, or a principal point, a box or keypoints
that all lie within SMALL_PART pixels of the origin, are taken to be shares of the image's size."""

MOST_CROP = 20.0
"""Sides of an image that a crop around a person may have; where only a hand is in the image, it has several."""
LEAST_SCALE, MOST_SCALE = 0.02, 50.0
"""Scales per metre of a weak-perspective camera; a person of 1.7 m who fills the crop has 1.2."""


class UnitsWarning(UserWarning):
    """Numbers that can hardly be in the unit that they should be in."""


@dataclass
class _Found:
    """What is said of a field: the beginning and the end of the sentence, and how many images it is about."""

    first: str
    guess: str
    count: int = 0
    said: int = 0


class UnitCheck:
    """Collects numbers of suspicious units over any number of images; each field is one sentence, however many images it is
    about. Arrays have been checked for shape and are finite where not said otherwise; I images are checked at a time.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Found] = {}

    def cameras(self, name: str, t: Any, K: Any, size: Any, keys: Sequence[Any]) -> None:
        """Cameras in the person's frame: t (I, 3) metres, K (I, 3, 3) pixels, size (I, 2) height, width in pixels."""
        t, K, size = (np.asarray(value, np.float64) for value in (t, K, size))
        distance = np.linalg.norm(t, axis=1)
        self._note(
            f"{name}.t",
            f"the person at most {MOST_DISTANCE:g} metres away",
            distance > MOST_DISTANCE,
            keys,
            lambda i: f"{distance[i]:.4g} m",
            "are these millimetres or centimetres?",
        )
        large = size.max(1, initial=0) > LARGE_IMAGE
        short = large & (np.minimum(K[:, 0, 0], K[:, 1, 1]) < LEAST_FOCAL)
        self._note(
            f"{name}.K",
            "a focal length in pixels",
            short,
            keys,
            lambda i: f"fx = {K[i, 0, 0]:.4g}, fy = {K[i, 1, 1]:.4g} in an image of {_shown(size[i])}",
            "is K in shares of the image's size, or in millimetres?",
        )
        centre = K[:, :2, 2]
        self._note(
            f"{name}.K",
            "a principal point in pixels",
            large & ~short & (np.abs(centre).max(1, initial=0) <= SMALL_PART),
            keys,
            lambda i: f"cx, cy = {centre[i, 0]:.4g}, {centre[i, 1]:.4g} in an image of {_shown(size[i])}",
            "is it in shares of the image's size, or relative to its middle?",
        )

    def poses(self, name: str, poses: Any, keys: Sequence[Any]) -> None:
        """Rotations (I, J, 3) axis-angle in radians."""
        angle = np.linalg.norm(np.asarray(poses, np.float64), axis=-1)
        largest = angle.max(1, initial=0)
        self._note(
            name,
            f"axis-angle in radians, of at most {LARGEST_ANGLE:.3g}",
            largest > LARGEST_ANGLE,
            keys,
            lambda i: f"{largest[i]:.4g} of joint {int(angle[i].argmax())}",
            "are these degrees?",
        )

    def lengths(self, name: str, vectors: Any, keys: Sequence[Any]) -> None:
        """Points (I, 3) of a person in metres, relative to some origin in or near the body."""
        length = np.linalg.norm(np.asarray(vectors, np.float64), axis=1)
        self._note(
            name,
            f"metres, within {TALLEST:g} of the body",
            length > TALLEST,
            keys,
            lambda i: f"{length[i]:.4g} m",
            "are these millimetres or centimetres?",
        )

    def pixels(self, name: str, points: Any, size: Any, keys: Sequence[Any]) -> None:
        """Points (I, P, 2) in pixels of images of ``size`` (I, 2) height, width; NaN and (0, 0) where there is none."""
        points, size = np.abs(np.asarray(points, np.float64)), np.asarray(size)
        greatest = np.where(np.isnan(points), 0.0, points).max((1, 2), initial=0)
        self._note(
            name,
            "pixels",
            (size.max(1, initial=0) > LARGE_IMAGE) & (greatest > 0) & (greatest <= SMALL_PART),
            keys,
            lambda i: f"at most {greatest[i]:.4g} in an image of {_shown(size[i])}",
            "are these shares of the image's size?",
        )

    def crops(self, name: str, side: Any, size: Any, keys: Sequence[Any]) -> None:
        """Sides (I,) in pixels of square crops around the person, in images of ``size`` (I, 2) height, width."""
        side, size = np.asarray(side, np.float64), np.asarray(size)
        largest = size.max(1, initial=0)
        self._note(
            name,
            "a crop around the person of about the image's size",
            (largest > LARGE_IMAGE) & ((side <= SMALL_PART) | (side > MOST_CROP * largest)),
            keys,
            lambda i: f"a side of {side[i]:.4g} px in an image of {_shown(size[i])}",
            "is it in another unit?",
        )

    def weak_cameras(self, name: str, scale: Any, keys: Sequence[Any]) -> None:
        """Scales s (I,) of weak-perspective cameras x = s X + t, X in metres, x in -1..1 across a crop around the person."""
        scale = np.asarray(scale, np.float64)
        self._note(
            name,
            f"a scale per metre of {LEAST_SCALE:g} to {MOST_SCALE:g}, at which a person fills a crop",
            (scale < LEAST_SCALE) | (scale > MOST_SCALE),
            keys,
            lambda i: f"s = {scale[i]:.4g}",
            "is it per millimetre or centimetre, or for pixels?",
        )

    def body(self, name: str, vertices: Any) -> None:
        """A body's vertices (V, 3) in metres, in its template pose; ``name`` is said as that of the body."""
        vertices = np.asarray(vertices, np.float64)
        extent = float(np.ptp(vertices, axis=0).max(initial=0)) if len(vertices) else 1.0
        unit = "millimetres" if extent > 300 else "centimetres" if extent > 30 else "another unit"
        self._note(
            "body",
            f"a person of {SHORTEST:g} to {TALLEST:g} metres",
            np.array([not SHORTEST <= extent <= TALLEST]),
            [name],
            lambda _: f"{extent:.4g} m",
            f"is the body in {unit}?",
        )

    def _note(
        self,
        field: str,
        expected: str,
        bad: NDArray[np.bool_],
        keys: Sequence[Any],
        value: Callable[[int], str],
        guess: str,
    ) -> None:
        """Count the images (I,) that are ``bad`` under one sentence about ``field``; the first one is quoted."""
        if not bad.any():
            return
        if (field, expected) not in self._found:
            row = int(np.argmax(bad))
            key = keys[row].decode("utf-8", "replace") if isinstance(keys[row], bytes) else str(keys[row])
            self._found[field, expected] = _Found(f"{field}: expected {expected}, got {value(row)} for {key!r}", guess)
        self._found[field, expected].count += int(bad.sum())

    def add(self, other: UnitCheck) -> None:
        """Take over what another check has found, of other images."""
        for what, found in other._found.items():
            mine = self._found.setdefault(what, _Found(found.first, found.guess))
            mine.count += found.count

    def sentences(self) -> list[str]:
        """What was found: one sentence a field."""
        return [_sentence(found) for found in self._found.values()]

    def warn(self, *, again: bool = False, stacklevel: int = 2) -> None:
        """Warn of the fields that have not been warned of; ``again``: also of those of which more was found since."""
        for found in self._found.values():
            if not found.said or (again and found.count > found.said):
                warnings.warn(_sentence(found), UnitsWarning, stacklevel=stacklevel + 1)
                found.said = found.count


def _sentence(found: _Found) -> str:
    more = f" and {found.count - 1:,} more" if found.count > 1 else ""
    return f"{found.first}{more}: {found.guess}"


def _shown(size: NDArray[Any]) -> str:
    """Width x height of an image from its (2,) height, width."""
    return f"{int(size[1])} x {int(size[0])} px"


def other_rotations(poses: Any, ndim: int) -> str:
    """What poses of another shape than (..., J, 3) look like: a few words for an error message, "" where nothing is known.

    ndim  the number of dimensions that the poses should have
    """
    try:
        shape = np.shape(poses)
    except ValueError:  # rows of different lengths
        return ""
    matrices = "; these look like rotation matrices, of which scipy's Rotation.from_matrix(m).as_rotvec() makes axis-angle"
    if len(shape) == ndim + 1 and shape[-2:] == (3, 3):
        return matrices
    if len(shape) == ndim and shape[-1] in (4, 6, 9):
        names = {4: "; these look like quaternions", 6: "; these look like the first two columns of rotation matrices"}
        return names.get(shape[-1], matrices)
    if len(shape) == ndim - 1 and shape[-1] % 3 == 0 and shape[-1] > 3:
        return f"; these look like {shape[-1] // 3} joints in one row: reshape them to ({shape[-1] // 3}, 3)"
    return ""
