"""Pickles of plain data: what is read, of every protocol and by joblib, and that nothing else is, or is run."""

from __future__ import annotations

import collections
import io
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import joblib
import numpy as np
import pytest

from chorus.errors import InputError
from chorus.pickles import read_pickle

DATA: dict[str, Any] = {
    "matrix": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "words": np.array(["a", "\u043c\u044f\u0447"]),
    "number": np.float64(0.25),
    "flags": np.array([True, False]),
    "none": None,
    "list": [1, 2.5, "x", b"y", (3, None)],
    "inner": {"deep": {"er": np.zeros((0, 3))}},
}


def same(found: Any, given: Any) -> None:
    if isinstance(given, np.ndarray):
        assert found.dtype == given.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found, given)
    elif isinstance(given, dict):
        assert set(found) == set(given)
        for key, value in given.items():
            same(found[key], value)
    elif isinstance(given, (list, tuple)):
        assert isinstance(found, list)
        assert len(found) == len(given)
        for a, b in zip(found, given, strict=True):
            same(a, b)
    else:
        assert found == given


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_every_protocol(protocol: int) -> None:
    same(read_pickle(io.BytesIO(pickle.dumps(DATA, protocol))), DATA)


def test_dictionaries_with_defaults_objects_and_paths() -> None:
    tracks = collections.defaultdict(dict)
    tracks[3]["pose"] = np.ones(3)
    assert set(read_pickle(io.BytesIO(pickle.dumps(tracks)))) == {3}
    ordered = collections.OrderedDict(a=1)
    assert read_pickle(io.BytesIO(pickle.dumps(ordered))) == {"a": 1}
    assert read_pickle(io.BytesIO(pickle.dumps(np.array({"a": 1}, object)))) == {"a": 1}
    assert read_pickle(io.BytesIO(pickle.dumps([PurePosixPath("a/b.png")]))) == ["a/b.png"]


def test_files_of_joblib(tmp_path: Path) -> None:
    given = {0: {name: DATA[name] for name in ("matrix", "columns", "flags", "words", "inner")}, 1: [DATA["big"]]}
    joblib.dump(given, tmp_path / "x.pkl")
    same(read_pickle(tmp_path / "x.pkl"), given)
    joblib.dump(given, tmp_path / "z.pkl", compress=3)
    with pytest.raises(InputError, match="damaged or foreign file"):
        read_pickle(tmp_path / "z.pkl")


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Calls(eval, "ran.append(1)"),
        Calls(print, "ran"),
        [1, {"a": Calls(exec, "ran")}],
        {Calls(open, "/dev/null")},
        Calls(np.load, "x.npy"),
        Calls(io.BytesIO),
        np.array([Calls(print, "ran"), 1], object),
        np.dtype("f4"),
        object(),
        3 + 4j,
        np.array([1 + 1j]),
    ],
)
def test_everything_else_is_refused(value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError):
        read_pickle(io.BytesIO(pickle.dumps(value)))
    assert capsys.readouterr().out == ""


def test_data_that_contains_itself() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(InputError, match="deep"):
        read_pickle(io.BytesIO(pickle.dumps(ring)))


def test_damage_is_an_error_of_ours_or_harmless(tmp_path: Path) -> None:
    joblib.dump({"a": DATA["matrix"], "b": ["x", 1.5]}, tmp_path / "j.pkl")
    rng = np.random.default_rng(0)
    for whole in (pickle.dumps(DATA), (tmp_path / "j.pkl").read_bytes()):
        for _ in range(300):
            broken = bytearray(whole)
            for place in rng.integers(0, len(whole), 3):
                broken[place] = rng.integers(0, 256)
            for content in (bytes(broken), whole[: int(rng.integers(0, len(whole)))]):
                try:
                    read_pickle(io.BytesIO(content))
                except InputError:
                    continue
