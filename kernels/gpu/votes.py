"""Votes on a GPU: the Triton kernels put together. Arguments and results are those of ``chorus.kernels.arrays``.

Images are sorted by group and cut into segments, runs of at most ``SEGMENT`` images of one group; several segments make a pass,
whose working memory is bounded. Of a pass, ``triton_prepare`` makes matrices and block tables, ``triton_cull`` settles what
it can and lists the rest, and the kernels of ``triton_vote`` cast it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField, check_call, empty_counts
from chorus.kernels.gpu import culling as triton_cull
from chorus.kernels.gpu import vote_kernels as triton_vote
from chorus.kernels.gpu.field import FieldOnDevice, Launch, capability, field_on_device, use_ptx, working_device
from chorus.kernels.gpu.passes import PASS_IMAGES, Pass, prepare_passes
from chorus.kernels.stats import CullingStats

Variant = Literal["auto", "lattice", "tensor"]


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
    """Votes by group: (num, den), int32 (G, V), where ``out`` is, or else where the images are.

    Kernels are queued on the current stream; nothing waits for them where images and groups come from the CPU.

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
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return _count_votes(field, images, group, weight, num_groups, out, home, device, cull, variant, stats, pass_images)


def _count_votes(
    field: VoxelField,
    images: VoteImages,
    group: Tensor,
    weight: Tensor | None,
    num_groups: int,
    out: tuple[Tensor, Tensor] | None,
    home: torch.device,
    device: torch.device,
    cull: bool,
    variant: str,
    stats: CullingStats | None,
    pass_images: int,
) -> tuple[Tensor, Tensor]:
    plain = out is not None and home == device and all(c.is_contiguous() for c in out)
    counts = out if out is not None and plain else empty_counts(field, num_groups, device)
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


def cull_bricks(
    field: VoxelField,
    plan: FieldOnDevice,
    on: Pass,
    bricks: Tensor,
    lists: Tensor,
    lengths: Tensor,
    counts: tuple[Tensor, Tensor],
    cull: bool,
    weighted: bool,
    regions: Tensor | None = None,
    touched: Tensor | None = None,
) -> None:
    """Launch ``triton_cull.cull_bricks``; with ``regions`` and ``touched`` for contacts."""
    triton_cull.cull_bricks[(len(bricks), on.num_segments)](
        on.lanes,
        on.cull,
        on.blocks,
        on.some,
        on.full,
        on.weights,
        bricks,
        plan.first,
        plan.centre,
        plan.joint_offset,
        plan.joint,
        plan.mean,
        plan.variation,
        on.segments,
        on.groups,
        lists,
        lengths,
        *counts,
        on.rows,
        lengths if regions is None else regions,
        lengths if touched is None else touched,
        on.capacity,
        on.num_segments,
        *field.shape,
        float(field.spacing),
        CULL=cull,
        WEIGHTED=weighted and cull,
        CONTACTS=touched is not None,
        IMAGES=triton_cull.images_at_a_time(capability(plan.device)),
        num_warps=1,
        num_stages=1,
    )


def _vote(
    field: VoxelField,
    plan: FieldOnDevice,
    on: Pass,
    launch: Launch,
    lists: Tensor,
    lengths: Tensor,
    counts: tuple[Tensor, Tensor],
    kind: int,
    weighted: bool,
) -> None:
    grid = (len(launch.bricks), on.num_segments)
    flags = {"KIND": kind, "WEIGHTED": weighted, "PTX": use_ptx(plan.device), "enable_fp_fusion": False}
    if launch.packs:
        shape = triton_vote.tensor_shape(capability(plan.device))
        triton_vote.vote_tensor[grid](
            on.split,
            on.view,
            on.words,
            on.weights,
            lists,
            lengths,
            launch.bricks,
            plan.first,
            launch.joints,
            launch.operand,
            on.segments,
            on.groups,
            *counts,
            on.capacity,
            len(plan.parents),
            on.num_segments,
            launch.packs,
            *field.shape,
            PACKS=launch.packs if launch.packs <= shape.most_packs else 0,
            IMAGES=shape.images,
            num_warps=shape.num_warps,
            num_stages=shape.num_stages,
            **flags,
        )
    else:
        triton_vote.vote_lattice[grid](
            on.lanes,
            on.view,
            on.words,
            on.weights,
            lists,
            lengths,
            launch.bricks,
            plan.first,
            plan.centre,
            plan.joint_offset,
            plan.joint,
            plan.weight,
            on.segments,
            on.groups,
            *counts,
            on.capacity,
            on.num_segments,
            *field.shape,
            float(field.spacing),
            ONE_JOINT=launch.one_joint,
            IMAGES=triton_vote.LATTICE_IMAGES,
            num_warps=4,
            num_stages=1,
            **flags,
        )
