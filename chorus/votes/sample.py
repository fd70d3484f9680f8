"""A sample of the images that a selection keeps: those of the smallest key hashes, whatever the order or machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.camera.views import key_hash
from chorus.errors import InputError
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.kernels.masks import PackedMasks, words_in_box
from chorus.store import Store, open_store
from chorus.store.filters import filter_rows
from chorus.votes.selection import SelectedImages, Source, matching_prompts


def sample_images(source: Source, field: CanonicalField, count: int, **selection: Any) -> ImageBatch:
    """At most ``count`` of the images that a selection keeps: those whose keys have the smallest hashes, in that order.

    selection  prompt, part, parts, epsilon, folds, where, filter, backend, batch_size, as for ``SelectedImages``

    Raises InputError where nothing is selected and for images that can be read only once, and as ``SelectedImages`` does.
    """
    if isinstance(source, Iterator):
        raise InputError(
            "images_or_store: expected images that can be read twice (an ImageBatch, a list of them, a store), got an iterator"
        )
    if isinstance(source, (str, os.PathLike)):
        source = open_store(source)
    if isinstance(source, Store) and selection.get("part") is None and selection.get("folds") is None:
        selection["where"] = _smallest_rows(source, count, selection)
    images = SelectedImages(source, field, **selection)
    held: ImageBatch | None = None
    for batch, keep in images:
        found = batch[keep]
        if held is None:
            held = _smallest([found], count)
        elif len(found):
            held = _smallest([held, found], count)
    if held is None or not len(held):
        raise InputError(images.why_none())
    return held


def _smallest_rows(store: Store, count: int, selection: dict[str, Any]) -> Any:
    """A predicate for the rows of a store that the sample takes, so that no other image is read."""
    rows = store.select(selection.get("where"), prompt=matching_prompts(selection.get("prompt"), store.prompts))
    rows, _, _ = filter_rows(store, rows, selection.get("filter", "store"))
    chosen = np.zeros(len(store), np.bool_)
    if len(rows):
        chosen[rows[np.argsort(key_hash(store.rows["key"][rows]), kind="stable")[:count]]] = True
    return lambda _: chosen


def _smallest(batches: list[ImageBatch], count: int) -> ImageBatch:
    """The images of the smallest hashes among some batches, with mask words of their own."""
    hashes = np.concatenate([key_hash(batch.keys) for batch in batches])
    chosen = np.argsort(hashes, kind="stable")[:count]
    if len(batches) == 2 and len(chosen) == len(batches[0]) and chosen.max(initial=-1) < len(batches[0]):
        return batches[0]  # nothing new

    def joined(name: str) -> NDArray[Any]:
        of_cameras = name in ("R", "t", "K", "image_size")
        values = [np.asarray(getattr(b.cameras if of_cameras else b, name)) for b in batches]
        found: NDArray[Any] = np.concatenate(values)[chosen]
        return found

    masks = [b.masks for b in batches]
    words = [m.words[s : s + n] for m in masks for s, n in zip(m.start.tolist(), words_in_box(m.box).tolist(), strict=True)]
    size, box = (np.concatenate([getattr(m, name) for m in masks])[chosen] for name in ("size", "box"))
    weights = None
    if any(b.weights is not None for b in batches):
        weights = np.concatenate([np.ones(len(b), np.uint8) if b.weights is None else b.weights for b in batches])[chosen]
    return ImageBatch._of(  # checked before; keys that several batches share are no harm here
        {
            "masks": PackedMasks.join(size, box, [words[i] for i in chosen]),
            "cameras": Cameras(joined("R"), joined("t"), joined("K"), joined("image_size")),
            "poses": joined("poses"),
            "keys": joined("keys"),
            "weights": weights,
            "prompts": None,
        }
    )
