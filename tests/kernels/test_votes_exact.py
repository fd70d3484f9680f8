"""What every split, order, thread count, output and bad argument of the votes must give: the same bits, or an error."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chorus.kernels import arrays
from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.cpu import votes as cpu
from chorus.kernels.reference import votes as reference
from tests.kernels.random_inputs import random_field, random_images
from tests.kernels.test_votes import BACKENDS, equal


def a_world(seed: int = 3, images: int = 150) -> tuple[VoxelField, VoteImages, torch.Tensor, torch.Tensor]:
    """A field, images (more than one sweep of the kernel), groups 0 .. 3 of which 2 is empty, and weights."""
    rng = np.random.default_rng(seed)
    field = random_field(rng, (9, 6, 13), 7)
    group = torch.tensor(rng.choice([0, 1, 3], images))
    weight = torch.tensor(rng.integers(0, 256, images), dtype=torch.uint8)
    return field, random_images(rng, field, images, distance=(0.5, 6.0)), group, weight


def test_any_split_order_and_thread_count_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    field, images, group, weight = a_world()
    whole = cpu.count_votes(field, images, group, weight, num_groups=4, threads=1)
    assert whole[0].any()
    for threads in (2, 3, 4, None):
        assert equal(whole, cpu.count_votes(field, images, group, weight, num_groups=4, threads=threads))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    assert equal(whole, cpu.count_votes(field, images[order], group[order], weight[order], num_groups=4))
    for size in (1, 7, 16, 149):
        out = arrays.empty_counts(field, 4, "cpu")
        for first in range(0, len(images), size):
            rows = slice(first, first + size)
            given_back = cpu.count_votes(field, images[rows], group[rows], weight[rows], num_groups=4, out=out)
            assert given_back is out
        assert equal(whole, out)
    halves = [cpu.count_votes(field, images[r], group[r], weight[r], num_groups=4) for r in (slice(0, 60), slice(60, None))]
    assert equal(whole, (halves[0][0] + halves[1][0], halves[0][1] + halves[1][1]))
    monkeypatch.setattr(cpu, "IMAGES_PER_PASS", 33)
    monkeypatch.setattr(cpu, "IMAGES_PER_SWEEP", 16)
    assert equal(whole, cpu.count_votes(field, images, group, weight, num_groups=4))
    lumps = reference.count_votes(field, images, group, weight, num_groups=4, batch=150)
    assert equal(lumps, reference.count_votes(field, images, group, weight, num_groups=4, batch=1))


@pytest.mark.parametrize("count_votes", BACKENDS)
def test_groups_and_weights_are_what_they_say(count_votes: Callable[..., Any]) -> None:
    field, images, group, weight = a_world(images=60)
    num, den = count_votes(field, images, group, weight, num_groups=4)
    for g in range(4):
        rows = torch.nonzero(group == g)[:, 0]
        zero = torch.zeros(len(rows), dtype=torch.int64)
        alone = count_votes(field, images[rows], zero, weight[rows], num_groups=1)
        assert equal((num[g : g + 1], den[g : g + 1]), alone)
    assert not num[2].any()
    assert not den[2].any()
    # A weight is a number of copies; 0 is none.
    few = weight % 4
    copies = torch.repeat_interleave(torch.arange(60), few.long())
    assert 0 in few
    weighted = count_votes(field, images, group, few, num_groups=4)
    assert equal(weighted, count_votes(field, images[copies], group[copies], num_groups=4))
    assert equal(count_votes(field, images, group.int(), few, num_groups=4), weighted)
    ones = torch.ones(60, dtype=torch.uint8)
    assert equal(count_votes(field, images, group, num_groups=4), count_votes(field, images, group, ones, num_groups=4))


@pytest.mark.parametrize("count_votes", BACKENDS)
def test_outputs_are_added_to_and_nothing_else_is_written(count_votes: Callable[..., Any]) -> None:
    field, images, group, weight = a_world(images=30)
    fresh = count_votes(field, images, group, weight, num_groups=4)
    poison = -1234567
    room = torch.full((2, 6, field.num_voxels), poison, dtype=torch.int32)  # a guard row above and below
    count_votes(field, images, group, weight, num_groups=4, out=(room[0, 1:5], room[1, 1:5]))
    assert equal((room[0, 1:5] - poison, room[1, 1:5] - poison), fresh)
    assert (room[:, [0, 5]] == poison).all()
    before = [getattr(images, f.name).clone() for f in dataclasses.fields(images)]
    count_votes(field, images, group, weight, num_groups=4)
    assert all(torch.equal(b, getattr(images, f.name)) for b, f in zip(before, dataclasses.fields(images), strict=True))


@pytest.mark.parametrize("count_votes", BACKENDS)
def test_no_images(count_votes: Callable[..., Any]) -> None:
    field, images, group, _ = a_world(images=1)
    num, den = count_votes(field, images[:0], group[:0], num_groups=2)
    assert num.shape == den.shape == (2, field.num_voxels)
    assert not num.any()
    assert not den.any()


def test_moving_camera_and_field_together_changes_nothing() -> None:
    rng = np.random.default_rng(8)
    field = random_field(rng, (6, 6, 6), 4)
    images = random_images(rng, field, 40, distance=(1.0, 5.0))
    zero = torch.zeros(40, dtype=torch.int64)
    exact = reference.count_votes(field, images, zero, num_groups=1)
    band = reference.vote_band(field, images, zero, num_groups=1)
    shift = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    there = torch.eye(4, dtype=torch.float64)
    there[:3, 3] = shift
    moved = dataclasses.replace(
        field,
        origin=tuple((torch.tensor(field.origin) + shift).tolist()),
        rest_joints=field.rest_joints + shift,
        rest_inverse=there @ field.rest_inverse @ torch.linalg.inv(there),
    )
    seen = dataclasses.replace(images, t=images.t - images.R @ shift)
    for a, b in zip(cpu.count_votes(moved, seen, zero, num_groups=1), exact, strict=True):
        assert ((a - b).abs() <= band).all()

    # A turn by 90 degrees about y, (x, y, z) -> (z, y, -x), maps the cube of voxels onto itself.
    turn = torch.tensor([[0.0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    index = torch.arange(216).reshape(6, 6, 6)
    source = index.flip(0).transpose(0, 2).reshape(-1)  # the voxel that comes to lie at each place
    centres = field.centres()
    assert torch.allclose(centres[source] @ turn[:3, :3].T, centres, atol=1e-12)
    dense = field.dense_weights()[source]
    voxel, joint = torch.nonzero(dense, as_tuple=True)
    turned = dataclasses.replace(
        field,
        offset=torch.cat([torch.tensor([0]), torch.bincount(voxel, minlength=216).cumsum(0)]),
        joint=joint.int(),
        weight=dense[voxel, joint].float(),
        rest_joints=field.rest_joints @ turn[:3, :3].T,
        rest_inverse=turn @ field.rest_inverse @ turn.T,
    )
    seen = dataclasses.replace(images, R=images.R @ turn[:3, :3].T, poses=(images.poses.double() @ turn[:3, :3].T).float())
    for a, b in zip(cpu.count_votes(turned, seen, zero, num_groups=1), exact, strict=True):
        assert ((a - b[:, source]).abs() <= band[:, source]).all()
        assert not torch.equal(b, b[:, source])  # or the turn would have tested nothing


def test_sums_beyond_32_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.iinfo(np.int32).max == arrays.MAX_TOTAL_WEIGHT
    field, images, group, _ = a_world(images=4)
    weight = torch.tensor([3, 3, 3, 3], dtype=torch.uint8)
    monkeypatch.setattr(arrays, "MAX_TOTAL_WEIGHT", 12)
    for count_votes in BACKENDS:
        count_votes(field, images, group, weight, num_groups=4)
    monkeypatch.setattr(arrays, "MAX_TOTAL_WEIGHT", 11)
    for count_votes in BACKENDS:
        with pytest.raises(ValueError, match=r"weight: expected a sum of at most 11 in one call, got 12"):
            count_votes(field, images, group, weight, num_groups=4)
        count_votes(field, images, group, num_groups=4)
    monkeypatch.setattr(arrays, "MAX_TOTAL_WEIGHT", 3)
    for count_votes in BACKENDS:
        with pytest.raises(ValueError, match="got 4"):
            count_votes(field, images, group, num_groups=4)


@pytest.mark.parametrize("count_votes", BACKENDS)
def test_arguments_that_do_not_fit_are_named(count_votes: Callable[..., Any]) -> None:
    field, images, _, weight = a_world(images=6)
    group = torch.tensor([0, 1, 3, 3, 0, 1])
    good: dict[str, Any] = {"images": images, "group": group, "weight": weight, "num_groups": 4}
    V = field.num_voxels

    def counts(*shape: int, dtype: torch.dtype = torch.int32) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)

    for change, words in (
        ({"images": dataclasses.replace(images, poses=images.poses[:, :5])}, "images.poses.*7 joints"),
        ({"group": group[:5]}, r"group: expected integers of shape \(6,\), got .* of shape \(5,\)"),
        ({"group": group.float()}, r"group: expected integers of shape \(6,\), got torch.float32"),
        ({"group": group - 1}, r"group: expected indices 0 .. 3, got -1"),
        ({"group": group + 1}, r"group: expected indices 0 .. 3, got .* 4"),
        ({"weight": weight.int()}, "weight: expected uint8"),
        ({"weight": weight[:5]}, "weight: expected uint8"),
        ({"out": counts(3, V)}, r"out: expected .*\(4, "),
        ({"out": counts(4, V - 1)}, "out: expected"),
        ({"out": counts(4, V, dtype=torch.int64)}, "out: expected .*int32.*int64"),
    ):
        with pytest.raises(ValueError, match=words):
            count_votes(field, **{**good, **change})


SAME_BITS = """
import sys, llvmlite.binding as binding
host = binding.get_host_cpu_features
other = not host().get("avx512f", False)
binding.get_host_cpu_features = lambda: {"avx512f": other}
from chorus.kernels.cpu import simd
binding.get_host_cpu_features = host  # only our choice is turned round; LLVM goes on compiling for this processor
assert simd.HAS_MASK_REGISTERS == other
import torch
from chorus.kernels.cpu import votes as cpu
field, images, group, weight, num, den = torch.load(sys.argv[1], weights_only=False)
for cull in (True, False):
    got = cpu.count_votes(field, images, group, weight, num_groups=4, cull=cull)
    assert torch.equal(got[0], num) and torch.equal(got[1], den)
print("same bits")
"""


@pytest.mark.slow
def test_both_ways_of_lane_masks_give_the_same_bits(tmp_path: Path) -> None:
    """Processors with mask registers and those without take other code; each can run the other's."""
    field, images, group, weight = a_world(images=50)
    num, den = cpu.count_votes(field, images, group, weight, num_groups=4)
    torch.save((field, images, group, weight, num, den), tmp_path / "world.pt")
    done = subprocess.run(
        [sys.executable, "-c", SAME_BITS, str(tmp_path / "world.pt")],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "numba")},
    )
    assert (done.returncode, done.stdout) == (0, "same bits\n"), done.stderr
