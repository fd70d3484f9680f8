"""HDF5 files are opened in one place: without locks, and with errors that say what a file is instead."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import chorus
from chorus import hdf5
from chorus.errors import InputError, StoreError
from chorus.occupancy.counts import load_occupancy
from chorus.store import open_store

NO_LOCKS = """
#include <errno.h>
#include <stdlib.h>
int flock(int file, int operation) { errno = atoi(getenv("LOCK_ERROR")); return -1; }
"""

VOTES = """
import sys, numpy as np, chorus
from pathlib import Path
occupancy = chorus.load_occupancy(sys.argv[1])
occupancy.save(Path(sys.argv[1]).with_name("again.h5"))
print(chorus.load_occupancy(Path(sys.argv[1]).with_name("again.h5")).num_images)
print(len(chorus.open_store(sys.argv[2]).batch([0])))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and an occupancy of it."""
    from chorus.simulate.images import WORLDS, write_world

    folder = tmp_path_factory.mktemp("hdf5")
    write_world(folder / "hat.chorus", [WORLDS["hat"]], 4, 0)
    chorus.aggregate(folder / "hat.chorus", chorus.CanonicalField(chorus.load_body(), 8)).save(folder / "hat.h5")
    return folder


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler to make locks fail")
@pytest.mark.parametrize("error", [37, 524])  # ENOLCK, and ENOTSUPP of NFS
def test_file_systems_without_locks(error: int, made: Path, tmp_path: Path) -> None:
    (tmp_path / "locks.c").write_text(NO_LOCKS)
    library = tmp_path / "locks.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "locks.c"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "LOCK_ERROR": str(error)}
    command = [sys.executable, "-c", VOTES, str(made / "hat.h5"), str(made / "hat.chorus")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "1"


def _make(kind: str, folder: Path, made: Path) -> Path:
    path = folder / "x.h5"
    whole = (made / "hat.h5").read_bytes()
    if kind == "a store":
        return made / "hat.chorus"
    if kind == "a folder":
        return folder
    if kind == "a zip or .npz file":
        np.savez(folder / "x.npz", a=np.zeros(2))
        return folder / "x.npz"
    if kind == "a .npy file":
        np.save(folder / "x.npy", np.zeros(2))
        return folder / "x.npy"
    if kind == "a PNG picture":
        Image.new("L", (4, 4)).save(folder / "x.png")
        return folder / "x.png"
    if kind == "another HDF5 file":
        with h5py.File(path, "w") as file:
            file["a"] = [1, 2]
        return path
    content = {
        "an empty one": b"",
        "a damaged or truncated one": whole[: len(whole) // 2],
        "a JSON file": b'{"a": 1}',
        "a file of another kind": b"words, words",
        "no such file": None,
    }[kind]
    if content is not None:
        path.write_bytes(content)
    return path


KINDS = [
    *("a store", "a folder", "a zip or .npz file", "a .npy file", "a PNG picture", "another HDF5 file", "an empty one"),
    *("a damaged or truncated one", "a JSON file", "a file of another kind", "no such file"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_instead_is_named(kind: str, made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        load_occupancy(_make(kind, tmp_path, made))
    assert f"got {kind}" in str(refused.value)
    assert "expected" in str(refused.value)
    assert ".c" not in str(refused.value).replace(".chorus", "")  # HDF5's own words name its source files


def test_an_occupancy_is_no_store(made: Path) -> None:
    with pytest.raises(StoreError, match="expected a store"):
        open_store(made / "hat.h5")


def test_an_occupancy_has_the_name_of_one(made: Path, tmp_path: Path) -> None:
    occupancy = load_occupancy(made / "hat.h5")
    with pytest.raises(InputError, match=r"path: expected a name ending in \.h5 or \.hdf5, got '.*x\.npz'"):
        occupancy.save(tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())


def test_errors_inside_the_context_are_ours(made: Path) -> None:
    with (
        pytest.raises(InputError, match="expected numbers, got a damaged one"),
        hdf5.reading(made / "hat.h5", "numbers", InputError) as file,
    ):
        file["nothing"]
    with pytest.raises(StoreError, match="my own"), hdf5.reading(made / "hat.h5", "numbers", InputError):
        raise StoreError("my own")


def test_files_are_made_in_memory_by_several_threads_at_once() -> None:
    """One within the other, as threads may have it."""
    inner: list[bytes] = []

    def fill(file: h5py.File) -> None:
        inner.append(hdf5.image(lambda other: other.create_dataset("other", data=[1, 2])))
        file["mine"] = [3]

    contents = [hdf5.image(fill), *inner]
    names = []
    for content in contents:
        with h5py.File(io.BytesIO(content)) as file:
            names.append(list(file))
    assert names == [["mine"], ["other"]]
