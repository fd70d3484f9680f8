"""Contacts on a GPU: the votes' machinery over the bricks that hold region voxels only (``chorus.kernels.contacts``)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.bricks import region_bricks
from chorus.kernels.contacts import check_contacts
from chorus.kernels.gpu.ahead_of_time import Compilation, types_of
from chorus.kernels.gpu.field import field_on_device, use_ptx, working_device
from chorus.kernels.gpu.passes import PASS_IMAGES, prepare_passes
from chorus.kernels.gpu.pixels import count_votes
from chorus.kernels.gpu.vote_kernels import BOTH, high_half, lattice_tile, list_of, low
from chorus.kernels.gpu.votes import cull_bricks

IMAGES = 32


@triton.jit
def _or(a, b):
    return a | b


@triton.jit(do_not_specialize=["num_segments"])
def touch_regions(
    lanes,
    view,
    words,
    lists,
    counts,
    bricks,
    centres,
    joint_offset,
    joint,
    voxel_weight,
    regions,
    rows,
    begins,
    touched,
    capacity,
    num_segments,
    spacing,
    IMAGES: tl.constexpr,
    PTX: tl.constexpr,
):
    """Set in ``touched`` (I,) int32 the regions whose voxels meet an image's mask, for the images listed.

    Grid (bricks, segments).

    regions  (B, 64) int32  of each voxel of the bricks
    rows     (C,) int64  which image lies where; other arguments as in ``triton_vote.vote_lattice``
    """
    place = tl.program_id(0)
    segment = tl.program_id(1)
    brick = tl.load(bricks + place)
    mine, count, begin = list_of(lists, counts, begins, place, segment, capacity, num_segments, BOTH)
    lane = tl.arange(0, IMAGES)
    yz = tl.arange(0, 16)
    dy = ((yz // 4).to(tl.float32) - 1.5) * spacing
    dz = ((yz % 4).to(tl.float32) - 1.5) * spacing
    cx = tl.load(centres + brick * 3)
    cy = tl.load(centres + brick * 3 + 1)
    cz = tl.load(centres + brick * 3 + 2)
    e0 = tl.load(joint_offset + brick)
    e1 = tl.load(joint_offset + brick + 1)
    weights_here = voxel_weight + e0.to(tl.int64) * 64 + yz
    mine_regions = regions + place * 64 + yz
    r0 = tl.load(mine_regions)[:, None]
    r1 = tl.load(mine_regions + 16)[:, None]
    r2 = tl.load(mine_regions + 32)[:, None]
    r3 = tl.load(mine_regions + 48)[:, None]
    none = tl.zeros([16, IMAGES], tl.int32)
    for at in range(0, count, IMAGES):
        valid = at + lane < count
        image = begin + tl.load(mine + at + lane, mask=valid, other=0).to(tl.int32)
        u0, u1, u2, u3, v0, v1, v2, v3, z0, z1, z2, z3 = lattice_tile(
            lanes, joint, weights_here, image, e0, e1, cx, cy, cz, dy, dz, spacing, capacity, False, IMAGES
        )
        see = view + image.to(tl.int64) * 8
        shift = tl.load(see)
        blocks = tl.load(see + 1, mask=valid, other=0)
        mask = (words + tl.load(see + 2)).to(tl.int64)[None, :]
        bx, by, wide, high = low(shift)[None, :], high_half(shift)[None, :], low(blocks)[None, :], high_half(blocks)[None, :]
        # The mask's blocks may stand out of the image, but their bits there are 0: asked for is z > 0 and the bit.
        zero = wide - wide
        h0 = count_votes(none, u0, v0, z0, bx, by, wide, high, mask, 1, zero, zero, wide, high, False, PTX)
        h1 = count_votes(none, u1, v1, z1, bx, by, wide, high, mask, 1, zero, zero, wide, high, False, PTX)
        h2 = count_votes(none, u2, v2, z2, bx, by, wide, high, mask, 1, zero, zero, wide, high, False, PTX)
        h3 = count_votes(none, u3, v3, z3, bx, by, wide, high, mask, 1, zero, zero, wide, high, False, PTX)
        found = tl.where((h0 & 1) != 0, r0, 0) | tl.where((h1 & 1) != 0, r1, 0)
        found |= tl.where((h2 & 1) != 0, r2, 0) | tl.where((h3 & 1) != 0, r3, 0)
        bits = tl.reduce(found, 0, _or)
        to = touched + tl.load(rows + image, mask=valid, other=0)
        tl.atomic_or(to, bits, mask=valid & (bits != 0), sem="relaxed")


def touched_regions(
    field: VoxelField, regions: Tensor, images: VoteImages, *, cull: bool = True, pass_images: int = PASS_IMAGES
) -> Tensor:
    """The regions that each image's mask touches: regions (V,) int32 bit sets -> (I,) int32 bit sets, where the images are.

    cull         False projects the bricks of regions into every image; the bits are the same
    pass_images  images whose working memory is held at a time

    A region is touched exactly if ``triton_votes.count_votes(variant="lattice")`` counts one of its voxels. Raises ValueError
    where arguments do not fit together, RuntimeError where there is no GPU.
    """
    check_contacts(field, regions, images)
    home = images.poses.device
    device = working_device(home, home)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        return _touched(field, regions, images, cull, pass_images, device).to(home)


def _touched(
    field: VoxelField, regions: Tensor, images: VoteImages, cull: bool, pass_images: int, device: torch.device
) -> Tensor:
    plan = field_on_device(field, device)
    touched = torch.zeros(len(images), dtype=torch.int32, device=device)
    chosen = region_bricks(field, regions.cpu(), plan.cut)
    if len(chosen.brick) == 0:
        return touched
    bricks = torch.from_numpy(chosen.brick).to(device, torch.int32)
    any_bits, bits = torch.from_numpy(chosen.any).to(device), torch.from_numpy(chosen.voxel).to(device)
    group = torch.zeros(len(images), dtype=torch.int64, device=images.poses.device)
    for on in prepare_passes(plan, images, group, None, device, pass_images):
        lists = torch.empty(len(bricks), 2, on.capacity, dtype=torch.int16, device=device)
        lengths = torch.empty(len(bricks), on.num_segments, 4, dtype=torch.int32, device=device)
        cull_bricks(field, plan, on, bricks, lists, lengths, (lengths, lengths), cull, False, any_bits, touched)
        touch_regions[(len(bricks), on.num_segments)](
            on.lanes,
            on.view,
            on.words,
            lists,
            lengths,
            bricks,
            plan.centre,
            plan.joint_offset,
            plan.joint,
            plan.weight,
            bits,
            on.rows,
            on.segments,
            touched,
            on.capacity,
            on.num_segments,
            float(field.spacing),
            IMAGES=IMAGES,
            PTX=use_ptx(device),
            num_warps=4,
            num_stages=1,
            enable_fp_fusion=False,
        )
    return touched


def compilations() -> list[Compilation]:
    """The kernel; what settles bricks for it is ``triton_cull``'s."""
    pointers = types_of(
        """
        *fp32: lanes centres voxel_weight
        *i64: view rows
        *i32: words counts bricks joint_offset joint regions begins touched
        *i16: lists
        """
    )
    return [
        Compilation(
            "touch_regions",
            touch_regions,
            dict(pointers, capacity="i32", num_segments="i32", spacing="fp32"),
            {"IMAGES": IMAGES, "PTX": True},
            4,
            1,
            frozenset(pointers) | {"capacity"},
            IMAGES * 64,
            None,
            False,
        )
    ]
