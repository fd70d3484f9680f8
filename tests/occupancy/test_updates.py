"""Occupancies of stores that have grown: an update equals an aggregation of all, or is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from chorus.body.model import Body
from chorus.cli import main
from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import load_occupancy
from chorus.occupancy.jobs import Job
from chorus.occupancy.merging import merge, missing_shares
from chorus.ranks import Share
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import Store, StoreWriter
from chorus.store.filters import Filter, write_store_filter
from chorus.store.growing.compacting import compact_store
from chorus.store.shard import Shard
from chorus.votes.portion import Portion
from tests.occupancy.job_samples import PARTS, equal
from tests.occupancy.job_samples import body as body
from tests.occupancy.job_samples import field as field
from tests.occupancy.job_samples import store as store
from tests.occupancy.test_aggregation import N, make_images
from tests.occupancy.test_counts import same
from tests.occupancy.test_hidden import command


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("hidden_weight", [None, "auto"])
def test_an_update_equals_a_full_run(
    body: Body, field: CanonicalField, tmp_path: Path, part: str | None, hidden_weight: str | None
) -> None:
    path = tmp_path / "cup.chorus"
    how = {"part": part, "epsilon": 0.3, "filter": "store", "hidden_weight": hidden_weight, "canonicalization": "lbs"}

    def append(images: ImageBatch) -> None:
        with StoreWriter(path, category="cup", body_hash=body.hash) as writer:
            writer.append(images)

    append(make_images(90, seed=3))
    first = Job(path, field, how).run()
    assert first is not None
    nothing_new = Job(path, field, how, update=first).run()
    assert nothing_new is not None
    assert equal(nothing_new, first)
    assert len(nothing_new.provenance) == 1
    for seed in (4, 5):
        append(make_images(20, seed=seed))
        totals: list[int | None] = []
        updated = Job(path, field, how, update=first).run(progress=lambda _, total, seen=totals: seen.append(total))
        full = Job(path, field, how).run()
        assert updated is not None
        assert full is not None
        assert totals == [20]
        assert equal(updated, full)
        assert updated.hidden_weight == full.hidden_weight
        first = updated
    assert len(first.provenance) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "sitting"}, "occupancy's prompt"),
        ({"part": "rightHand"}, "occupancy's part"),
        ({"filter": Filter.paper()}, "occupancy's filter"),
        ({"folds": [1]}, "occupancy's folds"),
        ({"canonicalization": "none"}, "occupancy's canonicalization"),
        ({"weighting": "none"}, "occupancy's weighting, azimuth, got none"),
        ({"weighting": "azimuth-elevation"}, "occupancy's weighting"),
        ({"scheme": "azimuth+folds"}, "occupancy's scheme, azimuth, got azimuth.folds"),
        ({"hidden_weight": 0.5}, "no counts of hidden votes"),
    ],
)
def test_updates_of_another_selection_are_refused(
    store: Store, field: CanonicalField, change: dict[str, Any], words: str
) -> None:
    first = aggregate(store, field, portion=Portion(Share(1, 2)))
    seen: list[int] = []
    with pytest.raises(MismatchError, match=words):
        Job(store.path, field, change, update=first).run(progress=lambda done, _: seen.append(done))
    assert seen == []  # before anything is counted


def test_updates_by_other_parts_of_the_same_name_are_refused(store: Store, field: CanonicalField, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.json" for name in ("hand", "foot", "known")}
    for name, parts in (("hand", {"mine": ["right_hand"]}), ("foot", {"mine": ["left_foot"]}), ("known", {"face": ["head"]})):
        files[name].write_text(json.dumps(parts))
    how: dict[str, Any] = {"part": "mine", "parts": files["hand"], "epsilon": 0.3}
    first = aggregate(store, field, **how, portion=Portion(Share(1, 2)))
    for parts, words in (
        (files["foot"], "others of the same names"),
        (files["known"], r"parts mine, as .*, got the parts face"),
        (None, r"parts mine, as .*, got the body's own parts"),
    ):
        with pytest.raises(MismatchError, match=words):
            Job(store.path, field, {**how, "parts": parts}, update=first).run()
    updated = Job(store.path, field, how, update=first).run()
    assert updated is not None
    assert equal(updated, aggregate(store, field, **how))
    own = aggregate(store, field, part="face", parts=files["known"], epsilon=0.3, portion=Portion(Share(1, 2)))
    with pytest.raises(MismatchError, match=r"parts face, as .*, got the body's own parts"):
        Job(store.path, field, {"part": "face", "epsilon": 0.3}, update=own).run()


def test_an_update_counts_the_shares_that_were_missing(store: Store, field: CanonicalField) -> None:
    some = merge([aggregate(store, field, portion=Portion(Share(i, 4))) for i in (1, 3)])
    assert [str(share) for share in missing_shares(some)] == ["2/4", "4/4"]
    updated = Job(store.path, field, {}, update=some).run()
    assert updated is not None
    assert equal(updated, aggregate(store, field))
    assert missing_shares(updated) == []


def grown(path: Path, body: Body, *commits: dict[str, Any]) -> None:
    """Append images of a seed to a store, commit by commit, with scores and prompts as given."""
    for given in commits:
        images = make_images(30, seed=given["seed"])
        images = dataclasses.replace(images, prompts=np.full(30, given.get("prompt", "sitting")))
        with StoreWriter(path, category="cup", body_hash=body.hash) as writer:
            writer.append(images, scores=given.get("scores"))


SCORES = {"overlap": np.linspace(0, 1, 30, dtype=np.float32)}


@pytest.mark.parametrize(
    ("new", "how", "opened"),
    [
        ({}, {}, 1),
        ({}, {"prompt": "sit*"}, 1),
        ({"prompt": "riding"}, {"prompt": "sit*"}, 4),
        ({"prompt": "riding"}, {"prompt": ["sitting"]}, 4),
        ({"scores": SCORES}, {"filter": Filter({"overlap": 0.5})}, 1),
        ({"scores": None}, {"filter": Filter({"overlap": 0.5})}, 4),
        ({"scores": SCORES}, {"filter": Filter({"overlap": 0.5, "torso": 0.5}, required=())}, 1),
        ({}, {"part": "rightHand", "epsilon": 0.3}, 3),
    ],
)
def test_an_update_opens_the_shards_that_it_needs(
    body: Body,
    field: CanonicalField,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new: dict[str, Any],
    how: dict[str, Any],
    opened: int,
) -> None:
    """Shards that are counted are left out, unless without them prompts or filter would be judged in another way."""
    path, files = tmp_path / "cup.chorus", list[Path]()
    grown(path, body, {"seed": 1, "scores": SCORES}, {"seed": 2, "scores": SCORES})
    first = Job(path, field, how).run()
    grown(path, body, {"seed": 3, **new})
    read = Shard.read
    monkeypatch.setattr(Shard, "read", lambda file: files.append(file) or read(file))
    updated = Job(path, field, how, update=first).run()
    assert len(files) == opened
    full = Job(path, field, how).run()
    assert updated is not None
    assert full is not None
    assert equal(updated, full)


def test_an_update_of_a_selection_by_a_function_is_refused(store: Store, field: CanonicalField) -> None:
    some = aggregate(store, field, where=lambda rows: rows["size"][:, 0] > 0)
    with pytest.raises(InputError, match="got one of a function"):
        Job(store.path, field, {}, update=some).run()


def test_an_update_after_a_compaction_is_refused_at_once(store: Store, field: CanonicalField, tmp_path: Path) -> None:
    path = tmp_path / "cup.chorus"
    shutil.copytree(store.path, path)
    first = Job(path, field, {}).run()
    compact_store(path)
    seen: list[int] = []
    with pytest.raises(MismatchError, match=r"got \d+ that it has counted in others .the store was compacted"):
        Job(path, field, {}, update=first).run(progress=lambda done, _: seen.append(done))
    assert seen == []


def test_options_with_update_are_compared_with_the_occupancy(store: Store, tmp_path: Path) -> None:
    """Also those that equal the defaults; what is not given is the occupancy's own."""
    out, new = tmp_path / "hand.h5", tmp_path / "new.h5"
    share = ("--share", "1/2", "--resolution", str(N), "--canonicalization", "joint:right_hand")
    command("aggregate", store.path, "-o", out, *share)

    def update(*options: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["aggregate", str(store.path), "--update", str(out), "-o", str(new), *options])
        return result.exit_code, result.output

    size = ("--resolution", str(N))
    for options, words in (
        (("--canonicalization", "lbs"), "canonicalization joint:right_hand, got lbs"),
        (("--canonicalization", "lbs", *size), "canonicalization joint:right_hand, got lbs"),
        (("--no-canonicalize", *size), "canonicalization joint:right_hand, got none"),
        (("--resolution", "48"), f"resolution, {N}, got 48"),
    ):
        code, printed = update(*options)
        assert (code, new.exists()) == (2, False), options
        assert words in " ".join(printed.split()), options
    assert update("--canonicalization", "joint:right_hand")[0] == 0
    assert load_occupancy(new).num_images == 300
    odd = out.rename(tmp_path / "hand.hdf")
    result = CliRunner().invoke(main, ["aggregate", str(store.path), "--update", str(odd)])
    assert result.exit_code == 2
    assert "--update: expected a name ending in .h5" in " ".join(result.output.split())


def test_an_update_after_the_stores_filter_has_changed_is_refused(body: Body, field: CanonicalField, tmp_path: Path) -> None:
    path = tmp_path / "cup.chorus"
    with StoreWriter(path, category="cup", body_hash=body.hash) as writer:
        writer.append(make_images(30), scores={"overlap": np.linspace(0, 1, 30)})
    first = Job(path, field, {}).run()
    write_store_filter(path, Filter({"overlap": 0.5}))
    with pytest.raises(MismatchError, match="occupancy's filter, none; got"):
        Job(path, field, {}, update=first).run()
    again = Job(path, field, {}).run()
    assert again is not None
    assert Job(path, field, {}, update=again).run().num_images == again.num_images == 15  # type: ignore[union-attr]


def test_an_update_of_an_old_file_is_refused(store: Store, field: CanonicalField) -> None:
    old = dataclasses.replace(aggregate(store, field), counted=None)
    with pytest.raises(InputError, match="says which images it has counted"):
        Job(store.path, field, {}, update=old).run()


def test_an_update_keeps_the_canonicalization_that_was_chosen(body: Body, tmp_path: Path) -> None:
    path, field = tmp_path / "ball.chorus", CanonicalField(body, 16)
    write_world(path, [WORLDS["ball-held"]], num_images=60, body=body)
    first = Job(path, field, {"canonicalization": "auto"}).run()
    assert first is not None
    write_world(path, [WORLDS["ball-held"]], num_images=80, body=body)
    updated = Job(path, field, {"canonicalization": "auto"}, update=first).run()
    assert updated is not None
    assert updated.num_images > first.num_images
    assert updated.parameters == first.parameters
    assert updated.provenance[-1]["canonicalization"] == first.provenance[0]["canonicalization"]
    assert same(
        updated,
        aggregate(path, field.with_canonicalization(first.parameters.canonicalization)),
        but=("provenance",),
    )
