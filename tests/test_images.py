"""A batch of images: selections and other weights share its arrays and leave it as it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from chorus.camera.cameras import Cameras
from chorus.errors import InputError
from chorus.images import ImageBatch


@pytest.fixture
def batch() -> ImageBatch:
    n = 5
    K = np.tile([[100.0, 0, 8], [0, 100, 6], [0, 0, 1]], (n, 1, 1))
    cameras = Cameras(np.tile(np.eye(3), (n, 1, 1)), np.tile([0, 0, 3.0], (n, 1)), K, np.tile([12, 16], (n, 1)))
    masks = np.random.default_rng(0).random((n, 12, 16)) < 0.5
    return ImageBatch(masks, cameras, np.zeros((n, 4, 3)), weights=np.arange(n, dtype=np.uint8), prompts=list("abcab"))


def test_other_weights_leave_the_batch_as_it_is(batch: ImageBatch) -> None:
    other = batch.with_weights(np.full(5, 7, np.uint8))
    assert batch.weights is not None
    assert batch.weights.tolist() == [0, 1, 2, 3, 4]
    assert other.weights is not None
    assert other.weights.tolist() == [7] * 5
    for field in dataclasses.fields(ImageBatch):
        if field.name != "weights":
            assert getattr(other, field.name) is getattr(batch, field.name)
    assert batch.with_weights(None).weights is None
    assert other[1:3].with_weights(np.array([1, 2], np.uint8)).keys.tolist() == [b"image-1", b"image-2"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        other.weights = None  # type: ignore[misc]


@pytest.mark.parametrize("weights", [np.ones(5), np.ones(4, np.uint8), np.ones((5, 1), np.uint8)])
def test_other_weights_are_checked(batch: ImageBatch, weights: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"weights: expected uint8 of shape \(5,\), got "):
        batch.with_weights(weights)


def test_a_selection_has_the_rows_of_everything(batch: ImageBatch) -> None:
    rows = np.array([4, 0])
    some = batch[rows]
    assert len(some) == 2
    assert some.keys.tolist() == [b"image-4", b"image-0"]
    assert some.weights is not None
    assert some.prompts is not None
    assert some.weights.tolist() == [4, 0]
    assert some.prompts.tolist() == ["b", "a"]
    assert some.masks.words is batch.masks.words
    assert np.array_equal(some.masks.unpack(0), batch.masks.unpack(4))
    assert batch.with_weights(None)[rows].weights is None
