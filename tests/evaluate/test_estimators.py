"""The table of estimators by scene."""

import dataclasses
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from click.testing import CliRunner

from chorus.body.model import Body, load_body
from chorus.cli import main
from chorus.errors import InputError
from chorus.evaluate.estimators import (
    ESTIMATORS,
    PAPER,
    RECOMMENDED,
    EstimatorsTable,
    as_markdown,
    as_rich,
    estimators_table,
    generating_joints,
    run,
)
from chorus.evaluate.scenes import SCENES, scenes_named
from chorus.evaluate.unfinished import Unfinished
from chorus.field import CanonicalField, voxel_centres
from chorus.figures.compared import most_seen, save_compared

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "bench" / "results" / "estimators-2026-11-28.json"
NAMES = ("ball-occluded", "ball-occluded, axis 0.1")


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[EstimatorsTable, Path, list[tuple[int, int]]]:
    path, seen = tmp_path_factory.mktemp("estimators") / "table.json", []
    table = run(60, (3, 4), NAMES, path, progress=lambda *at: seen.append(at))
    return table, path, seen


def test_rows(made: tuple[EstimatorsTable, Path, list[tuple[int, int]]]) -> None:
    table, path, seen = made
    assert seen[-1] == (240, 240)
    assert [(r.scene, r.estimator) for r in table.rows] == [(s, e) for s in NAMES for e in ESTIMATORS]
    for row in table.rows:
        assert all(0 <= a <= b <= 1 for a, b in zip(row.iou, row.best_iou, strict=True))
        assert row.mean == pytest.approx(np.mean(row.iou), abs=1e-5)
        assert row.gain == pytest.approx(row.mean - table.row(row.scene, PAPER).mean, abs=1e-5)
    paper, recommended = (table.row(NAMES[0], name) for name in (PAPER, RECOMMENDED))
    assert set(paper.chosen) == {"lbs"}
    assert set(paper.hidden_weight) == {1.0}
    assert set(recommended.hidden_weight) <= {0.1, 1.0}
    assert recommended.best_iou > paper.best_iou
    assert table.row(NAMES[0], PAPER).iou != table.row(NAMES[1], PAPER).iou  # wrong poses on record change the votes
    kept = json.loads(path.read_text())
    assert kept["table"] == "estimators"
    assert EstimatorsTable.from_json(kept) == table


def test_printed(made: tuple[EstimatorsTable, Path, list[tuple[int, int]]]) -> None:
    table = made[0]
    text = as_markdown(table)
    assert text.count("\n|") == 1 + len(NAMES)
    assert "ball, hidden by the body; axis 0.1" in text
    assert "The recommended estimator is" in text
    assert as_rich(table).row_count == len(NAMES)
    assert set(generating_joints(table)) == set(NAMES)


def test_goes_on_where_it_was_stopped(made: tuple[EstimatorsTable, Path, list[tuple[int, int]]], tmp_path: Path) -> None:
    kept = Unfinished(tmp_path / "kept.json")

    def stop(done: int, total: int) -> None:
        if done > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimators_table(60, (3, 4), scenes=NAMES[:1], progress=stop, unfinished=kept)
    assert len(kept) == 1
    table = estimators_table(60, (3, 4), scenes=NAMES[:1], unfinished=kept)
    assert [row.iou for row in table.rows] == [made[0].row(NAMES[0], name).iou for name in ESTIMATORS]


def test_a_picture_shows_each_scene_twice(
    made: tuple[EstimatorsTable, Path, list[tuple[int, int]]], tmp_path: Path, body: Body
) -> None:
    table = dataclasses.replace(made[0], rows=tuple(row for row in made[0].rows if row.scene == NAMES[0]))
    save_compared(tmp_path / "one.png", table, body)
    one = plt.imread(tmp_path / "one.png")[..., :3]
    shown = (one.max(2) - one.min(2) > 0.5).any(1)  # phi is in colour, bodies and texts are grey
    assert np.flatnonzero(shown)[0] < len(one) / 2 < np.flatnonzero(shown)[-1]
    field = CanonicalField(body, 24, cache=False)
    behind = (np.abs(field.centres - [0, 0.2, -0.25]) < [0.2, 0.25, 0.1]).all(3)  # a backpack
    beside = (np.abs(field.centres - [1.0, 0, 0]) < [0.1, 0.3, 0.3]).all(3)  # a plate, upright, at the person's left
    assert most_seen(behind, field) == "from the person's left"
    assert most_seen(beside, field) == "from the person's left"
    assert most_seen((np.abs(field.centres - [0, -1, 0]) < [0.8, 0.1, 0.1]).all(3), field) == "from the front"


def test_scenes(body: Body) -> None:
    assert [scene.name for scene in SCENES.values()] == list(SCENES)
    assert SCENES["ball"].joints == ("right_hand",)
    (fitted,) = scenes_named(["ball-held, fitted 1"])  # beside the table's
    assert (fitted.errors, fitted.name in SCENES) == (("fitted:1",), False)
    assert SCENES["ball-held-or-kicked"].joints == ("right_hand", "left_foot")
    assert SCENES["box-in-both-hands"].joints == SCENES["ball-in-either-hand"].joints == ()
    centres = voxel_centres(24, 3.0).astype(np.float32)
    held, kicked, both = (SCENES[n].truth(centres, body) for n in ("ball-held", "ball-kicked", "ball-held-or-kicked"))
    assert held.any()
    assert kicked.any()
    assert np.array_equal(both, held | kicked)
    with pytest.raises(InputError, match="scenes: expected some of ball"):
        scenes_named(["nowhere"])
    with pytest.raises(InputError, match="at least two different ones"):
        estimators_table(10, [1])


def test_the_command(made: tuple[EstimatorsTable, Path, list[tuple[int, int]]], tmp_path: Path) -> None:
    scene, picture, output = ["--estimators", "--scene", NAMES[0]], tmp_path / "p.png", tmp_path / "t.json"
    call = ["evaluate", "worlds", "--images", "100", "--seeds", "2", "--first-seed", "3", "-o", str(output)]
    done = CliRunner().invoke(main, [*call, *scene, "--picture", str(picture)])
    assert done.exit_code == 0, done.output
    assert done.output.count("wrote ") == 2
    assert picture.stat().st_size > 10_000
    assert {row["scene"] for row in json.loads(output.read_text())["rows"]} == {NAMES[0]}
    for wrong, text in (
        (["--picture", str(picture)], "--picture draws scenes of --estimators: give both"),
        (scene[1:], "--scene chooses scenes of --estimators: give both"),
        ([*scene, "--world", "ball"], "scenes of its own: give no --world"),
    ):
        refused = CliRunner().invoke(main, [*call, "--force", *wrong])
        assert refused.exit_code == 2
        assert text in refused.output


@pytest.mark.parametrize("page", ["docs/results.md", "docs/estimators.md"])
def test_pages_show_the_record(page: str) -> None:
    """Rows and their order are the page's own; what they say is the record's."""
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = text[text.index("<!-- estimators -->") : text.index("<!-- /estimators -->")]
    table = EstimatorsTable.from_json(json.loads(RECORD.read_text(encoding="utf-8")))
    names = [name for name, estimator in ESTIMATORS.items() if f"| {estimator.heading} |" in shown.splitlines()[1]]
    headings = {scene.heading: name for name, scene in SCENES.items()}
    scenes = [headings[line.split(" | ")[0].removeprefix("| ")] for line in shown.splitlines()[3:] if line.startswith("| ")]
    assert len(scenes) > 9
    assert as_markdown(table, scenes, names) in shown
