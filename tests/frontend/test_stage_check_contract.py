"""What ``chorus stages --check`` says of stages that break the contract of their kind: anyone's may."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chorus.errors import StageError
from chorus.frontend.checking.check import check_stage
from chorus.frontend.checking.contract import ContractError
from chorus.frontend.stages import Human, Instances, Picture, Refusal, Runtime
from tests.frontend.test_stage_check import check, refused

MODULE = "tests.frontend.test_stage_check_contract"


class Proper:
    """Does as it should, and stands for stages of other packages."""

    def __init__(self, model: str | None, runtime: Runtime) -> None:
        self.model = model

    def prompts(self, category: str, count: int) -> Any:
        return [f"A person has a {category}"]

    def images(self, requests: Any) -> Any:
        return [Picture(request, np.zeros((8, 8, 3), np.uint8)) for request in requests]

    def detect(self, pictures: Any, category: str) -> Any:
        masks = np.ones((2, *pictures[0].size), np.bool_)
        boxes = np.array([[0, 0, 9, 9]] * 2, np.float32)
        return [Instances(boxes, np.array([0.9, 0.8], np.float32), ("person", category), masks)]

    def keypoints(self, pictures: Any, boxes: Any) -> Any:
        return np.full((len(pictures), 17, 3), 0.5, np.float32)

    def humans(self, pictures: Any, boxes: Any) -> Any:
        return [Refusal("shy")]


class Wrong(Proper):
    """Gives what its model's number says."""

    def prompts(self, category: str, count: int) -> Any:
        return ("a text", ["a", "a"], [], ["a"] * 9, [1])[int(self.model or 0)]

    def images(self, requests: Any) -> Any:
        (proper,) = super().images(requests)
        other = Picture(type(requests[0])("other", "prompt"), proper.pixels)
        return (proper.pixels, [proper.pixels], [proper, proper], [other])[int(self.model or 0)]

    def detect(self, pictures: Any, category: str) -> Any:
        (proper,) = super().detect(pictures, category)
        rising = proper[np.array([1, 0])]
        cat = Instances(proper.boxes, proper.scores, ("person", "cat"), proper.masks)
        small = Instances(proper.boxes, proper.scores, proper.labels, proper.masks[:, :5])
        return ([rising], [cat], [small], [proper.boxes], [])[int(self.model or 0)]

    def keypoints(self, pictures: Any, boxes: Any) -> Any:
        proper = super().keypoints(pictures, boxes)
        return (proper.astype(np.float64), proper[:, :5], proper * np.nan, proper + 1, proper.tolist())[int(self.model or 0)]

    def humans(self, pictures: Any, boxes: Any) -> Any:
        few = Human(np.zeros((5, 3)), np.zeros(3), np.zeros((5, 2)))
        if self.model == "2":
            raise KeyError("no such\nthing")
        return ([few], [None])[int(self.model or 0)]


@pytest.mark.parametrize("kind", ["prompts", "images", "detector", "keypoints", "humans"])
def test_anyones_stage_that_obeys(kind: str) -> None:
    report = check_stage(kind, f"{MODULE}:Proper")
    assert report.weights == ()
    assert report.found
    assert report.contract


VIOLATIONS = [
    ("prompts", 0, "expected a list of texts, got a str"),
    ("prompts", 1, "expected different texts"),
    ("prompts", 2, "expected 1 to 3 prompts, got 0"),
    ("prompts", 3, "expected 1 to 3 prompts, got 9"),
    ("prompts", 4, "expected a list of texts, got an int in it"),
    ("images", 0, "expected a sequence with one Picture or Refusal, got uint8 of shape (8, 8, 3)"),
    ("images", 1, "expected Picture or Refusal, got uint8 of shape (8, 8, 3)"),
    ("images", 2, "expected one result for one picture, got 2"),
    ("images", 3, "expected a picture of the request"),
    ("detector", 0, "expected the most confident first, got scores"),
    ("detector", 1, "expected the labels 'person' and 'sports ball', got 'cat'"),
    ("detector", 2, "expected masks of height, width (512, 512), as the picture, got (5, 512)"),
    ("detector", 3, "expected Instances, got float32 of shape (2, 4)"),
    ("detector", 4, "expected one result for one picture, got 0"),
    ("keypoints", 0, "expected float32 of shape (1, 17, 3), got float64 of shape (1, 17, 3)"),
    ("keypoints", 1, "expected float32 of shape (1, 17, 3), got float32 of shape (1, 5, 3)"),
    ("keypoints", 2, "expected finite numbers, got nan"),
    ("keypoints", 3, "expected confidences in 0 .. 1, got 1.5 .. 1.5"),
    ("keypoints", 4, "expected an array of shape (1, 17, 3), got a list"),
    ("humans", 0, "expected a pose of 24 joints, as the body has, got 5"),
    ("humans", 1, "expected Human or Refusal, got a NoneType"),
]


@pytest.mark.parametrize(("kind", "number", "words"), VIOLATIONS)
def test_a_contract_that_is_broken_is_named(kind: str, number: int, words: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_stage(kind, f"{MODULE}:Wrong={number}")
    assert str(caught.value).startswith(f"{kind} {MODULE}:Wrong: contract: ")
    assert words in str(caught.value)


def test_broken_contracts_and_errors_of_a_stage_on_the_command_line() -> None:
    line = refused(check(f"keypoints:{MODULE}:Wrong", "--weights", "1"))
    assert line.endswith("contract: expected float32 of shape (1, 17, 3), got float32 of shape (1, 5, 3)")
    line = refused(check(f"humans:{MODULE}:Wrong", "--weights", "2"))
    assert "expected it to work on one picture, got KeyError: 'no such\\nthing'" in line
    with pytest.raises(StageError):
        check_stage("humans", f"{MODULE}:Wrong=2")
