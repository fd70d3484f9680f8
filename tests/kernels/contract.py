"""The kernels' contracts as checks that any backend can be held to, by its functions alone.

    from tests.kernels.contract import check_contacts, check_votes

    check_votes(my_count_votes)
    check_contacts(my_touched_regions, my_count_votes)

fail, as a test does, where a promise of ``chorus.kernels.arrays`` or ``chorus.kernels.contacts`` is broken: on worlds by hand
and on random ones, easy and nasty, against the float64 definition; for every split, order, group and weight; and for arguments
that do not fit. Images are given on the CPU. The worlds are small, so that Triton's interpreter gets through them; a fast
backend has tests of its own on larger ones, with ``within_band`` and ``within_bounds``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from chorus.kernels import arrays
from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.backends import CountVotes, TouchedRegions
from chorus.kernels.masks import PackedMasks
from chorus.kernels.reference import contacts as reference_contacts
from chorus.kernels.reference import votes as reference_votes
from tests.kernels.random_inputs import (
    add_masks,
    adversarial_world,
    one_voxel,
    pictures,
    random_field,
    random_images,
    to_images,
)
from tests.soak import SOAK

Counts = tuple[torch.Tensor, ...]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
REGIONS = ("patches", "few voxels", "every voxel", "bit 31 alone", "none")


def equal(a: Counts, b: Counts) -> bool:
    """Whether two results of votes are the same bits, wherever they are."""
    return all(torch.equal(x.cpu(), y.cpu()) for x, y in zip(a, b, strict=True))


def within_band(
    counts: Counts, field: VoxelField, images: VoteImages, group: torch.Tensor, weight: torch.Tensor | None, num_groups: int
) -> bool:
    """|counts - definition| <= band, count for count, int32 (G, V); images on the CPU, counts on any device."""
    definition = reference_votes.count_votes(field, images, group, weight, num_groups=num_groups)
    band = reference_votes.vote_band(field, images, group, weight, num_groups=num_groups)
    return all(
        have.dtype == torch.int32 and have.shape == want.shape and bool(((have.cpu() - want).abs() <= band).all())
        for have, want in zip(counts, definition, strict=True)
    )


def within_bounds(bits: torch.Tensor, bounds: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """certain <= bits <= possible, as sets of regions."""
    certain, possible = bounds
    return not (certain & ~bits).any() and not (bits & ~possible).any()


def random_regions(rng: np.random.Generator, field: VoxelField, kind: str) -> torch.Tensor:
    """Regions of a field's voxels, (V,) int32: boxes of voxels that overlap, single voxels, or everything."""
    bits = np.zeros(field.shape, np.int64)
    if kind == "every voxel":
        bits += rng.integers(1, 2**32, field.shape)
    elif kind == "bit 31 alone":
        bits.flat[rng.integers(0, bits.size, 5)] = 1 << 31
    elif kind != "none":
        for r in range(32):
            low = [int(rng.integers(n)) for n in field.shape]
            far = low if kind == "few voxels" else [int(rng.integers(a, n)) for a, n in zip(low, field.shape, strict=True)]
            bits[tuple(slice(a, b + 1) for a, b in zip(low, far, strict=True))] |= 1 << r
    return torch.from_numpy(bits.astype(np.uint32).view(np.int32).reshape(-1))


def union(regions: torch.Tensor, voxels: torch.Tensor) -> int:
    """Regions (int32 bit sets) of any of some voxels, (V,) bool."""
    return int(np.bitwise_or.reduce(regions.numpy()[voxels.numpy()], initial=0))


def several_groups(
    images: int = 150, shape: tuple[int, int, int] = (9, 6, 13)
) -> tuple[VoxelField, VoteImages, torch.Tensor, torch.Tensor]:
    """A field, images (by default more than one sweep of the numba kernel), groups 0 .. 3 of which 2 is empty, and weights."""
    rng = np.random.default_rng(3)
    field = random_field(rng, shape, 7)
    group = torch.tensor(rng.choice([0, 1, 3], images))
    weight = torch.tensor(rng.integers(0, 256, images), dtype=torch.uint8)
    return field, random_images(rng, field, images, distance=(0.5, 6.0)), group, weight


def small_world(seed: int) -> tuple[VoxelField, VoteImages, torch.Tensor, torch.Tensor | None]:
    """A field, images, groups 0 and 1, and weights or None. Together, twelve seeds have all that there is to meet.

    Adversarial for every third; 1, 3, 24 or 55 joints; cameras in front, among the voxels, behind and far away.
    """
    rng = np.random.default_rng([seed, 7])
    if seed % 3 == 0:
        field, images = adversarial_world(rng, 10)
        while field.num_voxels > 80:
            field, images = adversarial_world(rng, 10)
    else:
        shape = tuple(int(n) for n in rng.integers(1, 6, 3))
        field = random_field(rng, shape, (1, 3, 24, 55)[seed % 4])
        distance = ((2.0, 6.0), (0.0, 2.0), (30.0, 60.0), (-60.0, -50.0))[seed // 3 % 4]
        images = random_images(rng, field, int(rng.integers(1, 14)), distance=distance, sizes=((64, 64), (33, 47), (1, 1)))
    n = len(images)
    weight = torch.tensor(rng.integers(0, 256, n) * (rng.random(n) < 0.8), dtype=torch.uint8) if seed % 2 else None
    return field, images, torch.tensor(rng.integers(0, 2, n)), weight


def votes_of_random_worlds(count_votes: CountVotes) -> None:
    """Count for count within the band of the definition."""
    on_mask = 0
    # In the interpreter, which takes seconds for each, the others are those of the hidden votes.
    for seed in range(6 if INTERPRETED else 0, 12):
        field, images, group, weight = small_world(seed)
        counts = count_votes(field, images, group, weight, num_groups=2)
        assert within_band(counts, field, images, group, weight, 2), f"world {seed}"
        on_mask += int(counts[0].sum())
    assert on_mask > 1000


def votes_are_the_same_bits_however_they_are_split(count_votes: CountVotes) -> None:
    """One call, calls with a few images each, and any order of the images."""
    for seed in (1, 9):
        field, images, group, weight = small_world(seed)
        weight = torch.ones(len(images), dtype=torch.uint8) if weight is None else weight
        whole = count_votes(field, images, group, weight, num_groups=2)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        assert equal(whole, count_votes(field, images[order], group[order], weight[order], num_groups=2))
        parts = arrays.empty_counts(field, 2, "cpu")
        for first in range(0, len(images), 7):
            rows = slice(first, first + 7)
            count_votes(field, images[rows], group[rows], weight[rows], num_groups=2, out=parts)
        assert equal(whole, parts)


def votes_of_one_voxel_by_hand(count_votes: CountVotes) -> None:
    """A voxel on, beside and behind everything that a pixel and an image have; all numbers are powers of two."""
    # u = 8 x / z + 4, v = 8 y / z + 4 in an image 8 wide and 6 high; powers of two, so that float32 is exact.
    mask = np.zeros((6, 8), bool)
    mask[4, 5] = True  # row 4, column 5
    cases = [
        ((0.375, 0.125, 2.0), 1, 1),  # u = 5.5, v = 4.5: the pixel
        ((0.25, 0.0, 2.0), 1, 1),  # u = 5, v = 4: exactly its upper left corner
        ((0.5, 0.0, 2.0), 0, 1),  # u = 6: the next column
        ((0.375, 0.25, 2.0), 0, 1),  # v = 5: the next row
        ((0.375, -0.125, 2.0), 0, 1),  # v = 3.5: the row above
        ((-1.0, -1.0, 2.0), 0, 1),  # (0, 0): the image's first pixel
        ((-1.0625, 0.0, 2.0), 0, 0),  # u = -0.25: outside, though truncation would make it column 0
        ((0.0, -1.125, 2.0), 0, 0),  # v = -0.5
        ((1.0, 0.0, 2.0), 0, 0),  # u = 8 = W: outside
        ((0.96875, 0.0, 2.0), 0, 1),  # u = 7.875: inside
        ((0.0, 0.5, 2.0), 0, 0),  # v = 6 = H: outside
        ((0.0, 0.46875, 2.0), 0, 1),  # v = 5.875: inside
        ((0.375, 0.125, 0.0), 0, 0),  # z = 0
        ((0.0, 0.0, 0.0), 0, 0),  # the camera's centre: 0 / 0
        ((-0.375, -0.125, -2.0), 0, 0),  # behind the camera, where the same (u, v) comes out
        ((0.375, 0.125, 2.0), 1, 1),
    ]
    field, images = one_voxel(), pictures([t for t, _, _ in cases], mask)
    num, den = count_votes(field, images, torch.arange(len(cases)), num_groups=len(cases))
    assert num[:, 0].tolist() == [n for _, n, _ in cases]
    assert den[:, 0].tolist() == [d for _, _, d in cases]


def votes_of_two_joints_by_hand(count_votes: CountVotes) -> None:
    """Joint 1 at (0, 1, 0) turned by 90 degrees about z takes the origin to (1, 1, 0); half of it: (0.5, 0.5, 0)."""
    field = dataclasses.replace(
        one_voxel(),
        offset=torch.tensor([0, 2]),
        joint=torch.tensor([0, 1], dtype=torch.int32),
        weight=torch.full((2,), 0.5),
        rest_joints=torch.tensor([[0.0, 0, 0], [0, 1, 0]], dtype=torch.float64),
        parents=torch.tensor([-1, 0], dtype=torch.int32),
        rest_inverse=torch.eye(4, dtype=torch.float64).repeat(2, 1, 1),
    )
    # At z = 4: u = 8 * 0.5 / 4 + 4.25 = 5.25, v = 8 * 0.5 / 4 + 4.25 = 5.25.
    mask = np.zeros((8, 8), bool)
    mask[5, 5] = True
    K = np.array([[[8.0, 0, 4.25], [0, 8, 4.25], [0, 0, 1]]])
    pose = np.array([[[0, 0, 0], [0, 0, np.pi / 2]]])
    images = to_images(pose, np.eye(3)[None], np.array([[0, 0, 4.0]]), K, PackedMasks.pack([mask]))
    num, den = count_votes(field, images, torch.zeros(1, dtype=torch.int64), num_groups=1)
    assert (num.item(), den.item()) == (1, 1)
    straight = dataclasses.replace(images, poses=torch.zeros(1, 2, 3))  # unmoved it falls on (4, 4)
    num, den = count_votes(field, straight, torch.zeros(1, dtype=torch.int64), num_groups=1)
    assert (num.item(), den.item()) == (0, 1)


def votes_by_group_and_image_weight(count_votes: CountVotes) -> None:
    """Groups do not see each other, and a weight is a number of copies."""
    field, images, group, weight = several_groups(12, (3, 5, 4))
    num, den = count_votes(field, images, group, weight, num_groups=4)
    for g in range(4):
        rows = torch.nonzero(group == g)[:, 0]
        zero = torch.zeros(len(rows), dtype=torch.int64)
        alone = count_votes(field, images[rows], zero, weight[rows], num_groups=1)
        assert equal((num[g : g + 1], den[g : g + 1]), alone)
    assert not num[2].any()
    assert not den[2].any()
    few = weight % 4
    copies = torch.repeat_interleave(torch.arange(12), few.long())
    assert 0 in few
    weighted = count_votes(field, images, group, few, num_groups=4)
    assert equal(weighted, count_votes(field, images[copies], group[copies], num_groups=4))
    assert equal(count_votes(field, images, group.int(), few, num_groups=4), weighted)
    ones = torch.ones(12, dtype=torch.uint8)
    assert equal(count_votes(field, images, group, num_groups=4), count_votes(field, images, group, ones, num_groups=4))


def votes_are_added_to_out(count_votes: CountVotes) -> None:
    """Counts are added to ``out``, and nothing else is written."""
    field, images, group, weight = several_groups(20, (3, 5, 4))
    fresh = count_votes(field, images, group, weight, num_groups=4)
    poison = -1234567
    room = torch.full((2, 6, field.num_voxels), poison, dtype=torch.int32)  # a guard row above and below
    count_votes(field, images, group, weight, num_groups=4, out=(room[0, 1:5], room[1, 1:5]))
    assert equal((room[0, 1:5] - poison, room[1, 1:5] - poison), fresh)
    assert (room[:, [0, 5]] == poison).all()
    before = [getattr(images, f.name).clone() for f in dataclasses.fields(images)]
    count_votes(field, images, group, weight, num_groups=4)
    assert all(torch.equal(b, getattr(images, f.name)) for b, f in zip(before, dataclasses.fields(images), strict=True))


def votes_of_no_images(count_votes: CountVotes) -> None:
    """Zeros of the right shape."""
    field, images, group, _ = several_groups(1, (3, 5, 4))
    num, den = count_votes(field, images[:0], group[:0], num_groups=2)
    assert num.shape == den.shape == (2, field.num_voxels)
    assert not num.any()
    assert not den.any()


def vote_arguments_are_checked(count_votes: CountVotes) -> None:
    """ValueError, with the name of what does not fit and what was expected (``arrays.check_call`` says all of it)."""
    field, images, _, weight = several_groups(6, (3, 5, 4))
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


VOTE_CHECKS: tuple[Callable[[CountVotes], None], ...] = (
    votes_of_one_voxel_by_hand,
    votes_of_two_joints_by_hand,
    votes_of_no_images,
    votes_of_random_worlds,
    votes_are_the_same_bits_however_they_are_split,
    votes_by_group_and_image_weight,
    votes_are_added_to_out,
    vote_arguments_are_checked,
)


def check_votes(count_votes: CountVotes) -> None:
    """Hold a ``count_votes`` to its contract: fails where it breaks it."""
    for check in VOTE_CHECKS:
        check(count_votes)


def contacts_of_random_worlds(touched_regions: TouchedRegions) -> None:
    """All that is touched for certain, nothing that cannot be, by the definition's bounds; the same bits in any order."""
    touched = 0
    for seed in range(5 if SOAK or not INTERPRETED else 3):
        field, images, _, _ = small_world(seed)
        regions = random_regions(np.random.default_rng(seed), field, REGIONS[seed % len(REGIONS)])
        bits = touched_regions(field, regions, images)
        assert (bits.dtype, bits.shape) == (torch.int32, (len(images),))
        assert within_bounds(bits, reference_contacts.touched_bounds(field, regions, images)), f"world {seed}"
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(touched_regions(field, regions, images[order]), bits[order]), f"world {seed}"
        touched += int(bits.count_nonzero())
    assert touched > 10


def contacts_of_one_voxel_by_hand(touched_regions: TouchedRegions) -> None:
    """As ``votes_of_one_voxel_by_hand``; every bit of a region, bit 31 too."""
    # u = 8 x / z + 4, v = 8 y / z + 4 in an image 8 wide and 6 high; powers of two, so that float32 is exact.
    mask = np.zeros((6, 8), bool)
    mask[4, 5] = True  # row 4, column 5
    cases = [
        ((0.375, 0.125, 2.0), 1),  # u = 5.5, v = 4.5: the pixel
        ((0.25, 0.0, 2.0), 1),  # u = 5, v = 4: exactly its upper left corner
        ((0.5, 0.0, 2.0), 0),  # u = 6: the next column
        ((0.375, 0.25, 2.0), 0),  # v = 5: the next row
        ((0.375, -0.125, 2.0), 0),  # v = 3.5: the row above
        ((1.0, 0.0, 2.0), 0),  # u = 8 = W: outside
        ((0.375, 0.125, 0.0), 0),  # z = 0
        ((0.0, 0.0, 0.0), 0),  # the camera's centre: 0 / 0
        ((-0.375, -0.125, -2.0), 0),  # behind the camera, where the same (u, v) comes out
    ]
    field, images = one_voxel(), pictures([t for t, _ in cases], mask)
    for regions in (1, 0b1010, -(2**31), -1):
        bits = touched_regions(field, torch.tensor([regions], dtype=torch.int32), images)
        assert bits.tolist() == [regions * hit for _, hit in cases]
    assert touched_regions(field, torch.zeros(1, dtype=torch.int32), images).tolist() == [0] * len(cases)


def contacts_of_single_pixels(touched_regions: TouchedRegions) -> None:
    """Every voxel its own region, 32 voxels at a time; masks of one pixel, of all pixels but it, and of none."""
    rng = np.random.default_rng(0)
    field = random_field(rng, (3, 3, 4), 3, extent=1.5)
    bare = random_images(rng, field, 1, distance=(4.0, 4.0), sizes=((600, 600),), kinds=("empty",), zoom=(1.0, 1.0))
    uv, _ = reference_votes.project(field, bare, field.dense_weights(), field.centres())
    pixel = torch.floor(uv[0]).long()
    assert ((pixel >= 0) & (pixel < 600)).all()
    assert len(pixel.unique(dim=0)) == len(pixel)
    assert ((uv[0] - uv[0].round()).abs() > 5e-3).all()  # none that float32 could put elsewhere
    for first in range(0, field.num_voxels, 32):
        voxels = torch.arange(first, min(first + 32, field.num_voxels))
        regions = torch.zeros(field.num_voxels, dtype=torch.int32)
        regions[voxels] = torch.ones(len(voxels), dtype=torch.int32) << torch.arange(len(voxels), dtype=torch.int32)
        dots: list[NDArray[np.bool_]] = []
        for u, v in pixel[voxels].tolist():
            dots.append(np.zeros((600, 600), bool))
            dots[-1][v, u] = True
        masks = [*dots, *(~dot for dot in dots), np.zeros((600, 600), bool)]
        rows = torch.zeros(len(masks), dtype=torch.int64)
        images = add_masks(bare[rows], masks, bare.K[rows].numpy())
        own = regions[voxels]
        everything = union(regions, regions != 0)
        assert touched_regions(field, regions, images).tolist() == [*own.tolist(), *(everything & ~own).tolist(), 0]


def contacts_of_no_images(touched_regions: TouchedRegions) -> None:
    """No bits, of the right type."""
    rng = np.random.default_rng(0)
    field = random_field(rng, (4, 4, 4), 2)
    bits = touched_regions(field, random_regions(rng, field, "patches"), random_images(rng, field, 2)[:0])
    assert bits.shape == (0,)
    assert bits.dtype == torch.int32


def contact_arguments_are_checked(touched_regions: TouchedRegions) -> None:
    """ValueError, with the name of what does not fit and what was expected (``contacts.check_contacts`` says all of it)."""
    rng = np.random.default_rng(0)
    field = random_field(rng, (4, 5, 6), 3)
    images = random_images(rng, field, 3)
    regions = random_regions(rng, field, "patches")
    with pytest.raises(ValueError, match=r"regions: expected int32 of shape \(120,\).*; got torch.int64 of shape \(120,\)"):
        touched_regions(field, regions.long(), images)
    with pytest.raises(ValueError, match=r"regions: expected .* \(120,\).*got torch.int32 of shape \(119,\)"):
        touched_regions(field, regions[:-1], images)
    with pytest.raises(ValueError, match=r"regions: expected .* \(120,\).*got torch.int32 of shape \(4, 5, 6\)"):
        touched_regions(field, regions.reshape(4, 5, 6), images)
    with pytest.raises(ValueError, match=r"images.poses: expected shape \(3, 3, 3\).*got \(3, 2, 3\)"):
        touched_regions(field, regions, dataclasses.replace(images, poses=images.poses[:, :2]))


CONTACT_CHECKS: tuple[Callable[[TouchedRegions], None], ...] = (
    contacts_of_one_voxel_by_hand,
    contacts_of_single_pixels,
    contacts_of_no_images,
    contacts_of_random_worlds,
    contact_arguments_are_checked,
)


def contacts_are_those_of_the_votes(touched_regions: TouchedRegions, count_votes: CountVotes) -> None:
    """A region is touched exactly if one of its voxels is counted in ``num``: within one backend, bit for bit."""
    for seed in range(1, 4):
        field, images, _, _ = small_world(seed)
        images, regions = images[:4], random_regions(np.random.default_rng(seed), field, "patches")
        num, _ = count_votes(field, images, torch.arange(len(images)), num_groups=len(images))
        bits = touched_regions(field, regions, images).tolist()
        assert bits == [union(regions, num[i].cpu() > 0) for i in range(len(images))], f"world {seed}"


def check_contacts(touched_regions: TouchedRegions, count_votes: CountVotes) -> None:
    """Hold a ``touched_regions`` to its contract, and to the votes of its backend: fails where it breaks it."""
    for check in CONTACT_CHECKS:
        check(touched_regions)
    contacts_are_those_of_the_votes(touched_regions, count_votes)
