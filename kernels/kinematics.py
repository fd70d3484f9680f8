"""Kinematics of a linear-blend-skinned body: from axis-angle poses to a rigid transform per joint, and points moved by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = TypeVar("Array", Tensor, NDArray[Any])
"""A torch tensor, on any device, or a numpy array; in one call, all of one kind."""

HIP_ANGLE = math.pi / 6
"""Rotation of the hips in the rest pose about z, in radians: + for the left hip, - for the right."""


def rotation_matrices(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula: (..., 3) axis-angle in radians -> (..., 3, 3) rotations, dtype and device of the input.

    R = 1 + sin(a)/a K + (1 - cos(a))/a^2 K^2 with K = [axis_angle]_x; both factors are written with sinc, which is
    exact at and near a = 0.
    """
    angle = torch.linalg.vector_norm(axis_angle, dim=-1)[..., None, None]
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    first = torch.sinc(angle / math.pi)
    second = 0.5 * torch.sinc(angle / (2 * math.pi)) ** 2
    rotations: Tensor = torch.eye(3).to(axis_angle) + first * cross + second * (cross @ cross)
    return rotations


def relative_transforms(poses: Tensor, joints: Tensor, parents: Sequence[int] | Tensor) -> Tensor:
    """The relative transforms A_j(zero -> theta) of linear blend skinning.

    poses    (I, J, 3) axis-angle in radians; row 0, the global orientation, is applied too
    joints   (J, 3), or (I, J, 3) where bodies differ: joints in the zero pose, metres
    parents  J indices; -1 for the root, which comes first; every parent before its children

    Returns (I, J, 4, 4), of the dtype and device of ``poses``: A_j moves a point that is rigid with joint j from where
    it is in the zero pose to where it is in the pose. The root turns about its own joint and stays where it is.
    """
    images, count = poses.shape[:2]
    joints = joints.to(poses).expand(images, count, 3)
    rotations = rotation_matrices(poses)
    chain_rotation: list[Tensor] = []  # joint j's frame in the person's frame
    chain_origin: list[Tensor] = []
    for j in range(count):
        parent = int(parents[j])
        if parent < 0:
            chain_rotation.append(rotations[:, j])
            chain_origin.append(joints[:, j])
        else:
            bone = (joints[:, j] - joints[:, parent])[..., None]
            chain_rotation.append(chain_rotation[parent] @ rotations[:, j])
            chain_origin.append(chain_origin[parent] + (chain_rotation[parent] @ bone)[..., 0])
    rotation = torch.stack(chain_rotation, 1)
    origin = torch.stack(chain_origin, 1)
    # A_j = G_j(theta) G_j(zero)^-1, and G_j(zero) is the translation to the joint.
    translation = origin - (rotation @ joints[..., None])[..., 0]
    top = torch.cat([rotation, translation[..., None]], -1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=poses.dtype, device=poses.device).expand(images, count, 1, 4)
    return torch.cat([top, bottom], -2)


def inverse_rigid(transforms: Tensor) -> Tensor:
    """Inverses of rigid transforms: [R | t]^-1 = [R^T | -R^T t].

    (..., 4, 4) -> (..., 4, 4), or without the row (0, 0, 0, 1): (..., 3, 4) -> (..., 3, 4).
    """
    rotation = transforms[..., :3, :3].mT
    translation = -rotation @ transforms[..., :3, 3:]
    return torch.cat([torch.cat([rotation, translation], -1), transforms[..., 3:, :]], -2)


def bone_transforms(poses: Tensor, rest: Tensor, joints: Tensor, parents: Sequence[int] | Tensor) -> Tensor:
    """B_j(theta) = A_j(zero -> theta) A_j(zero -> rest)^-1: from the rest pose to the pose.

    poses (I, J, 3) and rest (J, 3) axis-angle in radians, joints (J, 3) metres in the zero pose, parents as in
    ``relative_transforms``. Returns (I, J, 3, 4), the rows above (0, 0, 0, 1).
    """
    to_rest = relative_transforms(rest.to(poses)[None], joints, parents)
    return (relative_transforms(poses, joints, parents) @ inverse_rigid(to_rest))[:, :, :3]


def blend_transforms(weights: Array, transforms: Array) -> Array:
    """T(x) = sum_j w_j(x) T_j: weights (P, J), transforms (J, 3, 4) or (J, 4, 4) -> (P, 3, 4)."""
    blended: Array = (weights @ transforms[:, :3].reshape(len(transforms), 12)).reshape(len(weights), 3, 4)
    return blended


def linear_blend_skinning(points: Array, weights: Array, transforms: Array) -> Array:
    """Points moved with a skeleton: x' = sum_j w_j(x) T_j [x; 1], (P, 3) metres. Nothing is checked.

    points      (P, 3) metres
    weights     (P, J) skinning weights
    transforms  (J, 3, 4) or (J, 4, 4): A_j(zero -> theta) for points in the zero pose, B_j for points in the rest pose (Eq. 5),
                B_j^-1 for points in the pose (Eq. 11, the blend of inverses)
    """
    blended = blend_transforms(weights, transforms)
    einsum: Any = torch.einsum if isinstance(blended, Tensor) else np.einsum
    moved: Array = einsum("pab,pb->pa", blended[..., :3], points) + blended[..., 3]
    return moved


def rest_pose(count: int, left_hip: int, right_hip: int) -> Tensor:
    """The canonical pose, (J, 3) float64 axis-angle in radians: zero but the hips, turned by +-pi/6 about z."""
    pose = torch.zeros(count, 3, dtype=torch.float64)
    pose[left_hip, 2] = HIP_ANGLE
    pose[right_hip, 2] = -HIP_ANGLE
    return pose
