"""Images or a store in, an Occupancy out (Eq. 6): the main job."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import chorus
from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.kernels.arrays import MAX_TOTAL_WEIGHT, VoteImages, empty_counts
from chorus.kernels.backends import vote_backend
from chorus.occupancy import SKETCH_SIZE, Occupancy
from chorus.store import Store, open_store
from chorus.views import Scheme, key_hash

Source = ImageBatch | Store | str | os.PathLike[str] | Iterable[ImageBatch]


def aggregate(
    images_or_store: Source,
    field: CanonicalField,
    weighting: str = "azimuth",
    backend: str = "auto",
    prompt: str | list[str] | None = None,
    *,
    scheme: str | None = None,
    where: Callable[[Any], NDArray[np.bool_]] | None = None,
    batch_size: int = 4096,
    progress: Callable[[int, int | None], None] | None = None,
) -> Occupancy:
    """Cast the votes of images through a field and count them by group; memory does not grow with the number of images.

    images_or_store  ImageBatch, an iterable of them, a Store, or the path of one
    weighting        view weighting of the result: "azimuth" (A.6), "azimuth-elevation", "none"; changed later for free
    backend          "auto", "numba", "reference"
    prompt           only images made from this prompt, or one of these
    scheme           how to group (see chorus.views.Scheme); default: the coarsest that the weighting needs
    where            for a store: a predicate over its rows (columns in, (rows,) bool out), e.g.
                     ``lambda rows: rows["score/overlap"] >= 0.1``
    progress         called with images done and, where known, images in all

    Raises InputError for a selection without images and arguments that do not fit, MismatchError for a store made with another
    body.
    """
    name, count_votes = vote_backend(backend)
    scheme_ = Scheme(scheme or ("azimuth-elevation" if weighting == "azimuth-elevation" else "azimuth"))
    G, N = scheme_.num_groups, field.resolution
    scheme_.weights(weighting, np.zeros(G, np.int64))  # refuse a bad weighting before the work, not after it
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise InputError(f"batch_size: expected a positive integer, got {batch_size!r}")
    batches, total, source, category = _batches(images_or_store, field, prompt, where, batch_size)

    counts = empty_counts(field.arrays, G, "cpu")
    settled: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    totals, num_images, in_counts, done = np.zeros(G, np.int64), np.zeros(G, np.int64), 0, 0
    sketch = np.zeros(0, np.uint64)
    for batch in batches:
        if batch.poses.shape[1] != field.body.num_joints:
            raise MismatchError(
                f"poses: the field's body has {field.body.num_joints} joints, the images' poses {batch.poses.shape[1]}"
            )
        group = scheme_.groups(batch.cameras, batch.keys)
        weight = None if batch.weights is None else torch.from_numpy(np.ascontiguousarray(batch.weights))
        amount = len(batch) if weight is None else int(weight.sum(dtype=torch.int64))
        if in_counts + amount > MAX_TOTAL_WEIGHT:  # 32 bits may be full: move them over to 64
            settled = _settle(settled, counts)
            in_counts = 0
        count_votes(field.arrays, vote_images(batch), torch.from_numpy(group), weight, num_groups=G, out=counts)
        in_counts += amount
        num_images += np.bincount(group, minlength=G)
        totals += np.bincount(group, batch.weights, minlength=G).astype(np.int64)
        sketch = np.unique(np.concatenate([sketch, key_hash(batch.keys)]))[:SKETCH_SIZE]
        done += len(batch)
        if progress is not None:
            progress(done, total)
    if done == 0:
        raise InputError("no image to aggregate: the source is empty")
    num: NDArray[Any]
    den: NDArray[Any]
    num, den = (c.numpy() for c in counts) if settled is None else _settle(settled, counts)
    return Occupancy(
        num_counts=num.reshape(G, N, N, N),
        den_counts=den.reshape(G, N, N, N),
        group_totals=totals,
        group_images=num_images,
        scheme=scheme_,
        weighting=weighting,
        parameters=field.parameters,
        body_hash=field.body.hash,
        category=category,
        sketch=sketch,
        provenance=[{**provenance(), "source": source, "images": done, "backend": name, "body": field.body.name}],
    )


def vote_images(batch: ImageBatch) -> VoteImages:
    """A batch as the kernels take it; nothing is copied but what is not contiguous."""
    masks, cameras = batch.masks, batch.cameras
    return VoteImages(
        poses=_tensor(batch.poses),
        R=_tensor(cameras.R),
        t=_tensor(cameras.t),
        K=_tensor(cameras.K),
        size=_tensor(masks.size),
        box=_tensor(masks.box),
        start=_tensor(masks.start),
        words=_tensor(masks.words.view(np.int32)),
    )


def provenance() -> dict[str, Any]:
    """Versions and command line, for what the project writes."""
    return {
        "chorus": chorus.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "command": sys.argv,
    }


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    with warnings.catch_warnings():
        # Arrays mapped from a store are read-only, which torch cannot express; the kernels only read them.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(np.ascontiguousarray(array))


def _settle(
    settled: tuple[NDArray[np.int64], NDArray[np.int64]] | None, counts: tuple[torch.Tensor, torch.Tensor]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Move 32-bit counts over to 64 bits and clear them."""
    num, den = (c.numpy().astype(np.int64) for c in counts)
    for c in counts:
        c.zero_()
    return (num, den) if settled is None else (settled[0] + num, settled[1] + den)


def _batches(
    source: Source, field: CanonicalField, prompt: str | list[str] | None, where: Any, batch_size: int
) -> tuple[Iterator[ImageBatch], int | None, str, str]:
    """Batches of the images selected, how many if known, what they are called, and their category."""
    if isinstance(source, (str, os.PathLike)):
        source = open_store(Path(source))
    if isinstance(source, Store):
        if source.body_hash and source.body_hash != field.body.hash:
            raise MismatchError(
                f"the store was made with body {source.body_hash[:12]}, the field with "
                f"{field.body.name} {field.body.hash[:12]}"
            )
        rows = source.select(where, prompt=prompt)
        if len(rows) == 0:
            raise InputError(
                f"no image of the store is selected: it has {len(source)} rows, prompts: {_shown(source.prompts)}"
            )
        return source.batches(rows, size=batch_size), len(rows), source.id, source.category
    if where is not None:
        raise InputError("where: a predicate over rows needs a store; select from an ImageBatch by indexing it")
    if isinstance(source, ImageBatch):
        known: int | None = len(source) if prompt is None else None
        source = [source]
    elif isinstance(source, Iterable):
        known = None
    else:
        raise InputError(
            "images_or_store: expected an ImageBatch, an iterable of them, a Store or the path of one, "
            f"got a {type(source).__name__}"
        )
    return _pieces(source, prompt, batch_size), known, "memory", ""


def _pieces(batches: Iterable[ImageBatch], prompt: str | list[str] | None, batch_size: int) -> Iterator[ImageBatch]:
    wanted = None if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
    for batch in batches:
        if not isinstance(batch, ImageBatch):
            raise InputError(f"images_or_store: expected ImageBatches, got a {type(batch).__name__} among them")
        if wanted is not None:
            if batch.prompts is None:
                raise InputError("prompt: these images carry no prompts")
            batch = batch[np.isin(batch.prompts, wanted)]
        for first in range(0, len(batch), batch_size):
            yield batch[first : first + batch_size]


def _shown(prompts: Any) -> str:
    names = [repr(str(p)) for p in prompts]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
