"""Ablations: counts and scores against the long way round, what the simulated worlds must show, tables, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from chorus.body.model import Body, load_body
from chorus.commands.ablate import ablate_command
from chorus.errors import InputError
from chorus.evaluate.ablation.report import VOLATILE, as_markdown, as_rich, from_json, mechanism_lines, to_json
from chorus.evaluate.ablation.rows import (
    AblationOptions,
    Sample,
    Setting,
    chosen_images,
    keypoint_filter,
)
from chorus.evaluate.ablation.run import AblationRow, AblationTable, ablate
from chorus.evaluate.ablation.scores import count_rows, posed_voxels, score, targets
from chorus.evaluate.ablation.simulated_stores import AblationStores, mechanisms, simulate_stores
from chorus.evaluate.pap import METRICS, PapProtocol, evaluate_pap
from chorus.field import CanonicalField
from chorus.figures.ablation_bars import save_ablations
from chorus.occupancy.aggregation import aggregate
from chorus.store import StoreWriter
from tests.store.samples import make_batch, random_masks

SEEDS = (0, 1)
CATEGORIES = ("sports ball", "backpack")
TABLE_2 = AblationOptions(resolution=32, weightings=("none",), resolutions=(), k=(), tau=(), smoothing=False)


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> AblationStores:
    return simulate_stores(tmp_path_factory.mktemp("ablate"), 400, 12, SEEDS, categories=CATEGORIES)


@pytest.fixture(scope="module")
def table(stores: AblationStores) -> AblationTable:
    return ablate(stores.training, stores.tests, seeds=SEEDS, where=keypoint_filter(), options=TABLE_2, min_images=10)


# Counts and scores against the long way round


def test_every_sample_counts_as_if_it_were_alone(stores: AblationStores, body: Body) -> None:
    store, field = stores.training[0][0], CanonicalField(body, 16)
    kinds = (Sample(), Sample("share", 0.1), Sample("share", 0.02), Sample("unfiltered"), Sample("matched", size=90))
    samples = {kind: chosen_images(store, keypoint_filter(), kind, 7) for kind in kinds}
    counted = count_rows(store, samples, field, "azimuth")
    for kind, members in samples.items():
        alone = aggregate(store, field, where=lambda _, m=members: m)
        for name in ("num_counts", "den_counts", "group_totals", "group_images"):
            np.testing.assert_array_equal(getattr(counted[kind], name), getattr(alone, name))


@pytest.mark.parametrize("changes", [{}, {"canonicalize": False}, {"tau": 0.4, "k": 5}])
@pytest.mark.parametrize("splat", ["centre", "footprint"])
def test_scores_are_those_of_evaluate_pap(stores: AblationStores, body: Body, changes: dict[str, Any], splat: str) -> None:
    field, test, protocol = CanonicalField(body, 24, **changes), stores.tests[0], PapProtocol(splat=splat)
    occupancy = aggregate(stores.training[0][0], field)
    (category,) = evaluate_pap([occupancy], [test], body=body, protocol=protocol, min_images=1).categories
    shown = targets(test, body, protocol)[:5]
    for target, want in zip(shown, category.results[:5], strict=True):
        have = score(occupancy.probability, target, posed_voxels(target, field.parameters, body), field.extent, protocol)
        assert (have.key, have.scores) == (want.key, want.scores)
        np.testing.assert_array_equal(have.counts.predicted, want.counts.predicted)
        np.testing.assert_array_equal(have.counts.hits, want.counts.hits)


def test_voxel_numbers_that_float32_cannot_hold(stores: AblationStores, body: Body) -> None:
    (target, *_) = targets(stores.tests[0], body)
    parameters = replace(CanonicalField(body, 8).parameters, resolution=257)
    with pytest.raises(InputError, match="resolution: expected at most 256, got 257"):
        posed_voxels(target, parameters, body)


def test_a_row_is_what_its_name_says(stores: AblationStores, table: AblationTable, body: Body) -> None:
    """Two cells computed from stores by aggregate and evaluate_pap."""
    store, test = stores.training[1][0], stores.tests[0]
    for name, canonicalize in (("full", True), ("w/o canonicalization", False)):
        field = CanonicalField(body, TABLE_2.resolution, canonicalize=canonicalize)
        occupancy = aggregate(store, field, where=keypoint_filter())
        report = evaluate_pap([occupancy], [test], body=body, min_images=1)
        row = table.row(name)
        assert row.images["sports ball"][1] == occupancy.num_images
        for which in METRICS:
            assert row.scores["sports ball"][1][which] == pytest.approx(report.categories[0].mean(which), abs=1e-9)
    weighed = aggregate(store, CanonicalField(body, TABLE_2.resolution), "none", where=keypoint_filter())
    report = evaluate_pap([weighed], [test], body=body, min_images=1)
    have = table.row("view weights none").scores["sports ball"][1]["vanilla"]
    assert have == pytest.approx(report.categories[0].mean("vanilla"), abs=1e-9)


# What it must show


def test_mechanisms_hold(table: AblationTable) -> None:
    found = mechanisms(table)
    assert len(found) == 4
    assert all(m.holds for m in found), mechanism_lines(found)
    assert table.row("full").mean()[0] > 2 * table.row("1 %").mean()[0]
    ball = table.row("full").values(category="sports ball")
    assert (ball > 1.5 * table.row("w/o canonicalization").values(category="sports ball")).all()
    full, unfiltered = table.row("full"), table.row("w/o keypoint filtering")
    assert full.images == unfiltered.images


# Tables


def hand_table() -> AblationTable:
    def row(name: str, reference: str, *values: tuple[float, float]) -> AblationRow:
        scores = {
            c: [dict.fromkeys(METRICS, v) for v in of_seeds] for c, of_seeds in zip(("hat", "ball"), values, strict=False)
        }
        return AblationRow(Setting(name, "Table 2", reference=reference), {c: [10, 12] for c in scores}, scores)  # type: ignore[arg-type]

    rows = (row("full", "full", (0.5, 0.7), (0.1, 0.3)), row("less", "full", (0.4, 0.4)))
    facts = {"resolution": 48, "training_images": {"hat": [20, 20]}}
    return AblationTable(rows, {"hat": 40, "ball": 30}, (0, 1), True, facts, 1.0)


def test_means_and_differences_by_hand() -> None:
    table = hand_table()
    # mPAP of full: (0.5 + 0.1) / 2 and (0.7 + 0.3) / 2; t(0.975, 1) = 12.7062, half width = t * (spread / sqrt 2) / sqrt 2.
    assert table.row("full").mean() == (pytest.approx(0.4), pytest.approx(12.7062 * 0.1, rel=1e-5))
    assert table.row("full").mean(category="ball") == (pytest.approx(0.2), pytest.approx(12.7062 * 0.1, rel=1e-5))
    # Only the hat is common: -0.1 and -0.3.
    assert table.difference("less", "full") == (pytest.approx(-0.2), pytest.approx(12.7062 * 0.1, rel=1e-5))
    assert table.difference("full", "full") == (0.0, 0.0)
    with pytest.raises(KeyError):
        table.row("nothing")
    with pytest.raises(KeyError):
        table.difference("less", "full", category="ball")


def test_markdown_and_rich() -> None:
    lines = as_markdown(hand_table()).splitlines()
    assert lines[0].split("|")[1:4] == [" method ", " images ", " mPAP "]
    assert lines[2].startswith("| **Table 2** |")
    assert lines[3] == "| full | 11 | " + " | ".join(["40.00 ± 127.06"] * 4) + " |  |"
    assert lines[4].startswith("| **Table 2 (hat)** |")  # a row of one category alone
    assert lines[5].startswith("| less | 11 |")
    assert lines[5].endswith("| -20.00 ± 127.06 |")
    assert lines[-1] == "| less | -20.00 ± 127.06 |  |"
    assert as_rich(hand_table()).row_count == 4


def test_a_score_that_no_image_has_is_a_dash(tmp_path: Path) -> None:
    table = hand_table()
    for scores in table.row("less").scores["hat"]:
        scores["aware_vanilla"] = None
    assert "| -20.00 ± 127.06 |" in as_markdown(table)
    assert as_markdown(table).splitlines()[5].split("|")[5] == " - "
    facts = json.loads(json.dumps(to_json(table), allow_nan=False))
    assert facts["rows"][1]["mpap"]["aware_vanilla"] is None
    assert facts["rows"][1]["by_seed"]["hat"][0]["aware_vanilla"] is None
    full = table.row("full")
    for scores in full.scores["hat"]:
        scores["aware_vanilla"] = None
    np.testing.assert_array_equal(full.values("aware_vanilla"), [0.1, 0.3])  # the mean of those that have one
    assert np.isnan(table.difference("less", "full", "aware_vanilla")[0])


def test_bad_arguments(stores: AblationStores) -> None:
    good = {"training": stores.training, "tests": stores.tests, "seeds": SEEDS, "where": keypoint_filter()}
    for wrong, message in (
        ({"seeds": (1, 1)}, "seeds: expected at least two different ones"),
        ({"seeds": (0, 1, 2)}, "training: expected stores for each of 3 seeds, or for all of them, got 2"),
        ({"tests": stores.tests[:1]}, r"training: expected the test stores' categories \['sports ball'\]"),
        ({"tests": stores.tests * 2}, "tests: expected one store for each category"),
        ({"training": []}, "training, tests: expected stores, got 0 and 2"),
        ({"where": None, "options": AblationOptions()}, "where: expected a filter"),
        ({}, "tests: expected at least 30 complete images of 'sports ball', some with an object, got 1"),
    ):
        with pytest.raises(InputError, match=message):
            ablate(**{**good, **wrong})  # type: ignore[arg-type]


# The command


def run(*args: Any, codes: tuple[int, ...] = (0,)) -> str:
    result = CliRunner().invoke(ablate_command, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code in codes, result.output
    return result.stdout


SMALL = (
    "--images",
    60,
    "--test-images",
    5,
    "--seeds",
    2,
    "--category",
    "surfboard",
    "--resolution",
    16,
    "--resolutions",
    "12",
    "--k",
    "4",
    "--tau",
    "",
    "--min-images",
    4,
    "--keypoint-confidence",
    0.6,
)


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The command run from nothing in two folders."""
    folders = [tmp_path_factory.mktemp("run") for _ in range(2)]
    for folder in folders:
        files = ("-o", folder / "table.json", "--picture", folder / "table.png")
        run("--simulate", folder / "stores", *SMALL, *files, codes=(0, 1))  # 1: so few images need not bear the claims out
    return folders


def test_two_runs_give_the_same_bytes(twice: list[Path]) -> None:
    facts = [json.loads((folder / "table.json").read_text()) for folder in twice]
    for name in VOLATILE:
        assert all(f.pop(name) for f in facts)
    assert json.dumps(facts[0]).encode() == json.dumps(facts[1]).encode()
    names = [row["name"] for row in facts[0]["rows"]]
    assert "image search, simulated, 60 images" in names
    assert "12^3 voxels" in names
    assert [m["claim"] for m in facts[0]["mechanisms"]] == [
        "more images beat 1 %",
        "filtering wins where the keypoints reveal bad poses",
    ]
    assert (twice[0] / "table.png").read_bytes()[:4] == b"\x89PNG"


def test_a_table_is_read_back_from_its_json(twice: list[Path], table: AblationTable) -> None:
    facts = json.loads((twice[0] / "table.json").read_text())
    again = to_json(from_json(facts))
    for name in ("rows", "categories", "seeds", "replicated", "stores", "training_images", "splat", "seconds"):
        assert again[name] == facts[name]
    assert as_markdown(from_json(json.loads(json.dumps(to_json(table))))) == as_markdown(table)
    with pytest.raises(InputError, match="facts: expected the JSON of a table of ablations"):
        from_json({"table": "pap"})


def test_stores_given_by_hand(twice: list[Path]) -> None:
    folder = twice[0] / "stores"
    given = [folder / "surfboard-60-seed0.chorus", "--test", folder / "test-surfboard-5-seed1000000.chorus"]
    more = ["--other", folder / "other-surfboard-60-seed0.chorus", "--source-names", "here", "there", "--sizes", "20,60"]
    facts = json.loads(run(*given, *more, *SMALL, "--table2", "--json"))
    assert facts["replicated"] is False
    assert facts["mechanisms"] == []
    rows = {row["name"]: row for row in facts["rows"]}
    assert rows["full"]["mpap"]["vanilla"][1] == 0.0  # nothing is drawn
    assert rows["10 %"]["mpap"]["vanilla"][1] > 0.0
    assert rows["there, 20 images"]["reference"] == "here, 20 images"
    simulated = {row["name"]: row for row in json.loads((twice[0] / "table.json").read_text())["rows"]}
    assert rows["full"]["by_seed"]["surfboard"][0]["vanilla"] == simulated["full"]["by_seed"]["surfboard"][0]["vanilla"]
    text = run(*given, *SMALL, "--table2", "--markdown", "--no-filter")
    assert text.startswith("| method | images |")
    assert "w/o keypoint filtering" not in text
    assert "which differ in the draws alone" in text


def test_command_refuses(tmp_path: Path) -> None:
    for args, message in (
        ([], "stores: expected training stores and --test stores, or --simulate"),
        ([tmp_path, "--simulate", tmp_path / "b"], "stores: expected training stores and --test"),
        ([tmp_path / "a", "--test", tmp_path], "TRAINING_STORE: expected a file or folder that exists"),
        (["--simulate", tmp_path, "-o", tmp_path / "no" / "x.json"], "--output: expected a file in a folder that exists"),
    ):
        with pytest.raises(InputError, match=message):
            run(*args)
    assert "expected numbers with commas between them" in CliRunner().invoke(ablate_command, ["--k", "one"]).output
    with StoreWriter(tmp_path / "bare.chorus", category="ball", body_hash=load_body().hash) as writer:
        writer.append(make_batch(random_masks(3)))
    with pytest.raises(InputError, match="keeps no keypoint scores"):
        run(tmp_path / "bare.chorus", "--test", tmp_path / "bare.chorus")


def test_claims_that_fail_are_said(table: AblationTable) -> None:
    (first, *_) = mechanisms(table)
    assert ": holds (" in mechanism_lines([replace(first, difference=0.2, half_width=0.1)])[0]
    assert ": holds, though the interval reaches zero (" in mechanism_lines([replace(first, difference=0.1, half_width=0.2)])[0]
    assert "DOES NOT HOLD" in mechanism_lines([replace(first, difference=-0.1)])[0]
    assert not replace(first, difference=0.0).holds


def test_picture_needs_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="table: expected at least one row"):
        save_ablations(tmp_path / "x.png", replace(hand_table(), rows=()))
    save_ablations(tmp_path / "one.png", hand_table())
    assert (tmp_path / "one.png").stat().st_size > 5000
