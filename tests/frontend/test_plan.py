"""Which images a run makes: order, keys, seeds, and the description that a store keeps of it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from chorus.errors import InputError, StoreError
from chorus.frontend.plan import FRONTEND_JSON, Description, Plan, batches, image_seed

PROMPTS = ("A person carries a surfboard", "A person rides a surfboard, smiling")
VIEWS = ("", "side view", "back view")


def test_images_are_dealt_out_evenly_and_a_larger_plan_only_adds() -> None:
    plan = Plan("surfboard", PROMPTS, VIEWS, 20)
    requests = list(plan)
    cells = Counter((r.prompt, r.view) for r in requests)
    assert len(cells) == 6
    assert set(cells.values()) == {3, 4}
    assert requests == list(Plan("surfboard", PROMPTS, VIEWS, 50))[:20]
    assert requests[0].text == PROMPTS[0]
    assert requests[2].text == "A person carries a surfboard, side view"
    assert [r.view for r in requests[:6]] == ["", "", "side view", "side view", "back view", "back view"]


def test_keys_are_unique_readable_and_stable() -> None:
    requests = list(Plan("surfboard", PROMPTS, VIEWS, 500))
    keys = [r.key for r in requests]
    assert len(set(keys)) == 500
    assert keys[0] == "a-person-carries-a-surfboard-235f29a2.plain.000000"
    assert keys[3].startswith("a-person-rides-a-surfboard-smiling-")
    assert keys[3].endswith(".side-view.000000")
    assert all(len(key.encode()) <= 255 and "/" not in key for key in keys)


def test_seeds_depend_on_what_an_image_is_and_on_nothing_else() -> None:
    few, many = Plan("surfboard", PROMPTS, VIEWS, 30, seed=3), Plan("surfboard", PROMPTS[::-1], VIEWS[::-1], 60, seed=3)
    by_key = {r.key: r.seed for r in many}
    assert all(by_key[r.key] == r.seed for r in few)
    seeds = [r.seed for r in many]
    assert len(set(seeds)) == 60
    assert all(0 <= s < 2**63 for s in seeds)
    assert image_seed(0, "hat", "p", "", 0) != image_seed(1, "hat", "p", "", 0) != image_seed(1, "tie", "p", "", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((), VIEWS, 3), "prompts: expected different texts"),
        ((("a", "a"), VIEWS, 3), "prompts: expected different texts"),
        ((("a", " "), VIEWS, 3), "prompts: expected texts, got an empty one"),
        ((("a",), (), 3), "views: expected different texts"),
        ((("a",), ("side view", "Side view!"), 3), "differ in more than punctuation"),
        ((("a",), VIEWS, -1), "images: expected at least 0, got -1"),
    ],
)
def test_plans_that_cannot_be_are_refused(arguments: tuple[tuple[str, ...], tuple[str, ...], int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Plan("hat", *arguments)


def test_batches_keep_the_order() -> None:
    requests = list(Plan("surfboard", PROMPTS, VIEWS, 10))
    parts = batches(requests, 4)
    assert [len(part) for part in parts] == [4, 4, 2]
    assert [r for part in parts for r in part] == requests
    with pytest.raises(InputError, match="size: expected at least 1"):
        batches(requests, 0)


DESCRIPTION = Description(
    "surfboard",
    {"images": "stable-diffusion", "detector": "mask2former=a"},
    {"images.steps": "50"},
    PROMPTS,
    VIEWS,
    7,
    {"dtype": "auto", "calibration": {"method": "adam"}},
)


def test_a_description_comes_back_as_it_was(tmp_path: Path) -> None:
    assert Description.load(tmp_path) is None
    DESCRIPTION.save(tmp_path)
    assert Description.load(tmp_path) == DESCRIPTION
    assert DESCRIPTION.difference(DESCRIPTION) is None
    assert [p.name for p in tmp_path.iterdir()] == [FRONTEND_JSON]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stages": {**DESCRIPTION.stages, "detector": "mask2former=b"}}, "stages.detector: .*former=a'.*former=b'"),
        ({"options": {}}, "options.images.steps: expected '50'.*got None"),
        ({"seed": 8}, "seed: expected 7"),
        ({"category": "hat"}, "category: expected 'surfboard'"),
        ({"settings": {"dtype": "float16", "calibration": {"method": "adam"}}}, "settings.dtype"),
    ],
)
def test_a_description_tells_what_differs(change: dict[str, object], words: str) -> None:
    import re

    difference = DESCRIPTION.difference(replace(DESCRIPTION, **change))  # type: ignore[arg-type]
    assert difference is not None
    assert re.search(words, difference)


def test_more_prompts_and_views_are_no_difference() -> None:
    assert DESCRIPTION.difference(replace(DESCRIPTION, prompts=(*PROMPTS, "another"), views=("",))) is None


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", *(json.dumps({"format": "chorus-frontend", "version": version}) for version in (1, 2))],
)
def test_a_damaged_description_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FRONTEND_JSON).write_text(content)
    with pytest.raises(StoreError, match=r"frontend\.json: expected"):
        Description.load(tmp_path)
