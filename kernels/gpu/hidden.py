"""Hidden votes on a GPU: the body's depth as the kernels read it, and which images a brick must be projected into for it.

Hidden votes are cast after the others, by the same kernels (KIND ``pixels.HIDDEN``), in a list of images of their own: those
that see some of a brick, and in which the body may be in front of some of it. Tables have the body's nearest value in every
window of 1, 2, 4 and 8 blocks; of the rectangle that a brick falls in (up to 16 blocks) four windows, one in each corner, are
all of it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from chorus.kernels.depth import CELLS, BodyDepth, blocks_in
from chorus.kernels.gpu.ahead_of_time import Compilation, Types
from chorus.kernels.gpu.arguments import BodyCells, BrickArrays, CullingTables, Images, Lists
from chorus.kernels.gpu.culling import Brick, blend_centre, bound_brick, load_brick
from chorus.kernels.gpu.passes import Pass
from chorus.kernels.gpu.pixels import ACROSS, COLUMN, DOWN, ROW, SHIFT
from chorus.kernels.gpu.vote_kernels import ALIGN

LEVELS = 4
_LEVELS = tl.constexpr(LEVELS)
IMAGES = 64
"""Images that a program, which is one warp, looks at together."""
BLOCKS = 64
"""Blocks at a time."""
_CELLS = tl.constexpr(CELLS)
_FAR = tl.constexpr(1 << 30)
SLACK = tl.constexpr(0.05)
"""What float32 may be off in comparing, in millimetres, beside what the bound grants to depths."""


@triton.jit
def nearest_of_blocks(body: BodyCells, capacity, BLOCKS: tl.constexpr):
    """``body.nearest`` of windows of one block. Grid (images,)."""
    image = tl.program_id(0)
    count = tl.load(body.cells + ACROSS * capacity + image) * tl.load(body.cells + DOWN * capacity + image)
    first = body.beyond + tl.load(body.start + image)
    table = body.nearest + tl.load(body.table + image)
    for at in range(0, count, BLOCKS):
        block = at + tl.arange(0, BLOCKS)
        cell = block[:, None] * _CELLS + tl.arange(0, _CELLS)[None, :]
        value = tl.load(first + cell, mask=(block < count)[:, None], other=-1).to(tl.int32) & 0xFFFF
        least = tl.min(value, 1)
        tl.store(table + block, tl.where(least == 65535, _FAR, least), mask=block < count)


@triton.jit
def nearest_of_windows(body: BodyCells, capacity, LEVEL: tl.constexpr, BLOCKS: tl.constexpr):
    """``body.nearest`` of windows of 2^LEVEL blocks, from those of half as many. Grid (images,)."""
    image = tl.program_id(0)
    across = tl.load(body.cells + ACROSS * capacity + image)
    down = tl.load(body.cells + DOWN * capacity + image)
    count = across * down
    to = body.nearest + tl.load(body.table + image) + LEVEL * count
    half: tl.constexpr = 1 << (LEVEL - 1)
    for at in range(0, count, BLOCKS):
        block = at + tl.arange(0, BLOCKS)
        valid = block < count
        row = block // across
        right = tl.minimum(across - 1 - (block - row * across), half)
        below = tl.minimum(down - 1 - row, half) * across
        here = to - count + block
        least = tl.minimum(tl.load(here, mask=valid, other=0), tl.load(here + right, mask=valid, other=0))
        least = tl.minimum(least, tl.load(here + below, mask=valid, other=0))
        least = tl.minimum(least, tl.load(here + below + right, mask=valid, other=0))
        tl.store(to + block, least, mask=valid)


@triton.jit
def cull_hidden(
    images: Images,
    tables: CullingTables,
    bricks: BrickArrays,
    body: BodyCells,
    lists: Lists,
    CULL: tl.constexpr,
    IMAGES: tl.constexpr,
):
    """Fill the list HIDDEN of the bricks ``bricks.selected`` in a segment. Grid (N, S). CULL false: every image."""
    place = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(1)
    index = tl.load(bricks.selected + place)
    begin = tl.multiple_of(tl.load(lists.segments + segment * 2), ALIGN)
    length = tl.load(lists.segments + segment * 2 + 1)
    mine = lists.images + place * 2 * images.capacity + begin
    lane = tl.arange(0, IMAGES)
    brick = load_brick(bricks, index)
    found = 0
    for at in range(0, length, IMAGES):
        valid = at + lane < length
        chosen = valid
        if CULL:
            chosen = valid & ~_spared(images, tables, bricks, brick, body, begin + at + lane, valid)
        ones = chosen.to(tl.int32)
        tl.store(mine + found + tl.cumsum(ones, 0) - ones, (at + lane).to(tl.int16), mask=chosen)
        found += tl.sum(ones, 0)
    tl.store(lists.lengths + (place * tl.num_programs(1) + segment) * 4, found)


@triton.jit
def _spared(images: Images, tables: CullingTables, bricks: BrickArrays, brick: Brick, body: BodyCells, image, valid):
    """In which images no voxel of a brick can be hidden: outside the image, beside the body, or in front of it."""
    capacity = images.capacity
    terms = tables.bound_terms + image
    width = tl.load(terms + 2 * capacity, mask=valid, other=0.0)
    height = tl.load(terms + 3 * capacity, mask=valid, other=0.0)
    blend = blend_centre(images, bricks, brick, image, width, height)
    u0, u1, v0, v1, known, farthest = bound_brick(images, bricks, brick, image, terms, valid, blend)
    cells = body.cells + image
    shift = tl.load(cells + SHIFT * capacity, mask=valid, other=0) + 2  # of a block
    column = tl.load(cells + COLUMN * capacity, mask=valid, other=0)
    row = tl.load(cells + ROW * capacity, mask=valid, other=0)
    across = tl.load(cells + ACROSS * capacity, mask=valid, other=0)
    down = tl.load(cells + DOWN * capacity, mask=valid, other=0)
    x0, y0 = (column << shift).to(tl.float32), (row << shift).to(tl.float32)
    x1 = tl.minimum(((column + across) << shift).to(tl.float32), width)
    y1 = tl.minimum(((row + down) << shift).to(tl.float32), height)
    off = known & ((u1 < x0) | (v1 < y0) | (u0 >= x1) | (v0 >= y1))
    error = tl.load(terms + 9 * capacity, mask=valid, other=0.0)
    far = (farthest + error - tl.load(body.limit + image, mask=valid, other=0.0)) * 1000.0 + SLACK
    meets = known & ~off & (x1 > x0) & (y1 > y0)
    c0 = (tl.where(meets, tl.maximum(u0, x0), 0.0).to(tl.int32) >> shift) - column
    r0 = (tl.where(meets, tl.maximum(v0, y0), 0.0).to(tl.int32) >> shift) - row
    wide = (tl.where(meets, tl.minimum(u1, x1 - 1.0), 0.0).to(tl.int32) >> shift) - column - c0
    high = (tl.where(meets, tl.minimum(v1, y1 - 1.0), 0.0).to(tl.int32) >> shift) - row - r0
    longer = wide | high
    small = meets & (longer >> _LEVELS == 0)
    level = tl.where(longer > 1, 1, 0) + tl.where(longer > 3, 1, 0) + tl.where(longer > 7, 1, 0)
    reach = (1 << level) - 1
    right = tl.maximum(wide - reach, 0)
    below = tl.maximum(high - reach, 0) * across
    first = tl.load(body.table + image, mask=small, other=0) + (level * (across * down) + r0 * across + c0)
    least = tl.minimum(_entry(body, first, small), _entry(body, first + right, small))
    least = tl.minimum(least, tl.minimum(_entry(body, first + below, small), _entry(body, first + below + right, small)))
    in_front = (far < 0.0) | (small & (far <= least.to(tl.float32)))
    return off | in_front | (farthest < 0.0)


@triton.jit
def _entry(body: BodyCells, at, on):
    return tl.load(body.nearest + at, mask=on, other=0)


def body_cells(depth: BodyDepth, pass_: Pass, operand_scale: float) -> tuple[BodyCells, BodyCells]:
    """The depths of a pass's images as the lattice kernel reads them, and as the matrix kernel does.

    depth  of all images of the call, on the pass's device       operand_scale  of the matrix kernel's bricks
    """
    rows, capacity = pass_.images.rows, pass_.images.capacity
    device, n = rows.device, len(rows)

    def places(values: Tensor, dtype: torch.dtype) -> Tensor:
        room = torch.zeros(*values.shape[:-1], capacity, dtype=dtype, device=device)
        room[..., :n] = values
        return room

    box, shift = depth.box[rows], depth.shift[rows]
    count = blocks_in(box) * LEVELS
    total = n * int(blocks_in(depth.box).amax()) * LEVELS if n else 0
    cells = torch.stack([shift, box[:, 0], box[:, 1], box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]])
    values = depth.values if len(depth.values) else torch.zeros(1, dtype=torch.int16, device=device)
    lattice = BodyCells(
        limit=places(depth.limit[rows], torch.float32),
        scale=torch.ones(capacity, dtype=torch.float32, device=device),
        cells=places(cells, torch.int32),
        start=places(depth.start[rows], torch.int64),
        beyond=values.contiguous(),
        table=places(torch.cumsum(count, 0) - count, torch.int64),
        nearest=torch.empty(max(total, 1), dtype=torch.int32, device=device),
    )
    nearest_of_blocks[(n,)](lattice, capacity, BLOCKS=BLOCKS, num_warps=1, num_stages=1)
    for level in range(1, LEVELS):
        nearest_of_windows[(n,)](lattice, capacity, LEVEL=level, BLOCKS=BLOCKS, num_warps=1, num_stages=1)
    # Powers of two: what is scaled by them, and back, is the same number.
    return lattice, lattice._replace(scale=1.0 / (pass_.scale * operand_scale))


def no_body(pass_: Pass) -> BodyCells:
    """Arrays that nothing is read of, for votes that are not about the body."""
    images = pass_.images
    return BodyCells(images.lanes, images.lanes, pass_.segments, images.rows, pass_.unused, images.rows, pass_.segments)


def compilations() -> list[Compilation]:
    """The kernels; those that cast the votes are in ``vote_kernels``."""
    body: Types = {"body": BodyCells, "capacity": "i32:16"}
    cull: Types = {"images": Images, "tables": CullingTables, "bricks": BrickArrays, "body": BodyCells, "lists": Lists}
    found = [Compilation("nearest_of_blocks", nearest_of_blocks, body, {"BLOCKS": BLOCKS}, num_warps=1, num_stages=1)]
    found += [
        Compilation(
            f"nearest_of_windows[level={level}]",
            nearest_of_windows,
            body,
            {"LEVEL": level, "BLOCKS": BLOCKS},
            num_warps=1,
            num_stages=1,
        )
        for level in range(1, LEVELS)
    ]
    found += [
        Compilation(
            f"cull_hidden[{name}]",
            cull_hidden,
            cull,
            {"CULL": is_culled, "IMAGES": IMAGES},
            num_warps=1,
            num_stages=1,
            votes=IMAGES,
        )
        for name, is_culled in (("cull", True), ("all", False))
    ]
    return found
