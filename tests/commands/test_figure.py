"""``chorus figure``: every kind from files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import chorus
from chorus.cli import main
from chorus.occupancy.condition_grid import condition_grid
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import open_store

HELD, KICKED = WORLDS["ball-held"].prompt, WORLDS["ball-kicked"].prompt


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """balls.chorus of two prompts, its occupancy of one of them, and the pose of an image."""
    folder = tmp_path_factory.mktemp("figures")
    write_world(folder / "balls.chorus", [WORLDS["ball-held"], WORLDS["ball-kicked"]], num_images=120)
    store = open_store(folder / "balls.chorus")
    field = chorus.CanonicalField(chorus.load_body(), 16)
    chorus.aggregate(store, field, prompt=HELD).save(folder / "ball.h5")
    np.save(folder / "pose.npy", store.batch(store.select()[:1]).poses[0])
    return folder


def told(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def std(path: Path) -> float:
    return float(np.asarray(Image.open(path).convert("L"), np.float64).std())


def test_shells(folder: Path, tmp_path: Path) -> None:
    options = (
        "--pixels",
        "80",
        "--view",
        "10,20",
        "--threshold",
        "0.3",
        "--threshold",
        "0.1",
        "--pose",
        folder / "pose.npy",
        "--json",
    )
    found = told(run("figure", "shells", folder / "ball.h5", "-o", tmp_path / "s.png", *options))
    assert found["thresholds"] == [0.1, 0.3]
    assert found["rows"] == ["canonical", "pose"]
    assert found["views"] == ["10,20"]
    assert std(tmp_path / "s.png") > 10
    done = run(
        "figure",
        "shells",
        folder / "ball.h5",
        folder / "ball.h5",
        "-o",
        tmp_path / "two.svg",
        "--view",
        "front",
        "--pixels",
        "80",
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == f"wrote {tmp_path / 'two.svg'}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--view", "nowhere"), "view: expected front, front left, left, back, right, above or AZIMUTH,ELEVATION in degrees"),
        (("--only-posed",), "--only-posed leaves the canonical pose out: give a --pose with it"),
        (("--threshold", "1.5"), "1.5 is not in the range 0<x<=1"),
        (("--pose", "poses.npy"), "--pose: expected one pose, (J, 3), got 2"),
    ],
)
def test_shells_that_cannot_be_drawn(folder: Path, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    np.save(folder / "poses.npy", np.zeros((2, 24, 3)))
    words = tuple(str(folder / w) if w.endswith(".npy") else w for w in words)
    done = run("figure", "shells", folder / "ball.h5", "-o", tmp_path / "s.png", *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "s.png").exists()


def test_a_figure_needs_a_name_that_says_its_format(folder: Path, tmp_path: Path) -> None:
    done = run("figure", "shells", folder / "ball.h5", "-o", tmp_path / "s.jpg")
    assert "--output: expected a name ending in .png or .pdf or .svg" in done.stderr
    done = run("figure", "turntable", folder / "ball.h5", "-o", tmp_path / "s.png")
    assert "--output: expected a name ending in .gif or .webp" in done.stderr


def test_turntable(folder: Path, tmp_path: Path) -> None:
    options = ("--frames", "3", "--height", "64", "--json")
    found = told(run("figure", "turntable", folder / "ball.h5", "-o", tmp_path / "t.gif", *options))
    assert found["frames"] == 3
    with Image.open(tmp_path / "t.gif") as film:
        assert film.n_frames == 3  # type: ignore[attr-defined]


def test_grid_of_prompts_and_parts(folder: Path, tmp_path: Path) -> None:
    options = ("--pixels", "60", "--resolution", "16", "--part", "*", "--part", "rightHand", "--part", "leftFoot", "--json")
    found = told(run("figure", "grid", folder / "balls.chorus", "-o", tmp_path / "g.png", *options))
    assert found["prompts"] == [HELD, KICKED, "*"]
    held, kicked, both = found["images"]
    assert held[0] + kicked[0] == both[0] == len(open_store(folder / "balls.chorus").select())
    assert held[1] > 0.8 * held[0]  # the ball is at the hand that holds it
    assert kicked[2] > 10
    assert kicked[1] == held[2] == 0
    assert std(tmp_path / "g.png") > 10
    done = run("figure", "grid", folder / "balls.chorus", "-o", tmp_path / "n.png", "--min-images", "1000")
    assert done.exit_code == 2
    assert "min_images: expected at most" in done.stderr


def test_cells_of_a_grid_are_what_aggregate_gives(folder: Path) -> None:
    store, field = open_store(folder / "balls.chorus"), chorus.CanonicalField(chorus.load_body(), 12)
    grid = condition_grid(store, field, min_images=10)
    assert grid.prompts == (HELD, KICKED, "*")
    assert grid.parts[0] == "*"
    assert len(grid.parts) == 4  # and the three commonest
    (occupancy, images), *_ = grid.cells[0]
    assert occupancy is not None
    assert images == occupancy.num_images
    expected = chorus.aggregate(store, field, prompt=HELD)
    assert (occupancy.num_counts == expected.num_counts).all()
    column = grid.parts.index("rightHand")
    cell = grid.cells[0][column][0]
    assert cell is not None
    assert (cell.num_counts == chorus.aggregate(store, field, prompt=HELD, part="rightHand").num_counts).all()


def test_canonicalizations_side_by_side(folder: Path, tmp_path: Path) -> None:
    options = ("--pixels", "80", "--prompt", "*hand*", "--resolution", "16", "--pose", folder / "pose.npy", "--json")
    found = told(run("figure", "canonicalization", folder / "balls.chorus", "-o", tmp_path / "c.png", *options))
    without, with_ = found["largest_phi"]
    assert with_ > 2 * without  # a ball in a hand that moves
    assert found["thresholds"] == [0.2, 0.4, 0.6, 0.8]
    assert std(tmp_path / "c.png") > 10


def test_photos_beside_what_is_posed(folder: Path, tmp_path: Path) -> None:
    options = ("--images", "2", "--json")
    found = told(run("figure", "photo", folder / "ball.h5", folder / "balls.chorus", "-o", tmp_path / "p.png", *options))
    assert len(found["keys"]) == 2
    assert all(key.startswith("ball-held") for key in found["keys"])  # the occupancy's own prompt
    one = found["keys"][1]
    found = told(
        run("figure", "photo", folder / "ball.h5", folder / "balls.chorus", "-o", tmp_path / "q.png", "--key", one, "--json")
    )
    assert found["keys"] == [one]
    done = run("figure", "photo", folder / "ball.h5", folder / "balls.chorus", "-o", tmp_path / "r.png", "--key", "none")
    assert "--key: expected the key of a complete image, got 'none'" in done.stderr


def test_cameras_and_weights(folder: Path, tmp_path: Path) -> None:
    found = told(run("figure", "cameras", folder / "balls.chorus", "-o", tmp_path / "c.png", "--prompt", HELD, "--json"))
    assert 0 < found["images"] < len(open_store(folder / "balls.chorus").select())
    assert std(tmp_path / "c.png") > 10
    options = ("--resolution", "16", "--joint", "head", "--canonicalization", "lbs-nearest", "--json")
    found = told(run("figure", "weights", "-o", tmp_path / "w.pdf", *options))
    assert found["canonicalization"] == "lbs-nearest"
    done = run("figure", "weights", "-o", tmp_path / "w.png", "--canonicalization", "auto", "--resolution", "16")
    assert "--canonicalization: expected one that needs no images, got auto" in done.stderr


def test_without_the_extra_the_error_names_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "embreex.rtcore_scene", None)
    done = run("figure", "shells", folder / "ball.h5", "-o", tmp_path / "s.png")
    assert done.exit_code == 2
    assert "the extra `figures3d` (pip install '.[figures3d]' in a checkout)" in done.stderr
