"""Noisy-OR EM: its equations against plain numpy and by hand, exactness, memory, files, and where it fails."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from chorus.body.model import Body, load_body
from chorus.cli import main
from chorus.errors import InputError, MismatchError
from chorus.evaluate.pap.categories import evaluate_pap
from chorus.experimental import noisy_or as module
from chorus.experimental.noisy_or import CANDIDATES, FOOTPRINT, HIDDEN_EXPLAINS, LEAK, candidates, noisy_or
from chorus.experimental.sharpened import Sharpened, load_distribution, load_sharpened
from chorus.field import CanonicalField, FieldParameters
from chorus.images import ImageBatch
from chorus.kernels.cpu import rays
from chorus.kernels.cpu.rays import RayVotes
from chorus.kernels.depth import limits_of
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy, load_occupancy
from chorus.render.body_depth import body_depth
from chorus.simulate.images import simulate, true_occupancy, write_world
from chorus.simulate.worlds import WORLDS
from tests.occupancy.test_aggregation import make_images

N = 16


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def images() -> ImageBatch:
    return make_images(60, seed=3, weights=True)


def made(images: Any, body: Body, canonicalization: str = "lbs", hidden: float | None = 0.1, n: int = N) -> Occupancy:
    field = CanonicalField(body, n, cache=False, canonicalization=canonicalization)
    return aggregate(images, field, hidden_weight=hidden)


def votes(codes: Any, groups: Any = None) -> RayVotes:
    codes = np.array(codes, np.int32)
    n = len(codes)
    group = np.zeros(n, np.int64) if groups is None else np.array(groups, np.int64)
    return RayVotes(codes, np.full(n, codes.max() // 4 + 1, np.int32), group, np.ones(n, np.int64))


def code(ray: int, hit: bool, hidden: bool = False) -> int:
    return ray * 4 + 2 * hidden + hit


def test_two_voxels_on_one_ray_share_the_credit_by_hand() -> None:
    one_ray, two_rays = [code(0, True), code(0, True)], [code(0, True), code(1, False)]
    phi = np.array([0.6, 0.2])
    num = rays.step(votes([one_ray]), phi, 1, leak=0.02, hidden_explains=1.0)[0, 0] / rays.SCALE
    P = 1 - 0.98 * 0.4 * 0.8  # 0.6864
    assert num == pytest.approx([0.6 / P, 0.2 / P], abs=2e-10)
    num = rays.step(votes([two_rays]), phi, 1, leak=0.02, hidden_explains=1.0)[0, 0] / rays.SCALE
    assert num == pytest.approx([0.6 / (1 - 0.98 * 0.4), 0], abs=2e-10)  # alone on its ray; the other misses
    # Repeated over both images the first voxel takes all: only it explains both.
    both = votes([one_ray, two_rays])
    for _ in range(200):
        phi = np.minimum(rays.step(both, phi, 1, leak=0.02, hidden_explains=1.0)[0, 0] / rays.SCALE / 2, 1)
    assert phi[0] > 0.99
    assert phi[1] < 0.02


def test_hidden_votes_are_apart_and_explain_less_by_hand() -> None:
    row = [code(0, True), code(0, True, hidden=True), rays.OUTSIDE, code(1, False, hidden=True)]
    phi = np.array([0.5, 0.4, 0.9, 0.3])
    found = rays.step(votes([row], [1]), phi, 2, leak=0.02, hidden_explains=0.25) / rays.SCALE
    P = 1 - 0.98 * 0.5 * (1 - 0.25 * 0.4)
    expected = np.zeros((2, 2, 4))
    expected[0, 1, 0], expected[1, 1, 1] = 0.5 / P, 0.4 / P
    assert found == pytest.approx(expected, abs=2e-10)
    seen = rays.count(votes([row], [1]), 2)
    assert seen[:, 1].tolist() == [[1, 0, 0, 0], [0, 1, 0, 1]]
    assert not seen[:, 0].any()


def plainly(occupancy: Occupancy, images: ImageBatch, field: CanonicalField, steps: int) -> np.ndarray:
    """The equations of the module, image by image and voxel by voxel."""
    phi0 = occupancy.probability.ravel()
    voxels = np.flatnonzero(phi0 >= np.float32(CANDIDATES) * phi0.max())
    phi = phi0[voxels].astype(np.float64)
    depth = body_depth(field.body, images.cameras, images.poses) if occupancy.den_hidden is not None else None
    r = occupancy.scheme.weights(occupancy.weighting, occupancy.group_totals)
    groups = occupancy.scheme.groups(images.cameras, images.keys)
    traced = []
    for i in range(len(images)):
        cameras, mask = images.cameras, images.masks.unpack(i)
        height, width = mask.shape
        x = field.warp(images.poses[i]).reshape(-1, 3)[voxels]
        camera = x @ cameras.R[i].T + cameras.t[i]
        pixel = camera @ cameras.K[i].T
        z = camera[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = pixel[:, 0] / z, pixel[:, 1] / z
            inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        u, v = (np.where(inside, a, 0).astype(float) for a in (u, v))
        focal = np.sqrt(cameras.K[i, 0, 0] * cameras.K[i, 1, 1])
        side = max(1.0, FOOTPRINT * field.parameters.spacing * focal / z[inside].mean()) if inside.any() else 1.0
        ray = np.floor(v / side) * 1e6 + np.floor(u / side)
        hit = mask[v.astype(int), u.astype(int)] & inside
        hidden = np.zeros(len(voxels), bool)
        if depth is not None:
            hidden = inside & (z > limits_of(depth, i, height, width).numpy()[v.astype(int), u.astype(int)])
        weight = r[groups[i]] * (1 if images.weights is None else float(images.weights[i]))
        traced.append((inside, ray, hit, hidden, weight))
    for _ in range(steps):
        num, den = np.zeros(len(voxels)), np.zeros(len(voxels))
        for inside, ray, hit, hidden, weight in traced:
            explains = np.where(hidden, HIDDEN_EXPLAINS, 1.0)
            w = weight * np.where(hidden, occupancy.hidden_weight, 1.0)
            den += w * inside
            for k in np.flatnonzero(hit):
                on_ray = inside & (ray == ray[k])
                P = 1 - (1 - LEAK) * np.prod(1 - explains[on_ray] * phi[on_ray])
                num[k] += w[k] * phi[k] / P
        phi = np.minimum(np.divide(num, den, out=np.zeros_like(num), where=den > 0), 1)
    result = np.zeros(occupancy.probability.size)
    result[voxels] = phi
    return result.reshape(occupancy.probability.shape)


@pytest.mark.parametrize(("canonicalization", "hidden"), [("lbs", 0.1), ("joint:right_hand", 0.4), ("none", None)])
def test_the_equations_image_by_image(canonicalization: str, hidden: float | None, images: ImageBatch, body: Body) -> None:
    occupancy = made(images, body, canonicalization, hidden)
    field = CanonicalField.from_parameters(body, occupancy.parameters)
    found = noisy_or(occupancy, images, steps=3)
    expected = plainly(occupancy, images, field, 3)
    assert len(candidates(occupancy)[0]) > 50
    assert np.abs(found.probability - expected).max() < 1e-6
    assert np.abs(found.probability - occupancy.probability)[found.probability > 0].max() > 0.05  # something happened
    start = noisy_or(occupancy, images, steps=0).probability
    chosen = start > 0
    assert np.array_equal(start[chosen], occupancy.probability[chosen])
    assert start[chosen].min() >= np.float32(0.35) * occupancy.probability.max() > occupancy.probability[~chosen].max()


def test_the_same_bits_in_any_order_batches_threads_and_memory(
    images: ImageBatch, body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupancy = made(images, body)
    told: list[tuple[int, int]] = []
    once = noisy_or(occupancy, images, steps=4, progress=lambda done, total: told.append((done, total))).probability
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    order = np.random.default_rng(0).permutation(len(images))
    pieces = [images[order[:7]], images[order[7:50]], images[order[50:]]]
    assert np.array_equal(once, noisy_or(occupancy, pieces, steps=4).probability)
    for threads in (1, 3):
        monkeypatch.setattr(rays, "default_threads", lambda threads=threads: threads)
        assert np.array_equal(once, noisy_or(occupancy, images, steps=4).probability)
    K = len(candidates(occupancy)[0])
    monkeypatch.setattr(module, "VOTES_AT_ONCE", 8 * K)  # eight images at once, of which 0, 2 or all parts are held
    traced: list[int] = []
    trace = rays.trace
    monkeypatch.setattr(rays, "trace", lambda *a: traced.append(1) or trace(*a))  # type: ignore[func-returns-value]
    for held, times in ((0, 8 * 5), (2 * 8 * K * 4, 8 + 6 * 4), (1 << 30, 8)):
        monkeypatch.setattr(module, "HELD_BYTES", held)
        traced.clear()
        assert np.array_equal(once, noisy_or(occupancy, images, steps=4).probability)
        assert len(traced) == times


def test_images_must_be_those_of_the_occupancy(images: ImageBatch, body: Body) -> None:
    occupancy = made(images, body)
    with pytest.raises(MismatchError, match="expected the 60 images that the occupancy was made from, got 59"):
        noisy_or(occupancy, images[1:], steps=1)
    with pytest.raises(MismatchError, match="got 60 from other directions"):
        noisy_or(occupancy, make_images(60, seed=4, weights=True), steps=1)
    with pytest.raises(InputError, match="read twice"):
        noisy_or(occupancy, iter([images]), steps=1)
    with pytest.raises(InputError, match="steps: expected a whole number of at least 0"):
        noisy_or(occupancy, images, steps=-1)
    empty = dataclasses.replace(occupancy, num_counts=occupancy.num_counts * 0, num_hidden=occupancy.den_hidden * 0)
    with pytest.raises(InputError, match="probability is 0 everywhere"):
        noisy_or(empty, images)
    seated = made(images, body).provenance[0]
    assert seated["prompts"] is None
    sitting = aggregate(images, CanonicalField(body, N, cache=False), prompt="sitting")
    assert noisy_or(sitting, images, steps=1).num_images == sitting.num_images == 20  # its own prompt, by its provenance
    assert noisy_or(sitting, images[images.prompts == "sitting"], steps=1, prompt=None).num_images == 20


def scores(phi: np.ndarray, truth: np.ndarray) -> float:
    return max(float((phi[truth] >= t).sum() / ((phi >= t) | truth).sum()) for t in np.arange(1, 100) / 100)


@pytest.fixture(scope="module")
def held_ball(body: Body) -> ImageBatch:
    # In the right hand, from all sides, the pose known exactly.
    simulated = next(iter(simulate(WORLDS["ball"], 160, 0, body, batch_size=160)))
    return simulated.images[simulated.status == "complete"]


def test_it_sharpens_with_exact_poses_and_collapses_with_poses_that_are_off(held_ball: ImageBatch, body: Body) -> None:
    found = {}
    for sigma, name in ((0.0, "joint:right_hand"), (0.2, "lbs")):
        field = CanonicalField(body, 48, cache=False, canonicalization=name)
        truth = true_occupancy(WORLDS["ball"], field.centres, variants=300, body=body) >= 0.5
        poses = held_ball.poses.copy()
        poses[:, 1:] += np.random.default_rng(1).normal(0, sigma, poses[:, 1:].shape)
        masks = [held_ball.masks.unpack(i) for i in range(len(held_ball))]
        recorded = ImageBatch(masks, held_ball.cameras, poses, list(held_ball.keys))
        occupancy = aggregate(recorded, field)
        sharpened = noisy_or(occupancy, recorded)
        found[sigma] = scores(occupancy.probability, truth), scores(sharpened.probability, truth)
        if sigma == 0:  # fewer voxels that another threshold would decide otherwise
            doubtful = [((d.probability > 0.3) & (d.probability < 0.7)).sum() for d in (occupancy, sharpened)]
            assert doubtful[1] < 0.7 * doubtful[0]
    assert found[0.0][1] > max(0.8, found[0.0][0] - 0.05)
    assert found[0.2][1] < 0.8 * found[0.2][0]  # the failure that its help speaks of


def test_files(images: ImageBatch, body: Body, tmp_path: Path) -> None:
    occupancy = made(images, body, "joint:left_hand", 0.2)
    found = noisy_or(occupancy, images, steps=2)
    found.save(tmp_path / "sharp.h5")
    again = load_sharpened(tmp_path / "sharp.h5")
    assert np.array_equal(again.probability, found.probability)
    for name in ("parameters", "body_hash", "category", "weighting", "hidden_weight", "num_images", "steps", "provenance"):
        assert getattr(again, name) == getattr(found, name), name
    assert again.field_hash == occupancy.field_hash
    assert (again.steps, again.hidden_weight) == (2, 0.2)
    assert "2 steps" in repr(again)
    occupancy.save(tmp_path / "plain.h5")
    assert isinstance(load_distribution(tmp_path / "plain.h5"), Occupancy)
    assert isinstance(load_distribution(tmp_path / "sharp.h5"), Sharpened)
    with pytest.raises(InputError, match=r"expected chorus-occupancy version .*, got chorus-sharpened version 1"):
        load_occupancy(tmp_path / "sharp.h5")
    with pytest.raises(InputError, match=r"expected chorus-sharpened version 1, got chorus-occupancy version \d"):
        load_sharpened(tmp_path / "plain.h5")
    with pytest.raises(InputError, match=r"\.h5"):
        found.save(tmp_path / "sharp.npz")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "sharp.h5").read_bytes()[:-500])
    with pytest.raises(InputError, match="damaged"):
        load_distribution(tmp_path / "cut.h5")
    with pytest.raises(TypeError):
        found + found  # type: ignore[operator]
    with pytest.raises(InputError, match=r"expected numbers 0 \.\. 1"):
        Sharpened(np.full((4, 4, 4), 1.5, np.float32), FieldParameters(4), body.hash)
    joints = np.zeros((N, N, N), np.int16)
    mapped = aggregate(images, CanonicalField(body, N, canonicalization="per-voxel", joint_map=joints, cache=False))
    of_map = noisy_or(mapped, images, steps=1)
    of_map.save(tmp_path / "map.h5")
    assert load_sharpened(tmp_path / "map.h5").parameters == of_map.parameters


def chorus(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_command_then_posed_meshed_and_scored(body: Body, tmp_path: Path) -> None:
    store, plain, sharp = tmp_path / "balls.chorus", tmp_path / "plain.h5", tmp_path / "sharp.h5"
    write_world(store, [WORLDS["ball"]], num_images=80)
    occupancy = aggregate(store, CanonicalField(body, 24, cache=False, canonicalization="joint:right_hand"))
    occupancy.save(plain)
    result = chorus("experimental", "em", store, plain, "-o", sharp, "--steps", 4, "--picture", tmp_path / "both.png", "--json")
    assert result.exit_code == 0, result.output
    assert sharp.exists()
    assert (tmp_path / "both.png").stat().st_size > 10_000
    found = load_sharpened(sharp)
    assert np.array_equal(found.probability, noisy_or(occupancy, store, steps=4).probability)
    assert found.provenance[0]["occupancy"] == occupancy.provenance
    np.save(tmp_path / "pose.npy", np.zeros((24, 3)))
    assert chorus("pose", sharp, tmp_path / "pose.npy", "-o", tmp_path / "posed.npz").exit_code == 0
    with np.load(tmp_path / "posed.npz") as posed:
        assert np.array_equal(posed["phi"], found.posed(np.zeros((24, 3))))
    assert chorus("mesh", sharp, "-o", tmp_path / "ball.ply", "--mass", 0.5).exit_code == 0
    scored = chorus("evaluate", "pap", store, "--occupancy", sharp, "--min-images", 1, "--json")
    assert scored.exit_code == 0, scored.output
    report = evaluate_pap([found], [store], min_images=1)
    assert report.mpap("vanilla") > 0.2
    refused = chorus("experimental", "em", store, sharp, "-o", tmp_path / "again.h5")
    assert refused.exit_code == 2
    assert "got chorus-sharpened version 1" in refused.output
    told = " ".join(chorus("experimental", "em", "--help").output.split())
    assert "collapses where recorded poses are off" in told
    assert "do not notice" in told
