"""Sums of occupancies that were counted apart, of one selection or of several: shares, growing stores, processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField
from chorus.occupancy import hidden
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.hidden_choice import weigh_hidden
from chorus.ranks import Share
from chorus.store.filters import Filter
from chorus.votes.contacts import regions_digest
from chorus.votes.parts import EPSILON, interaction_regions

COUNTS = ("num_counts", "den_counts", "num_hidden", "den_hidden")
_OF_THE_RUN = ("command", "images", "selected", "share", "shares", "hidden_choice", "hidden_weight", "python", "numpy", "torch")
"""Entries of the provenance that differ between shares of one job."""
_SELECTION = ("prompts", "part", "parts", "regions", "epsilon", "totals", "folds", "filter")
_FILTER = ("format", "version", "rules", "torso_mode", "soft", "required")


def merge(occupancies: Iterable[Occupancy]) -> Occupancy:
    """The exact sum of occupancies of disjoint images, as ``+`` adds them, read one after the other.

    Counts are int32 where they fit. Where hidden votes were weighed by a choice (``hidden_weight="auto"``), the choice is made
    anew from the sum. Entries of the provenance that are shares of one job become one. InputError for no occupancies,
    MismatchError as ``+`` raises it.
    """
    total: Occupancy | None = None
    chosen: bool | None = None
    for occupancy in occupancies:
        if occupancy.num_hidden is not None:
            by_choice = bool(occupancy.provenance) and all("hidden_choice" in entry for entry in occupancy.provenance)
            if chosen not in (None, by_choice):
                raise MismatchError(
                    "cannot add occupancies whose weight of hidden votes was chosen to others, whose weight was asked for"
                )
            chosen = by_choice
            occupancy = unweighed(occupancy) if by_choice else occupancy
        total = occupancy if total is None else total + occupancy
    if total is None:
        raise InputError("occupancies: expected at least one, got none")
    total = dataclasses.replace(narrowed(total), provenance=joined_entries(total.provenance))
    return weigh_hidden(total, hidden.AUTO) if chosen and total.num_hidden is not None else total


def unweighed(occupancy: Occupancy) -> Occupancy:
    """The same counts before the weight of hidden votes was chosen: they weigh 1."""
    entries = [{k: v for k, v in e.items() if k not in ("hidden_choice", "hidden_weight")} for e in occupancy.provenance]
    return dataclasses.replace(occupancy, hidden_weight=1.0, provenance=entries)


def narrowed(occupancy: Occupancy) -> Occupancy:
    """The same counts as int32 where all of them fit."""
    counts = {name: getattr(occupancy, name) for name in COUNTS if getattr(occupancy, name) is not None}
    if max(int(c.max(initial=0)) for c in counts.values()) > np.iinfo(np.int32).max:
        return occupancy
    as_32: dict[str, Any] = {name: c.astype(np.int32, copy=False) for name, c in counts.items()}
    return dataclasses.replace(occupancy, **as_32)


def joined_entries(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries of the provenance, those of one job's shares as one: with their images, and the shares that are there."""
    jobs: list[list[Mapping[str, Any]]] = []
    for entry in entries:
        what = _without(entry, _OF_THE_RUN)
        same = [job for job in jobs if _shares(entry) and _shares(job[0]) and _without(job[0], _OF_THE_RUN) == what]
        if same:
            same[0].append(entry)
        else:
            jobs.append([entry])
    result = []
    for job in jobs:
        joined = _without(job[0], ("share", "shares"))
        joined |= {name: sum(entry[name] for entry in job) for name in ("images", "selected") if name in joined}
        shares = sorted({share for entry in job for share in _shares(entry)}, key=lambda s: (s.of, s.number))
        if missing_of(shares):
            joined["shares"] = [str(share) for share in shares]
        result.append(joined)
    return result


def _without(entry: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {k: v for k, v in entry.items() if k not in names}


def missing_shares(occupancy: Occupancy) -> list[Share]:
    """The shares of jobs that an occupancy has other shares of, but not these."""
    return [share for entry in occupancy.provenance for share in missing_of(_shares(entry))]


def missing_of(shares: Iterable[Share]) -> list[Share]:
    """The shares that are not among these, but of the same work."""
    there = set(shares)
    return [Share(i, n) for n in sorted({s.of for s in there}) for i in range(1, n + 1) if Share(i, n) not in there]


def _shares(entry: Mapping[str, Any]) -> list[Share]:
    texts = [entry["share"]] if "share" in entry else entry.get("shares", [])
    return [Share.parse(text) for text in texts]


def selection_of(occupancy: Occupancy, name: str = "update") -> dict[str, Any]:
    """The selection that an occupancy was counted with, as ``aggregate`` takes it: prompt, part, epsilon, totals, folds and
    filter; and ``parts``, the names of the user's own parts, with ``regions``, the digest of where they are, or None.

    name  what errors call the occupancy

    InputError for an occupancy of several selections, and for one of a release that did not keep them.
    """
    found: list[dict[str, Any]] = []
    for entry in occupancy.provenance:
        if not isinstance(entry, dict) or "prompts" not in entry:
            raise InputError(
                f"{name}: expected an occupancy that says which images it was made from, got one of an old release"
            )
        if entry.get("where"):
            raise InputError(f"{name}: expected an occupancy of images selected by name, got one of a function (where=...)")
        selection = {key: entry.get(key) for key in _SELECTION}
        selection["filter"] = None if not entry.get("filter") else {key: entry["filter"][key] for key in _FILTER}
        if selection not in found:
            found.append(selection)
    if len(found) != 1:
        raise InputError(f"{name}: expected an occupancy of one selection of images, got one of {len(found)}")
    selection = found[0]
    selection["prompt"] = selection.pop("prompts")
    selection["filter"] = "none" if selection["filter"] is None else Filter.from_json(selection["filter"])
    return selection


def check_selection(occupancy: Occupancy, field: CanonicalField, how: Mapping[str, Any], name: str = "update") -> None:
    """MismatchError where an occupancy was counted with another selection of images than the one asked for.

    how   arguments of ``aggregate``, filter resolved       name  what errors call the occupancy
    """
    was = selection_of(occupancy, name)
    for key in ("prompt", "part", "folds"):
        asked = how.get(key)
        asked = [asked] if key == "prompt" and isinstance(asked, str) else asked
        asked = list(asked) if isinstance(asked, tuple) else asked
        if (asked or None) != (was[key] or None):
            raise MismatchError(f"{name}: expected the occupancy's {key}, {was[key]}, got {asked}")
    if was["part"] is not None:
        for key in ("epsilon", "totals"):
            if key in how and how[key] != was[key]:
                raise MismatchError(f"{name}: expected the occupancy's {key}, {was[key]}, got {how[key]}")
        _check_parts(was, field, how, name)
    if how["filter"] != was["filter"]:
        raise MismatchError(f"{name}: expected the occupancy's filter, {was['filter']}; got {how['filter']}")


def _check_parts(was: Mapping[str, Any], field: CanonicalField, how: Mapping[str, Any], name: str) -> None:
    """MismatchError where the parts that a condition names are others than those that an occupancy was made with."""
    parts = how.get("parts")
    regions = None if parts is None else interaction_regions(field.around_body, parts, how.get("epsilon", EPSILON))
    asked = None if regions is None else list(regions.names)
    if asked != was["parts"]:
        shown = [
            "the body's own parts" if names is None else f"the parts {', '.join(names)}" for names in (was["parts"], asked)
        ]
        raise MismatchError(f"{name}: expected {shown[0]}, as the occupancy was made with, got {shown[1]}")
    if regions is not None and was["regions"] not in (None, regions_digest(regions)):
        raise MismatchError(f"{name}: expected the parts that the occupancy was made with, got others of the same names")
