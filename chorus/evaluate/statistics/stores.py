"""Statistics of a store, as in Tables 1, 3 and 5: images, kept and rejected ones by reason, and camera directions."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from chorus.camera.cameras import Cameras
from chorus.camera.views import AZIMUTH_BINS, azimuth_bin
from chorus.errors import InputError, to_numpy
from chorus.evaluate.statistics.entropy import NSIDE, SIGMA, camera_directions, camera_entropy
from chorus.evaluate.statistics.views import ViewStatistics, view_statistics
from chorus.provenance import versions
from chorus.store import COMPLETE, Store, TableColumns, open_store
from chorus.store.filters.filtering import FilterSpec, find_filter
from chorus.store.filters.report import FilterReport, filter_report

ELEVATION_EDGES = np.linspace(-90.0, 90.0, 19)
"""Edges of 18 bins of elevation, 10 degrees each."""
FILTERED = "filtered"
"""The reason given for complete images that the predicate ``where`` of ``store_statistics`` rejects."""


@dataclass(frozen=True, eq=False)
class StoreStatistics:
    """A store in numbers.

    name         the store's category          path  where it lies
    images       rows in all                   kept  complete ones that pass the filter, if any
    prompts      number of different prompts of all rows
    rejected     images by reason (the store's statuses other than complete, the filter's rules, and "filtered"), the most
                 frequent first; with ``kept`` they add up to ``images``
    entropy      of the kept images' camera directions in bits (Table 1); None where none was kept
    azimuths     (12,) int64 kept cameras by azimuth, in bins of 30 degrees from the person's left (+x) towards the front (+z)
    elevations   (18,) int64 kept cameras by elevation, in bins of 10 degrees from below (-90) to above
    directions   (kept, 3) float64 unit vectors from the person to the cameras
    views        statistics by view augmentation, if ``by_view``
    filter       what each rule of the filter rejects; None without a filter
    """

    name: str
    path: str
    images: int
    kept: int
    prompts: int
    rejected: dict[str, int]
    entropy: float | None
    azimuths: NDArray[np.int64]
    elevations: NDArray[np.int64]
    directions: NDArray[np.float64]
    views: tuple[ViewStatistics, ...] = ()
    filter: FilterReport | None = None

    @property
    def rejection_rate(self) -> float | None:
        """Share of the images that were not kept, 0 to 1; None of no images."""
        return 1 - self.kept / self.images if self.images else None

    def to_json(self) -> dict[str, Any]:
        """The numbers as a dictionary for JSON, without the directions."""
        return {
            "category": self.name,
            "path": self.path,
            "images": self.images,
            "kept": self.kept,
            "rejection_rate": self.rejection_rate,
            "prompts": self.prompts,
            "rejected": self.rejected,
            "camera_entropy_bits": self.entropy,
            "azimuth": {"edges_degrees": np.linspace(0, 360, AZIMUTH_BINS + 1).tolist(), "images": self.azimuths.tolist()},
            "elevation": {"edges_degrees": ELEVATION_EDGES.tolist(), "images": self.elevations.tolist()},
            **({"views": [v.to_json() for v in self.views]} if self.views else {}),
            **({} if self.filter is None else {"filter": self.filter.to_json()}),
        }


def elevation_degrees(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Elevation above the horizon of unit vectors in the person's frame (+y up), (I, 3) -> (I,) degrees."""
    horizontal = np.hypot(directions[:, 0], directions[:, 2])
    return np.asarray(np.degrees(np.arctan2(directions[:, 1], horizontal)))


def store_statistics(
    store: Store | str | os.PathLike[str],
    where: Callable[[TableColumns], NDArray[np.bool_]] | None = None,
    *,
    filter: FilterSpec = "store",
    by_view: bool = False,
) -> StoreStatistics:
    """The statistics of a store, or of the one at a path.

    where    a predicate as for ``Store.select``: from the columns of all rows to (n,) bool
    filter   as for ``chorus.aggregate``; a soft filter keeps images of any weight > 0, and all count equally
    by_view  whether to add statistics by view augmentation

    Raises StoreError for a damaged store, InputError for a ``where`` that returns anything else, and for a kept camera
    at the person's origin, which has no direction.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    n = len(opened)
    status = opened.rows["status"]
    kept = np.asarray(status == COMPLETE, np.bool_)
    reasons = Counter(status[~kept].tolist())
    chosen = find_filter(filter, opened.path)
    report = None if chosen is None else filter_report(chosen, opened.rows)
    if chosen is not None and report is not None:
        kept, reasons = chosen.passed(opened.rows), Counter(report.reasons)
    if where is not None:
        answer = to_numpy(where(opened.rows))
        if answer.shape != (n,) or answer.dtype != np.bool_:
            raise InputError(f"where: expected an answer of bool and shape ({n},), got {answer.dtype} of shape {answer.shape}")
        num_rejected = int(np.count_nonzero(kept & ~answer))
        if num_rejected:
            reasons[FILTERED] += num_rejected
        kept &= answer
    rows, views = np.flatnonzero(kept), tuple[ViewStatistics, ...]()
    columns = opened.rows
    if len(rows) or by_view:
        cameras = Cameras(*(columns[name][rows] for name in ("R", "t", "K", "size")))
    if by_view:
        views = view_statistics(columns["view"], kept, cameras)
    entropy, directions = None, np.zeros((0, 3))
    azimuths, elevations = np.zeros(AZIMUTH_BINS, np.int64), np.zeros(len(ELEVATION_EDGES) - 1, np.int64)
    if len(rows):
        directions, entropy = camera_directions(cameras), camera_entropy(cameras)
        azimuths = np.bincount(azimuth_bin(cameras), minlength=AZIMUTH_BINS)
        elevations = np.histogram(elevation_degrees(directions), ELEVATION_EDGES)[0].astype(np.int64)
    return StoreStatistics(
        opened.category,
        str(opened.path),
        n,
        len(rows),
        len(opened.prompts),
        dict(reasons.most_common()),
        entropy,
        azimuths,
        elevations,
        directions,
        views,
        report,
    )


def statistics_json(stores: Sequence[StoreStatistics]) -> dict[str, Any]:
    """Statistics of several stores, the parameters of the entropy, and versions, as a dictionary for JSON."""
    return {
        "table": "statistics",
        "date": date.today().isoformat(),
        "entropy": {"sigma_radians": SIGMA, "cells": 12 * NSIDE**2, "bits_of_all_around": math.log2(12 * NSIDE**2)},
        "stores": [s.to_json() for s in stores],
        "versions": versions(),
    }


def statistics_table(stores: Sequence[StoreStatistics]) -> Table:
    """One row for each store, with the columns of Tables 1, 3 and 5, and a row of sums, for a terminal."""
    table = Table(
        caption=f"camera entropy: of {math.log2(12 * NSIDE**2):.2f} bits for cameras all around", caption_justify="left"
    )
    for heading in ("category", "prompts", "images", "kept", "rejected %", "camera entropy, bits"):
        table.add_column(heading, justify="left" if heading == "category" else "right")
    for s in stores:
        table.add_row(s.name, *_cells(s.prompts, s.images, s.kept), "-" if s.entropy is None else f"{s.entropy:.2f}")
    if len(stores) > 1:
        table.add_section()
        table.add_row("all", *_cells(*(sum(getattr(s, name) for s in stores) for name in ("prompts", "images", "kept"))), "")
    return table


def _cells(prompts: int, images: int, kept: int) -> tuple[str, ...]:
    return f"{prompts:,}", f"{images:,}", f"{kept:,}", f"{100 * (1 - kept / images):.2f}" if images else "-"


def reasons_table(stores: Sequence[StoreStatistics]) -> Table:
    """Rejected images by reason, one column for each store, for a terminal."""
    table = Table(title="why images were rejected", title_justify="left")
    table.add_column("reason")
    for s in stores:
        table.add_column(s.name, justify="right")
    total: Counter[str] = Counter()
    for s in stores:
        total.update(s.rejected)
    for reason, _ in total.most_common():
        numbers = [s.rejected.get(reason, 0) for s in stores]
        shares = [100 * number / max(s.images, 1) for number, s in zip(numbers, stores, strict=True)]
        table.add_row(reason, *(f"{n:,} ({share:.1f} %)" for n, share in zip(numbers, shares, strict=True)))
    return table
