"""Selective aggregation (Eq. 7, 12, 13): parts, prompts, folds; contacts kept beside the store; clusters; explain."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import chorus
from chorus.camera.views import fold_of_hash, key_hash
from chorus.cli import main
from chorus.errors import InputError, MismatchError, StoreError
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.occupancy.clusters import clusters, write_clusters
from chorus.simulate.images import DEMO, write_world
from chorus.store import Store, StoreWriter, open_store, verify_store
from chorus.votes.contacts import FOLDER, image_contacts, store_contacts
from chorus.votes.explain import explain
from chorus.votes.parts import interaction_regions
from chorus.votes.selection import PartQuery, SelectedImages, matching_prompts

RESOLUTION = 24


def simulated(path: Path, count: int, seed: int = 0) -> ImageBatch:
    """Images of the demo's worlds, made once a run and kept by a store."""
    write_world(path, DEMO, count, seed)
    drawn = open_store(path)
    return drawn.batch(drawn.select())


@pytest.fixture(scope="module")
def field() -> CanonicalField:
    return CanonicalField(chorus.load_body(), RESOLUTION)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Some 60 images of two prompts in three shards, and a row without a mask."""
    path = tmp_path / "ball.chorus"
    with StoreWriter(path, category="ball", body_hash=chorus.load_body().hash, shard_size=24) as writer:
        writer.append(simulated(tmp_path / "drawn.chorus", 60))
        writer.append_rejected(["nobody"], ["no person"], prompts="a person holds a ball in the right hand")
    return open_store(path)


@pytest.fixture
def bits(store: Store, field: CanonicalField) -> NDArray[np.int32]:
    return store_contacts(store, field, interaction_regions(field))


def test_conditions_on_parts() -> None:
    names = ("left", "right", "the back")
    regions = type("R", (), {"has": staticmethod(lambda bits, part: (bits >> names.index(part) & 1).astype(bool))})
    bits = np.arange(8, dtype=np.int32)
    left, right, back = (bits >> r & 1 == 1 for r in range(3))
    for text, expected, parts in (
        ("left", left, ("left",)),
        ("left and not right", left & ~right, ("left", "right")),
        ("not (left or right) and 'the back'", ~(left | right) & back, ("left", "right", "the back")),
        ("left or right and left", left | (right & left), ("left", "right")),
        ("'the back'", back, ("the back",)),
    ):
        query = PartQuery.parse(text, names)
        assert query.parts == parts
        assert (query(bits, regions) == expected).all()  # type: ignore[arg-type]
    nonsense = ("", "left right", "left == right", "left & right", "f(left)", "1", "left and", "__import__('os')", "(" * 500)
    for text in nonsense:
        with pytest.raises(InputError, match="part: expected names of parts with and, or, not"):
            PartQuery.parse(text, names)
    with pytest.raises(InputError, match="part: expected parts among left, right, the back; got 'nose' in 'left and nose'"):
        PartQuery.parse("left and nose", names)


def test_prompts_by_name_and_pattern() -> None:
    known = ["a man holds a ball", "a woman holds a ball", "a man kicks a ball", "what?"]
    assert matching_prompts(None, known) is None
    assert matching_prompts("a man kicks a ball", known) == ["a man kicks a ball"]
    assert matching_prompts("*holds*", known) == ["a man holds a ball", "a woman holds a ball"]
    assert matching_prompts(["a man*", "*kicks*"], known) == ["a man holds a ball", "a man kicks a ball"]
    assert matching_prompts("what?", known) == ["what?"]  # a name, though it looks like a pattern
    with pytest.raises(InputError, match=r"prompt: expected one of 'a man holds a ball'.*or a pattern of them; got 'dog'"):
        matching_prompts("dog", known)


def test_contacts_are_those_of_each_image(store: Store, field: CanonicalField, bits: NDArray[np.int32]) -> None:
    regions = interaction_regions(field)
    rows = store.select(status=None)[store.rows["has_camera"][store.select(status=None)]]
    batch = store.batch(rows)
    assert (bits[rows] == image_contacts(batch, field, regions, "reference")).all()
    assert bits[~store.rows["has_camera"]].tolist() == [0] * int((~store.rows["has_camera"]).sum())
    touched = regions.has(bits[store.select(prompt=DEMO[0].prompt)], "rightHand")
    assert touched.mean() > 0.5


def test_contacts_are_computed_once(
    store: Store, field: CanonicalField, bits: NDArray[np.int32], monkeypatch: pytest.MonkeyPatch
) -> None:
    regions = interaction_regions(field)
    computed: list[int] = []
    progress = lambda done, total: computed.append(done)  # noqa: E731
    assert (store_contacts(store, field, regions, progress=progress) == bits).all()
    assert computed == []
    # A new shard is computed alone.
    with StoreWriter(store.path, category="ball", body_hash=field.body.hash) as writer:
        writer.append(simulated(store.path.parent / "more.chorus", 6, seed=9))
    more = open_store(store.path)
    again = store_contacts(more, field, regions, progress=progress)
    assert 0 < computed[-1] <= 6
    by_key = dict(zip(more.rows["key"].tolist(), again.tolist(), strict=True))
    assert all(by_key[k] == b for k, b in zip(store.rows["key"].tolist(), bits.tolist(), strict=True))
    # Other regions have files of their own; the same voxels under another name do not.
    computed.clear()
    store_contacts(more, field, interaction_regions(field, epsilon=0.2), progress=progress)
    assert computed[-1] > 30
    assert verify_store(store.path) == []


def test_kept_contacts_that_are_damaged_are_computed_anew(
    store: Store, field: CanonicalField, bits: NDArray[np.int32], caplog: pytest.LogCaptureFixture
) -> None:
    files = sorted((store.path / FOLDER).rglob("*.npz"))
    assert len(files) == len(store.shards)
    files[0].write_bytes(b"nonsense")
    with np.load(files[1]) as kept:
        changed = dict(kept)
    changed["bits"] = changed["bits"] ^ 1
    np.savez(files[1], **changed)
    with caplog.at_level(logging.WARNING):
        assert (store_contacts(store, field, interaction_regions(field)) == bits).all()
    assert sum("could not be read" in message for message in caplog.messages) == 1  # said once


def test_a_store_that_cannot_be_written_still_answers(
    store: Store, field: CanonicalField, caplog: pytest.LogCaptureFixture
) -> None:
    (store.path / FOLDER).write_text("in the way")
    with caplog.at_level(logging.WARNING):
        found = store_contacts(store, field, interaction_regions(field))
    assert (found != 0).any()
    assert any("contacts are not cached" in message for message in caplog.messages)


@pytest.mark.parametrize("totals", ["before", "after"])
def test_a_part_is_a_selection_of_images(store: Store, field: CanonicalField, bits: NDArray[np.int32], totals: str) -> None:
    regions = interaction_regions(field)
    rows = store.select()
    keep = regions.has(bits[rows], "rightHand") & ~regions.has(bits[rows], "leftHand")
    assert 0 < keep.sum() < len(rows)
    occ = chorus.aggregate(store, field, part="rightHand and not leftHand", totals=totals, batch_size=7)
    by_hand = chorus.aggregate(store.batch(rows[keep]), field)
    assert (occ.num_counts == by_hand.num_counts).all()
    assert (occ.den_counts == by_hand.den_counts).all()
    assert (occ.group_images == by_hand.group_images).all()
    everything = chorus.aggregate(store, field)
    assert (occ.group_totals == (everything if totals == "before" else by_hand).group_totals).all()
    assert occ.provenance[0]["part"] == "rightHand and not leftHand"
    # The same of images in memory, and of their path.
    for source in (store.batch(rows), store.path):
        same = chorus.aggregate(source, field, part="rightHand and not leftHand", totals=totals)
        assert (same.num_counts == occ.num_counts).all()
        assert (same.group_totals == occ.group_totals).all()


def test_complements_add_up(store: Store, field: CanonicalField) -> None:
    everything = chorus.aggregate(store, field)
    parts = [chorus.aggregate(store, field, part=p, totals="after") for p in ("rightHand", "not rightHand")]
    assert ((parts[0] + parts[1]).num_counts == everything.num_counts).all()
    folds = [chorus.aggregate(store, field, folds=f) for f in ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])]
    assert ((folds[0] + folds[1]).den_counts == everything.den_counts).all()
    kept = store.rows["key"][store.select()]
    assert folds[0].num_images == (fold_of_hash(key_hash(kept)) < 5).sum()
    of_prompts = [chorus.aggregate(store, field, prompt=w.prompt) for w in DEMO]
    assert (chorus.aggregate(store, field, prompt="a person *").num_counts == everything.num_counts).all()
    assert ((of_prompts[0] + of_prompts[1]).num_counts == everything.num_counts).all()


def test_what_cannot_be_selected(store: Store, field: CanonicalField) -> None:
    with pytest.raises(InputError, match="totals: expected 'before' or 'after', got 'now'"):
        chorus.aggregate(store, field, totals="now")
    with pytest.raises(InputError, match=r"folds: expected numbers 0 \.\. 9, got"):
        chorus.aggregate(store, field, folds=[10])
    with pytest.raises(InputError, match=r"of the \d+ read, none matches part 'face and leftFoot and rightFoot'"):
        chorus.aggregate(store, field, part="face and leftFoot and rightFoot")
    none = chorus.aggregate(store, field, part="face and leftFoot and rightFoot", allow_none=True)
    assert none.num_images == 0
    assert none.group_totals.sum() > 0
    other = interaction_regions(CanonicalField(chorus.load_body(), 20))
    with pytest.raises(MismatchError, match="regions: expected those of field"):
        store_contacts(store, field, other)


def test_clusters_of_prompts_and_parts(store: Store, field: CanonicalField, tmp_path: Path) -> None:
    found = {(c.prompt, c.part): c.occupancy for c in clusters(store, field, min_images=5)}
    assert all(occ.num_images >= 5 for occ in found.values())
    assert {p for p, _ in found} == {None, *(w.prompt for w in DEMO)}
    assert (found[None, None].num_counts == chorus.aggregate(store, field).num_counts).all()
    hand = chorus.aggregate(store, field, part="rightHand")
    assert (found[None, "rightHand"].num_counts == hand.num_counts).all()
    assert (found[None, "rightHand"].group_totals == hand.group_totals).all()
    assert np.array_equal(found[None, "rightHand"].probability, hand.probability)
    pair = chorus.aggregate(store, field, prompt=DEMO[1].prompt, part="leftFoot")
    assert (found[DEMO[1].prompt, "leftFoot"].num_counts == pair.num_counts).all()

    def again() -> Iterator[object]:
        yield from clusters(store, field, min_images=5)

    rows = write_clusters(tmp_path / "all", again())  # type: ignore[arg-type]
    assert len(rows) == len(found) == len({row["file"] for row in rows})
    assert json.loads((tmp_path / "all" / "clusters.json").read_text()) == rows
    for row in rows:
        saved = chorus.load_occupancy(tmp_path / "all" / row["file"])
        assert saved.num_images == row["images"] == found[row["prompt"], row["part"]].num_images


def test_the_images_behind_a_voxel(store: Store, field: CanonicalField) -> None:
    occ = chorus.aggregate(store, field, prompt=DEMO[0].prompt)
    voxel = np.unravel_index(int(occ.num_counts.sum(0).argmax()), (RESOLUTION,) * 3)
    point = occ.centres[voxel]
    found = occ.explain(point, store, field, prompt=DEMO[0].prompt)
    assert found.voxel == tuple(int(i) for i in voxel)
    assert np.allclose(found.centre, point, atol=1e-6)
    assert len(found.on_mask) == occ.num_counts.sum(0)[voxel]
    assert len(found.on_mask) + len(found.off_mask) == occ.den_counts.sum(0)[voxel]
    assert found.unseen == occ.num_images - occ.den_counts.sum(0)[voxel]
    assert 0 < found.probability <= 1
    # Their own votes, one image at a time.
    one = store.batch(store.select()[np.isin(store.rows["key"][store.select()], found.on_mask[:1])])
    assert chorus.aggregate(one, field).num_counts.sum(0)[voxel] == 1
    assert len(np.intersect1d(found.on_mask, found.off_mask)) == 0
    for bad in ([0, 0], [0, 0, 9], [np.nan, 0, 0]):
        with pytest.raises(InputError, match="point: expected"):
            explain(bad, store, field)
    with pytest.raises(MismatchError, match="field: expected the one with hash"):
        occ.explain(point, store, CanonicalField(chorus.load_body(), 20))


def test_the_commands(store: Store, tmp_path: Path) -> None:
    run = CliRunner().invoke
    common = ["--resolution", str(RESOLUTION)]
    aggregate = ["aggregate", str(store.path), *common]
    result = run(main, [*aggregate, "-o", str(tmp_path / "o.h5"), "--prompt", "*holds*", "--part", "rightHand"])
    assert result.exit_code == 0, result.output
    assert chorus.load_occupancy(tmp_path / "o.h5").provenance[0]["part"] == "rightHand"
    result = run(main, [*aggregate, "-o", str(tmp_path / "all"), "--all", "--min-images", "5", "--json"])
    assert result.exit_code == 0, result.output
    assert any(row["prompt"] is None and row["part"] is None for row in json.loads(result.stdout))
    result = run(main, ["explain", str(store.path), "--json", *common, "--", "-0.7", "0.1", "0.1"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert len(facts["keys"]["on_mask"]) == facts["on_mask"]
    (tmp_path / "parts.json").write_text(json.dumps({"either hand": ["left_hand", "right_hand", "left_wrist", "right_wrist"]}))
    selection = ["--parts", str(tmp_path / "parts.json"), "--part", "'either hand'", "--fold", "3", "--fold", "7"]
    result = run(main, [*aggregate, "-o", str(tmp_path / "f.h5"), *selection])
    assert result.exit_code == 0, result.output
    of_folds = chorus.load_occupancy(tmp_path / "f.h5")
    field = CanonicalField(chorus.load_body(), RESOLUTION)
    want = chorus.aggregate(store, field, part="rightHand or leftHand", folds=[3, 7])
    assert of_folds.num_images == want.num_images > 0
    np.testing.assert_array_equal(of_folds.num_counts, want.num_counts)
    result = run(main, ["explain", str(store.path), "--json", *common, *selection, "--", "-0.7", "0.1", "0.1"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["on_mask"] + facts["off_mask"] + facts["unseen"] == of_folds.num_images
    result = run(main, [*aggregate, "-o", str(tmp_path / "x.h5"), "--part", "nose"])
    assert result.exit_code == 2
    assert "part: expected parts among rightHand" in result.output
    result = run(main, [*aggregate, "-o", str(tmp_path / "x"), "--all", "--part", "face"])
    assert result.exit_code == 2
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "x.h5").exists()


def damage(store: Path, shard: int, array: str, at: int = -1) -> Path:
    """Flip a bit of an array in a shard of a store; the shard."""
    file = sorted((store / "shards").glob("*.h5"))[shard]
    with h5py.File(file) as opened:
        place, size = opened[array].id.get_offset(), opened[array].nbytes
    content = bytearray(file.read_bytes())
    content[place + at % size] ^= 1
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("array", ["mask/words", "camera/t", "image/key", "vocab/prompt", "pose/axis_angle"])
@pytest.mark.parametrize("shard", [0, 2])
def test_a_store_damaged_anywhere_gives_no_occupancy(store: Store, field: CanonicalField, array: str, shard: int) -> None:
    """Votes run while digests are checked, and whatever they find first, the answer is the damage."""
    file = damage(store.path, shard, array)
    with pytest.raises(StoreError, match=rf"{file.name}: {array}: .*damaged"):
        chorus.aggregate(store.path, field)
    with pytest.raises(StoreError, match=rf"{file.name}: {array}: .*damaged"):
        chorus.aggregate(store.path, field, prompt="nothing like it", part="head")


def test_a_key_that_stands_twice_gives_no_occupancy(store: Store, field: CanonicalField) -> None:
    shards = sorted((store.path / "shards").glob("*.h5"))
    shutil.copy(shards[0], shards[0].with_name("shard-copied.h5"))
    with pytest.raises(StoreError, match="image/key: expected each key once"):
        chorus.aggregate(store.path, field)


def test_damaged_contacts_are_not_kept(store: Store, field: CanonicalField) -> None:
    damage(store.path, 1, "mask/words")
    with pytest.raises(StoreError, match="damaged"):
        chorus.aggregate(store.path, field, part="head or not head")
    assert not (store.path / FOLDER).exists()


def test_who_stops_reading_leaves_no_thread(store: Store, field: CanonicalField) -> None:
    for _ in SelectedImages(store.path, field, batch_size=8):
        assert any(t.name.startswith("chorus-check") for t in threading.enumerate())
        break
    gc.collect()
    assert not any(t.name.startswith("chorus-check") for t in threading.enumerate())
