"""Votes on a GPU: the Triton kernels put together. Arguments and results are those of ``chorus.kernels.arrays``.

Images are sorted by group and cut into segments, runs of at most ``SEGMENT`` images of one group; several segments make a pass,
whose working memory is bounded. Of a pass, ``triton_prepare`` makes matrices and block tables, ``triton_cull`` settles what
it can and lists the rest, and the kernels of ``triton_vote`` cast it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from chorus.kernels import triton_cull, triton_prepare, triton_vote
from chorus.kernels.arrays import VoteImages, VoxelField, check_call, empty_counts
from chorus.kernels.bricks import SIDE, VOXELS, Bricks, cut_into_bricks
from chorus.kernels.cpu import CullingStats
from chorus.kernels.masks import BLOCK

SEGMENT = 2048
"""Images in a segment at most; their indices are int16, and 16 bits hold the weighted votes of a counter."""
PASS_IMAGES = 1 << 16
LIST_BYTES = 1 << 30
"""Memory for the lists of a pass: 4 bytes a brick and image."""
TABLE_ENTRIES = 1 << 28
"""Entries of the summed-area tables of a pass."""
PACK = 4
"""Joints in a pack of the matrix kernel."""
Variant = Literal["auto", "lattice", "tensor"]


@dataclass(frozen=True)
class _Launch:
    """Bricks that one kernel takes: their indices and, for the matrix kernel, packed joints and operand."""

    bricks: Tensor
    packs: int = 0
    joints: Tensor | None = None
    operand: Tensor | None = None
    one_joint: bool = False


class FieldOnDevice:
    """A field as the kernels read it: bricks with their joints by falling mean weight, and what each kernel needs of them."""

    def __init__(self, field: VoxelField, device: torch.device) -> None:
        cut = _by_weight(cut_into_bricks(field.to("cpu")))
        self.device = device
        self.num_bricks = len(cut)
        self.every = torch.arange(len(cut), dtype=torch.int32, device=device)
        self.reach = max(
            abs(edge)
            for first, count in zip(field.origin, field.shape, strict=True)
            for edge in (first, first + field.spacing * (count + SIDE))
        )
        self.joint_counts = np.diff(cut.joint_offset)
        self.first, self.centre = self._tensor(cut.first), self._tensor(cut.centre)
        self.joint_offset = self._tensor(cut.joint_offset.astype(np.int32))
        self.joint, self.mean, self.variation = self._tensor(cut.joint), self._tensor(cut.mean), self._tensor(cut.variation)
        self.weight = self._tensor(cut.weight)
        self.rest_joints = field.rest_joints.to(device, torch.float64).contiguous()
        self.parents = field.parents.to(device, torch.int32).contiguous()
        self.rest_inverse = field.rest_inverse.to(device, torch.float64).contiguous()
        self.cut = cut
        self._origin, self._spacing = np.array(field.origin), field.spacing  # not the field, which would never be let go
        self._launches: dict[str, list[_Launch]] = {}

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def launches(self, variant: str) -> list[_Launch]:
        """Which kernel takes which bricks."""
        found = self._launches.get(variant)
        if found is None:
            one = self.joint_counts == 1
            lattice = {"lattice": np.ones_like(one), "tensor": np.zeros_like(one), "auto": one}[variant]
            found = [
                _Launch(self._tensor(np.flatnonzero(rows).astype(np.int32)), one_joint=is_one)
                for rows, is_one in ((lattice & one, True), (lattice & ~one, False))
                if rows.any()
            ]
            packs = -(-self.joint_counts // PACK)
            for count in np.unique(packs[~lattice]):
                rows = np.flatnonzero(~lattice & (packs == count))
                joints, operand = _operand(self.cut, self._origin, self._spacing, self.reach, rows, int(count))
                found.append(
                    _Launch(self._tensor(rows.astype(np.int32)), int(count), self._tensor(joints), self._tensor(operand))
                )
            self._launches[variant] = found
        return found


def _by_weight(cut: Bricks) -> Bricks:
    """The bricks with the joints of each by falling mean weight."""
    brick = np.repeat(np.arange(len(cut)), np.diff(cut.joint_offset))
    order = np.lexsort((-cut.mean, brick))
    return Bricks(
        cut.first, cut.centre, cut.joint_offset, cut.joint[order], cut.mean[order], cut.spread[order], cut.variation,
        cut.weight.reshape(-1, VOXELS)[order].ravel(),
    )  # fmt: skip


def _operand(
    cut: Bricks, origin: NDArray[np.float64], spacing: float, reach: float, rows: NDArray[np.intp], packs: int
) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """Joints (B, 4 packs) and w_j (x, y, z, 1) as high and low parts (B, packs, 2, 16, 64) of the bricks ``rows``.

    Scaled by a power of two, the same for the whole field, that keeps the largest value below 2^13.
    """
    slot = np.arange(PACK * packs)
    count = np.diff(cut.joint_offset)[rows]
    used = slot < count[:, None]
    entry = cut.joint_offset[rows][:, None] + np.where(used, slot, 0)
    joints = cut.joint[entry]
    lattice = np.indices((SIDE,) * 3).reshape(3, -1)
    scale = 2.0 ** (12 - np.ceil(np.log2(max(reach, 1.0))))
    operand = np.empty((len(rows), packs, 2, 4 * PACK, VOXELS), np.float16)
    for begin in range(0, len(rows), 4096):  # bounds the float64 copies
        piece = slice(begin, begin + 4096)
        weight = np.where(used[piece, :, None], cut.weight.reshape(-1, VOXELS)[entry[piece]], 0.0).astype(np.float64)
        at = cut.first[rows[piece]][:, :, None] + lattice
        place = origin[:, None] + spacing * at
        homogeneous = np.concatenate([place, np.ones_like(place[:, :1])], 1) * scale
        value = (weight[:, :, None] * homogeneous[:, None]).reshape(-1, packs, 4 * PACK, VOXELS)
        high = value.astype(np.float16)
        operand[piece, :, 0], operand[piece, :, 1] = high, (value - high).astype(np.float16)
    return joints, operand


_on_device: WeakKeyDictionary[VoxelField, dict[torch.device, FieldOnDevice]] = WeakKeyDictionary()


def field_on_device(field: VoxelField, device: torch.device) -> FieldOnDevice:
    """The field on a device, made once and kept as long as the field lives."""
    kept = _on_device.setdefault(field, {})
    if device not in kept:
        kept[device] = FieldOnDevice(field, device)
    return kept[device]


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


def count_votes(
    field: VoxelField,
    images: VoteImages,
    group: Tensor,
    weight: Tensor | None = None,
    *,
    num_groups: int,
    out: tuple[Tensor, Tensor] | None = None,
    cull: bool = True,
    variant: Variant = "auto",
    stats: CullingStats | None = None,
    pass_images: int = PASS_IMAGES,
) -> tuple[Tensor, Tensor]:
    """Votes by group: (num, den), int32 (G, V), where ``out`` is, or else where the images are. Nothing waits for the GPU.

    Images on the CPU travel to the GPU first; the field may be anywhere, and is kept on the GPU as long as it lives.

    cull         False projects every voxel into every image; the counts are the same bits
    variant      "lattice": float32 arithmetic; "tensor": matrix instructions on split float16; "auto": lattice for bricks with
                 one joint, tensor for the others
    stats        filled with what the culling did (and then waits for it)
    pass_images  images whose working memory is held at a time

    Raises ValueError where arguments do not fit, RuntimeError where there is no GPU.
    """
    if variant not in get_args(Variant):
        raise ValueError(f"variant: expected {', '.join(get_args(Variant))}; got {variant!r}")
    check_call(field, images, group, weight, num_groups, out)
    home = images.poses.device if out is None else out[0].device
    device = working_device(home, images.poses.device)
    counts = out if out is not None and home == device else empty_counts(field, num_groups, device)
    plan = field_on_device(field, device)
    for pass_ in prepare_passes(plan, images, group, weight, device, pass_images):
        lists = torch.empty(plan.num_bricks, 2, pass_.capacity, dtype=torch.int16, device=device)
        lengths = torch.empty(plan.num_bricks, pass_.num_segments, 4, dtype=torch.int32, device=device)
        cull_bricks(field, plan, pass_, plan.every, lists, lengths, counts, cull, weight is not None)
        for launch in plan.launches(variant):
            for kind, number in triton_vote.KINDS.items():
                if cull or kind == "both":
                    _vote(field, plan, pass_, launch, lists, lengths, counts, number, weight is not None)
        if stats is not None:
            *listed, outside = (int(x) for x in lengths.sum((0, 1), dtype=torch.int64))
            stats.pairs += plan.num_bricks * pass_.num_images
            stats.decided += plan.num_bricks * pass_.num_images - sum(listed)
            stats.outside += outside
    if counts is out or (out is None and home == device):
        return counts
    counts = counts[0].to(home), counts[1].to(home)
    if out is None:
        return counts
    for total, part in zip(out, counts, strict=True):
        total += part
    return out


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU (TRITON_INTERPRET=1 before the first import)."""
    return bool(triton.knobs.runtime.interpret)


def working_device(home: torch.device, images: torch.device) -> torch.device:
    """Where to work: with the result, else with the images, else on the current GPU."""
    for device in (home, images):
        if device.type == "cuda" or interpreted():
            return device
    if not torch.cuda.is_available():
        raise RuntimeError("the triton backend needs a GPU, and PyTorch sees none; the numba backend runs on the CPU")
    return torch.device("cuda", torch.cuda.current_device())


def capability(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of an NVIDIA device; None for any other."""
    return torch.cuda.get_device_capability(device) if use_ptx(device) else None


def use_ptx(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None


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
    "poses": torch.float32, "R": torch.float64, "t": torch.float64, "K": torch.float64, "size": torch.int32,
    "box": torch.int32, "start": torch.int64, "words": torch.int32,
}  # fmt: skip


def _plain(images: VoteImages) -> VoteImages:
    """The images with rows side by side and in the contract's types: what the kernels' addresses take for granted."""
    return VoteImages(*(getattr(images, name).to(dtype).contiguous() for name, dtype in _DTYPES.items()))


def _send(values: Tensor, device: torch.device) -> Tensor:
    """Values on the device; from the CPU through page-locked memory, so that nobody waits."""
    if values.device == device or device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


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
    weights = torch.zeros(1, dtype=torch.uint8, device=device) if weight is None else weight.to(device).contiguous()
    for segments in _pieces(totals, most):
        end = segments[-1][3] + segments[-1][1]
        places = np.zeros(end, np.int64)  # what lies between segments repeats the pass's first image and is never asked for
        places[:] = segments[0][0]
        for first, length, _, place in segments:
            places[place : place + length] = np.arange(first, first + length)
        rows = order[_send(torch.from_numpy(places), device)]
        yield _prepare(plan, images, rows, weights, entries[rows], segments, widest, table_limit, device)


def _prepare(
    plan: FieldOnDevice, images: VoteImages, rows: Tensor, weights: Tensor, entries: Tensor,
    segments: list[tuple[int, int, int, int]], widest: int, table_limit: int, device: torch.device,
) -> Pass:  # fmt: skip
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
        rows, images.poses, images.R, images.t, images.K, images.size, images.box, images.start,
        plan.rest_joints, plan.parents, plan.rest_inverse, tables, chain, lanes, scale, view, cull, blocks,
        count, capacity, J, plan.reach, IMAGES=triton_prepare.IMAGES, num_warps=2,
    )  # fmt: skip
    triton_prepare.split_matrices[(triton.cdiv(count, triton_prepare.SPLIT_IMAGES), J)](
        lanes, scale, split, count, capacity, J, IMAGES=triton_prepare.SPLIT_IMAGES, num_warps=4,
    )  # fmt: skip
    triton_prepare.sum_blocks[(count,)](
        images.words, images.start, blocks, images.box, rows, some, full, capacity,
        COLUMNS=max(16, triton.next_power_of_2(widest)), num_warps=1,
    )  # fmt: skip
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


def cull_bricks(
    field: VoxelField, plan: FieldOnDevice, on: Pass, bricks: Tensor, lists: Tensor, lengths: Tensor,
    counts: tuple[Tensor, Tensor], cull: bool, weighted: bool, regions: Tensor | None = None, touched: Tensor | None = None,
) -> None:  # fmt: skip
    """Launch ``triton_cull.cull_bricks``; with ``regions`` and ``touched`` for contacts."""
    triton_cull.cull_bricks[(len(bricks), on.num_segments)](
        on.lanes, on.cull, on.blocks, on.some, on.full, on.weights, bricks, plan.first, plan.centre, plan.joint_offset,
        plan.joint, plan.mean, plan.variation, on.segments, on.groups, lists, lengths, *counts, on.rows,
        lengths if regions is None else regions, lengths if touched is None else touched, on.capacity, on.num_segments,
        *field.shape, field.spacing, CULL=cull, WEIGHTED=weighted, CONTACTS=touched is not None,
        IMAGES=triton_cull.images_at_a_time(capability(plan.device)), num_warps=1,
    )  # fmt: skip


def _vote(
    field: VoxelField, plan: FieldOnDevice, on: Pass, launch: _Launch, lists: Tensor, lengths: Tensor,
    counts: tuple[Tensor, Tensor], kind: int, weighted: bool,
) -> None:  # fmt: skip
    grid = (len(launch.bricks), on.num_segments)
    flags = {"KIND": kind, "WEIGHTED": weighted, "PTX": use_ptx(plan.device)}
    if launch.packs:
        shape = triton_vote.tensor_shape(capability(plan.device))
        triton_vote.vote_tensor[grid](
            on.split, on.view, on.words, on.weights, lists, lengths, launch.bricks, plan.first, launch.joints, launch.operand,
            on.segments, on.groups, *counts, on.capacity, len(plan.parents), on.num_segments, launch.packs, *field.shape,
            PACKS=launch.packs if launch.packs <= shape.most_packs else 0, IMAGES=shape.images,
            num_warps=shape.num_warps, num_stages=shape.num_stages, **flags,
        )  # fmt: skip
    else:
        triton_vote.vote_lattice[grid](
            on.lanes, on.view, on.words, on.weights, lists, lengths, launch.bricks, plan.first, plan.centre, plan.joint_offset,
            plan.joint, plan.weight, on.segments, on.groups, *counts, on.capacity, on.num_segments, *field.shape,
            field.spacing, ONE_JOINT=launch.one_joint, IMAGES=triton_vote.LATTICE_IMAGES, num_warps=4, num_stages=1, **flags,
        )  # fmt: skip
