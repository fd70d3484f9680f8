"""The packed mask format (bits in 16 x 16 pixel blocks) that kernels read; stores keep it without blocks that are all alike.

The image is cut into blocks of 16 x 16 pixels aligned to its origin. Of one mask, the blocks that meet its bounding box
are kept row by row, 8 uint32 words each: pixel (u, v) (column, row) is bit ``i & 31`` of word ``i >> 5`` of its block,
``i = 16 (v & 15) + (u & 15)``. Bits outside the mask are zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 16
WORDS_PER_BLOCK = BLOCK * BLOCK // 32


def words_in_box(box: NDArray[np.int32]) -> NDArray[np.int64]:
    """Number of words that masks with these boxes take: (I, 4) int32 (x0, y0, x1, y1), half open -> (I,) int64."""
    first = box[..., :2].astype(np.int64) // BLOCK
    last = -(-box[..., 2:].astype(np.int64) // BLOCK)
    return np.where((box[..., 2:] > box[..., :2]).all(-1), (last - first).prod(-1), 0) * WORDS_PER_BLOCK


def pack_mask(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """Pack one (H, W) bool mask: its exact bounding box (4,) int32 and its words uint32, as the module says.

    An empty mask has an all-zero box and no words.
    """
    rows = np.flatnonzero(mask.any(1))
    if rows.size == 0:
        return np.zeros(4, np.int32), np.zeros(0, np.uint32)
    columns = np.flatnonzero(mask.any(0))
    x0, x1, y0, y1 = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    left, top = x0 // BLOCK * BLOCK, y0 // BLOCK * BLOCK
    height, width = -(-(y1 - top) // BLOCK) * BLOCK, -(-(x1 - left) // BLOCK) * BLOCK
    tile = np.zeros((height, width), np.bool_)
    part = mask[top:y1, left:x1]
    tile[: part.shape[0], : part.shape[1]] = part
    blocks = tile.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).swapaxes(1, 2)
    packed = np.packbits(blocks.reshape(-1, BLOCK * BLOCK), axis=1, bitorder="little")
    return np.array([x0, y0, x1, y1], np.int32), packed.view("<u4").ravel().astype(np.uint32, copy=False)


def unpack_mask(box: NDArray[np.int32], words: NDArray[np.uint32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The (H, W) bool mask of a box and its words; ``size`` is (H, W)."""
    mask = np.zeros(size, np.bool_)
    x0, y0, x1, y1 = (int(c) for c in box)
    if x1 <= x0 or y1 <= y0:
        return mask
    left, top = x0 // BLOCK * BLOCK, y0 // BLOCK * BLOCK
    down, across = -(-(y1 - top) // BLOCK), -(-(x1 - left) // BLOCK)
    bits = np.unpackbits(np.ascontiguousarray(words, "<u4").view(np.uint8), bitorder="little")
    tile = bits.reshape(down, across, BLOCK, BLOCK).swapaxes(1, 2).reshape(down * BLOCK, across * BLOCK)
    mask[top:y1, left:x1] = tile[: y1 - top, : x1 - left]
    return mask


@dataclass(frozen=True)
class PackedMasks:
    """I packed masks of images of any size.

    size   (I, 2) int32  image height, width in pixels
    box    (I, 4) int32  x0, y0, x1, y1 in pixels, half open; all zero for an empty mask
    start  (I,) int64    index in ``words`` of the mask's first word (masks may lie in any order)
    words  (T,) uint32   the blocks, as the module says
    """

    size: NDArray[np.int32]
    box: NDArray[np.int32]
    start: NDArray[np.int64]
    words: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.size)

    def __getitem__(self, rows: slice | NDArray[np.intp] | NDArray[np.bool_]) -> PackedMasks:
        """A selection of the masks; the words are shared, not copied."""
        return PackedMasks(self.size[rows], self.box[rows], self.start[rows], self.words)

    @classmethod
    def pack(cls, masks: Iterable[NDArray[np.bool_]]) -> PackedMasks:
        """Pack dense (H, W) bool masks, which may differ in size."""
        sizes, boxes, words = [], [], []
        for mask in masks:
            box, packed = pack_mask(mask)
            sizes.append(mask.shape)
            boxes.append(box)
            words.append(packed)
        return cls.join(np.array(sizes, np.int32).reshape(-1, 2), np.array(boxes, np.int32).reshape(-1, 4), words)

    @classmethod
    def join(cls, size: NDArray[np.int32], box: NDArray[np.int32], words: Sequence[NDArray[np.uint32]]) -> PackedMasks:
        """Masks from one array of words per mask."""
        counts = np.array([len(w) for w in words], np.int64)
        start = np.cumsum(counts) - counts
        return cls(size, box, start, np.concatenate([np.zeros(0, np.uint32), *words]))

    def unpack(self, row: int) -> NDArray[np.bool_]:
        """The dense (H, W) bool mask of one image."""
        first = int(self.start[row])
        last = first + int(words_in_box(self.box[row]))
        height, width = (int(c) for c in self.size[row])
        return unpack_mask(self.box[row], self.words[first:last], (height, width))

    def areas(self) -> NDArray[np.int64]:
        """Pixels set in each mask, (I,) int64."""
        counts = np.concatenate([[0], np.cumsum(np.bitwise_count(self.words), dtype=np.int64)])
        result: NDArray[np.int64] = counts[self.start + words_in_box(self.box)] - counts[self.start]
        return result

    def problem(self) -> str | None:
        """What is wrong with these arrays, in words, or None: shapes, boxes outside images, words out of range."""
        n = len(self.size)
        for name, array, shape, dtype in (
            ("size", self.size, (n, 2), np.int32),
            ("box", self.box, (n, 4), np.int32),
            ("start", self.start, (n,), np.int64),
            ("words", self.words, self.words.shape[:1], np.uint32),
        ):
            if array.shape != shape or array.dtype != dtype:
                wanted = np.dtype(dtype).name
                return f"masks.{name}: expected {wanted} of shape {shape}, got {array.dtype} of shape {array.shape}"
        if n == 0:
            return None
        bad = np.flatnonzero((self.size <= 0).any(1))
        if bad.size:
            return f"masks.size: expected a positive height and width, got {self.size[bad[0]].tolist()} in row {bad[0]}"
        box = self.box
        empty = (box == 0).all(1)
        inside = (box[:, :2] >= 0).all(1) & (box[:, 2:] > box[:, :2]).all(1)
        inside &= (box[:, 2] <= self.size[:, 1]) & (box[:, 3] <= self.size[:, 0])
        bad = np.flatnonzero(~(empty | inside))
        if bad.size:
            row = bad[0]
            return (
                f"masks.box: expected 0 <= x0 < x1 <= W and 0 <= y0 < y1 <= H, or all zeros; got {box[row].tolist()} "
                f"for an image of height, width {self.size[row].tolist()} in row {row}"
            )
        length = words_in_box(box)
        bad = np.flatnonzero((self.start < 0) | (self.start > len(self.words) - length))  # start + length could wrap
        if bad.size:
            row = bad[0]
            return (
                f"masks.start: row {row} reaches words {self.start[row]}..{int(self.start[row]) + int(length[row])}, "
                f"but there are {len(self.words)} words"
            )
        return None
