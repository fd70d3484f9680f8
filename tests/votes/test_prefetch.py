"""Prefetching: what is joined is what was in the batches, in order, whatever their sizes; errors come through."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import torch

from chorus.images import ImageBatch, vote_images
from chorus.kernels.reference import votes as reference
from chorus.votes.prefetch import Timings, prefetch
from tests.store.samples import make_batch, random_masks


def groups(batch: ImageBatch) -> np.ndarray:
    return np.arange(len(batch)) % 3


def pairs(
    batches: Iterable[ImageBatch], group: Callable[[ImageBatch], np.ndarray] = groups
) -> Iterator[tuple[ImageBatch, np.ndarray]]:
    return ((batch, group(batch)) for batch in batches)


def test_joined_images_are_the_batches_images() -> None:
    images = make_batch(random_masks(30))
    rng = np.random.default_rng(0)
    # Of one array of words, as in a store: neighbours, a gap, out of order, twice the same.
    mixed, same = images[rng.permutation(30)[:12]], images[np.array([4, 4, 4])]
    batches = [images[0:7], images[9:10], mixed, same, images[0:0], images[20:30]]
    timings = Timings()
    for size in (1, 8, 1000):
        found = list(prefetch(pairs(batches), pin=False, size=size, timings=timings))
        assert sum(len(joined) for joined in found) == 33
        assert all(len(joined) >= size for joined in found[:-1])
        at = 0
        expected = [(b, i) for b in batches for i in range(len(b))]
        for joined in found:
            assert joined.images.words.is_contiguous()
            for row in range(len(joined)):
                batch, i = expected[at]
                one = vote_images(batch)
                for name in ("poses", "R", "t", "K", "size", "box"):
                    assert torch.equal(getattr(joined.images, name)[row], getattr(one, name)[i])
                assert torch.equal(reference.unpack_mask(joined.images, row), reference.unpack_mask(one, i))
                at += 1
            assert torch.equal(joined.group, torch.cat([torch.from_numpy(groups(b)) for b in joined.batches]))
    assert timings.read > 0
    assert timings.copy > 0
    assert "votes waited" in str(timings)


def test_weights_of_some_batches_are_ones_in_the_others() -> None:
    images = make_batch(random_masks(6))
    heavy = ImageBatch(images.masks, images.cameras, images.poses, keys=images.keys, weights=np.full(6, 9, np.uint8))
    (joined,) = prefetch(pairs([images[:2], heavy[2:6]]), pin=False)
    assert joined.weight is not None
    assert joined.weight.tolist() == [1, 1, 9, 9, 9, 9]
    (joined,) = prefetch(pairs([images]), pin=False)
    assert joined.weight is None


def test_what_goes_wrong_in_the_thread_is_raised_here() -> None:
    images = make_batch(random_masks(4))

    def broken() -> Iterator[ImageBatch]:
        yield images
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(prefetch(pairs(broken()), pin=False, size=2))

    def refuse(batch: ImageBatch) -> np.ndarray:
        raise ValueError("not these")

    with pytest.raises(ValueError, match="not these"):
        list(prefetch(pairs([images], refuse), pin=False))


def test_a_consumer_that_leaves_early_leaves_no_thread() -> None:
    images = make_batch(random_masks(4))
    before = threading.active_count()
    drawn = 0

    def endless() -> Iterator[ImageBatch]:
        nonlocal drawn
        while True:
            drawn += 1
            yield images

    found = prefetch(pairs(endless()), pin=False, size=4)
    next(found)
    found.close()
    assert threading.active_count() == before
    assert drawn < 10


def test_masks_without_words() -> None:
    images = make_batch(random_masks(3))
    empty = ImageBatch([np.zeros(tuple(size), bool) for size in images.masks.size], images.cameras, images.poses)
    (joined,) = prefetch(pairs([empty]), pin=False)
    assert joined.images.words.numel() == 0
    assert joined.images.start.eq(0).all()
    assert dataclasses.is_dataclass(joined)
