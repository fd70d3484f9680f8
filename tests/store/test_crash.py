"""Writers that die: the order of writing, real SIGKILLs at random moments, and a crash before each step to the disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.images import ImageBatch
from chorus.store import StoreWriter, open_store, store_info, verify_store
from tests.soak import SOAK
from tests.store.samples import make_batch, random_masks

NUM_IMAGES = 24
KILLS = 200 if SOAK else 20
FULL_DISKS = 200 if SOAK else 8

SERVER = """
import os, signal, sys, time
from chorus.store import sparse
from tests.store.test_crash import images, write_rest

sparse.encode(images([0]).masks)  # compiled code is loaded once, not by each writer

for line in sys.stdin:
    path, images, steps, seconds = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        write_rest(path, int(images), int(steps))
        os._exit(0)
    if seconds:
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)  # if it has ended already, nothing: it is there until waited for
    _, status = os.waitpid(child, 0)
    os.write(1, f"exit {status}\\n".encode())
"""
"""Forks a writer for each line of store, images, steps and seconds to live, so that no kill costs an import. Writers
print "committed <keys>" after each commit that returned; "exit" follows when one is dead."""


def key(index: int) -> str:
    return f"image-{index:02d}"


def images(indices: list[int]) -> ImageBatch:
    """Images with masks that follow from their numbers."""
    n = len(indices)
    masks = [np.random.default_rng(i).random((100, 120)) < 0.3 for i in indices]
    K = np.tile([[600.0, 0, 60], [0, 600, 50], [0, 0, 1]], (n, 1, 1))
    cameras = Cameras(np.tile(np.eye(3), (n, 1, 1)), np.tile([0.0, 0, 5], (n, 1)), K, np.tile([100, 120], (n, 1)))
    return ImageBatch(masks, cameras, np.zeros((n, 24, 3)), [key(i) for i in indices])


def picture(index: int) -> NDArray[np.uint8] | None:
    """That of an image; every other one is kept."""
    return None if index % 2 else np.full((100, 120, 3), 8 * index, np.uint8)


def write_share(path: str, share: int, shares: int) -> None:
    """Add every ``shares``-th image, two a shard."""
    with StoreWriter(path, category="ball", shard_size=2) as writer:
        for index in range(share, NUM_IMAGES, shares):
            writer.append(images([index]), pictures=[picture(index)])


def write_rest(path: str, count: int, steps: int) -> None:
    """Add those of ``count`` images that the store lacks, three a shard; die before step ``steps``, if >= 0."""
    if steps >= 0:
        _die_before_step(steps)
    with StoreWriter(path, category="ball", shard_size=3) as writer:
        lacking = [i for i in range(count) if key(i) not in writer]
        known = set(writer.keys)
        for first in range(0, len(lacking) + 2, 2):
            if first < len(lacking):
                some = lacking[first : first + 2]
                writer.append(images(some), pictures=[picture(i) for i in some])
            else:
                writer.flush()
            new = sorted(k.decode() for k in writer.keys - known)
            if new:
                known = set(writer.keys)
                os.write(1, f"committed {' '.join(new)}\n".encode())


def _die_before_step(steps: int) -> None:
    left = [steps]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*args, **kwargs)

        return call

    for name in ("mkdir", "fsync", "rename", "unlink", "open"):
        setattr(os, name, counted(getattr(os, name)))
    h5py.File.close = counted(h5py.File.close)
    h5py.File.create_dataset = counted(h5py.File.create_dataset)


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=120) == 0


def run_writer(
    server: subprocess.Popen[str], path: Path, count: int, steps: int = -1, seconds: float | None = None
) -> tuple[bool, set[str]]:
    """Let a writer run: whether it was killed, after some seconds or steps, and the keys it said were committed."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{path}\t{count}\t{steps}\t{'' if seconds is None else seconds}\n")
    server.stdin.flush()
    committed: set[str] = set()
    while True:
        word, _, rest = server.stdout.readline().strip().partition(" ")
        if word == "committed":
            committed.update(rest.split())
        else:
            assert word == "exit", (word, rest)
            assert int(rest) in (0, signal.SIGKILL)
            return int(rest) != 0, committed


def check(path: Path, committed: set[str]) -> set[str]:
    """The store is whole and has all that was said to be committed; returns the keys it has."""
    if not (path / "store.json").exists():  # killed before that
        assert not committed
        return set()
    assert verify_store(path) == []
    store = open_store(path)
    keys = [k.decode() for k in store.rows["key"]]
    assert committed <= set(keys)
    for name in keys:  # committed together with its row
        kept, made = store.picture(name), picture(int(name.split("-")[1]))
        assert (kept is None) == (made is None), name
        assert kept is None or np.array_equal(kept, made), name  # one colour, which a JPEG holds exactly
    for batch in store.batches():
        for row, name in enumerate(batch.keys.tolist()):
            mask = images([int(name.decode().split("-")[1])])
            assert np.array_equal(batch.masks.unpack(row), mask.masks.unpack(0))
    return set(keys)


@pytest.mark.slow
def test_writers_killed_at_random_moments(server: subprocess.Popen[str], tmp_path: Path) -> None:
    whole = {key(i) for i in range(NUM_IMAGES)}
    run_writer(server, tmp_path / "warm", 1)
    start = time.perf_counter()
    assert run_writer(server, tmp_path / "whole", NUM_IMAGES) == (False, whole)
    usual = time.perf_counter() - start
    rng = random.Random(3)
    kills = stores = parts = 0
    told: set[str] = set()
    states = set()
    while kills < KILLS or (len(states) < 4 and kills < 10 * KILLS):
        path = tmp_path / f"store-{stores}"
        killed, committed = run_writer(server, path, NUM_IMAGES, seconds=rng.uniform(0, 0.7 * usual))
        kills += killed
        told |= committed
        parts += len(list(path.glob("*/*.part")))
        keys = check(path, told)
        states.add(len(keys))
        usual *= 1.03 if killed else 0.8  # writers are slower where other work begins; about one of ten should end
        if not killed:
            assert keys == whole
            assert not list(path.glob("*/*.part"))
            stores, told = stores + 1, set()
    for path in tmp_path.glob("store-*"):
        killed, _ = run_writer(server, path, NUM_IMAGES)
        assert not killed
        assert check(path, set()) == whole
        assert not list(path.glob("**/*.part"))
        assert store_info(path)["pictures"]["orphans"] == 0  # what the dead had left is gone
    assert len(states) >= 4, f"the kills met too few states: {states}"
    print(f"{kills} kills, {stores} stores complete in between, {parts} left a temporary file, images seen: {states}")


@pytest.mark.slow
def test_a_crash_before_any_step_to_the_disk(server: subprocess.Popen[str], tmp_path: Path) -> None:
    whole = {key(i) for i in range(4)}
    for steps in range(300):
        path = tmp_path / f"{steps}"
        killed, committed = run_writer(server, path, 4, steps=steps)
        assert check(path, committed) in (set(), {key(i) for i in range(3)}, whole)
        if not killed:
            break
        with StoreWriter(path, category="ball") as writer:
            lacking = [i for i in range(4) if key(i) not in writer]
            if lacking:
                writer.append(images(lacking), pictures=[picture(i) for i in lacking])
        assert {p.name for p in path.glob("pictures/*")} <= {p.name for p in path.glob("shards/*")}  # no orphan is left
        assert check(path, whole) == whole
        assert not list(path.glob("**/*.part"))
    assert 60 < steps < 300
    assert committed == whole


def test_processes_write_at_once(tmp_path: Path) -> None:
    code = "import sys; from tests.store.test_crash import write_share; write_share(sys.argv[1], int(sys.argv[2]), 3)"
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s"), str(share)], env=ENVIRONMENT) for share in range(3)
    ]
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0, 0]
    assert check(tmp_path / "s", set()) == {key(i) for i in range(NUM_IMAGES)}
    assert len(open_store(tmp_path / "s").shards) == NUM_IMAGES // 2


def test_the_order_of_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, str]] = []
    path = tmp_path / "s"

    def name_of(handle: int) -> str:
        status = os.fstat(handle)
        (found,) = (p for p in [path.parent, path, *path.rglob("*")] if os.path.samestat(status, p.stat()))
        return found.name

    fsync, rename = os.fsync, os.rename

    def recorded_fsync(handle: int) -> None:
        name = name_of(handle)
        if name.endswith(".h5.part"):
            with h5py.File(path / "shards" / name) as file:  # closed by its writer, and complete
                assert file["mask/words"].attrs["sha256"] is not None
                assert file["vocab/view"].shape == (1,)
        steps.append(("fsync", name))
        fsync(handle)

    def recorded_rename(source: Path, target: Path) -> None:
        steps.append(("rename", f"{Path(source).name} -> {Path(target).name}"))
        rename(source, target)

    def recorded_replace(source: Path, target: Path) -> None:
        raise AssertionError("a replacement would overwrite what is there")

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    monkeypatch.setattr(os, "replace", recorded_replace)
    with StoreWriter(path, category="ball", shard_size=2) as writer:
        assert steps == [
            ("fsync", tmp_path.name),
            ("fsync", "s"),
            ("fsync", "store.json.part"),
            ("rename", "store.json.part -> store.json"),
            ("fsync", "s"),
        ]
        steps.clear()
        for first in (0, 2):
            writer.append(images([first, first + 1]))
            shard = max((path / "shards").iterdir()).name
            assert steps == [
                ("fsync", f"{shard}.part"),
                ("rename", f"{shard}.part -> {shard}"),
                ("fsync", "shards"),
            ]
            steps.clear()
    assert steps == []


def test_pictures_are_on_the_disk_before_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, renames = tmp_path / "s", []
    rename = os.rename

    def recorded(source: Path, target: Path) -> None:
        renames.append(Path(target).relative_to(path).parts[0])
        rename(source, target)

    with StoreWriter(path, category="ball") as writer:
        writer.append(images([0, 1]), pictures=[picture(0), picture(1)])
        monkeypatch.setattr(os, "rename", recorded)
    assert renames == ["pictures", "shards"]


def test_a_failed_commit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    with StoreWriter(path, category="ball") as writer:
        writer.append(images([0]))
    before = sorted(path.rglob("*"))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    writer = StoreWriter(path, category="ball", shard_size=2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            writer.append(images([1, 2]))
    assert sorted(path.rglob("*")) == before
    assert key(1) not in writer
    writer.close()  # there is room again
    assert len(open_store(path)) == 3


def test_leftovers_are_ignored_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with StoreWriter(path, category="ball") as writer:
        writer.append(images([0]))
    (shard,) = (path / "shards").iterdir()
    leftover = shard.with_name("00000001-dead.h5.part")
    leftover.write_bytes(shard.read_bytes()[:1000])
    assert verify_store(path) == []
    assert len(open_store(path)) == 1
    assert leftover.exists()
    StoreWriter(path, category="ball").close()
    assert not leftover.exists()


NO_ROOM = """
import resource, sys
from pathlib import Path
from chorus.store import StoreWriter, open_store
from tests.store.samples import make_batch, random_masks

path, times = Path(sys.argv[1]), int(sys.argv[2])
(shard,) = (path / "shards").glob("*.h5")
writer = StoreWriter(path, category="ball")
writer.append(make_batch(random_masks(4), 100))
for i in range(times):
    room = i * (shard.stat().st_size - 4096) // times
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))  # files end here, as on a full disk
    try:
        writer.flush()
    except OSError as error:
        print("no room:", error.strerror)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert len(open_store(path)) == 4 and not list(path.glob("*/*.part"))
writer.close()  # what was appended is still there, and there is room again
"""


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    """HDF5 itself, writing to the disk, would leave handles behind that crash the process at its end."""
    with StoreWriter(tmp_path / "s.chorus", category="ball") as writer:
        writer.append(make_batch(random_masks(4)))
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, str(tmp_path / "s.chorus"), str(FULL_DISKS)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, FULL_DISKS * "no room: File too large\n"), done.stderr
    assert len(open_store(tmp_path / "s.chorus")) == 8
    assert not list((tmp_path / "s.chorus" / "shards").glob("*.part"))
