"""The contacts (kernels/reference/contacts.py): numba against the bounds of the float64 definition, and against the votes."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chorus.body.model import load_body
from chorus.field import CanonicalField
from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.bricks import bricks_of, region_bricks
from chorus.kernels.cpu import contacts as cpu_contacts
from chorus.kernels.cpu import votes as cpu_votes
from chorus.kernels.reference import contacts as reference_contacts
from chorus.kernels.reference import votes as reference_votes
from chorus.kernels.stats import ContactStats
from chorus.votes.parts import interaction_regions
from tests.kernels.contract import REGIONS, random_regions, union, within_bounds
from tests.kernels.random_inputs import add_masks, adversarial_world, one_voxel, pictures, random_field, random_images
from tests.kernels.test_votes import fixed


def population(bits: torch.Tensor) -> int:
    return int(np.bitwise_count(bits.numpy().view(np.uint32)).sum())


def check_contract(
    field: VoxelField, regions: torch.Tensor, images: VoteImages
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], ContactStats]:
    """certain <= numba <= possible, the same bits as the votes', and no others without culling; bits, bounds, statistics."""
    stats, plain = ContactStats(), ContactStats()
    ours = cpu_contacts.touched_regions(field, regions, images, stats=stats)
    assert ours.dtype == torch.int32
    assert ours.shape == (len(images),)
    bounds = reference_contacts.touched_bounds(field, regions, images)
    assert within_bounds(ours, bounds)
    assert within_bounds(reference_contacts.touched_regions(field, regions, images), bounds)
    assert torch.equal(ours, cpu_contacts.touched_regions(field, regions, images, cull=False, stats=plain))
    on_mask, _ = cpu_votes.count_votes(field, images, torch.arange(len(images)), num_groups=max(1, len(images)))
    assert ours.tolist() == [union(regions, on_mask[i] > 0) for i in range(len(images))]
    assert stats.known + stats.off + stats.on + stats.projected == stats.pairs == plain.pairs == plain.projected
    assert plain.known == plain.off == plain.on == 0
    assert stats.lookups <= plain.lookups
    return ours, bounds, stats


KINDS = ("any", "near", "inside", "away", "full view")
# What random worlds must have met, all together; otherwise the test below tests less than it says.
BRANCHES = (
    *REGIONS,
    "behind the camera",
    "empty mask",
    "full mask",
    "one pixel",
    "left out as known",
    "off the mask by the bound",
    "on the mask by the bound",
    "projected",
    "looked up",
    "bit 31",
    "nothing touched",
    "everything touched",
    "some of it touched",
    "undecided in float32",
    "one joint",
    "55 joints",
    "nx no multiple of 4",
    "ny no multiple of 4",
    "nz no multiple of 4",
    "images no multiple of 16",
    "more than one vector",
)


def test_random_worlds_meet_the_contract_in_every_branch() -> None:
    met: Counter[str] = Counter()

    @settings(fixed, max_examples=40)
    @given(st.integers(0, 2**32), st.sampled_from(KINDS), st.sampled_from([1, 3, 24, 55]), st.sampled_from(REGIONS))
    @example(1, "any", 1, "every voxel")
    @example(3, "any", 24, "patches")
    @example(5, "near", 55, "few voxels")
    @example(7, "inside", 3, "patches")
    @example(11, "away", 3, "patches")
    @example(13, "full view", 3, "patches")
    @example(14, "any", 24, "bit 31 alone")
    @example(15, "full view", 1, "none")
    def world(seed: int, kind: str, joints: int, region: str) -> None:
        rng = np.random.default_rng(seed)
        shape = tuple(int(n) for n in rng.integers(1, 14, 3))
        field = random_field(rng, shape, joints, extent=0.02 if kind == "inside" else 3.0)
        distance = {"near": (0.0, 2.0), "inside": (-0.001, 0.001), "away": (-60.0, -50.0), "full view": (30.0, 60.0)}
        kinds = {"kinds": ("full",)} if kind == "full view" else {}
        images = random_images(
            rng,
            field,
            int(rng.integers(1, 40)),
            distance=distance.get(kind, (2.0, 6.0)),
            sizes=((64, 64), (33, 47), (120, 80), (16, 200), (1, 1), (300, 300)),
            **kinds,
        )
        if kind == "inside":
            images = dataclasses.replace(images, t=images.t * torch.tensor([0.01, 0.01, 1.0], dtype=torch.float64))
        n = len(images)
        regions = random_regions(rng, field, region)
        bits, (certain, possible), stats = check_contract(field, regions, images)

        everything = union(regions, torch.ones(len(regions), dtype=torch.bool))
        _, z = reference_votes.project(field, images, field.dense_weights(), field.centres())
        area = torch.tensor([int(reference_votes.unpack_mask(images, i).sum()) for i in range(n)])
        some = torch.tensor(everything != 0)
        met.update(
            {
                region: 1,
                "behind the camera": int((z <= 0).sum()),
                "empty mask": int((area == 0).sum()),
                "full mask": int((area == images.size.prod(1)).sum()),
                "one pixel": int((area == 1).sum()),
                "left out as known": stats.known,
                "off the mask by the bound": stats.off,
                "on the mask by the bound": stats.on,
                "projected": stats.projected,
                "looked up": stats.lookups,
                "bit 31": int((bits < 0).sum()),
                "nothing touched": int((some & (bits == 0)).sum()),
                "everything touched": int((some & (bits == everything)).sum()),
                "some of it touched": int(((bits != 0) & (bits != everything)).sum()),
                "undecided in float32": population(certain ^ possible),
                "one joint": int(joints == 1),
                "55 joints": int(joints == 55),
                "nx no multiple of 4": shape[0] % 4,
                "ny no multiple of 4": shape[1] % 4,
                "nz no multiple of 4": shape[2] % 4,
                "images no multiple of 16": n % 16,
                "more than one vector": int(n > 16),
            }
        )

    world()
    assert set(BRANCHES) == set(met)
    assert not [branch for branch in BRANCHES if met[branch] == 0]


def test_adversarial_worlds_meet_the_contract() -> None:
    decided: Counter[str] = Counter()

    @settings(fixed, max_examples=60)
    @given(st.integers(0, 2**32), st.sampled_from(REGIONS))
    def world(seed: int, kind: str) -> None:
        rng = np.random.default_rng(seed)
        field, images = adversarial_world(rng)
        _, _, stats = check_contract(field, random_regions(rng, field, kind), images)
        decided.update(dataclasses.asdict(stats))

    world()
    assert decided["known"] > 500
    assert decided["off"] > 1000
    assert decided["on"] > 30
    assert decided["projected"] > 1000


def test_bits_do_not_depend_on_order_splits_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    field = random_field(rng, (11, 12, 9), 7)
    images = random_images(rng, field, 150)
    regions = random_regions(rng, field, "patches")
    touch = cpu_contacts.touched_regions
    bits = touch(field, regions, images)
    assert len(bits.unique()) > 30
    for threads in (1, 2, 3, 7):
        assert torch.equal(touch(field, regions, images, threads=threads), bits)
    order = torch.from_numpy(rng.permutation(150))
    assert torch.equal(touch(field, regions, images[order]), bits[order])
    for sizes in ([1, 149], [50] * 3, [7] * 21 + [3], [0, 150]):
        ends = np.cumsum([0, *sizes])
        pieces = [touch(field, regions, images[a:b]) for a, b in itertools.pairwise(ends)]
        assert torch.equal(torch.cat(pieces), bits)
    for a_pass in (16, 40, 64):
        monkeypatch.setattr(cpu_contacts, "IMAGES_PER_PASS", a_pass)
        assert torch.equal(touch(field, regions, images, threads=2), bits)
    # Regions do not see each other: alone, each has the bits it has in company.
    for r in (0, 13, 31):
        mask = int(np.array(1 << r, np.uint32).view(np.int32))
        assert torch.equal(touch(field, regions & mask, images), bits & mask)


@pytest.mark.parametrize("kind", REGIONS)
def test_region_bricks_hold_every_region_voxel_once(kind: str) -> None:
    rng = np.random.default_rng(3)
    field = random_field(rng, (9, 14, 6), 3)
    regions, cut = random_regions(rng, field, kind), bricks_of(field)
    held = region_bricks(field, regions, cut)
    by_voxel = held.voxel.reshape(-1, 4, 4, 4)
    found = np.zeros((12, 16, 8), np.int32)  # the grid and what its bricks stick out by
    for brick, bits in zip(held.brick, by_voxel, strict=True):
        x, y, z = cut.first[brick]
        assert not found[x : x + 4, y : y + 4, z : z + 4].any()
        found[x : x + 4, y : y + 4, z : z + 4] = bits
    assert found[:9, :14, :6].ravel().tolist() == regions.tolist()
    found[:9, :14, :6] = 0
    assert not found.any()
    assert held.slice.tolist() == np.bitwise_or.reduce(by_voxel.reshape(-1, 4, 16), axis=2).ravel().tolist()
    assert held.any.tolist() == np.bitwise_or.reduce(by_voxel.reshape(-1, 64), axis=1).tolist()
    voxels = np.count_nonzero(by_voxel, axis=(1, 2, 3))
    assert (voxels > 0).all()
    assert (np.diff(voxels) <= 0).all()  # the fullest first: what they touch, the others need not be looked at for


def test_float32_reference_stays_within_the_bounds() -> None:
    rng = np.random.default_rng(4)
    field = random_field(rng, (9, 10, 11), 5)
    images = random_images(rng, field, 200, distance=(0.5, 6.0))
    regions = random_regions(rng, field, "few voxels")
    certain, possible = reference_contacts.touched_bounds(field, regions, images, batch=7)
    bits = reference_contacts.touched_regions(field, regions, images, dtype=torch.float32, batch=3)
    assert within_bounds(bits, (certain, possible))
    assert population(certain) > 300
    assert population(certain ^ possible) < 0.02 * population(certain)


def test_bounds_by_hand() -> None:
    field, regions = one_voxel(), torch.tensor([-(2**31)], dtype=torch.int32)
    left, both = np.zeros((512, 512), bool), np.zeros((512, 512), bool)
    left[4, 3] = both[4, 3:5] = True
    corner = np.zeros((512, 512), bool)
    corner[0, 0] = True
    cases = [  # the voxel's u and v, its z, the mask; whether it must touch, whether it may
        (3.5, 4.5, 2.0, left, 1, 1),  # far from every edge
        (4.0, 4.5, 2.0, left, 0, 1),  # on the edge of the mask's pixel
        (4.001, 4.5, 2.0, left, 0, 1),  # 1e-3 px from it
        (4.003, 4.5, 2.0, left, 0, 0),  # 3e-3 px
        (4.003, 4.5, 0.5, left, 0, 1),  # but 0.5 m away the band is twice as wide
        (4.0, 4.5, 2.0, both, 1, 1),  # whichever side of the edge, on the mask
        (4.0, 5.0, 2.0, both, 0, 1),  # the edge below
        (-0.001, 0.5, 2.0, corner, 0, 1),  # just outside the image
        (-0.003, 0.5, 2.0, corner, 0, 0),
        (0.001, 0.5, 2.0, ~corner, 0, 0),  # or outside, but never on its neighbour
        (511.999, 4.5, 2.0, ~corner, 0, 1),
        (100.5, 4.5, 5e-6, left, 0, 1),  # on the camera's plane: anywhere
        (100.5, 4.5, -5e-6, left, 0, 1),
        (3.5, 4.5, -5e-6, left & False, 0, 0),  # nothing to touch
        (3.5, 4.5, -1.0, left, 0, 0),  # behind the camera
    ]
    # The principal point is where the voxel falls, as it lies on the camera's axis.
    K = np.array([[[512.0, 0, u], [0, 512, v], [0, 0, 1]] for u, v, *_ in cases])
    images = add_masks(pictures([(0, 0, z) for _, _, z, *_ in cases], left, K=K), [case[3] for case in cases], K)
    certain, possible = reference_contacts.touched_bounds(field, regions, images, batch=4)
    assert (certain == -(2**31)).int().tolist() == [case[4] for case in cases]
    assert (possible == -(2**31)).int().tolist() == [case[5] for case in cases]
    assert set(certain.tolist()) | set(possible.tolist()) == {0, -(2**31)}


@pytest.mark.parametrize("canonicalize", [True, False])
def test_the_mannequin_meets_the_contract(canonicalize: bool) -> None:
    field = CanonicalField(load_body(), 32, canonicalize=canonicalize, cache=False)
    regions = torch.tensor(interaction_regions(field).bits)
    rng = np.random.default_rng(24)
    images = random_images(
        rng,
        field.arrays,
        48,
        distance=(2.0, 5.0),
        sizes=((512, 512), (384, 512)),
        zoom=(1.167, 1.167),
        kinds=("blob", "blob", "noise", "one pixel", "full"),
    )
    bits, (certain, possible), stats = check_contract(field.arrays, regions, images)
    assert population(certain) > 100
    assert population(certain ^ possible) < 0.02 * population(bits)  # so the bounds say something
    assert ((bits >= 0) & (bits < 1 << 12)).all()
    assert stats.projected < stats.pairs // 2


def test_the_bounds_check_their_arguments() -> None:
    rng = np.random.default_rng(0)
    field = random_field(rng, (4, 5, 6), 3)
    with pytest.raises(ValueError, match=r"regions: expected int32 of shape \(120,\).*; got torch.int64 of shape \(120,\)"):
        reference_contacts.touched_bounds(field, random_regions(rng, field, "patches").long(), random_images(rng, field, 3))
