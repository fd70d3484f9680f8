"""Stores made of stores: the same rows, bit for bit, shards linked where they can be, and nothing half done after a kill."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bench.harness.old_stores import to_version_1
from chorus.cli import main
from chorus.errors import InputError, StoreError
from chorus.images import ImageBatch
from chorus.kernels.masks import PackedMasks
from chorus.store import Store, StoreWriter, open_store, store_info, verify_store
from chorus.store.filters import Filter
from chorus.store.filters.filtering import read_store_filter, write_store_filter
from chorus.store.growing import compact_store, merge_stores, select_store, split_store
from chorus.store.shard_files import COMPACTION, shard_paths
from tests.soak import SOAK
from tests.store.samples import make_batch, random_masks, rewrite, shards, write
from tests.store.test_crash import ENVIRONMENT

COLOURS = [np.full((40, 50, 3), 9 * i, np.uint8) for i in range(20)]


def fill(path: Path, first: int, n: int, shard_size: int = 4, pictures: bool = True, **kwargs: Any) -> Path:
    """A store of n images, numbered from ``first``, every other one with its picture."""
    with StoreWriter(path, category="surfboard", shard_size=shard_size, person_masks=True, **kwargs) as writer:
        for at in range(first, first + n, shard_size):
            some = range(at, min(first + n, at + shard_size))
            masks = [np.random.default_rng(i).random((40, 50)) < 0.3 for i in some]
            writer.append(
                make_batch(masks, at),
                scores={"count": np.arange(len(masks)), "person_box": np.ones((len(masks), 4))},
                person_masks=PackedMasks.pack([~m for m in masks]),
                pictures=[COLOURS[i % 20] if pictures and i % 2 else None for i in some],
            )
            writer.flush()
    return path


def same_rows(store: Store, rows: Any, other: Store, others: Any) -> None:
    """Rows of one store are those of another, bit for bit: columns, masks and pictures."""
    for name, column in store.rows.items():
        if name in other.rows:
            assert np.array_equal(column[rows], other.rows[name][others], equal_nan=column.dtype.kind == "f"), name
        else:
            assert name in ("weight", "betas") or name.startswith("score/")
    with_camera = store.rows["has_camera"][rows]
    a, b = np.asarray(rows)[with_camera], np.asarray(others)[with_camera]
    for one, two in zip(_each(store, a), _each(other, b), strict=True):
        assert np.array_equal(one, two)
    for key in store.rows["key"][rows].tolist():
        one, two = store.picture(key), other.picture(key)
        assert (one is None) == (two is None)
        assert one is None or np.array_equal(one, two)


def _each(store: Store, rows: Any) -> list[np.ndarray]:
    masks = [store.batch(rows).masks] + ([store.person_masks(rows)] if store.has_person_masks else [])
    return [m.unpack(i) for m in masks for i in range(len(rows))]


def whole(path: Path) -> Store:
    assert verify_store(path) == []
    return open_store(path)


def test_merged_stores_are_links_of_the_same_rows(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", 0, 10), fill(tmp_path / "b", 10, 7, shard_size=3)
    to_version_1(b)
    made = merge_stores([a, b], tmp_path / "c")
    assert (made.images, made.shards, made.linked, made.copied, made.written) == (17, 6, 6, 0, 0)
    merged = whole(tmp_path / "c")
    assert {shard.version for shard in merged.shards} == {1, 2}
    assert merged.rows["key"].tolist() == [*open_store(a).rows["key"].tolist(), *open_store(b).rows["key"].tolist()]
    same_rows(merged, np.arange(10), open_store(a), np.arange(10))
    same_rows(merged, np.arange(10, 17), open_store(b), np.arange(7))
    assert store_info(tmp_path / "c")["pictures"]["kept"] == 8
    inodes = {path.stat().st_ino for folder in (a, b) for path in [*folder.glob("shards/*"), *folder.glob("pictures/*")]}
    assert {p.stat().st_ino for p in [*(tmp_path / "c").glob("shards/*"), *(tmp_path / "c").glob("pictures/*")]} == inodes
    with StoreWriter(tmp_path / "c", category="surfboard", person_masks=True) as writer:  # it is a store like any other
        writer.append(make_batch(random_masks(1), 99), person_masks=PackedMasks.pack(random_masks(1)))
    assert len(whole(tmp_path / "c")) == 18
    assert not [p for p in tmp_path.iterdir() if p.name not in "abc"]


def test_copies_where_the_file_system_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = fill(tmp_path / "a", 0, 6)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    made = merge_stores([a], tmp_path / "c")
    assert (made.linked, made.copied) == (0, 2)
    same_rows(whole(tmp_path / "c"), np.arange(6), open_store(a), np.arange(6))
    assert shards(tmp_path / "c")[0].stat().st_nlink == 1


def test_duplicate_keys_are_refused_or_skipped(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", 0, 10), fill(tmp_path / "b", 6, 10)
    with pytest.raises(StoreError, match=r"b: .*got 4 of them again, such as b'image-006' of .*a; --skip"):
        merge_stores([a, b], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    made = merge_stores([a, b, a], tmp_path / "c", skip=True)
    assert (made.images, made.skipped, made.written) == (16, 14, 0)  # the shard of 6 .. 9 falls out as a whole
    merged = whole(tmp_path / "c")
    same_rows(merged, np.arange(10), open_store(a), np.arange(10))
    same_rows(merged, np.arange(10, 16), open_store(b), np.arange(4, 10))
    c = fill(tmp_path / "d", 8, 8)
    made = merge_stores([a, c], tmp_path / "e", skip=True)
    assert (made.images, made.skipped, made.written, made.linked) == (16, 2, 1, 3)
    same_rows(whole(tmp_path / "e"), np.arange(10, 16), open_store(c), np.arange(2, 8))
    assert open_store(tmp_path / "e").shards[3].provenance["operation"] == "merge"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"category": "ball", "person_masks": True}, "category: expected 'surfboard', got 'ball'"),
        ({"category": "surfboard", "person_masks": False}, "person_masks: expected True, got False"),
        ({"category": "surfboard", "person_masks": True, "num_joints": 52}, "num_joints: expected 24, got 52"),
        ({"category": "surfboard", "person_masks": True, "body_hash": "ab"}, "body_hash: expected None, got 'ab'"),
    ],
)
def test_stores_that_differ_are_not_merged(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    a = fill(tmp_path / "a", 0, 2)
    StoreWriter(tmp_path / "b", **how).close()
    with pytest.raises(StoreError, match=f"b: cannot be merged with .*a: {message}"):
        merge_stores([a, tmp_path / "b"], tmp_path / "c")


def test_scores_of_other_shapes_and_filters_that_differ(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", 0, 2), fill(tmp_path / "b", 2, 2)
    write_store_filter(a, Filter.paper())
    with pytest.raises(StoreError, match=r"b: expected the filter of .*a .*got none.*--no-filter"):
        merge_stores([a, b], tmp_path / "c")
    write_store_filter(b, Filter.paper())
    merge_stores([a, b], tmp_path / "c")
    assert read_store_filter(tmp_path / "c") == Filter.paper()
    merge_stores([a, b], tmp_path / "d", keep_filter=False)
    assert read_store_filter(tmp_path / "d") is None
    rewrite(shards(b)[0], "score/person_box", lambda x: x[:, :3])
    with pytest.raises(StoreError, match=r"score/person_box: expected shape \('n', 4\), got \('n', 3\)"):
        merge_stores([a, b], tmp_path / "e")


def test_selected_rows(tmp_path: Path) -> None:
    write(tmp_path / "a", n=10)
    source = open_store(tmp_path / "a")
    made = select_store(source, tmp_path / "b", prompt="prompt 0")
    rows = source.select(prompt="prompt 0", status=None)
    assert made.images == len(rows) == 7
    same_rows(whole(tmp_path / "b"), np.arange(7), source, rows)
    assert "no person" in whole(tmp_path / "b").rows["status"]
    select_store(source, tmp_path / "c", status="complete", keys=["image-001", b"image-003", "image-004"])
    assert whole(tmp_path / "c").rows["key"].tolist() == [b"image-001", b"image-004"]  # 3 is not complete
    made = select_store(source, tmp_path / "d")
    assert (made.linked, made.images) == (3, 12)
    assert open_store(tmp_path / "d").id == source.id
    with pytest.raises(InputError, match="got 1 that it lacks, such as b'x'"):
        select_store(source, tmp_path / "e", keys=["x"])
    with pytest.raises(InputError, match="got none of its 12"):
        select_store(source, tmp_path / "e", np.zeros(0, int))
    with pytest.raises(StoreError, match="which exists"):
        select_store(source, tmp_path / "d")
    with pytest.raises(InputError, match="expected numbers from 0 to 11, got 12"):
        select_store(source, tmp_path / "e", [12])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c", "d"]


def test_damage_is_not_copied_under_a_new_digest(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", 0, 10)
    shard = shards(a)[1]
    content = bytearray(shard.read_bytes())
    content[open_store(a).shards[1].arrays["camera/t"].offset] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match=f"{shard.name}: camera/t: damaged"):
        select_store(a, tmp_path / "b", np.arange(6))
    with pytest.raises(StoreError, match=f"{shard.name}: camera/t: damaged"):
        compact_store(a)
    assert sorted(p.name for p in a.iterdir()) == [".lock", "pictures", "shards", "store.json"]
    assert len(list((a / "pictures").iterdir())) == len(shards(a)) == 3
    merge_stores([a], tmp_path / "c")  # a link is as damaged as what it links to
    assert [p.dataset for p in verify_store(tmp_path / "c")] == ["camera/t"]


def test_parts_are_fair(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", 0, 20, shard_size=2)
    source = open_store(a)
    made = split_store(a, tmp_path / "parts", parts=3)
    assert [m.path.name for m in made] == ["part-0.chorus", "part-1.chorus", "part-2.chorus"]
    assert sum(m.images for m in made) == 20
    assert max(m.images for m in made) - min(m.images for m in made) <= 1
    at = 0
    for m in made:
        same_rows(whole(m.path), np.arange(m.images), source, np.arange(at, at + m.images))
        at += m.images
    made = split_store(a, tmp_path / "fives", parts=5)
    assert [(m.images, m.linked, m.written) for m in made] == [(4, 2, 0)] * 5
    assert [m.images for m in split_store(a, tmp_path / "each", parts=20)] == [1] * 20
    with pytest.raises(InputError, match="at most the 20 rows"):
        split_store(a, tmp_path / "none", parts=21)
    made = split_store(a, tmp_path / "prompts", by_prompt=True)
    assert [(m.path.name, m.images) for m in made] == [("prompt-0.chorus", 10), ("prompt-1.chorus", 10)]
    assert whole(made[1].path).prompts == ["prompt 1"]
    assert not list(tmp_path.glob(".*"))


def test_compacted_stores_have_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", 0, 20, shard_size=2)
    fill(a, 20, 9, shard_size=9)
    fill(a, 29, 3, shard_size=1)
    kept = fill(tmp_path / "same", 0, 20, shard_size=2)
    fill(kept, 20, 9, shard_size=9)
    fill(kept, 29, 3, shard_size=1)
    names = [p.name for p in shards(a)]
    made = compact_store(a, shard_size=12)
    assert (made.images, made.written, made.shards) == (32, 3, 4)
    compacted = whole(a)
    assert [len(s) for s in compacted.shards] == [12, 8, 9, 3]
    assert names[10] in [p.name for p in shards(a)]  # the large one is the same file
    same_rows(compacted, np.arange(32), open_store(kept), np.arange(32))
    facts = store_info(a)["pictures"]
    assert (facts["kept"], facts["files"], facts["orphans"]) == (16, 4, 0)
    assert not (a / COMPACTION).exists()
    made_from = compacted.shards[0].provenance["made_from"]
    assert len(made_from["provenances"]) == 1  # all were the same
    again = compact_store(a, shard_size=12)
    assert (again.written, again.shards) == (0, 4)
    fill(a, 40, 1, shard_size=1)  # and writers go on
    assert whole(a).rows["key"].tolist()[-1] == b"image-040"


def test_shards_with_many_pictures_are_joined_as_far_as_memory_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import chorus.store.growing.compacting as compacting

    a = fill(tmp_path / "a", 0, 12, shard_size=2)
    largest = max(path.stat().st_size for path in (a / "pictures").iterdir())
    monkeypatch.setattr(compacting, "MOST_PICTURE_BYTES", int(2.5 * largest))
    keys = open_store(a).rows["key"].tolist()
    compact_store(a)
    store = whole(a)
    assert ([len(s) for s in store.shards], store.rows["key"].tolist()) == ([4, 4, 4], keys)
    monkeypatch.setattr(compacting, "MOST_PICTURE_BYTES", 1000)
    assert compact_store(a).written == 0


def test_names_from_elsewhere_keep_their_order(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", 0, 8, shard_size=2, pictures=False)
    for number, path in enumerate(shards(a)):
        path.rename(path.with_name(f"{'abcd'[number]}.h5"))
    keys = open_store(a).rows["key"].tolist()
    compact_store(a, shard_size=4)
    assert whole(a).rows["key"].tolist() == keys
    assert len(shards(a)) == 2


FORKED = """
import os, sys
import chorus.store.growing
from chorus.store import open_store, sparse
from tests.store.test_growing import killed_before_step
from tests.store.samples import make_batch, random_masks

sparse.encode(make_batch(random_masks(2)).masks)
for line in sys.stdin:
    what, path, steps = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        killed_before_step(int(steps))
        if what == "compact":
            chorus.store.growing.compact_store(path, shard_size=6)
        else:
            chorus.store.growing.merge_stores([path, path + "-b"], path + "-merged")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.write(1, f"{status}\\n".encode())
"""
"""Forks a process for each line, so that no kill costs an import."""


def killed_before_step(steps: int) -> None:
    """Have this process die before its next call but ``steps`` of a function that changes what is on the disk."""
    left = [steps]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*args, **kwargs)

        return call

    for name in ("mkdir", "fsync", "rename", "unlink", "link", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("what", ["compact", "merge"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_store(tmp_path: Path, what: str) -> None:
    fill(tmp_path / "like", 0, 8, shard_size=2)
    keys = open_store(tmp_path / "like").rows["key"].tolist()
    states: set[Any] = set()
    with subprocess.Popen(
        [sys.executable, "-c", FORKED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for steps in range(0, 200, 1 if SOAK else 3 if what == "compact" else 9):
            path = tmp_path / f"{what}{steps}"
            merge_stores([tmp_path / "like"], path)
            if what == "merge":
                fill(tmp_path / f"{what}{steps}-b", 8, 2)
            process.stdin.write(f"{what}\t{path}\t{steps}\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            assert status in (0, signal.SIGKILL)
            store = whole(path)
            assert store.rows["key"].tolist() == keys
            assert [store.picture(key) is not None for key in keys] == [False, True] * 4
            if what == "compact":
                states.add(tuple(len(s) for s in store.shards))
                if steps // 3 % 2:  # whoever writes next finishes it
                    fill(path, 30, 1)
                    assert len(whole(path)) == 9
                else:
                    compact_store(path, shard_size=6)
                    assert [len(s) for s in whole(path).shards] == [6, 2]
                assert {p.name for p in path.iterdir()} == {".lock", "pictures", "shards", "store.json"}
                assert store_info(path)["pictures"]["orphans"] == 0
            else:
                merged = Path(f"{path}-merged")
                states.add(merged.exists())
                if merged.exists():
                    assert len(whole(merged)) == 10
                else:
                    merge_stores([path, f"{path}-b"], merged)  # what the dead one left does not hinder
                    assert len(whole(merged)) == 10
                left = [p.name for p in tmp_path.glob(f".{merged.name}*/*")]
                assert left in ([], [".lock"])  # after the new store was there
            if status == 0:
                break
        process.stdin.close()
    assert 12 < steps < 200
    assert states == ({(2, 2, 2, 2), (6, 2)} if what == "compact" else {True, False})


def test_a_committed_compaction_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from read-only media, where nobody finishes it; and a broken one is an error."""
    a = fill(tmp_path / "a", 0, 8, shard_size=2)
    import chorus.store.growing.compacting as compacting

    finish = compacting.finish_compaction
    calls: list[Path] = []

    def once(root: Path) -> None:
        calls.append(root)
        if len(calls) == 1:
            finish(root)

    monkeypatch.setattr(compacting, "finish_compaction", once)
    compact_store(a, shard_size=8)
    assert (a / COMPACTION).is_dir()
    assert len(shards(a)) == 4
    assert [p.parent.name for p in shard_paths(a)] == [COMPACTION]
    store = whole(a)
    assert (len(store), len(store.shards)) == (8, 1)
    text = (a / COMPACTION / "replaced.json").read_text()
    for broken in ("{", json.dumps({**json.loads(text), "by": ["../x.h5"]}), json.dumps({**json.loads(text), "version": 2})):
        (a / COMPACTION / "replaced.json").write_text(broken)
        with pytest.raises(StoreError, match=r"replaced\.json"):
            open_store(a)
    (a / COMPACTION / "replaced.json").write_text(text)
    fill(a, 20, 1)
    assert [len(s) for s in whole(a).shards] == [8, 1]


def test_compacting_waits_for_writers_and_they_for_it(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", 0, 8, shard_size=2, pictures=False)
    with StoreWriter(a, category="surfboard", person_masks=True) as writer:  # open meanwhile, with rows not yet committed
        batch: ImageBatch = make_batch(random_masks(1), 50)
        writer.append(batch, person_masks=PackedMasks.pack(random_masks(1)))
        compact_store(a, shard_size=8)
        assert b"image-003" in writer
    assert [len(s) for s in whole(a).shards] == [8, 1]


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_commands(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", 0, 6), fill(tmp_path / "b", 6, 4)
    told = run("store", "merge", a, b, "-o", tmp_path / "c")
    assert told.exit_code == 0, told.output
    assert "10 images in 3 shards (3 linked)" in told.output
    assert run("store", "merge", a, b, "-o", tmp_path / "c").exit_code == 2
    told = run("store", "merge", a, a, "-o", tmp_path / "d")
    assert (told.exit_code, "--skip" in told.stderr) == (2, True)
    (tmp_path / "keys.txt").write_text("image-001\nimage-008\n\n")
    told = run("store", "select", tmp_path / "c", "-o", tmp_path / "d", "--keys", tmp_path / "keys.txt", "--json")
    assert json.loads(told.stdout)["images"] == 2
    told = run("store", "select", tmp_path / "c", "-o", tmp_path / "e", "--prompt", "*1", "--status", "complete", "--json")
    assert json.loads(told.stdout)["images"] == 5
    told = run("store", "select", tmp_path / "c", "-o", tmp_path / "f", "--prompt", "no such")
    assert (told.exit_code, "expected one of 'prompt 0', 'prompt 1'" in told.stderr) == (2, True)
    told = run("store", "split", tmp_path / "c", "-o", tmp_path / "parts", "--parts", 2)
    assert told.output.count("5 images") == 2
    assert run("store", "split", tmp_path / "c", "-o", tmp_path / "parts2").exit_code == 2
    told = run("store", "compact", tmp_path / "c")
    assert "10 images in 1 shard, 1 of them new" in told.output
    assert "nothing to do" in run("store", "compact", tmp_path / "c").output
    assert run("store", "verify", tmp_path / "c").exit_code == 0


def test_compaction_killed_at_random_moments(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    fill(tmp_path / "like", 0, 40, shard_size=1)
    for number in range(20 if SOAK else 1):
        path = tmp_path / f"{number}"
        merge_stores([tmp_path / "like"], path)
        code = "import sys; from chorus.store.growing import compact_store as c; print('go', flush=True); c(sys.argv[1])"
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(float(rng.uniform(0, 0.4)))
            process.kill()
        assert len(whole(path)) == 40
