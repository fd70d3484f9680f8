"""Semantic clusters (3.4): one distribution for each prompt, each touched body part, and each pair with enough images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chorus.canonicalization import AUTO, PER_VOXEL, check_name
from chorus.errors import InputError, check_kind, check_whole
from chorus.field import CanonicalField
from chorus.files import write_json
from chorus.names import file_stems
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.choice import MIN_IMAGES
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.hidden import AUTO as HIDDEN_AUTO
from chorus.occupancy.hidden_choice import weigh_hidden
from chorus.store import Store
from chorus.store.filters import FilterSpec, find_filter
from chorus.votes.parts import EPSILON, interaction_regions

_ANY_PROMPT = "any-prompt"
MIN_CHOICE = 2 * MIN_IMAGES
"""Images of a cluster for which a canonicalization is chosen: so many that both halves have enough, whatever their keys."""


@dataclass(frozen=True)
class Cluster:
    """One distribution: of the images of a prompt whose object touches a body part.

    prompt  None for images of any prompt        part  None for images whatever the object touches
    stem    name of its file, without ending, which no other cluster of the store has
    """

    prompt: str | None
    part: str | None
    occupancy: Occupancy
    stem: str


def clusters(
    store: Store,
    field: CanonicalField,
    min_images: int = 100,
    *,
    parts: Any = None,
    epsilon: float = EPSILON,
    backend: str = "auto",
    scheme: str | None = None,
    hidden_weight: float | str | None = None,
    canonicalization: str | None = None,
    filter: FilterSpec = "store",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Cluster]:
    """The clusters of a store with at least ``min_images`` images: each prompt, each part, each pair of them, and all images.

    Every pair of prompt and part is aggregated; clusters of any prompt are the exact sums over the prompts. With "auto" and
    "per-voxel" each cluster gets a canonicalization of its own, those of any prompt too, which then are aggregated themselves.
    The other arguments are those of ``chorus.aggregate``; a filter file is read once. ``progress`` is called with the number of
    aggregations done and of all. Raises InputError for a ``min_images`` below 1, with "auto" below MIN_CHOICE, and as
    ``chorus.aggregate`` does.
    """
    check_kind("store", store, Store)
    check_whole("min_images", min_images, 1)
    own_fields = canonicalization in (AUTO, PER_VOXEL)
    if canonicalization is not None and not own_fields:
        field = field.with_canonicalization(check_name(canonicalization, also=(AUTO,)))
    if canonicalization == AUTO and min_images < MIN_CHOICE:
        raise InputError(f"min_images: expected at least {MIN_CHOICE} for a choice of canonicalization, got {min_images}")
    chosen = find_filter(filter, store.path) or "none"
    names = interaction_regions(field, parts, epsilon).names
    prompts = list(store.prompts)
    conditions: list[str | None] = [None, *names]
    prompt_stems = file_stems(prompts, taken=[_ANY_PROMPT])
    part_stems = file_stems(names)

    # Sums need one weight of hidden votes; one that is chosen is chosen for each cluster.
    counted_with = 1.0 if hidden_weight == HIDDEN_AUTO else hidden_weight

    def stem(prompt: str | None, part: str | None) -> str:
        of_prompt = _ANY_PROMPT if prompt is None else prompt_stems[prompt]
        return of_prompt if part is None else f"{of_prompt}+{part_stems[part]}"

    def counted(prompt: str | None, part: str | None, canonicalization: str | None = None) -> Occupancy:
        return aggregate(
            store,
            field,
            "azimuth",
            backend,
            None if prompt is None else [prompt],
            None if part is None else repr(part),
            parts=parts,
            epsilon=epsilon,
            scheme=scheme,
            hidden_weight=counted_with,
            canonicalization=canonicalization,
            filter=chosen,
            allow_none=True,
        )

    def finished(prompt: str | None, part: str | None, occupancy: Occupancy) -> Cluster:
        if own_fields:  # known to have enough images now
            occupancy = counted(prompt, part, canonicalization)
        if hidden_weight == HIDDEN_AUTO:
            occupancy = weigh_hidden(occupancy, HIDDEN_AUTO)
        return Cluster(prompt, part, occupancy, stem(prompt, part))

    of_any_prompt: dict[str | None, Occupancy] = {}
    for p, prompt in enumerate(prompts):
        for n, part in enumerate(conditions):
            occupancy = counted(prompt, part)
            of_any_prompt[part] = of_any_prompt[part] + occupancy if part in of_any_prompt else occupancy
            if occupancy.num_images >= min_images:
                yield finished(prompt, part, occupancy)
            if progress is not None:
                progress(p * len(conditions) + n + 1, len(prompts) * len(conditions))
    for part, occupancy in of_any_prompt.items():
        if occupancy.num_images >= min_images:
            yield finished(None, part, occupancy)


def write_clusters(folder: Path, found: Iterator[Cluster]) -> list[dict[str, Any]]:
    """Save clusters in a folder, with ``clusters.json``; returns its rows: prompt, part, images, ..., file."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for cluster in found:
        name = f"{cluster.stem}.h5"
        cluster.occupancy.save(folder / name)
        rows.append(
            {
                "prompt": cluster.prompt,
                "part": cluster.part,
                "images": cluster.occupancy.num_images,
                "canonicalization": cluster.occupancy.parameters.canonicalization,
                "largest_phi": round(float(cluster.occupancy.probability.max()), 4),
                "file": name,
            }
        )
    write_json(folder / "clusters.json", rows)
    return rows
