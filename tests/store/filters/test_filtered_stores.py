"""A store's filter: the file, what is aggregated and counted through it, hard and soft, and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import chorus
from chorus.cli import main
from chorus.errors import InputError, StoreError
from chorus.evaluate.ablation.scores import count_rows
from chorus.evaluate.statistics.stores import store_statistics
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.occupancy.clusters import clusters
from chorus.store import StoreWriter, open_store, verify_store
from chorus.store.filters.filtering import (
    FILTER_JSON,
    Filter,
    filter_rows,
    find_filter,
    read_filter,
    read_store_filter,
    write_store_filter,
)
from chorus.votes.explain import explain
from tests.occupancy.test_aggregation import make_images
from tests.occupancy.test_counts import same


@pytest.fixture(scope="module")
def field() -> CanonicalField:
    return CanonicalField(chorus.load_body(), 8, cache=False)


@pytest.fixture(scope="module")
def fine() -> CanonicalField:
    """Fine enough for the regions of body parts."""
    return CanonicalField(chorus.load_body(), 24)


@pytest.fixture(scope="module")
def images() -> ImageBatch:
    return make_images(90)


@pytest.fixture
def store_path(tmp_path: Path, images: ImageBatch) -> Path:
    """90 complete images in shards of 25, of three prompts, with scores that run through all values, and four that are not."""
    path, n = tmp_path / "cup.chorus", len(images)
    ramp = (np.arange(n) + 1) / n
    scores = {
        "person_count": np.where(np.arange(n) == 3, 2, 1),
        "object_count": np.ones(n),
        "overlap": ramp,
        "object_confidence": ramp[::-1],
        "person_confidence": np.ones(n),
        **{f"keypoint_{side}_{joint}": (ramp * 7) % 1 for side in ("left", "right") for joint in ("shoulder", "hip")},
    }
    with StoreWriter(path, category="cup", shard_size=25, body_hash=chorus.load_body().hash) as writer:
        writer.append_rejected(
            ["a", "b", "c", "d"],
            ["no person", "no object", "no object", "no camera"],
            prompts="flying",
            scores={"person_count": [0, 1, 1, 1], "object_count": [1, 0, 0, 1], "overlap": [np.nan] * 3 + [1]},
        )
        views = ["front view" if i % 2 else "back view" for i in range(n)]
        writer.append(images, scores=scores, residual_px=np.arange(n) / 10, views=views)
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


GOOD_JSON = '{"format": "chorus-filter", "version": 1, "rules": {"overlap": 0.1}}'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "expected JSON"),
        (b"\xff\xfe{}", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b"[1, 2]", "expected a JSON object with format 'chorus-filter'"),
        (b'{"rules": {}}', "expected a JSON object with format 'chorus-filter'"),
        (GOOD_JSON.replace("1,", "2,").encode(), "expected version 1, got 2; a newer release may read it"),
        (GOOD_JSON.replace("1,", "true,").encode(), "expected version 1, got True"),
        (GOOD_JSON.replace("overlap", "overlook").encode(), "rule: expected one of .* got 'overlook'"),
        (GOOD_JSON.replace("0.1", "NaN").encode(), "overlap: expected a number from 0 to 1, got nan"),
        (GOOD_JSON.replace("0.1", "1e999").encode(), "overlap: expected a number from 0 to 1, got inf"),
        (GOOD_JSON.replace("0.1", "[0.1]").encode(), r"overlap: expected a number from 0 to 1, got \[0.1\]"),
        (GOOD_JSON.replace('{"overlap": 0.1}', "[]").encode(), r"rules: expected an object, rule to threshold, got \[\]"),
        (GOOD_JSON.replace("}}", '}, "soft": 1}').encode(), "soft: expected true or false, got 1"),
        (GOOD_JSON.replace("}}", '}, "required": ["torso"]}').encode(), "required: expected rules that are on, got torso"),
        (GOOD_JSON.replace("}}", '}, "required": [7]}').encode(), "required: expected names of rules"),
        (GOOD_JSON.replace("}}", '}, "torso_mode": "both"}').encode(), "torso_mode: expected one of any, all; got 'both'"),
        (GOOD_JSON.replace("}}", '}, "extra": 1}').encode(), "expected fields among format, .*; got 'extra'"),
        (b" " * (1 << 20) + GOOD_JSON.encode(), "expected a filter, got a file of more than"),
    ],
)
def test_damaged_filters(content: bytes, says: str, store_path: Path, tmp_path: Path, field: CanonicalField) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"f.json: {says}") as caught:
        read_filter(path)
    assert len(str(caught.value)) < 400
    (store_path / FILTER_JSON).write_bytes(content)
    with pytest.raises(StoreError, match=r"filter\.json: .*chorus filter set STORE --reset"):
        chorus.aggregate(store_path, field)
    result = run("aggregate", store_path, "-o", tmp_path / "o.h5")
    assert result.exit_code == 2
    assert "filter.json" in result.stderr
    assert chorus.aggregate(store_path, field, filter="none").num_images == 90
    assert run("filter", "set", store_path, "--reset").exit_code == 0
    assert read_store_filter(store_path) == Filter.paper()


def weighed(images: ImageBatch, weights: np.ndarray) -> ImageBatch:
    return ImageBatch(images.masks, images.cameras, images.poses, images.keys, weights, images.prompts)


def test_a_filter_is_a_selection_of_images(store_path: Path, images: ImageBatch, field: CanonicalField, tmp_path: Path) -> None:
    ramp = ((np.arange(90) + 1) / 90).astype(np.float32)
    keep = (ramp >= np.float32(0.2)) & (np.arange(90) / 10 <= 8) & (np.arange(90) != 3)
    chosen = Filter({"overlap": 0.2, "residual": 8.0, "one-person": 1})
    by_hand = chorus.aggregate(images[keep], field)
    found = chorus.aggregate(store_path, field, filter=chosen)
    assert 0 < keep.sum() < 90
    assert same(found, by_hand)
    assert found.provenance[0]["filter"]["images"] == 90
    assert found.provenance[0]["filter"]["kept"] == keep.sum()
    assert Filter.from_json({k: found.provenance[0]["filter"][k] for k in chosen.to_json()}) == chosen
    assert "filter" not in chorus.aggregate(store_path, field).provenance[0]
    # By the file, and as the store's own.
    (tmp_path / "mine.json").write_text(json.dumps(chosen.to_json()))
    assert same(chorus.aggregate(store_path, field, filter=str(tmp_path / "mine.json")), by_hand)
    assert same(chorus.aggregate(store_path, field), chorus.aggregate(images, field))
    write_store_filter(store_path, chosen)
    for size in (7, 4096):
        assert same(chorus.aggregate(store_path, field, batch_size=size), by_hand)
    assert same(chorus.aggregate(open_store(store_path), field, filter="none"), chorus.aggregate(images, field))
    # With prompts, predicates and folds.
    sitting = keep & (images.prompts == "sitting")
    assert same(chorus.aggregate(store_path, field, prompt="sitting"), chorus.aggregate(images[sitting], field))
    late = chorus.aggregate(store_path, field, where=lambda rows: rows["residual_px"] >= 5)
    assert same(late, chorus.aggregate(images[keep & (np.arange(90) >= 50)], field))
    assert late.provenance[0]["filter"]["images"] == 40
    paper = chorus.aggregate(store_path, field, filter="paper")
    torso = ((np.arange(90) + 1) / 90 * 7) % 1
    rows = (ramp >= 0.1) & (torso.astype(np.float32) >= np.float32(0.7)) & (np.arange(90) != 3)
    assert same(paper, chorus.aggregate(images[rows], field))


def test_a_soft_filter_is_weights(store_path: Path, images: ImageBatch, field: CanonicalField, fine: CanonicalField) -> None:
    chosen = Filter({"overlap": 0.4, "object-confidence": 0.5}, soft=True)
    ramp = ((np.arange(90) + 1) / 90).astype(np.float32).astype(float)
    ramp_overlap = np.minimum(ramp / np.float32(0.8).astype(float), 1)
    weights = np.maximum(np.floor(255 * ramp_overlap * ramp[::-1] + 0.5), 1).astype(np.uint8)
    assert len(set(weights.tolist())) > 30
    write_store_filter(store_path, chosen)
    for size in (7, 4096):
        found = chorus.aggregate(store_path, field, batch_size=size)
        assert same(found, chorus.aggregate(weighed(images, weights), field))
    assert found.group_totals.sum() == weights.astype(int).sum()
    assert found.num_images == 90
    slow = chorus.aggregate(store_path, field, backend="reference")
    by_hand = chorus.aggregate(weighed(images, weights), field, backend="reference")
    assert same(slow, by_hand)
    # Prompts and parts take the weights along.
    standing = images.prompts == "standing"
    found = chorus.aggregate(store_path, field, prompt="standing")
    assert same(found, chorus.aggregate(weighed(images, weights)[standing], field))
    part = chorus.aggregate(store_path, fine, part="torso", totals="after")
    assert same(part, chorus.aggregate(weighed(images, weights), fine, part="torso", totals="after"))
    assert 0 < part.num_images < 90
    # Only ratios count: the same weights for all are none.
    alike = chorus.aggregate(weighed(images, np.full(90, 128, np.uint8)), field)
    assert np.allclose(alike.probability, chorus.aggregate(images, field).probability, rtol=1e-6)
    # A weight of 0 leaves an image out altogether.
    cut = Filter({"residual": 2.0}, soft=True)
    assert chorus.aggregate(store_path, field, filter=cut).num_images == 40


def test_weights_of_a_store_and_a_soft_filter_do_not_mix(tmp_path: Path, images: ImageBatch, field: CanonicalField) -> None:
    path = tmp_path / "weighed.chorus"
    weights = np.where(np.arange(90) < 10, 3, 1).astype(np.uint8)
    with StoreWriter(path, category="cup") as writer:
        writer.append(weighed(images, weights), scores={"overlap": np.ones(90)})
    with pytest.raises(InputError, match="filter: expected images without weights for a soft filter"):
        chorus.aggregate(path, field, filter="soft")
    hard = chorus.aggregate(path, field, filter=Filter({"overlap": 0.5}))
    assert same(hard, chorus.aggregate(weighed(images, weights), field))


def test_everything_that_selects_goes_through_it(
    store_path: Path, images: ImageBatch, field: CanonicalField, fine: CanonicalField
) -> None:
    chosen = Filter({"overlap": 0.5})
    rows = np.flatnonzero(((np.arange(90) + 1) / 90).astype(np.float32) >= 0.5)
    write_store_filter(store_path, chosen)
    store = open_store(store_path)
    kept, weights, filtered = filter_rows(store, store.select())
    assert (store.rows["key"][kept] == images.keys[rows]).all()
    assert weights is None
    assert str(filtered) == "overlap >= 0.5, pose: 46 of 90 images"
    point = (0.1, 0.1, 0.4)
    found = explain(point, store_path, field)
    by_hand = explain(point, images[rows], field)
    for side in ("on_mask", "off_mask"):
        assert sorted(getattr(found, side)) == sorted(getattr(by_hand, side))
    assert found.unseen == by_hand.unseen
    assert found.filtered == filtered
    assert by_hand.filtered is None
    # "flying" has no complete image, and of the others a filter may leave none: clusters that are not there.
    made = {(c.prompt, c.part): c.occupancy for c in clusters(store, fine, min_images=1)}
    assert {prompt for prompt, _ in made} == {None, "sitting", "standing", "lying"}
    assert same(made[None, None], chorus.aggregate(images[rows], fine))
    few = {c.prompt for c in clusters(store, fine, min_images=1, filter=Filter({"residual": 0.01}))}
    assert few == {None, "sitting"}
    statistics = store_statistics(store_path)
    assert (statistics.images, statistics.kept) == (94, 46)
    assert statistics.rejected == {"overlap": 44, "no object": 2, "no person": 1, "no camera": 1}
    assert store_statistics(store_path, filter="none").kept == 90
    both = store_statistics(store_path, where=lambda rows: rows["residual_px"] < 6)
    assert (both.kept, both.rejected["filtered"]) == (16, 30)
    assert sum(both.rejected.values()) + both.kept == 94


def test_ablations_take_their_own_filter(store_path: Path, images: ImageBatch, field: CanonicalField) -> None:
    write_store_filter(store_path, Filter({"overlap": 0.9}))
    store = open_store(store_path)
    members = np.asarray(store.rows["residual_px"] < 4)
    counted = count_rows(store, {"all": members}, field, "azimuth")
    assert same(counted["all"], chorus.aggregate(images[np.arange(90) < 40], field))


def test_what_is_refused(store_path: Path, images: ImageBatch, field: CanonicalField) -> None:
    with pytest.raises(InputError, match=r"the filter keeps none \(overlap >= 1, pose, residual <= 0.01: 0 of 90 images\)"):
        chorus.aggregate(store_path, field, filter=Filter({"residual": 0.01, "overlap": 1}))
    assert chorus.aggregate(store_path, field, filter=Filter({"residual": 0.01, "overlap": 1}), allow_none=True).num_images == 0
    with pytest.raises(InputError, match="person-side: expected a store with 'score/person_side' for this rule"):
        chorus.aggregate(store_path, field, filter=Filter({"person-side": 10}))
    for spec in ("paper", Filter.none()):
        with pytest.raises(InputError, match="filter: images in memory have no scores"):
            chorus.aggregate(images, field, filter=spec)
    assert chorus.aggregate(images, field, filter="none").num_images == 90
    with pytest.raises(InputError, match=r"filter: expected store, none, paper, soft or the path of .*, got 'papr'"):
        chorus.aggregate(store_path, field, filter="papr")
    with pytest.raises(InputError, match=r"filter: expected a Filter, .* got a int"):
        find_filter(3, None)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="expected a store"):
        write_store_filter(store_path / "nowhere", Filter.paper())
    (store_path / FILTER_JSON).symlink_to("/dev/null")
    with pytest.raises(StoreError, match="expected a regular file, got a link or a folder"):
        read_store_filter(store_path)


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_filtering_writes_one_file_and_replaces_it_whole(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(store_path)
    assert read_store_filter(store_path) is None
    assert write_store_filter(store_path, Filter.paper()) == store_path / FILTER_JSON
    first = contents(store_path)
    assert {name: first[name] for name in first if name != FILTER_JSON} == before
    (store_path / f"{FILTER_JSON}.part").write_text("left by one that died")
    write_store_filter(store_path, Filter.none())
    assert set(contents(store_path)) == {*before, FILTER_JSON}
    assert read_store_filter(store_path) == Filter.none()

    def fail(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr("chorus.files.os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_store_filter(store_path, Filter.paper())
    assert set(contents(store_path)) == {*before, FILTER_JSON}
    assert read_store_filter(store_path) == Filter.none()
    assert verify_store(store_path) == []


# --- commands --------------------------------------------------------------------------------------------------------------


def test_the_command(store_path: Path) -> None:
    store_json = (store_path / "store.json").read_bytes()
    result = run("filter", "set", store_path, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "nothing is written" in result.stdout
    assert not (store_path / FILTER_JSON).exists()

    result = run("filter", "set", store_path, "--rule", "overlap=0.5", "--off", "torso", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["images"], facts["complete"], facts["kept"]) == (94, 90, 46)
    assert facts["by_status"] == {"no object": 2, "no person": 1, "no camera": 1}
    rules = {rule["name"]: rule for rule in facts["rules"]}
    assert list(rules) == ["one-person", "one-object", "overlap", "pose"]
    assert (rules["overlap"]["threshold"], rules["overlap"]["fails"], rules["overlap"]["first"]) == (0.5, 47, 43)
    assert rules["one-person"]["first"] == 1
    assert sum(facts["by_status"].values()) + sum(r["first"] for r in facts["rules"]) + facts["kept"] == facts["images"]
    assert facts["wrote"] == [str(store_path / FILTER_JSON)]
    assert read_store_filter(store_path) == Filter.paper().changed({"overlap": 0.5, "torso": None})

    # It goes on from there; --reset begins anew; --from takes another.
    result = run("filter", "set", store_path, "--rule", "residual=3", "--torso-mode", "all")
    assert result.exit_code == 0, result.output
    for words in ("overlap >= 0.5", "residual <= 3", "kept", "wrote "):
        assert words in result.stdout
    saved = read_store_filter(store_path)
    assert saved is not None
    assert (saved.thresholds["overlap"], saved.thresholds["residual"], saved.torso_mode) == (0.5, 3, "all")
    assert run("filter", "set", store_path, "--reset", "--soft").exit_code == 0
    assert read_store_filter(store_path) == Filter.paper(soft=True)
    assert "images kept count as" in run("filter", "set", store_path, "--dry-run").stdout
    assert run("filter", "set", store_path, "--hard").exit_code == 0
    assert read_store_filter(store_path) == Filter.paper()
    assert run("filter", "set", store_path, "--from", "none").exit_code == 0
    assert read_store_filter(store_path) == Filter.none()
    assert (store_path / "store.json").read_bytes() == store_json


def test_showing_writes_nothing(store_path: Path) -> None:
    before = contents(store_path)
    shown = run("filter", "show", store_path)
    assert shown.exit_code == 0, shown.output
    assert "no filter: every complete image counts" in shown.stdout
    assert json.loads(run("filter", "show", store_path, "--json").stdout)["kept"] == 90
    assert json.loads(run("filter", "show", store_path, "--json").stdout)["has_filter"] is False
    other = json.loads(run("filter", "show", store_path, "--filter", "paper", "--json").stdout)
    assert other["filter"]["rules"] == Filter.paper().to_json()["rules"]
    assert contents(store_path) == before

    assert run("filter", "set", store_path, "--from", "none", "--rule", "overlap=0.5").exit_code == 0
    facts = json.loads(run("filter", "show", store_path, "--json").stdout)
    assert (facts["has_filter"], facts["kept"]) == (True, 46)
    assert "overlap >= 0.5" in run("filter", "show", store_path).stdout
    assert "no filter" not in run("filter", "show", store_path).stdout


def test_the_old_form_names_the_two_commands(store_path: Path) -> None:
    for arguments in ([store_path], [store_path, "--soft"], [store_path, "--dry-run"]):
        result = run("filter", *arguments)
        assert result.exit_code == 2
        assert "expected `chorus filter show STORE` or `chorus filter set STORE ...`" in result.stderr
        assert not (store_path / FILTER_JSON).exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rule", "overlap"], "--rule: expected RULE=NUMBER"),
        (["--rule", "overlap=much"], "--rule overlap: expected a number, got 'much'"),
        (["--rule", "overlap=2"], "overlap: expected a number from 0 to 1, got 2.0"),
        (["--rule", "size=2"], "rule: expected one of one-person"),
        (["--off", "size"], "rule: expected one of one-person"),
        (["--off", "pose"], "pose: this rule is always on"),
        (["--rule", "person-side=20"], "person-side: expected a store with 'score/person_side'"),
        (["--rule", "torso=1", "--off", "torso"], "torso is set and switched off"),
        (["--from", "nothing.json"], "filter: expected store, none, paper, soft or the path"),
        (["--from", "none", "--reset"], "give no --from with it"),
    ],
)
def test_bad_arguments_leave_the_store_alone(arguments: list[str], says: str, store_path: Path) -> None:
    result = run("filter", "set", store_path, *arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (store_path / FILTER_JSON).exists()


def test_the_other_commands_say_what_the_filter_did(store_path: Path, tmp_path: Path) -> None:
    assert run("filter", "set", store_path, "--from", "none", "--rule", "overlap=0.5").exit_code == 0
    common = ["--resolution", "8"]
    result = run("aggregate", store_path, "-o", tmp_path / "o.h5", *common)
    assert result.exit_code == 0, result.output
    assert "overlap >= 0.5, pose: 46 of 90 images" in result.stdout
    assert chorus.load_occupancy(tmp_path / "o.h5").provenance[0]["filter"]["kept"] == 46
    result = run("aggregate", store_path, "-o", tmp_path / "o.h5", "--force", "--filter", "none", "--json", *common)
    facts = json.loads(result.stdout)
    assert facts["images"] == 90
    assert "filter" not in facts
    result = run("aggregate", store_path, "-o", tmp_path / "all", "--all", "--min-images", "10", "--resolution", "24")
    assert result.exit_code == 0, result.output
    assert "filter: overlap >= 0.5, pose: 46 of 90 images" in result.stdout
    result = run("explain", store_path, "--filter", "soft", *common, "--", "0.1", "0.1", "0.4")
    assert result.exit_code == 0, result.output
    assert "weighed by one-person" in result.stdout
    result = run("store", "stats", store_path)
    assert result.exit_code == 0, result.output
    assert "46 of 90 images" in result.stdout
    result = run("store", "stats", store_path, "--filter", "none", "--by-view", "--json", "--picture", tmp_path / "v.png")
    assert result.exit_code == 0, result.output
    (facts,) = json.loads(result.stdout)["stores"]
    assert [(v["view"], v["images"], v["kept"]) for v in facts["views"]] == [
        ("back view", 45, 45),
        ("front view", 45, 45),
        ("", 4, 0),
    ]
    assert (tmp_path / "v.png").stat().st_size > 5_000
    result = run("store", "stats", store_path, "--by-view")
    assert "(none)" in result.stdout
