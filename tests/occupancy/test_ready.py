"""Ready-made occupancies of simulated worlds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from chorus.body.model import load_body
from chorus.cli import main
from chorus.errors import InputError
from chorus.field import CanonicalField
from chorus.occupancy.clusters import MIN_CHOICE
from chorus.occupancy.counts import load_occupancy
from chorus.occupancy.ready import LIST, write_ready
from chorus.reconstruct.distributions import occupancy_files, stored_categories
from chorus.simulate.images import WORLDS
from chorus.simulate.truth import true_occupancy


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ready") / "made"
    names = ["--world", "racket-held", "--world", "ball-held", "--world", "ball-kicked"]
    done = CliRunner().invoke(
        main, ["occupancies", "-o", str(folder), *names, "--images", str(MIN_CHOICE), "--resolution", "24", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert [row["world"] for row in json.loads(done.stdout)] == ["racket-held", "ball-held", "ball-kicked"]
    return folder


def test_each_category_has_a_folder_that_reconstruct_takes(ready: Path) -> None:
    rows = json.loads((ready / LIST).read_text())
    assert sorted(path.name for path in ready.iterdir()) == [LIST, "sports-ball", "tennis-racket"]
    assert stored_categories([ready]) == ["sports ball", "tennis racket"]
    assert {str(path.relative_to(ready)) for path, _, _ in occupancy_files([ready])} == {row["file"] for row in rows}
    assert {row["prompt"] for row in rows} == {WORLDS[row["world"]].prompt for row in rows}


def test_they_are_where_the_objects_are(ready: Path) -> None:
    body = load_body()
    for row in json.loads((ready / LIST).read_text()):
        occupancy = load_occupancy(ready / row["file"])
        assert occupancy.category == row["category"]
        field = CanonicalField.from_parameters(body, occupancy.parameters)
        truth = true_occupancy(WORLDS[row["world"]], field.centres, body=body)
        best = np.argsort(-occupancy.probability, axis=None)[:5]
        assert truth.reshape(-1)[best].mean() > 0.1 * truth.max(), row["world"]
        assert truth.mean() < 0.02


def test_categories_made_before_stay_listed(ready: Path, tmp_path: Path) -> None:
    shutil.copytree(ready, tmp_path / "made")
    write_ready(tmp_path / "made", ["racket-held", "hat"], MIN_CHOICE, resolution=8)
    rows = json.loads((tmp_path / "made" / LIST).read_text())
    assert [row["world"] for row in rows] == ["ball-held", "ball-kicked", "racket-held", "hat"]
    assert all((tmp_path / "made" / row["file"]).is_file() for row in rows)


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"world: expected one of surfboard-carried, .*; got 'nothing'"):
        write_ready(tmp_path / "a", ["nothing"])
    with pytest.raises(InputError, match=f"num_images: expected at least {MIN_CHOICE}, .* got 10"):
        write_ready(tmp_path / "a", num_images=10)
    assert not (tmp_path / "a").exists()
    (tmp_path / LIST).write_text("[]")
    done = CliRunner().invoke(main, ["occupancies", "-o", str(tmp_path)])
    assert done.exit_code == 2
    assert "--force" in done.output + str(done.exception)
