"""``chorus explain --occupancy``: the images behind a voxel of an occupancy, which brings its selection, field and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import chorus
from chorus.cli import main
from chorus.simulate.images import DEMO, write_world

N = 12


def run(*args: Any) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "balls.chorus"
    write_world(path, DEMO, 120, 3, chorus.load_body())
    return path


def made(store: Path, path: Path, *options: Any) -> chorus.Occupancy:
    done = run("aggregate", store, "-o", path, "--resolution", N, *options)
    assert done.exit_code == 0, done.output
    return chorus.load_occupancy(path)


@pytest.mark.parametrize(
    "options",
    [
        ("--prompt", "* holds *", "--canonicalization", "auto", "--hidden-weight", "auto"),
        ("--part", "rightHand or rightArm", "--totals", "before", "--weighting", "azimuth-elevation"),
        ("--filter", "soft", "--fold", 1, "--fold", 4, "--weighting", "azimuth-shrunk"),
        ("--no-canonicalize", "--weighting", "none", "--hidden-weight", 0.5, "--prompt", DEMO[1].prompt),
    ],
)
def test_its_numbers_are_those_of_the_occupancy(store: Path, tmp_path: Path, options: tuple[Any, ...]) -> None:
    occupancy = made(store, tmp_path / "o.h5", *options)
    phi = occupancy.probability
    told = run("explain", store, "--occupancy", tmp_path / "o.h5", "--json")
    assert told.exit_code == 0, told.output
    facts = json.loads(told.stdout)
    assert facts["most_probable"]
    assert tuple(facts["voxel"]) == tuple(int(i) for i in np.unravel_index(int(phi.argmax()), phi.shape))
    assert facts["probability"] == facts["occupancy_probability"] == pytest.approx(float(phi.max()), abs=1e-4)
    elsewhere = np.unravel_index(int(np.argsort(phi.ravel())[-20]), phi.shape)
    there = json.loads(
        run("explain", store, "--occupancy", tmp_path / "o.h5", "--json", "--", *occupancy.centres[elsewhere]).stdout
    )
    assert there["probability"] == pytest.approx(float(phi[elsewhere]), abs=1e-4)
    assert there["on_mask"] + there["off_mask"] + there["unseen"] == occupancy.num_images
    assert facts["canonicalization"] == occupancy.parameters.canonicalization
    assert ("hidden" in facts) == (occupancy.num_hidden is not None)


def test_what_is_printed(store: Path, tmp_path: Path) -> None:
    occupancy = made(store, tmp_path / "o.h5", "--prompt", "* holds *", "--hidden-weight", 0.1)
    told = run("explain", store, "--occupancy", tmp_path / "o.h5", "--show", 2)
    assert told.exit_code == 0, told.output
    assert "most probable voxel" in told.stdout
    assert f"{occupancy.probability.max():.3f}, that of {tmp_path / 'o.h5'} (" in told.stdout
    assert "m right" in told.stdout
    assert "of the pelvis" in told.stdout
    listed = [line for line in told.stdout.splitlines() if line.startswith("  ball-held-")]
    assert all(line.endswith(DEMO[0].prompt) for line in listed)
    assert 4 <= len(listed) <= 6
    sides = [line for line in told.stdout.splitlines() if line.startswith("seen from")]
    on = sum(int(line.split()[4]) for line in sides)
    assert f", {on} with it on the object's mask" in told.stdout
    # Its own images and those of a store that has others: both numbers are told.
    write_world(tmp_path / "more.chorus", DEMO, 40, 9, chorus.load_body())
    other = run("explain", tmp_path / "more.chorus", "--occupancy", tmp_path / "o.h5")
    assert other.exit_code == 0, other.output
    assert f"is {occupancy.probability.max():.3f}, from other images" in other.stdout


def test_options_that_contradict_the_occupancy_are_refused(store: Path, tmp_path: Path) -> None:
    made(store, tmp_path / "o.h5", "--prompt", "* holds *", "--canonicalization", "joint:right_hand")
    common = ["explain", store, "--occupancy", tmp_path / "o.h5"]
    same = ["--prompt", "* holds *", "--canonicalization", "joint:right_hand", "--resolution", N, "--filter", "none"]
    assert run(*common, *same).exit_code == 0
    for option, expected in (
        (("--prompt", "* kicks *"), "prompt, ['* holds *'], got ['* kicks *']"),
        (("--part", "face"), "part, None, got face"),
        (("--fold", 3), "folds, None, got [3]"),
        (("--filter", "paper"), "filter, none; got"),
        (("--resolution", 48), f"resolution, {N}, got 48"),
        (("--canonicalization", "lbs"), "canonicalization, joint:right_hand, got lbs"),
        (("--no-canonicalize",), "canonicalization, joint:right_hand, got none"),
        (("--hidden-weight", 0.1), "weight of hidden votes, none, for it does not tell them apart; got 0.1"),
    ):
        done = run(*common, *option)
        assert done.exit_code == 2, option
        assert f"--occupancy: expected the occupancy's {expected}" in done.output, done.output
    neither = run("explain", store)
    assert neither.exit_code == 2
    assert "give a point, x y z in metres, or an --occupancy" in neither.output
    made(store, tmp_path / "k.h5", "--prompt", "* kicks *", "--canonicalization", "joint:right_hand")
    assert run("merge", tmp_path / "o.h5", tmp_path / "k.h5", "-o", tmp_path / "both.h5").exit_code == 0
    several = run("explain", store, "--occupancy", tmp_path / "both.h5")
    assert several.exit_code == 2
    assert "--occupancy: expected an occupancy of one selection of images, got one of 2" in several.output
