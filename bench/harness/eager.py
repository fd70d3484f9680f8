"""Votes in fast PyTorch without a kernel: the stronger baselines.

Whole batches without a Python loop over images, on masks unpacked beforehand (not timed), the counts of a batch added by group
at once. Two ways to warp and project:

- "blend": weights and matrices blended to a matrix a voxel, as the reference does (Eq. 5 as it is written);
- "gemm": sum_j w_j M_j [x; 1] as one matrix product of (3 I, 4 J) by (4 J, V).

Either can run under ``torch.compile``: ``cast`` is a function of tensors alone. The matrices K [R | t] B_j are made by the
reference's eager code in float64, as ``torch.compile`` would unroll the joints' chain.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField, empty_counts
from chorus.kernels.reference.votes import bone_transforms, unpack_mask

FORMS = ("blend", "gemm")


def dense_masks(images: VoteImages) -> Tensor:
    """Unpacked masks of images of one size, (I, H, W) bool."""
    return torch.stack([unpack_mask(images, i) for i in range(len(images))])


def matrices(field: VoxelField, images: VoteImages) -> Tensor:
    """K [R | t] B_j, (I, J, 3, 4) float32."""
    B = bone_transforms(field, images.poses.double())
    last = torch.tensor([0.0, 0, 0, 1], dtype=B.dtype, device=B.device).expand(*B.shape[:2], 1, 4)
    camera = torch.cat([images.R, images.t[..., None]], -1)
    return ((images.K @ camera)[:, None] @ torch.cat([B, last], -2)).float()


def constants(field: VoxelField, form: str) -> tuple[Tensor, Tensor]:
    """What a form needs of the field: weights (V, J) and [x; 1] (V, 4), or w_j [x; 1] as (4 J, V) and nothing; float32."""
    weights, centres = field.dense_weights(torch.float32), field.centres(torch.float32)
    points = torch.cat([centres, torch.ones_like(centres[:, :1])], -1)
    if form == "blend":
        return weights, points
    return (weights.T[:, None] * points.T[None]).reshape(-1, len(points)), points[:0]


def cast(M: Tensor, weights: Tensor, points: Tensor, masks: Tensor, group: Tensor, num: Tensor, den: Tensor) -> None:
    """Add the votes of a batch: M (I, J, 3, 4), masks (I, H, W) bool, group (I,), into num and den (G, V) int32."""
    images, joints = M.shape[:2]
    if len(points):
        # Not einsum("vj,ijab->ivab"): its result has voxels outermost in memory, and what torch.compile (2.13, on a CPU) makes
        # of the index_add_ below then counts for the wrong voxels.
        blended = torch.matmul(weights, M.reshape(images, joints, 12)).reshape(images, -1, 3, 4)
        uvz = torch.einsum("ivab,vb->aiv", blended, points)
    else:
        uvz = (M.permute(2, 0, 1, 3).reshape(3 * images, 4 * joints) @ weights).reshape(3, images, -1)
    u, v, z = uvz[0], uvz[1], uvz[2]
    u, v = u / z, v / z
    height, width = masks.shape[1:]
    inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    pixel = torch.where(inside, v, 0).long() * width + torch.where(inside, u, 0).long()
    on = inside & masks.reshape(images, -1).gather(1, pixel)
    num.index_add_(0, group, on.int())
    den.index_add_(0, group, inside.int())


@lru_cache
def compiled_cast() -> Callable[..., Any]:
    """``cast`` under torch.compile for fixed shapes."""
    compiled: Callable[..., Any] = torch.compile(cast, dynamic=False)
    return compiled


def count_votes(
    field: VoxelField,
    images: VoteImages,
    group: Tensor,
    masks: Tensor,
    *,
    num_groups: int,
    batch: int,
    form: str,
    compiled: bool = False,
    kept: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """(num, den), int32 (G, V), of images of one size; ``masks`` as ``dense_masks`` gives them, ``kept`` as ``constants``."""
    if form not in FORMS:
        raise ValueError(f"form: expected {', '.join(FORMS)}; got {form!r}")
    num, den = empty_counts(field, num_groups, images.poses.device)
    weights, points = kept or constants(field, form)
    step = compiled_cast() if compiled else cast
    for first in range(0, len(images), batch):
        rows = slice(first, first + batch)
        step(matrices(field, images[rows]), weights, points, masks[rows], group[rows].long(), num, den)
    return num, den
