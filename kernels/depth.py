"""How far the posed body is in each image, at reduced resolution: what hidden votes are decided by.

An image is cut into cells of 2^shift x 2^shift pixels, aligned to its origin; a cell has the depth z of the body's nearest
surface at its centre. Cells lie in blocks of 4 x 4. Of one image, the blocks that the body meets (a box of them) are kept
row by row, 16 values each, a row of 4 cells after the other: a block is 32 bytes, one memory sector. A value is a number of
millimetres beyond the image's ``near``, uint16; 65535 is a cell without body. Integers are small, and the same everywhere.

A vote of a voxel at depth z (metres from the camera plane) whose pixel lies in a cell of value q is *hidden* where

    z > limit + q / 1000,   limit = near + margin

the margin being what the body's surface, its resolution and an object worn on it may be off. Where no body is, no vote is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIDE = 4
"""Cells along a block."""
CELLS = SIDE * SIDE
NO_BODY = 65535
"""The value of a cell in which no body is seen."""
STEP = 1e-3
"""Metres of one unit of a value."""
MARGIN = 0.06
"""Metres that a voxel must lie behind the body's surface to be hidden by it."""
MOST_SHIFT = 12


@dataclass(frozen=True, eq=False)
class BodyDepth:
    """Depth of the posed body in I images, packed as the module says.

    shift   (I,) int32    a cell is 2^shift pixels wide and high, 0 .. 12
    box     (I, 4) int32  x0, y0, x1, y1 in blocks of 4 x 4 cells, half open; all zero where no body is seen
    near    (I,) float32  metres: the depth of value 0
    start   (I,) int64    first value of each image
    values  (T,) int16    bit patterns of uint16 millimetres beyond ``near``; 65535: no body
    margin  metres, see above
    """

    shift: Tensor
    box: Tensor
    near: Tensor
    start: Tensor
    values: Tensor
    margin: float = MARGIN

    def __len__(self) -> int:
        return len(self.shift)

    def __getitem__(self, rows: slice | Tensor) -> BodyDepth:
        """A selection of the images; values are shared."""
        return BodyDepth(self.shift[rows], self.box[rows], self.near[rows], self.start[rows], self.values, self.margin)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> BodyDepth:
        """The depths with their tensors on a device."""
        tensors = (self.shift, self.box, self.near, self.start, self.values)
        shift, box, near, start, values = (t.to(device, non_blocking=non_blocking) for t in tensors)
        return BodyDepth(shift, box, near, start, values, self.margin)

    @classmethod
    def join(cls, parts: Sequence[BodyDepth]) -> BodyDepth:
        """The depths of several batches of images, one after the other; of one margin, on one device, at least one."""
        if len(parts) == 1:
            return parts[0]
        before, starts = 0, []
        for part in parts:
            starts.append(part.start + before)
            before += len(part.values)
        shift, box, near, values = (torch.cat([getattr(p, name) for p in parts]) for name in ("shift", "box", "near", "values"))
        return cls(shift, box, near, torch.cat(starts), values, parts[0].margin)

    @property
    def limit(self) -> Tensor:
        """near + margin, rounded once: (I,) float32 metres. What all backends compare with."""
        return (self.near.double() + self.margin).float()

    def problem(self) -> str | None:
        """What is wrong with these arrays, in words, or None: types, shapes, boxes and values out of range."""
        n = len(self.shift)
        for name, dtype, shape in (
            ("shift", torch.int32, (n,)),
            ("box", torch.int32, (n, 4)),
            ("near", torch.float32, (n,)),
            ("start", torch.int64, (n,)),
            ("values", torch.int16, tuple(self.values.shape[:1])),
        ):
            found = getattr(self, name)
            if found.dtype != dtype or tuple(found.shape) != shape:
                return f"depth.{name}: expected {dtype} of shape {shape}, got {found.dtype} of shape {tuple(found.shape)}"
            if found.device != self.shift.device:
                return f"depth.{name}: expected it on {self.shift.device}, as the shifts are; got {found.device}"
        if not (np.isfinite(self.margin) and self.margin >= 0):
            return f"depth.margin: expected a length in metres, got {self.margin}"
        wide = self.box[:, 2:].long() - self.box[:, :2]
        last = self.start + blocks_in(self.box) * CELLS
        wrong = torch.stack(
            [
                (self.shift < 0) | (self.shift > MOST_SHIFT),
                (self.box < 0).any(1) | ((wide <= 0).any(1) & (self.box != 0).any(1)),
                ~torch.isfinite(self.near),
                (self.start < 0) | (last > len(self.values)),
            ]
        ).any(1)
        said = ("shift", "box", "near", "start")
        wanted = (f"0 .. {MOST_SHIFT}", "0 <= x0 < x1 and 0 <= y0 < y1, or zeros", "finite metres", "blocks within the values")
        for name, words, is_wrong in zip(said, wanted, wrong.tolist(), strict=True):
            if is_wrong:
                return f"depth.{name}: expected {words}, got others"
        return None


def blocks_in(box: Tensor) -> Tensor:
    """Number of blocks in boxes (I, 4) of blocks: (I,) int64."""
    return (box[:, 2:].long() - box[:, :2]).clamp(min=0).prod(1)


def pack_depth(maps: Sequence[NDArray[Any]], shifts: Sequence[int], margin: float = MARGIN) -> BodyDepth:
    """Dense depth maps, packed: those of another renderer, of a depth camera or of a network, for instance.

    maps    of each image (rows, columns) of cells, metres; inf or NaN where there is no body. Cell (row, column) covers pixels
            from (row, column) 2^shift on. Depths more than 65.534 m behind an image's nearest are taken to be that far
    shifts  of each image, 0 .. 12

    Raises ValueError for other shapes.
    """
    boxes, nears, starts, values, at = np.zeros((len(maps), 4), np.int32), np.zeros(len(maps), np.float32), [], [], 0
    for i, cells in enumerate(maps):
        dense = np.asarray(cells, np.float64)
        if dense.ndim != 2:
            raise ValueError(f"maps: expected (rows, columns) of cells, got shape {dense.shape} in row {i}")
        starts.append(at)
        seen = np.isfinite(dense)
        if not seen.any():
            continue
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        x0, y0, x1, y1 = columns[0] // SIDE, rows[0] // SIDE, columns[-1] // SIDE + 1, rows[-1] // SIDE + 1
        nears[i] = dense[seen].min()
        box = np.full(((y1 - y0) * SIDE, (x1 - x0) * SIDE), NO_BODY, np.uint16)
        part = dense[y0 * SIDE : y1 * SIDE, x0 * SIDE : x1 * SIDE]
        beyond = np.rint((np.where(np.isfinite(part), part, nears[i]) - np.float64(nears[i])) / STEP)
        stored = np.where(np.isfinite(part), np.clip(beyond, 0, NO_BODY - 1), NO_BODY)
        box[: part.shape[0], : part.shape[1]] = stored.astype(np.uint16)
        blocks = box.reshape(y1 - y0, SIDE, x1 - x0, SIDE).swapaxes(1, 2)
        boxes[i] = x0, y0, x1, y1
        values.append(blocks.reshape(-1))
        at += blocks.size
    packed = np.concatenate([np.zeros(0, np.uint16), *values]).view(np.int16)
    made = BodyDepth(
        torch.tensor(list(shifts), dtype=torch.int32).reshape(-1),
        torch.from_numpy(boxes),
        torch.from_numpy(nears),
        torch.tensor(starts, dtype=torch.int64),
        torch.from_numpy(packed),
        margin,
    )
    wrong = made.problem()
    if wrong is not None:
        raise ValueError(wrong)
    return made


def limits_of(depth: BodyDepth, row: int, height: int, width: int) -> Tensor:
    """Beyond which depth a vote is hidden, by pixel: (height, width) float64 metres, inf where no body is seen."""
    shift = int(depth.shift[row])
    x0, y0, x1, y1 = depth.box[row].tolist()
    device = depth.values.device
    rows, columns = max(y1 * SIDE, ((height - 1) >> shift) + 1), max(x1 * SIDE, ((width - 1) >> shift) + 1)
    cells = torch.full((rows, columns), torch.inf, dtype=torch.float64, device=device)
    if x1 > x0:
        first = int(depth.start[row])
        values = depth.values[first : first + (y1 - y0) * (x1 - x0) * CELLS].long() & 0xFFFF
        tile = values.reshape(y1 - y0, x1 - x0, SIDE, SIDE).transpose(1, 2).reshape((y1 - y0) * SIDE, (x1 - x0) * SIDE)
        limit = depth.limit[row].double() + tile.double() * STEP
        cells[y0 * SIDE : y1 * SIDE, x0 * SIDE : x1 * SIDE] = torch.where(tile == NO_BODY, torch.inf, limit)
    line = torch.arange(height, device=device) >> shift
    column = torch.arange(width, device=device) >> shift
    return cells[line[:, None], column[None, :]]
