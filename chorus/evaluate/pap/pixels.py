"""Pixel counts of a posed distribution: at each threshold, the pixels drawn and those of them on the object's mask.

For each threshold, ascending, the voxels with phi >= threshold are projected into a downscaled image and compared with the
mask at that size. All thresholds are rendered at once: a pixel is drawn at threshold t where the largest phi on it reaches t,
so that one image of levels (how many thresholds a pixel reaches) and its histogram are enough.

Thresholds are the float32 numbers nearest to i / 100, and phi is compared as float32, so that a phi of i / 100 rounded to
float32 reaches the threshold i / 100 (against float64 thresholds, a phi of 0.7 would not).
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
    """The parameters of the score; the defaults are the paper's.

    shorter_side   of the downscaled image in pixels; the longer one is scaled by the same factor and rounded down
    splat          "centre": a voxel covers the pixel of its centre (with holes where voxels are wider than pixels);
                   "footprint": it covers all pixels that its projection overlaps, at any resolution
    interpolation  "all-point" or "11-point" (recall 0, 0.1, ... 1)
    num_thresholds T; the thresholds are i / T for i = 1 .. T, as float32

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
"""The paper's parameters."""


@dataclass(frozen=True, eq=False)
class PapImage:
    """One image to be scored.

    phi            (N, N, N) float32, the distribution in the posed person's frame, indexed [ix, iy, iz]
    extent         side of its cube in metres, centred at the origin
    camera         one camera in the posed person's frame, for the image's full size
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
    """Numbers of pixels of one image.

    predicted  (T,) int64, drawn at each threshold      hits  (T,) int64, those of them on the target
    target     pixels of the target
    """

    predicted: NDArray[np.int64]
    hits: NDArray[np.int64]
    target: int

    @property
    def precision(self) -> NDArray[np.float64]:
        """hits / predicted, (T,) float64; 0 where nothing is drawn."""
        return np.divide(self.hits, self.predicted, out=np.zeros(len(self.hits)), where=self.predicted > 0)

    @property
    def recall(self) -> NDArray[np.float64]:
        """hits / target, (T,) float64, never increasing. Raises InputError for an empty target."""
        if not self.target:
            raise InputError("target: expected some pixels, got none: recall is not defined")
        return self.hits / self.target


@contextmanager
def named_errors(image: PapImage) -> Iterator[None]:
    """A context in which the message of an InputError gets the image's key in front."""
    try:
        yield
    except InputError as error:
        raise InputError(f"image {image.key!r}: {error}" if image.key else str(error)) from error


def downscaled_size(height: int, width: int, shorter_side: int = 32) -> tuple[int, int]:
    """The size (h, w) with the shorter side at ``shorter_side``, the longer one scaled by the same factor and rounded down."""
    shorter = min(height, width)
    return height * shorter_side // shorter, width * shorter_side // shorter


def downscale_mask(mask: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask (H, W) bool at another size (h, w) bool: the pixels of which it covers more than half, by exact area.

    Raises InputError for other arrays.
    """
    dense = check_array("mask", mask, ("H", "W"), np.bool_)
    area = np.zeros(size, np.int64)
    covered_area(dense, area)
    return np.asarray(2 * area > dense.size)


def _projection(camera: Cameras, size: tuple[int, int]) -> NDArray[np.float64]:
    """K [R | t] of a camera for its image scaled to ``size`` (h, w), (3, 4) float64.

    The axes are scaled separately, by w / W and h / H, so that the small image covers exactly what the large one does.
    """
    if len(camera) != 1:
        raise InputError(f"camera: expected one camera, got {len(camera)}")
    height, width = camera.image_size[0].tolist()
    K = camera.K[0] * [[size[1] / width], [size[0] / height], [1.0]]
    return np.ascontiguousarray(K @ np.concatenate([camera.R[0], camera.t[0][:, None]], axis=1))


def render_levels(
    phi: Any, extent: float, camera: Cameras, size: tuple[int, int], protocol: PapProtocol = PAPER
) -> NDArray[np.int32]:
    """How many thresholds the largest phi on each pixel reaches, (h, w) int32; ``levels > i`` is the image rendered at
    threshold i, counted from 0.

    phi (N, N, N) in the camera's person frame, on a cube of ``extent`` metres; one ``camera``, for the full image; ``size``
    (h, w) of the result. Voxels behind the camera (z <= 0) are not drawn. Raises InputError for other shapes,
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
    """The counts of levels (h, w) int32 against a target (h, w) bool, leaving out the pixels ``removed`` (h, w) bool."""
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
    """``render_levels`` of images at their downscaled sizes, rendered in batches on a torch device, with the same result.

    Images of the same size, resolution and extent share a batch. Raises InputError as ``render_levels`` does.
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
