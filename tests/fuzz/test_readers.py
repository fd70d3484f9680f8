"""No file that a reader is given, however made, gets more out of it than its declared errors (``tests/fuzz/readers.py``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import guard
from tests.fuzz.cases import Place, changed
from tests.fuzz.guard import Finding, attempt
from tests.fuzz.readers import READERS, seeds_of
from tests.soak import SOAK

EXAMPLES = 2000 if SOAK else 50
SLOW = {"store": 3}
"""How many times slower a reader is than others, to be tried with fewer files."""


class Drawn:
    """Choices by hypothesis, which makes them smaller where one finds something."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def integer(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))

    def data(self, most: int) -> bytes:
        return self._data.draw(st.binary(max_size=most))


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Place() as made:
        yield made


@pytest.mark.parametrize("name", READERS)
def test_valid_files_are_read(name: str, place: Place) -> None:
    passed = [place.read(name, seed, seed.files[seed.target]) for seed in seeds_of(name)]
    assert any(passed) if name == "picture" else all(passed)  # a picture in colours is no mask


@pytest.mark.parametrize("name", READERS)
def test_changed_files_are_read_or_refused(name: str, place: Place) -> None:
    @settings(
        max_examples=EXAMPLES // SLOW.get(name, 1),
        deadline=None,
        derandomize=not SOAK,  # the suite tries the same files every time, `make soak` others
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if SOAK else (Phase.generate,),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        place.read(name, *changed(name, Drawn(data)))

    check()


def test_the_guard_sees_what_it_is_there_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SECONDS", 0.2)
    monkeypatch.setattr(guard, "MEMORY", 32 << 20)
    folder = tmp_path / "case"
    folder.mkdir()
    (tmp_path / "other").write_text("x")

    def fails(read: Callable[[Path], object], words: str) -> None:
        with pytest.raises(Finding, match=words):
            attempt(read, folder, (ValueError,))

    def wrong(_: object) -> None:
        raise KeyError("k")

    def silent(_: object) -> None:
        raise ValueError

    def deep(_: object) -> None:
        deep(_)

    fails(wrong, "KeyError")
    fails(silent, "without a word")
    fails(deep, "RecursionError")
    fails(lambda f: (f / "../../other").resolve() and (tmp_path / "other").read_text(), "outside its folder: open .*other")
    fails(lambda _: __import__("subprocess").run(["true"]), "outside its folder: subprocess")
    fails(lambda _: bytearray(b"x") * (700 << 20), "MiB more|took .* s")
    fails(lambda _: sum(range(2 * 10**7)), "took .* s")
    assert attempt(lambda f: (f / "x").write_text("y"), folder, ())
