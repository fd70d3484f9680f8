"""Projective average precision (4.2, B.2): a posed distribution against the object's mask, pixel by pixel.

For each threshold, ascending, the voxels with phi >= threshold are projected into the image at a small size, and precision
and recall are taken against the mask at that size. All thresholds are rendered at once: a pixel is drawn at threshold t where
the largest phi on it reaches t, so one image of levels (how many thresholds a pixel reaches) and its histogram say it all.

Thresholds are float32, the nearest to i / 100, and phi is compared as float32: what was i / 100 before it was rounded to
float32 reaches the threshold i / 100 (against thresholds of float64 a phi of 0.7 would not).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.errors import InputError, check_array
from chorus.render.splat import covered_area, mark_points, splat_centres, splat_footprints

SPLATS = {"centre": splat_centres, "footprint": splat_footprints}
INTERPOLATIONS = ("all-point", "11-point")
RECALL_LEVELS = tuple(i / 10 for i in range(11))
"""Of the 11-point interpolation."""


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


@dataclass(frozen=True, eq=False)
class ImagePap:
    """The scores of one image, 0 to 1; None where the target is empty (aware: after removal, or without body vertices).

    vanilla, strict              the average precision under both rules for empty renders
    aware_vanilla, aware_strict  with the body's pixels removed
    counts, aware_counts         what they are computed from
    """

    key: str
    vanilla: float | None
    strict: float | None
    aware_vanilla: float | None
    aware_strict: float | None
    counts: PixelCounts
    aware_counts: PixelCounts | None


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


def interpolated_precision(counts: PixelCounts, recall: Any, strict: bool = False) -> NDArray[np.float64]:
    """The highest precision among the thresholds whose recall is at least each of ``recall`` (L,) -> (L,); 0 where none is.

    Strict: 0 too where the recall falls below the level because nothing is drawn any more (level 0 stands for the levels
    next to it). Raises InputError for an empty target.
    """
    levels = check_array("recall", recall, ("L",), np.float64)
    R = counts.recall
    best = np.concatenate([[0.0], np.maximum.accumulate(counts.precision)])
    reached = np.searchsorted(-R, -levels, "right")  # recall never rises: the thresholds that reach a level come first
    result: NDArray[np.float64] = best[reached]
    if strict:
        falls = np.where(levels > 0, reached, np.count_nonzero(R > 0))
        drawn = np.append(counts.predicted > 0, True)
        result[~drawn[falls]] = 0.0
    return result


def average_precision(counts: PixelCounts, strict: bool = False, interpolation: str = "all-point") -> float | None:
    """AP of one image, 0 to 1, or None for an empty target.

    all-point: sum_{i >= 2} (R_{i-1} - R_i) max_{m < i} P_m over ascending thresholds, plus R_T max_m P_m where something is
    drawn at the last threshold T. Strict drops the terms i at which nothing is drawn any more. 11-point: the mean of
    ``interpolated_precision`` at recall 0, 0.1, ... 1.
    """
    if not counts.target:
        return None
    if interpolation == "11-point":
        return float(interpolated_precision(counts, RECALL_LEVELS, strict).mean())
    R, best = counts.recall, np.maximum.accumulate(counts.precision)
    drawn = counts.predicted > 0
    terms = (R[:-1] - R[1:]) * best[:-1]
    if strict:
        terms = terms[drawn[1:]]
    return float(terms.sum() + (R[-1] * best[-1] if drawn[-1] else 0.0))


def render_levels_on(
    device: torch.device | str, images: Sequence[PapImage], protocol: PapProtocol = PAPER
) -> list[NDArray[np.int32]]:
    """``render_levels`` of images at their downscaled sizes, drawn in batches on a torch device: the same numbers.

    Images of one size, resolution and extent are drawn together. Raises InputError as ``render_levels`` does.
    """
    from chorus.render import splat_torch as _splat_torch

    splat = {"centre": _splat_torch.splat_centres, "footprint": _splat_torch.splat_footprints}[protocol.splat]
    alike: dict[tuple[tuple[int, int], int, float], list[int]] = {}
    fields, matrices = [], []
    for place, image in enumerate(images):
        with _named(image):
            field = _checked_field(image.phi, image.extent)
            height, width = (int(side) for side in image.camera.image_size[0])
            size = downscaled_size(height, width, protocol.shorter_side)
            fields.append(field)
            matrices.append(_projection(image.camera, size))
            alike.setdefault((size, len(field), float(image.extent)), []).append(place)
    thresholds = torch.from_numpy(protocol.thresholds).to(device)
    drawn: dict[int, NDArray[np.int32]] = {}
    for (size, _, extent), places in alike.items():
        for first in range(0, len(places), _splat_torch.BATCH):
            chosen = places[first : first + _splat_torch.BATCH]
            phi = torch.from_numpy(np.stack([fields[i] for i in chosen])).to(device)
            P = torch.from_numpy(np.stack([matrices[i] for i in chosen])).to(device)
            levels = torch.zeros((len(chosen), *size), dtype=torch.int32, device=device)
            splat(phi, extent, P, thresholds, levels)
            drawn.update(zip(chosen, levels.cpu().numpy(), strict=True))
    return [drawn[place] for place in range(len(images))]


@contextmanager
def _named(image: PapImage) -> Iterator[None]:
    """Puts the image's key before what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"image {image.key!r}: {error}" if image.key else str(error)) from error


def score_image(image: PapImage, protocol: PapProtocol = PAPER, levels: NDArray[np.int32] | None = None) -> ImagePap:
    """The scores of one image; ``levels`` where its render is there already.

    Raises InputError, with the image's key, for arrays that do not fit.
    """
    with _named(image):
        height, width = (int(side) for side in image.camera.image_size[0])
        mask = check_array("mask", image.mask, (height, width), np.bool_)
        size = downscaled_size(height, width, protocol.shorter_side)
        target = downscale_mask(mask, size)
        if levels is None:
            levels = render_levels(image.phi, image.extent, image.camera, size, protocol)
        counts = count_pixels(levels, target, protocol.num_thresholds)
        aware = None
        if image.body_vertices is not None:
            removed = body_pixels(image.body_vertices, image.camera, size)
            aware = count_pixels(levels, target, protocol.num_thresholds, removed)

    def score(pixels: PixelCounts | None, strict: bool) -> float | None:
        return None if pixels is None else average_precision(pixels, strict, protocol.interpolation)

    return ImagePap(
        image.key, score(counts, False), score(counts, True), score(aware, False), score(aware, True), counts, aware
    )


def pap(
    images: Iterable[PapImage],
    protocol: PapProtocol = PAPER,
    threads: int | None = None,
    device: torch.device | str | None = None,
) -> Iterator[ImagePap]:
    """The scores of images, in their order, a few at a time on ``threads`` threads (default: one a core).

    The iterable is drawn from a batch of 8 images a thread ahead. Renders are drawn by the same threads or, where one is
    given, in batches on a torch ``device`` ("cuda"); both draw the same. Raises InputError as ``score_image`` does.
    """
    threads = (os.cpu_count() or 1) if threads is None else threads
    if threads < 1:
        raise InputError(f"threads: expected at least 1, got {threads}")
    source = iter(images)
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(source, 8 * threads)):
            renders = [None] * len(batch) if device is None else render_levels_on(device, batch, protocol)
            yield from pool.map(score_image, batch, [protocol] * len(batch), renders)
