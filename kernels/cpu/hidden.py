"""Which votes the posed body hides, on the CPU: of bricks by a bound, of their voxels one image at a time.

No voxel of a brick is hidden where all of it lies in front of the body's nearest point over the rectangle that it falls in.
Tables have the nearest of every window of 1, 2, 4 and 8 blocks: of a rectangle of up to twice a window's side, four windows,
one in each corner, are all of it. (Bricks that lie wholly behind the body, some 0.2 % of them, have no test of their own.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus.kernels.arrays import VoteImages
from chorus.kernels.bricks import VOXELS
from chorus.kernels.cpu.bounds import MIN_DEPTH
from chorus.kernels.cpu.layout import (
    ERROR_Z,
    FARTHEST,
    FRAME_ROWS,
    LEAST,
    NEAREST,
    RECTANGLE_U0,
    RECTANGLE_U1,
    RECTANGLE_V0,
    RECTANGLE_V1,
    borrowing,
    inlined,
    jit,
)
from chorus.kernels.cpu.projection import f4, outside
from chorus.kernels.cpu.simd import (
    LANES,
    add,
    bits,
    both,
    either,
    gather,
    gather16,
    ge,
    gt,
    iadd,
    iand,
    idrop,
    ikeep,
    ikeep_nonnegative,
    ikeep_positive,
    iload,
    imul,
    ior,
    ishl,
    ishr,
    isplat,
    istore,
    isub,
    izero,
    load,
    lt,
    mul,
    sign_bits,
    sign_or,
    splat,
    splat_at,
    store,
    sub,
    to_float,
    truncate,
    vmax,
    vmin,
    where_positive,
)
from chorus.kernels.depth import CELLS, NO_BODY, BodyDepth, blocks_in
from chorus.kernels.threads import run_pieces, split

LIMIT, BODY_U0, BODY_V0, BODY_U1, BODY_V1 = range(0, 5 * LANES, LANES)
"""Rows of ``HidingBody.frame`` within a vector: near + margin; first pixel of the body's blocks,
and the last inside the image."""
FRAME = 5
SHIFT, FIRST_COLUMN, FIRST_ROW, ACROSS, ENTRIES, TABLE = range(0, 6 * LANES, LANES)
"""Rows of ``HidingBody.cells`` within a vector: log2 of a cell's pixels, the body's first block column and row, blocks a
row and in all, and where the image's entries of ``nearest`` begin."""
CELL_ROWS = 6
LEVELS = 4
"""Of windows: 1, 2, 4 and 8 blocks wide and high."""
FAR = 1 << 30
"""What the tables have for a window without body."""
PER_METRE = f4(1000.0)
SLACK = f4(0.05)
"""What float32 may be off in comparing, in millimetres, beside what the bound grants to depths."""
IMAGES_PER_TASK = 256
ALL = (1 << LANES) - 1


class HidingBody(NamedTuple):
    """The depth of the body in one pass of images, and where hidden votes are counted.

    frame     (I / 16 * 5 * 16,) float32  rows LIMIT .. BODY_V1 of 16 images
    cells     (I / 16 * 6 * 16,) int32  rows SHIFT .. TABLE of 16 images
    start     (n,) int64  first value of each image
    values    (T,) int16  as ``BodyDepth`` has them
    nearest   (C,) int32  of each window, by its first block: its least value; the windows of 1 block first
    num, den  (G * V,) int32  the hidden votes, added to
    """

    frame: NDArray[np.float32]
    cells: NDArray[np.int32]
    start: NDArray[np.int64]
    values: NDArray[np.int16]
    nearest: NDArray[np.int32]
    num: NDArray[np.int32]
    den: NDArray[np.int32]


@jit
def _tables(begin, end, blocks, tables, values, start, nearest):  # type: ignore[no-untyped-def]
    """Fill the tables of images begin .. end - 1; ``blocks`` (n, 2): across and down, ``tables`` (n,): where each begins."""
    for i in range(begin, end):
        across, down, table = blocks[i, 0], blocks[i, 1], tables[i]
        for k in range(across * down):
            first, least = start[i] + k * CELLS, np.uint16(NO_BODY)
            for c in range(CELLS):
                least = min(least, values[first + c])
            nearest[table + k] = FAR if least == NO_BODY else np.int32(least)
        # A window of twice the side is four of the level before; beyond the table is no body.
        for level in range(1, LEVELS):
            side, to = 1 << (level - 1), table + level * across * down
            for row in range(down):
                below = min(side, down - 1 - row) * across
                here, there = to - across * down + row * across, to + row * across
                for column in range(max(0, across - side)):
                    upper = min(nearest[here + column], nearest[here + column + side])
                    lower = min(nearest[here + below + column], nearest[here + below + column + side])
                    nearest[there + column] = min(upper, lower)
                for column in range(max(0, across - side), across):
                    at, right = here + column, across - 1 - column
                    upper, lower = min(nearest[at], nearest[at + right]), min(nearest[at + below], nearest[at + below + right])
                    nearest[there + column] = min(upper, lower)


def hiding_body(
    depth: BodyDepth, images: VoteImages, order: NDArray[np.intp], out: tuple[NDArray[np.int32], ...], threads: int
) -> HidingBody:
    """The depths of the images ``order`` (n,), in that order, as the compiled loops take them; ``out`` is (num, den) hidden."""
    n, vectors = len(order), -(-len(order) // LANES)
    box, size = np.asarray(depth.box)[order].astype(np.int64), np.asarray(images.size)[order].astype(np.int64)
    shift = np.asarray(depth.shift)[order].astype(np.int64)
    count = np.asarray(blocks_in(depth.box))[order]
    entries = count * LEVELS
    tables = np.cumsum(entries) - entries
    frame, cells = np.zeros((FRAME, vectors * LANES), np.float32), np.zeros((CELL_ROWS, vectors * LANES), np.int64)
    pixels = box << (shift[:, None] + 2)
    last = np.nextafter(np.minimum(pixels[:, 2:], size[:, ::-1]).astype(np.float32), np.float32(0.0))
    # Where there is no body, a box that no pixel is in and every rectangle misses.
    none = (count == 0) | (pixels[:, :2] >= size[:, ::-1]).any(1)
    frame[0, :n] = np.asarray(depth.limit)[order]
    frame[1:3, :n] = np.where(none, 1e9, pixels[:, :2].T)
    frame[3:5, :n] = np.where(none, -1e9, last.T)
    cells[:, :n] = shift, box[:, 0], box[:, 1], box[:, 2] - box[:, 0], count, tables
    body = HidingBody(
        frame=np.ascontiguousarray(frame.reshape(FRAME, vectors, LANES).swapaxes(0, 1)).ravel(),
        cells=np.ascontiguousarray(cells.reshape(CELL_ROWS, vectors, LANES).swapaxes(0, 1).astype(np.int32)).ravel(),
        start=np.asarray(depth.start)[order],
        values=np.asarray(depth.values),
        nearest=np.empty(max(1, int(entries.sum())), np.int32),
        num=out[0],
        den=out[1],
    )
    blocks = box[:, 2:] - box[:, :2]

    def work(begin: int, end: int) -> None:
        _tables(begin, end, blocks, tables, body.values.view(np.uint16), body.start, body.nearest)

    run_pieces(threads, work, split(n, IMAGES_PER_TASK))
    return body


@inlined
def _entry(table, at):  # type: ignore[no-untyped-def]
    return to_float(gather(table, 0, at))


@borrowing
def bound_hidden(body, images, vector, rectangle, unseen):  # type: ignore[no-untyped-def]
    """In which of 16 images no voxel of a brick is hidden, as bits; ``rectangle`` as ``bounds.bound`` fills it.

    Nothing is asked about images ``unseen``. LEAST of the rectangle is filled where some bit of the others is 0.
    """
    seen, at = vector * (FRAME * LANES), vector * (CELL_ROWS * LANES)
    u0, u1 = load(rectangle, RECTANGLE_U0), load(rectangle, RECTANGLE_U1)
    v0, v1 = load(rectangle, RECTANGLE_V0), load(rectangle, RECTANGLE_V1)
    error, limit = load(images.frame, vector * (FRAME_ROWS * LANES) + ERROR_Z), load(body.frame, seen + LIMIT)
    known = gt(load(rectangle, NEAREST), splat(f4(MIN_DEPTH)))
    far = add(mul(sub(add(load(rectangle, FARTHEST), error), limit), splat(PER_METRE)), splat(SLACK))
    x0, y0 = load(body.frame, seen + BODY_U0), load(body.frame, seen + BODY_V0)
    x1, y1 = load(body.frame, seen + BODY_U1), load(body.frame, seen + BODY_V1)
    off = both(known, either(either(lt(u1, x0), lt(v1, y0)), either(gt(u0, x1), gt(v0, y1))))
    beside = either(off, lt(far, splat(f4(0.0))))
    if (bits(beside) | unseen) & ALL == ALL:  # often: no table is read
        return np.int32(ALL)
    to_block = iadd(iload(body.cells, at + SHIFT), isplat(np.int32(2)))
    first_column, first_row = iload(body.cells, at + FIRST_COLUMN), iload(body.cells, at + FIRST_ROW)
    across = iload(body.cells, at + ACROSS)
    c0 = isub(ishr(truncate(vmax(u0, x0)), to_block), first_column)
    r0 = isub(ishr(truncate(vmax(v0, y0)), to_block), first_row)
    wide = isub(isub(ishr(truncate(vmin(u1, x1)), to_block), first_column), c0)
    high = isub(isub(ishr(truncate(vmin(v1, y1)), to_block), first_row), r0)
    # The least level whose windows, two side by side, are no smaller; one less than the longer side is enough to know.
    longer = ior(wide, high)
    level, one = isplat(np.int32(0)), isplat(np.int32(1))
    for bit in range(1, LEVELS):
        level = iadd(level, idrop(izero(ishr(longer, isplat(np.int32(bit)))), one))
    small = both(known, izero(ishr(longer, isplat(np.int32(LEVELS)))))
    # The last window ends with the rectangle, or is the first where that is smaller.
    reach = isub(ishl(one, level), one)
    right, down = ikeep_nonnegative(isub(wide, reach)), imul(ikeep_nonnegative(isub(high, reach)), across)
    a = iadd(iadd(iload(body.cells, at + TABLE), imul(level, iload(body.cells, at + ENTRIES))), iadd(imul(r0, across), c0))
    a, right, down = idrop(off, ikeep(small, a)), idrop(off, ikeep(small, right)), idrop(off, ikeep(small, down))
    b, c = iadd(a, right), iadd(a, down)
    d = iadd(b, down)
    least = vmin(_entry(body.nearest, a), _entry(body.nearest, b))
    least = vmin(least, vmin(_entry(body.nearest, c), _entry(body.nearest, d)))
    unhidden = either(beside, both(small, ge(least, far)))
    # Values in the rectangle are no less than this: a filter for voxels, which needs to be no more than nearly right.
    store(rectangle, LEAST, sub(to_float(ikeep(small, truncate(vmin(least, splat(f4(NO_BODY)))))), splat(f4(1.0))))
    return bits(unhidden)


@inlined
def find_hidden(body, first, lane, scratch, counts, least, image_weight):  # type: ignore[no-untyped-def]
    """``counts.visible`` of a brick in image first + lane: negative where a voxel is not hidden, or not in the image.

    den_hidden gains the image's weight where it is. No value of the body is below ``least`` where the brick falls.
    """
    at, row = first * FRAME + lane, first * CELL_ROWS + lane
    frame, cells = body.frame, body.cells
    x0, y0 = splat_at(frame, at + BODY_U0), splat_at(frame, at + BODY_V0)
    x1, y1 = splat_at(frame, at + BODY_U1), splat_at(frame, at + BODY_V1)
    limit, start = splat_at(frame, at + LIMIT), body.start[first + lane]
    shift, across = isplat(cells[row + SHIFT]), isplat(cells[row + ACROSS])
    block_x, block_y = isplat(cells[row + FIRST_COLUMN]), isplat(cells[row + FIRST_ROW])
    two, three, four = isplat(np.int32(2)), isplat(np.int32(3)), isplat(np.int32(4))
    chosen = 0
    for s in range(0, VOXELS, LANES):
        beyond = vmin(mul(sub(load(scratch.z, s), limit), splat(PER_METRE)), splat(f4(NO_BODY)))
        out = sign_or(outside(scratch, s, x0, y0, x1, y1), sub(beyond, splat(least)))
        store(counts.visible, s, out)
        counts.queue[chosen] = s
        chosen += sign_bits(out) != (1 << LANES) - 1
    for k in range(chosen):
        s = counts.queue[k]
        out = load(counts.visible, s)
        column = ishr(truncate(where_positive(out, load(scratch.u, s), x0)), shift)
        line = ishr(truncate(where_positive(out, load(scratch.v, s), y0)), shift)
        block = iadd(imul(isub(ishr(line, two), block_y), across), isub(ishr(column, two), block_x))
        cell = ior(ishl(iand(line, three), two), iand(column, three))
        istore(counts.word, s, ior(ishl(block, four), cell))
    for k in range(chosen):
        s = counts.queue[k]
        value = to_float(gather16(body.values, start, iload(counts.word, s)))
        beyond = vmin(mul(sub(load(scratch.z, s), limit), splat(PER_METRE)), splat(f4(NO_BODY)))
        # Hidden: beyond > value. Of equals the difference is +0, and its negative -0 has the sign of what is visible.
        visible = sign_or(load(counts.visible, s), mul(sub(value, beyond), splat(f4(-1.0))))
        store(counts.visible, s, visible)
        istore(counts.den_hidden, s, iadd(iload(counts.den_hidden, s), ikeep_positive(visible, isplat(image_weight))))
