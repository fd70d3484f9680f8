"""Every stage played by a simulated world (``chorus.simulate.images``): to try the pipeline without any model, and to test it.

An image is that of the world with the request's prompt, of index ``request.seed``. The image stage paints it; the other
stages give the simulation's truth instead of analysing the picture, in the types, units, orders and frames of
``chorus.frontend.stages``: so each can be replaced by a real stage, and a real stage be judged by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.body.model import Body, load_body
from chorus.errors import InputError
from chorus.frontend.detection.boxes import by_confidence
from chorus.frontend.stage_info import StageInfo
from chorus.frontend.stages import PERSON, Human, ImageRequest, Instances, Picture, Refusal, Runtime
from chorus.keypoints import COCO_KEYPOINTS
from chorus.simulate.images import KEYPOINTS, SimulatedBatch, simulate
from chorus.simulate.worlds import WORLDS, World

BACKGROUND, PERSON_COLOUR, OBJECT_COLOUR = (200, 205, 210), (120, 90, 70), (230, 120, 30)
"""RGB of what is painted."""
_HEAD = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")  # the skeleton has one joint for them
_DEFAULT_CONFIDENCE = 0.9  # of keypoints for which the world simulates no confidence

_ALL = "the project's own code and body (Apache-2.0, CC0); no weights"
STAGES: tuple[StageInfo, ...] = tuple(
    StageInfo(
        kind,
        "simulated",
        f"chorus.frontend.simulated:{cls}.made",
        what,
        None,
        _ALL,
        "none",
        options=options,
        checked_by="chorus.frontend.simulated:check",
    )
    for kind, cls, what, options in (
        ("prompts", "SimulatedPrompts", "the prompts of the simulated worlds of the category", ()),
        ("images", "SimulatedImages", "paints a simulated world", (("size", "height and width in pixels (512)"),)),
        ("detector", "SimulatedDetector", "the painted masks", ()),
        ("keypoints", "SimulatedKeypoints", "joints of the simulated person", ()),
        (
            "humans",
            "SimulatedHumans",
            "the simulated person's pose",
            (("camera", '"known" (default), or "fitted" to the projected joints'),),
        ),
    )
)


def check(_model: None, runtime: Runtime, category: str | None) -> None:
    """InputError for options out of bounds, and for a category of no world."""
    _size(runtime)
    _camera(runtime)
    if category is not None and runtime.kind in ("prompts", "detector"):
        SimulatedPrompts().prompts(category, 1)


def _size(runtime: Runtime) -> int:
    return runtime.whole("size", 512, 16, 4096)


def _camera(runtime: Runtime) -> str:
    return runtime.one_of("camera", ("known", "fitted"))


def world_of(prompt: str) -> World:
    """The ready-made world with this prompt. InputError, naming the known prompts, where there is none."""
    for world in WORLDS.values():
        if world.prompt == prompt:
            return world
    known = "; ".join(world.prompt for world in WORLDS.values())
    raise InputError(f"prompt: expected that of a simulated world ({known}), got {prompt!r}")


@lru_cache(maxsize=256)
def truth(prompt: str, size: tuple[int, int], index: int, body: Body) -> SimulatedBatch:
    """One image of a world: its masks, pose, camera and scores. A pure function, cached for the later stages."""
    world = replace(world_of(prompt), image_sizes=(size,))
    return next(simulate(world, 1, 0, body, start=index, batch_size=1, workers=1))


@dataclass(frozen=True)
class _Stage:
    body: Body

    def _truth(self, picture: Picture) -> SimulatedBatch:
        return truth(picture.request.prompt, picture.size, picture.request.seed, self.body)


def _body(runtime: Runtime) -> Body:
    return load_body() if runtime.body is None else runtime.body


class SimulatedPrompts:
    """PromptSource: the prompts of the worlds of a category."""

    @classmethod
    def made(cls, model: str | None, runtime: Runtime) -> SimulatedPrompts:
        return cls()

    def prompts(self, category: str, count: int) -> list[str]:
        found = [world.prompt for world in WORLDS.values() if world.category == category]
        if not found:
            known = ", ".join(sorted({world.category for world in WORLDS.values()}))
            raise InputError(f"category: expected one that is simulated ({known}), got {category!r}")
        return found[:count]


@dataclass(frozen=True)
class SimulatedImages(_Stage):
    """ImageSource: flat colours for background, person and object."""

    size: tuple[int, int] = (512, 512)

    @classmethod
    def made(cls, model: str | None, runtime: Runtime) -> SimulatedImages:
        side = _size(runtime)
        return cls(_body(runtime), (side, side))

    def images(self, requests: Sequence[ImageRequest]) -> Sequence[Picture | Refusal]:
        return [self._image(request) for request in requests]

    def _image(self, request: ImageRequest) -> Picture:
        if request.seed < 0:
            raise InputError(f"seed: expected the index of a simulated image, 0 or more, got {request.seed}")
        drawn = truth(request.prompt, self.size, request.seed, self.body)
        pixels = np.empty((*self.size, 3), np.uint8)
        pixels[:] = BACKGROUND
        pixels[drawn.person_masks.unpack(0)] = PERSON_COLOUR
        pixels[drawn.images.masks.unpack(0)] = OBJECT_COLOUR
        return Picture(request, pixels)


class SimulatedDetector(_Stage):
    """Detector: the person's and the object's masks, their boxes and confidences; no instance where no pixel shows."""

    @classmethod
    def made(cls, model: str | None, runtime: Runtime) -> SimulatedDetector:
        return cls(_body(runtime))

    def check(self, category: str) -> None:
        SimulatedPrompts().prompts(category, 1)

    def detect(self, pictures: Sequence[Picture], category: str) -> Sequence[Instances]:
        return [self._detect(picture, category) for picture in pictures]

    def _detect(self, picture: Picture, category: str) -> Instances:
        drawn = self._truth(picture)
        masks, boxes, scores, labels = [], [], [], []
        for label, packed, score in (
            (PERSON, drawn.person_masks, "person_confidence"),
            (category, drawn.images.masks, "object_confidence"),
        ):
            mask = packed.unpack(0)
            if mask.any():
                masks.append(mask)
                boxes.append(packed.box[0])
                scores.append(drawn.scores[score][0])
                labels.append(label)
        return by_confidence(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(scores, np.float32),
            labels,
            np.array(masks, np.bool_).reshape(-1, *picture.size),
        )


def projected_joints(drawn: SimulatedBatch, body: Body) -> NDArray[np.float64]:
    """The joints of the one person of a batch of one, (J, 2) pixels."""
    uv, _ = drawn.images.cameras.project(body.posed_joints(drawn.images.poses))
    return np.asarray(uv[0])


class SimulatedKeypoints(_Stage):
    """KeypointEstimator: projected joints; the world's confidences for the torso."""

    @classmethod
    def made(cls, model: str | None, runtime: Runtime) -> SimulatedKeypoints:
        return cls(_body(runtime))

    def keypoints(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([self._keypoints(picture) for picture in pictures])

    def _keypoints(self, picture: Picture) -> NDArray[np.float32]:
        drawn, names = self._truth(picture), list(self.body.joint_names)
        joints = projected_joints(drawn, self.body)
        found = np.zeros((len(COCO_KEYPOINTS), 3), np.float32)
        for i, name in enumerate(COCO_KEYPOINTS):
            found[i, :2] = joints[names.index("head" if name in _HEAD else name)]
            found[i, 2] = drawn.scores[f"keypoint_{name}"][0] if name in KEYPOINTS else _DEFAULT_CONFIDENCE
        return found


@dataclass(frozen=True)
class SimulatedHumans(_Stage):
    """HumanEstimator: the pose that the world records, with its camera, or the joints' projections to fit one to."""

    camera: str = "known"

    @classmethod
    def made(cls, model: str | None, runtime: Runtime) -> SimulatedHumans:
        return cls(_body(runtime), _camera(runtime))

    def humans(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> Sequence[Human | Refusal]:
        return [self._human(picture) for picture in pictures]

    def _human(self, picture: Picture) -> Human:
        drawn = self._truth(picture)
        cameras, known = drawn.images.cameras, self.camera == "known"
        return Human(
            drawn.images.poses[0].astype(np.float64),
            Rotation.from_matrix(cameras.R[0]).as_rotvec(),
            None if known else projected_joints(drawn, self.body),
            camera=cameras if known else None,
        )
