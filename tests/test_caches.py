"""A cache is never needed: fields are computed whatever is wrong with its place or its files, and that is said once."""

from __future__ import annotations

import errno
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chorus import field as field_module
from chorus.body.model import Body
from chorus.field import CanonicalField
from chorus.files import warn_once


@pytest.fixture(scope="module")
def body() -> Body:
    """40 vertices around three joints."""
    rng = np.random.default_rng(0)
    joints = np.array([[0, 0, 0], [0.2, -0.1, 0], [-0.2, -0.1, 0]])
    vertices = joints[rng.integers(0, 3, 40)] + rng.normal(0, 0.25, (40, 3))
    weights = rng.dirichlet([0.3, 0.3, 0.3], 40)
    faces = rng.integers(0, 40, (20, 3))
    return Body("three joints", vertices, faces, joints, [-1, 0, 0], weights, ["pelvis", "left_hip", "right_hip"])


def _fields(body: Body) -> list[CanonicalField]:
    return [CanonicalField(body, n, k=3) for n in (4, 5, 6)]


def _equal(one: CanonicalField, other: CanonicalField) -> bool:
    return all((getattr(one.arrays, name) == getattr(other.arrays, name)).all() for name in ("offset", "joint", "weight"))


def _check(body: Body, caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """Three fields are right, and one warning with these words, and with what mends it, is logged."""
    with caplog.at_level(logging.WARNING):
        made = _fields(body)
    assert all(_equal(m, CanonicalField(body, m.resolution, k=3, cache=False)) for m in made)
    messages = [r.getMessage() for r in caplog.records]
    assert len(messages) == 1, messages
    assert all(word in messages[0] for word in (*words, "CHORUS_CACHE")), messages


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chorus.files._warned", set())


def test_without_platformdirs(body: Body, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("CHORUS_CACHE", raising=False)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    _check(body, caplog, "no folder for cached fields is known", "platformdirs")


def test_without_a_home(body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.delenv("CHORUS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "file" / "home"))
    if sys.platform == "win32":
        pytest.skip("Windows asks the registry")
    _check(body, caplog, "not cached in", "home")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ValueError("write to closed file")])
def test_a_full_disk(
    error: Exception, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fill(file: Path, **_: Any) -> None:
        Path(file).write_bytes(b"PK\x03\x04 half of it")
        raise error

    monkeypatch.setenv("CHORUS_CACHE", str(tmp_path))
    monkeypatch.setattr(field_module.np, "savez", fill)
    _check(body, caplog, "not cached in", str(error))
    assert not list((tmp_path / "fields").iterdir())


OTHER = {
    "floats": lambda a: {**a, "offset": a["offset"].astype(float)},
    "a table": lambda a: {**a, "joint": a["joint"][None]},
    "no rows": lambda a: {name: value[:0] for name, value in a.items()},
    "rows of another file": lambda a: {**a, "offset": a["offset"] + 7},
    "rows out of order": lambda a: {**a, "offset": np.concatenate([a["offset"][:1], a["offset"][-2:0:-1], a["offset"][-1:]])},
    "fewer weights": lambda a: {**a, "weight": a["weight"][:-1]},
    "joints below 0": lambda a: {**a, "joint": a["joint"] - 5},
    "a joint twice": lambda a: {**a, "joint": np.repeat(a["joint"][a["offset"][:-1]], np.diff(a["offset"]))},
}


@pytest.mark.parametrize("other", OTHER)
def test_files_with_other_arrays(
    other: str, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CHORUS_CACHE", str(tmp_path))
    for made in _fields(body):
        path = tmp_path / "fields" / f"{made.hash}.npz"
        with np.load(path) as archive:
            whole = dict(archive)
        np.savez(path, **OTHER[other](whole))  # type: ignore[no-untyped-call]
    _check(body, caplog, "could not be read", "other arrays")
    caplog.clear()
    _fields(body)
    assert not caplog.records  # they are whole again


def test_a_warning_is_given_once_for_each_thing(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("chorus.test")
    with caplog.at_level(logging.INFO):
        for about in ("a", "b", "a"):
            warn_once(log, about, f"about {about}")
        warn_once(logging.getLogger("chorus.other"), "a", "about another a")
    assert [r.getMessage() for r in caplog.records] == ["about a", "about b", "about another a"]
