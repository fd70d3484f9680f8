"""Ablations: what is simulated for them, and which images each row takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chorus.body.model import Body, load_body
from chorus.errors import InputError
from chorus.evaluate.ablation.rows import (
    SECTIONS,
    AblationOptions,
    Sample,
    Setting,
    Sources,
    cells,
    chosen_images,
    has_keypoints,
    keypoint_filter,
    settings,
)
from chorus.evaluate.ablation.simulated_stores import OTHER, TESTED, TRAINING, simulate_stores
from chorus.simulate.images import KEYPOINTS, SimulatedBatch, simulate
from chorus.simulate.worlds import WORLDS, PoseEstimation
from chorus.store import COMPLETE, Store, StoreWriter, open_store
from tests.store.samples import make_batch, random_masks

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


# What is simulated


def one_batch(world: Any, count: int, body: Body) -> SimulatedBatch:
    (only,) = simulate(replace(world, image_sizes=((96, 96),)), count, 5, body, batch_size=count)
    return only


def test_bad_estimates_change_what_is_recorded_alone(body: Body) -> None:
    true, told = (one_batch(w, 200, body) for w in (WORLDS["ball-held"], WORLDS["ball-held"].misestimated(0.3)))
    for have, want in ((told.images.masks, true.images.masks), (told.person_masks, true.person_masks)):
        np.testing.assert_array_equal(have.box, want.box)
        np.testing.assert_array_equal(have.words, want.words)
    np.testing.assert_array_equal(told.images.cameras.R, true.images.cameras.R)
    np.testing.assert_array_equal(told.images.cameras.t, true.images.cameras.t)
    bad = (told.images.poses != true.images.poses).any((1, 2))
    assert 0.2 < bad.mean() < 0.4
    assert (told.images.poses[:, 0] == 0).all()
    off = (told.images.poses - true.images.poses)[bad, 1:]
    np.testing.assert_allclose(off.std(), PoseEstimation().sigma, rtol=0.05)
    assert set(true.scores) == set(told.scores)
    confidence = [np.stack([b.scores[f"keypoint_{name}"] for name in KEYPOINTS], 1) for b in (true, told)]
    assert (confidence[1] <= confidence[0]).all()
    assert (confidence[1][bad] <= 0.8).all()
    lowered = (confidence[1] < confidence[0]).any(1)
    assert lowered[bad].all()
    assert 0 < lowered[~bad].mean() < 0.12  # the doubted ones
    others = set(true.scores) - {f"keypoint_{name}" for name in KEYPOINTS}
    for name in others:
        np.testing.assert_array_equal(true.scores[name], told.scores[name])


def test_a_world_without_bad_estimates_draws_nothing_for_them(body: Body) -> None:
    pose, confidence = np.ones((24, 3), np.float32), {"keypoint_left_hip": 0.9}
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    same, scores = PoseEstimation().apply(pose, confidence, rng)
    assert rng.bit_generator.state == before
    assert same is pose
    assert scores == confidence


@pytest.mark.parametrize(
    "wrong", [{"share": -0.1}, {"share": 1.1}, {"sigma": -1.0}, {"doubted": 2.0}, {"confidence": (0.8, 0.3)}]
)
def test_estimation_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="estimation: expected"):
        PoseEstimation(**wrong)


def test_simulated_worlds_fit_their_purpose() -> None:
    assert list(TRAINING) == list(TESTED)
    assert len(TRAINING) >= 4
    for category, worlds in TRAINING.items():
        for world, tested in zip(worlds, TESTED[category], strict=True):
            assert world.category == tested.category == category
            assert world.prompt == tested.prompt
            assert world.estimation.share > 0
            assert tested.estimation.share == 0
            assert tested.cameras.sector_share is None
    assert {w.category for w in OTHER} <= set(TRAINING)


def test_simulated_stores_are_completed_not_drawn_again(tmp_path: Path) -> None:
    first = simulate_stores(tmp_path, 6, 4, SEEDS, categories=("hat",))
    seen: list[tuple[int, int]] = []
    again = simulate_stores(tmp_path, 6, 4, SEEDS, categories=("hat",), progress=lambda *at: seen.append(at))
    assert seen == []
    assert [s.id for s in again.tests] == [s.id for s in first.tests]
    assert [[s.id for s in one] for one in again.training] == [[s.id for s in one] for one in first.training]
    assert not set(first.training[0][0].rows["key"]) & set(first.training[1][0].rows["key"])
    assert first.other == []
    for wrong, message in (
        ({"categories": ("cat",)}, "categories: expected some of"),
        ({"num_images": 0}, "num_images, test_images: expected at least 1"),
        ({"seeds": (10**6,)}, "seeds: expected 0 to 999,999"),
    ):
        with pytest.raises(InputError, match=message):
            simulate_stores(tmp_path, **wrong)  # type: ignore[arg-type]


# Which images


def judged_store(path: Path, order: Any = None) -> Store:
    """30 images of two prompts (even, odd); number 29 incomplete; those from 20 on fail the filter; 2 fail it by a hip."""
    batch = make_batch(random_masks(30, (16, 16)))
    order = np.arange(30) if order is None else order
    confident = np.where(np.arange(30) < 20, 0.9, 0.5)
    scores = {f"keypoint_{name}": confident.copy() for name in KEYPOINTS}
    scores["keypoint_left_shoulder"][:] = 0.1  # one of either side is enough
    for name in ("left_hip", "right_hip"):
        scores[f"keypoint_{name}"][2] = 0.69
    status = np.where(np.arange(30) == 29, "no object", COMPLETE)
    with StoreWriter(path, category="ball", shard_size=7) as writer:
        writer.append(batch[order], scores={k: v[order] for k, v in scores.items()}, status=status[order])
    return open_store(path)


def numbers(store: Store, chosen: np.ndarray) -> list[int]:
    return sorted(int(key.decode().split("-")[1]) for key in store.rows["key"][chosen])


def test_keypoint_filter_by_hand(tmp_path: Path) -> None:
    store = judged_store(tmp_path / "a")
    assert has_keypoints(store)
    where = keypoint_filter()
    assert numbers(store, where(store.rows)) == [i for i in range(20) if i != 2]
    assert numbers(store, keypoint_filter(0.69)(store.rows)) == list(range(20))
    assert numbers(store, keypoint_filter(0.95)(store.rows)) == []
    with pytest.raises(InputError, match="confidence: expected 0 to 1, got 7"):
        keypoint_filter(7)


def test_samples(tmp_path: Path) -> None:
    store, where = judged_store(tmp_path / "a"), keypoint_filter()
    passed = {i for i in range(20) if i != 2}
    assert set(numbers(store, chosen_images(store, where, Sample(), 0))) == passed
    assert numbers(store, chosen_images(store, None, Sample(), 0)) == list(range(29))
    # 9 even and 10 odd ones pass.
    shares = {s: set(numbers(store, chosen_images(store, where, Sample("share", s), 4))) for s in (0.01, 0.3, 0.6, 1.0)}
    assert {s: (sum(i % 2 == 0 for i in v), sum(i % 2 for i in v)) for s, v in shares.items()} == {
        0.01: (1, 1),
        0.3: (3, 3),
        0.6: (5, 6),
        1.0: (9, 10),
    }
    assert shares[0.01] < shares[0.3] < shares[0.6] < shares[1.0] == passed
    drawn = [set(numbers(store, chosen_images(store, where, Sample("unfiltered"), seed))) for seed in range(20)]
    assert all((sum(i % 2 == 0 for i in d), sum(i % 2 for i in d)) == (9, 10) for d in drawn)
    assert set().union(*drawn) == set(range(29))  # those that fail too, but not the incomplete one
    few, many = (set(numbers(store, chosen_images(store, where, Sample("matched", size=n), 1))) for n in (10, 25))
    assert few < many < passed
    assert set(numbers(store, chosen_images(store, where, Sample("matched", size=30), 1))) == passed
    assert len({tuple(numbers(store, chosen_images(store, where, Sample("share", 0.3), seed))) for seed in range(8)}) > 4


def test_draws_do_not_depend_on_how_a_store_lies(tmp_path: Path) -> None:
    where = keypoint_filter()
    straight = judged_store(tmp_path / "a")
    turned = judged_store(tmp_path / "b", np.random.default_rng(3).permutation(30))
    for sample in (Sample("share", 0.4), Sample("unfiltered"), Sample("matched", size=12)):
        assert numbers(straight, chosen_images(straight, where, sample, 9)) == numbers(
            turned, chosen_images(turned, where, sample, 9)
        )


def test_samples_that_cannot_be(tmp_path: Path) -> None:
    store = judged_store(tmp_path / "a")
    with pytest.raises(InputError, match=r"sizes: expected at most the 30 images of .*, got 1,201"):
        chosen_images(store, None, Sample("matched", size=1201), 0)
    with pytest.raises(InputError, match="has no image that is complete and passes"):
        chosen_images(store, keypoint_filter(1.0), Sample(), 0)
    with pytest.raises(InputError, match=r"where: expected an answer of bool and shape \(30,\), got float32"):
        chosen_images(store, lambda rows: rows["score/keypoint_left_hip"], Sample(), 0)  # type: ignore[arg-type, return-value]
    for wrong, message in (
        ({"kind": "some"}, "kind: expected one of"),
        ({"share": 0.0}, "share, size"),
        ({"size": -1}, "share, size"),
    ):
        with pytest.raises(InputError, match=message):
            Sample(**wrong)  # type: ignore[arg-type]


def test_cells_are_disjoint_and_add_up() -> None:
    rng = np.random.default_rng(0)
    samples = [rng.random(50) < p for p in (0.2, 0.5, 0.9)]
    samples.append(samples[2].copy())
    cut = cells(samples)
    assert (np.sum([members for members, _ in cut], 0) == np.logical_or.reduce(samples)).all()
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(np.logical_or.reduce([m for m, holders in cut if holders[i]]), sample)
    assert len(cut) <= 7


def test_rows_of_the_table() -> None:
    rows = settings(AblationOptions(sizes=(1201, 9408)), ("synthesis", "search"))
    names = [row.name for row in rows]
    assert names[:5] == ["w/o keypoint filtering", "w/o canonicalization", "1 %", "10 %", "full"]
    assert names[5:9] == ["search, 1,201 images", "search, 9,408 images", "synthesis, 1,201 images", "synthesis, 9,408 images"]
    assert {"view weights none", "24^3 voxels", "48^3 voxels", "k = 1", "tau = 1.6 m", "no smoothing"} < set(names)
    assert all(row.reference in names for row in rows)
    assert len(set(names)) == len(names)
    assert [row.reference for row in rows if row.from_other] == names[7:9]
    assert {row.splat for row in rows if row.section == "resolution"} == {"footprint"}
    bare = AblationOptions(
        shares=(), weightings=(), resolutions=(48,), k=(), tau=(), smoothing=False, filtered=False, estimators=False
    )
    assert [row.name for row in settings(bare)] == ["w/o canonicalization", "full"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shares": (0.0,)}, "shares: expected numbers between 0 and 1"),
        ({"sizes": (5, 2)}, "sizes: expected positive numbers, ascending"),
        ({"weightings": ("even",)}, "weightings: expected some of .*got 'even'"),
        ({"k": (3, 3)}, "k: expected different values"),
    ],
)
def test_options_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AblationOptions(**wrong)


def test_a_section_of_ones_own_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def near_the_body(options: AblationOptions, sources: Sources | None) -> Iterator[Setting]:
        yield Setting("slow fall-off", "fall-off of weights", field={"s": 0.1})

    monkeypatch.setattr("chorus.evaluate.ablation.rows.SECTIONS", [*SECTIONS, near_the_body])
    row = settings(AblationOptions(resolution=16))[-1]
    assert row.name == "slow fall-off"
    assert row.field == {"resolution": 16, "extent": 3.0, "s": 0.1}  # the reference's grid, and what it changes
    assert row.reference == "full"
