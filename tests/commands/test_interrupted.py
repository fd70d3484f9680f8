"""Ctrl-C: what is done is kept and said, the exit code is 130, and the same command goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import chorus.evaluate.ablation.pieces as ablation_pieces
import chorus.evaluate.pap.categories as pap_categories
import chorus.evaluate.worlds as worlds
import chorus.occupancy.clusters as clusters
import chorus.simulate.images as images
from chorus.cli import main
from chorus.commands.console import INTERRUPTED
from chorus.errors import InputError
from chorus.evaluate.unfinished import Unfinished
from chorus.store import open_store, verify_store


def chorus(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def interrupted_after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, at whose next call after so many Ctrl-C is pressed."""
    left = [calls]

    def counted(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return function(*arguments, **named)

    return counted


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("interrupted") / "balls.chorus"
    images.write_world(path, images.DEMO, 40, 0)
    return path


def test_simulate_commits_what_is_drawn_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, whole = tmp_path / "a.chorus", tmp_path / "whole.chorus"
    command = ["simulate", "--world", "hat", "--images", "300", "-o"]
    with monkeypatch.context() as patch:
        patch.setattr(images, "_collect", interrupted_after(2, images._collect))
        stopped = chorus(*command, path)
    assert stopped.exit_code == INTERRUPTED
    assert "has the 256 of 300 images drawn so far; the same command goes on" in stopped.stderr
    assert "wrote" not in stopped.stdout
    assert len(open_store(path)) == 256
    assert verify_store(path) == []
    done = chorus(*command, path, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"]["already there"] == 256
    assert chorus(*command, whole).exit_code == 0
    keys = [sorted(open_store(p).rows["key"].tolist()) for p in (path, whole)]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 300


def test_simulate_before_the_first_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_collect", interrupted_after(0, images._collect))
    stopped = chorus("simulate", "--world", "hat", "--images", "5", "-o", tmp_path / "a.chorus")
    assert stopped.exit_code == INTERRUPTED
    assert "nothing is kept" in stopped.stderr


def test_worlds_go_on_from_the_seeds_that_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(world: Any, seed: int, num_images: int, *_: Any) -> Any:
        """Curves that differ by seed, in place of minutes of simulation."""
        return {v: (0.5 + 0.01 * seed - abs(worlds.THRESHOLDS.astype(float) - 0.4), num_images) for v in worlds.VARIANTS}

    monkeypatch.setattr(worlds, "_score_seed", score)
    path, whole = tmp_path / "w.json", tmp_path / "whole.json"
    command = ["evaluate", "worlds", "--images", "100", "--seeds", "3", "-o"]
    assert chorus(*command, whole).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(worlds, "_score_seed", interrupted_after(4, score))
        stopped = chorus(*command, path)
        assert stopped.exit_code == INTERRUPTED
        assert f"4 results are kept in {path}.unfinished; the same command goes on" in stopped.stderr
        assert not path.exists()
        patch.setattr(worlds, "_score_seed", interrupted_after(5, score))
        done = chorus(*command, path)  # five are left of nine
    assert done.exit_code == 0, done.output
    assert json.loads(path.read_text())["rows"] == json.loads(whole.read_text())["rows"]
    assert not (tmp_path / "w.json.unfinished").exists()

    # Without a file, the table of what there is, marked so.
    with monkeypatch.context() as patch:
        patch.setattr(worlds, "_score_seed", interrupted_after(4, score))
        stopped = chorus(*command[:-1])
    assert stopped.exit_code == INTERRUPTED
    assert "partial: stopped before all was scored" in stopped.stdout
    assert "0.51 ±" in stopped.stdout  # the ball's three seeds; the backpack has one
    assert "it is not kept" in stopped.stderr


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "r.json.unfinished"
    first = Unfinished.beside(tmp_path / "r.json")
    assert first.path == path
    first.begin({"images": 100})
    assert not path.exists()
    first.keep("a", {"x": [0.1, 2]})
    again = Unfinished(path)
    again.begin({"images": 100})
    assert again.get("a") == {"x": [0.1, 2]}
    assert again.get("b") is None
    with pytest.raises(InputError, match="got others for images"):
        Unfinished(path).begin({"images": 200})
    path.write_text("{}")
    with pytest.raises(InputError, match="expected results of an interrupted job"):
        Unfinished(path)
    again.finish()
    assert not path.exists()


def test_ablate_goes_on_from_the_seeds_that_are_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "worlds"
    command = ["ablate", "--simulate", folder, "--images", "60", "--test-images", "4", "--category", "hat", "--seeds", "2"]
    command += ["--table2", "--min-images", "1", "--resolution", "16", "--sizes", "", "--shares", "0.5"]
    path, whole, count_rows = tmp_path / "a.json", tmp_path / "whole.json", ablation_pieces.count_rows
    with monkeypatch.context() as patch:
        patch.setattr(ablation_pieces, "count_rows", interrupted_after(1, count_rows))
        stopped = chorus(*command, "-o", path)
        assert stopped.exit_code == INTERRUPTED
        assert f"the images simulated stay in {folder}; 1 results are kept in {path}.unfinished" in stopped.stderr
        assert not path.exists()
        patch.setattr(ablation_pieces, "count_rows", interrupted_after(1, count_rows))
        stopped = chorus(*command)
        assert "partial: stopped before all was scored" in stopped.stdout
    assert chorus(*command, "-o", path).exit_code in (0, 1)  # 1: a claim does not hold on so few images
    assert chorus(*command, "-o", whole).exit_code in (0, 1)
    assert json.loads(path.read_text())["rows"] == json.loads(whole.read_text())["rows"]
    assert not (tmp_path / "a.json.unfinished").exists()


def test_pap_says_how_many_images_were_scored(balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occupancy, scores = tmp_path / "o.h5", tmp_path / "scores.json"
    assert chorus("aggregate", balls, "-o", occupancy, "--resolution", "8").exit_code == 0
    posed = interrupted_after(3, pap_categories.posed_occupancy)
    monkeypatch.setattr(pap_categories, "posed_occupancy", posed)
    stopped = chorus("evaluate", "pap", balls, "--occupancy", occupancy, "-o", scores, "--no-aware", "--device", "cpu")
    assert stopped.exit_code == INTERRUPTED
    assert "no image was scored; nothing is kept" in stopped.stderr
    assert not scores.exists()


def test_aggregating_clusters_says_what_stays(balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "clusters"
    monkeypatch.setattr(clusters, "aggregate", interrupted_after(2, clusters.aggregate))
    stopped = chorus("aggregate", balls, "--all", "-o", folder, "--min-images", "1", "--resolution", "12")
    assert stopped.exit_code == INTERRUPTED
    assert "2 of 26 combinations of prompt and part were aggregated" in stopped.stderr
    assert not (folder / "clusters.json").exists()
    assert len(list(folder.glob("*.h5"))) >= 1


def test_the_demo_keeps_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_collect", interrupted_after(1, images._collect))
    stopped = chorus("demo", "-o", tmp_path / "demo", "--images", "40")
    assert stopped.exit_code == INTERRUPTED
    assert "keeps the images simulated" in stopped.stderr
    assert len(open_store(tmp_path / "demo" / "sports-ball-40-seed0.chorus")) == 20
