"""Masks with a class for each block: one encoding each, read by rows, and damage of every kind found and named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.harness.old_stores import to_version_1
from chorus.errors import StoreError
from chorus.kernels.masks import PackedMasks, unpack_mask
from chorus.store import StoreWriter, open_store, sparse, store_info, verify_store
from chorus.store.schema import class_words
from tests.store.samples import make_batch, rewrite, shards, write

RNG = np.random.default_rng(11)
OLD = Path(__file__).parent / "version-1.chorus"
"""Written by the writer of version 0.1.0."""


def blobs(n: int) -> list[np.ndarray]:
    """Masks of every kind: noise, rectangles at edges of the image, discs, full ones with a hole, empty ones."""
    made = []
    for i in range(n):
        height, width = RNG.integers(1, 120, 2)
        v, u = np.mgrid[:height, :width]
        mask = np.zeros((height, width), bool)
        if i % 5 == 0:
            mask = RNG.random((height, width)) < RNG.random() ** 3
        elif i % 5 == 1:
            mask[RNG.integers(height) :, RNG.integers(width) :] = True
        elif i % 5 == 2:
            mask = (u - width * RNG.random()) ** 2 + (v - height * RNG.random()) ** 2 < (60 * RNG.random()) ** 2
        elif i % 5 == 3:
            mask[:] = True
            mask[RNG.integers(height), RNG.integers(width)] = False
        made.append(mask)
    return made


def plain(masks: PackedMasks, row: int) -> list[int]:
    """The words of a mask's encoding, from the definition, pixel by pixel."""
    mask, (x0, y0, x1, y1) = masks.unpack(row), masks.box[row].tolist()
    classes, words = [], []
    for top in range(y0 // 16 * 16, y1, 16):
        for left in range(x0 // 16 * 16, x1, 16):
            inside = mask[max(top, y0) : min(top + 16, y1), max(left, x0) : min(left + 16, x1)]
            kind = 0 if not inside.any() else 1 if inside.all() else 2
            classes += [kind & 1, kind >> 1]
            if kind == 2:
                block = np.zeros((16, 16), bool)
                part = mask[top : top + 16, left : left + 16]
                block[: part.shape[0], : part.shape[1]] = part
                words += np.packbits(block, bitorder="little").view("<u4").tolist()
    padded = np.array(classes + [0] * (-len(classes) % 32), np.uint8)
    return np.packbits(padded, bitorder="little").view("<u4").tolist() + words


def test_the_encoding_is_the_definition_and_comes_back() -> None:
    masks = PackedMasks.pack(blobs(400))
    order = RNG.permutation(len(masks))
    offset, words = sparse.encode(masks[order])
    for row in range(len(masks)):
        assert words[offset[row] : offset[row + 1]].tolist() == plain(masks, order[row])
    assert not sparse.problems(masks.box[order], offset[:-1], offset[1:], words, deep=True).any()
    back, wrong = sparse.decode(masks.size[order], masks.box[order], offset[:-1], offset[1:], words)
    assert wrong == -1
    again = back[np.argsort(order)]
    assert all(np.array_equal(again.unpack(row), masks.unpack(row)) for row in range(len(masks)))
    in_order, _ = sparse.decode(again.size, again.box, *(a[np.argsort(order)] for a in (offset[:-1], offset[1:])), words)
    assert np.array_equal(in_order.words, masks.words)  # and nothing outside of boxes
    some = np.array([7, 3, 3, 399])
    few, _ = sparse.decode(masks.size[order][some], masks.box[order][some], offset[some], offset[some + 1], words)
    assert all(np.array_equal(few.unpack(i), masks.unpack(order[row])) for i, row in enumerate(some))


def test_nothing_is_a_mask_too() -> None:
    for masks in (PackedMasks.pack([]), PackedMasks.pack([np.zeros((3, 4), bool)] * 2)):
        offset, words = sparse.encode(masks)
        assert (offset.tolist(), words.tolist()) == ([0] * (len(masks) + 1), [])
        back, wrong = sparse.decode(masks.size, masks.box, offset[:-1], offset[1:], words)
        assert (len(back), wrong, back.words.size) == (len(masks), -1, 0)


@pytest.mark.parametrize("side", [16, 64, 65])
def test_full_blocks_take_no_words(side: int) -> None:
    """Also those that the image's edge cuts."""
    masks = PackedMasks.pack([np.ones((side, side), bool)])
    offset, words = sparse.encode(masks)
    assert offset[-1] == len(words) == class_words(masks.box)[0] == {16: 1, 64: 1, 65: 2}[side]


words_of_any_kind = st.sampled_from([0, 1, 2, 0x55555555, 0xAAAAAAAA, 0xFFFFFFFF]) | st.integers(0, 2**32 - 1)
number = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 60)


@given(
    arrays(np.uint32, st.integers(0, 50), elements=words_of_any_kind),
    st.lists(st.tuples(*[st.integers(0, 70)] * 4, number, number), min_size=1, max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_hostile_offsets_and_words_are_refused_or_are_masks(words: np.ndarray, rows: list[tuple[int, ...]]) -> None:
    """What is decoded is inside the words, of classes that fit; anything else names the row."""
    table = np.array(rows, np.int64)
    low, high = np.minimum(table[:, :2], table[:, 2:4]), np.maximum(table[:, :2], table[:, 2:4])
    box = np.where((low < high).all(1)[:, None], np.c_[low, high], 0).astype(np.int32)
    size = np.full((len(rows), 2), 70, np.int32)
    first, end = table[:, 4].copy(), table[:, 5].copy()
    masks, wrong = sparse.decode(size, box, first, end, words)
    for row in range(len(rows) if wrong < 0 else 0):
        own = words[first[row] : end[row]] if box[row].any() else np.zeros(0, np.uint32)
        assert masks.unpack(row).sum() == decoded_plainly(box[row], own).sum()
    assert masks.problem() is None


def decoded_plainly(box: np.ndarray, words: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = box.tolist()
    count = (-(-x1 // 16) - x0 // 16) * (-(-y1 // 16) - y0 // 16)
    head = -(-count // 16)
    classes = np.unpackbits(words[:head].copy().view(np.uint8), bitorder="little")[: 2 * count].reshape(-1, 2)
    blocks = np.repeat(classes[:, :1] * np.uint32(0xFFFFFFFF), 8, 1).astype(np.uint32)
    blocks[classes[:, 1] == 1] = words[head:].reshape(-1, 8)
    inside = np.zeros((70, 70), bool)
    inside[y0:y1, x0:x1] = True
    dense = unpack_mask(box, blocks.ravel(), (70, 70))
    full_cut = np.repeat(np.repeat(classes[:, 0].reshape(-(-y1 // 16) - y0 // 16, -1), 16, 0), 16, 1) if count else None
    if full_cut is not None:  # full blocks reach as far as the box
        full = np.zeros((96, 96), bool)
        full[y0 // 16 * 16 :][: full_cut.shape[0], x0 // 16 * 16 :][:, : full_cut.shape[1]] = full_cut
        dense &= inside | ~full[:70, :70]
    return dense


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Three images of 80 x 80: a disc, a full mask with a hole in the block at (32, 32), and one block that is mixed."""
    v, u = np.mgrid[:80, :80]
    disc = (u - 40) ** 2 + (v - 40) ** 2 < 900
    hole = np.ones((80, 80), bool)
    hole[40, 40] = False
    small = np.zeros((80, 80), bool)
    small[20:30, 20:30] = np.eye(10, dtype=bool)
    with StoreWriter(tmp_path / "s", category="ball") as writer:
        writer.append(make_batch([disc, hole, small]))
    return tmp_path / "s"


def test_the_layout_of_the_damaged_store(damaged: Path) -> None:
    """The second mask has two words of classes and the 8 of block 12; the third has one, and the 8 of its only block."""
    (shard,) = open_store(damaged).shards
    offset, words = shard.array("mask/offset"), shard.array("mask/words")
    assert np.diff(offset)[1:].tolist() == [10, 9]
    assert words[offset[1] : offset[1] + 2].tolist() == [0x56555555, 0x00015555]
    assert words[offset[2]] == 2


BASE = {1: 0, 2: 10}  # where the second and the third mask begin, counted from the second


def change(row: int, word: int, value: int, mode: str = "set") -> Any:
    def apply(array: np.ndarray) -> None:
        at = len(array) - 19 + BASE[row] + word  # the last two masks have 10 and 9 words
        array[at] = value if mode == "set" else array[at] ^ np.uint32(value)

    return apply


FORM = [
    (change(1, 0, 0x1, "flip"), None),  # block 0 from full to empty: another mask, whose box is loose or not
    (change(1, 0, 0x3, "flip"), "row 1.*|expected words for 2 mixed blocks"),
    (change(1, 0, 3 << 24, "flip"), "expected words for 0 mixed blocks, as its classes say, got words for 1, in row 1"),
    (change(1, 0, 2, "flip"), "expected class 0 .* of block 0, got 3, in row 1"),
    (change(1, 1, 1 << 30, "flip"), "expected zeros after the classes of 25 blocks, got others, in row 1"),
    (change(2, 0, 1 << 2, "flip"), "expected zeros after the classes of 1 blocks, got others, in row 2"),
]


@pytest.mark.parametrize(("damage", "message"), FORM)
def test_flipped_class_bits(damaged: Path, damage: Any, message: str | None) -> None:
    rewrite(shards(damaged)[0], "mask/words", damage)
    problems = verify_store(damaged)
    if message is None:
        assert problems == []  # the box's edges still have pixels: a valid mask without its first block
        assert not open_store(damaged).batch([1]).masks.unpack(0)[:16, :16].any()
        return
    assert len(problems) == 1
    assert re.search(message, str(problems[0]))
    assert problems[0].dataset == "mask/words"
    with pytest.raises(StoreError, match="mask/words: expected"):
        open_store(damaged)
    unverified = open_store(damaged, verify=False)
    if "zeros after" not in message:
        with pytest.raises(StoreError, match=r"mask/words: expected words that fit the classes .* not so in row 1"):
            unverified.batch([0, 1])
    assert unverified.batch([0]).masks.areas().tolist() == open_store(damaged, verify=False).batch([0]).masks.areas().tolist()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.__setitem__(slice(-17, -9), 0), r"expected class 0 \(empty\) of block 12, .* got 2 \(mixed\), in row 1"),
        (
            lambda a: a.__setitem__(slice(-17, -9), 0xFFFFFFFF),
            r"expected class 1 \(full\) of block 12, whose pixels inside the box are all alike, got 2 \(mixed\), in row 1",
        ),
        (change(2, 1, 1, "flip"), "expected no pixel outside the mask's box, got some in block 0, in row 2"),
        (lambda a: a.__setitem__(-2, 0), "mask/box: expected a pixel in the last column of the box, got none, in row 2"),
    ],
)
def test_blocks_of_another_class_and_stray_pixels(damaged: Path, damage: Any, message: str) -> None:
    rewrite(shards(damaged)[0], "mask/words", damage)
    problems = verify_store(damaged)
    assert len(problems) == 1
    assert re.search(message, str(problems[0])), problems


def test_a_mixed_block_that_the_box_cuts_and_whose_pixels_are_all_set(damaged: Path) -> None:
    full = PackedMasks.pack([np.pad(np.ones((10, 10), bool), 20)])
    rewrite(shards(damaged)[0], "mask/words", lambda a: np.r_[a[:-8], full.words].astype(np.uint32))
    (problem,) = verify_store(damaged)
    assert "expected class 1 (full) of block 0" in problem.what


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("mask/words", lambda a: a[:-8]),
        ("mask/words", lambda a: a[:-1]),
        ("mask/words", lambda a: a[:0]),
        ("mask/words", lambda a: np.r_[a, a[-8:]]),
        ("mask/offset", lambda a: np.r_[a[:-1], a[-1] + 8]),
        ("mask/offset", lambda a: np.r_[a[:1], a[1] - 4, a[2:]]),
        ("mask/offset", lambda a: np.r_[a[:2], a[1], a[3:]]),
        ("mask/offset", lambda a: np.r_[a[:1], a[1] + 8 * 50, a[2:]]),
        ("mask/offset", lambda a: np.r_[-(2**63), a[1:]]),
        ("mask/offset", lambda a: np.r_[a[:1], 2**63 - 8, a[2:]]),
    ],
)
def test_wrong_offsets_and_truncated_words(damaged: Path, name: str, damage: Any) -> None:
    rewrite(shards(damaged)[0], name, lambda a: damage(a).astype(a.dtype))
    problems = verify_store(damaged)
    assert [p.dataset for p in problems] == ["mask/offset"]
    assert re.search(r"expected .*, got ", problems[0].what)
    for verify in (True, False):
        with pytest.raises(StoreError, match="mask/offset: expected"):
            open_store(damaged, verify=verify)


def test_blocks_moved_from_one_mask_to_the_next(damaged: Path) -> None:
    """Offsets that might be right, by the sizes of the boxes; the classes say otherwise."""
    rewrite(shards(damaged)[0], "mask/offset", lambda a: np.r_[a[:1], a[1] - 8, a[2:]])
    problems = verify_store(damaged)
    assert problems
    assert all(p.dataset == "mask/words" for p in problems)
    with pytest.raises(
        StoreError, match=r"expected words for \d+ mixed blocks, as its classes say, got words for \d+, in row 0"
    ):
        open_store(damaged)
    with pytest.raises(StoreError, match="not so in row 0"):
        open_store(damaged, verify=False).batch([0])


def test_a_store_of_version_1_is_read_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (path / "shards").mkdir(parents=True)
    for file in OLD.rglob("*.*"):
        if file.is_file():
            (path / file.relative_to(OLD)).write_bytes(file.read_bytes())
    v, u = np.mgrid[:70, :90]
    masks = [(u - 45) ** 2 + (v - 35) ** 2 < r * r for r in (3, 30)]
    masks += [(u >= 20) & (u < 80) & (v >= 5), np.zeros((70, 90), bool)]
    assert verify_store(path) == []
    old = open_store(path)
    assert (old.version, [s.version for s in old.shards]) == (1, [1])
    assert old.id == "243721725b4b0fbde78f3e912e4c0f7193b8268dc6dcd1c98d52c7d4f9bc79b3"
    assert all(np.array_equal(old.batch([i + 1]).masks.unpack(0), m) for i, m in enumerate(masks))
    assert all(np.array_equal(old.person_masks([i + 1]).unpack(0), ~m) for i, m in enumerate(masks))
    new = make_batch([m[:50] for m in masks], joints=1, first=100)
    with StoreWriter(path, category="ball", num_joints=1, person_masks=True) as writer:
        assert "image-3" in writer
        writer.append(new, person_masks=PackedMasks.pack(~m[:50] for m in masks))
    assert verify_store(path) == []
    mixed = open_store(path)
    assert [s.version for s in mixed.shards] == [1, 2]
    info = store_info(path)
    assert (info["version"], info["shard_versions"]) == (1, {"1": 1, "2": 1})
    rows = np.array([8, 1, 5, 2, 6, 3])
    whole, people = mixed.batch(rows).masks, mixed.person_masks(rows)
    for i, row in enumerate(rows):
        expected = masks[row - 1] if row < 5 else masks[row - 5][:50]
        assert np.array_equal(whole.unpack(i), expected)
        assert np.array_equal(people.unpack(i), ~expected)
    assert sum(len(batch) for batch in mixed.batches()) == 8


def test_both_versions_give_the_same_batches(tmp_path: Path) -> None:
    masks = write(tmp_path / "s", 30, shard_size=7)
    new = open_store(tmp_path / "s")
    batches, people = list(new.batches(size=3)), new.person_masks(np.arange(2, 32))
    to_version_1(tmp_path / "s")
    assert verify_store(tmp_path / "s") == []
    old = open_store(tmp_path / "s")
    assert {s.version for s in old.shards} == {1}
    assert old.id != new.id
    for a, b in zip(batches, old.batches(size=3), strict=True):
        assert (a.keys == b.keys).all()
        assert all(np.array_equal(a.masks.unpack(i), b.masks.unpack(i)) for i in range(len(a)))
    again = old.person_masks(np.arange(2, 32))
    assert all(np.array_equal(people.unpack(i), again.unpack(i)) for i in range(len(masks)))
