"""The rows of an ablation: what each one changes, and which images of a store it uses.

To add a row, let a section yield one more ``Setting``; to add a section, write one more function and put it into SECTIONS.
Votes, scores, tables, JSON and pictures then include it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.camera.views import WEIGHTINGS
from chorus.canonicalization import AUTO, LBS, LBS_NEAREST
from chorus.errors import InputError, to_numpy
from chorus.store import COMPLETE, Store, TableColumns

Where = Callable[[TableColumns], NDArray[np.bool_]]

FULL, RECOMMENDED = "full", "recommended: both"
TABLE_2, SOURCES = "Table 2", "two sources"
MIN_CONFIDENCE = 0.7
"""Least confidence of a keypoint (A.3)."""
KEYPOINTS = (("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"))
"""Pairs of keypoints, of which at least one each must be found (A.3)."""
KINDS = ("filtered", "unfiltered", "share", "matched")


def has_keypoints(store: Store) -> bool:
    """Whether the store has the scores that ``keypoint_filter`` tests."""
    return all(f"score/keypoint_{name}" in store.rows for names in KEYPOINTS for name in names)


def keypoint_filter(confidence: float = MIN_CONFIDENCE) -> Where:
    """A predicate over a store's rows: at least one shoulder and one hip with this confidence (A.3), 0 to 1.

    It needs the scores ``keypoint_<name>``. Raises InputError for a confidence out of range.
    """
    if not 0 <= confidence <= 1:
        raise InputError(f"confidence: expected 0 to 1, got {confidence}")

    def where(rows: TableColumns) -> NDArray[np.bool_]:
        seen = [np.maximum.reduce([rows[f"score/keypoint_{name}"] for name in names]) for names in KEYPOINTS]
        passed: NDArray[np.bool_] = np.minimum.reduce(seen) >= np.float32(confidence)
        return passed

    return where


@dataclass(frozen=True)
class Sample:
    """Which images of a store a row uses, by ``kind``.

    filtered    all complete images that pass the filter
    unfiltered  for each prompt as many, drawn at random from all its complete images
    share       this ``share`` of the filtered images of each prompt, at least one, drawn at random
    matched     the filtered images among ``size`` rows of the store, drawn at random
    """

    kind: str = "filtered"
    share: float = 1.0
    size: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind: expected one of {', '.join(KINDS)}; got {self.kind!r}")
        if not 0 < self.share <= 1 or self.size < 0:
            raise InputError(f"share, size: expected 0 < share <= 1 and size >= 0, got {self.share} and {self.size}")


@dataclass(frozen=True)
class Estimator:
    """The canonicalization asked for, and what hidden votes weigh: a number or "auto"."""

    canonicalization: str = LBS
    hidden_weight: float | str = 1.0


@dataclass(frozen=True)
class Setting:
    """One row: its name, its section of the table, and what it changes.

    sample      the images          from_other  whether they come from the second source
    field       changed arguments of CanonicalField        weighting   view weighting
    splat       how voxels are rendered when scored (resolutions are compared by footprint)
    estimator   what is found from each seed's training images, as in ``chorus.aggregate``; None: nothing
    reference   name of the row that this one is compared with, of the same section or ``full``
    """

    name: str
    section: str
    sample: Sample = Sample()
    from_other: bool = False
    field: Mapping[str, Any] = field(default_factory=dict)
    weighting: str = "azimuth"
    splat: str = "centre"
    reference: str = FULL
    estimator: Estimator | None = None


@dataclass(frozen=True)
class AblationOptions:
    """Which rows to compute; an empty sequence leaves a section out.

    resolution, extent   of the reference's grid           shares      of the filtered images, for rows with fewer images
    sizes                numbers of images drawn from either source, ascending (B.1)
    weightings           view weightings                   smoothing   whether to add a row without smoothing
    resolutions, k, tau  values to compare with the reference's
    filtered             whether there is a filter, and therefore a row without it
    estimators           whether to add rows of other canonicalizations, and with hidden votes told apart

    Raises InputError for numbers out of range and unknown weightings.
    """

    resolution: int = 48
    extent: float = 3.0
    shares: tuple[float, ...] = (0.01, 0.1)
    sizes: tuple[int, ...] = (1201, 9408)
    weightings: tuple[str, ...] = WEIGHTINGS
    resolutions: tuple[int, ...] = (24, 64)
    k: tuple[int, ...] = (1, 100)
    tau: tuple[float, ...] = (0.4, 1.6)
    smoothing: bool = True
    filtered: bool = True
    estimators: bool = True

    def __post_init__(self) -> None:
        if any(not 0 < share < 1 for share in self.shares):
            raise InputError(f"shares: expected numbers between 0 and 1, got {list(self.shares)}")
        if any(size < 1 for size in self.sizes) or list(self.sizes) != sorted(set(self.sizes)):
            raise InputError(f"sizes: expected positive numbers, ascending, got {list(self.sizes)}")
        unknown = [name for name in self.weightings if name not in WEIGHTINGS]
        if unknown:
            raise InputError(f"weightings: expected some of {', '.join(WEIGHTINGS)}; got {unknown[0]!r}")
        for name in ("shares", "weightings", "resolutions", "k", "tau"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise InputError(f"{name}: expected different values, got {list(values)}")


Sources = tuple[str, str]
"""Names of the first and the second source of images."""


def _table_2(options: AblationOptions, sources: Sources | None) -> Iterator[Setting]:
    if options.filtered:
        yield Setting("w/o keypoint filtering", TABLE_2, Sample("unfiltered"))
    yield Setting("w/o canonicalization", TABLE_2, field={"canonicalize": False})
    for share in sorted(options.shares):
        yield Setting(f"{100 * share:g} %", TABLE_2, Sample("share", share))
    yield Setting(FULL, TABLE_2)


def _two_sources(options: AblationOptions, sources: Sources | None) -> Iterator[Setting]:
    if sources is None:
        return
    first, other = sources
    for from_other, name in ((True, other), (False, first)):
        for size in options.sizes:
            reference = f"{first}, {size:,} images" if from_other else FULL
            yield Setting(
                f"{name}, {size:,} images", SOURCES, Sample("matched", size=size), from_other=from_other, reference=reference
            )


def _view_weighting(options: AblationOptions, sources: Sources | None) -> Iterator[Setting]:
    names = {
        "azimuth-elevation": "by azimuth and elevation",
        "azimuth-shrunk": "by azimuth, shrunk",
        "azimuth-elevation-shrunk": "by azimuth and elevation, shrunk",
        "none": "none",
    }  # the reference weighs by azimuth
    for weighting in options.weightings:
        if weighting in names:
            yield Setting(f"view weights {names[weighting]}", "view weighting", weighting=weighting)


def _resolution(options: AblationOptions, sources: Sources | None) -> Iterator[Setting]:
    compared = {*options.resolutions, options.resolution}
    for n in sorted(compared) if len(compared) > 1 else ():
        base = f"{options.resolution}^3 voxels"
        yield Setting(f"{n}^3 voxels", "resolution", field={"resolution": n}, splat="footprint", reference=base)


def _nearest_vertices(options: AblationOptions, sources: Sources | None) -> Iterator[Setting]:
    for k in options.k:
        yield Setting(f"k = {k}", "nearest vertices", field={"k": k})


def _de_weighting(options: AblationOptions, sources: Sources | None) -> Iterator[Setting]:
    for tau in options.tau:
        yield Setting(f"tau = {tau:g} m", "de-weighting", field={"tau": tau})


def _smoothing(options: AblationOptions, sources: Sources | None) -> Iterator[Setting]:
    if options.smoothing:
        yield Setting("no smoothing", "smoothing", field={"smoothing_steps": 0})


def _beyond_the_paper(options: AblationOptions, sources: Sources | None) -> Iterator[Setting]:
    if not options.estimators:
        return
    section = "beyond the paper"
    yield Setting(LBS_NEAREST, section, field={"canonicalization": LBS_NEAREST})
    yield Setting("hidden votes told apart", section, estimator=Estimator(hidden_weight=AUTO))
    yield Setting("chosen canonicalization", section, estimator=Estimator(AUTO))
    yield Setting(RECOMMENDED, section, estimator=Estimator(AUTO, AUTO))


SECTIONS: list[Callable[[AblationOptions, Sources | None], Iterable[Setting]]] = [
    _table_2,
    _two_sources,
    _view_weighting,
    _resolution,
    _nearest_vertices,
    _de_weighting,
    _smoothing,
    _beyond_the_paper,
]
"""The sections in the order of the table: functions that yield their rows."""


def settings(options: AblationOptions, sources: Sources | None = None) -> list[Setting]:
    """The rows of all SECTIONS, in the table's order; rows that do not change the grid have the reference's."""
    grid = {"resolution": options.resolution, "extent": options.extent}
    return [replace(row, field={**grid, **row.field}) for section in SECTIONS for row in section(options, sources)]


def chosen_images(store: Store, where: Where | None, sample: Sample, seed: int) -> NDArray[np.bool_]:
    """The rows of a store in a sample, (n,) bool.

    Draws depend only on the seed, the category, the prompt and the images' keys, not on the order of the rows; a smaller share
    or size is a subset of a larger one. Raises InputError where there are fewer images than ``sample`` needs.
    """
    rows = store.rows
    complete: NDArray[np.bool_] = rows["status"] == COMPLETE
    passed = complete & _filter(rows, where)
    if sample.kind == "filtered":
        drawn = passed
    elif sample.kind == "matched":
        if sample.size > len(store):
            raise InputError(
                f"sizes: expected at most the {len(store):,} images of {store.path}, got {sample.size:,} (other sizes can be "
                "given)"
            )
        drawn = passed & _marked(store, _shuffled(store, np.arange(len(store)), seed, "size")[: sample.size])
    else:
        drawn = np.zeros(len(store), np.bool_)
        for prompt in np.unique(rows["prompt"][passed]):
            of_prompt = rows["prompt"] == prompt
            num_passed = int((passed & of_prompt).sum())
            pool = np.flatnonzero((passed if sample.kind == "share" else complete) & of_prompt)
            number = max(1, round(sample.share * num_passed))
            drawn |= _marked(store, _shuffled(store, pool, seed, f"{sample.kind}|{prompt}")[:number])
    if not drawn.any():
        raise InputError(f"stores: {store.path} has no image that is complete and passes the filter (sample: {sample})")
    return drawn


def _filter(rows: TableColumns, where: Where | None) -> NDArray[np.bool_]:
    n = len(rows["status"])
    if where is None:
        return np.ones(n, np.bool_)
    answer = to_numpy(where(rows))
    if answer.shape != (n,) or answer.dtype != np.bool_:
        raise InputError(f"where: expected an answer of bool and shape ({n},), got {answer.dtype} of {answer.shape}")
    return answer


def _shuffled(store: Store, rows: NDArray[np.intp], seed: int, purpose: str) -> NDArray[np.intp]:
    identity = zlib.crc32(f"{store.category}|{purpose}".encode())
    by_key = rows[np.argsort(store.rows["key"][rows])]
    return np.random.default_rng([seed, identity]).permutation(by_key)


def _marked(store: Store, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    marks = np.zeros(len(store), np.bool_)
    marks[rows] = True
    return marks


def cells(samples: Sequence[NDArray[np.bool_]]) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Split S samples of n images, (n,) bool each, into disjoint cells: pairs of images (n,) bool and samples (S,) bool.

    Every image of any sample is in exactly one cell, and a sample is the union of its cells, so that each image needs to vote
    only once.
    """
    membership = np.stack(samples, 1)
    patterns, which = np.unique(membership, axis=0, return_inverse=True)
    return [(which.ravel() == i, pattern) for i, pattern in enumerate(patterns) if pattern.any()]
