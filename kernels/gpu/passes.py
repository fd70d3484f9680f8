"""Passes of images for the Triton votes: sorted by group, cut into segments, sent to the device and prepared there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
import triton
from torch import Tensor

from chorus.kernels.arrays import VoteImages
from chorus.kernels.gpu import culling, prepare
from chorus.kernels.gpu.arguments import CullingTables, Images, Lists, Scratch, SourceImages
from chorus.kernels.gpu.field import FieldOnDevice
from chorus.kernels.gpu.pixels import VIEW
from chorus.kernels.gpu.vote_kernels import ALIGN
from chorus.kernels.masks import BLOCK

SEGMENT = 2048
"""Images in a segment at most; their indices are int16, and 16 bits hold the weighted votes of a counter."""
PASS_IMAGES = 1 << 16
LIST_BYTES = 1 << 30
"""Memory for the lists of a pass: 4 bytes a brick and image."""
TABLE_ENTRIES = 1 << 28
"""Entries of the summed-area tables of a pass."""


@dataclass(frozen=True)
class Pass:
    """One pass of images on the device, prepared.

    images    of its places for images some are filled (some twice)
    segments  (S, 2) int32  first image and number of images of each segment
    groups    (S,) int32
    scale     (C,) float32  by which the matrices of ``images.split`` are scaled
    unused    int16         for arguments that a kernel does not read
    """

    images: Images
    tables: CullingTables
    segments: Tensor
    groups: Tensor
    scale: Tensor
    unused: Tensor
    num_segments: int
    num_images: int

    def new_lists(self, num_bricks: int) -> Lists:
        """Lists that ``culling.cull_bricks`` is to fill for so many bricks."""
        device = self.segments.device
        images = torch.empty(num_bricks, 2, self.images.capacity, dtype=torch.int16, device=device)
        lengths = torch.empty(num_bricks, self.num_segments, 4, dtype=torch.int32, device=device)
        return Lists(images, lengths, self.segments, self.groups)


_copy_streams: dict[torch.device, torch.cuda.Stream] = {}


def _upload(images: VoteImages, device: torch.device) -> VoteImages:
    """The images on the device. From pinned memory they are copied beside the kernels that still run."""
    if images.poses.device == device or device.type != "cuda":
        return _plain(images.to(device))
    copying = _copy_streams.setdefault(device, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
    current = torch.cuda.current_stream(device)
    with torch.cuda.stream(copying):
        there = images.to(device, non_blocking=True)
    current.wait_stream(copying)
    for field in fields(there):  # their memory may be used again once the kernels have read them
        getattr(there, field.name).record_stream(current)
    return _plain(there)


_DTYPES = {
    "poses": torch.float32,
    "R": torch.float64,
    "t": torch.float64,
    "K": torch.float64,
    "size": torch.int32,
    "box": torch.int32,
    "start": torch.int64,
    "words": torch.int32,
}


def _plain(images: VoteImages) -> VoteImages:
    """The images with rows side by side and in the contract's types: what the kernels' addresses take for granted."""
    return VoteImages(*(getattr(images, name).to(dtype).contiguous() for name, dtype in _DTYPES.items()))


def _send(values: Tensor, device: torch.device) -> Tensor:
    """Values on the device; from the CPU through page-locked memory, so that nobody waits."""
    if values.device == device or device.type != "cuda":
        return values.to(device)
    return (values if values.is_pinned() else values.pin_memory()).to(device, non_blocking=True)


def _pieces(totals: list[int], most: int) -> Iterator[list[tuple[int, int, int, int]]]:
    """Passes of segments (first sorted image, images, group, place) from the number of images of each group."""
    align = int(ALIGN)
    segments: list[tuple[int, int, int, int]] = []
    first = place = 0
    longest = max(1, min(SEGMENT, most))
    for group, total in enumerate(totals):
        for begin in range(0, total, longest):
            length = min(longest, total - begin)
            if segments and place + length > most:
                yield segments
                segments, place = [], 0
            segments.append((first + begin, length, group, place))
            place += -(-length // align) * align
        first += total
    if segments:
        yield segments


def prepare_passes(
    plan: FieldOnDevice,
    images: VoteImages,
    group: Tensor,
    weight: Tensor | None,
    device: torch.device,
    pass_images: int = PASS_IMAGES,
) -> Iterator[Pass]:
    """The images of a call, sorted by group, pass by pass."""
    if len(images) == 0:
        return
    order = _send(torch.argsort(group, stable=True), device)
    totals = torch.bincount(group).tolist()
    box = images.box.long()
    across, down = ((box[:, 2:] + BLOCK - 1) // BLOCK - box[:, :2] // BLOCK).unbind(1)
    entries = torch.where((box[:, 2:] > box[:, :2]).all(1), (across + 1) * (down + 1), 1)
    widest, table_limit = (int(x) for x in torch.stack([across.amax(), entries.amax()]).tolist())
    most = min(pass_images, PASS_IMAGES, LIST_BYTES // (4 * plan.num_bricks), TABLE_ENTRIES // table_limit)
    images, entries = _upload(images, device), _send(entries, device)
    image_weights = torch.zeros(1, dtype=torch.uint8, device=device) if weight is None else _send(weight, device).contiguous()
    for segments in _pieces(totals, most):
        end = segments[-1][3] + segments[-1][1]
        places = np.zeros(end, np.int64)  # what lies between segments repeats the pass's first image and is never asked for
        places[:] = segments[0][0]
        for first, length, _, place in segments:
            places[place : place + length] = np.arange(first, first + length)
        rows = order[_send(torch.from_numpy(places), device)]
        yield _prepare(plan, images, rows, image_weights, entries[rows], segments, widest, table_limit, device)


def _prepare(
    plan: FieldOnDevice,
    images: VoteImages,
    rows: Tensor,
    image_weights: Tensor,
    entries: Tensor,
    segments: list[tuple[int, int, int, int]],
    widest: int,
    table_limit: int,
    device: torch.device,
) -> Pass:
    count, J = len(rows), plan.num_joints
    capacity = -(-count // 128) * 128 + culling.MOST_IMAGES

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    arrays = Images(
        lanes=empty(J, 12, capacity, dtype=torch.float32),
        split=empty(capacity, J, 3, 8, dtype=torch.float16),
        view=empty(capacity, int(VIEW), dtype=torch.int64),
        words=images.words,
        image_weights=image_weights[rows] if len(image_weights) > 1 or len(images) == 1 else image_weights,
        rows=rows,
        capacity=capacity,
    )
    # An upper bound: asking the device for the sum would wait for it.
    any_sums = empty(count * table_limit, dtype=torch.int32)
    tables = CullingTables(
        bound_terms=empty(prepare.BOUND_TERMS, capacity, dtype=torch.float32),
        blocks=empty(prepare.BLOCK_ROWS, capacity, dtype=torch.int32),
        any_sums=any_sums,
        full_sums=torch.empty_like(any_sums),
    )
    scratch = Scratch(
        chain=empty(J, 12, capacity, dtype=torch.float64),
        scale=empty(capacity, dtype=torch.float32),
        table_start=torch.cumsum(entries, 0) - entries,
    )
    source = SourceImages(*(getattr(images, name) for name in SourceImages._fields))
    prepare.prepare_images[(triton.cdiv(count, prepare.IMAGES),)](
        source,
        plan.skeleton,
        arrays,
        tables,
        scratch,
        count,
        J,
        IMAGES=prepare.IMAGES,
        num_warps=2,
        num_stages=1,
    )
    prepare.split_matrices[(triton.cdiv(count, prepare.SPLIT_IMAGES), J)](
        arrays, scratch.scale, count, J, IMAGES=prepare.SPLIT_IMAGES, num_warps=4, num_stages=1
    )
    columns = max(16, triton.next_power_of_2(widest))
    prepare.sum_blocks[(count,)](source, arrays, tables, COLUMNS=columns, num_warps=1, num_stages=1)
    table = np.array(segments, np.int32)
    return Pass(
        images=arrays,
        tables=tables,
        segments=_send(torch.from_numpy(np.ascontiguousarray(table[:, [3, 1]])), device),
        groups=_send(torch.from_numpy(np.ascontiguousarray(table[:, 2])), device),
        scale=scratch.scale,
        unused=empty(16, dtype=torch.int16),
        num_segments=len(segments),
        num_images=int(table[:, 1].sum()),
    )
