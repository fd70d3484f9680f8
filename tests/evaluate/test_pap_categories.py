"""Projective average precision by category: means by hand, stores from end to end, files, the command."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from chorus.body.model import load_body
from chorus.commands.evaluate_pap import evaluate_pap_command
from chorus.errors import InputError, MismatchError
from chorus.evaluate.pap import METRICS, ImagePap, Metric, PapImage, PapProtocol, PixelCounts
from chorus.evaluate.pap.categories import (
    CategoryPap,
    PapReport,
    category_table,
    evaluate_pap,
    method_markdown,
    method_table,
)
from chorus.field import CanonicalField
from chorus.figures.precision_recall import save_curves, save_scored_image
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import StoreWriter
from tests.evaluate.test_pap_metric import FOOTPRINT, counts, looking_along_z, mask_of


def one(key: str, predicted: list[int], hits: list[int], target: int) -> ImagePap:
    c = counts(predicted, hits, target)
    return ImagePap.from_counts(key, c, None, PapProtocol())


def test_means_by_hand() -> None:
    # Category a: 0.8125 and 0.5 and one empty target, which is skipped: (0.8125 + 0.5) / 2. Category b: 1.0 alone.
    a = CategoryPap(
        "a", (one("0", [8, 4, 2, 0], [4, 3, 2, 0], 4), one("1", [3, 3, 0, 0], [0, 0, 0, 0], 0), one("2", [2] * 4, [2] * 4, 4))
    )
    b = CategoryPap("b", (one("3", [5] * 4, [5] * 4, 5),))
    assert a.mean("vanilla") == (0.8125 + 0.5) / 2
    assert a.mean("strict") == (0.3125 + 0.5) / 2
    assert a.mean("aware_vanilla") is None
    assert len(a.values("vanilla")) == 2
    report = PapReport((a, b), min_images=1)
    assert report.mpap("vanilla") == (0.65625 + 1.0) / 2  # the mean of the categories, not of the images
    assert report.mpap("aware_strict") is None
    assert PapReport((a, b), min_images=3).mpap("vanilla") == 0.65625  # b has too few; an empty target counts as an image
    assert PapReport((a, b)).mpap("vanilla") is None  # 30
    markdown = method_markdown({"ours": report, "1 %": PapReport((b,), min_images=1)})
    assert "| ours | 82.81 |" in markdown
    assert "| 1 % | 100.00 | 100.00 | - | - |" in markdown
    assert method_table({"ours": report}).row_count == 1
    curve = b.curve("strict")
    assert curve is not None
    assert (curve == 1).all()
    assert a.curve("aware_vanilla") is None
    with pytest.raises(KeyError):
        a.values("other")
    with pytest.raises(InputError, match="reports: expected at least one"):
        method_table({})


def best_f1(counts: PixelCounts, protocol: PapProtocol) -> float:
    """The best F1 over the thresholds."""
    return float((2 * counts.hits / (counts.predicted + counts.target)).max())


def test_a_metric_of_ones_own_is_one_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(METRICS, "best_f1", Metric("best_f1", "F1", "mean F1", best_f1))
    # Best at the second threshold: 2 3 / (4 + 4) = 0.75; at the third 2 2 / (2 + 4). The empty target has none.
    a = CategoryPap("a", (one("0", [8, 4, 2, 0], [4, 3, 2, 0], 4), one("1", [3, 3, 0, 0], [0, 0, 0, 0], 0)))
    assert a.mean("best_f1") == 0.75
    assert a.curve("best_f1") is None
    report = PapReport((a,), min_images=1)
    facts = report.to_json()
    assert facts["mpap"]["best_f1"] == 0.75
    assert [image["best_f1"] for image in facts["categories"][0]["per_image"]] == [0.75, None]
    assert "| mean F1 |" in method_markdown({"ours": report})
    assert [column.header for column in category_table(report).columns][-1] == "F1"
    report.write_csv(tmp_path / "images.csv")
    with open(tmp_path / "images.csv", encoding="utf-8") as file:
        assert [line["best_f1"] for line in csv.DictReader(file)] == ["0.75", ""]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Occupancy]:
    """A test store of 12 images of a backpack, another of 4 and one rejected, an occupancy at 16^3 from 150 others."""
    folder = tmp_path_factory.mktemp("pap")
    body = load_body()
    for name, images, seed in (("train", 150, 0), ("test", 12, 1), ("more", 4, 2)):
        write_world(folder / name, [WORLDS["backpack"]], images, seed, body)
    with StoreWriter(
        folder / "more", category="backpack", num_joints=body.num_joints, body_hash=body.hash, person_masks=True
    ) as writer:
        writer.append_rejected(["nobody"], ["no person"])
    return folder / "test", folder / "more", aggregate(folder / "train", CanonicalField(body, 16, cache=False))


def test_stores_from_end_to_end(small: tuple[Path, Path, Occupancy], tmp_path: Path) -> None:
    test, more, occupancy = small
    told: list[tuple[int, int]] = []
    report = evaluate_pap([occupancy], [test, more], protocol=FOOTPRINT, min_images=16, progress=lambda *n: told.append(n))
    (category,) = report.categories
    assert category.category == "backpack"
    assert (len(category.results), category.incomplete) == (16, 1)
    assert told == [(i, 16) for i in range(1, 17)]
    keys = [r.key for r in category.results]
    assert keys[0].startswith("backpack-1-")
    assert keys[-1].startswith("backpack-2-")
    # Voxels of 19 cm: far from perfect, and far from chance (the targets cover a few percent of the images).
    assert report.mpap("vanilla") == category.mean("vanilla") > 0.15
    # Turned around the vertical axis the same distribution is worse: pose, camera and mask belong together.
    turned = evaluate_pap(
        {"backpack": occupancy},
        [test, more],
        protocol=FOOTPRINT,
        min_images=16,
        aware=False,
        pose_occupancy=lambda o, pose: np.ascontiguousarray(o.probability[::-1, :, ::-1]),
    )
    assert turned.mpap("vanilla") < 0.6 * report.mpap("vanilla")
    assert turned.categories[0].mean("aware_vanilla") is None

    fields = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert fields["mpap"]["vanilla"] == report.mpap("vanilla")
    assert [i["key"] for i in fields["categories"][0]["per_image"]] == keys
    assert fields["sources"][0]["stores"][1]["path"] == str(more)
    report.write_csv(tmp_path / "images.csv")
    lines = list(csv.DictReader((tmp_path / "images.csv").open()))
    assert [float(line["vanilla"]) for line in lines] == [r.vanilla for r in category.results]
    assert category_table(report).row_count == 2
    for path, draw in (
        ("curves.png", lambda p: save_curves(p, report)),
        (
            "image.png",
            lambda p: save_scored_image(p, PapImage(np.ones((3,) * 3), 1.0, looking_along_z(4), mask_of([(16, 16)]))),
        ),
    ):
        draw(tmp_path / path)
        assert (tmp_path / path).read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="report: expected at least one category"):
        save_curves(tmp_path / "none.png", PapReport(()))


def test_what_does_not_belong_together_is_refused(small: tuple[Path, Path, Occupancy]) -> None:
    test, _, occupancy = small
    for occupancies, words in (
        ([], "stores: 'backpack' has no occupancy; those given are of nothing"),
        ({"backpack": occupancy, "hat": occupancy}, "occupancies: 'hat' has no test store; those given are of backpack"),
        ([occupancy, occupancy], "occupancies: expected one for each category, got two of 'backpack'"),
        ([replace(occupancy, category="")], "occupancies: expected a category in each, got none in number 0"),
    ):
        with pytest.raises(InputError, match=words):
            evaluate_pap(occupancies, [test])
    with pytest.raises(InputError, match="min_images: expected a positive integer, got 0"):
        evaluate_pap([occupancy], [test], min_images=0)
    with pytest.raises(MismatchError, match="body: expected the one with hash"):
        evaluate_pap([replace(occupancy, body_hash="0" * 64)], [test])


def test_the_command(small: tuple[Path, Path, Occupancy], tmp_path: Path) -> None:
    test, more, occupancy = small
    occupancy.save(tmp_path / "ball.h5")
    files = [tmp_path / name for name in ("r.json", "r.csv", "r.png")]
    arguments = [str(test), str(more), "--occupancy", str(tmp_path / "ball.h5"), "--min-images", "10", "--no-aware"]
    done = CliRunner().invoke(
        evaluate_pap_command, [*arguments, "-o", str(files[0]), "--csv", str(files[1]), "--picture", str(files[2])]
    )
    assert done.exit_code == 0, done.output
    assert "mPAP of 1" in done.output
    assert done.output.count("wrote ") == 3
    assert all(path.exists() for path in files)
    assert json.loads(files[0].read_text())["categories"][0]["scored"]["aware_vanilla"] == 0
    as_json = CliRunner().invoke(evaluate_pap_command, [*arguments, "--interpolation", "11-point", "--device", "cpu", "--json"])
    assert as_json.exit_code == 0, as_json.output
    assert json.loads(as_json.stdout)["protocol"]["interpolation"] == "11-point"
    missing = CliRunner().invoke(evaluate_pap_command, [*arguments, "-o", str(tmp_path / "no" / "r.json")])
    assert isinstance(missing.exception, InputError)
    assert "--output: expected a file in a folder that exists" in str(missing.exception)
