"""Images or a store in, an Occupancy out: selection, grouping, exactness, bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chorus.body.model import Body, load_body
from chorus.camera.cameras import Cameras
from chorus.camera.views import FOLDS, SCHEMES, Scheme, azimuth_bin, elevation_bin, fold_of_hash, key_hash
from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField
from chorus.images import ImageBatch, vote_images
from chorus.kernels.reference import votes as reference
from chorus.occupancy import aggregation as module
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy
from chorus.store import StoreWriter, open_store
from tests.kernels.random_inputs import random_mask, random_rotation
from tests.occupancy.test_counts import same

N = 12


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def field(body: Body) -> CanonicalField:
    return CanonicalField(body, N, cache=False)


def make_images(n: int, seed: int = 0, weights: bool = False, joints: int = 24) -> ImageBatch:
    """Images from all sides, most of them of people in front of the camera; two prompts, differing sizes."""
    rng = np.random.default_rng(seed)
    sizes = [((48, 64), (33, 47))[i % 2] for i in range(n)]
    R = np.stack([random_rotation(rng) for _ in range(n)]).reshape(-1, 3, 3).astype(np.float32).astype(float)
    t = np.concatenate([rng.normal(0, 0.2, (n, 2)), rng.uniform(2, 4, (n, 1))], 1).astype(np.float32)
    K = np.array([[[1.2 * w, 0, w / 2], [0, 1.2 * w, h / 2], [0, 0, 1]] for h, w in sizes]).reshape(-1, 3, 3)
    poses = rng.normal(0, 0.3, (n, joints, 3))
    poses[:, 0] = 0
    kinds = ("blob", "full", "empty", "noise", "borders")
    return ImageBatch(
        [random_mask(rng, kinds[i % 5], *sizes[i]) for i in range(n)],
        Cameras(R, t, K.astype(np.float32), np.array(sizes).reshape(n, 2)),
        poses,
        [f"{seed}-{i}" for i in range(n)],
        rng.integers(0, 9, n).astype(np.uint8) if weights else None,
        [("sitting", "standing", "lying")[i % 3] for i in range(n)],
    )


@pytest.fixture(scope="module")
def images() -> ImageBatch:
    return make_images(90, weights=True)


@pytest.fixture(scope="module")
def store_path(tmp_path_factory: pytest.TempPathFactory, images: ImageBatch, body: Body) -> Path:
    path = tmp_path_factory.mktemp("store") / "cup.chorus"
    with StoreWriter(path, category="cup", shard_size=25, body_hash=body.hash) as writer:
        writer.append_rejected(["nobody"], ["no person"], prompts="sitting")
        status = ["overlap" if i == 7 else "complete" for i in range(len(images))]
        writer.append(images, scores={"overlap": np.arange(len(images)) / len(images)}, status=status)
    return path


def complete(images: ImageBatch) -> ImageBatch:
    """What the store has of the images by default: all but the one that a filter rejected."""
    return images[np.arange(len(images)) != 7]


def slowly(images: ImageBatch, field: CanonicalField, group: np.ndarray, num_groups: int) -> tuple[Any, Any]:
    weight = None if images.weights is None else torch.from_numpy(images.weights)
    counts = reference.count_votes(field.arrays, vote_images(images), torch.from_numpy(group), weight, num_groups=num_groups)
    shape = (num_groups, *field.arrays.shape)
    return tuple(c.numpy().reshape(shape) for c in counts)


def groups_by_hand(name: str, images: ImageBatch) -> np.ndarray:
    group = azimuth_bin(images.cameras)
    if "elevation" in name:
        group = group * 6 + elevation_bin(images.cameras)
    if "folds" in name:
        group = group + fold_of_hash(key_hash(images.keys)) * (72 if "elevation" in name else 12)
    return group


@pytest.mark.parametrize("name", SCHEMES)
def test_counts_are_the_votes_by_group(name: str, images: ImageBatch, field: CanonicalField) -> None:
    group, G = groups_by_hand(name, images), Scheme(name).num_groups
    num, den = slowly(images, field, group, G)
    occupancy = aggregate(images, field, scheme=name, backend="reference")
    assert np.array_equal(occupancy.num_counts, num)
    assert np.array_equal(occupancy.den_counts, den)
    assert occupancy.group_images.tolist() == np.bincount(group, minlength=G).tolist()
    assert images.weights is not None
    assert occupancy.group_totals.tolist() == np.bincount(group, images.weights, minlength=G).astype(int).tolist()
    assert occupancy.scheme.name == name
    assert occupancy.num_images == len(images)
    assert (occupancy.body_hash, occupancy.parameters) == (field.body.hash, field.parameters)
    assert occupancy.field_hash == field.hash
    assert np.array_equal(occupancy.sketch, np.sort(key_hash(images.keys)))
    fast = aggregate(images, field, scheme=name)
    band = reference.vote_band(
        field.arrays, vote_images(images), torch.from_numpy(group), torch.from_numpy(images.weights), num_groups=G
    )
    assert (np.abs(fast.num_counts.astype(int) - num) <= band.numpy().reshape(num.shape)).all()
    assert (np.abs(fast.den_counts.astype(int) - den) <= band.numpy().reshape(num.shape)).all()


def test_phi_is_equation_6_with_the_weights_of_a6(images: ImageBatch, field: CanonicalField) -> None:
    """Image by image, in floating point, with r_k = 1 / number of images in the bin of image k."""
    plain = ImageBatch(images.masks, images.cameras, images.poses, images.keys)
    bins = azimuth_bin(plain.cameras)
    num, den = slowly(plain, field, np.arange(len(plain)), len(plain))
    r = 1 / np.bincount(bins, minlength=12)[bins]
    numerator, denominator = np.einsum("i,ixyz->xyz", r, num), np.einsum("i,ixyz->xyz", r, den)
    phi = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    occupancy = aggregate(plain, field, backend="reference")
    assert np.allclose(occupancy.numerator, numerator, rtol=1e-6)
    assert np.allclose(occupancy.denominator, denominator, rtol=1e-6)
    assert np.allclose(occupancy.probability, phi, rtol=1e-6, atol=1e-9)
    assert 0.1 < phi.max() <= 1


@pytest.mark.parametrize(("first", "then"), [("azimuth", "none"), ("azimuth-elevation", "azimuth"), ("none", "azimuth")])
def test_reweighting_equals_aggregating_anew(first: str, then: str, images: ImageBatch, field: CanonicalField) -> None:
    occupancy = aggregate(images, field, weighting=first).reweight(then)
    again = aggregate(images, field, weighting=then, scheme=occupancy.scheme.name)
    assert same(occupancy, again)
    assert np.array_equal(occupancy.probability, again.probability)
    default = aggregate(images, field, weighting=then)
    assert default.scheme.name == "azimuth"
    assert same(occupancy.with_scheme("azimuth"), default)


def test_default_schemes(images: ImageBatch, field: CanonicalField) -> None:
    assert aggregate(images[:3], field).scheme.name == "azimuth"
    assert aggregate(images[:3], field, weighting="azimuth-elevation").scheme.name == "azimuth-elevation"


def test_parts_add_up_to_the_whole(images: ImageBatch, field: CanonicalField) -> None:
    whole = aggregate(images, field)
    cuts = [0, 1, 30, 31, 77, len(images)]
    parts = [aggregate(images[a:b], field) for a, b in pairwise(cuts)]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        total: Occupancy = parts[order[0]]
        for i in order[1:]:
            total = total + parts[i]
        assert same(total, whole)
        assert np.array_equal(total.probability, whole.probability)
    with pytest.raises(MismatchError, match=r"share images, .*: \d+ are in both"):
        whole + parts[2]


def test_jackknife_equals_leaving_folds_out_of_the_images(images: ImageBatch, field: CanonicalField) -> None:
    occupancy = aggregate(images, field, scheme="azimuth+folds")
    fold = fold_of_hash(key_hash(images.keys))
    phi = np.stack([aggregate(images[fold != f], field).probability.astype(float) for f in range(FOLDS)])
    expected = np.sqrt((FOLDS - 1) / FOLDS * ((phi - phi.mean(0)) ** 2).sum(0))
    assert np.allclose(occupancy.jackknife_error(), expected, atol=1e-6)
    assert expected.max() > 0.01
    assert same(occupancy.of_folds([3]), aggregate(images[fold == 3], field, scheme="azimuth+folds"))


def test_batches_order_and_kind_of_source_do_not_matter(images: ImageBatch, field: CanonicalField, store_path: Path) -> None:
    chosen = complete(images)
    whole = aggregate(chosen, field)
    for size in (1, 16, 89, 4096):
        assert same(aggregate(chosen, field, batch_size=size), whole)
    assert same(aggregate((chosen[i : i + 10] for i in range(0, 89, 10)), field), whole)
    assert same(aggregate(chosen[::-1], field), whole)
    for source in (store_path, str(store_path), open_store(store_path), open_store(store_path).batches(size=9)):
        assert same(aggregate(source, field, batch_size=7), whole)


def test_provenance(field: CanonicalField, store_path: Path) -> None:
    store = open_store(store_path)
    occupancy = aggregate(store, field, backend="numba")
    (facts,) = occupancy.provenance
    assert facts["source"] == store.id
    assert facts["images"] == 89
    assert facts["backend"] == "numba"
    assert occupancy.category == "cup"
    assert {"chorus", "numpy", "torch", "python", "command"} <= set(facts)
    json.dumps(occupancy.provenance)


def test_prompts_select(images: ImageBatch, field: CanonicalField, store_path: Path) -> None:
    chosen = complete(images)
    assert chosen.prompts is not None
    for wanted in ("sitting", ["standing", "lying"]):
        expected = aggregate(chosen[np.isin(chosen.prompts, wanted)], field)
        assert 0 < expected.num_images < len(chosen)
        assert same(aggregate(chosen, field, prompt=wanted), expected)
        assert same(aggregate(store_path, field, prompt=wanted), expected)
    with pytest.raises(InputError, match=r"prompt: expected one of .*'sitting'.* got 'flying'"):
        aggregate(store_path, field, prompt="flying")
    with pytest.raises(InputError, match="no image to aggregate"):
        aggregate(chosen, field, prompt="flying")
    with pytest.raises(InputError, match="prompt: expected images with prompts"):
        aggregate(ImageBatch(chosen.masks, chosen.cameras, chosen.poses), field, prompt="sitting")


def test_predicates_select(images: ImageBatch, field: CanonicalField, store_path: Path) -> None:
    chosen = complete(images)
    rows = np.array([i for i in range(90) if i != 7]) / 90 >= np.float32(0.5)
    expected = aggregate(chosen[rows], field)
    assert same(aggregate(store_path, field, where=lambda r: r["score/overlap"] >= 0.5), expected)
    both = aggregate(store_path, field, prompt="lying", where=lambda r: r["score/overlap"] >= 0.5)
    assert chosen.prompts is not None
    assert same(both, aggregate(chosen[rows & (chosen.prompts == "lying")], field))
    with pytest.raises(InputError, match=r"no image of the store is selected: it has 91 rows, prompts: 'lying', 'sitting'"):
        aggregate(store_path, field, where=lambda r: r["score/overlap"] > 2)
    with pytest.raises(InputError, match="where: a predicate over rows needs a store"):
        aggregate(images, field, where=lambda r: r["score/overlap"] > 0)


def test_empty_selections(images: ImageBatch, field: CanonicalField) -> None:
    for source in (images[:0], [], iter([images[:0]])):
        with pytest.raises(InputError, match="no image to aggregate"):
            aggregate(source, field)


def test_what_does_not_fit_is_refused(
    images: ImageBatch, field: CanonicalField, body: Body, store_path: Path, tmp_path: Path
) -> None:
    other = Body(body.name, body.vertices * 1.01, body.faces, body.joints, body.parents, body.weights, body.joint_names)
    made_with = rf"store: expected one made with the field's body, .*{other.hash[:12]}, got one made with {body.hash[:12]}"
    with pytest.raises(MismatchError, match=made_with):
        aggregate(store_path, CanonicalField(other, 4, cache=False))
    with pytest.raises(MismatchError, match=r"poses: expected the 24 joints of the field's body, got 22"):
        aggregate(make_images(2, joints=22), field)
    with pytest.raises(InputError, match="weighting: expected one of"):
        aggregate(images, field, weighting="views")
    with pytest.raises(InputError, match="weighting: azimuth-elevation needs counts by cell"):
        aggregate(images, field, weighting="azimuth-elevation", scheme="azimuth")
    with pytest.raises(InputError, match="scheme: expected one of"):
        aggregate(images, field, scheme="fold")
    with pytest.raises(ValueError, match=r"backend: expected auto, .*got 'cuda'"):
        aggregate(images, field, backend="cuda")
    with pytest.raises(InputError, match=r"no.such"):
        aggregate(tmp_path / "no-such", field)
    for source in (images, store_path):
        for size in (0, -1, 2.5):
            with pytest.raises(InputError, match="size: expected a positive integer"):
                aggregate(source, field, batch_size=size)  # type: ignore[arg-type]
    for nothing, words in ((None, "got a NoneType"), (7, "got a int"), ([images, 2], "got a int among them")):
        with pytest.raises(InputError, match=rf"images_or_store: expected .*{words}"):
            aggregate(nothing, field)  # type: ignore[arg-type]


def test_counts_move_to_64_bits_before_they_overflow(
    images: ImageBatch, field: CanonicalField, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = aggregate(images, field)
    assert whole.num_counts.dtype == np.int32
    assert images.weights is not None
    most = max(int(images.weights[i : i + 7].sum()) for i in range(0, 90, 7))
    monkeypatch.setattr(module, "MAX_TOTAL_WEIGHT", most)
    moves = []
    original = module._VoteCounts._moved_to_64_bits
    monkeypatch.setattr(module._VoteCounts, "_moved_to_64_bits", lambda votes: moves.append(1) or original(votes))
    wide = aggregate(images, field, batch_size=7)
    assert wide.num_counts.dtype == wide.den_counts.dtype == np.int64
    assert len(moves) > 5
    assert same(wide, whole)


def test_progress(images: ImageBatch, field: CanonicalField, store_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    aggregate(images, field, batch_size=40, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(40, 90), (80, 90), (90, 90)]
    seen.clear()
    aggregate(store_path, field, progress=lambda done, total: seen.append((done, total)))
    assert [total for _, total in seen] == [89] * len(seen)
    assert seen[-1][0] == 89
    seen.clear()
    aggregate(iter([images]), field, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(90, None)]


def test_images_are_not_changed(images: ImageBatch, field: CanonicalField) -> None:
    before = [a.copy() for a in (images.masks.words, images.masks.box, images.poses, images.cameras.R, images.keys)]
    aggregate(images, field)
    after = (images.masks.words, images.masks.box, images.poses, images.cameras.R, images.keys)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


MEMORY = """
import sys
from chorus.occupancy.aggregation import aggregate
from chorus.body.model import load_body
from chorus.field import CanonicalField
def peak():  # of this program alone; ru_maxrss would begin at that of the process that started it
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
field = CanonicalField(load_body(), 8, cache=False)
small, large = sys.argv[1:]
aggregate(small, field)
before = peak()
occupancy = aggregate(large, field)
print(occupancy.num_images, peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_store(tmp_path: Path, body: Body) -> None:
    """A store with 33 MB of masks, four times the other: the pages mapped may come and go, the peak must not follow."""
    rng = np.random.default_rng(0)
    one = make_images(20)
    noise = [rng.random((640, 640)) < 0.5 for _ in range(20)]  # 51 KB each, packed
    size = np.full((20, 2), 640)
    sizes = {}
    for name, times in (("small", 8), ("large", 32)):
        with StoreWriter(tmp_path / name, category="cup", shard_size=20, body_hash=body.hash) as writer:
            for k in range(times):
                c = one.cameras
                writer.append(ImageBatch(noise, Cameras(c.R, c.t, c.K, size), one.poses, [f"{k}-{i}" for i in range(20)]))
        sizes[name] = sum(f.stat().st_size for f in (tmp_path / name).rglob("*.h5"))
    assert sizes["large"] > 3.9 * sizes["small"] > 30e6
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "small"), str(tmp_path / "large")],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    images, grown = (int(x) for x in done.stdout.split())
    assert images == 640
    print(f"{(sizes['large'] - sizes['small']) / 1e6:.0f} MB more in the store, {grown / 1e6:.1f} MB more in memory")
    assert grown < 0.25 * (sizes["large"] - sizes["small"])
