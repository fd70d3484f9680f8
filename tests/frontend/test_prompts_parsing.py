"""Prompts out of answers of every shape."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chorus.frontend.prompting.parsing import MOST_CHARACTERS, MOST_WORDS, Collected, mentions, same_words

A, B = "A person rides a motorcycle", "A person washes a motorcycle"


def collect(answer: str, category: str = "motorcycle", most: int = 20, cut: bool = False) -> Collected:
    found = Collected(category)
    assert found.add(answer, most, cut) == len(found.prompts)
    return found


SHAPES = {
    "plain": f"{A}\n{B}",
    "points": f"1. {A}.\n2. {B}.",
    "brackets": f"1) {A}\n(2) {B}",
    "dashes after numbers": f"1- {A}\n2 - {B}",
    "bare numbers": f"1 {A}\n2 {B}",
    "letters": f"a) {A}\nb) {B}",
    "bullets": f"- {A}\n* {B}",
    "other bullets": f"• {A}\n– {B}",
    "bullets and numbers": f"- 1. {A}\n- 2. {B}",
    "boxes": f"[ ] {A}\n- [x] {B}",
    "indented, Windows": f"  1.\t{A}\r\n\r\n  2.\t{B}\r\n",
    "quoted": f'1. "{A}"\n2. "{B}".',
    "typographic": f"1. “{A}”\n2. «{B}»",
    "single quotes": f"- '{A}'\n- '{B}'",
    "bold": f"**1.** **{A}**\n**2.** __{B}__",
    "italic": f"1. *{A}*\n2. _{B}_",
    "code": f"1. `{A}`\n2. `{B}`",
    "fenced": f"```text\n{A}\n{B}\n```",
    "labels": f"Prompt 1: {A}\n**Prompt 2:** {B}",
    "titles": f"1. Riding: {A}\n2. **Washing:** {B}",
    "chatter": f"Sure, here are 2 prompts:\n\n1. {A}\n2. {B}\n\nLet me know if you need more!",
    "chatter with the category": f"Certainly! Here are some prompts about a motorcycle.\n\n- {A}\n- {B}\n\nI hope it helps.",
    "chatter, quoted": f'I suggest "{A}" and perhaps "{B}" as prompts.',
    "heading": f"## Motorcycle\n---\n{A}\n***\n{B}",
    "one line, numbered": f"1. {A}. 2. {B}.",
    "one line, bare": f"{A}. {B}.",
    "one line, after a colon": f"Here you go: 1. {A}, 2. {B}",
    "one line, semicolons": f"(1) {A}; (2) {B}",
    "one line, commas": f"{A}, {B}",
    "json": f'["{A}", "{B}"]',
    "json in a fence": f'Here:\n```json\n{{"prompts": ["{A}", "{B}"]}}\n```\nEnjoy!',
    "json of objects": f'[{{"id": 1, "prompt": "{A}"}}, {{"id": 2, "prompt": "{B}"}}]',
    "json of parts": (
        '[{"subject": "A person", "verb": "rides", "object": "a motorcycle"}, '
        '{"Subject": "A person", "Verb": "washes", "Object": "a motorcycle"}]'
    ),
    "json of one text": f'{{"answer": "1. {A}\\n2. {B}"}}',
    "json over lines, broken": f'[\n  "{A}",\n  "{B}",\n',
    "json cut short": f'["{A}", "{B}", "A per',
    "python": f"['{A}', '{B}']",
    "table": f"| # | Prompt |\n|---|---|\n| 1 | {A} |\n| 2 | {B} |",
    "table of parts": (
        "| Subject | Verb | Object |\n|:--|:--|--:|\n| A person | rides | a motorcycle |\n| A person | washes | a motorcycle |"
    ),
    "arrows": "1. A person -> rides -> a motorcycle\n2. A person → washes → a motorcycle",
    "named parts": (
        "1. Subject: A person, Verb: rides, Object: a motorcycle\n2. Subject: A person; Verb: washes; Object: a motorcycle"
    ),
    "remarks": f"1. {A} - often seen\n2. {B} – takes long",
    "thoughts": f"<think>\nA person buys a motorcycle? No.\n</think>\n{A}\n{B}",
    "thoughts without a beginning": f"A person buys a motorcycle? No.\n</think>\n{A}\n{B}",
    "html": f"<ol><li>{A}</li><li>{B}</li></ol>",
    "invisible": f"\ufeff{A}\x00\n\u200b{B}",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str) -> None:
    assert collect(SHAPES[shape]).prompts == [A, B]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("He rides a motorcycle", "its subject is a pronoun"),
        ("Someone rides a motorcycle", "its subject is a pronoun"),
        ("I'm sorry, but I can't write about a motorcycle", "its subject is a pronoun"),
        ("A person rides a horse", "without 'motorcycle'"),
        ("Ride motorcycle", "shorter than 3 words"),
        ("A person rides a motorcycle " + "very " * 20 + "fast", "longer than 20 words or 120 characters"),
        ("A person rides a motorcycle in " + "Taumata" * 20, "longer than 20 words or 120 characters"),
        ("x" * 5000, "longer than"),
        ("Here are prompts for a motorcycle:", "not a prompt"),
        ("Please enjoy the motorcycle", "not a prompt"),
    ],
)
def test_what_is_dropped(line: str, reason: str) -> None:
    found = collect(f"1. {A}\n2. {line}\n3. {B}")
    assert found.prompts == [A, B]
    (dropped,) = found.dropped
    assert reason in dropped.reason


def test_duplicates_in_one_answer_and_over_several() -> None:
    found = collect(f"{A}\n{A.upper()}!\n- a person, rides a   motorcycle.")
    assert found.prompts == [A]
    assert [item.reason for item in found.dropped] == ["said already"] * 2
    assert found.add(f"{A}.\n{B}.", 20) == 1
    assert found.prompts == [A, B]


def test_no_more_than_wanted() -> None:
    found = collect(f"{A}\n{B}", most=1)
    assert found.prompts == [A]
    assert found.dropped[0].reason == "more than the 1 asked for"


def test_the_last_line_of_an_answer_that_was_cut() -> None:
    assert collect("1. " + A + "\n2. A person washes a motorcycle wit", cut=True).prompts == [A]
    assert collect(A, cut=True).prompts == []
    assert len(collect("1. " + A + "\n2. A person washes a motorcycle wit").prompts) == 2


@pytest.mark.parametrize("answer", ["", "\n\n", "```\n```", "[]", "{}", "---", "[[[[", "<think>" + A, "1.", "null", "\x00"])
def test_nothing_in_it(answer: str) -> None:
    found = collect(answer)
    assert found.prompts == []


@pytest.mark.parametrize(
    "piece", ["[", "{", '"', "[']", "1. ", "|", " - ", "*_", "<think>", "<a", "a: ", "subject ", "''", " \t"]
)
def test_long_rubbish_ends(piece: str) -> None:
    found = collect(piece * 60_000 + "]")
    assert found.prompts == []


@pytest.mark.parametrize(
    ("category", "text", "is_there"),
    [
        ("cell phone", "A person calls with a cell phone", True),
        ("cell phone", "Two people compare cellphones", True),
        ("cell phone", "A person holds a cell-phone", True),
        ("cell phone", "A person drops a phone", True),
        ("cell phone", "A person sits in a cell", False),
        ("skis", "A person carries one ski", True),
        ("bench", "Two people paint benches", True),
        ("scarf", "Two people tie scarves", True),
        ("tie", "A person unties a shoe", False),
        ("tie", "A person wears ties", True),
        ("bed", "A person goes to the bedroom", False),
        ("hat", "A person lifts the hat's rim", True),
        ("knife", "A cook sharpens knives", True),
        ("sunglasses", "A person cleans the sunglasses", True),
        ("glass", "A person lifts glasses", True),
        ("berry", "A person picks berries", True),
        ("tennis racket", "A person swings a TENNIS RACKET", True),
    ],
)
def test_mentions(category: str, text: str, is_there: bool) -> None:
    assert mentions(text, category) is is_there


def test_a_colon_inside_stays() -> None:
    assert collect("A person at 10:30 with the motorcycle").prompts == ["A person at 10:30 with the motorcycle"]
    assert collect("A 3-year-old child sits on a motorcycle").prompts == ["A 3-year-old child sits on a motorcycle"]


MARKS = ("[", '"', "1. ", "- ", "|", ": ", "\n", "**")
PIECES = st.one_of(st.sampled_from([*SHAPES.values(), A, B, *MARKS]), st.text(max_size=20))


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES))
@example(["0:", "0", "## Motorcycle\n---\nA person rides a motorcycle"])
def test_whatever_comes_what_is_kept_is_a_prompt(pieces: list[str]) -> None:
    found = collect("".join(pieces), most=7)
    assert len({same_words(prompt) for prompt in found.prompts}) == len(found.prompts) <= 7
    for prompt in found.prompts:
        assert mentions(prompt, "motorcycle")
        assert prompt.isprintable()
        assert prompt == prompt.strip()
        assert len(prompt.split()) >= 3
        assert len(same_words(prompt).split()) <= MOST_WORDS
        assert len(prompt) <= MOST_CHARACTERS + 1
