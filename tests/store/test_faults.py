"""Faults of disks and machines: random damage, power that fails between two steps, files that change while they are read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chorus
from chorus.errors import InputError, StoreError
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import StoreWriter, open_store, verify_store
from chorus.store.growing import compact_store, merge_stores, split_store
from chorus.store.remote.index import write_index
from tests.soak import SOAK
from tests.store.samples import make_batch, random_masks, shards
from tests.store.test_crash import images, key, picture
from tests.store.test_growing import fill

CORRUPTIONS = 1000 if SOAK else 50


def contents(path: Path) -> tuple[Any, ...]:
    """All that a store answers with: columns, masks of object and person, and the pictures that are there."""
    store = open_store(path)
    rows = store.select(status=None)
    columns = {name: column.tobytes() for name, column in store.rows.items()}
    masks = [store.batch(rows).masks, store.person_masks(rows)]
    return store.id, columns, [(m.words.tobytes(), m.box.tobytes()) for m in masks]


def pictures_of(path: Path) -> dict[bytes, bytes]:
    store = open_store(path)
    return {k: store.pictures.encoded(k).data for k in store.pictures}


def spoil(rng: np.random.Generator, path: Path) -> str:
    """Damage a file: a bit or a run of bytes flipped, cut short, made longer, replaced by zeros, removed."""
    content = bytearray(path.read_bytes())
    how = str(rng.choice(["flip", "run", "truncate", "extend", "zeros", "delete", "swap"]))
    at = int(rng.integers(len(content)))
    if how == "flip":
        content[at] ^= 1 << int(rng.integers(8))
    elif how == "run":
        end = min(len(content), at + int(rng.integers(1, 600)))
        content[at:end] = rng.integers(0, 256, end - at, np.uint8).tobytes()
    elif how == "truncate":
        del content[at:]
    elif how == "extend":
        content += rng.integers(0, 256, int(rng.integers(1, 5000)), np.uint8).tobytes()
    elif how == "zeros":
        end = min(len(content), at + 4096)
        content[at:end] = bytes(end - at)
    elif how == "swap":  # blocks of a disk
        other = int(rng.integers(len(content)))
        a, b = bytes(content[at : at + 512]), bytes(content[other : other + 512])
        content[at : at + len(b)], content[other : other + len(a)] = b, a
    path.unlink()
    if how != "delete":
        path.write_bytes(content)
    return how


def test_random_damage_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    """In any file that holds images. store.json says what they are of, and is compared with every shard."""
    sound = fill(tmp_path / "sound", 0, 6, shard_size=3)
    write_index(sound)
    expected, kept = contents(sound), pictures_of(sound)
    rng = np.random.default_rng(11)
    files = [p.relative_to(sound) for p in sorted(sound.rglob("*")) if p.is_file() and p.name != ".lock"]
    weights = np.array([(sound / f).stat().st_size + 2000.0 for f in files])
    seen: dict[str, list[int]] = {}
    path = tmp_path / "spoiled"
    for _ in range(CORRUPTIONS):
        shutil.copytree(sound, path)
        file = files[int(rng.choice(len(files), p=weights / weights.sum()))]
        how = spoil(rng, path / file)
        problems = verify_store(path)
        noticed = bool(problems)
        assert all(problem.what for problem in problems)
        try:
            found = contents(path)
            still = pictures_of(path)
        except InputError:
            assert noticed, f"{how} of {file}: an error, but verify_store says nothing"
        else:
            gone = how == "delete" and file.parent.name == "shards"  # the index alone knows of it
            assert noticed or not gone, f"{how} of {file}: nobody noticed"
            assert gone or found == expected, f"{how} of {file}: other content, {problems}"
            assert still.items() <= kept.items(), f"{how} of {file}: other pictures"
            if file.parent.name == "pictures" and still != kept:
                assert noticed or how == "delete"  # pictures may be deleted
        seen.setdefault(how, []).append(noticed)
        shutil.rmtree(path)
    print({how: f"{sum(found)} of {len(found)} noticed" for how, found in seen.items()})
    assert len(seen) == 7


class Disk:
    """What a disk has been told, step by step, of a folder: entries of folders, contents, and what was flushed.

    Metadata reaches the disk in order, all that came before an fsync of a folder with it; contents when their file is fsynced.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[tuple[dict[int, dict[str, int]], int]] = []  # the tree after each step; the step it is flushed up to
        self.flushed: dict[int, list[tuple[int, bytes]]] = {}  # inode -> (step, content)
        self.promised: list[tuple[int, Any]] = []
        self._held: dict[int, int] = {}  # open files: their inodes are not given to others
        tree = self._look()
        self.steps.append((tree, 0))
        for path in root.rglob("*"):
            if path.is_file():
                self.flushed[path.stat().st_ino] = [(0, path.read_bytes())]

    def _look(self) -> dict[int, dict[str, int]]:
        tree: dict[int, dict[str, int]] = {self.root.stat().st_ino: {}}
        for path in self.root.rglob("*"):
            status = path.lstat()
            tree.setdefault(path.parent.stat().st_ino, {})[path.name] = status.st_ino
            if status.st_ino not in self._held:
                self._held[status.st_ino] = os.open(path, os.O_RDONLY)
            if path.is_dir():
                tree.setdefault(status.st_ino, {})
        return tree

    def close(self) -> None:
        """Give the inodes free."""
        for handle in self._held.values():
            os.close(handle)

    def step(self) -> None:
        self.steps.append((self._look(), self.steps[-1][1]))

    def fsync(self, handle: int) -> None:
        status = os.fstat(handle)
        tree = self._look()
        number = len(self.steps)
        if status.st_ino in tree:
            self.steps.append((tree, number))
            return
        self.steps.append((tree, self.steps[-1][1]))
        content = os.pread(handle, status.st_size, 0)
        self.flushed.setdefault(status.st_ino, []).append((number, content))

    def promise(self, what: Any) -> None:
        """From now on this must be there, whatever happens."""
        self.promised.append((len(self.steps) - 1, what))

    def after_a_crash(self, every: int = 1) -> Iterator[tuple[str, Callable[[Path], None], list[Any]]]:
        """The states that the disk may have after power failed: a name, what makes it, and what was promised by then.

        every  not all of them, but each so many-th
        """
        made = set()
        for crash, (_, flushed) in enumerate(self.steps):
            promised = [what for step, what in self.promised if step <= crash]
            for step in range(flushed, crash + 1):
                for torn in (False, True):
                    tree = self.steps[step][0]
                    contents = {i: self._content(i, crash, torn) for entries in tree.values() for i in entries.values()}
                    mark = repr((sorted((k, sorted(v.items())) for k, v in tree.items()), sorted(contents.items()), promised))
                    if mark not in made:
                        made.add(mark)
                        if len(made) % every:
                            continue
                        yield f"crash {crash}, metadata {step}", self._maker(tree, contents), promised

    def _content(self, inode: int, crash: int, torn: bool) -> bytes:
        known = [content for step, content in self.flushed.get(inode, []) if step <= crash]
        return known[-1] if known else b"\0" * 100 if torn else b""

    def _maker(self, tree: dict[int, dict[str, int]], contents: dict[int, bytes]) -> Callable[[Path], None]:
        def make(target: Path, folder: int = self.root.stat().st_ino) -> None:
            target.mkdir()
            for name, inode in tree[folder].items():
                if inode in tree:
                    make(target / name, inode)
                else:
                    (target / name).write_bytes(contents[inode])

        return make


@contextmanager
def recorded(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A context in which what is done to a folder is recorded as a disk would be told."""
    disk = Disk(root)
    with monkeypatch.context() as patch:
        real_fsync = os.fsync

        def fsync(handle: int) -> None:
            real_fsync(handle)
            disk.fsync(handle)

        def noted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                result = function(*args, **kwargs)
                disk.step()
                return result

            return call

        patch.setattr(os, "fsync", fsync)
        for name in ("rename", "replace", "unlink", "link", "mkdir", "rmdir"):
            patch.setattr(os, name, noted(getattr(os, name)))
        yield disk
        disk.step()
    disk.close()


def test_power_that_fails_while_a_store_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    with recorded(root, monkeypatch) as disk, StoreWriter(root / "s", category="ball", shard_size=2) as writer:
        for first in (0, 2, 4):
            writer.append(images([first, first + 1]), pictures=[picture(first), picture(first + 1)])
            disk.promise({key(first).encode(), key(first + 1).encode()})
    states = 0
    for name, make, promised in disk.after_a_crash(1 if SOAK else 3):
        place = tmp_path / "after"
        make(place)
        store = place / "s"
        if not (store / "store.json").exists():
            assert promised == [], name
        else:
            assert verify_store(store) == [], name
            opened = open_store(store)
            keys = set(opened.rows["key"].tolist())
            assert set().union(*promised) <= keys, name
            for k in keys:
                made = picture(int(k.decode().split("-")[1]))
                assert (opened.picture(k) is None) == (made is None), name
        StoreWriter(store, category="ball").close()  # and writers go on from there
        assert verify_store(store) == [], name
        shutil.rmtree(place)
        states += 1
    assert states > 10


def test_power_that_fails_while_a_store_is_compacted_or_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    fill(root / "s", 0, 6, shard_size=2)
    write_index(root / "s")
    keys = open_store(root / "s").rows["key"].tolist()
    with recorded(root, monkeypatch) as disk:
        merge_stores([root / "s"], root / "merged")
        disk.promise("merged")
        compact_store(root / "s", shard_size=4)
        disk.promise("compacted")
    shapes = set()
    for name, make, promised in disk.after_a_crash(1 if SOAK else 7):
        place = tmp_path / "after"
        make(place)
        assert verify_store(place / "s") == [], name
        store = open_store(place / "s")
        assert store.rows["key"].tolist() == keys, name
        assert [store.picture(k) is None for k in keys] == [True, False] * 3, name
        shapes.add((len(store.shards), (place / "merged").exists()))
        assert len(store.shards) == 2 or "compacted" not in promised, name
        assert (place / "merged").exists() or "merged" not in promised, name
        if (place / "merged").exists():
            assert verify_store(place / "merged") == [], name
            assert open_store(place / "merged").rows["key"].tolist() == keys, name
        shutil.rmtree(place)
    assert shapes == {(3, False), (3, True), (2, True)}


@pytest.fixture
def voting(tmp_path: Path) -> Path:
    """A store whose images vote, in 4 shards."""
    write_world(tmp_path / "one", [WORLDS["ball-held"]], num_images=16)
    parts = split_store(tmp_path / "one", tmp_path / "parts", parts=4)
    merge_stores([part.path for part in parts], tmp_path / "s")
    for file in shards(tmp_path / "s"):  # files of their own, not links
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    return tmp_path / "s"


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[open_store(path.parents[1]).shards[3].arrays["mask/words"].offset + 9] ^= 8
    path.write_bytes(content)


def _later_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"version": 2', b'"version": 3'))


def _other(path: Path) -> None:
    with StoreWriter(path.parents[2] / "other", category="ball") as writer:
        writer.append(make_batch(random_masks(3), 70))
    shutil.copy(shards(path.parents[2] / "other")[0], path)


@pytest.mark.parametrize("fault", [Path.unlink, _truncate, _flip, _later_version, _other])
def test_a_shard_that_changes_after_the_store_was_opened(
    voting: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path], None]
) -> None:
    """Where it has not been read yet: an error that names it, or nothing changed; never other votes."""
    field = chorus.CanonicalField(chorus.load_body(), resolution=12)
    expected = chorus.aggregate(voting, field)
    last = shards(voting)[3]
    import chorus.votes.selection as selection

    opened = selection.open_store

    def and_then(*args: Any, **kwargs: Any) -> Any:
        store = opened(*args, **kwargs)
        fault(last)
        return store

    monkeypatch.setattr(selection, "open_store", and_then)
    if fault is _later_version:  # its header was read before
        found = chorus.aggregate(voting, field)
        assert np.array_equal(found.num_counts, expected.num_counts)
    else:
        with pytest.raises(StoreError, match=last.name):
            chorus.aggregate(voting, field)
    monkeypatch.undo()
    if fault is Path.unlink:
        assert verify_store(voting) == []  # of 12 images: only an index knows
    else:
        assert verify_store(voting)


def test_clocks_that_go_back_change_nothing(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", 0, 6, shard_size=2)
    keys, identity = open_store(a).rows["key"].tolist(), open_store(a).id
    for number, file in enumerate(shards(a)):
        os.utime(file, (10**9 - 10**6 * number, 10**9 - 10**6 * number))
    fill(a, 6, 2)
    os.utime(shards(a)[3], (0, 0))
    assert open_store(a).rows["key"].tolist()[:6] == keys
    assert open_store(a).id != identity
    compact_store(a)
    assert open_store(a).rows["key"].tolist()[:6] == keys


def test_what_cannot_be_written_to_is_read_and_refused_to_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = fill(tmp_path / "a", 0, 6, shard_size=2)
    real = os.open

    def refuse(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    assert verify_store(a) == []
    assert len(list(open_store(a).batches())) == 3
    for write in (
        lambda: compact_store(a),
        lambda: write_index(a),
        lambda: StoreWriter(a, category="surfboard", person_masks=True),
    ):
        with pytest.raises(OSError, match="Read-only file system"):
            write()
    monkeypatch.undo()
    assert verify_store(a) == []
    assert sorted(p.name for p in a.iterdir()) == [".lock", "pictures", "shards", "store.json"]
