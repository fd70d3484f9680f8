"""The table of simulated worlds: thresholds from other seeds, intervals, and one small table from end to end."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from chorus.body.model import load_body
from chorus.errors import InputError
from chorus.evaluate import machine, versions
from chorus.evaluate.intervals import t_interval
from chorus.evaluate.worlds import (
    THRESHOLDS,
    VARIANTS,
    Row,
    WorldsTable,
    as_markdown,
    as_rich,
    held_out_scores,
    iou_curve,
    run,
    worlds_table,
)
from chorus.field import CanonicalField
from chorus.occupancy.aggregation import aggregate
from chorus.simulate.images import simulate, true_occupancy
from chorus.simulate.worlds import WORLDS


def test_iou_curve_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    phi = rng.integers(0, 21, (6, 7, 8)).astype(np.float32) / 20  # many values equal to a threshold
    truth = rng.random(phi.shape) < 0.2
    curve = iou_curve(phi, truth)
    for threshold, iou in zip(THRESHOLDS, curve, strict=True):
        predicted = phi >= threshold
        assert iou == (predicted & truth).sum() / (predicted | truth).sum()


def test_iou_of_nothing_and_of_everything() -> None:
    truth = np.zeros((4, 4, 4), bool)
    truth[1, 2, 3] = True
    assert (iou_curve(np.zeros(truth.shape), truth) == 0).all()
    assert (iou_curve(truth.astype(np.float32), truth) == 1).all()
    assert (iou_curve(np.ones(truth.shape), truth) == 1 / 64).all()
    with pytest.raises(InputError, match="truth: expected voxels"):
        iou_curve(np.ones((4, 4, 4)), np.zeros((4, 4, 4), bool))
    with pytest.raises(InputError, match="truth: expected shape"):
        iou_curve(np.ones((4, 4, 4)), truth[:3])


def test_thresholds_come_from_the_other_seeds() -> None:
    thresholds = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    curves = np.array(
        [
            [0.9, 0.1, 0.0, 0.0],  # by itself it would take 0.1; the others prefer 0.3
            [0.0, 0.2, 0.8, 0.1],  # the others (0.9 + 0.3) / 2 prefer 0.1
            [0.3, 0.0, 0.7, 0.2],  # the others: 0.9, 0.3, 0.8, 0.1 -> 0.1
        ]
    )
    iou, chosen = held_out_scores(curves, thresholds)
    np.testing.assert_array_equal(chosen, thresholds[[2, 0, 0]])
    np.testing.assert_array_equal(iou, [0.0, 0.0, 0.3])


def test_a_seed_has_no_say_in_its_own_threshold() -> None:
    rng = np.random.default_rng(1)
    curves = rng.random((5, len(THRESHOLDS)))
    _, before = held_out_scores(curves)
    for seed in range(5):
        changed = curves.copy()
        changed[seed] = rng.random(len(THRESHOLDS)) * 9
        iou, after = held_out_scores(changed)
        assert after[seed] == before[seed]
        assert iou[seed] == changed[seed, np.flatnonzero(before[seed] == THRESHOLDS)[0]]


def test_one_seed_cannot_choose_a_threshold() -> None:
    with pytest.raises(InputError, match="at least 2"):
        held_out_scores(np.ones((1, len(THRESHOLDS))))
    with pytest.raises(InputError, match="seeds: expected at least two"):
        worlds_table(10, [3])
    with pytest.raises(InputError, match="seeds: expected at least two"):
        worlds_table(10, [3, 3])
    with pytest.raises(InputError, match=r"worlds: expected some of .*; got \['nowhere'\]"):
        worlds_table(10, worlds=["nowhere"])
    with pytest.raises(InputError, match="num_images"):
        worlds_table(0)


def test_the_interval_is_students() -> None:
    values = [0.61, 0.64, 0.66, 0.63, 0.70]
    mean, half = t_interval(values)
    # By hand: t(0.975, 4) = 2.776445, standard deviation 0.0342053 of the sample.
    assert mean == pytest.approx(0.648)
    assert half == pytest.approx(2.776445 * 0.0342053 / math.sqrt(5), rel=1e-5)
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.0)
    assert t_interval([0.0, 1.0])[1] == pytest.approx(12.7062 / 2, rel=1e-5)  # t(0.975, 1), sd / sqrt(2) = 1 / 2
    with pytest.raises(InputError, match="values: expected at least 2"):
        t_interval([0.5])


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(2000):
        mean, half = t_interval(rng.normal(3.0, 2.0, 5))
        covered += abs(mean - 3.0) <= half
    assert 0.93 < covered / 2000 < 0.97


def small_table() -> WorldsTable:
    rows = tuple(
        Row(world, variant, (0.5, 0.7), (0.1, 0.2), (0.6, 0.7), (90, 91), 0.1 * place, 0.02)
        for world in ("ball", "board")
        for place, variant in enumerate(VARIANTS, 1)
    )
    return WorldsTable(rows, 100, (0, 1), 48, 3.0, "a body", "f00", 1.5)


def test_markdown_has_a_column_a_variant_and_a_line_a_world() -> None:
    lines = as_markdown(small_table()).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["world", *VARIANTS.values()]
    assert lines[1] == "|---|---|---|---|---|---|---|"
    assert lines[2] == "| ball | 0.10 ± 0.02 | 0.20 ± 0.02 | 0.30 ± 0.02 | 0.40 ± 0.02 | 0.50 ± 0.02 | 0.60 ± 0.02 |"
    assert lines[3].startswith("| board |")
    assert "2 seeds of 100 images, 48^3 voxels" in lines[5]
    assert as_rich(small_table()).row_count == 2
    with pytest.raises(KeyError):
        small_table().row("ball", "nothing")


def test_machine_and_versions_say_what_ran() -> None:
    facts = machine()
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert versions()["numpy"] == np.__version__


def test_output_must_lie_in_a_folder(tmp_path) -> None:
    with pytest.raises(InputError, match="output: expected a file in a folder"):
        run(10, 2, tmp_path / "nowhere" / "table.json")


@pytest.mark.slow
def test_a_small_table_from_end_to_end() -> None:
    seen: list[tuple[int, int]] = []
    table = worlds_table(60, (0, 1), worlds=("ball", "backpack"), progress=lambda *at: seen.append(at), batch_size=40)
    assert table.worlds == ("ball", "backpack")
    assert len(table.rows) == 2 * len(VARIANTS)
    assert seen[-1] == (720, 720)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    for row in table.rows:
        assert all(0 <= iou <= best <= 1 for iou, best in zip(row.iou, row.best_iou, strict=True))
        assert row.mean == pytest.approx(np.mean(row.iou), abs=1e-6)
        assert row.images == ((1, 1) if row.variant == "one-percent" else row.images)
        assert max(row.images) <= 60
    # What canonicalization is for: the ball follows the hand.
    assert table.row("ball", "full").mean > 2 * table.row("ball", "rigid").mean
    assert table.row("backpack", "full").mean > 1.5 * table.row("backpack", "one-percent").mean
    facts = json.loads(json.dumps(table.to_json()))
    assert facts["images_simulated"] == 720
    assert len(facts["rows"]) == len(table.rows)

    # One cell computed the long way round.
    body = load_body()
    field = CanonicalField(body)
    curves = []
    for seed in (0, 1):
        (batch,) = simulate(WORLDS["backpack"], 60, seed, body)
        assert (batch.status == "complete").all()
        truth = true_occupancy(WORLDS["backpack"], field.centres, body=body) >= 0.5
        curves.append(iou_curve(aggregate(batch.images, field).probability, truth))
    assert table.row("backpack", "full").iou == pytest.approx(
        [curves[0][curves[1].argmax()], curves[1][curves[0].argmax()]], abs=1e-6
    )
