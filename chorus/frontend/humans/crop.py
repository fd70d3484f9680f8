"""The square crop of a person that a regressor is given, and the map of points between crop and whole image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chorus.errors import InputError, check_array
from chorus.ingest.poses.layout import MAX_CROP

RESOLUTION = 224
"""Pixels on a side of the crops that HMR, SPIN, FrankMocap and EFT are trained with."""


@dataclass(frozen=True)
class Crop:
    """A square of an image, resampled to ``resolution`` pixels on a side.

    centre      x, y in pixels of the image, on the plane where the centre of a pixel lies at + 0.5
    size        its side in pixels of the image; > 0
    resolution  pixels on a side of the resampled square

    On both planes pixels begin at whole numbers: the crop's [0, resolution)^2 is the image's square, edge to edge.
    """

    centre: tuple[float, float]
    size: float
    resolution: int = RESOLUTION

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.centre, self.size))) or not 0 < self.size <= MAX_CROP:
            raise InputError(f"crop: expected a finite centre and a side up to {MAX_CROP} px, got {self.centre}, {self.size}")

    @classmethod
    def around(cls, box: Any, scale: float = 1.2, resolution: int = RESOLUTION) -> Crop:
        """The square about a box (4,) x0, y0, x1, y1, ``scale`` times as wide as its longer side."""
        x0, y0, x1, y1 = check_array("box", box, (4,), np.float64).tolist()
        if not (x1 > x0 and y1 > y0):
            raise InputError(f"box: expected x0 < x1 and y0 < y1, got {[x0, y0, x1, y1]}")
        return cls(((x0 + x1) / 2, (y0 + y1) / 2), scale * max(x1 - x0, y1 - y0), resolution)

    def to_crop(self, points: Any) -> NDArray[np.float64]:
        """(..., 2) pixels of the image -> pixels of the crop, float64."""
        shifted = np.asarray(points, np.float64) - self.centre
        return np.asarray(shifted * (self.resolution / self.size) + self.resolution / 2)

    def to_image(self, points: Any) -> NDArray[np.float64]:
        """(..., 2) pixels of the crop -> pixels of the image, float64."""
        shifted = np.asarray(points, np.float64) - self.resolution / 2
        return np.asarray(shifted * (self.size / self.resolution) + self.centre)

    def from_normalised(self, points: Any) -> NDArray[np.float64]:
        """(..., 2) in -1..1 across the crop (a regressor's unit) -> pixels of the image, float64."""
        return np.asarray(np.asarray(points, np.float64) * (self.size / 2) + self.centre)

    def cut(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The crop of an image (H, W, 3) uint8: (resolution, resolution, 3) uint8, black outside of the image.

        Bilinear, with the filter widened where the crop shrinks the image, so that nothing aliases.
        """
        left, top = (c - self.size / 2 for c in self.centre)
        margin = math.ceil(max(self.size / self.resolution, 1.0))  # what the filter reaches beyond the square
        x0, y0 = math.floor(left) - margin, math.floor(top) - margin
        side = math.ceil(self.size) + 2 * margin + 1
        square = Image.fromarray(pixels).crop((x0, y0, x0 + side, y0 + side))  # Pillow fills what is outside with zeros
        box = (left - x0, top - y0, left - x0 + self.size, top - y0 + self.size)
        size = (self.resolution, self.resolution)
        return np.asarray(square.resize(size, Image.Resampling.BILINEAR, box=box), np.uint8)
