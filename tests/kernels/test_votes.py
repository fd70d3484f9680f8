"""The numba votes against the float64 definition, and the promises that every backend makes (chorus/kernels/arrays.py)."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chorus.body.model import load_body
from chorus.field import CanonicalField
from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.cpu import votes as cpu_votes
from chorus.kernels.reference import votes as reference_votes
from chorus.kernels.stats import CullingStats
from tests.kernels.contract import equal, within_band
from tests.kernels.random_inputs import adversarial_world, one_voxel, pictures, random_field, random_images

fixed = settings(derandomize=True, deadline=None, print_blob=True, database=None)
"""The same examples everywhere: a failure is one of the code, never of the draw."""


def check_contract(
    field: VoxelField, images: VoteImages, group: torch.Tensor, weight: torch.Tensor | None, num_groups: int
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor, CullingStats]:
    """|numba - reference| <= band, count for count, and no different without culling; gives counts, band, statistics."""
    stats = CullingStats()
    ours = cpu_votes.count_votes(field, images, group, weight, num_groups=num_groups, stats=stats)
    assert within_band(ours, field, images, group, weight, num_groups)
    band = reference_votes.vote_band(field, images, group, weight, num_groups=num_groups)
    assert equal(ours, cpu_votes.count_votes(field, images, group, weight, num_groups=num_groups, cull=False))
    assert 0 <= stats.outside <= stats.decided <= stats.pairs
    return ours, band, stats


KINDS = ("any", "near", "inside", "away", "full view")
# What random worlds must have met, all together; otherwise the test below tests less than it says.
BRANCHES = (
    "behind the camera",
    "in front, outside the image",
    "inside, off the mask",
    "on the mask",
    "empty mask",
    "full mask",
    "one pixel",
    "box at left",
    "box at top",
    "box at right",
    "box at bottom",
    "box at no border",
    "width no multiple of 16",
    "width a multiple of 32",
    "nothing culled",
    "everything culled",
    "culled inside the image",
    "culled on the mask",
    "one joint",
    "55 joints",
    "nx no multiple of 4",
    "ny no multiple of 4",
    "nz no multiple of 4",
    "weighted",
    "weight 0",
    "images no multiple of 16",
)


def test_random_worlds_meet_the_contract_in_every_branch() -> None:
    met: Counter[str] = Counter()

    @settings(fixed, max_examples=32)
    @given(st.integers(0, 2**32), st.sampled_from(KINDS), st.sampled_from([1, 3, 24, 55]))
    @example(1, "any", 1)
    @example(3, "any", 24)
    @example(5, "near", 55)
    @example(7, "inside", 3)
    @example(9, "inside", 24)
    @example(11, "away", 3)
    @example(13, "full view", 3)
    @example(15, "full view", 1)
    def world(seed: int, kind: str, joints: int) -> None:
        rng = np.random.default_rng(seed)
        shape = tuple(int(n) for n in rng.integers(1, 11, 3))
        field = random_field(rng, shape, joints, extent=0.02 if kind == "inside" else 3.0)
        distance = {"near": (0.0, 2.0), "inside": (-0.001, 0.001), "away": (-60.0, -50.0), "full view": (30.0, 60.0)}
        kinds = {"kinds": ("full",)} if kind == "full view" else {}
        images = random_images(
            rng,
            field,
            int(rng.integers(1, 20)),
            distance=distance.get(kind, (2.0, 6.0)),
            sizes=((64, 64), (33, 47), (120, 80), (16, 200), (1, 1)),
            **kinds,
        )
        if kind == "inside":  # so small a grid around a camera that every brick reaches its plane
            images = dataclasses.replace(images, t=images.t * torch.tensor([0.01, 0.01, 1.0], dtype=torch.float64))
        n = len(images)
        group = torch.tensor(rng.integers(0, 4, n))
        weight = torch.tensor(rng.integers(0, 256, n) * (rng.random(n) < 0.8), dtype=torch.uint8) if seed % 2 else None
        (num, den), band, stats = check_contract(field, images, group, weight, 4)
        assert (num <= den).all() or band.any()

        uv, z = reference_votes.project(field, images, field.dense_weights(), field.centres())
        wide = images.size.flip(1)[:, None]
        inside = (z > 0) & ((uv >= 0) & (uv < wide)).all(-1)
        area = torch.tensor([int(reference_votes.unpack_mask(images, i).sum()) for i in range(n)])
        pixels = images.size.prod(1)
        x0, y0, x1, y1 = images.box.T
        filled = area > 0
        cull_on_mask = stats.decided - stats.outside if area.eq(pixels).all() else 0
        met.update(
            {
                "behind the camera": int((z <= 0).sum()),
                "in front, outside the image": int(((z > 0) & ~inside).sum()),
                "inside, off the mask": int((den - num).sum()),
                "on the mask": int(num.sum()),
                "empty mask": int((~filled).sum()),
                "full mask": int((area == pixels).sum()),
                "one pixel": int((area == 1).sum()),
                "box at left": int((filled & (x0 == 0)).sum()),
                "box at top": int((filled & (y0 == 0)).sum()),
                "box at right": int((filled & (x1 == images.size[:, 1])).sum()),
                "box at bottom": int((filled & (y1 == images.size[:, 0])).sum()),
                "box at no border": int((filled & (x0 > 0) & (y0 > 0) & (x1 < images.size[:, 1])).sum()),
                "width no multiple of 16": int((images.size[:, 1] % 16 != 0).sum()),
                "width a multiple of 32": int((images.size[:, 1] % 32 == 0).sum()),
                "nothing culled": int(stats.decided == 0 and num.any()),
                "everything culled": int(stats.decided == stats.pairs),
                "culled inside the image": stats.decided - stats.outside,
                "culled on the mask": cull_on_mask,
                "one joint": int(joints == 1),
                "55 joints": int(joints == 55),
                "nx no multiple of 4": shape[0] % 4,
                "ny no multiple of 4": shape[1] % 4,
                "nz no multiple of 4": shape[2] % 4,
                "weighted": int(weight is not None),
                "weight 0": 0 if weight is None else int((weight == 0).sum()),
                "images no multiple of 16": n % 16,
            }
        )

    world()
    print(dict(met))
    assert set(BRANCHES) == set(met)
    assert not [branch for branch in BRANCHES if met[branch] == 0]


def test_culling_never_changes_a_count() -> None:
    decided = inside = looked_up = 0

    @settings(fixed, max_examples=60)
    @given(st.integers(0, 2**32))
    def world(seed: int) -> None:
        nonlocal decided, inside, looked_up
        field, images = adversarial_world(np.random.default_rng(seed))
        group, stats = torch.arange(len(images)) % 3, CullingStats()
        culled = cpu_votes.count_votes(field, images, group, num_groups=3, stats=stats)
        plain = CullingStats()
        assert equal(culled, cpu_votes.count_votes(field, images, group, num_groups=3, cull=False, stats=plain))
        assert plain.decided == plain.outside == 0
        assert stats.pairs == plain.pairs
        assert stats.lookups <= plain.lookups
        decided, inside = decided + stats.decided, inside + stats.decided - stats.outside
        looked_up += stats.lookups

    world()
    assert decided > 1000
    assert inside > 50
    assert looked_up > 10_000


@settings(fixed, max_examples=12)
@given(st.integers(0, 2**32))
def test_adversarial_worlds_meet_the_contract(seed: int) -> None:
    field, images = adversarial_world(np.random.default_rng(seed))
    check_contract(field, images, torch.zeros(len(images), dtype=torch.int64), None, 1)


def test_float32_reference_stays_within_the_band() -> None:
    rng = np.random.default_rng(4)
    field = random_field(rng, (9, 10, 11), 5)
    images = random_images(rng, field, 40, distance=(0.5, 6.0))
    group = torch.tensor(rng.integers(0, 2, 40))
    exact = reference_votes.count_votes(field, images, group, num_groups=2)
    eager = reference_votes.count_votes(field, images, group, num_groups=2, dtype=torch.float32, batch=3)
    band = reference_votes.vote_band(field, images, group, num_groups=2)
    assert all(((a - b).abs() <= band).all() for a, b in zip(exact, eager, strict=True))
    assert int(exact[0].sum()) > 1000
    assert int(band.sum()) < 0.02 * int(exact[1].sum())


def test_band_by_hand() -> None:
    field = one_voxel()
    # u = cx and v = cy: at an edge, 1e-3 px and 3e-3 px from one, far from one, a pixel outside, and 0.5 m from the camera.
    centres = [(4.0, 4.5), (4.001, 4.5), (4.5, 3.999), (4.003, 4.5), (4.5, 4.5), (-0.999, 4.5), (-1.999, 4.5)]
    K = [[[512.0, 0, u], [0, 512, v], [0, 0, 1]] for u, v in centres] + [[[512.0, 0, 4.003], [0, 512, 4.5], [0, 0, 1]]]
    images = pictures([(0, 0, 2.0)] * 7 + [(0, 0, 0.5)], np.ones((512, 512), bool), K=np.array(K))
    band = reference_votes.vote_band(field, images, torch.arange(8), num_groups=8)
    assert band[:, 0].tolist() == [1, 1, 1, 0, 0, 1, 0, 1]
    heavy = reference_votes.vote_band(
        field, images[:1], torch.zeros(1, dtype=torch.int64), torch.tensor([9], dtype=torch.uint8), num_groups=1
    )
    assert heavy.item() == 9
    at_plane = pictures([(0, 0, 5e-6), (0, 0, -5e-6), (0, 0, -1.0)], np.ones((4, 4), bool))
    assert reference_votes.vote_band(field, at_plane, torch.arange(3), num_groups=3)[:, 0].tolist() == [1, 1, 0]


@pytest.mark.parametrize(("focal", "distance", "side"), [(18000.0, 25.0, 512), (4700.0, 4.0, 4000), (18000.0, 25.0, 4000)])
def test_far_tele_cameras_and_large_images(focal: float, distance: float, side: int) -> None:
    rng = np.random.default_rng(int(focal) + side)
    field = random_field(rng, (24, 24, 24), 6)
    images = random_images(
        rng,
        field,
        6,
        distance=(distance, distance),
        sizes=((side, side - 7),),
        kinds=("blob", "noise", "borders"),
        zoom=(focal / (side - 7), focal / (side - 7)),
    )
    (num, den), band, _ = check_contract(field, images, torch.zeros(6, dtype=torch.int64), None, 1)
    assert int(num.sum()) > 1000
    assert int(den.sum()) < 6 * field.num_voxels
    # Four edges of a pixel, each with a band of 2e-3 px times side / 512.
    assert int(band.sum()) < 1.5 * 4 * 2e-3 * side / 512 * int(den.sum())


@pytest.mark.parametrize("canonicalize", [True, False])
def test_the_mannequin_meets_the_contract(canonicalize: bool) -> None:
    field = CanonicalField(load_body(), 24, canonicalize=canonicalize, cache=False).arrays
    rng = np.random.default_rng(24)
    images = random_images(
        rng, field, 24, distance=(2.0, 5.0), sizes=((512, 512), (384, 512)), zoom=(1.167, 1.167), kinds=("blob", "noise")
    )
    (num, den), band, stats = check_contract(field, images, torch.arange(24) % 12, None, 12)
    assert int(num.sum()) > 10_000
    assert stats.decided > stats.pairs // 10
    assert int(band.sum()) < 0.02 * int(den.sum())


def test_counts_fill_all_32_bits() -> None:
    field, images = one_voxel(), pictures([(0.0, 0, 2)], np.ones((8, 8), bool))
    out = tuple(torch.full((1, 1), 2**31 - 256, dtype=torch.int32) for _ in range(2))
    cpu_votes.count_votes(
        field, images, torch.zeros(1, dtype=torch.int64), torch.tensor([255], dtype=torch.uint8), num_groups=1, out=out
    )
    assert out[0].item() == out[1].item() == 2**31 - 1


def test_outputs_that_do_not_lie_side_by_side_are_added_to() -> None:
    rng = np.random.default_rng(5)
    field = random_field(rng, (5, 4, 6), 3)
    images, group = random_images(rng, field, 20), torch.tensor(rng.integers(0, 3, 20))
    fresh = cpu_votes.count_votes(field, images, group, num_groups=3)
    assert fresh[0].any()
    room = torch.full((field.num_voxels, 2, 4), 7, dtype=torch.int32)  # voxels slowest, a column that is no output
    out = room[:, 0, :3].T, room[:, 1, :3].T
    assert not out[0].is_contiguous()
    same = cpu_votes.count_votes(field, images, group, num_groups=3, out=out)
    assert same[0] is out[0]
    assert equal((out[0] - 7, out[1] - 7), fresh)
    assert (room[:, :, 3] == 7).all()
