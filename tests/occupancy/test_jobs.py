"""Aggregation as a job: shares, processes, ledgers and updates give the counts of one run, bit by bit."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from chorus.body.model import Body, load_body
from chorus.cli import main
from chorus.errors import InputError, MismatchError, StoreError
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.occupancy import jobs
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy, load_occupancy
from chorus.occupancy.jobs import Job
from chorus.occupancy.ledger import MANIFEST, Ledger, ledger_of
from chorus.occupancy.merging import merge, missing_shares, narrowed
from chorus.ranks import Share, ranks, share_by_size
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import Store, StoreWriter, background, open_store, verify_store
from chorus.store.filters import Filter, write_store_filter
from chorus.store.growing.compacting import compact_store
from chorus.votes.contacts import store_contacts
from chorus.votes.counted import Counted
from chorus.votes.parts import interaction_regions
from chorus.votes.portion import Portion
from tests.occupancy.test_aggregation import N, make_images
from tests.occupancy.test_counts import same
from tests.occupancy.test_hidden import command

PARTS = (None, "rightHand")
COUNTED = ("num_counts", "den_counts", "group_totals", "group_images", "sketch", "counted", "hidden_weight")


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def field(body: Body) -> CanonicalField:
    return CanonicalField(body, N, cache=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, body: Body) -> Store:
    """300 images in shards of 37, and one of them much larger than the rest."""
    path = tmp_path_factory.mktemp("store") / "cup.chorus"
    with StoreWriter(path, category="cup", shard_size=37, body_hash=body.hash) as writer:
        writer.append(make_images(180, seed=1, weights=True))
    with StoreWriter(path, category="cup", shard_size=200, body_hash=body.hash) as writer:
        writer.append(make_images(120, seed=2, weights=True))
    return open_store(path)


def equal(one: Occupancy, other: Occupancy) -> bool:
    """Everything that was counted, its types, and where it came from, but for command lines."""
    return all(
        getattr(one, name).dtype == getattr(other, name).dtype if name.endswith("counts") else True for name in COUNTED
    ) and same(one, other, but=("provenance",))


# --- shares ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("part", PARTS)
def test_shares_add_up_to_the_whole(store: Store, field: CanonicalField, of: int, part: str | None) -> None:
    whole = aggregate(store, field, part=part, epsilon=0.3)
    shares = [
        aggregate(store, field, part=part, epsilon=0.3, portion=Portion(Share(i, of)), allow_none=True)
        for i in range(1, of + 1)
    ]
    merged = merge(reversed(shares))
    assert equal(merged, whole)
    assert merged.provenance[0]["images"] == whole.num_images
    assert ("shares" in merged.provenance[0], len(merged.provenance)) == (False, 1)
    if of == 7:
        partial = merge(shares[1:4])
        assert [str(share) for share in missing_shares(partial)] == ["1/7", "5/7", "6/7", "7/7"]
        assert missing_shares(merge([partial, shares[0], *shares[4:]])) == []
        with pytest.raises(MismatchError, match="share images"):
            merge([partial, shares[2]])


def test_shares_are_of_about_as_many_bytes(store: Store) -> None:
    rows = store.select()
    bytes_of = np.concatenate([np.full(len(s), s.nbytes / len(s)) for s in store.shards])
    for of in (2, 3, 7):
        portions = [Portion(Share(i, of)).of_rows(store, rows) for i in range(1, of + 1)]
        assert (np.sum(portions, 0) == 1).all()
        sizes = [bytes_of[rows[p]].sum() for p in portions]
        assert max(sizes) < 1.1 * bytes_of.sum() / of
        for portion in portions:  # neighbours: each shard is read by as few processes as can be
            assert (np.diff(np.flatnonzero(portion)) == 1).all()


@pytest.mark.parametrize("sizes", [[5, 3, 0], [0, 0, 0], [0, 7, 7, 1], [1] * 9, [], [10**18, 3, 10**18]])
def test_every_item_is_in_one_share(sizes: list[int]) -> None:
    for of in (1, 2, 3, 7, 1009):
        assert [at for i in range(1, of + 1) for at in share_by_size(sizes, Share(i, of))] == list(range(len(sizes)))


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_words_that_are_no_share(text: str) -> None:
    with pytest.raises(InputError, match=r"expected i/n"):
        Share.parse(text)


def test_hidden_votes_that_are_weighed_by_choice(body: Body, field: CanonicalField, tmp_path: Path) -> None:
    """Each share chooses by its own images; what counts is the choice from all of them."""
    path = tmp_path / "ball.chorus"
    write_world(path, [WORLDS["backpack"]], num_images=60, body=body)
    whole = aggregate(path, field, hidden_weight="auto")
    shares = [aggregate(path, field, hidden_weight="auto", portion=Portion(Share(i, 3))) for i in (1, 2, 3)]
    shares[1] = dataclasses.replace(shares[1], hidden_weight=0.1)  # whatever it chose
    merged = merge(shares)
    assert equal(merged, whole)
    assert merged.provenance[0]["hidden_choice"] == whole.provenance[0]["hidden_choice"]
    with pytest.raises(MismatchError, match="hidden"):
        merge([shares[0], aggregate(path, field, hidden_weight=1.0, portion=Portion(Share(2, 3)))])


def test_counts_are_as_narrow_as_they_fit(store: Store, field: CanonicalField) -> None:
    counted = aggregate(store, field)
    wide = dataclasses.replace(counted, num_counts=counted.num_counts.astype(np.int64))
    assert narrowed(wide).num_counts.dtype == np.int32
    wide.num_counts[3, 0, 0, 0] = 2**31
    assert narrowed(wide).num_counts.dtype == np.int64
    with pytest.raises(InputError, match="at least one"):
        merge([])


def test_contacts_and_verification_in_shares(store: Store, tmp_path: Path, field: CanonicalField) -> None:
    path = tmp_path / "cup.chorus"
    shutil.copytree(store.path, path)
    names = [path / "shards" / shard.path.name for shard in store.shards]
    found = [command("contacts", path, "--share", f"{i}/3", "--resolution", N, "--epsilon", 0.3) for i in (1, 2, 3)]
    assert sum(facts["images"] for facts in found) == 300
    regions = interaction_regions(field, epsilon=0.3)
    computed: list[int] = []
    bits = store_contacts(open_store(path), field, regions, progress=lambda done, _: computed.append(done))
    assert computed == []  # all there
    assert sum(facts["touched"]["rightHand"] for facts in found) == regions.has(bits, "rightHand").sum() > 0
    damaged = names[2]
    content = bytearray(damaged.read_bytes())
    content[-100] ^= 1
    damaged.write_bytes(content)
    by_share = [verify_store(path, Share(i, 3)) for i in (1, 2, 3)]
    assert [bool(problems) for problems in by_share].count(True) == 1
    assert [p for problems in by_share for p in problems] == verify_store(path)
    names[-1].write_bytes(b"")  # a file of no bytes is in a share, too
    assert "got an empty one" in str(verify_store(path, Share(3, 3)))
    result = CliRunner().invoke(main, ["store", "verify", str(path)])
    assert (result.exit_code, "got an empty one" in result.output) == (2, True)
    result = CliRunner().invoke(main, ["store", "verify", str(path), "--share", "9/3"])
    assert (result.exit_code, "expected i/n with i from 1 to n, got 9/3" in result.stderr) == (2, True)


# --- what was counted --------------------------------------------------------------------------------------------------------


def test_which_images_were_counted(store: Store, field: CanonicalField, tmp_path: Path) -> None:
    half = aggregate(store, field, part="rightHand", epsilon=0.3, portion=Portion(Share(1, 2)))
    half.save(tmp_path / "half.h5")
    counted = load_occupancy(tmp_path / "half.h5").counted
    assert counted is not None
    assert counted == half.counted
    read = Portion(Share(1, 2)).of_rows(store, store.select())
    assert (counted.rows_left(store, store.select()) == ~read).all()
    assert counted.num_images == half.num_images < read.sum()
    other = aggregate(store, field, part="not rightHand", epsilon=0.3, portion=Portion(Share(1, 2)))
    assert other.counted is not None
    assert counted.shared_with(other.counted) == 0  # of the same rows, others voted
    assert (half + other).num_images == read.sum()


def test_beyond_so_many_images_shards_tell(
    store: Store, field: CanonicalField, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chorus.votes.counted.HASHES_KEPT", 50)
    one, two = (aggregate(store, field, portion=Portion(Share(i, 2))) for i in (1, 2))
    assert one.counted is not None
    assert one.counted.hashes is None
    assert (one + two).num_images == 300
    some = aggregate(store, field, folds=[3])
    with pytest.raises(MismatchError, match=r"share images.* at least \d+ are in both"):
        one + some
    one.save(tmp_path / "one.h5")
    assert load_occupancy(tmp_path / "one.h5").counted == one.counted


@pytest.mark.parametrize("damage", ["digests", "images", "read", "voted", "hashes", "num_images"])
def test_damaged_sets_are_refused(store: Store, field: CanonicalField, damage: str) -> None:
    counted = aggregate(store, field).counted
    assert counted is not None
    arrays = counted.to_arrays()
    broken = arrays | {damage: np.repeat(np.atleast_1d(arrays[damage]), 2, axis=0)}
    with pytest.raises(InputError, match="counted: expected"):
        Counted.from_arrays(broken)


# --- ledgers ---------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a run at a place of the test's choosing, as a signal would."""


def killed_after(batches: int) -> Any:
    seen = [0]

    def progress(done: int, total: int | None) -> None:
        seen[0] += 1
        if seen[0] > batches:
            raise Killed

    return progress


@pytest.mark.parametrize("part", PARTS)
def test_a_job_goes_on_from_what_was_counted(
    store: Store, field: CanonicalField, tmp_path: Path, part: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chorus.occupancy.ledger.SHARE_OF_TIME", 1e9)  # an entry after each batch
    how = {"part": part, "epsilon": 0.3, "batch_size": 20, "hidden_weight": 0.1}
    whole = aggregate(store, field, **how)
    folder = tmp_path / "ledger"
    job = Job(store.path, field, how, ledger=folder, seconds=0)
    for attempt in range(3):
        with pytest.raises(Killed):
            job.run(progress=killed_after(2 + attempt))
        assert len(list(folder.glob("*.h5"))) <= 2  # what was counted before, and this attempt's
    reads = []
    saved: list[Occupancy] = []
    found = job.run(saved.append, progress=lambda done, total: reads.append(total))
    assert found is not None
    assert 0 < reads[0] < 300 - 3 * 37  # the rest alone
    assert equal(found, whole)
    assert saved == [found]
    assert found.provenance[0] == {**whole.provenance[0], "command": found.provenance[0]["command"]}
    assert not folder.exists()


def test_a_ledger_of_another_job_is_refused(store: Store, field: CanonicalField, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    with pytest.raises(Killed):
        Job(store.path, field, {"batch_size": 20}, ledger=folder, seconds=0).run(progress=killed_after(3))
    kept = sorted(folder.iterdir())
    for how in ({"prompt": "sitting"}, {"weighting": "none"}, {"hidden_weight": 0.1}, {"filter": "paper"}):
        with pytest.raises(InputError, match=f"another .*{'hidden' if 'hidden_weight' in how else next(iter(how))}"):
            Job(store.path, field, how, ledger=folder).run()
    with pytest.raises(InputError, match="another share"):
        Job(store.path, field, {}, Share(1, 2), ledger=folder).run()
    assert sorted(folder.iterdir()) == kept
    entry = next(folder.glob("*.h5"))
    entry.write_bytes(entry.read_bytes()[:500])
    with pytest.raises(InputError, match=r"truncated.*; remove"):
        Job(store.path, field, {"batch_size": 20}, ledger=folder).run()
    (folder / MANIFEST).write_text("{")
    with pytest.raises(InputError, match="expected what an aggregation kept"):
        Job(store.path, field, {}, ledger=folder).run()
    forced = Job(store.path, field, {}, ledger=folder, replace=True).run()
    assert forced is not None
    assert equal(forced, aggregate(store, field))
    assert not folder.exists()


def test_force_removes_the_ledger_of_another_job(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "cup.h5"
    ledger_of(out).mkdir()
    (ledger_of(out) / MANIFEST).write_text('{"format": "chorus-ledger", "version": 1, "job": {"prompt": "x"}, "files": []}')
    options = ("-o", out, "--resolution", N)
    result = CliRunner().invoke(main, ["aggregate", str(store.path), *map(str, options)])
    assert (result.exit_code, "(--force)" in result.output) == (2, True)
    assert command("aggregate", store.path, *options, "--force")["images"] == 300
    assert not ledger_of(out).exists()


def test_an_attempt_that_is_still_alive_does_not_change_what_was_found(
    store: Store, field: CanonicalField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was thought dead goes on writing its file, which has all that it has counted since."""
    monkeypatch.setattr("chorus.occupancy.ledger.SHARE_OF_TIME", 1e9)
    folder = tmp_path / "ledger"
    job = Job(store.path, field, {"batch_size": 20}, ledger=folder, seconds=0)
    with pytest.raises(Killed):
        job.run(progress=killed_after(2))
    file = next(folder.glob("*-0.h5"))
    with pytest.raises(Killed):
        job.run(progress=killed_after(3))
    aggregate(store, field).save(file)
    found = job.run()
    assert found is not None
    assert equal(found, aggregate(store, field))


@pytest.mark.parametrize("repaired", [True, False])
def test_counts_of_damaged_shards_are_never_kept(
    store: Store, field: CanonicalField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repaired: bool
) -> None:
    """Where checking is slower than counting, too: a ledger that had them would let them in when the job goes on."""
    path, folder = tmp_path / "cup.chorus", tmp_path / "ledger"
    shutil.copytree(store.path, path)
    shard = sorted((path / "shards").iterdir())[1]
    intact = shard.read_bytes()
    with h5py.File(shard) as file:
        low_bits = file["pose/axis_angle"].id.get_offset() + (5 * 24 * 3 + 4) * 4 + 2
    content = bytearray(intact)
    content[low_bits] ^= 0x10  # another pose, with nothing strange about it
    shard.write_bytes(content)
    monkeypatch.setattr("chorus.occupancy.ledger.SHARE_OF_TIME", 1e9)
    checked = background._content

    def slow(shard: Any) -> Any:
        time.sleep(0.5)
        return checked(shard)

    with monkeypatch.context() as patched:
        patched.setattr(background, "_content", slow)
        with pytest.raises((Killed, StoreError)):
            Job(path, field, {"batch_size": 20}, ledger=folder, seconds=0).run(progress=killed_after(6))
    if not repaired:
        with pytest.raises(StoreError, match="pose/axis_angle: damaged"):
            Job(path, field, {}, ledger=folder).run()
        return
    shard.write_bytes(intact)
    found = Job(path, field, {}, ledger=folder).run()
    assert found is not None
    assert equal(found, aggregate(store, field))


def test_killed_while_the_ledger_is_put_together(store: Store, field: CanonicalField, tmp_path: Path) -> None:
    """At any moment files that count and files that do not may be side by side; none is counted twice."""
    folder = tmp_path / "ledger"
    job = Job(store.path, field, {"batch_size": 20}, ledger=folder, seconds=0)
    for _ in range(2):
        with pytest.raises(Killed):
            job.run(progress=killed_after(2))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    counted = Ledger(folder, json.loads((folder / MANIFEST).read_text())["job"]).begin()
    assert counted is not None
    for name, content in files.items():
        if name != MANIFEST:
            (folder / name).write_bytes(content)  # killed before the old ones were removed
    found = job.run()
    assert found is not None
    assert equal(found, aggregate(store, field))


def test_a_full_disk_costs_the_ledger_not_the_job(
    store: Store, field: CanonicalField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    kept = Job(store.path, field, {"batch_size": 50}, ledger=tmp_path / "kept", seconds=0)
    with pytest.raises(Killed):
        kept.run(progress=killed_after(2))
    monkeypatch.setattr("chorus.occupancy.ledger.write_json", full)
    found = Job(store.path, field, {"batch_size": 50}, ledger=tmp_path / "ledger", seconds=0).run()
    assert found is not None
    assert found.num_images == 300
    reads: list[int | None] = []
    again = kept.run(progress=lambda _, total: reads.append(total))
    assert again is not None
    assert equal(again, found)
    assert (reads[0] or 300) < 300  # what was kept before counts, though no more can be kept


# --- updates ---------------------------------------------------------------------------------------------------------------


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


# --- processes -------------------------------------------------------------------------------------------------------------


def torchrun(processes: int, *arguments: str | Path, **how: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", *how.pop("launcher", ())]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CHORUS_THREADS": "1", **how.pop("env", {})}
    return subprocess.Popen(
        [*command, "-m", "chorus", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        **how,
    )


def test_the_commands(store: Store, tmp_path: Path) -> None:
    """One process, three of torchrun, four shares, and an update of one of these: the same counts."""
    out = {name: tmp_path / f"{name}.h5" for name in ("whole", "ranks", "merged", "updated", "1", "2", "3", "4")}
    running = torchrun(3, "aggregate", store.path, "-o", out["ranks"], "--resolution", str(N), "--json")
    command("aggregate", store.path, "-o", out["whole"], "--resolution", N)
    whole = load_occupancy(out["whole"])
    shares = [command("aggregate", store.path, "-o", out[str(i)], "--share", f"{i}/4", "--resolution", N) for i in (1, 2, 3, 4)]
    assert sum(facts["images"] for facts in shares) == 300
    assert [facts["share"] for facts in shares] == ["1/4", "2/4", "3/4", "4/4"]
    assert command("merge", out["2"], out["4"], "-o", out["merged"])["missing_shares"] == ["1/4", "3/4"]
    facts = command("merge", *(out[str(i)] for i in (1, 2, 3, 4)), "-o", out["merged"], "--force")
    assert (facts["images"], facts["missing_shares"]) == (300, [])
    updated = command("aggregate", store.path, "--update", out["1"], "-o", out["updated"])
    assert (updated["images"], updated["new_images"]) == (300, 300 - shares[0]["images"])
    again = command("aggregate", store.path, "--update", out["updated"])
    assert (again["new_images"], again["wrote"]) == (0, [str(out["updated"])])
    printed, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert json.loads(printed)["images"] == 300
    running = torchrun(2, "contacts", store.path, "--resolution", str(N), "--json")
    one = command("contacts", store.path, "--resolution", N)
    printed, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert json.loads(printed) == one
    for name in ("ranks", "merged", "updated"):
        assert equal(load_occupancy(out[name]), whole), name
    assert load_occupancy(out["ranks"]).provenance[0]["processes"] == 3


def test_processes_that_open_a_growing_store_one_after_the_other(
    store: Store, field: CanonicalField, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share the images that were there when the first one looked; that shards are gone is an error."""
    path = tmp_path / "cup.chorus"
    shutil.copytree(store.path, path)
    shards = frozenset(shard.sha256 for shard in store.shards)
    found = jobs.find_filter

    def grown(*arguments: Any) -> Any:
        with StoreWriter(path, category="cup", body_hash=body.hash) as writer:
            writer.append(make_images(50, seed=9))
        return found(*arguments)

    before = aggregate(store, field)
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "find_filter", grown)
        counted = Job(path, field, {}).run()
    assert counted is not None
    assert equal(counted, before)
    assert counted.provenance[0]["source"] == store.id
    now = open_store(path)
    assert len(now) == 350
    one, two = Portion(rank=Share(1, 2), shards=shards), Portion(rank=Share(2, 2), shards=shards)
    for early, late in ((one, two), (two, one)):
        rows = [store.select()[early.of_rows(store, store.select())], now.select()[late.of_rows(now, now.select())]]
        assert (np.sort(np.concatenate(rows)) == store.select()).all()
    compact_store(path)
    with pytest.raises(StoreError, match="some are gone"):
        aggregate(path, field, portion=one)


def test_variables_of_torchrun(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    with ranks() as alone:
        assert (alone.rank, alone.world) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="RANK: expected a number below WORLD_SIZE, 3"), ranks():
        pass
    result = CliRunner().invoke(main, ["aggregate", str(store.path), "--all", "-o", str(tmp_path / "all")])
    assert (result.exit_code, (tmp_path / "all").exists()) == (2, False)
    assert "--all is work of one process" in result.output


@pytest.mark.slow
def test_a_rank_that_dies_and_a_job_that_is_killed(body: Body, tmp_path: Path) -> None:
    """torchrun starts a group again when a rank is killed; a killed job goes on when started again: the same counts."""
    path, N = tmp_path / "cup.chorus", 32
    with StoreWriter(path, category="cup", body_hash=body.hash) as writer:
        for seed in range(20):
            writer.append(make_images(400, seed=seed))
    whole = aggregate(path, CanonicalField(body, N))
    out = tmp_path / "ranks.h5"
    arguments = ["aggregate", path, "-o", out, "--resolution", str(N), "--json", "--keep-every", "0.01"]

    def ranks_of(launcher: int) -> list[int]:
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        return [int(pid) for pid in children]

    def entries() -> set[str]:
        return {path.name for path in ledger_of(out).glob("*-*.h5") if not path.name.startswith(".")}

    def wait_for_entries(running: subprocess.Popen[str]) -> None:
        deadline, before = time.monotonic() + 60, entries()
        while not entries() - before:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    running = torchrun(2, *arguments)
    wait_for_entries(running)
    for pid in (running.pid, *ranks_of(running.pid)):  # the whole job
        os.kill(pid, signal.SIGKILL)
    running.communicate()
    assert ledger_of(out).exists()
    assert not out.exists()
    running = torchrun(2, *arguments, launcher=("--max-restarts", "3"))
    wait_for_entries(running)
    os.kill(ranks_of(running.pid)[-1], signal.SIGKILL)  # one rank
    printed, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    assert "SIGKILL" in errors or "Signal 9" in errors or "exitcode" in errors, errors
    assert json.loads(printed)["images"] == 8000
    assert equal(load_occupancy(out), whole)
    assert not ledger_of(out).exists()
