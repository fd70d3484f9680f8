"""Which votes the posed body hides, on the CPU: of bricks by a bound, of their voxels one image at a time.

A brick hides nothing and everything of itself, respectively, where all of it lies in front of the body's nearest point over the
rectangle that it falls in, or behind the farthest. Nearest and farthest are taken over windows of 4 x 4 blocks that hold the
rectangle: one table look-up instead of a search. A window that is larger than the rectangle settles less, never wrongly.
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
    iload,
    imul,
    ior,
    ishl,
    ishr,
    isplat,
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
SHIFT, FIRST_COLUMN, FIRST_ROW, ACROSS, TABLE = range(0, 5 * LANES, LANES)
"""Rows of ``HidingBody.cells`` within a vector: log2 of a cell's pixels, the body's first block column and row, blocks a
row, and where the image's entries of ``nearest`` and ``farthest`` begin."""
CELL_ROWS = 5
WINDOW_BITS = 2
WINDOW = 1 << WINDOW_BITS
"""Blocks along a window."""
FAR = 1 << 30
"""What the tables have for a window without body (nearest), and for one that it does not fill (farthest)."""
PER_METRE = f4(1000.0)
SLACK = f4(0.05)
"""What float32 may be off in comparing, in millimetres, beside what the bound grants to depths."""
IMAGES_PER_TASK = 256


class HidingBody(NamedTuple):
    """The depth of the body in one pass of images, and where hidden votes are counted.

    frame     (I / 16 * 5 * 16,) float32  rows LIMIT .. BODY_V1 of 16 images
    cells     (I / 16 * 5 * 16,) int32  rows SHIFT .. TABLE of 16 images
    start     (n,) int64  first value of each image
    values    (T,) int16  as ``BodyDepth`` has them
    nearest   (C,) int32  of the window of blocks that begins at a block: its least value
    farthest  (C,) int32  its largest
    num, den  (G, V) int32  the hidden votes, added to
    """

    frame: NDArray[np.float32]
    cells: NDArray[np.int32]
    start: NDArray[np.int64]
    values: NDArray[np.int16]
    nearest: NDArray[np.int32]
    farthest: NDArray[np.int32]
    num: NDArray[np.int32]
    den: NDArray[np.int32]


@borrowing
def _block_extremes(values, first, nearest, farthest, at):  # type: ignore[no-untyped-def]
    """Least and largest of the 16 values of a block, into the tables at ``at``."""
    least, most = FAR, 0
    for k in range(CELLS):
        q = np.int32(values[first + k]) & 0xFFFF
        least = min(least, q)
        most = max(most, q)
    nearest[at] = FAR if least == NO_BODY else least
    farthest[at] = FAR if most == NO_BODY else most


@jit
def _tables(begin, end, blocks, tables, body):  # type: ignore[no-untyped-def]
    """Fill the tables of images begin .. end - 1; ``blocks`` (n, 2): across and down, ``tables`` (n,): where each begins."""
    for i in range(begin, end):
        across, down = blocks[i, 0], blocks[i, 1]
        table = tables[i]
        for k in range(across * down):
            _block_extremes(body.values, body.start[i] + k * CELLS, body.nearest, body.farthest, table + k)
        # In place, from the window's first block on: rows, then columns. What lies beyond the body's blocks has no body.
        for row in range(down):
            for column in range(across):
                at = table + row * across + column
                for k in range(1, WINDOW):
                    inside = column + k < across
                    body.nearest[at] = min(body.nearest[at], body.nearest[at + k] if inside else FAR)
                    body.farthest[at] = max(body.farthest[at], body.farthest[at + k] if inside else FAR)
        for row in range(down):
            for column in range(across):
                at = table + row * across + column
                for k in range(1, WINDOW):
                    inside = row + k < down
                    body.nearest[at] = min(body.nearest[at], body.nearest[at + k * across] if inside else FAR)
                    body.farthest[at] = max(body.farthest[at], body.farthest[at + k * across] if inside else FAR)


def hiding_body(
    depth: BodyDepth, images: VoteImages, order: NDArray[np.intp], out: tuple[NDArray[np.int32], ...], threads: int
) -> HidingBody:
    """The depths of the images ``order`` (n,), in that order, as the compiled loops take them; ``out`` is (num, den) hidden."""
    n, vectors = len(order), -(-len(order) // LANES)
    box, size = np.asarray(depth.box)[order].astype(np.int64), np.asarray(images.size)[order].astype(np.int64)
    shift = np.asarray(depth.shift)[order].astype(np.int64)
    count = np.asarray(blocks_in(depth.box))[order]
    tables = np.cumsum(count) - count
    frame, cells = np.zeros((FRAME, vectors * LANES), np.float32), np.zeros((CELL_ROWS, vectors * LANES), np.int64)
    pixels = box << (shift[:, None] + 2)
    last = np.nextafter(np.minimum(pixels[:, 2:], size[:, ::-1]).astype(np.float32), np.float32(0.0))
    # Where there is no body, a box that no pixel is in and every rectangle misses.
    none = (count == 0) | (pixels[:, :2] >= size[:, ::-1]).any(1)
    frame[0, :n] = np.asarray(depth.limit)[order]
    frame[1:3, :n] = np.where(none, 1e9, pixels[:, :2].T)
    frame[3:5, :n] = np.where(none, -1e9, last.T)
    cells[:, :n] = shift, box[:, 0], box[:, 1], box[:, 2] - box[:, 0], tables
    body = HidingBody(
        frame=np.ascontiguousarray(frame.reshape(FRAME, vectors, LANES).swapaxes(0, 1)).ravel(),
        cells=np.ascontiguousarray(cells.reshape(CELL_ROWS, vectors, LANES).swapaxes(0, 1).astype(np.int32)).ravel(),
        start=np.asarray(depth.start)[order],
        values=np.asarray(depth.values),
        nearest=np.empty(max(1, int(count.sum())), np.int32),
        farthest=np.empty(max(1, int(count.sum())), np.int32),
        num=out[0],
        den=out[1],
    )
    blocks = box[:, 2:] - box[:, :2]

    def work(begin: int, end: int) -> None:
        _tables(begin, end, blocks, tables, body)

    run_pieces(threads, work, split(n, IMAGES_PER_TASK))
    return body


@borrowing
def bound_hidden(body, images, vector, rectangle):  # type: ignore[no-untyped-def]
    """Of which of 16 images a brick is not hidden at all, and of which all of it, as bits.

    ``rectangle`` as ``bounds.bound`` fills it. All of a brick is hidden only in images that it is inside.
    """
    seen, at = vector * (FRAME * LANES), vector * (CELL_ROWS * LANES)
    u0, u1 = load(rectangle, RECTANGLE_U0), load(rectangle, RECTANGLE_U1)
    v0, v1 = load(rectangle, RECTANGLE_V0), load(rectangle, RECTANGLE_V1)
    error, limit = load(images.frame, vector * (FRAME_ROWS * LANES) + ERROR_Z), load(body.frame, seen + LIMIT)
    near, far = load(rectangle, NEAREST), load(rectangle, FARTHEST)
    known = gt(near, splat(f4(MIN_DEPTH)))
    near = sub(mul(sub(sub(near, error), limit), splat(PER_METRE)), splat(SLACK))
    far = add(mul(sub(add(far, error), limit), splat(PER_METRE)), splat(SLACK))
    x0, y0 = load(body.frame, seen + BODY_U0), load(body.frame, seen + BODY_V0)
    x1, y1 = load(body.frame, seen + BODY_U1), load(body.frame, seen + BODY_V1)
    off = both(known, either(either(lt(u1, x0), lt(v1, y0)), either(gt(u0, x1), gt(v0, y1))))
    inside = both(both(ge(u0, x0), ge(v0, y0)), both(ge(x1, u1), ge(y1, v1)))
    to_block = iadd(iload(body.cells, at + SHIFT), isplat(np.int32(2)))
    first_column, first_row = iload(body.cells, at + FIRST_COLUMN), iload(body.cells, at + FIRST_ROW)
    c0 = isub(ishr(truncate(vmax(u0, x0)), to_block), first_column)
    r0 = isub(ishr(truncate(vmax(v0, y0)), to_block), first_row)
    c1 = isub(ishr(truncate(vmin(u1, x1)), to_block), first_column)
    r1 = isub(ishr(truncate(vmin(v1, y1)), to_block), first_row)
    small = both(known, izero(ishr(ior(isub(c1, c0), isub(r1, r0)), isplat(np.int32(WINDOW_BITS)))))
    window = iadd(iload(body.cells, at + TABLE), iadd(imul(r0, iload(body.cells, at + ACROSS)), c0))
    window = idrop(off, ikeep(small, window))
    nearest, farthest = to_float(gather(body.nearest, 0, window)), to_float(gather(body.farthest, 0, window))
    none = either(either(off, lt(far, splat(f4(0.0)))), both(small, ge(nearest, far)))
    return bits(none), bits(both(both(small, inside), gt(near, farthest)))


@inlined
def find_hidden(body, first, lane, scratch, counts):  # type: ignore[no-untyped-def]
    """``counts.visible`` of a brick in image first + lane: negative where a voxel is not hidden, or not in the image."""
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
        out = outside(scratch, s, x0, y0, x1, y1)
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
        value = to_float(gather16(body.values, start, ior(ishl(block, four), cell)))
        beyond = vmin(mul(sub(load(scratch.z, s), limit), splat(PER_METRE)), splat(f4(NO_BODY)))
        # Hidden: beyond > value. Of equals the difference is +0, and its negative -0 has the sign of what is visible.
        store(counts.visible, s, sign_or(out, mul(sub(value, beyond), splat(f4(-1.0)))))
