"""The Triton votes on a GPU: the contract on random worlds, and the promises that every backend makes."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from chorus.body.model import load_body
from chorus.field import CanonicalField
from chorus.kernels.arrays import VoteImages, VoxelField, empty_counts
from chorus.kernels.cpu import votes as cpu
from chorus.kernels.reference import votes as reference
from chorus.kernels.stats import CullingStats
from tests.kernels.contract import Counts, equal, within_band
from tests.kernels.random_inputs import adversarial_world, random_field, random_images

VARIANTS = ("lattice", "tensor", "auto")


def cast(field: VoxelField, images: VoteImages, group: torch.Tensor, *args: object, **options: object) -> Counts:
    from chorus.kernels.gpu.votes import count_votes

    num, den = count_votes(field, images, group, *args, **options)  # type: ignore[arg-type]
    return num, den


def world(seed: int) -> tuple[VoxelField, VoteImages, torch.Tensor, torch.Tensor | None]:
    """One of fifty: adversarial for every third seed; 1 to 55 joints; weighted for every second."""
    rng = np.random.default_rng([seed, 5])
    if seed % 3 == 0:
        field, images = adversarial_world(rng, 48)
    else:
        shape = tuple(int(n) for n in rng.integers(1, 14, 3))
        field = random_field(rng, shape, int(rng.choice([1, 3, 24, 55])))
        near = [(2.0, 6.0), (0.0, 2.0), (30.0, 60.0)][seed // 3 % 3]
        images = random_images(rng, field, int(rng.integers(1, 150)), distance=near)
    n = len(images)
    group = torch.tensor(rng.integers(0, 5, n))
    weight = torch.tensor(rng.integers(0, 256, n) * (rng.random(n) < 0.8), dtype=torch.uint8) if seed % 2 else None
    return field, images, group, weight


@pytest.mark.parametrize("seed", range(50))
def test_random_worlds_meet_the_contract(device: torch.device, seed: int) -> None:
    field, images, group, weight = world(seed)
    there, where = images.to(device), group.to(device)
    times = None if weight is None else weight.to(device)
    for variant in VARIANTS:
        ours = cast(field, there, where, times, num_groups=5, variant=variant)
        assert ours[0].device.type == ours[1].device.type == device.type
        assert within_band(ours, field, images, group, weight, 5)
        assert equal(ours, cast(field, there, where, times, num_groups=5, variant=variant, cull=False))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_bits_for_every_split_and_order(device: torch.device, variant: str) -> None:
    rng = np.random.default_rng(8)
    field = random_field(rng, (13, 9, 18), 24)
    images = random_images(rng, field, 4500).to(device)
    group = torch.tensor(rng.integers(0, 7, 4500), device=device)
    weight = torch.tensor(rng.integers(0, 256, 4500), dtype=torch.uint8, device=device)
    whole = cast(field, images, group, weight, num_groups=7, variant=variant)
    assert int(whole[0].sum()) > 100_000
    order = torch.tensor(rng.permutation(4500), device=device)
    shuffled = cast(field, images[order], group[order], weight[order], num_groups=7, variant=variant)
    assert equal(whole, shuffled)
    for cuts in ((0, 1, 4500), (0, 2048, 2049, 4500), (0, 700, 3001, 4500)):
        out = empty_counts(field, 7, device)
        for first, last in itertools.pairwise(cuts):
            rows = slice(first, last)
            cast(field, images[rows], group[rows], weight[rows], num_groups=7, variant=variant, out=out)
        assert equal(whole, out)
    assert equal(whole, cast(field, images, group, weight, num_groups=7, variant=variant, pass_images=2048))
    assert equal(whole, cast(field.to(device), images, group, weight, num_groups=7, variant=variant))
    # A voxel of weight 1 a image counts alike as none given.
    ones = cast(field, images, group, torch.ones_like(weight), num_groups=7, variant=variant)
    assert equal(ones, cast(field, images, group, num_groups=7, variant=variant))


def test_out_is_added_to_and_poison_shows_nowhere(device: torch.device) -> None:
    rng = np.random.default_rng(9)
    field = random_field(rng, (6, 5, 7), 3)
    images = random_images(rng, field, 40)
    group = torch.zeros(40, dtype=torch.int64)
    poison = torch.full((1 << 28,), -1, dtype=torch.int32, device=device)
    del poison  # the allocator hands this memory out again
    plain = cast(field, images.to(device), group.to(device), num_groups=2)
    out = tuple(torch.full((2, field.num_voxels), 1000, dtype=torch.int32, device=device) for _ in range(2))
    again = cast(field, images.to(device), group.to(device), num_groups=2, out=out)
    assert again[0].data_ptr() == out[0].data_ptr()
    assert equal(again, (plain[0] + 1000, plain[1] + 1000))
    assert int(plain[1][1].abs().sum()) == 0  # a group without images


def test_images_on_the_cpu_travel(device: torch.device) -> None:
    rng = np.random.default_rng(10)
    field = random_field(rng, (6, 5, 7), 3)
    images, group = random_images(rng, field, 40), torch.arange(40) % 3
    here = cast(field, images, group, num_groups=3)
    assert here[0].device.type == "cpu"
    assert equal(here, cast(field, images.to(device), group.to(device), num_groups=3))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("canonicalize", [True, False])
def test_the_mannequin_meets_the_contract(device: torch.device, variant: str, canonicalize: bool) -> None:
    field = CanonicalField(load_body(), 24, canonicalize=canonicalize, cache=False).arrays
    rng = np.random.default_rng(24)
    images = random_images(
        rng, field, 64, distance=(2.0, 5.0), sizes=((512, 512), (384, 512)), zoom=(1.167, 1.167), kinds=("blob", "noise")
    )
    group = torch.arange(64) % 12
    ours = cast(field, images.to(device), group.to(device), num_groups=12, variant=variant)
    assert within_band(ours, field, images, group, None, 12)
    assert int(ours[0].sum()) > 10_000
    # Nor are two backends farther apart than both may be from the definition.
    band = reference.vote_band(field, images, group, num_groups=12)
    for have, numba in zip(ours, cpu.count_votes(field, images, group, num_groups=12), strict=True):
        assert ((have.cpu() - numba).abs() <= 2 * band).all()


def test_culling_decides_much_and_changes_nothing(device: torch.device) -> None:
    field = CanonicalField(load_body(), 48).arrays
    rng = np.random.default_rng(25)
    images = random_images(
        rng, field, 256, distance=(2.0, 5.0), sizes=((512, 512),), zoom=(1.167, 1.167), kinds=("blob", "full", "empty")
    ).to(device)
    group = (torch.arange(256) % 12).to(device)
    stats, plain = CullingStats(), CullingStats()
    culled = cast(field, images, group, num_groups=12, stats=stats)
    assert equal(culled, cast(field, images, group, num_groups=12, cull=False, stats=plain))
    assert stats.pairs == plain.pairs == 256 * 12**3
    assert 0 < stats.outside < stats.decided
    assert stats.decided > 0.3 * stats.pairs
    assert plain.decided == plain.outside == 0


def test_words_beyond_two_gigabytes_are_found(device: torch.device) -> None:
    rng = np.random.default_rng(11)
    field = random_field(rng, (9, 8, 7), 5)
    images = random_images(rng, field, 30, kinds=("blob", "noise", "borders"))
    group = torch.zeros(30, dtype=torch.int64)
    far = (1 << 31) + 12_345 * 8  # in words: past what 32 bits count, in words as in bytes
    words = torch.full((far + len(images.words),), -1, dtype=torch.int32, device=device)  # elsewhere every pixel is set
    words[far:] = images.words.to(device)
    moved = dataclasses.replace(images.to(device), start=(images.start + far).to(device), words=words)
    for variant in VARIANTS:
        near = cast(field, images.to(device), group.to(device), num_groups=1, variant=variant)
        assert equal(near, cast(field, moved, group.to(device), num_groups=1, variant=variant))
        assert 0 < int(near[0].sum()) < int(near[1].sum())


def test_counts_beyond_two_gigabytes_are_found(device: torch.device) -> None:
    rng = np.random.default_rng(12)
    field = random_field(rng, (64, 64, 64), 2)
    images = random_images(rng, field, 64).to(device)
    groups = (1 << 31) // field.num_voxels + 3  # G V is more than an int32 counts
    group = torch.full((64,), groups - 1, dtype=torch.int64, device=device)
    num, den = cast(field, images, group, num_groups=groups)
    low = cast(field, images, torch.zeros_like(group), num_groups=1)
    assert torch.equal(num[-1], low[0][0])
    assert torch.equal(den[-1], low[1][0])
    assert int(den[:-1].count_nonzero()) == 0


def test_a_field_of_256_cubed_stays_within_40_gb(device: torch.device) -> None:
    from bench.harness.cells import interpolated

    field = interpolated(CanonicalField(load_body(), 48).arrays, 256)
    rng = np.random.default_rng(13)
    images = random_images(rng, field, 4096, distance=(2.0, 5.0), sizes=((512, 512),), zoom=(1.167, 1.167), kinds=("blob",))
    group = (torch.arange(4096) % 12).to(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    num, den = cast(field, images.to(device), group, num_groups=12)
    peak = torch.cuda.max_memory_allocated()
    print(f"peak {peak / 2**30:.1f} GiB")
    assert peak < 40e9
    assert (num <= den).all()
    # Voxels in the middle against the definition, on some of the images.
    from bench.harness.gates import crop

    part, voxels = crop(field, (120, 130, 125), (16, 16, 16))
    few = images[:12]
    zero = torch.zeros(12, dtype=torch.int64)
    counts = cast(field, few.to(device), zero.to(device), num_groups=1)
    assert within_band((counts[0][:, voxels.to(device)], counts[1][:, voxels.to(device)]), part, few, zero, None, 1)


def test_errors_name_what_is_wrong(device: torch.device) -> None:
    rng = np.random.default_rng(14)
    field = random_field(rng, (4, 4, 4), 3)
    images = random_images(rng, field, 3).to(device)
    group = torch.zeros(3, dtype=torch.int64, device=device)
    with pytest.raises(ValueError, match=r"variant: expected .*; got 'fast'"):
        cast(field, images, group, num_groups=1, variant="fast")
    with pytest.raises(ValueError, match=r"group: expected indices 0 \.\. 0"):
        cast(field, images, group + 1, num_groups=1)
    with pytest.raises(ValueError, match="out: expected int32"):
        cast(field, images, group, num_groups=1, out=empty_counts(field, 2, device))
    none = cast(field, images[:0], group[:0], num_groups=1)
    assert int(none[0].abs().sum()) == int(none[1].abs().sum()) == 0
