"""The definition of the votes, in PyTorch: slow and obvious, on any device. See ``chorus.kernels.arrays``."""

from __future__ import annotations

import torch
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField, check_call, empty_counts
from chorus.kernels.depth import BodyDepth, limits_of
from chorus.kernels.kinematics import relative_transforms
from chorus.kernels.masks import BLOCK, WORDS_PER_BLOCK

EDGE_PX = 2e-3
"""Votes nearer than this to a pixel edge may fall on either side in float32 (512 px images, z >= 1 m)."""
EDGE_Z = 1e-5
"""Votes with |z| below this (metres) may count as in front of the camera or behind it."""
EDGE_DEPTH = 1e-5
"""Votes nearer than this (metres; times z beyond 1 m) to the depth beyond which they are hidden may be hidden or not."""


def unpack_mask(images: VoteImages, row: int) -> Tensor:
    """Mask of one image, (H, W) bool, from its packed words."""
    height, width = images.size[row].tolist()
    x0, y0, x1, y1 = images.box[row].tolist()
    mask = torch.zeros(height, width, dtype=torch.bool, device=images.words.device)
    if x1 <= x0 or y1 <= y0:
        return mask
    left, top = x0 // BLOCK * BLOCK, y0 // BLOCK * BLOCK
    down, across = -(-(y1 - top) // BLOCK), -(-(x1 - left) // BLOCK)
    first = int(images.start[row])
    words = images.words[first : first + down * across * WORDS_PER_BLOCK]
    bits = (words[:, None] >> torch.arange(32, dtype=torch.int32, device=words.device)) & 1
    tile = bits.bool().reshape(down, across, BLOCK, BLOCK).transpose(1, 2).reshape(down * BLOCK, across * BLOCK)
    mask[top:y1, left:x1] = tile[: y1 - top, : x1 - left]
    return mask


def bone_transforms(field: VoxelField, poses: Tensor) -> Tensor:
    """B_j(theta), rest pose -> posed: (I, J, 3) axis-angle -> (I, J, 3, 4)."""
    dtype = poses.dtype
    relative = relative_transforms(poses, field.rest_joints.to(dtype), field.parents)
    return (relative @ field.rest_inverse.to(dtype))[:, :, :3]


def project(field: VoxelField, images: VoteImages, weights: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Where the voxels fall (Eq. 5 and the camera), in the dtype of ``weights`` (V, J) and ``centres`` (V, 3).

    Returns (u, v) as (I, V, 2) pixels and z as (I, V) metres.
    """
    dtype = weights.dtype
    camera = torch.cat([images.R, images.t[..., None]], -1)  # [R | t], (I, 3, 4)
    B = bone_transforms(field, images.poses.double())
    B = torch.cat([B, torch.tensor([0.0, 0, 0, 1], dtype=B.dtype, device=B.device).expand(*B.shape[:2], 1, 4)], -2)
    M = (images.K @ camera)[:, None] @ B  # K [R | t] B_j, (I, J, 3, 4)
    blended = torch.einsum("vj,ijab->ivab", weights, M.to(dtype))
    homogeneous = torch.cat([centres, torch.ones_like(centres[:, :1])], -1)
    uvz = torch.einsum("ivab,vb->iva", blended, homogeneous)
    return uvz[..., :2] / uvz[..., 2:], uvz[..., 2]


def count_votes(
    field: VoxelField,
    images: VoteImages,
    group: Tensor,
    weight: Tensor | None = None,
    *,
    depth: BodyDepth | None = None,
    num_groups: int,
    out: tuple[Tensor, ...] | None = None,
    dtype: torch.dtype = torch.float64,
    batch: int = 8,
) -> tuple[Tensor, ...]:
    """Votes by group: (num, den), int32 (G, V), and with ``depth`` which of them the body hides: (num_hidden, den_hidden) too.

    Arguments as in ``chorus.kernels.arrays``; ValueError where they misfit.

    dtype  arithmetic of warp and projection; float64 is the definition, float32 what eager code usually does
    batch  images at a time; memory grows with it
    """
    check_call(field, images, group, weight, num_groups, out, depth)
    depth = None if depth is None else depth.to(images.poses.device)
    counts = out or empty_counts(field, num_groups, images.poses.device, hidden=depth is not None)
    weights, centres = field.dense_weights(dtype), field.centres(dtype)
    for first in range(0, len(images), batch):
        rows = slice(first, first + batch)
        chunk = images[rows]
        uv, z = project(field, chunk, weights, centres)
        height, width = chunk.size[:, :1], chunk.size[:, 1:]
        u, v = uv[..., 0], uv[..., 1]
        inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        # Truncation is floor here, for inside u, v >= 0; pixels outside point at the first one and are masked out below.
        pixel = torch.where(inside, v, 0).int() * width + torch.where(inside, u, 0).int()
        for i in range(len(chunk)):
            times = 1 if weight is None else int(weight[first + i])
            on_mask = inside[i] & unpack_mask(chunk, i).flatten().index_select(0, pixel[i])
            votes = [on_mask, inside[i]]
            if depth is not None:
                limits = limits_of(depth, first + i, *chunk.size[i].tolist()).flatten()
                hidden = inside[i] & (z[i] > limits.index_select(0, pixel[i]))
                votes += [on_mask & hidden, hidden]
            for count, which in zip(counts, votes, strict=True):
                count[int(group[first + i])] += which * times
    return counts


def vote_band(
    field: VoxelField,
    images: VoteImages,
    group: Tensor,
    weight: Tensor | None = None,
    *,
    num_groups: int,
    batch: int = 8,
) -> Tensor:
    """Votes a float32 backend may decide otherwise, int32 (G, V), counted in float64.

    Those with |z| < 1e-5 m, and those in front of the camera and at most a pixel outside the image whose u or v lies within
    2e-3 px of a pixel edge (times max(H, W) / 512; times 1 m / z where z < 1 m).
    """
    check_call(field, images, group, weight, num_groups)
    band = torch.zeros(num_groups, field.num_voxels, dtype=torch.int32, device=images.poses.device)
    weights, centres = field.dense_weights(), field.centres()
    for first in range(0, len(images), batch):
        rows = slice(first, first + batch)
        chunk = images[rows]
        doubtful = _near_an_edge(chunk.size, *project(field, chunk, weights, centres))
        times = torch.ones(len(chunk), dtype=torch.int32, device=band.device) if weight is None else weight[rows].int()
        band.index_add_(0, group[rows].long(), doubtful.int() * times[:, None])
    return band


def _near_an_edge(sizes: Tensor, uv: Tensor, z: Tensor) -> Tensor:
    """The votes of ``vote_band``, (I, V) bool, of images of sizes (I, 2)."""
    size = sizes.flip(1)[:, None].to(uv.dtype)  # width, height
    edge = EDGE_PX * size.amax(-1) / 512 / z.clamp(min=EDGE_Z, max=1.0)
    near_edge = ((uv - uv.round()).abs() < edge[..., None]).any(-1)
    near_image = ((uv > -1 - edge[..., None]) & (uv < size + 1 + edge[..., None])).all(-1)
    return (z.abs() < EDGE_Z) | ((z > 0) & near_edge & near_image)


def hidden_band(
    field: VoxelField,
    images: VoteImages,
    group: Tensor,
    weight: Tensor | None = None,
    *,
    depth: BodyDepth,
    num_groups: int,
) -> Tensor:
    """Hidden votes a float32 backend may decide otherwise, int32 (G, V), counted in float64.

    Those of ``vote_band``, and those inside the image whose z lies within 1e-5 m (times z, beyond 1 m) of the limit beyond
    which they are hidden.
    """
    check_call(field, images, group, weight, num_groups, None, depth)
    depth = depth.to(images.poses.device)
    band = torch.zeros(num_groups, field.num_voxels, dtype=torch.int32, device=images.poses.device)
    weights, centres = field.dense_weights(), field.centres()
    for i in range(len(images)):
        chunk = images[i : i + 1]
        uv, z = project(field, chunk, weights, centres)
        height, width = chunk.size[0].tolist()
        inside = (z[0] > 0) & (uv[0] >= 0).all(-1) & (uv[0, :, 0] < width) & (uv[0, :, 1] < height)
        column, line = torch.where(inside[:, None], uv[0], 0).long().unbind(1)
        beyond = z[0] - limits_of(depth, i, height, width)[line, column]
        near_limit = inside & (beyond.abs() < EDGE_DEPTH * z[0].clamp(min=1.0))
        doubtful = _near_an_edge(chunk.size, uv, z)[0] | near_limit
        band[int(group[i])] += doubtful.int() * (1 if weight is None else int(weight[i]))
    return band
