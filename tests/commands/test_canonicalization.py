"""The option ``--canonicalization`` of the commands that make occupancies, and the commands that read what they made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from chorus.body.model import load_body
from chorus.cli import main
from chorus.errors import InputError
from chorus.field import CanonicalField
from chorus.occupancy.clusters import MIN_CHOICE, clusters
from chorus.occupancy.counts import load_occupancy
from chorus.simulate.images import write_world
from chorus.simulate.worlds import DEMO
from chorus.store import open_store

HAND = "joint:right_hand"
HELD, KICKED = (world.prompt for world in DEMO)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("canonicalization") / "balls.chorus"
    write_world(path, DEMO, 160, 0)
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def fails(*arguments: Any) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code != 0
    return str(result.exception) if isinstance(result.exception, InputError) else result.output


@pytest.mark.parametrize("how", [[], ["--canonicalization", "none"], ["--canonicalization", HAND], ["--no-canonicalize"]])
def test_aggregate_takes_a_name(how: list[str], store: Path, tmp_path: Path) -> None:
    result = run("aggregate", store, "-o", tmp_path / "o.h5", "--resolution", 16, "--prompt", HELD, *how)
    name = {0: "lbs", 1: "none", 2: how[-1] if how else ""}[len(how)]
    assert f"canonicalization     {name}\n" in result.output
    found = load_occupancy(tmp_path / "o.h5")
    assert found.field_hash == CanonicalField(load_body(), 16, canonicalization=name).hash
    assert "canonicalization" not in found.provenance[0]  # nothing was chosen


def test_aggregate_chooses(store: Path, tmp_path: Path) -> None:
    how = ["aggregate", store, "--resolution", 16, "--prompt", HELD, "--canonicalization", "auto"]
    result = run(*how, "-o", tmp_path / "o.h5")
    record = load_occupancy(tmp_path / "o.h5").provenance[0]["canonicalization"]
    assert record["name"] == HAND
    assert f"canonicalization     {HAND}, chosen from {record['images']} images\n" in result.output
    first = next(c for c in record["ranking"] if c["name"] == HAND)
    assert f"foretells held-out masks with IoU {first['score']:.3f} +- {first['spread']:.3f}\n" in result.output
    assert f"as good: {record['alike'][0]}" in result.output
    found = json.loads(run(*how, "-o", tmp_path / "p.h5", "--json").stdout)
    assert found["canonicalization"] == HAND
    assert found["choice"] == record


def test_names_that_contradict_or_do_not_exist(store: Path, tmp_path: Path) -> None:
    how = ["aggregate", store, "-o", tmp_path / "o.h5"]
    for command in (how, ["explain", store, "0.5", "0.2", "0.1"]):
        output = fails(*command, "--no-canonicalize", "--canonicalization", "lbs")
        assert "--no-canonicalize is --canonicalization none: give one of them, not also --canonicalization lbs" in output
        assert "expected lbs, lbs-nearest, none, joint:NAME, per-voxel, auto; got 'hand'" in fails(
            *command, "--canonicalization", "hand"
        )
        assert "one of pelvis, left_hip" in fails(*command, "--canonicalization", "joint:hand")
    run(*how, "--resolution", 8, "--no-canonicalize", "--canonicalization", "none")
    assert load_occupancy(tmp_path / "o.h5").parameters.canonicalization == "none"
    few = run(*how, "--force", "--canonicalization", "auto", "--fold", 1, "--prompt", HELD)
    assert "auto needs 20 images" in few.output
    assert "lbs is taken" in few.output
    assert load_occupancy(tmp_path / "o.h5").parameters.canonicalization == "lbs"


@pytest.mark.parametrize("name", [HAND, "per-voxel"])
def test_commands_that_read_occupancies(name: str, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "o.h5"
    picture = tmp_path / "o.png"
    how = ["--resolution", 16, "--prompt", HELD, "--canonicalization", name]
    run("aggregate", store, "-o", path, *how, "--picture", picture)
    assert picture.stat().st_size > 1000
    occupancy = load_occupancy(path)
    point = occupancy.centres[np.unravel_index(occupancy.probability.argmax(), occupancy.probability.shape)]
    explained = run("explain", store, *how, "--json", "--", *point.tolist())
    assert json.loads(explained.stdout)["canonicalization"] == name
    assert json.loads(explained.stdout)["on_mask"] > 10
    assert "watertight" in run("mesh", path, "--threshold", 0.5, "-o", tmp_path / "o.glb").output
    pose = np.array(load_body().rest_pose)
    pose[load_body().joint_names.index("right_shoulder"), 2] = -0.5
    np.save(tmp_path / "pose.npy", pose)
    run("pose", path, tmp_path / "pose.npy", "-o", tmp_path / "posed.npz")
    assert np.load(tmp_path / "posed.npz")["phi"].max() > 0.5
    run("overlay", store, path, "-o", tmp_path / "overlays", "--images", 1)
    assert (tmp_path / "overlays" / "overlays.json").is_file()
    scores = run("evaluate", "pap", store, "--occupancy", path, "--min-images", 1, "--json").stdout
    assert json.loads(scores)


def test_every_cluster_has_a_choice_of_its_own(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    how = ["--all", "--min-images", 50, "--resolution", 24, "--canonicalization", "auto"]
    table = run("aggregate", store, "-o", folder, *how).output
    rows = json.loads((folder / "clusters.json").read_text())
    named = {(row["prompt"], row["part"]): row["canonicalization"] for row in rows}
    assert named[HELD, None] == HAND
    assert named[KICKED, None] == "joint:left_foot"
    assert (None, None) in named
    for row in rows:
        occupancy = load_occupancy(folder / row["file"])
        assert occupancy.parameters.canonicalization == row["canonicalization"]
        assert occupancy.provenance[0]["canonicalization"]["chosen"] == row["canonicalization"]
        assert occupancy.num_images == row["images"]
    assert "canonicalization" in table
    assert HAND in table


def test_clusters_of_one_field(store: Path) -> None:
    field = CanonicalField(load_body(), 24)
    found = {(c.prompt, c.part): c.occupancy for c in clusters(open_store(store), field, 50, canonicalization=HAND)}
    assert {o.parameters.canonicalization for o in found.values()} == {HAND}
    assert found[None, None].num_images == found[HELD, None].num_images + found[KICKED, None].num_images
    with pytest.raises(InputError, match=f"min_images: expected at least {MIN_CHOICE} for a choice"):
        list(clusters(open_store(store), field, MIN_CHOICE - 1, canonicalization="auto"))
    with pytest.raises(InputError, match="canonicalization: expected"):
        list(clusters(open_store(store), field, 50, canonicalization="hand"))
