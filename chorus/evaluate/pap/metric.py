"""Projective average precision (4.2, B.2) of one image: scores from the pixel counts of ``chorus.evaluate.pap.pixels``.

The scores are the entries of METRICS. To add one, write a function of PixelCounts and PapProtocol and put one ``Metric`` into
METRICS: reports, tables, JSON, CSV and ablations then have it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.errors import InputError, check_array
from chorus.evaluate.pap.pixels import (
    PAPER,
    PapImage,
    PapProtocol,
    PixelCounts,
    body_pixels,
    count_pixels,
    downscale_mask,
    downscaled_size,
    named_errors,
    render_levels,
    render_levels_on,
)

RECALL_LEVELS = tuple(i / 10 for i in range(11))
"""Recall levels of the 11-point interpolation."""


def interpolated_precision(counts: PixelCounts, recall: Any, strict: bool = False) -> NDArray[np.float64]:
    """For each recall level, the highest precision among the thresholds that reach it, (L,) float64; 0 where none does.

    recall  (L,) levels, 0 to 1
    strict  also 0 where the recall falls below the level because nothing is drawn at higher thresholds (level 0 is treated
            like the levels just above it)

    Raises InputError for an empty target.
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
    drawn at the last threshold T. Strict drops the terms i at which nothing is drawn. 11-point: the mean of
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


@dataclass(frozen=True)
class Metric:
    """A score of one image, and its names in tables and files.

    name             in JSON and CSV
    heading          of its column in a table of categories      mean_heading  of the column of means over categories
    score            (counts, protocol) -> 0 to 1, larger is better; called only where the target has pixels
    occlusion_aware  whether it is computed from the counts without the body's pixels
    curve            (counts, recall (L,)) -> precision (L,), for a metric that is the area under such a curve
    """

    name: str
    heading: str
    mean_heading: str
    score: Callable[[PixelCounts, PapProtocol], float | None]
    occlusion_aware: bool = False
    curve: Callable[[PixelCounts, NDArray[np.float64]], NDArray[np.float64]] | None = None

    def counts(self, image: ImagePap) -> PixelCounts | None:
        """The counts of an image that this metric is computed from; None where they are missing or the target is empty."""
        counts = image.aware_counts if self.occlusion_aware else image.counts
        return counts if counts is not None and counts.target else None


def _vanilla(counts: PixelCounts, protocol: PapProtocol) -> float | None:
    return average_precision(counts, False, protocol.interpolation)


def _strict(counts: PixelCounts, protocol: PapProtocol) -> float | None:
    return average_precision(counts, True, protocol.interpolation)


_strict_curve = partial(interpolated_precision, strict=True)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("vanilla", "PAP", "mPAP", _vanilla, curve=interpolated_precision),
        Metric("strict", "strict", "mPAP strict", _strict, curve=_strict_curve),
        Metric("aware_vanilla", "aware", "mPAP, occlusion-aware", _vanilla, True, interpolated_precision),
        Metric("aware_strict", "aware, strict", "mPAP strict, occlusion-aware", _strict, True, _strict_curve),
    )
}
"""The scores by name, in Table 2's order; "aware" is human-occlusion aware."""


@dataclass(frozen=True, eq=False)
class ImagePap:
    """The scores of one image.

    scores                by the names of METRICS, 0 to 1; None where the target is empty (occlusion-aware ones: empty after
                          removal, or without body vertices)
    counts, aware_counts  over all pixels, and over those that the body does not cover (None without body vertices)
    """

    key: str
    scores: Mapping[str, float | None]
    counts: PixelCounts
    aware_counts: PixelCounts | None

    @classmethod
    def from_counts(cls, key: str, counts: PixelCounts, aware_counts: PixelCounts | None, protocol: PapProtocol) -> ImagePap:
        """All metrics of an image."""
        unscored = cls(key, {}, counts, aware_counts)
        scores = {
            name: None if (pixels := metric.counts(unscored)) is None else metric.score(pixels, protocol)
            for name, metric in METRICS.items()
        }
        return cls(key, scores, counts, aware_counts)

    @property
    def vanilla(self) -> float | None:
        """Average precision; every term counts."""
        return self.scores["vanilla"]

    @property
    def strict(self) -> float | None:
        """Average precision without the terms whose render is empty."""
        return self.scores["strict"]

    @property
    def aware_vanilla(self) -> float | None:
        """``vanilla`` with the body's pixels removed."""
        return self.scores["aware_vanilla"]

    @property
    def aware_strict(self) -> float | None:
        """``strict`` with the body's pixels removed."""
        return self.scores["aware_strict"]


def score_image(image: PapImage, protocol: PapProtocol = PAPER, levels: NDArray[np.int32] | None = None) -> ImagePap:
    """The scores of one image.

    levels  (h, w) int32 of ``render_levels``, if the image has been rendered already

    Raises InputError, with the image's key, for arrays of other shapes or types.
    """
    with named_errors(image):
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
    return ImagePap.from_counts(image.key, counts, aware, protocol)


def pap(
    images: Iterable[PapImage],
    protocol: PapProtocol = PAPER,
    threads: int | None = None,
    device: torch.device | str | None = None,
) -> Iterator[ImagePap]:
    """The scores of images, in their order, on ``threads`` threads (default: one per core).

    The iterable is read in batches of 8 images per thread. Images are rendered by the same threads or, if it is given, in
    batches on a torch ``device`` ("cuda"), with the same result. Raises InputError as ``score_image`` does.
    """
    threads = (os.cpu_count() or 1) if threads is None else threads
    if threads < 1:
        raise InputError(f"threads: expected at least 1, got {threads}")
    source = iter(images)
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(source, 8 * threads)):
            renders = [None] * len(batch) if device is None else render_levels_on(device, batch, protocol)
            yield from pool.map(score_image, batch, [protocol] * len(batch), renders)
