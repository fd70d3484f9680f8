"""Masks as version 2 of the store keeps them: a class for each block of the box, and the words of mixed blocks only.

A mask is a run of uint32 words. First come the classes of the blocks that meet its box, row by row, 16 a word: block b has
bits ``2 (b & 15)`` (full) and ``2 (b & 15) + 1`` (mixed) of word ``b >> 4``; the bits after the last block are zero. Then come
the 8 words of each mixed block, in the order of the blocks. Only the pixels inside the box count: a block is empty where none
of them is set, full where all are, and mixed otherwise. So one mask has exactly one encoding.

Compiled functions take words read-only; they index nothing that they have not compared with the bounds they were given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.kernels.jit import compiled
from chorus.kernels.masks import BLOCK, WORDS_PER_BLOCK, PackedMasks, words_in_box
from chorus.kernels.threads import default_threads, run_pieces, split
from chorus.store.schema import CLASSES_PER_WORD, class_words

EMPTY, FULL, MIXED = range(3)
"""Classes of blocks; 3 is none."""

COUNT, UNKNOWN, PADDING = OF_FORM = (1, 2, 3)
"""What ``problems`` finds without a look at the pixels: words for another number of mixed blocks than the classes say; a block
of class 3; bits set after the last class."""
CLASS, OUTSIDE, LOOSE = OF_PIXELS = (4, 5, 6)
"""What it finds with one: a block stored as mixed whose pixels are all alike; a bit outside the box; a box larger than
necessary."""

_ROWS_AT_ONCE = 128
_ONES = 0xFFFFFFFF


@compiled()
def _inside(line: Any, low: Any, high: Any) -> Any:
    """Bits 0 .. 15 of the pixels ``line`` .. ``line + 15`` of an axis that lie in low .. high - 1."""
    first, last = max(low - line, 0), min(high - line, BLOCK)
    return ((1 << last) - 1) & ~((1 << first) - 1) if last > first else 0


@compiled()
def _box_word(u: Any, v: Any, word: Any, x0: Any, y0: Any, x1: Any, y1: Any) -> Any:
    """One word of the block whose first pixel is (u, v), with all pixels inside the box set."""
    columns, row = _inside(u, x0, x1), v + 2 * word
    lower = columns if y0 <= row < y1 else 0
    upper = columns if y0 <= row + 1 < y1 else 0
    return lower | upper << BLOCK


@compiled()
def _class_of(words: Any, at: Any, u: Any, v: Any, x0: Any, y0: Any, x1: Any, y1: Any) -> Any:
    """The class of the block whose words begin at ``at``, by its pixels inside the box; and whether a bit outside is set."""
    empty, full, outside = True, True, False
    inner = x0 <= u and u + BLOCK <= x1 and y0 <= v and v + BLOCK <= y1
    for k in range(WORDS_PER_BLOCK):
        have = np.int64(words[at + k])
        box = _ONES if inner else _box_word(u, v, k, x0, y0, x1, y1)
        empty &= have & box == 0
        full &= have & box == box
        outside |= have & ~box != 0
    return EMPTY if empty else FULL if full else MIXED, outside


@compiled()
def _encode(box: Any, start: Any, words: Any, first: Any, last: Any, offset: Any, out: Any, fill: Any) -> None:
    """Encode masks first .. last - 1: their lengths into ``offset``, or, to ``fill``, their words where offset says."""
    for row in range(first, last):
        x0, y0, x1, y1 = np.int64(box[row, 0]), np.int64(box[row, 1]), np.int64(box[row, 2]), np.int64(box[row, 3])
        left, top, right, bottom = x0 // BLOCK, y0 // BLOCK, -(-x1 // BLOCK), -(-y1 // BLOCK)
        blocks = (right - left) * (bottom - top)
        classes = -(-blocks // CLASSES_PER_WORD)
        at = offset[row] if fill else 0
        for k in range(classes if fill else 0):
            out[at + k] = 0
        mixed = at + classes
        for b in range(blocks):
            source = start[row] + b * WORDS_PER_BLOCK
            u, v = (left + b % (right - left)) * BLOCK, (top + b // (right - left)) * BLOCK
            kind, _ = _class_of(words, source, u, v, x0, y0, x1, y1)
            if fill:
                shift = 2 * (b % CLASSES_PER_WORD)
                out[at + b // CLASSES_PER_WORD] |= np.uint32(kind << shift)
            if kind == MIXED:
                for k in range(WORDS_PER_BLOCK if fill else 0):
                    out[mixed + k] = words[source + k]
                mixed += WORDS_PER_BLOCK
        if not fill:
            offset[row] = mixed - at


@compiled()
def _decode(box: Any, offset: Any, end: Any, words: Any, start: Any, out: Any, first: Any, last: Any) -> Any:
    """Expand masks first .. last - 1 to ``start`` of ``out``; the first that its words do not fit, or -1.

    Each mask has the words ``offset`` .. ``end - 1``, at least as many as its classes take.
    """
    for row in range(first, last):
        x0, y0, x1, y1 = np.int64(box[row, 0]), np.int64(box[row, 1]), np.int64(box[row, 2]), np.int64(box[row, 3])
        left, top, right, bottom = x0 // BLOCK, y0 // BLOCK, -(-x1 // BLOCK), -(-y1 // BLOCK)
        across, blocks = right - left, (right - left) * (bottom - top)
        at, to = offset[row], start[row]
        mixed = at + -(-blocks // CLASSES_PER_WORD)
        for b in range(blocks):
            kind = (words[at + b // CLASSES_PER_WORD] >> np.uint32(2 * (b % CLASSES_PER_WORD))) & np.uint32(3)
            if kind < MIXED:
                value = np.uint32(_ONES if kind == FULL else 0)  # indices below: unsigned ones are not tested for a sign
                for k in range(WORDS_PER_BLOCK):
                    out[np.uint64(to) + np.uint64(k)] = value
            elif kind == MIXED and mixed + WORDS_PER_BLOCK <= end[row]:
                for k in range(WORDS_PER_BLOCK):
                    out[np.uint64(to) + np.uint64(k)] = words[np.uint64(mixed) + np.uint64(k)]
                mixed += WORDS_PER_BLOCK
            else:
                return row
            to += WORDS_PER_BLOCK
        if mixed != end[row]:
            return row
        first_of_row: Any = 0
        for down in range(top, bottom):  # full blocks reach as far as the box
            step: Any = 1 if down == top or down == bottom - 1 else max(across - 1, 1)
            for column in range(0, across, step):
                class_word = words[at + (first_of_row + column) // CLASSES_PER_WORD]
                if (class_word >> np.uint32(2 * ((first_of_row + column) % CLASSES_PER_WORD))) & np.uint32(3) == FULL:
                    to = start[row] + (first_of_row + column) * WORDS_PER_BLOCK
                    for k in range(WORDS_PER_BLOCK):
                        out[to + k] = _box_word((left + column) * BLOCK, down * BLOCK, k, x0, y0, x1, y1)
            first_of_row += across
    return -1


@compiled()
def _check(box: Any, offset: Any, end: Any, words: Any, found: Any, deep: Any) -> None:
    """The first problem of each mask into ``found`` (I, 3): which, and two numbers that ``problem_text`` explains.

    Only with ``deep`` are the words of mixed blocks read.
    """
    for row in range(len(box)):
        x0, y0, x1, y1 = np.int64(box[row, 0]), np.int64(box[row, 1]), np.int64(box[row, 2]), np.int64(box[row, 3])
        left, top, right, bottom = x0 // BLOCK, y0 // BLOCK, -(-x1 // BLOCK), -(-y1 // BLOCK)
        blocks = (right - left) * (bottom - top)
        classes = -(-blocks // CLASSES_PER_WORD)
        mixed: Any = 0
        for b in range(classes * CLASSES_PER_WORD):
            kind = (words[offset[row] + b // CLASSES_PER_WORD] >> np.uint32(2 * (b % CLASSES_PER_WORD))) & np.uint32(3)
            mixed += kind == MIXED and b < blocks
            if found[row, 0] == 0 and b >= blocks and kind != 0:
                found[row] = PADDING, blocks, 0
            elif found[row, 0] == 0 and kind == 3:
                found[row] = UNKNOWN, b, 0
        have = (end[row] - offset[row] - classes) // WORDS_PER_BLOCK
        if found[row, 0] == 0 and mixed != have:
            found[row] = COUNT, mixed, have
        if deep and found[row, 0] == 0 and blocks > 0:
            _check_blocks(row, left, right, x0, y0, x1, y1, blocks, offset[row], words, found)


@compiled()
def _check_blocks(
    row: Any, left: Any, right: Any, x0: Any, y0: Any, x1: Any, y1: Any, blocks: Any, at: Any, words: Any, found: Any
) -> None:
    """The first problem of the blocks of a mask whose words fit its classes, and of its box, into ``found``."""
    top = y0 // BLOCK
    mixed = at + -(-blocks // CLASSES_PER_WORD)
    touched_left = touched_top = touched_right = touched_bottom = False
    for b in range(blocks):
        u, v = (left + b % (right - left)) * BLOCK, (top + b // (right - left)) * BLOCK
        kind = np.int64((words[at + b // CLASSES_PER_WORD] >> np.uint32(2 * (b % CLASSES_PER_WORD))) & np.uint32(3))
        if kind == MIXED:
            is_class, outside = _class_of(words, mixed, u, v, x0, y0, x1, y1)
            if is_class != MIXED:
                found[row] = CLASS, b, is_class
                return
            if outside:
                found[row] = OUTSIDE, b, 0
                return
        if kind != EMPTY:
            columns: Any = 0
            first, last = BLOCK, -1
            for k in range(WORDS_PER_BLOCK):
                have = np.int64(words[mixed + k]) if kind == MIXED else np.int64(_box_word(u, v, k, x0, y0, x1, y1))
                lower, upper = have & 0xFFFF, have >> BLOCK
                columns |= lower | upper
                if lower != 0:
                    first, last = min(first, 2 * k), 2 * k
                if upper != 0:
                    first, last = min(first, 2 * k + 1), 2 * k + 1
            touched_left |= u <= x0 and (columns >> (x0 - u)) & 1 != 0
            touched_right |= u <= x1 - 1 < u + BLOCK and (columns >> (x1 - 1 - u)) & 1 != 0
            touched_top |= v + first == y0
            touched_bottom |= v + last == y1 - 1
        if kind == MIXED:
            mixed += WORDS_PER_BLOCK
    for edge, touched in enumerate((touched_left, touched_top, touched_right, touched_bottom)):
        if not touched:
            found[row] = LOOSE, edge, 0
            return


def encode(masks: PackedMasks) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """The sparse form of masks: offset (I + 1,) int64, the first word of each and the end of the last; words (T,) uint32.

    The masks have exact boxes inside their images and no bit outside them.
    """
    n = len(masks)
    box, start, words = np.ascontiguousarray(masks.box), np.ascontiguousarray(masks.start), _read_only(masks.words)
    length, nothing = np.zeros(n, np.int64), np.zeros(0, np.uint32)
    pieces, threads = split(n, _ROWS_AT_ONCE), _threads(n)
    run_pieces(threads, lambda a, b: _encode(box, start, words, a, b, length, nothing, False), pieces)
    offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(length)])
    out = np.empty(offset[-1], np.uint32)
    run_pieces(threads, lambda a, b: _encode(box, start, words, a, b, offset, out, True), pieces)
    return offset, out


def decode(
    size: NDArray[np.int32], box: NDArray[np.int32], first: NDArray[np.int64], end: NDArray[np.int64], words: NDArray[np.uint32]
) -> tuple[PackedMasks, int]:
    """Masks from their sparse form, and the first row whose words do not fit its classes, -1 if there is none.

    size, box   (I, 2), (I, 4) int32, as in PackedMasks; boxes are inside their images
    first, end  (I,) int64: the words of each mask

    The masks lie without gaps in the order of the rows. Where a row is named, none are returned. Whatever ``first``, ``end``
    and ``words`` hold, nothing else is read.
    """
    none = PackedMasks.pack([])
    unfit = np.flatnonzero((first < 0) | (end > len(words)) | (end - class_words(box) < first))
    if unfit.size:
        return none, int(unfit[0])
    length = words_in_box(box)
    start = np.cumsum(length) - length
    out = np.empty(int(length.sum()), np.uint32)
    box, words = np.ascontiguousarray(box), _read_only(words)
    wrong: list[int] = []  # appending is one step for threads

    def work(a: int, b: int) -> None:
        row = _decode(box, first, end, words, start, out, a, b)
        if row >= 0:
            wrong.append(row)

    run_pieces(_threads(len(box)), work, split(len(box), _ROWS_AT_ONCE))
    return (none, min(wrong)) if wrong else (PackedMasks(size, box, start, out), -1)


def problems(
    box: NDArray[np.int32], first: NDArray[np.int64], end: NDArray[np.int64], words: NDArray[np.uint32], *, deep: bool
) -> NDArray[np.int64]:
    """The first problem of each mask, (I, 3) int64: COUNT .. LOOSE or 0, and numbers for ``problem_text``.

    Arguments as of ``decode``, but every mask has words for its classes, inside ``words``. Only with ``deep`` are mixed blocks
    read, and what is ``OF_PIXELS`` looked for.
    """
    found = np.zeros((len(box), 3), np.int64)
    _check(np.ascontiguousarray(box), np.ascontiguousarray(first), np.ascontiguousarray(end), _read_only(words), found, deep)
    return found


def problem_text(code: int, a: int, b: int) -> str:
    """What was expected and what was found, of a row of ``problems`` that is not 0."""
    if code == COUNT:
        return f"expected words for {a} mixed blocks, as its classes say, got words for {b}"
    if code == UNKNOWN:
        return f"expected class {EMPTY} (empty), {FULL} (full) or {MIXED} (mixed) of block {a}, got 3"
    if code == PADDING:
        return f"expected zeros after the classes of {a} blocks, got others"
    if code == CLASS:
        wanted = f"class {b} ({('empty', 'full')[b]}) of block {a}, whose pixels inside the box are all alike"
        return f"expected {wanted}, got {MIXED} (mixed)"
    if code == OUTSIDE:
        return f"expected no pixel outside the mask's box, got some in block {a}"
    edge = ("first column", "first row", "last column", "last row")[a]
    return f"expected a pixel in the {edge} of the box, got none"


def _threads(rows: int) -> int:
    return default_threads() if rows > _ROWS_AT_ONCE else 1


def _read_only(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The same words as the compiled functions take them: one type, whatever was mapped and what was made."""
    view = np.ascontiguousarray(words).view()
    view.flags.writeable = False
    return view
