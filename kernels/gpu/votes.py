"""Votes on a GPU: the Triton kernels put together. Arguments and results are those of ``chorus.kernels.arrays``.

Images are sorted by group and cut into segments, runs of at most ``SEGMENT`` images of one group; several segments make a pass,
whose working memory is bounded. Of a pass, ``prepare`` makes matrices and block tables, ``culling`` settles what it can
and lists the rest, and ``vote_kernels`` cast it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField, check_call, empty_counts
from chorus.kernels.depth import BodyDepth
from chorus.kernels.gpu import culling, hidden, vote_kernels
from chorus.kernels.gpu.arguments import BodyCells, Contacts, Counts, Lists
from chorus.kernels.gpu.field import FieldOnDevice, Launch, capability, field_on_device, use_ptx, working_device
from chorus.kernels.gpu.passes import PASS_IMAGES, Pass, prepare_passes
from chorus.kernels.gpu.pixels import HIDDEN, KINDS
from chorus.kernels.stats import CullingStats

Variant = Literal["auto", "lattice", "tensor"]


def count_votes(
    field: VoxelField,
    images: VoteImages,
    group: Tensor,
    weight: Tensor | None = None,
    *,
    depth: BodyDepth | None = None,
    num_groups: int,
    out: tuple[Tensor, ...] | None = None,
    cull: bool = True,
    variant: Variant = "auto",
    stats: CullingStats | None = None,
    pass_images: int = PASS_IMAGES,
) -> tuple[Tensor, ...]:
    """Votes by group: (num, den), int32 (G, V), where ``out`` is, or else where the images are; with ``depth`` the hidden too.

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
    check_call(field, images, group, weight, num_groups, out, depth)
    home = images.poses.device if out is None else out[0].device
    device = working_device(home, images.poses.device)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        plain = out is not None and home == device and all(c.is_contiguous() for c in out)
        counts = out if out is not None and plain else empty_counts(field, num_groups, device, hidden=depth is not None)
        depth = None if depth is None else depth.to(device)
        plan = field_on_device(field, device)
        for pass_ in prepare_passes(plan, images, group, weight, device, pass_images):
            _cast_pass(plan, pass_, counts, depth, cull, variant, weight is not None, stats)
    if counts is out or (out is None and home == device):
        return counts
    counts = tuple(c.to(home) for c in counts)
    if out is None:
        return counts
    for total, part in zip(out, counts, strict=True):
        total += part
    return out


def _cast_pass(
    plan: FieldOnDevice,
    pass_: Pass,
    counts: tuple[Tensor, ...],
    depth: BodyDepth | None,
    cull: bool,
    variant: str,
    weighted: bool,
    stats: CullingStats | None,
) -> None:
    """Cast the votes of a pass, and those of them that the body hides once more, into the counts of these."""
    lists = pass_.new_lists(plan.num_bricks)
    totals, nothing = Counts(*counts[:2]), hidden.no_body(pass_)
    cull_bricks(plan, pass_, lists, totals, cull=cull, weighted=weighted)
    for launch in plan.launches(variant):
        for kind in KINDS:
            if cull or kind == "both":
                cast_votes(plan, pass_, launch, lists, totals, nothing, kind=KINDS[kind], weighted=weighted)
    if stats is not None:
        *listed, outside = (int(x) for x in lists.lengths.sum((0, 1), dtype=torch.int64))
        stats.pairs += plan.num_bricks * pass_.num_images
        stats.decided += plan.num_bricks * pass_.num_images - sum(listed)
        stats.outside += outside
    if depth is None:
        return
    lattice, tensor = hidden.body_cells(depth, pass_, plan.operand_scale)
    hidden.cull_hidden[(plan.num_bricks, pass_.num_segments)](
        pass_.images,
        pass_.tables,
        plan.bricks,
        lattice,
        lists,
        CULL=cull,
        IMAGES=hidden.IMAGES,
        num_warps=1,
        num_stages=1,
    )
    for launch in plan.launches(variant):
        body = lattice if launch.packs is None else tensor
        cast_votes(plan, pass_, launch, lists, Counts(*counts[2:]), body, kind=HIDDEN.value, weighted=weighted)


def cull_bricks(
    plan: FieldOnDevice,
    pass_: Pass,
    lists: Lists,
    counts: Counts,
    *,
    cull: bool,
    weighted: bool,
    selected: Tensor | None = None,
    contacts: Contacts | None = None,
) -> None:
    """Launch ``culling.cull_bricks`` for all bricks, or for those ``selected`` (N,) int32; with ``contacts``, for these."""
    bricks = plan.bricks if selected is None else plan.bricks._replace(selected=selected)
    unused = Contacts(lists.lengths, lists.lengths, lists.lengths)
    culling.cull_bricks[(len(bricks.selected), pass_.num_segments)](
        pass_.images,
        pass_.tables,
        bricks,
        lists,
        counts,
        unused if contacts is None else contacts,
        CULL=cull,
        WEIGHTED=weighted and cull,
        CONTACTS=contacts is not None,
        IMAGES=culling.images_at_a_time(capability(plan.device)),
        num_warps=1,
        num_stages=1,
    )


def cast_votes(
    plan: FieldOnDevice,
    pass_: Pass,
    launch: Launch,
    lists: Lists,
    counts: Counts,
    body: BodyCells,
    *,
    kind: int,
    weighted: bool,
) -> None:
    """Launch the vote kernel that takes these bricks, for the lists of one kind: ``pixels.KINDS`` or HIDDEN."""
    grid = (len(launch.selected), pass_.num_segments)
    bricks = plan.bricks._replace(selected=launch.selected)
    flags = {"KIND": kind, "WEIGHTED": weighted, "PTX": use_ptx(plan.device), "enable_fp_fusion": False}
    if launch.packs is not None:
        shape = vote_kernels.tensor_shape(capability(plan.device))
        vote_kernels.vote_tensor[grid](
            pass_.images,
            bricks,
            launch.packs,
            lists,
            counts,
            body,
            plan.num_joints,
            PACKS=launch.num_packs if launch.num_packs <= shape.unrolled(kind) else 0,
            IMAGES=shape.images,
            num_warps=shape.num_warps,
            num_stages=shape.num_stages,
            **flags,
        )
    else:
        vote_kernels.vote_lattice[grid](
            pass_.images,
            bricks,
            lists,
            counts,
            body,
            ONE_JOINT=launch.one_joint,
            IMAGES=vote_kernels.LATTICE_IMAGES,
            num_warps=4,
            num_stages=1,
            **flags,
        )
