"""``bench.scaling``: exponents, turns, and one small run from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.scaling import exponent, in_turns, main


def test_exponents_are_those_of_power_laws() -> None:
    assert exponent([48, 96, 192], [3 * n**2.5 for n in (48, 96, 192)]) == pytest.approx(2.5)


def test_calls_take_turns_and_slow_ones_are_made_once() -> None:
    order: list[str] = []
    taken = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, slow=1.0)
    assert order == ["a", "b", "a", "b"]
    assert [len(t) for t in in_turns({"a": lambda: None}, 3, slow=0.0).values()] == [1]
    assert all(len(t) == 2 for t in taken.values())


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, picture = tmp_path / "r.json", tmp_path / "p.png"
    assert main(["--quick", "--rounds", "1", "-o", str(record), "--picture", str(picture)]) == 0
    kept = json.loads(record.read_text())
    assert f"wrote {record}" in capsys.readouterr().out
    assert [row["resolution"] for row in kept["by_resolution"]["rows"]] == [48, 64]
    assert [row["images"] for row in kept["by_images"]["rows"]] == [1, 4, 16, 64, 256, 1024]
    assert picture.stat().st_size > 10_000
