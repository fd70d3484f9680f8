"""What belongs to an occupancy: stores of its body and category, and the images that are like those it was learned from.

Prompt and body part belong to what a distribution is of: a ball held in the hand is not scored against kicked ones. Folds and
filter only say which images it was learned from; where others are scored or drawn, theirs are chosen anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, MismatchError, check_kind, check_texts
from chorus.field import CanonicalField
from chorus.store import Store, open_store
from chorus.store.filters import Filtered, FilterSpec, filter_rows
from chorus.votes.contacts import store_contacts
from chorus.votes.explain import Explanation, explain
from chorus.votes.parts import EPSILON, interaction_regions
from chorus.votes.selection import PartQuery, Source, matching_prompts

if TYPE_CHECKING:
    from chorus.occupancy.counts import Occupancy
    from chorus.occupancy.distribution import Distribution

ANY = "*"
"""As prompt or part: images of any."""


@dataclass(frozen=True)
class LearnedFrom:
    """The images that an occupancy was learned from, as its provenance has them.

    prompts  names or patterns; None: any prompt          part     condition on the parts touched; None: whatever they touch
    epsilon  metres, radius of the parts' regions         parts    names of parts of the user's own; (): those of Table 4
    folds    None: all                                    known    False for occupancies of releases that did not keep it
    """

    prompts: tuple[str, ...] | None = None
    part: str | None = None
    epsilon: float = EPSILON
    parts: tuple[str, ...] = ()
    folds: tuple[int, ...] | None = None
    known: bool = True


def learned_from(occupancy: Distribution) -> LearnedFrom:
    """What the provenance says of the images; of a sum, the prompts of all its summands, and what they have in common else."""
    entries = occupancy.provenance
    if not entries or not all(isinstance(entry, dict) and "prompts" in entry for entry in entries):
        return LearnedFrom(known=False)
    prompts = [entry["prompts"] for entry in entries]
    conditions = {(e.get("part"), e.get("epsilon", EPSILON), tuple(e.get("parts") or ())) for e in entries}
    folds = {None if entry.get("folds") is None else tuple(entry["folds"]) for entry in entries}
    part, epsilon, parts = conditions.pop() if len(conditions) == 1 else (None, EPSILON, ())
    any_prompt = any(p is None or ANY in p for p in prompts)
    return LearnedFrom(
        None if any_prompt else tuple(dict.fromkeys(name for names in prompts for name in names)),
        part,
        epsilon,
        parts,
        folds.pop() if len(folds) == 1 else None,
    )


def check_store(occupancy: Distribution, store: Store, category: str | None = None) -> None:
    """MismatchError where a store has images of another category or body than the occupancy.

    category  what to take for the occupancy's category; where neither is named, any store will do
    """
    wanted = occupancy.category if category is None else category
    if wanted and store.category and wanted.casefold() != store.category.casefold():
        raise MismatchError(
            f"store: expected images of the occupancy's category {wanted!r}, got {store.category!r} in {store.path}"
        )
    if store.body_hash and store.body_hash != occupancy.body_hash:
        raise MismatchError(
            f"store: expected one made with the occupancy's body {occupancy.body_hash[:12]}, got {store.body_hash[:12]} in "
            f"{store.path}"
        )


@dataclass(frozen=True, eq=False)
class JoinedImages:
    """The complete images of a store that an occupancy is compared with.

    rows      (n,) int64 rows of the store          complete  number of complete images, of which these are some
    prompts   their prompts; None: any              part      condition on the parts that they touch; None: none
    filtered  what the filter kept, or None         why       where prompts and part come from, in words
    """

    rows: NDArray[np.int64]
    complete: int
    prompts: tuple[str, ...] | None
    part: str | None
    filtered: Filtered | None
    why: str

    def __str__(self) -> str:
        """One line: how many images, and of which."""
        which = [] if self.prompts is None else ["prompt " + ", ".join(map(repr, self.prompts))]
        which += [] if self.part is None else [f"part {self.part}"]
        kept = "" if self.filtered is None else f"; filter {self.filtered}"
        return f"{len(self.rows):,} of {self.complete:,} complete images: {' and '.join(which) or 'all'} ({self.why}){kept}"

    def to_json(self) -> dict[str, Any]:
        """As a dictionary for JSON."""
        return {
            "prompts": None if self.prompts is None else list(self.prompts),
            "part": self.part,
            "images": len(self.rows),
            "complete": self.complete,
            "why": self.why,
        }


def join(
    occupancy: Distribution,
    store: Store,
    field: CanonicalField | Callable[[], CanonicalField],
    prompt: str | Sequence[str] | None = None,
    part: str | None = None,
    *,
    category: str | None = None,
    filter: FilterSpec = "none",
    backend: str = "auto",
) -> JoinedImages:
    """The complete images of a store that an occupancy is drawn into or scored on.

    field     the occupancy's, or a function that makes it, called only where a condition on parts has to be computed
    prompt    a prompt, several, or patterns of them; "*" for any; default: the occupancy's own, where the store has prompts
              (a store whose prompts are empty or its category's name, as COCO's, has none)
    part      a condition on the parts that the object touches; "*" for none; default: the occupancy's own
    category, filter, backend  as in ``check_store`` and ``chorus.aggregate``

    Raises MismatchError for a store of another body or category, and one without images of the occupancy's own prompts,
    InputError for a prompt that the store lacks and a part that is none. The selection may be empty.
    """
    check_store(occupancy, store, category)
    prompt = None if prompt is None else check_texts("prompt", prompt)
    if part is not None:
        check_kind("part", part, str)
    own = learned_from(occupancy)
    rows = store.select()
    complete, prompts = len(rows), _prompts(own, store, prompt)
    if prompts is not None:
        rows = store.select(prompt=list(prompts))
    rows, _, filtered = filter_rows(store, rows, filter)
    asked = own.part if part is None else None if part == ANY else part
    if asked is not None:
        if part is None and own.parts:
            raise MismatchError(
                f"part: expected '*' (images whatever they touch) or a condition on the 12 parts of the body, because the "
                f"occupancy's own, {asked!r}, is on parts that were defined for it ({', '.join(own.parts)}); got none"
            )
        canonical = field if isinstance(field, CanonicalField) else field()
        regions = interaction_regions(canonical, None, own.epsilon)
        query = PartQuery.parse(asked, regions.names)
        touches = store_contacts(store, canonical, regions, backend, rows=rows)[rows] if len(rows) else None
        rows = rows if touches is None else rows[query(touches, regions)]
    return JoinedImages(rows, complete, prompts, asked, filtered, _why(own, store, prompt, part))


def own_selection(occupancy: Occupancy, source: Source, selection: Mapping[str, Any]) -> tuple[Source, dict[str, Any]]:
    """A source, opened where it is a path, and the selection of its images; where neither prompt, part nor folds are given, the
    occupancy's own, as far as its provenance has them.

    Raises MismatchError for a store of another body or category, InputError where the occupancy's part is of parts not given.
    """
    if isinstance(source, (str, os.PathLike)):
        source = open_store(Path(source))
    if isinstance(source, Store):
        check_store(occupancy, source)
    own = learned_from(occupancy)
    if {"prompt", "part", "folds"} & selection.keys() or not own.known:
        return source, dict(selection)
    if own.part is not None and own.parts and "parts" not in selection:
        raise InputError(f"selection: expected parts, with {', '.join(own.parts)} as the occupancy was made; got none")
    prompt = None if own.prompts is None else list(own.prompts)
    return source, {"prompt": prompt, "part": own.part, "epsilon": own.epsilon, "folds": own.folds, **selection}


def explain_occupancy(
    occupancy: Occupancy, point: Any, source: Source, field: CanonicalField, selection: Mapping[str, Any]
) -> Explanation:
    """``Occupancy.explain``: the images of a source behind one of its voxels, by default of its own prompts, part and folds.

    Hidden votes are told apart where the occupancy has counts of them, and weigh what they do there; ``phi`` has the view
    weights of the occupancy.
    """
    check_kind("canonical", field, CanonicalField)
    if field.hash != occupancy.field_hash:
        raise MismatchError(f"field: expected the one with hash {occupancy.field_hash[:12]}, got {field.hash[:12]}")
    source, chosen = own_selection(occupancy, source, selection)
    if occupancy.num_hidden is not None:
        chosen.setdefault("hidden_weight", occupancy.hidden_weight)
    chosen["view_weights"] = occupancy.scheme, occupancy.scheme.weights(occupancy.weighting, occupancy.group_totals)
    return explain(point, source, field, **chosen)


def _prompts(own: LearnedFrom, store: Store, asked: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """The store's prompts to take; None for any."""
    if asked is not None:
        wanted = [asked] if isinstance(asked, str) else list(asked)
        found = None if ANY in wanted else matching_prompts(wanted, store.prompts)
        return None if found is None else tuple(found)
    if own.prompts is None or not _has_prompts(store):
        return None
    found = []
    for wanted_prompt in own.prompts:
        try:
            found += matching_prompts(wanted_prompt, store.prompts) or []
        except InputError:
            continue
    if not found:
        raise MismatchError(
            f"prompt: expected images of the occupancy's own, {_listed(own.prompts)} (prompt '*' takes those of any), got "
            f"{_listed(store.prompts)} in {store.path}"
        )
    return tuple(sorted(set(found)))


def _has_prompts(store: Store) -> bool:
    """Whether a store's prompts tell uses of the object apart: those of test sets are empty or just name the category."""
    return any(name and name.casefold() != store.category.casefold() for name in store.prompts)


def _why(own: LearnedFrom, store: Store, prompt: str | Sequence[str] | None, part: str | None) -> str:
    """Where the prompts and the condition on parts come from, in words."""
    if prompt is not None and part is not None:
        return "as asked for"
    if not own.known:
        default = "the occupancy does not say which images it was learned from"
    elif prompt is None and own.prompts is not None and not _has_prompts(store):
        default = "the store has no prompts to choose by"
    else:
        default = "like those that the occupancy was learned from"
    return default if prompt is None and part is None else f"as asked for; else {default}"


def _listed(prompts: Sequence[str]) -> str:
    names = [repr(str(p)) for p in prompts]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
