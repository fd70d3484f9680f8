"""Projective average precision of occupancies on test stores, by category (4.2, Table 2), with tables and files."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from chorus.body.model import Body
from chorus.errors import InputError, check_kind
from chorus.evaluate.pap.blocks import PoseOccupancy, StoreImages, Work
from chorus.evaluate.pap.metric import METRICS, ImagePap
from chorus.evaluate.pap.pixels import PAPER, PapProtocol
from chorus.evaluate.unfinished import Unfinished
from chorus.field import CanonicalField
from chorus.files import write_text
from chorus.kernels.backends import choose_backend
from chorus.occupancy.distribution import Distribution
from chorus.occupancy.joins import join
from chorus.occupancy.posed import body_of, posed_occupancy
from chorus.provenance import machine, versions
from chorus.ranks import Share
from chorus.store import Store, open_store

MIN_IMAGES = 30
"""Categories with fewer test images do not enter mPAP (Table 5)."""
CURVE_RECALL = np.arange(101) / 100
"""Recall levels at which mean precision-recall curves are sampled."""


@dataclass(frozen=True, eq=False)
class CategoryPap:
    """The scores of one category.

    results     of its images, in the order of the stores
    incomplete  number of rows not scored: without mask, pose or camera, or rejected by a stage
    """

    category: str
    results: tuple[ImagePap, ...]
    incomplete: int = 0

    def values(self, metric: str) -> NDArray[np.float64]:
        """A metric's scores, 0 to 1, of the S images that have one, (S,) float64; KeyError for a name not in METRICS."""
        if metric not in METRICS:
            raise KeyError(metric)
        return np.array([v for r in self.results if (v := r.scores[metric]) is not None], np.float64)

    def mean(self, metric: str) -> float | None:
        """The category's PAP: the mean over its images; None where every target is empty."""
        values = self.values(metric)
        return float(values.mean()) if len(values) else None

    def curve(self, metric: str) -> NDArray[np.float64] | None:
        """Interpolated precision at recall 0, 0.01, ... 1, mean over the images, (101,); its area is the all-point PAP, up
        to the sampling. None where every target is empty, and for a metric without a curve."""
        chosen = METRICS[metric]
        counts = [c for r in self.results if (c := chosen.counts(r)) is not None]
        if chosen.curve is None or not counts:
            return None
        return np.asarray(np.stack([chosen.curve(c, CURVE_RECALL) for c in counts]).mean(0))


@dataclass(frozen=True, eq=False)
class PapReport:
    """The scores of all categories, the protocol, the occupancies and stores (``sources``), and the seconds it took."""

    categories: tuple[CategoryPap, ...]
    protocol: PapProtocol = PAPER
    min_images: int = MIN_IMAGES
    sources: tuple[dict[str, Any], ...] = ()
    seconds: float | None = None

    @property
    def counted(self) -> tuple[CategoryPap, ...]:
        """The categories with ``min_images`` test images or more; images with empty targets are included."""
        return tuple(c for c in self.categories if len(c.results) >= self.min_images)

    def mpap(self, metric: str) -> float | None:
        """Mean of a metric over the counted categories that have it, 0 to 1; None where none has."""
        means = [mean for c in self.counted if (mean := c.mean(metric)) is not None]
        return float(np.mean(means)) if means else None

    def to_json(self) -> dict[str, Any]:
        """The report as a dictionary for JSON: scores 0 to 1, null for missing ones, with versions and machine."""
        counted = self.counted
        return {
            "table": "pap",
            "date": date.today().isoformat(),
            "protocol": asdict(self.protocol),
            "min_images": self.min_images,
            "mpap": {metric: self.mpap(metric) for metric in METRICS},
            "categories": [
                {
                    "category": c.category,
                    "counted": c in counted,
                    "images": len(c.results),
                    "incomplete": c.incomplete,
                    "scored": {metric: len(c.values(metric)) for metric in METRICS},
                    "pap": {metric: c.mean(metric) for metric in METRICS},
                    "curves": {metric: _rounded(c.curve(metric)) for metric in METRICS},
                    "per_image": [{"key": r.key, **r.scores} for r in c.results],
                }
                for c in self.categories
            ],
            "sources": list(self.sources),
            "seconds": self.seconds,
            "machine": machine(),
            "versions": versions(),
        }

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one line for each image: category, key, target pixels, its scores (empty for missing ones)."""
        rows = io.StringIO()
        writer = csv.writer(rows, lineterminator="\n")
        writer.writerow(["category", "key", "target_pixels", "target_pixels_aware", *METRICS])
        for c in self.categories:
            for r in c.results:
                aware = "" if r.aware_counts is None else r.aware_counts.target
                values = ["" if (v := r.scores[metric]) is None else repr(v) for metric in METRICS]
                writer.writerow([c.category, r.key, r.counts.target, aware, *values])
        write_text(Path(path), rows.getvalue())


def _rounded(curve: NDArray[np.float64] | None) -> list[float] | None:
    return None if curve is None else [round(float(p), 6) for p in curve]


class _Posing:
    def __init__(self, body: Body | None, inverse: str, backend: str) -> None:
        self._probabilities: WeakKeyDictionary[Distribution, NDArray[np.float32]] = WeakKeyDictionary()
        self._body, self._inverse, self._backend = body, inverse, backend

    @property
    def text(self) -> str:
        """What the result depends on: backends agree, but not in the last bit."""
        return f"{self._inverse}, {choose_backend(self._backend).name}"

    def __call__(self, occupancy: Distribution, pose: NDArray[np.float32]) -> NDArray[np.float32]:
        if occupancy not in self._probabilities:
            self._probabilities[occupancy] = occupancy.probability
        return posed_occupancy(
            self._probabilities[occupancy],
            pose,
            occupancy.parameters,
            occupancy.body_hash,
            self._body,
            inverse=self._inverse,
            backend=self._backend,
        )


def posing(body: Body | None = None, inverse: str = "blend_of_inverses", backend: str = "auto") -> PoseOccupancy:
    """The default of ``evaluate_pap``: Eq. 11 with the nearest voxel; the probability of an occupancy is computed once."""
    return _Posing(body, inverse, backend)


def evaluate_pap(
    occupancies: Sequence[Distribution] | Mapping[str, Distribution],
    stores: Sequence[Store | str | os.PathLike[str]],
    *,
    pose_occupancy: PoseOccupancy | None = None,
    body: Body | None = None,
    aware: bool = True,
    protocol: PapProtocol = PAPER,
    min_images: int = MIN_IMAGES,
    threads: int | None = None,
    device: torch.device | str | None = None,
    prompt: str | Sequence[str] | None = None,
    part: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    unfinished: Unfinished | None = None,
) -> PapReport:
    """Score occupancies on the test images of their categories.

    occupancies     one for each category: a mapping from category, or a sequence of occupancies that name their category
    stores          test stores or their paths; several may be of the same category. Complete rows are scored
    pose_occupancy  poses an occupancy; default: ``posing(body)``
    body            that the occupancies were made with; default: the built-in one
    aware           whether to compute the occlusion-aware scores too
    min_images      see MIN_IMAGES            progress  called with (done, total) after each image
    threads, device see ``pap``
    prompt, part    which complete images of the stores are scored; default: those of the prompts and parts that the category's
                    occupancy was learned from, and "*" for those of any (``chorus.occupancy.joins.join``). A store without
                    prompts is scored whole
    unfinished      where the counts of blocks of images are kept once they are scored, and taken from where they are there
                    already: an interrupted call can be repeated, and shares (``evaluate_pap_share``) be taken together.
                    ``pose_occupancy`` is told apart by its attribute ``text``, where it has one, or else by its name

    Raises InputError for a category without occupancy or without test images, MismatchError for another body and for a store
    without images of the occupancy's own prompts.
    """
    began = time.perf_counter()
    if type(min_images) is not int or min_images < 1:
        raise InputError(f"min_images: expected a positive integer, got {min_images!r}")
    how = _How(pose_occupancy, body, aware, protocol, threads, device, prompt, part)
    work = _prepared(occupancies, stores, how, progress, unfinished)
    blocks = work.blocks()
    work.score(blocks)
    results: dict[str, list[ImagePap]] = {images.store.category: [] for images in work.images}
    for block in blocks:
        found = work.kept(block)
        assert found is not None  # it is scored
        results[block.images.store.category] += found
    incomplete = dict.fromkeys(results, 0)
    for images in work.images:
        incomplete[images.store.category] += len(images.store) - images.chosen.complete
    sources = [_source([i for i in work.images if i.store.category == category]) for category in _by_category(occupancies)]
    scored = tuple(CategoryPap(c, tuple(found), incomplete[c]) for c, found in results.items())
    return PapReport(scored, protocol, min_images, tuple(sources), time.perf_counter() - began)


def evaluate_pap_share(
    share: Share,
    occupancies: Sequence[Distribution] | Mapping[str, Distribution],
    stores: Sequence[Store | str | os.PathLike[str]],
    *,
    unfinished: Unfinished,
    pose_occupancy: PoseOccupancy | None = None,
    body: Body | None = None,
    aware: bool = True,
    protocol: PapProtocol = PAPER,
    threads: int | None = None,
    device: torch.device | str | None = None,
    prompt: str | Sequence[str] | None = None,
    part: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Score a share of the images of ``evaluate_pap``, for one of several processes; how many were scored now.

    The shares of all numbers are disjoint, and are all of the images, whatever the processes do. Each is of neighbouring blocks
    of images, and of about as many voxels to be posed.

    share       which one
    unfinished  where the results are kept, ``Unfinished.beside(output, share)``: each share needs a file of its own.
                ``evaluate_pap`` with ``Unfinished.beside(output)`` then takes them all, scores what is missing, and its
                report is the same

    The rest, and what is raised, is as in ``evaluate_pap``, and must be the same in all shares.
    """
    how = _How(pose_occupancy, body, aware, protocol, threads, device, prompt, part)
    work = _prepared(occupancies, stores, how, progress, unfinished)
    return work.score(work.share_of(share))


@dataclass(frozen=True)
class _How:
    """How is scored, as ``evaluate_pap`` is given it."""

    pose_occupancy: PoseOccupancy | None
    body: Body | None
    aware: bool
    protocol: PapProtocol
    threads: int | None
    device: torch.device | str | None
    prompt: str | Sequence[str] | None
    part: str | None


def _prepared(
    occupancies: Sequence[Distribution] | Mapping[str, Distribution],
    stores: Sequence[Store | str | os.PathLike[str]],
    how: _How,
    progress: Callable[[int, int], None] | None,
    unfinished: Unfinished | None,
) -> Work:
    """The work that is to be done, none of it yet; what is given is checked."""
    by_category = _by_category(occupancies)
    check_kind("stores", stores, Sequence)
    opened = [store if isinstance(store, Store) else open_store(store) for store in stores]
    categories = dict.fromkeys(store.category for store in opened)
    for category in categories:
        if category not in by_category:
            raise InputError(f"stores: {category!r} has no occupancy; those given are of {', '.join(by_category) or 'nothing'}")
    for category in by_category:
        if category not in categories:
            raise InputError(
                f"occupancies: {category!r} has no test store; those given are of {', '.join(categories) or 'nothing'}"
            )
    bodies = {category: body_of(occupancy.body_hash, how.body) for category, occupancy in by_category.items()}
    images = []
    for store in opened:
        body, occupancy = bodies[store.category], by_category[store.category]
        field = partial(CanonicalField.from_parameters, body, occupancy.parameters)
        chosen = join(occupancy, store, field, how.prompt, how.part, category=store.category)
        images.append(StoreImages(store, chosen, occupancy, body if how.aware else None))
    pose_occupancy = posing(how.body) if how.pose_occupancy is None else how.pose_occupancy
    unfinished = Unfinished() if unfinished is None else unfinished
    work = Work(images, pose_occupancy, how.protocol, how.threads, how.device, progress, unfinished)
    work.begin()
    return work


def _by_category(occupancies: Sequence[Distribution] | Mapping[str, Distribution]) -> dict[str, Distribution]:
    if isinstance(occupancies, Mapping):
        for occupancy in occupancies.values():
            check_kind("occupancies", occupancy, Distribution)
        return dict(occupancies)
    by_category: dict[str, Distribution] = {}
    check_kind("occupancies", occupancies, Sequence)
    for number, occupancy in enumerate(occupancies):
        check_kind("occupancies", occupancy, Distribution)
        if not occupancy.category:
            raise InputError(
                f"occupancies: expected a category in each, got none in number {number}; give a mapping from category"
            )
        if occupancy.category in by_category:
            raise InputError(f"occupancies: expected one for each category, got two of {occupancy.category!r}")
        by_category[occupancy.category] = occupancy
    return by_category


def _source(of_category: Sequence[StoreImages]) -> dict[str, Any]:
    occupancy = of_category[0].occupancy
    return {
        "category": of_category[0].store.category,
        "parameters": occupancy.parameters.to_json(),
        "body_hash": occupancy.body_hash,
        "weighting": occupancy.weighting,
        "images": occupancy.num_images,
        "stores": [
            {
                "path": str(images.store.path),
                "id": images.store.id,
                "selected": {**images.chosen.to_json(), "text": str(images.chosen)},
            }
            for images in of_category
        ],
    }


def percent(value: float | None) -> str:
    """A score as the paper prints it, in percent; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.2f}"


def _caption(report: PapReport) -> str:
    p = report.protocol
    return (
        f"In percent; mPAP is the mean over the categories with {report.min_images} test images or more. {p.num_thresholds} "
        f"thresholds, shorter side {p.shorter_side} px, splat {p.splat}, {p.interpolation} interpolation."
    )


def category_table(report: PapReport) -> Table:
    """The scores of each category and their mean, for a terminal."""
    table = Table(title="projective average precision", caption=_caption(report), caption_justify="left", title_justify="left")
    for heading in ("category", "images", "scored", "scored aware", *(m.heading for m in METRICS.values())):
        table.add_column(heading, justify="left" if heading == "category" else "right")
    counted = report.counted
    for c in report.categories:
        name = c.category if c in counted else f"{c.category} (too few for mPAP)"
        sizes = (len(c.results), len(c.values("vanilla")), len(c.values("aware_vanilla")))
        table.add_row(name, *map(str, sizes), *(percent(c.mean(metric)) for metric in METRICS))
    table.add_section()
    table.add_row(f"mPAP of {len(counted)}", "", "", "", *(percent(report.mpap(metric)) for metric in METRICS))
    return table


def method_table(reports: Mapping[str, PapReport]) -> Table:
    """Table 2: one row for each method, mPAP vanilla and strict, without and with human occlusion, for a terminal."""
    if not reports:
        raise InputError("reports: expected at least one, got none")
    table = Table(caption=_caption(next(iter(reports.values()))), caption_justify="left")
    for heading in ("method", *mean_headings()):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method, report in reports.items():
        table.add_row(method, *(percent(report.mpap(metric)) for metric in METRICS))
    return table


def mean_headings() -> list[str]:
    """Headings of the metrics' means over categories, in the order of METRICS."""
    return [metric.mean_heading for metric in METRICS.values()]


def method_markdown(reports: Mapping[str, PapReport]) -> str:
    """``method_table`` for a README."""
    lines = ["| method | " + " | ".join(mean_headings()) + " |", "|---" + "|---:" * len(METRICS) + "|"]
    lines += [
        f"| {method} | " + " | ".join(percent(report.mpap(metric)) for metric in METRICS) + " |"
        for method, report in reports.items()
    ]
    return "\n".join(lines) + "\n"
