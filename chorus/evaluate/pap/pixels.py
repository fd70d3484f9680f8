"""From a posed distribution to pixels: at every threshold what is drawn, and how much of that falls on the object's mask.

For each threshold, ascending, the voxels with phi >= threshold are projected into the image at a small size, and compared with
the mask at that size. All thresholds are rendered at once: a pixel is drawn at threshold t where the largest phi on it reaches
t, so one image of levels (how many thresholds a pixel reaches) and its histogram say it all.

Thresholds are float32, the nearest to i / 100, and phi is compared as float32: what was i / 100 before it was rounded to
float32 reaches the threshold i / 100 (against thresholds of float64 a phi of 0.7 would not).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.errors import InputError, check_array
from chorus.render.splat import covered_area, mark_points, splat_centres, splat_footprints

SPLATS = {"centre": splat_centres, "footprint": splat_footprints}
INTERPOLATIONS = ("all-point", "11-point")


@dataclass(frozen=True)
class PapProtocol:
    """How the score is taken; the defaults are the paper's.

    shorter_side   of the image in pixels; the other is scaled alike and floored
    splat          "centre": a voxel is the pixel of its centre (holes where voxels are wider than pixels);
                   "footprint": all pixels that its projection overlaps, whatever the resolution
    interpolation  "all-point" or "11-point" (recall 0, 0.1, ... 1)
    num_thresholds T; they are i / T for i = 1 .. T, as float32

    Raises InputError for other names and numbers that are not positive.
    """

    shorter_side: int = 32
    splat: str = "centre"
    interpolation: str = "all-point"
    num_thresholds: int = 100

    def __post_init__(self) -> None:
        for name, value, known in (
            ("splat", self.splat, tuple(SPLATS)),
            ("interpolation", self.interpolation, INTERPOLATIONS),
        ):
            if value not in known:
                raise InputError(f"{name}: expected {' or '.join(known)}, got {value!r}")
        for name, number in (("shorter_side", self.shorter_side), ("num_thresholds", self.num_thresholds)):
            if type(number) is not int or number < 1:
                raise InputError(f"{name}: expected a positive integer, got {number!r}")

    @property
    def thresholds(self) -> NDArray[np.float32]:
        """(T,) float32, ascending."""
        return (np.arange(1, self.num_thresholds + 1) / self.num_thresholds).astype(np.float32)


PAPER = PapProtocol()


@dataclass(frozen=True, eq=False)
class PapImage:
    """What one image is scored from.

    phi            (N, N, N) float32, the distribution in the posed person's frame, indexed [ix, iy, iz]
    extent         side of its cube in metres, centred at the origin
    camera         one camera, of the image's full size, from the person's frame
    mask           (H, W) bool, where the object is
    body_vertices  (V, 3) metres, the posed body in the person's frame, for the occlusion-aware score; or None
    key            the image's name
    """

    phi: Any
    extent: float
    camera: Cameras
    mask: Any
    body_vertices: Any = None
    key: str = ""


@dataclass(frozen=True, eq=False)
class PixelCounts:
    """Pixels of one image by threshold: ``predicted`` (T,) int64 drawn, ``hits`` (T,) int64 of those on the target, and
    ``target`` of the target."""

    predicted: NDArray[np.int64]
    hits: NDArray[np.int64]
    target: int

    @property
    def precision(self) -> NDArray[np.float64]:
        """(T,); 0 where nothing is drawn."""
        return np.divide(self.hits, self.predicted, out=np.zeros(len(self.hits)), where=self.predicted > 0)

    @property
    def recall(self) -> NDArray[np.float64]:
        """(T,), never rising. Raises InputError for an empty target, which has none."""
        if not self.target:
            raise InputError("target: expected some pixels, got none: recall is not defined")
        return self.hits / self.target


@contextmanager
def named_errors(image: PapImage) -> Iterator[None]:
    """Puts the image's key before what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"image {image.key!r}: {error}" if image.key else str(error)) from error


def downscaled_size(height: int, width: int, shorter_side: int = 32) -> tuple[int, int]:
    """(h, w) with the shorter of both at ``shorter_side`` and the other scaled alike and floored; in integers."""
    shorter = min(height, width)
    return height * shorter_side // shorter, width * shorter_side // shorter


def downscale_mask(mask: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool -> (h, w) bool: the pixels more than half covered, by exact area average. InputError for other arrays."""
    dense = check_array("mask", mask, ("H", "W"), np.bool_)
    area = np.zeros(size, np.int64)
    covered_area(dense, area)
    return np.asarray(2 * area > dense.size)


def _projection(camera: Cameras, size: tuple[int, int]) -> NDArray[np.float64]:
    """K [R | t] of a camera for its image brought to another (h, w), (3, 4) float64.

    Each axis by its own factor (w / W, h / H): the small image covers exactly what the large one does, as the mask's does.
    """
    if len(camera) != 1:
        raise InputError(f"camera: expected one camera, got {len(camera)}")
    height, width = camera.image_size[0].tolist()
    K = camera.K[0] * [[size[1] / width], [size[0] / height], [1.0]]
    return np.ascontiguousarray(K @ np.concatenate([camera.R[0], camera.t[0][:, None]], axis=1))


def render_levels(
    phi: Any, extent: float, camera: Cameras, size: tuple[int, int], protocol: PapProtocol = PAPER
) -> NDArray[np.int32]:
    """How many thresholds the largest phi on each pixel reaches, (h, w) int32; the render at threshold i is ``levels > i``
    with i from 0.

    phi (N, N, N) in the frame of the camera's points, in a cube of ``extent`` metres; ``camera`` one, of the full image;
    ``size`` (h, w) of the render. Voxels behind the camera (z <= 0) are not drawn. Raises InputError for other shapes,
    numbers that are not finite, an extent that is not positive.
    """
    field = _checked_field(phi, extent)
    levels = np.zeros(size, np.int32)
    SPLATS[protocol.splat](field, float(extent), _projection(camera, size), protocol.thresholds, levels)
    return levels


def _checked_field(phi: Any, extent: float) -> NDArray[np.float32]:
    if not (np.isfinite(extent) and extent > 0):
        raise InputError(f"extent: expected a positive number of metres, got {extent!r}")
    return check_array("phi", phi, ("N", "N", "N"), np.float32)


def body_pixels(vertices: Any, camera: Cameras, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels on which body vertices (V, 3) metres in front of the camera fall, (h, w) bool."""
    points = check_array("body_vertices", vertices, ("V", 3), np.float64)
    marked = np.zeros(size, np.bool_)
    mark_points(points, _projection(camera, size), marked)
    return marked


def count_pixels(
    levels: NDArray[np.int32], target: NDArray[np.bool_], num_thresholds: int, removed: NDArray[np.bool_] | None = None
) -> PixelCounts:
    """The counts of a render (h, w) against a target (h, w), without the pixels ``removed`` (h, w) from both."""
    kept = np.ones_like(target) if removed is None else ~removed
    drawn, on_target = levels[kept], levels[target & kept]
    # A pixel of level l is drawn at the first l thresholds.
    predicted, hits = (
        np.bincount(values, minlength=num_thresholds + 1)[:0:-1].cumsum()[::-1].astype(np.int64)
        for values in (drawn, on_target)
    )
    return PixelCounts(predicted, hits, len(on_target))


def render_levels_on(
    device: torch.device | str, images: Sequence[PapImage], protocol: PapProtocol = PAPER
) -> list[NDArray[np.int32]]:
    """``render_levels`` of images at their downscaled sizes, drawn in batches on a torch device: the same numbers.

    Images of one size, resolution and extent are drawn together. Raises InputError as ``render_levels`` does.
    """
    from chorus.render import splat_torch

    splat = {"centre": splat_torch.splat_centres, "footprint": splat_torch.splat_footprints}[protocol.splat]
    groups: dict[tuple[tuple[int, int], int, float], list[int]] = {}
    fields, matrices = [], []
    for row, image in enumerate(images):
        with named_errors(image):
            field = _checked_field(image.phi, image.extent)
            height, width = (int(side) for side in image.camera.image_size[0])
            size = downscaled_size(height, width, protocol.shorter_side)
            fields.append(field)
            matrices.append(_projection(image.camera, size))
            groups.setdefault((size, len(field), float(image.extent)), []).append(row)
    thresholds = torch.from_numpy(protocol.thresholds).to(device)
    drawn: dict[int, NDArray[np.int32]] = {}
    for (size, _, extent), rows in groups.items():
        for first in range(0, len(rows), splat_torch.BATCH):
            chosen = rows[first : first + splat_torch.BATCH]
            phi = torch.from_numpy(np.stack([fields[i] for i in chosen])).to(device)
            P = torch.from_numpy(np.stack([matrices[i] for i in chosen])).to(device)
            levels = torch.zeros((len(chosen), *size), dtype=torch.int32, device=device)
            splat(phi, extent, P, thresholds, levels)
            drawn.update(zip(chosen, levels.cpu().numpy(), strict=True))
    return [drawn[row] for row in range(len(images))]
