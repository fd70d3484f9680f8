"""BlazePose's landmark network on one person: the crop it is given, what it answers, and that in pixels and metres.

The network sees a square that is turned so that the person is upright. MediaPipe finds that square by a detector of its own,
which in a crowd may pick somebody else. Here the first square is about the given box; the network itself then says where the
hips' middle and the edge of a circle about the whole person are (two further landmarks), which gives the next square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chorus.errors import InputError
from chorus.keypoints import BLAZEPOSE_33

SIDE = 256
"""Pixels on a side of the network's input."""

LANDMARKS = len(BLAZEPOSE_33)
_ALL, _CENTRE, _RIM = 39, 33, 34  # all that the network gives; those that tell the next square
_FIRST, _NEXT = 1.4, 1.25  # side of the first square over the box's longer side; of the next ones over the circle's diameter
_PASSES = 2  # squares after the first
_SURE = 0.5  # presence below which other turns of the first square are tried
_REACH = 3  # cells of the heat map to each side of a landmark that refine it
_OUTPUTS = {"landmarks": (1, 195), "presence": (1, 1), "heat": (1, 64, 64, _ALL), "world": (1, 117)}


@dataclass(frozen=True)
class Square:
    """A square of an image: centre x, y and side in pixels, turned by ``angle`` radians (clockwise as seen, y being down)."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    def to_image(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (n, 2) in 0..1 across the square -> pixels of the image."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        return np.asarray((points - 0.5) * self.side @ np.array([[c, s], [-s, c]]) + [self.x, self.y])

    def cut(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The square of an image (H, W, 3) uint8 resampled to (SIDE, SIDE, 3) float32 in 0..1, black outside of the image."""
        factor = max(1, int(self.side // SIDE))  # bilinear sampling alone would alias
        image = Image.fromarray(pixels)
        image = image.reduce(factor) if factor > 1 else image
        step = self.side / SIDE / factor
        c, s = math.cos(self.angle) * step, math.sin(self.angle) * step
        x, y, half = self.x / factor, self.y / factor, SIDE / 2
        matrix = (c, -s, x - half * (c - s), s, c, y - half * (s + c))
        cut = image.transform((SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        return np.asarray(np.asarray(cut, np.float32) / np.float32(255), np.float32)


class Landmarks(NamedTuple):
    """What the network finds of one person, in the order of ``BLAZEPOSE_33``.

    points    (33, 3) float64 x, y in pixels of the whole image, visibility in 0..1
    world     (33, 3) float64 metres from the middle of the hips, in the axes of a camera that looks at the person (x right,
              y down, z forward)
    presence  0..1, how sure the network is that the square shows a person
    inside    share of the visible landmarks that lie in the box (somewhat enlarged): little where it took somebody else
    """

    points: NDArray[np.float64]
    world: NDArray[np.float64]
    presence: float
    inside: float

    @property
    def score(self) -> float:
        """How much these landmarks are preferred to others of the same box."""
        return self.presence * self.inside * float(self.points[:, 2].mean())


class Network:
    """The landmark network, from the bytes of a .tflite file. InputError for another network, ImportError without LiteRT."""

    def __init__(self, content: bytes, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"blazepose: expected a model that LiteRT can run: {error}") from None
        given = self._interpreter.get_input_details()
        shapes = {tuple(int(v) for v in output["shape"]): output["index"] for output in self._interpreter.get_output_details()}
        if [tuple(one["shape"]) for one in given] != [(1, SIDE, SIDE, 3)] or not set(_OUTPUTS.values()) <= set(shapes):
            raise InputError(f"blazepose: expected the landmark model, which gives {_OUTPUTS}; got outputs {sorted(shapes)}")
        self._input = given[0]["index"]
        self._outputs = {name: shapes[shape] for name, shape in _OUTPUTS.items()}

    def find(self, pixels: NDArray[np.uint8], box: NDArray[np.float64]) -> Landmarks:
        """The landmarks of the person in a box (4,) x0, y0, x1, y1 of an image (H, W, 3) uint8 RGB."""
        (x, y), side = ((box[:2] + box[2:]) / 2).tolist(), _FIRST * float((box[2:] - box[:2]).max())
        best = self._follow(pixels, box, Square(x, y, side))
        if best.presence * best.inside < _SURE:  # perhaps somebody who lies or stands on their hands
            for angle in (math.pi / 2, -math.pi / 2, math.pi):
                best = max(best, self._follow(pixels, box, Square(x, y, side, angle)), key=lambda found: found.score)
        return best

    def _follow(self, pixels: NDArray[np.uint8], box: NDArray[np.float64], square: Square) -> Landmarks:
        """The best landmarks of a first square and the ones that follow from it."""
        best: Landmarks | None = None
        for _ in range(1 + _PASSES):
            found, square = self._look(pixels, box, square)
            if best is None or found.score >= best.score - 0.02:  # a later square is the better centred one
                best = found
            if not 1 <= square.side <= 8 * max(pixels.shape):
                break
        assert best is not None
        return best

    def _look(self, pixels: NDArray[np.uint8], box: NDArray[np.float64], square: Square) -> tuple[Landmarks, Square]:
        """The landmarks in one square, and the square that they ask for."""
        self._interpreter.set_tensor(self._input, square.cut(pixels)[None])
        self._interpreter.invoke()
        raw: dict[str, Any] = {name: self._interpreter.get_tensor(index)[0] for name, index in self._outputs.items()}
        if not all(np.isfinite(value).all() for value in raw.values()):
            return Landmarks(np.zeros((LANDMARKS, 3)), np.zeros((LANDMARKS, 3)), 0.0, 0.0), Square(0, 0, 0)
        answer = raw["landmarks"].reshape(_ALL, 5).astype(np.float64)
        on_square = refined(answer[:, :2] / SIDE, raw["heat"])
        points = square.to_image(on_square)
        visible = _sigmoid(answer[:LANDMARKS, 3])
        c, s = math.cos(square.angle), math.sin(square.angle)
        world = raw["world"].reshape(_ALL, 3)[:LANDMARKS].astype(np.float64) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
        margin = 0.15 * (box[2:] - box[:2]).max()
        inside = ((points[:LANDMARKS] > box[:2] - margin) & (points[:LANDMARKS] < box[2:] + margin)).all(1)
        share = float((inside * visible).sum() / max(visible.sum(), 1e-6))
        found = Landmarks(np.column_stack([points[:LANDMARKS], visible]), world, float(raw["presence"][0]), share)
        across, down = points[_RIM] - points[_CENTRE]
        turn = math.atan2(down, across) + math.pi / 2  # the rim's landmark is above the hips
        x, y = points[_CENTRE].tolist()
        return found, Square(x, y, _NEXT * 2 * math.hypot(across, down), turn)


def refined(points: NDArray[np.float64], heat: NDArray[np.float32]) -> NDArray[np.float64]:
    """Points (n, 2) in 0..1 moved to the mean of their heat maps (H, W, n, before the sigmoid) near them, where that is sure.

    As MediaPipe does: within 3 cells, where the greatest probability is at least 1/2.
    """
    height, width = heat.shape[:2]
    moved = points.copy()
    for i, (x, y) in enumerate(points * [width, height]):
        column, row = math.floor(x), math.floor(y)
        if not (0 <= column < width and 0 <= row < height):
            continue
        rows = np.arange(max(row - _REACH, 0), min(row + _REACH + 1, height))
        columns = np.arange(max(column - _REACH, 0), min(column + _REACH + 1, width))
        weight = _sigmoid(heat[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, i].astype(np.float64))
        if weight.max() >= 0.5:
            total = weight.sum()
            moved[i] = (weight.sum(0) @ columns / total / width, weight.sum(1) @ rows / total / height)
    return moved


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))))
