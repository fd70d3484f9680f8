"""The recipes of CONTRIBUTING.md: their code is taken from the page and run, and does what the page promises."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chorus
from chorus.errors import MismatchError
from chorus.evaluate.ablation.report import to_json
from chorus.evaluate.ablation.rows import SECTIONS
from chorus.evaluate.pap.categories import category_table
from chorus.evaluate.pap.metric import METRICS
from chorus.kernels import backends
from chorus.simulate.images import true_occupancy
from chorus.simulate.worlds import WORLDS
from chorus.store import open_store
from chorus.store.filters.filtering import Filter
from chorus.store.filters.report import filter_report
from chorus.store.filters.rules import RULES
from tests.kernels.contract import check_votes

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = PAGE.split("\n## Recipes\n")[1]
Recipe = Callable[[str], dict[str, Any]]
pytestmark = pytest.mark.slow


def blocks(title: str, language: str) -> list[str]:
    """The fenced code of a recipe, or of what stands before the first one (title ""), in order."""
    parts = RECIPES.split("\n### ")
    (part,) = parts[:1] if not title else [part for part in parts[1:] if part.startswith(f"{title}\n")]
    return [code for of, code in re.findall(r"^```(\w*)\n(.*?)^```$", part, re.M | re.S) if of == language]


@contextmanager
def kept(*tables: Any) -> Iterator[None]:
    """Leaves dictionaries and lists as they were."""
    copies = [table.copy() for table in tables]
    yield
    for table, copy in zip(tables, copies, strict=True):
        table.clear()
        table.extend(copy) if isinstance(table, list) else table.update(copy)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="module")
def shared(folder: Path) -> dict[str, Any]:
    """What the lines before the first recipe define, run in ``folder``."""
    names: dict[str, Any] = {}
    (start,) = blocks("", "python")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(start, "CONTRIBUTING.md", "exec"), names)
    return names


@pytest.fixture
def follow(folder: Path, shared: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Recipe]:
    """Runs the Python of a recipe as a reader would, writes its files, and gives what it defines; all it added goes after."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)

    def run(title: str) -> dict[str, Any]:
        names = dict(shared)
        for code in blocks(title, "python"):
            file = re.match(r"# file: (\w+\.py)\n", code)
            if file is None:
                exec(compile(code, f"CONTRIBUTING.md, {title}", "exec"), names)
            else:
                (folder / file[1]).write_text(code)
        return names

    with kept(backends.BACKENDS, METRICS, RULES, SECTIONS):
        yield run
    backends._choose.cache_clear()


def test_every_recipe_is_tested_here() -> None:
    titles = re.findall(r"^### (.*)$", RECIPES, re.M)
    assert titles == [
        "Add a vote backend",
        "Add a filter rule",
        "Add a detector",
        "Add a body",
        "Add a metric",
        "Add an ablation row",
    ]
    source = Path(__file__).read_text()
    assert all(f'follow("{title}")' in source for title in titles)
    assert all(blocks(title, "python") for title in titles)


def test_add_a_vote_backend(follow: Recipe, folder: Path) -> None:
    made = follow("Add a vote backend")
    occupancy, definition = made["occupancy"], chorus.aggregate(made["store"], made["field"], backend="reference")
    assert occupancy.den_counts.sum() > 100_000
    for name in ("num_counts", "den_counts"):  # both in float64: what differs is the order of a few sums
        assert np.abs(getattr(occupancy, name) - getattr(definition, name)).sum() <= 2
    assert occupancy.provenance[0]["backend"] == "plain"
    count_votes: Any = backends.choose_backend("plain").count_votes
    assert Path(count_votes.__code__.co_filename) == folder / "plain_votes.py"
    assert made["check_votes"] is check_votes  # it was run; and it can fail:
    with pytest.raises(AssertionError):
        check_votes(lambda *args, **options: tuple(counts + 1 for counts in count_votes(*args, **options)))


def test_add_a_filter_rule(follow: Recipe) -> None:
    made = follow("Add a filter rule")
    store, strict = made["store"], made["strict"]
    visible = store.rows["score/object_visible"]
    complete = store.rows["status"] == "complete"
    passed = made["paper"].passed(store.rows) & (visible >= np.float32(0.9))
    assert 20 < passed.sum() < made["paper"].passed(store.rows).sum()  # the rule turns some away, and not all
    assert np.array_equal(strict.passed(store.rows), passed)
    assert made["occupancy"].num_images == passed.sum()
    assert "visible" in set(strict.reasons(store.rows)[complete & ~passed])
    assert Filter.from_json(strict.to_json()) == strict
    weights = strict.softened().weights(store.rows)
    assert made["weighed"].group_totals.sum() == weights.sum(dtype=int)
    dim = complete & (weights > 0) & (visible < 0.9)
    assert weights[dim].max() < weights.max()  # what is hidden counts less
    assert "visible" in str(filter_report(strict, store.rows).to_json())


def test_add_a_detector(follow: Recipe, folder: Path) -> None:
    follow("Add a detector")
    (commands,) = blocks("Add a detector", "")
    arguments = shlex.split(commands.replace("\\\n", " "))
    assert arguments[0] == "chorus"
    simulated = [*arguments]
    simulated[simulated.index("colour_detector:ByColour")] = "simulated"
    simulated[simulated.index("painted.chorus")] = "truth.chorus"
    for command in (arguments, simulated):
        done = subprocess.run(
            [sys.executable, "-m", "chorus", *command[1:]],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    painted, truth = open_store(folder / "painted.chorus"), open_store(folder / "truth.chorus")
    assert len(painted) == len(truth) == 22
    order = [np.argsort(store.rows["key"]) for store in (painted, truth)]
    for column in ("key", "status"):
        a, b = (store.rows[column][rows] for store, rows in zip((painted, truth), order, strict=True))
        assert np.array_equal(a, b), column
    both = [store.batch(store.select()) for store in (painted, truth)]
    found, expected = ({key: batch.masks.unpack(i) for i, key in enumerate(batch.keys)} for batch in both)
    assert found.keys() == expected.keys()
    assert len(found) > 15
    assert all(np.array_equal(found[key], expected[key]) for key in found)


def test_add_a_body(follow: Recipe, folder: Path) -> None:
    made = follow("Add a body")
    doll, occupancy = made["doll"], made["doll_occupancy"]
    assert (len(doll.vertices), len(doll.faces), doll.num_joints) == (8 * 23, 12 * 23, 24)
    corners = doll.vertices[doll.faces]
    outward = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    boxes = doll.vertices.reshape(-1, 8, 3).mean(1).repeat(12, 0)
    assert ((corners.mean(1) - boxes) * outward).sum(1).min() > 0
    assert chorus.load_body(folder / "doll.npz").hash == doll.hash != made["body"].hash
    pose = np.zeros((1, 24, 3))
    pose[0, doll.joint_names.index("right_shoulder"), 2] = 1.0
    moved = np.linalg.norm(doll.posed_vertices(pose)[0] - doll.vertices, axis=1) > 1e-9
    children = [doll.joint_names.index(name) for name in ("right_elbow", "right_wrist", "right_hand")]
    assert set(np.flatnonzero(moved) // 8 + 1) == set(children)  # the boxes that hang on the shoulder, and no others
    assert occupancy.body_hash == open_store(folder / "doll.chorus").body_hash == doll.hash
    truth = true_occupancy(WORLDS["ball-held"], occupancy.centres, body=doll)
    expected = (occupancy.centres * truth[..., None]).sum((0, 1, 2)) / truth.sum()
    likely = occupancy.centres[np.unravel_index(occupancy.probability.argmax(), occupancy.probability.shape)]
    assert np.linalg.norm(likely - expected) < 0.25  # metres; a voxel has 0.19
    with pytest.raises(MismatchError):
        chorus.aggregate(open_store(folder / "doll.chorus"), made["field"])


def test_add_a_metric(follow: Recipe) -> None:
    made = follow("Add a metric")
    report = made["report"]
    (category,) = report.categories
    scored = [image for image in category.results if image.counts.target]
    assert len(scored) > 30
    for image in scored:
        counts = image.counts
        by_hand = [hits / (drawn + counts.target - hits) for hits, drawn in zip(counts.hits, counts.predicted, strict=True)]
        assert image.scores["best_iou"] == pytest.approx(max(by_hand))
    assert 0.02 < report.mpap("best_iou") < 1
    assert report.mpap("best_iou") == pytest.approx(np.mean([image.scores["best_iou"] for image in scored]))
    assert report.to_json()["mpap"].keys() == {"vanilla", "strict", "aware_vanilla", "aware_strict", "best_iou"}
    assert "best IoU" in [column.header for column in category_table(report).columns]


def test_add_an_ablation_row(follow: Recipe) -> None:
    made = follow("Add an ablation row")
    table = made["table"]
    names = [row.name for row in table.rows]
    assert names[-2:] == ["s = 0.5", "s = 1"]
    full, softest = table.row("full"), table.row("s = 1")
    assert softest.setting.field["s"] == 1.0
    assert softest.images == full.images
    assert softest.mean() != full.mean()  # the field is another one
    assert "s = 0.5" in [row["name"] for row in to_json(table)["rows"]]
