"""Images or a store in, an Occupancy out (Eq. 6): the main job."""

from __future__ import annotations

import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import chorus
from chorus.camera.views import Scheme, key_hash
from chorus.errors import InputError
from chorus.field import CanonicalField
from chorus.images import ImageBatch, vote_images
from chorus.kernels.arrays import MAX_TOTAL_WEIGHT, empty_counts
from chorus.kernels.backends import Backend, choose_backend
from chorus.occupancy.counts import SKETCH_SIZE, Occupancy
from chorus.store.filters.filtering import FilterSpec
from chorus.votes.parts import EPSILON
from chorus.votes.prefetch import IMAGES, Feed, Timings, feeds
from chorus.votes.selection import SelectedImages, Source

CPU_IMAGES = 4096
"""Images that a CPU is given at a time."""


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
) -> Occupancy:
    """Cast the votes of images through a field and count them by group; memory does not grow with the number of images.

    images_or_store  ImageBatch, an iterable of them, a Store, or the path of one
    weighting        view weighting of the result: "azimuth" (A.6), "azimuth-elevation", "none"; changed later for free
    backend          "auto" (triton on an NVIDIA GPU, else numba), "triton", "numba", "reference"
    prompt           only images made from this prompt, or one of these, or of those that match a pattern with * and ?
    part             only images whose object touches these body parts (Eq. 13), such as "rightHand and not leftHand"; a store
                     keeps what touches what beside it, so that a second question is answered at once
    parts, epsilon   the parts and the radius of their regions, as in ``chorus.votes.parts.interaction_regions``
    totals           which images the view weights count: those "before" the condition on parts (A.6), or "after" it
    folds            only images of these folds, 0 .. 9 by a hash of their key
    scheme           how to group (see chorus.camera.views.Scheme); default: the coarsest that the weighting needs
    where            for a store: a predicate over its rows (columns in, (rows,) bool out), e.g.
                     ``lambda rows: rows["score/overlap"] >= 0.1``
    filter           for a store: "store" its own filter (``chorus filter``), where it has one; "none"; "paper", the rules of
                     A.3; "soft", these as weights; a ``chorus.store.filters.filtering.Filter``; or the path of a file with one.
                     Images must pass ``where`` as well.
    batch_size       images at a time; default: 4,096 on a CPU, 65,536 on a GPU
    progress         called with images done and, where known, images in all
    timings          gains the seconds that the stages took
    allow_none       an occupancy without images where the selection has none, instead of InputError

    Raises InputError for a selection without images and arguments that do not fit, MismatchError for a store made with another
    body, BackendUnavailableError (a ValueError) for a backend that cannot run here.
    """
    chosen = choose_backend(backend)
    scheme_ = Scheme(scheme or ("azimuth-elevation" if weighting == "azimuth-elevation" else "azimuth"))
    G, N = scheme_.num_groups, field.resolution
    if totals not in ("before", "after"):
        raise InputError(f"totals: expected 'before' or 'after', got {totals!r}")
    scheme_.weights(weighting, np.zeros(G, np.int64))  # refuse a bad weighting before the work, not after it
    if batch_size is None:
        batch_size = CPU_IMAGES if chosen.device.type == "cpu" else IMAGES
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise InputError(f"batch_size: expected a positive integer, got {batch_size!r}")
    images = SelectedImages(
        images_or_store,
        field,
        prompt,
        part,
        parts=parts,
        epsilon=epsilon,
        folds=folds,
        where=where,
        filter=filter,
        backend=backend,
        batch_size=batch_size,
    )

    counts = empty_counts(field.arrays, G, chosen.device)
    settled: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    group_totals, num_images, in_counts = np.zeros(G, np.int64), np.zeros(G, np.int64), 0
    before, sketch = np.zeros(G, np.int64), np.zeros(0, np.uint64)

    def grouped() -> Iterator[tuple[ImageBatch, NDArray[np.int64]]]:
        for batch, keep in images:
            group = scheme_.groups(batch.cameras, batch.keys)
            before[:] += _tally(group, batch.weights, G)
            yield (batch, group) if keep.all() else (batch[keep], group[keep])

    for feed in _feeds(grouped(), chosen, batch_size, timings):
        amount = len(feed) if feed.weight is None else int(feed.weight.sum(dtype=torch.int64))
        if in_counts + amount > MAX_TOTAL_WEIGHT:  # 32 bits may be full: move them over to 64
            settled = _settle(settled, counts)
            in_counts = 0
        chosen.count_votes(field.arrays, feed.images, feed.group, feed.weight, num_groups=G, out=counts)
        in_counts += amount
        for batch, group in zip(feed.batches, feed.groups, strict=True):
            num_images += np.bincount(group, minlength=G)
            group_totals += _tally(group, batch.weights, G)
            sketch = np.unique(np.concatenate([sketch, key_hash(batch.keys)]))[:SKETCH_SIZE]
        if progress is not None:
            progress(images.read, images.total)
    done = int(num_images.sum())
    if done == 0 and not allow_none:
        raise InputError(images.why_none())
    num: NDArray[Any]
    den: NDArray[Any]
    num, den = (c.cpu().numpy() for c in counts) if settled is None else _settle(settled, counts)
    return Occupancy(
        num_counts=num.reshape(G, N, N, N),
        den_counts=den.reshape(G, N, N, N),
        group_totals=before if totals == "before" else group_totals,
        group_images=num_images,
        scheme=scheme_,
        weighting=weighting,
        parameters=field.parameters,
        body_hash=field.body.hash,
        category=images.category,
        sketch=sketch,
        provenance=[
            {
                **provenance(),
                "source": images.source_id,
                "images": done,
                "backend": chosen.name,
                "body": field.body.name,
                **({} if part is None else {"part": part, "epsilon": epsilon, "totals": totals, "selected": images.read}),
                **({} if images.filtered is None else {"filter": images.filtered.to_json()}),
            }
        ],
    )


def _tally(group: NDArray[np.int64], weights: NDArray[np.uint8] | None, num_groups: int) -> NDArray[np.int64]:
    """Sum of weights by group, (G,) int64."""
    return np.bincount(group, weights, minlength=num_groups).astype(np.int64)


def _feeds(
    batches: Iterator[tuple[ImageBatch, NDArray[np.int64]]], backend: Backend, size: int, timings: Timings | None
) -> Iterator[Feed]:
    """Images with their groups: batch by batch as they lie for a CPU; joined in pinned memory, ahead, for a GPU."""
    if backend.device.type == "cpu":
        for batch, group in batches:
            weight = None if batch.weights is None else torch.from_numpy(np.ascontiguousarray(batch.weights))
            yield Feed(vote_images(batch), torch.from_numpy(group), weight, [batch], [group])
        return
    timings = timings if timings is not None else Timings()
    under_way: deque[tuple[torch.cuda.Event, Feed]] = deque()
    for feed in feeds(batches, pin=True, device=backend.device, size=size, timings=timings):
        yield feed
        cast = torch.cuda.Event()  # type: ignore[no-untyped-call]
        cast.record(torch.cuda.current_stream(backend.device))
        under_way.append((cast, feed))
        if len(under_way) > 1:  # one feed is cast while the next is copied; more would only fill the memory
            began = time.perf_counter()
            under_way.popleft()[0].synchronize()
            timings.gpu += time.perf_counter() - began


def provenance() -> dict[str, Any]:
    """Versions and command line, for what the project writes."""
    return {
        "chorus": chorus.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "command": sys.argv,
    }


def _settle(
    settled: tuple[NDArray[np.int64], NDArray[np.int64]] | None, counts: tuple[torch.Tensor, torch.Tensor]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Move 32-bit counts over to 64 bits and clear them."""
    num, den = (c.cpu().numpy().astype(np.int64) for c in counts)
    for c in counts:
        c.zero_()
    return (num, den) if settled is None else (settled[0] + num, settled[1] + den)
