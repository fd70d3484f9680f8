"""Filters (A.3): predicates over the scores in a store, evaluated when images are selected, hard or soft.

Nothing is filtered before storage, so that a filter can be changed without running a model again (docs/filters.md). The
filter of a store is the file ``filter.json`` in its folder.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, StoreError, check_kind
from chorus.files import PART_SUFFIX, exclusive_lock, write_atomically
from chorus.store.filters.rules import RULES, TORSO_MODES, Columns, Rule, rule
from chorus.store.reader import Store
from chorus.store.schema import COMPLETE, is_plain, read_store_json
from chorus.store.urls import StoreUrl, place_of
from chorus.store.writer import LOCK

FORMAT, VERSION = "chorus-filter", 1
FILTER_JSON = "filter.json"
MAX_BYTES = 1 << 20
"""Filter files larger than this are refused."""
MAX_WEIGHT = 255
"""Integer weight of an image with confidence 1 in every rule of a soft filter."""
ALWAYS = "pose"
"""The rule that is always on: an image without pose and camera cannot vote."""
SOFT_CONFIDENCES = {"person-confidence": 0.5, "object-confidence": 0.5}
"""Rules that soft filtering adds to the paper's: at threshold 0.5, the detector's confidence itself (``Rule.confidence``)."""
NAMES = ("store", "none", "paper", "soft")
"""Filters that can be given by name, see ``find_filter``."""


@dataclass(frozen=True)
class Filter:
    """Which images of a store are used, or how much each of them counts.

    thresholds  rule name -> threshold, None for off; rules that are not named are off, except "pose", which is always on
    torso_mode  "any": at least one shoulder and one hip; "all": all four
    soft        whether images get weights (``weights``) instead of being kept or rejected
    required    rules whose scores a store must have; other rules are skipped where it lacks them. By default all rules that
                are on. An unknown score (NaN) fails its rule.

    Only complete images are ever used: those that a stage of the front end rejected have no mask, pose or camera.
    Raises InputError for unknown rules and thresholds out of range.
    """

    thresholds: Mapping[str, float | None]
    torso_mode: str = "any"
    soft: bool = False
    required: frozenset[str] | None = None

    def __post_init__(self) -> None:
        given = {rule(name).name: value for name, value in self.thresholds.items()}
        if ALWAYS in given and given[ALWAYS] is None:
            raise InputError(f"{ALWAYS}: this rule is always on: an image without pose and camera cannot vote")
        given[ALWAYS] = 1.0
        full = {name: None if given.get(name) is None else r.threshold(given[name]) for name, r in RULES.items()}
        if self.torso_mode not in TORSO_MODES:
            raise InputError(f"torso_mode: expected one of {', '.join(TORSO_MODES)}; got {self.torso_mode!r}")
        on = {name for name, value in full.items() if value is not None} - {ALWAYS}
        required = on if self.required is None else {rule(name).name for name in self.required}
        if required - on:
            raise InputError(f"required: expected rules that are on, got {', '.join(sorted(required - on))}")
        object.__setattr__(self, "thresholds", full)
        object.__setattr__(self, "soft", bool(self.soft))
        object.__setattr__(self, "required", frozenset(required))

    @classmethod
    def paper(cls, soft: bool = False) -> Filter:
        """The rules of A.3, skipped where a store lacks their scores. ``soft``: as weights, see ``softened``."""
        hard = cls({name: r.paper for name, r in RULES.items()}, required=frozenset())
        return hard.softened() if soft else hard

    @classmethod
    def none(cls) -> Filter:
        """The filter that keeps all complete images."""
        return cls({})

    def changed(self, thresholds: Mapping[str, float | None], torso_mode: str | None = None) -> Filter:
        """The same filter with some thresholds changed, None for off. Rules switched on here are required."""
        check_kind("thresholds", thresholds, Mapping)
        kept = set(self.required or ()) - set(thresholds)
        asked = {name for name, value in thresholds.items() if value is not None and name != ALWAYS}
        return Filter({**self.thresholds, **thresholds}, torso_mode or self.torso_mode, self.soft, frozenset(kept | asked))

    def softened(self) -> Filter:
        """The same rules as weights, with the rules of SOFT_CONFIDENCES added where they are off."""
        added = {name: value for name, value in SOFT_CONFIDENCES.items() if self.thresholds[name] is None}
        return Filter({**self.thresholds, **added}, self.torso_mode, True, self.required)

    def hardened(self) -> Filter:
        """The same rules as a hard filter, without the rules that ``softened`` added."""
        added = {name for name in SOFT_CONFIDENCES if name not in (self.required or ())} if self.soft else set()
        kept = {name: None if name in added else value for name, value in self.thresholds.items()}
        return Filter(kept, self.torso_mode, False, self.required)

    # --- evaluating --------------------------------------------------------------------------------------------------------

    def skipped(self, rows: Columns) -> dict[str, str]:
        """Rules that are on but lack a column: name -> the first missing column. InputError where a required rule does."""
        if len(rows["status"]) == 0:
            return {}
        without = {r.name: r.missing(rows) for r, _ in self._on()}
        for name, columns in without.items():
            if columns and (name in (self.required or ()) or name == ALWAYS):
                raise InputError(f"{name}: expected a store with {columns[0]!r} for this rule, got one without")
        return {name: columns[0] for name, columns in without.items() if columns}

    def failures(self, rows: Columns) -> dict[str, NDArray[np.bool_]]:
        """The rows that each rule rejects on its own account: name -> (n,) bool; rules that are off or skipped have no entry.

        A soft filter's rule rejects the rows of confidence 0. Raises InputError where a required score is missing.
        """
        judged = self._judged(rows)
        if self.soft:
            return {r.name: r.confidence(values, t) == 0 for r, t, values in judged}
        return {r.name: ~r.passes(values, t) for r, t, values in judged}

    def reasons(self, rows: Columns) -> NDArray[np.str_]:
        """Why each row is rejected, (n,) str: its status where that is not "complete", else the first of RULES that rejects
        it; "" for rows that are kept."""
        status = np.asarray(rows["status"])
        reason = np.where(status == COMPLETE, "", status).astype(object)
        for name, failed in self.failures(rows).items():
            reason[failed & (reason == "")] = name
        return reason.astype(np.str_)

    def passed(self, rows: Columns) -> NDArray[np.bool_]:
        """Which rows are kept, (n,) bool: complete ones that no rule rejects."""
        used = np.asarray(rows["status"]) == COMPLETE
        for failed in self.failures(rows).values():
            used &= ~failed
        return np.asarray(used, np.bool_)

    def weights(self, rows: Columns) -> NDArray[np.uint8]:
        """Soft filtering: the integer weight of each row, (n,) uint8, 0 .. 255.

        255 times the product of the rules' confidences (``Rule.confidence``), rounded half up, and at least 1 where all of them
        are above 0; 0 (not used) where one is 0 or the image is not complete. Integers keep the sums of votes exact. Only
        ratios of weights matter: in phi (Eq. 6) a common factor cancels.
        """
        complete = np.asarray(rows["status"]) == COMPLETE
        product, used = np.ones(len(complete)), complete.copy()
        for r, t, values in self._judged(rows):
            confidence = r.confidence(values, t)
            product *= confidence
            used &= confidence > 0
        return np.where(used, np.maximum(np.floor(MAX_WEIGHT * product + 0.5), 1), 0).astype(np.uint8)

    def _on(self) -> Iterable[tuple[Rule, float]]:
        return [(RULES[name], value) for name, value in self.thresholds.items() if value is not None]

    def _judged(self, rows: Columns) -> list[tuple[Rule, float, NDArray[np.float32]]]:
        """Rule, threshold and the score of each row, (n,) float32, for the rules that are on and not skipped."""
        skipped, empty = self.skipped(rows), len(rows["status"]) == 0
        nothing = np.zeros(0, np.float32)
        return [(r, t, nothing if empty else r.score(rows, self.torso_mode)) for r, t in self._on() if r.name not in skipped]

    # --- as text and in files ----------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        rules = ", ".join(r.requirement(t, self.torso_mode) for r, t in self._on())
        return f"weighed by {rules}" if self.soft else rules

    def to_json(self) -> dict[str, Any]:
        """As a dictionary for JSON, with every rule by name."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "rules": dict(self.thresholds),
            "torso_mode": self.torso_mode,
            "soft": self.soft,
            "required": sorted(self.required or ()),
        }

    @classmethod
    def from_json(cls, fields: Any, where: str = "filter") -> Filter:
        """The filter from the dictionary of ``to_json``. InputError, which begins with ``where``, for anything else."""
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise InputError(f"{where}: expected a JSON object with format {FORMAT!r}, got {str(fields)[:60]!r}")
        version = fields.get("version")
        if type(version) is not int or version != VERSION:
            raise InputError(f"{where}: expected version {VERSION}, got {version!r}; a newer release may read it")
        known = {"format", "version", "rules", "torso_mode", "soft", "required"}
        if set(fields) - known:
            raise InputError(
                f"{where}: expected fields among {', '.join(sorted(known))}; got {sorted(set(fields) - known)[0]!r}"
            )
        rules, required = fields.get("rules"), fields.get("required", [])
        for name, value, fits, wanted in (
            ("rules", rules, isinstance(rules, dict), "an object, rule to threshold"),
            ("torso_mode", fields.get("torso_mode", "any"), isinstance(fields.get("torso_mode", "any"), str), "a word"),
            ("soft", fields.get("soft", False), isinstance(fields.get("soft", False), bool), "true or false"),
            ("required", required, isinstance(required, list) and all(isinstance(r, str) for r in required), "names of rules"),
        ):
            if not fits:
                raise InputError(f"{where}: {name}: expected {wanted}, got {value!r}")
        try:
            return cls(dict(rules or {}), fields.get("torso_mode", "any"), fields.get("soft", False), frozenset(required))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


FilterSpec = Filter | str | os.PathLike[str]
"""A filter, one of NAMES, or the path of a filter file."""


def read_filter(path: str | os.PathLike[str]) -> Filter:
    """Read a filter from a JSON file. InputError where it is missing or damaged."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a file with a filter, got none")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: expected a filter, got a file of more than {MAX_BYTES} bytes")
    return _parsed(content, str(path))


def _parsed(content: bytes, where: str) -> Filter:
    try:
        fields = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, nested too deep
        raise InputError(f"{where}: expected JSON, got {content[:40]!r} ({error})") from None
    return Filter.from_json(fields, where)


def read_store_filter(path: str | os.PathLike[str]) -> Filter | None:
    """The filter of the store at ``path``, or None where it has none. StoreError where it is damaged."""
    place = place_of("store", path)
    if isinstance(place, StoreUrl):
        try:
            return _parsed((place / FILTER_JSON).read_bytes(), str(place / FILTER_JSON))
        except FileNotFoundError:
            return None
    file = place / FILTER_JSON
    if not os.path.lexists(file):
        return None
    if not is_plain(file, stat.S_ISREG):
        raise StoreError(f"{file}: expected a regular file, got a link or a folder")
    try:
        return read_filter(file)
    except StoreError:
        raise
    except InputError as error:
        raise StoreError(f"{error}; `chorus filter set STORE --reset` writes a new one") from None


def write_store_filter(path: str | os.PathLike[str], chosen: Filter) -> Path:
    """Make ``chosen`` the filter of the store at ``path``, replacing the one it has; returns the file's path.

    Readers see the old filter or the new one, even after a crash. Nothing else in the store changes. StoreError where
    there is no store.
    """
    root = Path(path)
    read_store_json(root)
    file, part = root / FILTER_JSON, root / (FILTER_JSON + PART_SUFFIX)
    text = json.dumps(chosen.to_json(), indent=1) + "\n"
    with exclusive_lock(root / LOCK):
        part.unlink(missing_ok=True)  # left by a writer that died: live ones hold the lock
        write_atomically(file, lambda new: new.write_text(text, encoding="utf-8"), part=part)
    return file


def find_filter(spec: FilterSpec, store: str | os.PathLike[str] | None) -> Filter | None:
    """The filter that ``spec`` stands for, None for no filter.

    spec   "store": the filter of the store at the path ``store``, if it has one; "none"; "paper" or "soft": ``Filter.paper``;
           the path of a filter file; or a Filter

    Raises InputError for anything else.
    """
    if isinstance(spec, Filter):
        return spec
    if not isinstance(spec, (str, os.PathLike)):
        raise InputError(f"filter: expected a Filter, {', '.join(NAMES)} or a path, got a {type(spec).__name__}")
    if spec == "store":
        return None if store is None else read_store_filter(store)
    if spec in ("paper", "soft"):
        return Filter.paper(soft=spec == "soft")
    if spec == "none":
        return None
    if isinstance(spec, str) and not Path(spec).is_file():
        raise InputError(f"filter: expected {', '.join(NAMES)} or the path of a filter file, got {spec!r}")
    return read_filter(spec)


@dataclass(frozen=True)
class Filtered:
    """What a filter kept: ``kept`` of ``images`` complete images; ``skipped`` are the rules whose scores the store lacks."""

    filter: Filter
    images: int
    kept: int
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        without = f", not judged for want of scores: {', '.join(self.skipped)}" if self.skipped else ""
        return f"{self.filter}: {self.kept:,} of {self.images:,} images{without}"

    def to_json(self) -> dict[str, Any]:
        """As a dictionary for JSON: the filter, the numbers, and both as text."""
        return {
            **self.filter.to_json(),
            "images": self.images,
            "kept": self.kept,
            "skipped": list(self.skipped),
            "text": str(self),
        }


def filter_rows(
    store: Store, rows: NDArray[np.int64], spec: FilterSpec = "store"
) -> tuple[NDArray[np.int64], NDArray[np.uint8] | None, Filtered | None]:
    """The rows that a filter keeps, (k,) int64; their weights by a soft filter, (k,) uint8, else None; and a summary.

    rows  (m,) rows of the store, all of them complete

    Raises InputError where a required score is missing, and for a soft filter on a store whose images have weights already.
    """
    chosen = find_filter(spec, store.path)
    if chosen is None:
        return rows, None, None
    skipped = tuple(chosen.skipped(store.rows))
    if not chosen.soft:
        kept = rows[chosen.passed(store.rows)[rows]]
        return kept, None, Filtered(chosen, len(rows), len(kept), skipped)
    if "weight" in store.rows and (store.rows["weight"][rows] != 1).any():
        raise InputError(
            "filter: expected images without weights for a soft filter, got a store with weights in it; "
            "the two are not combined"
        )
    weights = chosen.weights(store.rows)[rows]
    kept = rows[weights > 0]
    return kept, weights[weights > 0], Filtered(chosen, len(rows), len(kept), skipped)
