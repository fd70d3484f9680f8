"""Passes of images for the Triton votes: sorted by group, cut into segments, sent to the device and prepared there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
import triton
from torch import Tensor

from chorus.kernels.arrays import VoteImages
from chorus.kernels.gpu import culling as triton_cull
from chorus.kernels.gpu import prepare as triton_prepare
from chorus.kernels.gpu import vote_kernels as triton_vote
from chorus.kernels.gpu.field import FieldOnDevice
from chorus.kernels.masks import BLOCK

SEGMENT = 2048
"""Images in a segment at most; their indices are int16, and 16 bits hold the weighted votes of a counter."""
PASS_IMAGES = 1 << 16
LIST_BYTES = 1 << 30
"""Memory for the lists of a pass: 4 bytes a brick and image."""
TABLE_ENTRIES = 1 << 28
"""Entries of the summed-area tables of a pass."""


@dataclass
class Pass:
    """One pass of images on the device; C = ``capacity`` places for images, of which ``length`` are filled (some twice).

    rows      (length,) int64  which of the images lies where
    segments  (S, 2) int32  first image and number of images of each segment
    groups    (S,) int32
    The rest as ``triton_prepare`` leaves it.
    """

    rows: Tensor
    segments: Tensor
    groups: Tensor
    num_segments: int
    capacity: int
    num_images: int
    words: Tensor
    weights: Tensor
    lanes: Tensor
    split: Tensor
    view: Tensor
    cull: Tensor
    blocks: Tensor
    some: Tensor
    full: Tensor


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
    align = int(triton_vote.ALIGN)
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
    weights = torch.zeros(1, dtype=torch.uint8, device=device) if weight is None else _send(weight, device).contiguous()
    for segments in _pieces(totals, most):
        end = segments[-1][3] + segments[-1][1]
        places = np.zeros(end, np.int64)  # what lies between segments repeats the pass's first image and is never asked for
        places[:] = segments[0][0]
        for first, length, _, place in segments:
            places[place : place + length] = np.arange(first, first + length)
        rows = order[_send(torch.from_numpy(places), device)]
        yield _prepare(plan, images, rows, weights, entries[rows], segments, widest, table_limit, device)


def _prepare(
    plan: FieldOnDevice,
    images: VoteImages,
    rows: Tensor,
    weights: Tensor,
    entries: Tensor,
    segments: list[tuple[int, int, int, int]],
    widest: int,
    table_limit: int,
    device: torch.device,
) -> Pass:
    count, J = len(rows), len(plan.parents)
    capacity = -(-count // 128) * 128 + triton_cull.MOST_IMAGES

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    tables = torch.cumsum(entries, 0) - entries
    # An upper bound: asking the device for the sum would wait for it.
    some = empty(count * table_limit, dtype=torch.int32)
    full = torch.empty_like(some)
    lanes, split = empty(J, 12, capacity, dtype=torch.float32), empty(capacity, J, 3, 8, dtype=torch.float16)
    view, scale = empty(capacity, triton_vote.VIEW, dtype=torch.int64), empty(capacity, dtype=torch.float32)
    cull = empty(triton_prepare.CULL_ROWS, capacity, dtype=torch.float32)
    blocks = empty(triton_prepare.BLOCK_ROWS, capacity, dtype=torch.int32)
    chain = empty(J, 12, capacity, dtype=torch.float64)
    triton_prepare.prepare_images[(triton.cdiv(count, triton_prepare.IMAGES),)](
        rows,
        images.poses,
        images.R,
        images.t,
        images.K,
        images.size,
        images.box,
        images.start,
        plan.rest_joints,
        plan.parents,
        plan.rest_inverse,
        tables,
        chain,
        lanes,
        scale,
        view,
        cull,
        blocks,
        count,
        capacity,
        J,
        plan.reach,
        IMAGES=triton_prepare.IMAGES,
        num_warps=2,
        num_stages=1,
    )
    triton_prepare.split_matrices[(triton.cdiv(count, triton_prepare.SPLIT_IMAGES), J)](
        lanes,
        scale,
        split,
        count,
        capacity,
        J,
        IMAGES=triton_prepare.SPLIT_IMAGES,
        num_warps=4,
        num_stages=1,
    )
    triton_prepare.sum_blocks[(count,)](
        images.words,
        images.start,
        blocks,
        images.box,
        rows,
        some,
        full,
        capacity,
        COLUMNS=max(16, triton.next_power_of_2(widest)),
        num_warps=1,
        num_stages=1,
    )
    table = np.array(segments, np.int32)
    return Pass(
        rows=rows,
        segments=_send(torch.from_numpy(np.ascontiguousarray(table[:, [3, 1]])), device),
        groups=_send(torch.from_numpy(np.ascontiguousarray(table[:, 2])), device),
        num_segments=len(segments),
        capacity=capacity,
        num_images=int(table[:, 1].sum()),
        words=images.words,
        weights=weights[rows] if len(weights) > 1 or len(images) == 1 else weights,
        lanes=lanes,
        split=split,
        view=view,
        cull=cull,
        blocks=blocks,
        some=some,
        full=full,
    )
