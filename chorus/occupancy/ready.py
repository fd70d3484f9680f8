"""Distributions of simulated worlds in a folder, ready for posing and reconstruction: a start for who has no images yet."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from chorus.body.model import Body, load_body
from chorus.errors import InputError
from chorus.field import CanonicalField
from chorus.files import json_value, write_json
from chorus.names import file_stems
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.clusters import MIN_CHOICE, Cluster, write_clusters
from chorus.simulate.images import WORLDS, write_world
from chorus.simulate.worlds import World
from chorus.store import open_store

LIST = "occupancies.json"
"""The rows that ``write_ready`` returns, in the folder."""
IMAGES = 600
"""Images of each world."""


def write_ready(
    folder: str | os.PathLike[str],
    worlds: Sequence[str] = (),
    num_images: int = IMAGES,
    seed: int = 0,
    *,
    resolution: int = 48,
    body: Body | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Simulate worlds and write a folder of occupancies for each category, as ``chorus aggregate --all`` does for a store.

    worlds      names among ``WORLDS``, by default all     num_images  of each, at least MIN_CHOICE
    body        to simulate and aggregate with, by default the mannequin
    progress    called with the category, and the number of worlds done and of all

    Each world's distribution is that of the recommended estimator: canonicalization and weight of hidden votes are chosen by
    its images. Returns a row a distribution: world, category, prompt, images, canonicalization, largest_phi, file (relative to
    the folder). InputError for unknown worlds and too few images.
    """
    unknown = [name for name in worlds if name not in WORLDS]
    if unknown:
        raise InputError(f"world: expected one of {', '.join(WORLDS)}; got {unknown[0]!r}")
    if num_images < MIN_CHOICE:
        raise InputError(f"num_images: expected at least {MIN_CHOICE}, for which an estimator can be chosen, got {num_images}")
    folder, body = Path(folder), load_body() if body is None else body
    chosen = [WORLDS[name] for name in worlds or WORLDS]
    field = CanonicalField(body, resolution)
    by_category: dict[str, list[World]] = {}
    for world in chosen:
        by_category.setdefault(world.category, []).append(world)
    stems, rows, done = file_stems(list(by_category)), [], 0
    folder.mkdir(parents=True, exist_ok=True)
    for category, members in by_category.items():
        if progress is not None:
            progress(category, done, len(chosen))
        with tempfile.TemporaryDirectory(dir=folder, prefix=".simulated-") as place:
            store = Path(place) / "images.chorus"
            write_world(store, members, num_images * len(members), seed, body)
            found = write_clusters(folder / stems[category], _aggregated(store, members, field))
        done += len(members)
        facts = ({"world": world.name, "category": category} for world in members)
        rows += [{**fact, **row, "file": f"{stems[category]}/{row['file']}"} for fact, row in zip(facts, found, strict=True)]
    write_json(folder / LIST, [*_others(folder, set(by_category)), *rows])
    if progress is not None:
        progress("", done, len(chosen))
    return rows


def _others(folder: Path, categories: set[str]) -> list[dict[str, Any]]:
    """The rows of an earlier list whose files are still there, of categories that were not made now."""
    try:
        listed = json_value((folder / LIST).read_bytes())
        return [row for row in listed if row["category"] not in categories and (folder / row["file"]).is_file()]
    except (OSError, ValueError, TypeError, KeyError):  # none, or no list of ours
        return []


def _aggregated(store: Path, worlds: Sequence[World], field: CanonicalField) -> Iterator[Cluster]:
    opened = open_store(store)
    for world in worlds:
        occupancy = aggregate(opened, field, prompt=world.prompt, canonicalization="auto", hidden_weight="auto")
        yield Cluster(world.prompt, None, occupancy, world.name)
