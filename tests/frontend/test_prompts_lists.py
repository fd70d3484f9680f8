"""Our own lists and the numbers of Table 3; prompts of files; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chorus.errors import InputError
from chorus.frontend.prompting import PRESETS, VIEWS, Preset, category_name, preset, usual_count
from chorus.frontend.prompting.asking import Question
from chorus.frontend.prompting.lists import PROMPTS
from chorus.frontend.prompting.parsing import same_words, why_not
from chorus.frontend.registry import make, stages
from chorus.frontend.stages import Runtime

TABLE_3 = """
motorcycle 12 47520, bench 12 31680, backpack 20 42240, handbag 4 23760, tie 10 31680, frisbee 3 21780, skis 12 34848,
snowboard 4 7920, sports ball 8 19008, baseball glove 5 11880, skateboard 16 50688, surfboard 16 73920,
tennis racket 15 47520, cell phone 20 84480, bicycle 18 42768, umbrella 7 16632, chair 17 47124, bed 5 11880,
laptop 17 53856, hat 10 31680, sweater 3 5940, sunglasses 3 5940, soccer ball 5 15840, scarf 5 15840
"""


def test_presets_are_table_3() -> None:
    rows = {}
    for row in TABLE_3.replace("\n", " ").split(","):
        *name, prompts, images = row.split()
        rows[" ".join(name)] = (int(prompts), int(images))
    assert {name: (p.prompts, p.images) for name, p in PRESETS.items()} == rows
    assert sum(p.images for p in PRESETS.values()) == 776_424  # the paper's total
    for p in PRESETS.values():
        assert p.per_view * p.prompts * len(VIEWS) == p.images  # a whole number everywhere
    assert preset(" Motorcycle") == Preset(prompts=12, images=47520, per_view=180)
    with pytest.raises(InputError, match=r"expected one of Table 3 \(motorcycle, .*got 'guitar'"):
        preset("guitar")


def test_views_are_those_of_a1() -> None:
    assert len(VIEWS) == len(set(VIEWS)) == 22
    assert VIEWS[0] == ""
    assert {"side view", "seen from far away", "selfie", "face only"} <= set(VIEWS)


@pytest.mark.parametrize("category", PRESETS)
def test_own_lists(category: str) -> None:
    prompts = PROMPTS[category]
    assert len(prompts) == PRESETS[category].prompts
    assert len({same_words(prompt) for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert why_not(prompt, category) is None  # no pronoun, no more than 20 words, ...
        assert f" {category}" in prompt  # by its whole name
        assert prompt.split()[0] in ("A", "An")
        assert prompt[-1].isalpha()
        assert "  " not in prompt
    assert sum(prompt.startswith("A person ") for prompt in prompts) >= len(prompts) / 2


def test_builtin_stage() -> None:
    source = make("prompts", "builtin", Runtime())
    assert source.prompts("Sports_Ball", 3) == list(PROMPTS["sports ball"][:3])
    assert source.prompts("bed", 99) == list(PROMPTS["bed"])
    with pytest.raises(InputError, match=r"list of its own .*got 'guitar'; for others ask a model"):
        source.prompts("guitar", 3)
    with pytest.raises(InputError, match="count: expected at least 1"):
        source.prompts("bed", 0)
    with pytest.raises(InputError, match="expected no model"):
        make("prompts", "builtin=x", Runtime())


@pytest.mark.parametrize("name", ["", "  ", "12", "be\x07d", "x" * 61])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InputError, match="category: expected the name of an object"):
        category_name(name)


def test_usual_count() -> None:
    assert usual_count("Cell phone", "openai=x") == 20
    assert usual_count("guitar", "local=x") == 10
    assert usual_count("cell phone", "file=x") > 1_000_000


def test_every_stage_says_what_it_is() -> None:
    known = {info.name: info for info in stages("prompts")}
    assert {"builtin", "openai", "local", "file"} <= set(known)
    for info in known.values():
        assert info.what
        assert info.licence
        assert info.weights


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "# of mine\nA man plays the guitar\n\n  A dog next to it \r\na man plays the guitar.\n"),
        ("a.json", '["A man plays the guitar", "A dog next to it ", "A man plays the guitar!"]'),
        (
            "a.JSON",
            '\ufeff{"category": "Guitar", "prompts": ["A man plays the guitar", "A dog next to it", "a man plays the guitar"]}',
        ),
    ],
)
def test_files(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    source = make("prompts", f"file={path}", Runtime())
    assert source.prompts("guitar", 10) == ["A man plays the guitar", "A dog next to it"]  # as its writer wants them
    assert [item.reason for item in source.dropped] == ["said already"]
    assert source.prompts("guitar", 1) == ["A man plays the guitar"]
    assert source.provenance()["file"] == name
    assert len(source.provenance()["sha256"]) == 64


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[", "expected JSON"),
        ("a.json", b"[" * 100_000, "expected JSON"),
        ("a.json", b"3", "another shape"),
        ("a.json", b"[1]", "another shape"),
        ("a.json", b'{"prompts": "A"}', "another shape"),
        ("a.json", b'["A", " "]', "another shape"),
        ("a.json", b'["A\\u0000"]', "control characters"),
        ("a.json", b"[]", "at least one prompt"),
        ("a.txt", b"# nothing\n", "at least one prompt"),
        ("a.txt", b"\xff\xfe", "UTF-8"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: expected .*{message}|{message}"):
        make("prompts", f"file={tmp_path / name}", Runtime())


def test_files_that_are_not_there_or_of_another_category(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a path that exists, got .*none\.txt"):
        make("prompts", f"file={tmp_path / 'none.txt'}", Runtime())
    with pytest.raises(InputError, match="expected a file with prompts"):
        make("prompts", f"file={tmp_path}", Runtime())
    path = tmp_path / "bed.json"
    path.write_text(json.dumps({"category": "bed", "prompts": ["A person lies on a bed"]}))
    with pytest.raises(InputError, match="expected prompts for 'chair', got those for 'bed'"):
        make("prompts", f"file={path}", Runtime()).prompts("chair", 3)
    with pytest.raises(InputError, match="one of this stage's options"):
        make("prompts", f"file={path}", Runtime(options={"seed": "1"}))


def test_question(tmp_path: Path) -> None:
    text = Question().text("skis", 7, [])
    assert text.startswith("Generate at most 7 simple subject-verb-object prompt where subject's category is person and")
    assert "object's category is skis." in text
    assert "{" not in text
    assert 'subject\'s word is "A person"' in Question(subject="word").text("skis", 7, [])
    assert Question().text("skis", 2, ["A", "B"]).endswith("Do not repeat any of these:\n- A\n- B")
    path = tmp_path / "mine.txt"
    path.write_text('List {m} ways to use a {category} as {"json": []}\n')
    own = Question.of(Runtime(options={"template": str(path)}))
    assert own.text("bed", 3, []) == 'List 3 ways to use a bed as {"json": []}'
    path.write_text("List ways to use a {category}")
    with pytest.raises(InputError, match=r"without \{m\}"):
        Question.of(Runtime(options={"template": str(path)}))
    with pytest.raises(InputError, match="template: expected a text file"):
        Question.of(Runtime(options={"template": str(tmp_path)}))
    with pytest.raises(InputError, match="subject: expected one of category, word"):
        Question.of(Runtime(options={"subject": "dog"}))
