"""The end of every vote in the Triton kernels: from homogeneous pixels to counts.

For a voxel at homogeneous (U, V, Z) relative to an image's integer centre, ``count`` adds to a counter: pixel (floor U/Z,
floor V/Z), the test against the mask's blocks or the image, the mask's bit.

On NVIDIA devices it is written in PTX: an approximate reciprocal (1 ulp), the floor inside the multiply-add, half words
read straight into the layout that the matrix instructions leave the pixels in (a Triton load would move them to
another and back, through shared memory). Some 17 instructions a vote; the other branch is the same in Triton and serves
AMD and the interpreter.

A mask's words as 16-bit half words: one holds 16 pixels of a row, and that of pixel (u, v), counted from the corner of the
mask's blocks, is 16 (block row x blocks per row + block column) + (v & 15) = v + (v >> 4) (wide - 16) + (u - (u & 15)).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from chorus.kernels.gpu.arguments import BodyCells, Images

VIEW = tl.constexpr(8)
"""int64 per image in ``Images.view``: (centre - corner) x, y; blocks' width, height; address of the mask's words less that of
the first; corner x, y; image's width, height; three unused. Pairs: first in the low 32 bits. The centre is the integer part of
the principal point, the corner that of the mask's blocks; all in pixels."""
ON_MASK, BOTH, INSIDE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
KINDS = {"on mask": 0, "both": 1, "inside": 2}
"""What is asked of a voxel: ON_MASK the mask's bit alone (it is known to be in the image), INSIDE whether it is in the image
(it is known to miss the mask), BOTH."""
HIDDEN = tl.constexpr(3)
"""As BOTH, of the votes that the body hides alone; its images are in a list of their own (``hidden``)."""
SHIFT, COLUMN, ROW, ACROSS, DOWN = (tl.constexpr(row) for row in range(5))
"""Rows of ``BodyCells.cells``: log2 of a cell's pixels; the body's first block column and row, blocks across and down."""
CELL_ROWS = 5
DEN = 1 << 16
"""What a vote inside the image adds to a counter of BOTH; a vote on the mask adds 1."""
_DEN = tl.constexpr(DEN)
_MAGIC = tl.constexpr(0x4B400000)

# $0 result, $1 counter, $2..4 U V Z, $5 $6 shift to the mask's first block (less the magic number), $7 $8 width and height of
# the mask's blocks in pixels, $9 their width less 16, $10 address of the mask, $11 weight, and for images the voxel may
# miss: $12 $13 from the mask's first block to the image, $14 $15 width and height of the image.
_PIXEL = """{
    .reg .b32 a, b, e, t, r; .reg .b64 q; .reg .b16 h; .reg .pred p, i;
    rcp.approx.ftz.f32 r, $4;
    // The sum with 1.5 * 2^23, rounded down, holds the integer in its low bits. Beyond +-2^22, and for NaN, it is no such
    // integer, but as an unsigned number far beyond every width.
    fma.rm.f32 a, $2, r, 0f4B400000;
    fma.rm.f32 b, $3, r, 0f4B400000;
    add.s32 a, a, $5;
    add.s32 b, b, $6;
"""
_ON_BLOCKS = """
    setp.lt.u32 p, a, $7;
    setp.lt.and.u32 p, b, $8, p;
"""
_IN_IMAGE = """
    add.s32 t, a, $12;
    add.s32 e, b, $13;
    setp.gt.f32 i, $4, 0f00000000;
    setp.lt.and.u32 i, t, $14, i;
    setp.lt.and.u32 i, e, $15, i;
    setp.lt.and.u32 p, a, $7, i;
    setp.lt.and.u32 p, b, $8, p;
"""
_BIT = """
    shr.u32 t, b, 4;
    mad.lo.s32 t, t, $9, b;
    and.b32 e, a, 15;
    sub.s32 a, a, e;
    add.s32 t, t, a;
    mad.wide.u32 q, t, 2, $10;
    @p ld.global.nc.u16 h, [q];
    cvt.u32.u16 t, h;
    shr.u32 t, t, e;
    and.b32 t, t, 1;
    mov.b32 $0, $1;
"""
_ADD_DEN = """
    @i mad.lo.s32 $0, $11, 0x10000, $0;
"""
_ADD_ONE_DEN = """
    @i add.s32 $0, $0, 0x10000;
"""
_ADD = """
    @p mad.lo.s32 $0, $11, t, $0;
}"""
_ADD_ONE = """
    @p add.s32 $0, $0, t;
}"""
_COUNT_INSIDE = """
    setp.gt.f32 i, $4, 0f00000000;
    setp.lt.and.u32 i, a, $7, i;
    setp.lt.and.u32 i, b, $8, i;
    mov.b32 $0, $1;
    @i add.s32 $0, $0, $9;
}"""
_INSIDE = tl.constexpr(_PIXEL + _COUNT_INSIDE)
_INSIDE_OPERANDS = tl.constexpr("=r,r,r,r,r,r,r,r,r,r")
_COUNT_ON_MASK = tl.constexpr(_PIXEL + _ON_BLOCKS + _BIT + _ADD_ONE)
_COUNT_ON_MASK_WEIGHTED = tl.constexpr(_PIXEL + _ON_BLOCKS + _BIT + _ADD)
_COUNT_VOTES = tl.constexpr(_PIXEL + _IN_IMAGE + _BIT + _ADD_ONE_DEN + _ADD_ONE)
_COUNT_VOTES_WEIGHTED = tl.constexpr(_PIXEL + _IN_IMAGE + _BIT + _ADD_DEN + _ADD)
_MASK_OPERANDS = tl.constexpr("=r,r,r,r,r,r,r,r,r,r,l,r")
_IMAGE_OPERANDS = tl.constexpr("=r,r,r,r,r,r,r,r,r,r,l,r,r,r,r,r")


# For hidden votes further: $16 log2 of a cell's pixels, $17 $18 the body's first block column and row, $19 $20 blocks across
# and down, $21 address of the first value, $22 what z is multiplied by to be metres (a power of two), $23 less the limit.
_BEHIND = """
    add.s32 t, a, $12;
    add.s32 e, b, $13;
    setp.gt.f32 i, $4, 0f00000000;
    setp.lt.and.u32 i, t, $14, i;
    setp.lt.and.u32 i, e, $15, i;
    shr.u32 t, t, $16;
    shr.u32 e, e, $16;
    shr.u32 x, t, 2;
    shr.u32 y, e, 2;
    sub.s32 x, x, $17;
    sub.s32 y, y, $18;
    setp.lt.and.u32 i, x, $19, i;
    setp.lt.and.u32 i, y, $20, i;
    mad.lo.s32 x, y, $19, x;
    and.b32 t, t, 3;
    and.b32 e, e, 3;
    mad.lo.s32 x, x, 4, e;
    mad.lo.s32 x, x, 4, t;
    mad.wide.u32 q, x, 2, $21;
    @i ld.global.nc.u16 h, [q];
    cvt.u32.u16 t, h;
    cvt.rn.f32.u32 t, t;
    // Millimetres beyond the limit, 65535 at most: no vote is behind where no body is.
    fma.rn.f32 e, $4, $22, $23;
    mul.rn.f32 e, e, 0f447A0000;
    min.f32 e, e, 0f477FFF00;
    setp.gt.and.f32 i, e, t, i;
    setp.lt.and.u32 p, a, $7, i;
    setp.lt.and.u32 p, b, $8, p;
"""
_CELL = "{\n    .reg .b32 x, y;" + _PIXEL.removeprefix("{")
_COUNT_HIDDEN = tl.constexpr(_CELL + _BEHIND + _BIT + _ADD_ONE_DEN + _ADD_ONE)
_COUNT_HIDDEN_WEIGHTED = tl.constexpr(_CELL + _BEHIND + _BIT + _ADD_DEN + _ADD)
_HIDDEN_OPERANDS = tl.constexpr("=r,r,r,r,r,r,r,r,r,r,l,r,r,r,r,r,r,r,r,r,r,l,r,r")


class View(NamedTuple):
    """What an image's pixels and mask are, for the images of a tile; int32 unless said otherwise.

    bx, by         from the image's integer centre to the corner of the mask's blocks: centre - corner
    wide, high     of the mask's blocks in pixels; 0 for no pixel
    words          address of the mask's first word, int64
    x0, y0         corner of the mask's blocks in the image, pixels
    width, height  of the image; 0 for no image
    image_weight   what the image counts; the number 1 where all count 1
    """

    bx: Any
    by: Any
    wide: Any
    high: Any
    words: Any
    x0: Any
    y0: Any
    width: Any
    height: Any
    image_weight: Any


@triton.jit
def load_view(images: Images, image, valid, AXIS: tl.constexpr, KIND: tl.constexpr, WEIGHTED: tl.constexpr):
    """The ``View`` of images, with a new axis of length 1; what KIND does not ask for is 0, as is what is not ``valid``."""
    wide, high, words, x0, y0, width, height = 0, 0, 0, 0, 0, 0, 0
    view = images.view + image.to(tl.int64) * VIEW
    image_weight = 1
    if WEIGHTED:
        image_weight = tl.expand_dims(tl.load(images.image_weights + image, mask=valid, other=0).to(tl.int32), AXIS)
    shift = tl.load(view)
    bx, by = _low(shift, AXIS), _high(shift, AXIS)
    if KIND != ON_MASK:
        corner = tl.load(view + 3)
        size = tl.load(view + 4, mask=valid, other=0)
        x0, y0, width, height = _low(corner, AXIS), _high(corner, AXIS), _low(size, AXIS), _high(size, AXIS)
    if KIND != INSIDE:
        blocks = tl.load(view + 1, mask=valid, other=0)
        words = tl.expand_dims((images.words + tl.load(view + 2)).to(tl.int64), AXIS)
        wide, high = _low(blocks, AXIS), _high(blocks, AXIS)
    return View(bx, by, wide, high, words, x0, y0, width, height, image_weight)


@triton.jit
def _low(pair, AXIS: tl.constexpr):
    return tl.expand_dims(pair.to(tl.int32), AXIS)


@triton.jit
def _high(pair, AXIS: tl.constexpr):
    return tl.expand_dims((pair >> 32).to(tl.int32), AXIS)


@triton.jit
def count(counter, u, v, z, view: View, KIND: tl.constexpr, WEIGHTED: tl.constexpr, PTX: tl.constexpr):
    """``counter`` plus what a voxel at homogeneous pixels (u, v, z), relative to the image's integer centre, counts.

    KIND      ON_MASK: the image's weight on the mask, where z > 0 must hold; INSIDE: the weight in the image; BOTH: the weight
              on the mask and DEN times the weight in the image
    WEIGHTED  whether images have weights; 1 each otherwise
    """
    if KIND == ON_MASK:
        counter = _count_on_mask(counter, u, v, z, view, WEIGHTED, PTX)
    elif KIND == INSIDE:
        counter = _count_inside(counter, u, v, z, view, PTX)
    else:
        counter = _count_both(counter, u, v, z, view, WEIGHTED, PTX)
    return counter


@triton.jit
def _count_on_mask(counter, u, v, z, view: View, WEIGHTED: tl.constexpr, PTX: tl.constexpr):
    bx, by, wide, high = view.bx, view.by, view.wide, view.high
    if PTX:
        code: tl.constexpr = _COUNT_ON_MASK_WEIGHTED if WEIGHTED else _COUNT_ON_MASK
        counter = tl.inline_asm_elementwise(
            code,
            _MASK_OPERANDS,
            [counter, u, v, z, bx - _MAGIC, by - _MAGIC, wide, high, wide - 16, view.words, view.image_weight],
            tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        inverse = 1.0 / z
        a, b = _floor(u * inverse) + bx, _floor(v * inverse) + by
        on = (a >= 0) & (a < wide) & (b >= 0) & (b < high)
        counter += _bit(a, b, wide, view.words, on) * view.image_weight
    return counter


@triton.jit
def _count_both(counter, u, v, z, view: View, WEIGHTED: tl.constexpr, PTX: tl.constexpr):
    bx, by, wide, high = view.bx, view.by, view.wide, view.high
    words, weight = view.words, view.image_weight
    x0, y0, width, height = view.x0, view.y0, view.width, view.height
    if PTX:
        code: tl.constexpr = _COUNT_VOTES_WEIGHTED if WEIGHTED else _COUNT_VOTES
        counter = tl.inline_asm_elementwise(
            code,
            _IMAGE_OPERANDS,
            [counter, u, v, z, bx - _MAGIC, by - _MAGIC, wide, high, wide - 16, words, weight, x0, y0, width, height],
            tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        inverse = 1.0 / z
        a, b = _floor(u * inverse) + bx, _floor(v * inverse) + by
        s, t = a + x0, b + y0
        inside = (z > 0) & (s >= 0) & (s < width) & (t >= 0) & (t < height)
        on = inside & (a >= 0) & (a < wide) & (b >= 0) & (b < high)
        counter += (_bit(a, b, wide, words, on) + tl.where(inside, _DEN, 0)) * weight
    return counter


@triton.jit
def _count_inside(counter, u, v, z, view: View, PTX: tl.constexpr):
    cx, cy = view.bx + view.x0, view.by + view.y0  # the image's integer centre
    width, height = view.width, view.height
    if PTX:
        counter = tl.inline_asm_elementwise(
            _INSIDE,
            _INSIDE_OPERANDS,
            [counter, u, v, z, cx - _MAGIC, cy - _MAGIC, width, height, view.image_weight],
            tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        inverse = 1.0 / z
        a, b = _floor(u * inverse) + cx, _floor(v * inverse) + cy
        inside = (z > 0) & (a >= 0) & (a < width) & (b >= 0) & (b < height)
        counter += tl.where(inside, view.image_weight, 0)
    return counter


@triton.jit
def _floor(x):
    """floor x as int32, what is far outside every image or not a number at a place that is."""
    bounded = tl.where(x > -1e9, tl.where(x < 1e9, x, 1e9), -1e9)  # comparisons that NaN fails
    return tl.floor(bounded).to(tl.int32)


@triton.jit
def _bit(a, b, wide, words, on):
    """The mask's bit at pixel (a, b) of its blocks, 0 or 1; 0 where not ``on``."""
    half = b + (b >> 4) * (wide - 16) + (a - (a & 15))
    address = words + half.to(tl.int64) * 2
    word = tl.load(address.to(tl.pointer_type(tl.int16)), mask=on, other=0).to(tl.int32)
    return (word >> (a & 15)) & 1


class Shield(NamedTuple):
    """The body in the images of a tile: ``BodyCells``, with a new axis of length 1.

    first  address of each image's first value, int64
    """

    limit: Any
    scale: Any
    shift: Any
    column: Any
    row: Any
    across: Any
    down: Any
    first: Any


@triton.jit
def load_shield(body: BodyCells, capacity, image, AXIS: tl.constexpr):
    """The ``Shield`` of images."""
    cells = body.cells + image
    first = tl.expand_dims((body.beyond + tl.load(body.start + image)).to(tl.int64), AXIS)
    return Shield(
        tl.expand_dims(tl.load(body.limit + image), AXIS),
        tl.expand_dims(tl.load(body.scale + image), AXIS),
        tl.expand_dims(tl.load(cells + SHIFT * capacity), AXIS),
        tl.expand_dims(tl.load(cells + COLUMN * capacity), AXIS),
        tl.expand_dims(tl.load(cells + ROW * capacity), AXIS),
        tl.expand_dims(tl.load(cells + ACROSS * capacity), AXIS),
        tl.expand_dims(tl.load(cells + DOWN * capacity), AXIS),
        first,
    )


@triton.jit
def count_hidden(counter, u, v, z, view: View, shield: Shield, WEIGHTED: tl.constexpr, PTX: tl.constexpr):
    """``count`` of KIND BOTH, of the votes alone that the body hides. Pixels are those of the other kinds, to the bit."""
    bx, by, wide, high = view.bx, view.by, view.wide, view.high
    words, weight = view.words, view.image_weight
    x0, y0, width, height = view.x0, view.y0, view.width, view.height
    shift, column, row, across, down = shield.shift, shield.column, shield.row, shield.across, shield.down
    if PTX:
        code: tl.constexpr = _COUNT_HIDDEN_WEIGHTED if WEIGHTED else _COUNT_HIDDEN
        pixel = [counter, u, v, z, bx - _MAGIC, by - _MAGIC, wide, high, wide - 16, words, weight, x0, y0, width, height]
        cell = [shift, column, row, across, down, shield.first, shield.scale, 0.0 - shield.limit]
        counter = tl.inline_asm_elementwise(code, _HIDDEN_OPERANDS, pixel + cell, tl.int32, is_pure=True, pack=1)
    else:
        inverse = 1.0 / z
        a, b = _floor(u * inverse) + bx, _floor(v * inverse) + by
        s, t = a + x0, b + y0
        inside = (z > 0) & (s >= 0) & (s < width) & (t >= 0) & (t < height)
        x, y = s >> shift, t >> shift
        block_x, block_y = (x >> 2) - column, (y >> 2) - row
        met = inside & (block_x >= 0) & (block_x < across) & (block_y >= 0) & (block_y < down)
        cell = (block_y * across + block_x) * 16 + (y & 3) * 4 + (x & 3)
        address = (shield.first + cell.to(tl.int64) * 2).to(tl.pointer_type(tl.int16))
        value = tl.load(address, mask=met, other=-1).to(tl.int32) & 0xFFFF
        beyond = tl.minimum((z * shield.scale - shield.limit) * 1000.0, 65535.0)
        hidden = met & (beyond > value.to(tl.float32))
        on = hidden & (a >= 0) & (a < wide) & (b >= 0) & (b < high)
        counter += (_bit(a, b, wide, words, on) + tl.where(hidden, _DEN, 0)) * weight
    return counter
