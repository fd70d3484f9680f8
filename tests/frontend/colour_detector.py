"""Stages of somebody else's, as docs/frontend.md tells how to write them: a detector finds what is painted in two colours.

Simulated pictures show a person and an object in flat colours, so looking at the pixels is all that it takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.camera.cameras import Cameras
from chorus.frontend.simulated import OBJECT_COLOUR, PERSON_COLOUR
from chorus.frontend.stage_info import StageInfo
from chorus.frontend.stages import PERSON, Human, Instances, Picture, Runtime
from chorus.keypoints import COCO_KEYPOINTS


class ColourDetector:
    """Finds the painted person and the painted object by their colours."""

    def detect(self, pictures: Sequence[Picture], category: str) -> Sequence[Instances]:
        return [self._detect(picture.pixels, category) for picture in pictures]

    def _detect(self, pixels: NDArray[np.uint8], category: str) -> Instances:
        masks = [(PERSON, self._of(pixels, PERSON_COLOUR)), (category, self._of(pixels, OBJECT_COLOUR))]
        seen = [(label, mask) for label, mask in masks if mask.any()]
        return Instances(
            np.array([box(mask) for _, mask in seen], np.float32).reshape(-1, 4),
            np.full(len(seen), self.confidence(), np.float32),
            tuple(label for label, _ in seen),
            np.array([mask for _, mask in seen], np.bool_).reshape(-1, *pixels.shape[:2]),
        )

    def confidence(self) -> float:
        return 0.9

    def _of(self, pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
        return np.asarray((np.abs(pixels.astype(np.int16) - colour) <= 40).all(2))


class SureDetector(ColourDetector):
    """As sure as its model says, or as the option "confidence" does."""

    def __init__(self, model: str | None, runtime: Runtime) -> None:
        runtime.check_options(["confidence"])
        self._confidence = runtime.number("confidence", float(model or 0.9))

    def confidence(self) -> float:
        return self._confidence


class Prompts:
    """One prompt, that of a simulated world."""

    def prompts(self, category: str, count: int) -> list[str]:
        return [f"a person holds a {category.rpartition(' ')[2]} in the right hand"][:count]


DECLARED = StageInfo(
    kind="detector",
    name="colours",
    made_by="tests.frontend.colour_detector:SureDetector",
    what="what is painted in two colours",
    model="0.8",
    licence="MIT; no weights",
    weights="none",
    options=(("confidence", "of all that is found"),),
)


class Boxed:
    """KeypointEstimator: all 17 points at the middle of the person's box."""

    def keypoints(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        points = np.ones((len(pictures), len(COCO_KEYPOINTS), 3), np.float32)
        points[..., :2] = middle[:, None]
        return points


class Upright:
    """HumanEstimator: everybody stands upright in the body's pose of rest, 3 m before the camera."""

    def __init__(self, model: str | None, runtime: Runtime) -> None:
        assert runtime.body is not None
        self._joints = runtime.body.num_joints

    def humans(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> Sequence[Human]:
        turn = np.array([np.pi, 0, 0])
        R = Rotation.from_rotvec(turn).as_matrix()[None]
        found = []
        for picture in pictures:
            height, width = picture.size
            K = np.array([[[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]]], np.float64)
            camera = Cameras(R, np.array([[0.0, 0.0, 3.0]]), K, [picture.size])
            found.append(Human(np.zeros((self._joints, 3)), turn, None, camera=camera))
        return found


def box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask that has a pixel, half open."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class NotADetector:
    """Has no detect."""


def gives_nothing(model: str | None, runtime: Runtime) -> NotADetector:
    return NotADetector()


NUMBER = 3


class Careless:
    """Gives its boxes as a list."""

    def detect(self, pictures: Sequence[Picture], category: str) -> list[list[int]]:
        return [[0, 0, 1, 1] for _ in pictures]
