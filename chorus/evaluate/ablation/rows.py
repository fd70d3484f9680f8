"""The rows of an ablation: what each one changes, and which images of a store it takes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.camera.views import WEIGHTINGS
from chorus.errors import InputError, to_numpy
from chorus.store import COMPLETE, Store, TableColumns

Where = Callable[[TableColumns], NDArray[np.bool_]]

FULL = "full"
TABLE_2, SOURCES = "Table 2", "two sources"
CONFIDENCE = 0.7
"""Least confidence of a keypoint that counts (A.3)."""
KEYPOINTS = (("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"))
"""At least one of each (A.3)."""
KINDS = ("filtered", "unfiltered", "share", "matched")


def has_keypoints(store: Store) -> bool:
    """Whether the store keeps the confidences that ``keypoint_filter`` judges."""
    return all(f"score/keypoint_{name}" in store.rows for names in KEYPOINTS for name in names)


def keypoint_filter(confidence: float = CONFIDENCE) -> Where:
    """At least one shoulder and one hip with this confidence (A.3), by the scores ``keypoint_<name>`` of a store."""
    if not 0 <= confidence <= 1:
        raise InputError(f"confidence: expected 0 to 1, got {confidence}")

    def where(rows: TableColumns) -> NDArray[np.bool_]:
        seen = [np.maximum.reduce([rows[f"score/keypoint_{name}"] for name in names]) for names in KEYPOINTS]
        passed: NDArray[np.bool_] = np.minimum.reduce(seen) >= np.float32(confidence)
        return passed

    return where


@dataclass(frozen=True)
class Sample:
    """Which images of a store a row takes.

    filtered    all that are complete and pass the filter
    unfiltered  as many of each prompt, drawn from its complete images whether they pass or not
    share       this ``share`` of the filtered images of each prompt, at least one
    matched     the filtered ones among ``size`` images drawn from all rows of the store
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
class Setting:
    """One row: its name, its section of the table, and what it changes.

    sample      the images          other      whether they come from the other source
    field       changes to CanonicalField's arguments      weighting  of views
    splat       how voxels are drawn when scored (resolutions are compared by footprint)
    reference   the row that this one is compared with, of the same section or ``full``
    """

    name: str
    section: str
    sample: Sample = Sample()
    other: bool = False
    field: Mapping[str, Any] = field(default_factory=dict)
    weighting: str = "azimuth"
    splat: str = "centre"
    reference: str = FULL


@dataclass(frozen=True)
class AblationOptions:
    """Which rows there are; an empty sequence leaves a section out.

    resolution, extent   of the reference's grid           shares      of the filtered images, drawn by prompt
    sizes                images drawn from either source, ascending (B.1)     weightings  of views
    resolutions, k, tau  to compare with the reference's   smoothing   whether to compare with none
    filtered             whether there is a filter, and so a row without it
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
                raise InputError(f"{name}: expected no two alike, got {list(values)}")


def settings(options: AblationOptions, sources: tuple[str, str] | None = None) -> list[Setting]:
    """The rows, in the table's order. ``sources``: the names of the first and the other source, where there are two."""
    grid = {"resolution": options.resolution, "extent": options.extent}
    rows = [Setting("w/o keypoint filtering", TABLE_2, Sample("unfiltered"), field=grid)] if options.filtered else []
    rows.append(Setting("w/o canonicalization", TABLE_2, field={**grid, "canonicalize": False}))
    rows += [Setting(f"{100 * s:g} %", TABLE_2, Sample("share", s), field=grid) for s in sorted(options.shares)]
    rows.append(Setting(FULL, TABLE_2, field=grid))
    if sources is not None:
        first, other = sources
        for is_other, name in ((True, other), (False, first)):
            rows += [
                Setting(
                    f"{name}, {size:,} images",
                    SOURCES,
                    Sample("matched", size=size),
                    is_other,
                    grid,
                    reference=f"{first}, {size:,} images" if is_other else FULL,
                )
                for size in options.sizes
            ]
    names = {"azimuth": "by azimuth", "azimuth-elevation": "by azimuth and elevation", "none": "none"}
    rows += [
        Setting(f"view weights {names[w]}", "view weighting", field=grid, weighting=w)
        for w in options.weightings
        if w != "azimuth"
    ]
    if set(options.resolutions) - {options.resolution}:
        base = f"{options.resolution}^3 voxels"
        rows += [
            Setting(f"{n}^3 voxels", "resolution", field={**grid, "resolution": n}, splat="footprint", reference=base)
            for n in sorted({*options.resolutions, options.resolution})
        ]
    rows += [Setting(f"k = {k}", "nearest vertices", field={**grid, "k": k}) for k in options.k]
    rows += [Setting(f"tau = {t:g} m", "de-weighting", field={**grid, "tau": t}) for t in options.tau]
    if options.smoothing:
        rows.append(Setting("no smoothing", "smoothing", field={**grid, "smoothing_steps": 0}))
    return rows


def chosen_images(store: Store, where: Where | None, sample: Sample, seed: int) -> NDArray[np.bool_]:
    """The rows of a store that a sample takes, (n,) bool.

    Draws depend on the seed, the category, the prompt and the images' keys alone, not on how the store lies on the disk; a
    smaller share, or size, is a part of a larger one. Raises InputError where there are fewer images than ``sample`` needs.
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
            there = int((passed & of_prompt).sum())
            pool = np.flatnonzero((passed if sample.kind == "share" else complete) & of_prompt)
            number = max(1, round(sample.share * there))
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
    """S samples of n images, (n,) bool each, cut into disjoint cells: their images (n,) bool, the samples with them (S,) bool.

    Every image of any sample is in one cell, and a sample is the sum of its cells: so counts of all samples are known once
    each image has voted once.
    """
    membership = np.stack(samples, 1)
    patterns, which = np.unique(membership, axis=0, return_inverse=True)
    return [(which.ravel() == i, pattern) for i, pattern in enumerate(patterns) if pattern.any()]
