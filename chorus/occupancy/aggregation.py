"""Aggregation (Eq. 6): from images or a store to an Occupancy."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.camera.views import Scheme, weighs_by_cell
from chorus.errors import InputError
from chorus.field import CanonicalField
from chorus.images import ImageBatch, vote_images
from chorus.kernels.arrays import MAX_TOTAL_WEIGHT, empty_counts
from chorus.kernels.backends import Backend, choose_backend
from chorus.occupancy import hidden
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.derived import derived_field
from chorus.occupancy.hidden_choice import weigh_hidden
from chorus.occupancy.tally import Tally
from chorus.provenance import provenance
from chorus.store.filters import FilterSpec
from chorus.votes.parts import EPSILON
from chorus.votes.portion import Portion
from chorus.votes.prefetch import IMAGES, PrefetchedBatch, Timings, prefetch
from chorus.votes.selection import SelectedImages, Source

CPU_IMAGES = 4096
"""Images in a batch on a CPU, by default."""
Checkpoint = Callable[[Callable[[], Occupancy]], None]
"""What is called between batches, with a function that gives what was counted so far."""


def aggregate(
    images_or_store: Source,
    field: CanonicalField,
    weighting: str = "azimuth",
    backend: str = "auto",
    prompt: str | list[str] | None = None,
    part: str | None = None,
    *,
    parts: Any = None,
    epsilon: float = EPSILON,
    totals: str = "before",
    folds: Sequence[int] | None = None,
    scheme: str | None = None,
    where: Callable[[Any], NDArray[np.bool_]] | None = None,
    filter: FilterSpec = "store",
    batch_size: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    timings: Timings | None = None,
    allow_none: bool = False,
    hidden_weight: float | str | None = None,
    canonicalization: str | None = None,
    portion: Portion | None = None,
    checkpoint: Checkpoint | None = None,
) -> Occupancy:
    """Cast the votes of images through a field and count them by group; memory does not grow with the number of images.

    images_or_store  ImageBatch, an iterable of them, a Store, or the path of one
    weighting        view weighting of the result: "azimuth" (A.6), "azimuth-elevation", either with "-shrunk", "none"; see
                     ``Scheme.weights`` and ``Occupancy.reweight``
    backend          "auto" (triton on an NVIDIA GPU, else numba), "triton", "numba", "reference"
    prompt           only images made from this prompt, one of several prompts, or those that a pattern with * and ? matches
    part             only images whose object touches these body parts (Eq. 13), such as "rightHand and not leftHand". The
                     contacts of a store's images are cached beside it, so that they are computed once
    parts, epsilon   the parts and the radius of their regions, as in ``chorus.votes.parts.interaction_regions``
    totals           which images the view weights are computed from: those "before" the condition on parts (A.6), or "after" it
    folds            only images of these folds, 0 .. 9 by a hash of their key
    scheme           how images are grouped (``chorus.camera.views.Scheme``); default: the coarsest that the weighting needs
    where            for a store: a predicate over its rows (columns in, (rows,) bool out), e.g.
                     ``lambda rows: rows["score/overlap"] >= 0.1``
    filter           for a store: "store" the store's filter (``chorus filter``), if it has one; "none"; "paper", the rules of
                     A.3; "soft", the same as weights; a ``chorus.store.filters.Filter``; or the path of a file with one.
                     Images must pass ``where`` as well.
    batch_size       images in a batch; default: 4,096 on a CPU, 65,536 on a GPU
    progress         called with the images read so far and, where it is known, the number of all
    timings          gains the seconds that each stage took; on a GPU only
    hidden_weight    what votes weigh that the body hides, 0 to 1: 0.1 is good where masks show what is seen of the object
                     (``chorus.occupancy.hidden``); "auto": 0.1 or 1, as the masks turn out to be
                     (``chorus.occupancy.hidden_choice``). They are counted apart: ``Occupancy.reweight`` can change it
                     afterwards. None: they are not told apart
    allow_none       whether a selection without images gives an empty occupancy instead of an InputError
    canonicalization cast the votes through the field of this canonicalization on the same grid instead
                     (``chorus.canonicalization.NAMES``); "auto" takes the one that foretells held-out images of the selection
                     best (``chorus.occupancy.choice``) and "per-voxel" makes its map from the selection: the images are then
                     read more than once. None: ``field`` as it is. What was chosen, and why, is in the provenance
    portion          for a store: which of the images selected are counted; choices are made from the whole selection
    checkpoint       called between batches, with a function that gives what was counted so far; it waits until all that was
                     read has been checked, and raises StoreError for damage. Hidden votes weigh 1 in it

    Raises InputError for a selection without images and arguments that cannot be used, MismatchError for a store made with
    another body, BackendUnavailableError (a ValueError) for a backend that cannot run here.
    """
    chosen = choose_backend(backend)
    grouping = scheme_for(scheme, weighting)
    batch_size = _batch_size(batch_size, chosen)
    selection: dict[str, Any] = {"prompt": prompt, "part": part, "parts": parts, "epsilon": epsilon, "folds": folds}
    selection |= {"where": where, "filter": filter, "backend": backend, "batch_size": batch_size}
    hidden_weight = _checked_hidden_weight(hidden_weight, chosen)
    field, derived = derived_field(images_or_store, field, canonicalization, **selection)
    images = SelectedImages(images_or_store, field, **selection, portion=portion)
    votes = _VoteCounts(field, chosen, grouping.num_groups, hidden_weight is not None)
    tally = Tally(images.store, grouping.num_groups, totals)
    how = {} if part is None else {"part": part, "epsilon": epsilon, "totals": totals}
    how |= derived if portion is None else {**derived, **portion.to_json()}

    def so_far() -> Occupancy:
        images.check_read()
        return Occupancy(
            **votes.as_facts(),
            **tally.as_facts(),
            scheme=grouping,
            weighting=weighting,
            parameters=field.parameters,
            body_hash=field.body.hash,
            category=images.category,
            hidden_rule="" if hidden_weight is None else hidden.RULE,
            provenance=[_made_by(images, tally, chosen, field, how)],
        )

    for batch in _prefetched(_grouped(images, grouping, tally), chosen, batch_size, timings):
        votes.cast(batch)
        tally.cast(batch)
        if progress is not None:
            progress(images.read, images.total)
        if checkpoint is not None:
            checkpoint(so_far)
    if tally.num_voted == 0 and not allow_none:
        raise InputError(images.why_none())
    occupancy = so_far()
    return occupancy if hidden_weight is None else weigh_hidden(occupancy, hidden_weight)


def _made_by(
    images: SelectedImages, tally: Tally, backend: Backend, field: CanonicalField, how: dict[str, Any]
) -> dict[str, Any]:
    """The provenance of counts: versions, what voted, by which backend, through which body's field, and ``how``."""
    return {
        **provenance(),
        "source": images.source_id,
        "images": tally.num_voted,
        **({"selected": tally.num_selected} if "part" in how else {}),
        "backend": backend.name,
        "body": field.body.name,
        **images.asked,
        **how,
        **({} if images.filtered is None else {"filter": images.filtered.to_json()}),
    }


def _checked_hidden_weight(weight: float | str | None, backend: Backend) -> float | str | None:
    """The weight of hidden votes; InputError for one that is none, and for a backend that cannot tell them."""
    if weight is None:
        return None
    hidden.check_backend(backend)
    return hidden.AUTO if weight == hidden.AUTO else hidden.checked_weight(weight)


def scheme_for(scheme: str | None, weighting: str) -> Scheme:
    """The scheme asked for, or the coarsest that the weighting needs; InputError where the two do not fit together."""
    needed = "azimuth-elevation" if isinstance(weighting, str) and weighs_by_cell(weighting) else "azimuth"
    grouping = Scheme(needed if scheme is None else scheme)
    grouping.weights(weighting, np.zeros(grouping.num_groups, np.int64))
    return grouping


def _batch_size(asked: int | None, backend: Backend) -> int:
    if asked is None:
        return CPU_IMAGES if backend.device.type == "cpu" else IMAGES
    if isinstance(asked, bool) or not isinstance(asked, (int, np.integer)) or asked < 1:
        raise InputError(f"batch_size: expected a positive integer, got {asked!r}")
    return int(asked)


class _VoteCounts:
    """Votes by group and voxel. Kernels count in int32; before these could overflow, their counts are added to int64 sums."""

    def __init__(self, field: CanonicalField, backend: Backend, num_groups: int, with_hidden: bool) -> None:
        self._field, self._backend, self._num_groups, self._with_hidden = field, backend, num_groups, with_hidden
        self._counts = empty_counts(field.arrays, num_groups, backend.device, hidden=with_hidden)
        self._weight_in_counts = 0
        self._moved: tuple[NDArray[np.int64], ...] | None = None

    def cast(self, batch: PrefetchedBatch) -> None:
        """Add the votes of a batch."""
        amount = len(batch) if batch.weight is None else int(batch.weight.sum(dtype=torch.int64))
        if self._weight_in_counts + amount > MAX_TOTAL_WEIGHT:  # int32 could overflow
            self._moved = self._moved_to_64_bits()
            self._weight_in_counts = 0
        how: dict[str, Any] = {"num_groups": self._num_groups, "out": self._counts}
        if self._with_hidden:
            how["depth"] = hidden.depth_of(self._field, batch, self._backend.device)
        self._backend.count_votes(self._field.arrays, batch.images, batch.group, batch.weight, **how)
        self._weight_in_counts += amount

    def result(self) -> tuple[NDArray[Any], ...]:
        """Numerators and denominators of phi (Eq. 6) by group, (G, N, N, N) int32, or int64 where 32 bits were not enough.

        Then their hidden parts, where these are counted.
        """
        if self._moved is not None:
            self._moved, self._weight_in_counts = self._moved_to_64_bits(), 0
        found = tuple(c.cpu().numpy() for c in self._counts) if self._moved is None else self._moved
        N = self._field.resolution
        return tuple(counts.reshape(-1, N, N, N) for counts in found)

    def as_facts(self) -> dict[str, Any]:
        """``result`` by the names that ``Occupancy`` has for them."""
        return dict(zip(("num_counts", "den_counts", "num_hidden", "den_hidden"), self.result(), strict=False))

    def _moved_to_64_bits(self) -> tuple[NDArray[np.int64], ...]:
        """The int64 sums with the int32 counts added, which are then cleared."""
        added = tuple(c.cpu().numpy().astype(np.int64) for c in self._counts)
        for c in self._counts:
            c.zero_()
        return added if self._moved is None else tuple(sum_ + c for sum_, c in zip(self._moved, added, strict=True))


def _grouped(images: SelectedImages, grouping: Scheme, tally: Tally) -> Iterator[tuple[ImageBatch, NDArray[np.int64]]]:
    """The images that vote, with their groups; ``tally`` hears of all those before the condition on body parts."""
    for batch, keep, rows in images.with_rows():
        group = grouping.groups(batch.cameras, batch.keys)
        tally.read(batch, group, keep, rows)
        yield (batch, group) if keep.all() else (batch[keep], group[keep])


def _prefetched(
    batches: Iterator[tuple[ImageBatch, NDArray[np.int64]]], backend: Backend, size: int, timings: Timings | None
) -> Iterator[PrefetchedBatch]:
    """Images with their groups: batch by batch and not copied for a CPU; joined in pinned memory and prefetched for a GPU."""
    if backend.device.type == "cpu":
        for batch, group in batches:
            weight = None if batch.weights is None else torch.from_numpy(np.ascontiguousarray(batch.weights))
            yield PrefetchedBatch(vote_images(batch), torch.from_numpy(group), weight, [batch], [group])
        return
    timings = timings if timings is not None else Timings()
    in_flight: deque[tuple[torch.cuda.Event, PrefetchedBatch]] = deque()
    for joined in prefetch(batches, pin=True, device=backend.device, size=size, timings=timings):
        yield joined
        votes_counted = torch.cuda.Event()  # type: ignore[no-untyped-call]
        votes_counted.record(torch.cuda.current_stream(backend.device))
        in_flight.append((votes_counted, joined))
        if len(in_flight) > 1:  # one batch is counted while the next is copied; more would only fill the memory
            began = time.perf_counter()
            in_flight.popleft()[0].synchronize()
            timings.gpu += time.perf_counter() - began
