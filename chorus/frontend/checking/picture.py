"""The one picture that stages are tried on: the built-in body with a ball in its hand, drawn by the project's renderer.

It is an image of the simulated world ``ball-held``, so what is in it is known, and simulated stages know it, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.frontend.simulated import SimulatedDetector, truth
from chorus.frontend.stages import PERSON, ImageRequest, Picture
from chorus.render.rasterize import face_normals, render_mesh, shade
from chorus.simulate.worlds import WORLDS

WORLD = WORLDS["ball-held"]
CATEGORY = WORLD.category
"""What detectors are asked for beside people."""

SIDE = 512
"""Height and width of the picture in pixels, as the front end makes them."""

_INDEX = 1
"""Of the world's images: the person is whole, upright and seen from in front, the ball in full view."""

_SKIN, _BALL = (0.80, 0.62, 0.52), (0.92, 0.47, 0.13)
_SKY, _GROUND = (196, 208, 220), (150, 146, 138)


@dataclass(frozen=True)
class CheckPicture:
    """The picture, and what it shows.

    person, ball  their boxes (4,) float32 x0, y0, x1, y1 pixels, half open
    """

    picture: Picture
    person: NDArray[np.float32]
    ball: NDArray[np.float32]


def request() -> ImageRequest:
    """What stages that make images are asked for: the prompt of the picture's world, which is that of an image of it, too."""
    return ImageRequest("check", WORLD.prompt, "", _INDEX)


def draw(body: Body) -> CheckPicture:
    """The picture, (SIDE, SIDE, 3) uint8 RGB, of a body with SMPL's joints."""
    asked = request()
    drawn = truth(asked.prompt, (SIDE, SIDE), asked.seed, body)
    flat = Picture(asked, np.zeros((SIDE, SIDE, 3), np.uint8))
    known = SimulatedDetector(body).detect([flat], CATEGORY)[0]
    person, ball = known.of(PERSON), known.of(CATEGORY)

    pixels = np.empty((SIDE, SIDE, 3), np.uint8)
    pixels[: SIDE * 3 // 4], pixels[SIDE * 3 // 4 :] = _SKY, _GROUND
    vertices = body.posed_vertices(drawn.images.poses)[0]
    _, face = render_mesh(vertices, body.faces, drawn.images.cameras)
    lit = shade(face, face_normals(vertices, body.faces), colour=_SKIN)
    seen = person.masks[0] & (face >= 0)
    pixels[seen] = lit[seen]
    pixels[ball.masks[0]] = _as_ball(ball.masks[0], ball.boxes[0])
    return CheckPicture(replace(flat, pixels=pixels), person.boxes[0], ball.boxes[0])


def _as_ball(mask: NDArray[np.bool_], box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The colours (N, 3) of a ball's N pixels, lit from the upper left."""
    rows, columns = np.nonzero(mask)
    radius = max(float((box[2:] - box[:2]).max()) / 2, 1.0)
    x = (columns + 0.5 - (box[0] + box[2]) / 2) / radius
    y = (rows + 0.5 - (box[1] + box[3]) / 2) / radius
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, None))
    light = np.clip(0.35 + 0.65 * (-0.4 * x - 0.5 * y + 0.77 * z), 0.2, 1)
    colours: NDArray[np.uint8] = np.rint(255 * light[:, None] * np.array(_BALL)).astype(np.uint8)
    return colours
