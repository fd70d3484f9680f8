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
from chorus.kernels.gpu.ahead_of_time import Compilation
from chorus.kernels.gpu.arguments import BrickArrays, Contacts, Counts, Images, Lists
from chorus.kernels.gpu.field import field_on_device, use_ptx, working_device
from chorus.kernels.gpu.passes import PASS_IMAGES, prepare_passes
from chorus.kernels.gpu.pixels import BOTH, ON_MASK, View, load_view
from chorus.kernels.gpu.vote_kernels import count_lattice, lattice_tile, list_of, load_lattice
from chorus.kernels.gpu.votes import cull_bricks

IMAGES = 32


@triton.jit
def _or(a, b):
    return a | b


@triton.jit
def touch_regions(
    images: Images, bricks: BrickArrays, lists: Lists, contacts: Contacts, IMAGES: tl.constexpr, PTX: tl.constexpr
):
    """Set in ``contacts.touched`` the regions whose voxels meet an image's mask, for the images that the lists BOTH say.

    Grid (N, S), a program a brick of ``bricks.selected`` and a segment; ``lists`` are by place in ``bricks.selected``.
    """
    place = tl.program_id(0)
    segment = tl.program_id(1)
    brick = tl.load(bricks.selected + place)
    mine, length, begin = list_of(lists, place, segment, images.capacity, BOTH)
    lane = tl.arange(0, IMAGES)
    lattice = load_lattice(bricks, brick)
    regions = contacts.voxel_regions + place * 64 + tl.arange(0, 16)
    r0 = tl.load(regions)[:, None]
    r1 = tl.load(regions + 16)[:, None]
    r2 = tl.load(regions + 32)[:, None]
    r3 = tl.load(regions + 48)[:, None]
    none = tl.zeros([16, IMAGES], tl.int32)
    for at in range(0, length, IMAGES):
        valid = at + lane < length
        image = begin + tl.load(mine + at + lane, mask=valid, other=0).to(tl.int32)
        u, v, z = lattice_tile(images, bricks, lattice, image, False)
        view = load_view(images, image, valid, 0, ON_MASK, False)
        # The mask's blocks may stand out of the image, but their bits there are 0: asked for is z > 0 and the bit.
        zero = view.wide - view.wide
        view = View(view.bx, view.by, view.wide, view.high, view.words, zero, zero, view.wide, view.high, 1)
        h0, h1, h2, h3 = count_lattice((none, none, none, none), u, v, z, view, BOTH, False, PTX)
        found = tl.where((h0 & 1) != 0, r0, 0) | tl.where((h1 & 1) != 0, r1, 0)
        found |= tl.where((h2 & 1) != 0, r2, 0) | tl.where((h3 & 1) != 0, r3, 0)
        bits = tl.reduce(found, 0, _or)
        to = contacts.touched + tl.load(images.rows + image, mask=valid, other=0)
        tl.atomic_or(to, bits, mask=valid & (bits != 0), sem="relaxed")


def touched_regions(
    field: VoxelField, regions: Tensor, images: VoteImages, *, cull: bool = True, pass_images: int = PASS_IMAGES
) -> Tensor:
    """The regions that each image's mask touches: regions (V,) int32 bit sets -> (I,) int32 bit sets, where the images are.

    cull         False projects the bricks of regions into every image; the bits are the same
    pass_images  images whose working memory is held at a time

    A region is touched exactly if ``votes.count_votes(variant="lattice")`` counts one of its voxels. Raises ValueError
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
    selected = torch.from_numpy(chosen.brick).to(device, torch.int32)
    contacts = Contacts(torch.from_numpy(chosen.any).to(device), torch.from_numpy(chosen.voxel).to(device), touched)
    group = torch.zeros(len(images), dtype=torch.int64, device=images.poses.device)
    for pass_ in prepare_passes(plan, images, group, None, device, pass_images):
        lists = pass_.new_lists(len(selected))
        nothing = Counts(lists.lengths, lists.lengths)  # no vote is counted
        cull_bricks(plan, pass_, lists, nothing, cull=cull, weighted=False, selected=selected, contacts=contacts)
        touch_regions[(len(selected), pass_.num_segments)](
            pass_.images,
            plan.bricks._replace(selected=selected),
            lists,
            contacts,
            IMAGES=IMAGES,
            PTX=use_ptx(device),
            num_warps=4,
            num_stages=1,
            enable_fp_fusion=False,
        )
    return touched


def compilations() -> list[Compilation]:
    """The kernel; what settles bricks for it is that of ``culling``."""
    return [
        Compilation(
            "touch_regions",
            touch_regions,
            {"images": Images, "bricks": BrickArrays, "lists": Lists, "contacts": Contacts},
            {"IMAGES": IMAGES, "PTX": True},
            num_warps=4,
            num_stages=1,
            votes=IMAGES * 64,
            fusion=False,
        )
    ]
