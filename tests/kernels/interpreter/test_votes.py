"""The Triton votes and contacts against the float64 definition, in the interpreter: tiny worlds, every branch."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections import Counter

import numpy as np
import pytest
import torch

from chorus.kernels.gpu import passes, votes
from chorus.kernels.gpu.contacts import touched_regions
from chorus.kernels.gpu.field import field_on_device
from chorus.kernels.masks import PackedMasks
from chorus.kernels.reference import contacts
from chorus.kernels.reference import votes as reference
from chorus.kernels.stats import CullingStats
from tests.kernels.contract import equal, union, within_band, within_bounds
from tests.kernels.random_inputs import adversarial_world, random_field, random_images, to_images
from tests.soak import SOAK

# seed, shape, joints, images, weighted, distance of the cameras; together they must meet every branch below.
WORLDS = (
    (0, (5, 4, 3), 1, 9, False, (2.0, 6.0)),
    (1, (4, 4, 4), 3, 20, True, (2.0, 6.0)),
    (2, (2, 5, 3), 9, 7, False, (0.0, 2.0)),
    (3, (4, 3, 4), 24, 5, True, (2.0, 6.0)),
    (4, (8, 4, 4), 2, 6, False, (30.0, 60.0)),
    (5, (3, 3, 3), 1, 4, True, (-60.0, -50.0)),
    (6, (2, 3, 2), 55, 3, True, (2.0, 6.0)),
)


def test_the_contract_in_every_branch() -> None:
    met: Counter[str] = Counter()
    for seed, shape, joints, count, weighted, distance in WORLDS:
        rng = np.random.default_rng(seed)
        field = random_field(rng, shape, joints)
        kinds = {"kinds": ("full", "blob", "empty")} if distance[0] == 30 else {}
        images = random_images(rng, field, count, distance=distance, sizes=((64, 64), (33, 47), (16, 200)), **kinds)
        group = torch.tensor(rng.integers(0, 2, count))
        weight = torch.tensor(rng.integers(0, 256, count) * (rng.random(count) < 0.8), dtype=torch.uint8) if weighted else None
        for variant in ("lattice", "tensor"):
            stats = CullingStats()
            ours = votes.count_votes(field, images, group, weight, num_groups=2, variant=variant, stats=stats)
            assert within_band(ours, field, images, group, weight, 2), (seed, variant)
            whole = votes.count_votes(field, images, group, weight, num_groups=2, variant=variant, cull=False)
            assert equal(ours, whole), (seed, variant)
            assert 0 <= stats.outside <= stats.decided <= stats.pairs
            met["settled"] += stats.decided - stats.outside
            met["outside"] += stats.outside
            met["left"] += stats.pairs - stats.decided
            met["on the mask"] += int(ours[0].sum())
            met["off the mask"] += int((ours[1] - ours[0]).sum())
        _, z = reference.project(field, images, field.dense_weights(), field.centres())
        met["behind the camera"] += int((z <= 0).sum())
        met["empty mask"] += int((images.box[:, 2] == 0).sum())
        plan = field_on_device(field, torch.device("cpu"))
        met.update(f"{launch.num_packs} packs" for launch in plan.launches("tensor"))
        met.update(f"one joint: {launch.one_joint}" for launch in plan.launches("lattice"))
    for branch in (
        "settled",
        "outside",
        "left",
        "on the mask",
        "off the mask",
        "behind the camera",
        "empty mask",
        "1 packs",
        "3 packs",
        "6 packs",
        "one joint: True",
        "one joint: False",
    ):
        assert met[branch] > 0, (branch, met)


@pytest.mark.parametrize("seed", range(6))
def test_culling_never_changes_a_count(seed: int) -> None:
    field, images = adversarial_world(np.random.default_rng(seed), count=24)
    if field.num_voxels > 300:
        field, images = adversarial_world(np.random.default_rng(1000 + seed), count=24)
    group = torch.zeros(len(images), dtype=torch.int64)
    ours = votes.count_votes(field, images, group, num_groups=1)
    assert equal(ours, votes.count_votes(field, images, group, num_groups=1, cull=False))


def test_any_split_order_and_pass_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    field = random_field(rng, (4, 4, 3), 3)
    images = random_images(rng, field, 40, sizes=((64, 64), (33, 47)))
    group = torch.tensor(rng.integers(0, 3, 40))
    weight = torch.tensor(rng.integers(0, 256, 40), dtype=torch.uint8)
    whole = votes.count_votes(field, images, group, weight, num_groups=3)
    out = tuple(torch.zeros_like(c) for c in whole)
    for rows in (slice(0, 1), slice(1, 18), slice(18, None)):
        same = votes.count_votes(field, images[rows], group[rows], weight[rows], num_groups=3, out=out)
        assert same[0] is out[0]
        assert same[1] is out[1]
    assert equal(whole, out)
    order = torch.tensor(rng.permutation(40))
    assert equal(whole, votes.count_votes(field, images[order], group[order], weight[order], num_groups=3))
    monkeypatch.setattr(passes, "SEGMENT", 8)  # many segments and passes
    assert equal(whole, votes.count_votes(field, images, group, weight, num_groups=3, pass_images=20))


def test_a_voxel_on_the_axis_behind_the_camera_does_not_vote() -> None:
    """U = V = 0 and z < 0: an approximate 1 / z must not bring it back."""
    field = random_field(np.random.default_rng(0), (1, 1, 1), 1, extent=0.1)
    one = np.eye(3)[None]
    K = np.array([[[100.0, 0, 32], [0, 100.0, 32], [0, 0, 1]]])
    for depth, inside in ((-2.0, 0), (2.0, 1)):
        images = to_images(np.zeros((1, 1, 3)), one, np.array([[0, 0, depth]]), K, PackedMasks.pack([np.ones((64, 64), bool)]))
        for variant in ("lattice", "tensor"):
            num, den = votes.count_votes(
                field, images, torch.zeros(1, dtype=torch.int64), num_groups=1, variant=variant, cull=False
            )
            assert num.tolist() == den.tolist() == [[inside]]


@pytest.mark.parametrize(("joints", "weighted"), [(1, False), (55, True)] if SOAK else [(1, False)])
def test_images_of_one_pixel_and_of_many_and_the_same_image_twice(joints: int, weighted: bool) -> None:
    """Masks as wide as a table has columns, or one pixel high; words shared, out of order, among others that are set."""
    rng = np.random.default_rng([joints, 0])
    field = random_field(rng, (5, 1, 3), joints)
    images = random_images(
        rng,
        field,
        7,
        kinds=("full", "noise", "corners"),
        zoom=(0.5, 4.0),
        sizes=((1, 1), (1, 500), (500, 1), (256, 256), (17, 256), (40, 513)),
    )
    words = torch.full((len(images.words) + 70,), -1, dtype=torch.int32)
    words[31 : 31 + len(images.words)] = images.words
    images = dataclasses.replace(images, words=words, start=images.start + 31)[torch.tensor(rng.integers(0, 7, 10))]
    group = torch.tensor(rng.integers(0, 3, 10))
    weight = torch.tensor(rng.choice([0, 1, 255], 10), dtype=torch.uint8) if weighted else None
    for variant in ("lattice", "tensor"):
        ours = votes.count_votes(field, images, group, weight, num_groups=3, variant=variant)
        assert within_band(ours, field, images, group, weight, 3)
        assert 0 < int(ours[0].sum()) < int(ours[1].sum())
        whole = votes.count_votes(field, images, group, weight, num_groups=3, variant=variant, cull=False)
        assert equal(ours, whole)


def test_an_offset_principal_point_and_a_long_lens() -> None:
    """Image centres far outside the image, with fractions, and focal lengths that fill float16 without their scale."""
    rng = np.random.default_rng(11)
    field = random_field(rng, (4, 4, 4), 5)
    images = random_images(rng, field, 6, sizes=((64, 64),))
    K = images.K.clone()
    K[:3, 0, 2] += 2000.37
    K[:3, 1, 2] -= 977.9
    t = images.t.clone()
    t[:3, 0] -= 2000.37 / K[:3, 0, 0] * t[:3, 2]
    t[:3, 1] += 977.9 / K[:3, 1, 1] * t[:3, 2]
    K[3:, :2, :2] *= 40
    t[3:] *= 40
    moved = dataclasses.replace(images, K=K, t=t)
    group = torch.zeros(6, dtype=torch.int64)
    for variant in ("lattice", "tensor"):
        ours = votes.count_votes(field, moved, group, num_groups=1, variant=variant)
        assert int(ours[1].sum()) > 0
        assert within_band(ours, field, moved, group, None, 1)


def test_contacts_lie_between_what_is_certain_and_what_is_possible() -> None:
    for seed, joints in ((0, 1), (1, 3), (2, 6)):
        rng = np.random.default_rng(seed)
        field = random_field(rng, (4, 5, 3), joints)
        images = random_images(rng, field, 17)
        bits = np.where(rng.random(field.num_voxels) < 0.2, 1 << rng.integers(0, 32, field.num_voxels), 0)
        regions = torch.tensor(bits.astype(np.uint32).view(np.int32))
        ours = touched_regions(field, regions, images)
        assert within_bounds(ours, contacts.touched_bounds(field, regions, images))
        assert int((ours != 0).sum()) > 0
        assert torch.equal(ours, touched_regions(field, regions, images, cull=False))
        # Exactly the regions one of whose voxels the lattice votes count.
        num, _ = votes.count_votes(field, images[:3], torch.arange(3), num_groups=3, variant="lattice")
        for image in range(3):
            assert int(ours[image]) == union(regions, num[image] > 0)
    none = torch.zeros(field.num_voxels, dtype=torch.int32)
    assert touched_regions(field, none, images).eq(0).all()


def test_arguments_are_checked() -> None:
    rng = np.random.default_rng(0)
    field = random_field(rng, (2, 2, 2), 2)
    images = random_images(rng, field, 2)
    group = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="variant: expected auto, lattice, tensor; got 'wmma'"):
        votes.count_votes(field, images, group, num_groups=1, variant="wmma")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="group: expected indices"):
        votes.count_votes(field, images, group + 1, num_groups=1)
    none = votes.count_votes(field, images[:0], group[:0], num_groups=2)
    assert none[0].shape == (2, 8)
    assert none[0].eq(0).all()


def test_a_field_that_nobody_holds_is_let_go() -> None:
    field = random_field(np.random.default_rng(0), (2, 2, 2), 5)
    images = random_images(np.random.default_rng(1), field, 2)
    votes.count_votes(field, images, torch.zeros(2, dtype=torch.int64), num_groups=1, variant="tensor")
    gone = weakref.ref(field)
    del field
    gc.collect()
    assert gone() is None


def test_arrays_whose_rows_do_not_lie_side_by_side() -> None:
    rng = np.random.default_rng(3)
    field = random_field(rng, (4, 3, 3), 2)
    images = random_images(rng, field, 12)
    group = torch.tensor(rng.integers(0, 2, 12))
    weight = torch.tensor(rng.integers(0, 9, 12), dtype=torch.uint8)
    every_other = torch.arange(0, 12, 2)
    expected = votes.count_votes(field, images[every_other], group[every_other], weight[every_other], num_groups=2)
    assert equal(expected, votes.count_votes(field, images[::2], group[::2], weight[::2], num_groups=2))
    odd = dataclasses.replace(images, R=images.R.mT.contiguous().mT, poses=images.poses.double(), start=images.start.int())
    whole = votes.count_votes(field, images, group, num_groups=2)
    assert equal(whole, votes.count_votes(field, odd, group, num_groups=2))


def test_an_output_that_does_not_lie_side_by_side() -> None:
    rng = np.random.default_rng(5)
    field = random_field(rng, (3, 3, 3), 2)
    images = random_images(rng, field, 8)
    group = torch.tensor(rng.integers(0, 3, 8))
    expected = votes.count_votes(field, images, group, num_groups=3)
    turned = tuple(torch.zeros(27, 3, dtype=torch.int32).T for _ in range(2))
    votes.count_votes(field, images, group, num_groups=3, out=turned)  # type: ignore[arg-type]
    assert equal(turned, expected)  # type: ignore[arg-type]
    wide = torch.zeros(2, 3, 54, dtype=torch.int32)
    votes.count_votes(field, images, group, num_groups=3, out=(wide[0, :, 27:], wide[1, :, 27:]))
    assert equal((wide[0, :, 27:], wide[1, :, 27:]), expected)
    assert wide[:, :, :27].eq(0).all()


def test_tensors_of_images_must_fit() -> None:
    rng = np.random.default_rng(0)
    field = random_field(rng, (2, 2, 2), 2)
    images = random_images(rng, field, 3)
    group = torch.zeros(3, dtype=torch.int64)
    for name, wrong in (("K", images.K[0]), ("R", images.R[:2]), ("box", images.box[:, :2]), ("start", images.start[:1])):
        with pytest.raises(ValueError, match=rf"images.{name}: expected shape"):
            votes.count_votes(field, dataclasses.replace(images, **{name: wrong}), group, num_groups=1)
    with pytest.raises(ValueError, match="group: expected integers"):
        votes.count_votes(field, images, group.double(), num_groups=1)
