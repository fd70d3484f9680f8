"""Votes through fields whose voxels are rigid with one joint, or follow the nearest vertices: numba, reference and Triton."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from chorus.body.model import load_body
from chorus.field import CanonicalField
from chorus.kernels.arrays import VoxelField
from chorus.kernels.bricks import bricks_of
from chorus.kernels.cpu import votes as cpu_votes
from tests.kernels.contract import equal, within_band
from tests.kernels.random_inputs import random_field, random_images, with_weights


def rigid(field: VoxelField, joints: np.ndarray) -> VoxelField:
    """The field with each voxel rigid with a joint (V,)."""
    return dataclasses.replace(
        field,
        offset=torch.arange(len(joints) + 1),
        joint=torch.tensor(joints, dtype=torch.int32),
        weight=torch.ones(len(joints)),
    )


def field_of(kind: str, N: int) -> VoxelField:
    """A field of the mannequin; per-voxel ones have bricks of one joint beside bricks of several."""
    body = load_body()
    if kind != "per-voxel":
        return CanonicalField(body, N, canonicalization=kind, cache=False).arrays
    joints = np.full((N, N, N), body.joint_names.index("right_hand"))
    joints[: N // 2] = np.random.default_rng(0).integers(0, body.num_joints, (N // 2, N, N))
    return CanonicalField(body, N, canonicalization=kind, joint_map=joints, cache=False).arrays


KINDS = ("joint:right_hand", "per-voxel", "lbs-nearest")


@pytest.mark.parametrize("kind", KINDS)
def test_the_mannequin_meets_the_contract(kind: str) -> None:
    field, rng = field_of(kind, 20), np.random.default_rng(20)
    images = random_images(rng, field, 40, distance=(1.0, 5.0), sizes=((256, 256), (200, 300)), zoom=(1.167, 1.167))
    group, weight = torch.arange(40) % 3, torch.tensor(rng.integers(0, 256, 40), dtype=torch.uint8)
    ours = cpu_votes.count_votes(field, images, group, weight, num_groups=3)
    assert int(ours[0].sum()) > 10_000
    assert within_band(ours, field, images, group, weight, 3)
    assert equal(ours, cpu_votes.count_votes(field, images, group, weight, num_groups=3, cull=False, threads=1))
    halves = [
        cpu_votes.count_votes(field, images[torch.tensor(r)], group[r], weight[r], num_groups=3)
        for r in (list(range(0, 40, 2)), list(range(39, 0, -2)))
    ]
    assert equal(ours, tuple(a + b for a, b in zip(*halves, strict=True)))


def test_bricks_of_one_joint_stand_beside_bricks_of_several() -> None:
    several = np.diff(bricks_of(field_of("per-voxel", 20)).joint_offset)
    assert (several == 1).any()
    assert (several > 1).any()


@pytest.mark.parametrize("seed", range(8))
def test_a_voxel_counts_the_same_bits_whatever_its_brick_has(seed: int) -> None:
    # Bricks of one joint have a path of their own: the same voxels with one foreign voxel in each brick take the other one.
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(4, 14, 3))
    field = random_field(rng, shape, 5)
    images = random_images(rng, field, 25, distance=((2.0, 6.0), (0.0, 2.0))[seed % 2], sizes=((96, 96), (33, 47)))
    group = torch.zeros(25, dtype=torch.int64)
    joints = np.full(shape, 2)
    one = cpu_votes.count_votes(rigid(field, joints.ravel()), images, group, num_groups=1)
    foreign = np.zeros(shape, bool)
    foreign[1::4, 2::4, 3::4] = foreign[::4, ::4, ::4] = True
    joints[foreign] = 4
    mixed = cpu_votes.count_votes(rigid(field, joints.ravel()), images, group, num_groups=1)
    kept = torch.tensor(~foreign.ravel())
    assert equal(tuple(c[:, kept] for c in one), tuple(c[:, kept] for c in mixed))
    assert int(one[1].sum()) > 0


def test_a_field_of_one_joint_does_not_depend_on_the_other_joints() -> None:
    rng = np.random.default_rng(3)
    field = random_field(rng, (6, 7, 5), 4)
    images = random_images(rng, field, 18, distance=(2.0, 6.0), sizes=((64, 64),))
    anchored = with_weights(field, np.eye(4)[np.zeros(6 * 7 * 5, int)])
    poses = images.poses.clone()
    poses[:, 1:] += 1.0
    group = torch.zeros(18, dtype=torch.int64)
    moved = dataclasses.replace(images, poses=poses)
    assert equal(*(cpu_votes.count_votes(anchored, batch, group, num_groups=1) for batch in (images, moved)))
