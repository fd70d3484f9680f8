"""Occupancies for a grid of conditions: each prompt with each condition on the body parts touched (3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chorus.errors import InputError, check_whole
from chorus.field import CanonicalField
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.joins import ANY
from chorus.store import Store
from chorus.store.filters import FilterSpec, filter_rows
from chorus.votes.contacts import store_contacts
from chorus.votes.parts import interaction_regions
from chorus.votes.selection import PartQuery, matching_prompts

COMMONEST = 3
"""Parts of the grid where none are asked for: those that most images touch."""


@dataclass(frozen=True)
class ConditionGrid:
    """What a grid of conditions gives.

    prompts, parts  names of rows and columns, "*" for any
    cells           for each row and column the occupancy, None where images are too few, and how many these are
    """

    prompts: tuple[str, ...]
    parts: tuple[str, ...]
    cells: tuple[tuple[tuple[Occupancy | None, int], ...], ...]


def condition_grid(
    store: Store,
    field: CanonicalField,
    prompts: Sequence[str] = (),
    parts: Sequence[str] = (),
    min_images: int = 20,
    *,
    canonicalization: str | None = None,
    filter: FilterSpec = "store",
    backend: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> ConditionGrid:
    """The occupancies of prompts x conditions on parts; None where fewer than ``min_images`` images fulfil both.

    prompts  names or patterns, "*" for any; none given: all of the store, and any where there are several
    parts    conditions on parts, "*" for none; none given: that, and the COMMONEST parts that images touch

    The other arguments are those of ``chorus.aggregate``. Raises InputError where no cell has enough images, and as
    ``chorus.aggregate`` does.
    """
    check_whole("min_images", min_images, 1)
    rows, _, _ = filter_rows(store, store.select(), filter)
    if not len(rows):
        raise InputError("store: expected complete images that the filter keeps, got none")
    regions = interaction_regions(field.around_body, None)
    touched = store_contacts(store, field, regions, backend, rows=rows)[rows]
    if not prompts:
        prompts = (*store.prompts, ANY) if len(store.prompts) > 1 else tuple(store.prompts)
    if not parts:
        often = sorted(regions.names, key=lambda name: -int(regions.has(touched, name).sum()))
        parts = (ANY, *(name for name in often[:COMMONEST] if regions.has(touched, name).sum() >= min_images))
    queries = [None if part == ANY else PartQuery.parse(part, regions.names) for part in parts]
    known = store.rows["prompt"][rows]
    cells: list[tuple[tuple[Occupancy | None, int], ...]] = []
    for prompt in prompts:
        names = None if prompt == ANY else matching_prompts([prompt], store.prompts)
        of_prompt = np.ones(len(rows), bool) if names is None else np.isin(known, names)
        line: list[tuple[Occupancy | None, int]] = []
        for part, query in zip(parts, queries, strict=True):
            fulfil = of_prompt if query is None else of_prompt & query(touched, regions)
            number, occupancy = int(fulfil.sum()), None
            if number >= min_images:
                how: dict[str, Any] = {"prompt": names, "part": None if query is None else part, "filter": filter}
                occupancy = aggregate(store, field, backend=backend, canonicalization=canonicalization, **how)
                number = occupancy.num_images
            line.append((occupancy, number))
            if progress is not None:
                progress(len(cells) * len(parts) + len(line), len(prompts) * len(parts))
        cells.append(tuple(line))
    if not any(occupancy for line in cells for occupancy, _ in line):
        raise InputError(
            f"min_images: expected at most {max(n for line in cells for _, n in line)}, as many as a cell has, got {min_images}"
        )
    return ConditionGrid(tuple(prompts), tuple(parts), tuple(cells))
