"""The definition of the contacts, in PyTorch: slow and obvious, on any device. See ``chorus.kernels.contacts``."""

from __future__ import annotations

import torch
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.contacts import MAX_REGIONS, check_contacts
from chorus.kernels.reference.votes import EDGE_PX, EDGE_Z, project, unpack_mask


def _members(field: VoxelField, regions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Of the S voxels in any region: membership (S, 32) bool, skinning weights (S, J), centres (S, 3)."""
    some = torch.nonzero(regions)[:, 0]
    member = (regions[some][:, None] >> torch.arange(MAX_REGIONS, dtype=torch.int32, device=regions.device) & 1).bool()
    return member, field.dense_weights(dtype)[some], field.centres(dtype)[some]


def _bit_sets(touched: Tensor) -> Tensor:
    """(I, 32) bool -> (I,) int32, bit r from column r."""
    bits = torch.ones(MAX_REGIONS, dtype=torch.int32, device=touched.device) << torch.arange(
        MAX_REGIONS, dtype=torch.int32, device=touched.device
    )
    return (touched * bits).sum(1, dtype=torch.int32)


def touched_regions(
    field: VoxelField,
    regions: Tensor,
    images: VoteImages,
    *,
    dtype: torch.dtype = torch.float64,
    batch: int = 8,
) -> Tensor:
    """The regions that each image's mask touches: regions (V,) int32 bit sets -> (I,) int32 bit sets.

    ValueError where the arguments do not fit together.

    dtype  arithmetic of warp and projection; float64 is the definition, float32 what eager code usually does
    batch  images at a time; memory grows with it
    """
    check_contacts(field, regions, images)
    member, weights, centres = _members(field, regions, dtype)
    touched = torch.zeros(len(images), MAX_REGIONS, dtype=torch.bool, device=regions.device)
    for first in range(0, len(images), batch):
        chunk = images[first : first + batch]
        uv, z = project(field, chunk, weights, centres)
        height, width = chunk.size[:, :1], chunk.size[:, 1:]
        u, v = uv[..., 0], uv[..., 1]
        inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        # Truncation is floor here, for inside u, v >= 0; pixels outside point at the first one and are masked out below.
        pixel = torch.where(inside, v, 0).int() * width + torch.where(inside, u, 0).int()
        for i in range(len(chunk)):
            on_mask = inside[i] & unpack_mask(chunk, i).flatten().index_select(0, pixel[i])
            touched[first + i] = member[on_mask].any(0)
    return _bit_sets(touched)


def touched_bounds(field: VoxelField, regions: Tensor, images: VoteImages, *, batch: int = 8) -> tuple[Tensor, Tensor]:
    """What every backend must report and what it may: (certain, possible), (I,) int32 bit sets each, in float64.

    As sets, certain <= touched_regions(...) <= possible. The edge band is that of ``reference.vote_band``: a voxel's u and v
    may be off by 2e-3 px (times max(H, W) / 512; times 1 m / z where z < 1 m), and a z below 1e-5 m may have either sign. A
    voxel touches for certain where all pixels within that are on the mask, possibly where any is; one with |z| < 1e-5 m
    possibly, whatever its pixel.
    """
    check_contacts(field, regions, images)
    member, weights, centres = _members(field, regions, torch.float64)
    certain = torch.zeros(len(images), MAX_REGIONS, dtype=torch.bool, device=regions.device)
    possible = torch.zeros_like(certain)
    for first in range(0, len(images), batch):
        chunk = images[first : first + batch]
        uv, z = project(field, chunk, weights, centres)
        size = chunk.size.flip(1)[:, None].to(uv.dtype)  # width, height
        edge = (EDGE_PX * size.amax(-1) / 512 / z.clamp(min=EDGE_Z, max=1.0))[..., None]
        # Pixels that the voxel may fall on: columns and rows low .. high - 1, clipped to the image.
        low, high = torch.floor(uv - edge), torch.floor(uv + edge) + 1
        all_inside = ((low >= 0) & (high <= size)).all(-1)
        low, high = (torch.minimum(end.clamp(min=0), size).nan_to_num(0).long() for end in (low, high))
        for i in range(len(chunk)):
            mask = unpack_mask(chunk, i)
            table = torch.zeros(mask.shape[0] + 1, mask.shape[1] + 1, dtype=torch.int64, device=mask.device)
            table[1:, 1:] = mask.cumsum(0).cumsum(1)
            (x0, y0), (x1, y1) = low[i].T, high[i].T
            on = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
            in_front, on_plane = z[i] >= EDGE_Z, z[i].abs() < EDGE_Z
            sure = in_front & all_inside[i] & (on == (x1 - x0) * (y1 - y0))
            maybe = (in_front & (on > 0)) | (on_plane & bool(mask.any()))
            certain[first + i] = member[sure].any(0)
            possible[first + i] = member[maybe].any(0)
    return _bit_sets(certain), _bit_sets(possible)
