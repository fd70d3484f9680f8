"""The store: what goes in comes out, rows are selected, batches stay on disk, and the format is as documented."""

from __future__ import annotations

import json
import pickle
import re
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.harness.old_stores import to_version_1
from chorus.camera.cameras import Cameras
from chorus.errors import InputError, StoreError
from chorus.images import ImageBatch
from chorus.kernels.masks import PackedMasks, words_in_box
from chorus.store import Store, StoreWriter, open_store, store_info, verify_store
from tests.store.samples import RNG, corners, make_batch, random_masks, write


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path / "s.chorus")
    return tmp_path / "s.chorus"


any_mask = st.tuples(st.integers(1, 70), st.integers(1, 70)).flatmap(lambda size: arrays(bool, size))


@given(st.lists(any_mask, min_size=1, max_size=4), st.integers(1, 3))
@example([np.zeros((5, 7), bool), np.ones((33, 17), bool), np.zeros((16, 16), bool)], 2)
@example(corners(37, 61), 3)
@example(corners(1, 1), 1)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_masks_come_back(tmp_path_factory: pytest.TempPathFactory, masks: list[np.ndarray], shard: int) -> None:
    path = tmp_path_factory.mktemp("store") / "s"
    with StoreWriter(path, category="ball", shard_size=shard) as writer:
        writer.append(make_batch(masks))
    assert verify_store(path) == []
    batches = list(open_store(path).batches())
    read = [b.masks.unpack(i) for b in batches for i in range(len(b))]
    assert all(np.array_equal(a, b) for a, b in zip(masks, read, strict=True))
    whole = open_store(path).batch(np.arange(len(masks))[::-1])
    assert all(np.array_equal(a, whole.masks.unpack(i)) for i, a in enumerate(masks[::-1]))


def test_everything_comes_back(store: Path) -> None:
    masks = write(store.parent / "t", 10)
    opened = open_store(store.parent / "t")
    rows = opened.rows
    assert len(opened) == 12
    assert (opened.category, opened.num_joints, opened.body_hash) == ("surfboard", 24, None)
    assert opened.prompts == ["prompt 0", "prompt 1"]
    batch = make_batch(masks)
    assert rows["key"].tolist() == [b"none-0", b"none-1", *batch.keys.tolist()]
    complete = ["complete"] * 3
    assert rows["status"].tolist() == ["no person", "no object", *complete, "overlap", *complete, *complete]
    assert rows["prompt"].tolist() == ["prompt 0"] * 2 + batch.prompts.tolist()
    assert set(rows["view"][2:]) == {"from the left"}
    assert rows["seed"].tolist() == [-1, -1, *(np.arange(10) + 2**40)]
    assert rows["weight"].tolist() == [1, 1, *range(1, 11)]
    np.testing.assert_array_equal(rows["R"][2:], batch.cameras.R.astype(np.float32))
    np.testing.assert_array_equal(rows["t"][2:], batch.cameras.t.astype(np.float32))
    np.testing.assert_array_equal(rows["K"][2:], batch.cameras.K.astype(np.float32))
    np.testing.assert_array_equal(rows["pose"][2:], batch.poses)
    np.testing.assert_array_equal(rows["residual_px"][2:], np.arange(10) / 8)
    np.testing.assert_array_equal(rows["box"][2:], batch.masks.box)
    assert rows["score/count"].tolist() == [0, 2] + [1] * 10
    assert rows["score/person_box"].shape == (12, 4)
    for name in ("R", "t", "K", "pose", "betas", "residual_px", "score/person_box"):
        assert np.isnan(rows[name][:2]).all()
        assert np.isfinite(rows[name][2:]).all()
    assert rows["has_camera"].tolist() == [False] * 2 + [True] * 10
    person = opened.person_masks([11, 2, 7])
    assert all(np.array_equal(person.unpack(i), ~masks[m]) for i, m in enumerate([9, 0, 5]))
    again = opened.batch([11, 2, 7])
    assert again.weights is not None
    assert (again.weights.tolist(), again.keys.tolist()) == ([10, 1, 6], [b"image-009", b"image-000", b"image-005"])
    assert len(opened.batch([])) == 0
    with pytest.raises(KeyError, match="expected one of key, size"):
        rows["score/nothing"]
    with pytest.raises(ValueError, match="read-only"):
        rows["seed"][0] = 3


def test_select(store: Path) -> None:
    opened = open_store(store)
    assert opened.select().tolist() == [2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert opened.select(status=None).tolist() == list(range(12))
    assert opened.select(status=["overlap", "no object"]).tolist() == [1, 5]
    assert opened.select(prompt="prompt 1").tolist() == [3, 7, 9, 11]
    assert opened.select(lambda rows: rows["residual_px"] < 0.5, ["prompt 0", "prompt 1"]).tolist() == [2, 3, 4]
    with pytest.raises(InputError, match="prompt: expected one of"):
        opened.select(prompt="prompt 2")
    with pytest.raises(InputError, match="status: expected one of"):
        opened.select(status="compleet")
    with pytest.raises(InputError, match="where: expected an answer of bool"):
        opened.select(lambda rows: rows["seed"])
    assert sum(len(b) for b in opened.batches()) == 9
    with pytest.raises(InputError, match=r"row 1 .*none-1.*has none: 'no object'"):
        opened.batches([2, 1])
    for rows in ([-1], [12], [0.5], [[1]]):
        with pytest.raises(InputError, match="rows: expected"):
            opened.batches(rows)
    with pytest.raises(InputError, match="size: expected"):
        opened.batches(size=0)


def test_batches_of_version_1_are_views_of_the_file(tmp_path: Path) -> None:
    n, side = 60, 512
    masks = [np.ones((side, side), bool)] * n
    with StoreWriter(tmp_path / "s", category="ball", shard_size=40) as writer:
        writer.append(make_batch(masks))
    to_version_1(tmp_path / "s")
    opened = pickle.loads(pickle.dumps(open_store(tmp_path / "s")))
    sizes = []
    tracemalloc.start()
    for batch in opened.batches(size=25):
        assert not batch.masks.words.flags.owndata
        assert not batch.masks.words.flags.writeable
        assert batch.masks.words.size == len(batch) * side * side // 32  # only the words between first and last row
        sizes.append(len(batch))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == [25, 15, 20]
    assert peak < 400_000 < n * side * side / 8


def test_batches_keep_the_masks_of_a_batch_in_memory(tmp_path: Path) -> None:
    n, side = 60, 512
    masks = [RNG.random((side, side)) < 0.5 for _ in range(n)]
    with StoreWriter(tmp_path / "s", category="ball", shard_size=40) as writer:
        writer.append(make_batch(masks))
    opened = pickle.loads(pickle.dumps(open_store(tmp_path / "s")))
    tracemalloc.start()
    for batch in opened.batches(np.arange(0, n, 2), size=5):
        assert batch.masks.words.size == len(batch) * side * side // 32  # those of the rows asked for, and no others
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400_000 + 2 * 5 * side * side // 8 < n * side * side // 8


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_bytes_per_image(tmp_path: Path, share: float) -> None:
    n, side = 200, 512
    edge = round(side * share**0.5)
    masks = []
    for _ in range(n):
        x, y = RNG.integers(0, side - edge + 1, 2)
        mask = np.zeros((side, side), bool)
        mask[y : y + edge, x : x + edge] = True
        mask[y + 1 : y + edge : 16, x : x + edge : 2] = False  # something in every block, which is then mixed
        mask[y + 9 : y + edge : 16, x : x + edge : 2] = False
        masks.append(mask)
    batch = make_batch(masks)
    with StoreWriter(tmp_path / "s", category="ball") as writer:
        writer.append(batch, betas=np.zeros((n, 10)), seeds=range(n), residual_px=np.zeros(n), scores={"a": np.ones(n)})
    blocks = 4 * int(words_in_box(batch.masks.box).sum())
    info = store_info(tmp_path / "s")
    assert blocks * 0.7 < info["bytes"] < blocks + 900 * n
    assert info["bytes"] == sum(f.stat().st_size for f in (tmp_path / "s").rglob("*") if f.is_file())


def test_info(store: Path) -> None:
    info = json.loads(json.dumps(store_info(store)))
    assert info["by_status"] == {"complete": 9, "no person": 1, "no object": 1, "overlap": 1}
    assert info["by_prompt"] == {"prompt 0": 7, "prompt 1": 5}
    assert (info["images"], info["shards"], info["category"], info["version"]) == (12, 3, "surfboard", 2)
    assert info["shard_versions"] == {"2": 3}
    per_image = info["bytes_per_image"]
    assert per_image["poses"] == pytest.approx(24 * 12 + 40)
    assert sum(v for k, v in per_image.items() if k != "total") == pytest.approx(per_image["total"], abs=1)


def test_resume_and_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def stop_in_the_middle() -> None:
        with StoreWriter(path, category="ball", shard_size=3) as writer:
            writer.append(make_batch(random_masks(7)))
            assert "image-006" not in writer
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_in_the_middle()
    with StoreWriter(path, category="ball", shard_size=100) as writer:
        assert writer.keys == {f"image-{i:03d}".encode() for i in range(6)}
        assert "image-005" in writer
        rest = make_batch(random_masks(4), first=6)
        writer.append(rest)
        for batch, place in (
            (make_batch(random_masks(2), first=5), "'image-005' is already in the store"),
            (make_batch(random_masks(2), first=9), "'image-009' is already in the rows not yet committed"),
        ):
            with pytest.raises(StoreError, match=place):
                writer.append(batch)
        twice = make_batch(random_masks(2), first=20)[np.array([0, 0])]
        with pytest.raises(StoreError, match="'image-020' is already in this batch"):
            writer.append(twice)
        with pytest.raises(StoreError, match="'image-000' is already in the store"):
            writer.append_rejected(["image-000"], "no person")
    with pytest.raises(StoreError, match="closed"):
        writer.append(rest)
    opened = open_store(path)
    assert sorted(opened.rows["key"].tolist()) == [f"image-{i:03d}".encode() for i in range(10)]
    assert [len(s) for s in opened.shards] == [3, 3, 4]
    for wrong in ({"category": "car"}, {"num_joints": 52}, {"body_hash": "x"}, {"person_masks": True}):
        with pytest.raises(StoreError, match=next(iter(wrong))):
            StoreWriter(path, **{"category": "ball", **wrong})


def test_two_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = StoreWriter(path, category="ball", shard_size=2)
    second = StoreWriter(path, category="ball", shard_size=2)
    batches = [[make_batch(random_masks(3), first=100 * w + 3 * i) for i in range(5)] for w in range(2)]

    def run(writer: StoreWriter, mine: list[ImageBatch]) -> None:
        for batch in mine:
            writer.append(batch)
        writer.close()

    threads = [threading.Thread(target=run, args=pair) for pair in zip((first, second), batches, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify_store(path) == []
    assert len(open_store(path)) == 30
    late, later = (StoreWriter(path, category="ball") for _ in range(2))
    late.append(make_batch(random_masks(1), first=500))
    later.append(make_batch(random_masks(1), first=500))
    late.close()
    with pytest.raises(StoreError, match=r"image-500.*another writer"):
        later.close()
    assert len(open_store(path)) == 31
    late, later = (StoreWriter(path, category="ball") for _ in range(2))
    late.append(make_batch(random_masks(1), first=501), betas=np.zeros((1, 10)))
    later.append(make_batch(random_masks(1), first=502), betas=np.zeros((1, 11)))
    late.close()
    with pytest.raises(StoreError, match=r"pose/betas: expected shape \('n', 11\), got \('n', 10\)"):
        later.close()
    assert np.isnan(open_store(path).rows["betas"]).all(1).sum() == 31


def test_bad_arguments(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s", category="ball")
    batch = make_batch(random_masks(2))
    whole = PackedMasks.pack([np.ones((20, 20), bool)] * 2)
    stray = PackedMasks(whole.size, whole.box - np.array([0, 0, 1, 0], np.int32), whole.start, whole.words)
    loose = PackedMasks.pack([np.eye(20, dtype=bool)] * 2)
    loose.words[:] = 0
    for masks in (stray, loose):
        cameras = Cameras(batch.cameras.R, batch.cameras.t, batch.cameras.K, masks.size)
        with pytest.raises(InputError, match="exact boxes"):
            writer.append(ImageBatch(masks, cameras, batch.poses))
    for wrong, message in (
        ({"seeds": [0.5, 1]}, "seeds"),
        ({"seeds": [1]}, "seeds"),
        ({"views": ["a"]}, "views"),
        ({"status": 3}, "status"),
        ({"scores": {"a/b": [1, 2]}}, "scores"),
        ({"scores": {"a": [1]}}, "scores"),
        ({"scores": {"a": ["x", "y"]}}, "scores"),
        ({"scores": {"a": [1, 2**24 + 1]}}, "float32"),
        ({"betas": [[np.nan], [1]]}, "betas"),
        ({"residual_px": [1]}, "residual_px"),
        ({"person_masks": batch.masks}, "person_masks"),
    ):
        with pytest.raises(InputError, match=message):
            writer.append(batch, **wrong)
    with pytest.raises(InputError, match="expected the 24 joints of the store, got 52"):
        writer.append(make_batch(random_masks(1), joints=52))
    with pytest.raises(InputError, match="ImageBatch"):
        writer.append(random_masks(1))
    with pytest.raises(InputError, match="status"):
        writer.append_rejected(["a"], "complete")
    with pytest.raises(InputError, match="empty"):
        writer.append_rejected([""], "no person")
    writer.append(batch, scores={"box": np.zeros((2, 4))})
    with pytest.raises(InputError, match="score/box"):
        writer.append(make_batch(random_masks(2), first=9), scores={"box": np.zeros((2, 3))})
    writer.close()
    assert len(open_store(tmp_path / "s")) == 2
    for wrong in ({"category": ""}, {"category": "a", "shard_size": 0}, {"category": "a", "num_joints": True}):
        with pytest.raises(InputError, match="expected"):
            StoreWriter(tmp_path / "t", **wrong)
    with pytest.raises(InputError, match="provenance"):
        StoreWriter(tmp_path / "t", category="a", provenance={"x": {1}})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    with pytest.raises(StoreError, match=r"cat\.jpg"):
        StoreWriter(tmp_path / "photos", category="a")


def test_identity_is_of_the_contents(store: Path) -> None:
    before = open_store(store)
    assert before.id == Store(before.path, before._header, {}, before.shards[::-1]).id
    with StoreWriter(store, category="surfboard", person_masks=True) as writer:
        writer.append_rejected(["late"], "no person")
    assert open_store(store).id != before.id
    assert len(before) == 12  # as it was when opened
    before.shards[0].path.unlink()
    with pytest.raises(StoreError, match="expected the shard as when the store was opened"):
        before.batch([2])


def test_empty_store(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "s", category="ball", body_hash="abc").close()
    opened = open_store(tmp_path / "s")
    assert (len(opened), opened.body_hash, opened.select().size, list(opened.batches())) == (0, "abc", 0, [])
    assert store_info(tmp_path / "s")["bytes_per_image"]["total"] == 0
    assert verify_store(tmp_path / "s") == []
    assert StoreWriter(tmp_path / "s", category="ball").keys == set()


def test_the_documented_reader_reads_every_mask(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "store-format.md").read_text()
    block, _ = re.findall(r"```python\n(.*?)```", text, re.S)
    assert 15 <= len([line for line in block.splitlines() if line.strip()]) <= 32
    namespace: dict[str, object] = {}
    exec(block, namespace)
    masks = [*random_masks(5, (37, 61)), *corners(90, 33), np.zeros((5, 5), bool), np.ones((16, 17), bool)]
    with StoreWriter(tmp_path / "s", category="ball", shard_size=4) as writer:
        writer.append(make_batch(masks))
        writer.append_rejected(["bad"], "no person")
    with StoreWriter(tmp_path / "s", category="ball") as writer:
        writer.append(make_batch([np.zeros((3, 4), bool)], first=50))  # a shard without any word
    for _ in ("version 2", "version 1"):
        read = list(namespace["read_masks"](tmp_path / "s"))
        keys = [*(f"image-{i:03d}".encode() for i in range(len(masks))), b"bad", b"image-050"]
        assert [key for key, _ in read] == keys
        assert all(np.array_equal(a, b) for a, (_, b) in zip(masks, read, strict=False))
        assert (read[-2][1].shape, read[-1][1].shape, read[-1][1].any()) == ((0, 0), (3, 4), False)
        to_version_1(tmp_path / "s")
