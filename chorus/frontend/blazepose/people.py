"""BlazePose's person detector: where people are in a whole picture. It is made for few people who are not far away."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from chorus.boxes import iou
from chorus.errors import InputError
from chorus.frontend.blazepose.network import Landmarks, Network
from chorus.frontend.blazepose.weights import DEFAULT, DETECTOR, read_detector, read_weights, resolve

SIDE = 224
"""Pixels on a side of the detector's input."""

MIN_SCORE = 0.5
"""Least score of a person, of the detector and then of the landmark network."""

_STRIDES = (8, 16, 32, 32, 32)  # pixels between the detector's anchors, two of each a place
_VALUES = 12  # of an anchor: centre and size of the head's box, then four points: hips, rim of the body, shoulders, their rim
_HIPS, _RIM = slice(4, 6), slice(6, 8)
_SAME_HEAD, _SAME_PERSON = 0.3, 0.5  # IoU from which two are one
_VISIBLE = 0.5
_MARGIN = 0.12  # of the longer side of the landmarks' box: they end at eyes, wrists and ankles


class Circle(NamedTuple):
    """A circle about a whole person: the hips' middle x, y and radius in pixels, and the detector's score in 0..1."""

    x: float
    y: float
    radius: float
    score: float


class PersonFinder:
    """Finds people by BlazePose's detector, and their boxes by its landmark network.

    detector   bytes of pose_detection.tflite      landmarks  the network that looks at each person found

    InputError for another network.
    """

    def __init__(self, detector: bytes, landmarks: Network, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_content=detector, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"blazepose: expected a model that LiteRT can run: {error}") from None
        self._anchors = anchors()
        given = [tuple(one["shape"]) for one in self._interpreter.get_input_details()]
        outputs = {tuple(int(v) for v in one["shape"]): one["index"] for one in self._interpreter.get_output_details()}
        values, scores = (1, len(self._anchors), _VALUES), (1, len(self._anchors), 1)
        if given != [(1, SIDE, SIDE, 3)] or not {values, scores} <= set(outputs):
            raise InputError(f"blazepose: expected the person detector, which gives {values}; got outputs {sorted(outputs)}")
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._values, self._scores = outputs[values], outputs[scores]
        self._landmarks = landmarks

    @classmethod
    def of(cls, model: str = "") -> PersonFinder:
        """The finder of an archive that holds both networks; "": the fetched ones. InputError for what is missing."""
        path = resolve(model or DEFAULT)
        threads = torch.get_num_threads()
        return cls(read_detector(resolve_detector(model)), Network(read_weights(path), threads), threads)

    def people(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes (N, 4) x0, y0, x1, y1 in pixels and scores (N,) in 0..1 of the people in an image (H, W, 3) uint8 RGB.

        Where the detector finds nobody, the landmark network is asked whether the whole picture is somebody.
        """
        height, width = pixels.shape[:2]
        tries = [
            (np.array([c.x - c.radius, c.y - c.radius, c.x + c.radius, c.y + c.radius]), c.score) for c in self.circles(pixels)
        ]
        tries = tries or [(np.array([0.0, 0, width, height]), 1.0)]
        boxes: list[NDArray[np.float64]] = []
        scores: list[float] = []
        for place, score in tries:
            found = self._landmarks.find(pixels, place)
            box = box_of(found, (height, width))
            if found.presence < MIN_SCORE or box is None or any(iou(box, other) > _SAME_PERSON for other in boxes):
                continue
            boxes.append(box)
            scores.append(min(score, found.presence))
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32)

    def circles(self, pixels: NDArray[np.uint8]) -> list[Circle]:
        """What the detector finds in an image (H, W, 3) uint8 RGB, best first."""
        height, width = pixels.shape[:2]
        longer = max(height, width)
        scale = SIDE / longer
        image = Image.fromarray(pixels).resize(
            (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX
        )
        square = np.zeros((SIDE, SIDE, 3), np.uint8)
        left, top = (SIDE - image.width) // 2, (SIDE - image.height) // 2
        square[top : top + image.height, left : left + image.width] = np.asarray(image)
        self._interpreter.set_tensor(self._input, square[None].astype(np.float32) / np.float32(127.5) - np.float32(1))
        self._interpreter.invoke()
        logits = np.clip(self._interpreter.get_tensor(self._scores)[0, :, 0].astype(np.float64), -100, 100)
        scores = 1 / (1 + np.exp(-logits))
        values = self._interpreter.get_tensor(self._values)[0].astype(np.float64) / SIDE
        sure = np.flatnonzero(scores >= MIN_SCORE)
        sure = sure[np.argsort(-scores[sure], kind="stable")]
        centre, half = values[sure, :2] + self._anchors[sure], values[sure, 2:4] / 2
        heads = np.concatenate([centre - half, centre + half], 1)
        kept: list[int] = []
        for i in range(len(sure)):
            if not any(iou(heads[i], heads[k]) > _SAME_HEAD for k in kept):
                kept.append(i)
        found = []
        for i in kept:
            hips, rim = (values[sure[i], part] + self._anchors[sure[i]] for part in (_HIPS, _RIM))
            x, y = (hips * SIDE - [left, top]) / scale
            found.append(Circle(float(x), float(y), float(math.dist(hips, rim)) * longer, float(scores[sure[i]])))
        return found


def resolve_detector(model: str = "") -> Path:
    """The file that holds the detector: the one that a model names, "" for the fetched one. InputError where it is missing."""
    return resolve(model or DEFAULT, DETECTOR)


def anchors() -> NDArray[np.float64]:
    """The middles (A, 2) of the detector's anchors, x, y in 0..1 across its input, layer by layer and row by row."""
    found = []
    for stride in sorted(set(_STRIDES)):
        cells = SIDE // stride
        middle = (np.arange(cells) + 0.5) / cells
        x, y = np.meshgrid(middle, middle)
        found.append(np.repeat(np.stack([x.ravel(), y.ravel()], 1), 2 * _STRIDES.count(stride), 0))
    return np.concatenate(found)


def box_of(landmarks: Landmarks, size: tuple[int, int]) -> NDArray[np.float64] | None:
    """The box (4,) in pixels around a person's visible landmarks, somewhat enlarged, inside an image of height, width ``size``.

    None where fewer than 4 are visible in the image.
    """
    points = landmarks.points[landmarks.points[:, 2] >= _VISIBLE, :2]
    height, width = size
    points = points[((points >= 0) & (points < [width, height])).all(1)]
    if len(points) < 4:
        return None
    low, high = points.min(0), points.max(0)
    margin = _MARGIN * (high - low).max()
    return np.concatenate([np.maximum(low - margin, 0), np.minimum(high + margin, [width, height])])
