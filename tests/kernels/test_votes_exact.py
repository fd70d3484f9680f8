"""What every split, order and thread count of the numba votes must give: the same bits; and sums that 32 bits cannot hold."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from chorus.kernels import arrays
from chorus.kernels.backends import CountVotes
from chorus.kernels.cpu import votes as cpu_votes
from chorus.kernels.reference import votes as reference_votes
from tests.kernels.contract import equal, several_groups
from tests.kernels.random_inputs import random_field, random_images

BACKENDS: list[CountVotes] = [cpu_votes.count_votes, reference_votes.count_votes]


def test_any_split_order_and_thread_count_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    field, images, group, weight = several_groups()
    whole = cpu_votes.count_votes(field, images, group, weight, num_groups=4, threads=1)
    assert whole[0].any()
    for threads in (2, 3, 4, None):
        assert equal(whole, cpu_votes.count_votes(field, images, group, weight, num_groups=4, threads=threads))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    assert equal(whole, cpu_votes.count_votes(field, images[order], group[order], weight[order], num_groups=4))
    for size in (1, 7, 16, 149):
        out = arrays.empty_counts(field, 4, "cpu")
        for first in range(0, len(images), size):
            rows = slice(first, first + size)
            given_back = cpu_votes.count_votes(field, images[rows], group[rows], weight[rows], num_groups=4, out=out)
            assert given_back is out
        assert equal(whole, out)
    halves = [
        cpu_votes.count_votes(field, images[r], group[r], weight[r], num_groups=4) for r in (slice(0, 60), slice(60, None))
    ]
    assert equal(whole, (halves[0][0] + halves[1][0], halves[0][1] + halves[1][1]))
    monkeypatch.setattr(cpu_votes, "IMAGES_PER_PASS", 33)
    monkeypatch.setattr(cpu_votes, "IMAGES_PER_SWEEP", 16)
    assert equal(whole, cpu_votes.count_votes(field, images, group, weight, num_groups=4))
    lumps = reference_votes.count_votes(field, images, group, weight, num_groups=4, batch=150)
    assert equal(lumps, reference_votes.count_votes(field, images, group, weight, num_groups=4, batch=1))


def test_moving_camera_and_field_together_changes_nothing() -> None:
    rng = np.random.default_rng(8)
    field = random_field(rng, (6, 6, 6), 4)
    images = random_images(rng, field, 40, distance=(1.0, 5.0))
    zero = torch.zeros(40, dtype=torch.int64)
    exact = reference_votes.count_votes(field, images, zero, num_groups=1)
    band = reference_votes.vote_band(field, images, zero, num_groups=1)
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
    for a, b in zip(cpu_votes.count_votes(moved, seen, zero, num_groups=1), exact, strict=True):
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
    for a, b in zip(cpu_votes.count_votes(turned, seen, zero, num_groups=1), exact, strict=True):
        assert ((a - b[:, source]).abs() <= band[:, source]).all()
        assert not torch.equal(b, b[:, source])  # or the turn would have tested nothing


def test_sums_beyond_32_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.iinfo(np.int32).max == arrays.MAX_TOTAL_WEIGHT
    field, images, group, _ = several_groups(images=4)
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


SAME_BITS = """
import sys, llvmlite.binding as binding
host = binding.get_host_cpu_features
other = not host().get("avx512f", False)
binding.get_host_cpu_features = lambda: {"avx512f": other}
from chorus.kernels.cpu import simd
binding.get_host_cpu_features = host  # only our choice is turned round; LLVM goes on compiling for this processor
assert simd.HAS_MASK_REGISTERS == other
import torch
from chorus.kernels.backends import CountVotes
from chorus.kernels.cpu import votes as cpu_votes
field, images, group, weight, num, den = torch.load(sys.argv[1], weights_only=False)
for cull in (True, False):
    got = cpu_votes.count_votes(field, images, group, weight, num_groups=4, cull=cull)
    assert torch.equal(got[0], num) and torch.equal(got[1], den)
print("same bits")
"""


@pytest.mark.slow
def test_both_ways_of_lane_masks_give_the_same_bits(tmp_path: Path) -> None:
    """Processors with mask registers and those without take other code; each can run the other's."""
    field, images, group, weight = several_groups(images=50)
    num, den = cpu_votes.count_votes(field, images, group, weight, num_groups=4)
    torch.save((field, images, group, weight, num, den), tmp_path / "world.pt")
    done = subprocess.run(
        [sys.executable, "-c", SAME_BITS, str(tmp_path / "world.pt")],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "numba")},
    )
    assert (done.returncode, done.stdout) == (0, "same bits\n"), done.stderr
