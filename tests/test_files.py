"""Atomic writes: the old file or all of the new one, whatever goes wrong on the way."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from chorus.errors import StoreError
from chorus.files import PART_SUFFIX, remove_leftovers, write_atomically, write_new


def write(part: Path) -> None:
    part.write_bytes(b"new")


@pytest.mark.parametrize("name", ["a.h5", "a", "x" * 251 + ".jpg"])
def test_a_file_is_made_or_replaced(name: str, tmp_path: Path) -> None:
    path, seen = tmp_path / name, []

    def watched(part: Path) -> None:
        seen.append((part.parent, part.suffix, path.read_bytes() if path.exists() else None))
        write(part)

    for before in (None, b"new"):
        write_atomically(path, watched)
        assert path.read_bytes() == b"new"
        assert seen[-1] == (tmp_path, path.suffix or PART_SUFFIX, before)
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_it_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", write)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_bytes_are_on_the_medium_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, steps = tmp_path / "a.txt", []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"{os.fstat(handle).st_size} bytes")
        fsync(handle)

    def recorded_replace(source: Path, target: Path) -> None:
        steps.append(f"rename to {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write_atomically(path, write)
    assert steps == ["3 bytes", "rename to a.txt", "folder"]


def fail_to_write(part: Path) -> None:
    part.write_bytes(b"half")
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", ["write", "fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if how != "write":
        monkeypatch.setattr(os, how, full)
    with pytest.raises(KeyboardInterrupt if how == "write" else OSError):
        write_atomically(path, fail_to_write if how == "write" else write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("number", "raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced_is_no_error_and_one_that_fails_is(
    number: int, raised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def no_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, "folder")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", no_folders)
    if raised:
        with pytest.raises(OSError, match="folder"):
            write_atomically(tmp_path / "a", write)
    else:
        write_atomically(tmp_path / "a", write)
    assert (tmp_path / "a").read_bytes() == b"new"


def test_folders_too(tmp_path: Path) -> None:
    def fill(part: Path) -> None:
        part.mkdir()
        (part / "file").write_bytes(b"new")

    def fill_and_fail(part: Path) -> None:
        fill(part)
        raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write_atomically(tmp_path / "a", fill_and_fail)
    assert list(tmp_path.iterdir()) == []
    write_atomically(tmp_path / "a", fill)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == ["a", "a/file"]


def link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("take", [write, link, Path.mkdir])
def test_write_new_refuses_a_name_that_is_taken(take: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a"
    take(path)
    with pytest.raises(StoreError, match="expected a new name"):
        write_new(path, write)
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_the_dead_are_found(tmp_path: Path) -> None:
    (tmp_path / "b.part").write_bytes(b"half")
    write_new(tmp_path / "a", write)
    assert remove_leftovers(tmp_path) == [tmp_path / "b.part"]
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
