"""Names of files made from data: readable, unique, never hidden, never too long."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chorus.names import MOST_BYTES, file_stem, file_stems


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("a person holds a ball", "a-person-holds-a-ball"),
        ("rightHand", "rightHand"),
        ("человек держит мяч", "человек-держит-мяч"),
        ("人がボールを持っている", "人がボールを持っている"),
        ("हाथ में गेंद", "हाथ-में-गेंद"),
        ("Fußball: 2:1!", "Fußball-2-1"),
        ("../../etc/passwd", "etc-passwd"),
        (".hidden", "hidden"),
        ("000000.png", "000000-png"),
        ("a\x00b\nc\x1b[31m", "a-b-c-31m"),
        ("", "unnamed"),
        ("???", "unnamed"),
        ("CON", "CON-file"),
        ("lpt1", "lpt1-file"),
        ("-rf", "rf"),
    ],
)
def test_names_are_readable(text: str, stem: str) -> None:
    assert file_stem(text) == stem


@given(st.lists(st.text(), unique=True, max_size=20))
@example(["a ball", "a: ball", "a; ball", "A ball", "a-ball"])
@example(["e\u0301", "\u00e9", "E\u0301"])
@example(["x" * 300 + "a", "x" * 300 + "b"])
@example(["ball", "ball.", f"ball-{'1' * 8}"])
def test_names_differ_fit_and_do_not_depend_on_the_order(texts: list[str]) -> None:
    names = file_stems(texts)
    assert set(names) == set(texts)
    compared = {unicodedata.normalize("NFKC", name).casefold() for name in names.values()}
    assert len(compared) == len(texts)
    for name in names.values():
        assert 0 < len(name.encode()) <= MOST_BYTES + 65
        assert not name.startswith((".", "-"))
        assert not {"/", "\0"} & set(name)
    assert file_stems(reversed(texts)) == names


def test_a_name_that_is_taken_is_not_given() -> None:
    (name,) = file_stems(["any prompt"], taken=["any-prompt"]).values()
    assert name.startswith("any-prompt-")


def test_three_texts_of_one_name_have_the_same_names_in_every_order() -> None:
    found = [file_stems(order) for order in permutations(["a ball", "a: ball", "a; ball"])]
    assert all(names == found[0] for names in found)


def test_files_of_such_names_can_be_made(tmp_path: Path) -> None:
    texts = ["мяч" * 100, "a" * 500, "nul", "a/b", "a\\b", "a:b", "🎾 ball", " ", "..", "é", "e\u0301"]
    for name in file_stems(texts).values():
        (tmp_path / f"{name}.h5").write_text("")
    assert len(list(tmp_path.iterdir())) == len(texts)


def test_where_file_names_are_ascii_the_rest_is_left_out() -> None:
    code = "from chorus.names import file_stems; print(ascii(list(file_stems(['a \\u0447 ball', 'a \\u0448 ball']).values())))"
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    first, second = eval(done.stdout)
    assert first != second
    assert all(name.startswith("a-ball-") for name in (first, second))
