"""Filters: each rule on both sides of its threshold, reasons that add up, weights by hand, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chorus.errors import InputError
from chorus.pose_fit.layouts import LIMBS as POSED_LIMBS
from chorus.store.filters.filtering import Filter, read_filter
from chorus.store.filters.report import filter_report
from chorus.store.filters.rules import HIPS, LIMBS, RULES, SHOULDERS

PAPER = ("one-person", "one-object", "overlap", "torso", "pose")
COLUMN = {
    "one-person": "score/person_count",
    "one-object": "score/object_count",
    "person-confidence": "score/person_confidence",
    "object-confidence": "score/object_confidence",
    "overlap": "score/overlap",
    "overlap-smaller": "score/overlap_smaller",
    "person-side": "score/person_side",
    "residual": "residual_px",
}
GOOD = {
    "score/person_count": 1,
    "score/object_count": 1,
    "score/person_confidence": 1,
    "score/object_confidence": 1,
    "score/overlap": 1,
    "score/overlap_smaller": 1,
    "score/person_side": 500,
    "residual_px": 0,
    **dict.fromkeys((*SHOULDERS, *HIPS), 1),
}
ALL_ON = {"person-confidence": 0.5, "object-confidence": 0.5, "overlap-smaller": 0.5, "person-side": 100, "residual": 2}


def table(n: int, **changed: Any) -> dict[str, np.ndarray]:
    """Columns of n complete rows that pass everything, but for what is changed: names with dots for slashes."""
    rows: dict[str, np.ndarray] = {name: np.full(n, value, np.float32) for name, value in GOOD.items()}
    rows |= {"status": np.full(n, "complete"), "has_camera": np.ones(n, np.bool_)}
    for name, values in changed.items():
        rows[name] = np.asarray(values, rows[name].dtype if name not in ("status",) else None)
    return rows


# --- rules -----------------------------------------------------------------------------------------------------------------


def test_the_papers_rules_in_the_order_of_the_cascade() -> None:
    paper = Filter.paper()
    assert {name: t for name, t in paper.thresholds.items() if t is not None} == {
        "one-person": 1,
        "one-object": 1,
        "overlap": 0.1,
        "torso": 0.7,
        "pose": 1,
    }
    assert tuple(name for name in paper.thresholds if paper.thresholds[name] is not None) == PAPER
    assert (paper.torso_mode, paper.soft, paper.required) == ("any", False, frozenset())
    assert [name for name, t in Filter.none().thresholds.items() if t is not None] == ["pose"]
    assert Filter({"overlap": np.float32(0.5), "person-side": np.int64(9)}) == Filter({"overlap": 0.5, "person-side": 9.0})


@pytest.mark.parametrize(
    ("rule", "threshold", "passing", "failing"),
    [
        ("one-person", 1, [1], [0, 2, 3]),
        ("one-object", 1, [1], [0, 2, 7]),
        ("person-confidence", 0.9, [0.9, 0.91, 1], [0.899, 0]),
        ("object-confidence", 0.3, [0.3, 0.31, 1], [0.299, 0]),
        ("overlap", 0.1, [0.1, 0.11, 1], [0.0999, 0]),
        ("overlap-smaller", 0.5, [0.5, 0.51, 1], [0.4999, 0]),
        ("person-side", 64, [64, 65, 512], [63.9, 0]),
        ("residual", 2.3, [2.3, 2.29, 0], [2.31, 100, np.inf]),
    ],
)
def test_a_rule_at_and_on_both_sides_of_its_threshold(
    rule: str, threshold: float, passing: list[float], failing: list[float]
) -> None:
    values = [*passing, *failing, np.nan]  # what is not known fails
    expected = [True] * len(passing) + [False] * (len(failing) + 1)
    rows = table(len(values), **{COLUMN[rule]: values})
    chosen = Filter({rule: threshold})
    assert chosen.passed(rows).tolist() == expected
    assert chosen.failures(rows)[rule].tolist() == [not e for e in expected]
    assert chosen.reasons(rows).tolist() == ["" if e else rule for e in expected]
    assert Filter.none().passed(rows).all()
    # A rule that is on looks at nothing else.
    others = {name: [np.nan] * len(values) for name in GOOD if name != COLUMN[rule]}
    assert chosen.passed(table(len(values), **others, **{COLUMN[rule]: values})).tolist() == expected


def test_limbs_seen_are_a_share_of_four() -> None:
    seen = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1], [1, 1, np.nan, 1]], np.float32)
    rows = table(4) | {name: seen[:, i] for i, name in enumerate(LIMBS)}
    for threshold, passing in (
        (1, [True, False, False, False]),
        (0.75, [True, True, False, False]),
        (0.5, [True, True, True, False]),
    ):
        assert Filter({"limbs": threshold}).passed(rows).tolist() == passing
    assert Filter.paper().passed(rows).all()  # not a rule of the paper
    assert tuple(f"score/limb_{name}" for name in POSED_LIMBS) == LIMBS


def test_the_torso_at_and_on_both_sides() -> None:
    unknown = np.nan
    cases = [  # left shoulder, right shoulder, left hip, right hip; passes any, all
        ((0.7, 0.7, 0.7, 0.7), True, True),
        ((0.7, 0.0, 0.0, 0.7), True, False),
        ((0.0, 0.9, 0.9, 0.0), True, False),
        ((0.69, 0.9, 0.9, 0.9), True, False),
        ((0.69, 0.69, 0.9, 0.9), False, False),
        ((0.9, 0.9, 0.69, 0.69), False, False),
        ((0.9, 0.9, 0.0, 0.0), False, False),
        ((unknown, 0.8, 0.8, 0.8), True, False),  # one of the pair is enough, whatever the other is
        ((unknown, unknown, 0.8, 0.8), False, False),
        ((0.8, 0.8, unknown, unknown), False, False),
    ]
    values = np.array([case[0] for case in cases]).T
    rows = table(len(cases), **dict(zip((*SHOULDERS, *HIPS), values, strict=True)))
    for mode, column in (("any", 1), ("all", 2)):
        chosen = Filter({"torso": 0.7}, torso_mode=mode)
        assert chosen.passed(rows).tolist() == [case[column] for case in cases]


def test_only_complete_images_and_the_first_reason() -> None:
    rows = table(
        7,
        status=["complete", "no person", "several objects", "complete", "complete", "failed: x", "complete"],
        has_camera=[True, False, False, True, True, False, True],
        **{"score/overlap": [1, np.nan, np.nan, 0, 1, 0, 0], "score/person_count": [1, 0, 1, 1, 1, 1, 2]},
        **{name: [1, 0, 0, 0, 0, 0, 0] for name in SHOULDERS},
    )
    paper = Filter.paper()
    assert paper.reasons(rows).tolist() == ["", "no person", "several objects", "overlap", "torso", "failed: x", "one-person"]
    assert paper.passed(rows).tolist() == [True] + [False] * 6
    assert paper.failures(rows)["overlap"].tolist() == [False, True, True, True, False, True, True]
    assert paper.failures(rows)["pose"].tolist() == (~rows["has_camera"]).tolist()
    assert Filter.none().reasons(rows).tolist() == ["", "no person", "several objects", "", "", "failed: x", ""]
    report = filter_report(paper, rows)
    assert report.by_status == {"no person": 1, "several objects": 1, "failed: x": 1}
    assert {r.name: (r.fails, r.fails_complete, r.first) for r in report.rules} == {
        "one-person": (2, 1, 1),
        "one-object": (0, 0, 0),
        "overlap": (5, 2, 1),
        "torso": (6, 3, 1),
        "pose": (3, 0, 0),
    }
    assert report.reasons == {**report.by_status, "one-person": 1, "overlap": 1, "torso": 1}
    assert sum(report.reasons.values()) + report.kept == report.images == 7


def test_reasons_add_up_to_the_images_made() -> None:
    rng = np.random.default_rng(0)
    n = 5000
    rows = table(n)
    for name in GOOD:
        values = rng.choice(np.array([0, 0.1, 0.5, 0.7, 1, 2, np.nan], np.float32), n)
        rows[name] = np.where(rng.random(n) < 0.7, rows[name], values).astype(np.float32)
    gone = rng.random(n) < 0.3
    rows["status"] = np.where(gone, rng.choice(["no person", "no camera"], n), "complete")
    rows["has_camera"] = ~gone
    for chosen in (Filter.paper(), Filter.paper(soft=True), Filter.none(), Filter.paper().changed(ALL_ON, "all")):
        report = filter_report(chosen, rows)
        passed = chosen.passed(rows)
        assert sum(report.by_status.values()) + sum(r.first for r in report.rules) + report.kept == n
        assert report.kept == passed.sum() == (chosen.reasons(rows) == "").sum()
        assert report.complete == (~gone).sum()
        by_hand = ~gone & ~np.logical_or.reduce(list(chosen.failures(rows).values()))
        assert (passed == by_hand).all()
        if chosen.soft:
            assert (passed == (chosen.weights(rows) > 0)).all()
            assert report.weight == chosen.weights(rows).astype(int).sum()


def test_missing_scores() -> None:
    rows = table(3)
    del rows["score/overlap"], rows["score/keypoint_right_hip"]
    paper = Filter.paper()
    assert paper.skipped(rows) == {"overlap": "score/overlap", "torso": "score/keypoint_right_hip"}
    assert paper.passed(rows).all()
    assert [r.skipped for r in filter_report(paper, rows).rules] == ["", "", "score/overlap", "score/keypoint_right_hip", ""]
    for asked in (paper.changed({"overlap": 0.1}), Filter({"overlap": 0.1})):
        for judge in (asked.passed, asked.reasons, asked.failures, asked.weights, asked.skipped):
            with pytest.raises(InputError, match="overlap: expected a store with 'score/overlap' for this rule"):
                judge(rows)
    assert paper.changed({"overlap": None}).skipped(rows) == {"torso": "score/keypoint_right_hip"}
    with pytest.raises(InputError, match="torso: expected a store with 'score/keypoint_right_hip'"):
        paper.changed({"torso": 0.5}).passed(rows)
    empty = {"status": np.zeros(0, "U1"), "has_camera": np.zeros(0, bool)}
    assert Filter({"overlap": 0.1}).passed(empty).shape == (0,)
    assert filter_report(Filter({"overlap": 0.1}), empty).images == 0


def test_what_cannot_be_a_filter() -> None:
    for thresholds, says in (
        ({"overlapp": 0.1}, "rule: expected one of one-person, .*; got 'overlapp'"),
        ({"overlap": 1.1}, "overlap: expected a number from 0 to 1, got 1.1"),
        ({"overlap": np.nan}, "overlap: expected a number from 0 to 1, got nan"),
        ({"overlap": "0.1"}, "overlap: expected a number from 0 to 1, got '0.1'"),
        ({"overlap": True}, "overlap: expected a number from 0 to 1, got True"),
        ({"one-person": 2}, "one-person: expected 1, got 2"),
        ({"residual": 0}, "residual: expected a number from 0.01 to 1e\\+06, got 0"),
        ({"person-side": 10**400}, "person-side: expected a number"),
        ({"pose": None}, "pose: this rule is always on"),
    ):
        with pytest.raises(InputError, match=says):
            Filter(thresholds)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="torso_mode: expected one of any, all; got 'both'"):
        Filter({}, torso_mode="both")
    with pytest.raises(InputError, match="required: expected rules that are on, got torso"):
        Filter({}, required=frozenset(["torso"]))


# --- weights ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "threshold", "points"),
    [
        ("overlap", 0.1, [(0, 0), (0.05, 0.25), (0.1, 0.5), (0.15, 0.75), (0.2, 1), (0.9, 1)]),
        ("person-confidence", 0.5, [(0, 0), (0.25, 0.25), (0.5, 0.5), (0.875, 0.875), (1, 1)]),
        ("object-confidence", 0.75, [(0, 0), (0.375, 0.25), (0.75, 0.5), (0.875, 0.75), (1, 1)]),
        ("object-confidence", 1, [(0, 0), (0.5, 0.25), (0.75, 0.375), (1, 1)]),
        ("object-confidence", 0, [(0, 1), (0.5, 1)]),
        ("person-side", 100, [(0, 0), (50, 0.25), (100, 0.5), (150, 0.75), (200, 1), (900, 1)]),
        ("residual", 2, [(0, 1), (1, 0.75), (2, 0.5), (3, 0.25), (4, 0), (9, 0), (np.inf, 0)]),
        ("one-person", 1, [(0, 0), (1, 1), (2, 0)]),
    ],
)
def test_weights_of_one_rule_by_hand(rule: str, threshold: float, points: list[tuple[float, float]]) -> None:
    values = [x for x, _ in points] + [np.nan]
    weights = Filter({rule: threshold}, soft=True).weights(table(len(values), **{COLUMN[rule]: values}))
    assert weights.dtype == np.uint8
    assert weights.tolist() == [int(255 * c + 0.5) for _, c in points] + [0]


def test_weights_multiply_and_are_never_0_by_rounding() -> None:
    rows = table(
        7,
        status=["complete"] * 6 + ["no camera"],
        has_camera=[True] * 6 + [False],
        **{
            "score/overlap": [0.2, 0.1, 0.05, 0.001, 0, 0.2, 0.2],
            "score/keypoint_left_hip": [1, 0.7, 0.35, 0.01, 1, 0.1, 1],
            "score/keypoint_right_hip": [0.3, 0, 0, 0, 0, 0.85, 1],
            "score/person_confidence": [1, 0.5, 0.8, 0.01, 1, 0.6, 1],
        },
    )
    soft = Filter.paper(soft=True)
    by_hand = [255, 255 * 0.5 * 0.5 * 0.5, 255 * 0.25 * 0.25 * 0.8, 1, 0, 255 * (0.5 + 0.5 * 0.15 / 0.3) * 0.6, 0]
    assert soft.weights(rows).tolist() == [int(w + 0.5) for w in by_hand]
    assert soft.reasons(rows).tolist() == ["", "", "", "", "overlap", "", "no camera"]
    # Two people are no matter of degree; the hard filter keeps fewer than the soft one.
    assert Filter.paper().passed(rows).tolist() == [True, True, False, False, False, True, False]


def test_soft_and_hard_again() -> None:
    paper = Filter.paper()
    soft = paper.softened()
    assert soft == Filter.paper(soft=True) != paper
    assert (soft.thresholds["person-confidence"], soft.thresholds["object-confidence"]) == (0.5, 0.5)
    assert soft.hardened() == paper
    asked = paper.changed({"object-confidence": 0.3})
    assert asked.softened().thresholds["object-confidence"] == 0.3
    assert asked.softened().hardened() == asked == asked.hardened()


# --- files -----------------------------------------------------------------------------------------------------------------


def test_json_round_trip(tmp_path: Path) -> None:
    for chosen in (Filter.paper(), Filter.none(), Filter.paper(soft=True), Filter.paper().changed(ALL_ON, "all")):
        path = tmp_path / "f.json"
        path.write_text(json.dumps(chosen.to_json()))
        assert read_filter(path) == chosen
        assert Filter.from_json(json.loads(path.read_text())).required == chosen.required
    short = {"format": "chorus-filter", "version": 1, "rules": {"overlap": 0.25}}
    assert Filter.from_json(short) == Filter({"overlap": 0.25}, required=frozenset())
    words = "one-person, one-object, overlap >= 0.25, torso >= 0.7 (all), pose"
    assert str(Filter.paper().changed({"overlap": 0.25}, "all")) == words


def test_all_rules_are_tested_above() -> None:
    assert set(RULES) == {*COLUMN, "torso", "limbs", "pose"}
