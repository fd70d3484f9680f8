"""The packed mask format: bits where the format says, exact boxes, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from chorus.kernels.arrays import VoteImages
from chorus.kernels.masks import BLOCK, WORDS_PER_BLOCK, PackedMasks, pack_mask, unpack_mask, words_in_box
from chorus.kernels.reference import votes as reference_votes

shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=50)
bools = arrays(np.bool_, shapes, elements=st.booleans(), fill=st.just(False))


def pack_slowly(mask: np.ndarray) -> tuple[list[int], list[int]]:
    """The format word for word: blocks that meet the box, row by row; pixel (u, v) is bit i & 31 of word i >> 5."""
    v, u = np.nonzero(mask)
    if len(u) == 0:
        return [0, 0, 0, 0], []
    box = [u.min(), v.min(), u.max() + 1, v.max() + 1]
    words = []
    for block_row in range(box[1] // 16, (box[3] - 1) // 16 + 1):
        for block_column in range(box[0] // 16, (box[2] - 1) // 16 + 1):
            block = [0] * 8
            for y in range(16):
                for x in range(16):
                    row, column = 16 * block_row + y, 16 * block_column + x
                    if row < mask.shape[0] and column < mask.shape[1] and mask[row, column]:
                        i = 16 * y + x
                        block[i >> 5] |= 1 << (i & 31)
            words += block
    return [int(c) for c in box], words


@settings(deadline=None, derandomize=True, max_examples=150)
@given(bools)
def test_packing_is_the_format(mask: np.ndarray) -> None:
    box, words = pack_mask(mask)
    assert box.dtype == np.int32
    assert words.dtype == np.uint32
    assert (box.tolist(), words.tolist()) == pack_slowly(mask)
    assert words_in_box(box) == len(words)
    assert np.array_equal(unpack_mask(box, words, mask.shape), mask)


def test_one_pixel_by_hand() -> None:
    mask = np.zeros((40, 70), bool)
    mask[37, 53] = True  # block row 2, column 3; v & 15 = 5, u & 15 = 5: i = 85, word 2, bit 21
    box, words = pack_mask(mask)
    assert box.tolist() == [53, 37, 54, 38]
    assert words.tolist() == [0, 0, 1 << 21, 0, 0, 0, 0, 0]


def test_strides_and_views_do_not_matter() -> None:
    mask = np.random.default_rng(0).random((60, 90)) < 0.2
    for view in (mask[::2, ::3], mask.T, mask[::-1], np.asfortranarray(mask)):
        box, words = pack_mask(view)
        assert (box.tolist(), words.tolist()) == pack_slowly(view)


def some_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    sizes = [(1, 1), (33, 47), (64, 64), (16, 200), (20, 5)]
    masks = [rng.random(s) < p for s in sizes for p in (0.0, 0.02, 0.5, 1.0)]
    assert any(not m.any() for m in masks)
    assert any(m.all() for m in masks)
    return masks


def test_many_masks() -> None:
    masks = some_masks()
    packed = PackedMasks.pack(masks)
    assert len(packed) == len(masks)
    assert packed.problem() is None
    assert all(np.array_equal(packed.unpack(i), m) for i, m in enumerate(masks))
    assert packed.size.tolist() == [list(m.shape) for m in masks]
    assert packed.areas().tolist() == [int(m.sum()) for m in masks]
    assert len(packed.words) == words_in_box(packed.box).sum()
    order = np.random.default_rng(2).permutation(len(masks))
    chosen = packed[order]
    assert chosen.words is packed.words
    assert all(np.array_equal(chosen.unpack(i), masks[row]) for i, row in enumerate(order))
    assert chosen.areas().tolist() == packed.areas()[order].tolist()
    joined = PackedMasks.join(
        packed.size, packed.box, [packed.words[s : s + n] for s, n in zip(packed.start, words_in_box(packed.box), strict=True)]
    )
    assert np.array_equal(joined.words, packed.words)
    assert np.array_equal(joined.start, packed.start)


def test_the_reference_kernel_unpacks_alike() -> None:
    masks = some_masks()
    packed = PackedMasks.pack(masks)
    n = len(masks)
    images = VoteImages(
        torch.zeros(n, 1, 3),
        torch.zeros(n, 3, 3),
        torch.zeros(n, 3),
        torch.zeros(n, 3, 3),
        torch.from_numpy(packed.size),
        torch.from_numpy(packed.box),
        torch.from_numpy(packed.start),
        torch.from_numpy(packed.words.view(np.int32)),
    )
    assert all(np.array_equal(reference_votes.unpack_mask(images, i).numpy(), m) for i, m in enumerate(masks))


def test_no_masks() -> None:
    none = PackedMasks.pack([])
    assert len(none) == 0
    assert none.problem() is None
    assert none.areas().shape == (0,)
    assert none.size.shape == (0, 2)
    assert none.box.shape == (0, 4)


def test_a_block_is_a_memory_sector() -> None:
    assert (BLOCK, WORDS_PER_BLOCK) == (16, 8)
    boxes = np.array([[0, 0, 16, 16], [15, 15, 17, 17], [0, 0, 0, 0], [16, 0, 17, 1], [5, 5, 5, 9]], np.int32)
    assert words_in_box(boxes).tolist() == [8, 32, 0, 8, 0]


def edited(**change: Any) -> PackedMasks:
    """Three masks of 40 x 50, the middle one empty, with an array replaced or a number in it."""
    masks = [np.ones((40, 50), bool), np.zeros((40, 50), bool), np.eye(40, 50, dtype=bool)]
    packed = PackedMasks.pack(masks)
    arrays = {name: getattr(packed, name).copy() for name in ("size", "box", "start", "words")}
    for name, value in change.items():
        if callable(value):
            arrays[name] = value(arrays[name])
        else:
            arrays[name][value[0]] = value[1]
    return PackedMasks(**arrays)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"box": (0, [-1, 0, 50, 40])}, "masks.box: .* in row 0"),
        ({"box": (0, [0, 0, 51, 40])}, r"masks.box: expected 0 <= x0 < x1 <= W .*\[0, 0, 51, 40\].*\[40, 50\] in row 0"),
        ({"box": (0, [0, 0, 50, 41])}, "masks.box: .* in row 0"),
        ({"box": (2, [9, 9, 9, 20])}, "masks.box: .* in row 2"),
        ({"box": (2, [20, 9, 9, 20])}, "masks.box: .* in row 2"),
        ({"box": (1, [0, 0, 0, 1])}, "masks.box: .* in row 1"),
        ({"box": (1, [60, 60, 61, 61])}, "masks.box: .* in row 1"),
        ({"start": (0, -1)}, "masks.start: row 0 reaches words -1"),
        ({"start": (2, 97)}, "masks.start: row 2 reaches words 97..169, but there are 168 words"),
        ({"start": (1, 169)}, "masks.start: row 1 "),
        ({"start": (0, 2**62)}, "masks.start: row 0 "),
        ({"start": (0, 2**63 - 8)}, f"masks.start: row 0 reaches words {2**63 - 8}..{2**63 + 88}"),
        ({"start": (2, -(2**63))}, "masks.start: row 2 "),
        ({"words": lambda w: w[:-1]}, "masks.start: row 2 .* there are 167 words"),
        ({"words": lambda w: w.view(np.int32)}, "masks.words: expected uint32 .*got int32"),
        ({"words": lambda w: w[:, None]}, "masks.words: expected uint32 of shape"),
        ({"size": (1, [0, 50])}, r"masks.size: expected a positive .*\[0, 50\] in row 1"),
        ({"size": (0, [39, 50])}, "masks.box: .* in row 0"),
        ({"size": lambda s: s.astype(np.int64)}, "masks.size: expected int32 .*got int64"),
        ({"box": lambda b: b[:2]}, r"masks.box: expected int32 of shape \(3, 4\), got int32 of shape \(2, 4\)"),
        ({"box": lambda b: b.astype(float)}, "masks.box: expected int32"),
        ({"start": lambda s: s.astype(np.int32)}, "masks.start: expected int64"),
        ({"start": lambda s: s[:2]}, "masks.start: expected int64 of shape"),
        ({"size": lambda s: s[0]}, "masks.size: expected int32 of shape"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], words: str) -> None:
    assert edited().problem() is None
    problem = edited(**change).problem()
    assert problem is not None
    with pytest.raises(ValueError, match=words):
        raise ValueError(problem)
