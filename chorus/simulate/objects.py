"""Simulated objects: solids with an exact inside test and a mesh, varied at random within a class; what they are held by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from chorus.errors import InputError

if TYPE_CHECKING:
    from chorus.body.model import Body

KINDS = ("box", "ellipsoid", "cylinder")
SIZE_SPREAD = 0.2
"""Variation of size within a class: each extent is scaled by a factor uniform in 1 +- this."""
OFFSET_SIGMA = 0.03
"""Standard deviation of the object's position, metres on each axis."""
TURN_SIGMA = 0.1
"""Standard deviation of the object's rotation, radians on each axis."""


@dataclass(frozen=True)
class Shape:
    """A convex solid in the canonical (rest-pose person) frame: a box, an ellipsoid, or an elliptic cylinder along y.

    half      (3,) half extents in metres along the solid's axes x, y, z
    centre    (3,) metres
    rotation  (3, 3) from the solid's axes to the canonical frame
    """

    kind: str
    half: NDArray[np.float64]
    centre: NDArray[np.float64]
    rotation: NDArray[np.float64]

    def mesh(self) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """A closed mesh, faces outward: vertices (V, 3) metres, faces (F, 3).

        Meshes of round solids lie inside the solid, by at most 0.5 % of its extent.
        """
        vertices, faces = _unit_mesh(self.kind)
        return (vertices * self.half) @ self.rotation.T + self.centre, faces

    def contains(self, points: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Whether points (..., 3) metres lie in the solid, exactly: (...) bool."""
        local = np.abs((np.asarray(points, np.float64) - self.centre) @ self.rotation) / self.half
        if self.kind == "box":
            inside = (local <= 1).all(-1)
        elif self.kind == "ellipsoid":
            inside = (local**2).sum(-1) <= 1
        else:
            inside = (local[..., 1] <= 1) & (local[..., 0] ** 2 + local[..., 2] ** 2 <= 1)
        return np.asarray(inside)

    def mirrored(self) -> Shape:
        """The solid in a mirror, left for right (x for -x): each kind is its own mirror image, so it stays a rotation."""
        mirror = np.array([-1.0, 1.0, 1.0])
        return replace(self, centre=self.centre * mirror, rotation=self.rotation * np.outer(mirror, mirror))


@lru_cache
def _unit_mesh(kind: str) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    if kind == "box":
        points = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij"), -1).reshape(-1, 3).astype(np.float64)
    elif kind == "ellipsoid":  # a Fibonacci lattice: nearly even, and in no special position
        steps = np.arange(1000)
        y, turn = 1 - (2 * steps + 1) / 1000, steps * math.pi * (3 - math.sqrt(5))
        points = np.stack([np.sqrt(1 - y**2) * np.cos(turn), y, np.sqrt(1 - y**2) * np.sin(turn)], -1)
    elif kind == "cylinder":
        turn = np.linspace(0, 2 * math.pi, 64, endpoint=False)
        points = np.concatenate([np.stack([np.cos(turn), np.full(64, y), np.sin(turn)], -1) for y in (-1.0, 1.0)])
    else:
        raise InputError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    faces = ConvexHull(points).simplices.astype(np.int32)
    a, b, c = (points[faces[:, i]] for i in range(3))
    inward = np.einsum("fi,fi->f", np.cross(b - a, c - a), a) < 0
    faces[inward] = faces[inward][:, ::-1]
    return points, faces


@dataclass(frozen=True)
class ObjectClass:
    """Objects of one kind: ``draw(rng, body)`` gives a random one as solids.

    joint        the joint it is rigid to; the solids are in the canonical frame
    other_joint  the second hand of what is held in both, rigid to neither: the solids are in a frame halfway between the two
                 (``chorus.simulate.scene.carrier``)
    gripped      whether the wrists turn so that it lies across both palms
    """

    joint: str
    draw: Callable[[np.random.Generator, Body], tuple[Shape, ...]]
    other_joint: str | None = None
    gripped: bool = False


_HANDS = {"left_hand": "left_middle1", "right_hand": "right_middle1"}
"""SMPL's hands -> where bodies with fingers have the same place, the knuckle of the middle finger."""


def joint_index(body: Body, name: str) -> int:
    """The index of a joint by its name; InputError if the body has none of that name.

    A body with fingers (SMPL-H, SMPL-X) has no joint of the hand: the first of the middle finger stands for it.
    """
    if name not in body.joint_names:
        name = _HANDS.get(name, name)
    if name not in body.joint_names:
        raise InputError(f"body: expected one with the joint {name!r}, got joints {', '.join(body.joint_names)}")
    return int(body.joint_names.index(name))


def _vary(
    rng: np.random.Generator, *solids: tuple[str, Sequence[float], Any], turn_sigma: float = TURN_SIGMA
) -> tuple[Shape, ...]:
    """Solids (kind, half extents, centre) with one random variation in size, position and rotation about the first centre."""
    scale = rng.uniform(1 - SIZE_SPREAD, 1 + SIZE_SPREAD, 3)
    offset, turn = rng.normal(0, OFFSET_SIGMA, 3), Rotation.from_rotvec(rng.normal(0, turn_sigma, 3)).as_matrix()
    pivot = np.asarray(solids[0][2], np.float64)
    shapes = []
    for kind, half, centre in solids:
        if kind == "ellipsoid":
            scale = np.full(3, scale[0])  # a ball stays round
        shapes.append(Shape(kind, half * scale, pivot + turn @ (centre - pivot) + offset, turn))
    return tuple(shapes)


def _ball(rng: np.random.Generator, body: Body) -> tuple[Shape, ...]:
    centre = body.rest_joints[joint_index(body, "right_hand")] + [0, -0.15, 0]  # palms look down in the rest pose
    return _vary(rng, ("ellipsoid", (0.13, 0.13, 0.13), centre))


def _ball_at_foot(rng: np.random.Generator, body: Body) -> tuple[Shape, ...]:
    foot = body.rest_joints[joint_index(body, "left_foot")] + [0.02, 0.06, 0.16]  # before the toes, off the ground
    return _vary(rng, ("ellipsoid", (0.12, 0.12, 0.12), foot))


@lru_cache(maxsize=8)
def _back(body: Body) -> float:
    """How far behind the origin the back reaches at spine3 (z in metres)."""
    near = np.abs(body.rest_vertices[:, :2] - body.rest_joints[joint_index(body, "spine3"), :2]) < [0.12, 0.15]
    return float(body.rest_vertices[near.all(1), 2].min())


@lru_cache(maxsize=8)
def _flank(body: Body) -> float:
    """How far to the right the trunk reaches at spine2 (x in metres)."""
    waist = np.abs(body.rest_vertices[:, 1] - body.rest_joints[joint_index(body, "spine2"), 1]) < 0.1
    return float(body.rest_vertices[waist, 0].min())


def _backpack(rng: np.random.Generator, body: Body) -> tuple[Shape, ...]:
    spine, back = body.rest_joints[joint_index(body, "spine3")], _back(body)
    return _vary(rng, ("box", (0.15, 0.23, 0.10), [spine[0], spine[1], back - 0.10]))


def _board_in_hand(rng: np.random.Generator, body: Body) -> tuple[Shape, ...]:
    hand = body.rest_joints[joint_index(body, "right_hand")]
    return _vary(rng, ("box", (0.04, 0.25, 1.0), hand + np.array([0, -0.22, 0])))


def _board_under_arm(rng: np.random.Generator, body: Body) -> tuple[Shape, ...]:
    shoulder = body.rest_joints[joint_index(body, "right_shoulder")]
    centre = np.array([_flank(body) - 0.04, shoulder[1] - 0.37, 0.1])
    upright = Rotation.from_euler("z", 90, degrees=True).as_matrix()  # its thickness, y, across the person
    return tuple(replace(s, rotation=s.rotation @ upright) for s in _vary(rng, ("cylinder", (0.25, 0.035, 1.0), centre)))


def _board_stood_on(rng: np.random.Generator, body: Body) -> tuple[Shape, ...]:
    return _vary(rng, ("cylinder", (1.0, 0.04, 0.25), np.array([0, body.rest_vertices[:, 1].min() - 0.04, 0.05])))


def _hat(rng: np.random.Generator, body: Body) -> tuple[Shape, ...]:
    head = body.rest_joints[joint_index(body, "head")]
    brim = np.array([head[0], body.rest_vertices[:, 1].max() - 0.06, head[2] + 0.01])
    crown = brim + np.array([0, 0.06, 0])
    return _vary(rng, ("cylinder", (0.18, 0.012, 0.19), brim), ("cylinder", (0.10, 0.06, 0.11), crown))


def _racket(rng: np.random.Generator, body: Body) -> tuple[Shape, ...]:
    """Its grip lies in the right fist, across the forearm; the head is before it, held at whatever angle."""
    grip = body.rest_joints[joint_index(body, "right_hand")] + [0, -0.03, 0]
    return _vary(
        rng,
        ("box", (0.018, 0.018, 0.10), grip),
        ("box", (0.012, 0.012, 0.10), grip + np.array([0, 0, 0.2])),
        ("cylinder", (0.13, 0.012, 0.17), grip + np.array([0, 0, 0.46])),
        turn_sigma=0.4,
    )


def _glove(rng: np.random.Generator, body: Body) -> tuple[Shape, ...]:
    hand = body.rest_joints[joint_index(body, "left_hand")]
    return _vary(rng, ("ellipsoid", (0.14, 0.08, 0.14), hand + np.array([0.06, -0.02, 0])))


def _bar(rng: np.random.Generator, body: Body) -> tuple[Shape, ...]:
    along = Rotation.from_euler("z", 90, degrees=True).as_matrix()  # y, the cylinder's axis, from hand to hand
    drawn = _vary(rng, ("cylinder", (0.08, 0.55, 0.08), np.zeros(3)), turn_sigma=0.0)
    return tuple(replace(s, rotation=s.rotation @ along) for s in drawn)


def _box(rng: np.random.Generator, body: Body) -> tuple[Shape, ...]:
    return _vary(rng, ("box", (0.28, 0.18, 0.18), np.array([0.0, 0.03, 0.04])))


def _bicycle(rng: np.random.Generator, body: Body) -> tuple[Shape, ...]:
    """It stands at the person's right and looks ahead: two wheels, between them a frame, a saddle and handlebars."""
    ground = float(body.rest_vertices[:, 1].min())
    wheel, middle = (0.33, 0.035, 0.33), np.array([-0.62, ground + 0.33, 0.15])
    back, front = middle + np.array([0, 0, -0.5]), middle + np.array([0, 0, 0.5])
    frame = _vary(
        rng,
        ("box", (0.03, 0.11, 0.42), middle + np.array([0, 0.18, 0])),
        ("box", (0.03, 0.24, 0.04), middle + np.array([0, 0.42, 0.38])),
        ("box", (0.26, 0.03, 0.04), middle + np.array([0, 0.63, 0.38])),
        ("box", (0.03, 0.16, 0.04), middle + np.array([0, 0.34, -0.25])),
        ("box", (0.08, 0.035, 0.13), middle + np.array([0, 0.48, -0.25])),
        ("cylinder", wheel, back),
        ("cylinder", wheel, front),
        turn_sigma=0.03,
    )
    across = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    return tuple(replace(s, rotation=s.rotation @ across) if s.kind == "cylinder" else s for s in frame)


OBJECTS: dict[str, ObjectClass] = {
    "ball": ObjectClass("right_hand", _ball),  # 26 cm across, under the palm
    "ball-at-foot": ObjectClass("left_foot", _ball_at_foot),  # 24 cm across, at the toes
    "backpack": ObjectClass("spine3", _backpack),  # a box of 30 x 46 x 20 cm
    "hat": ObjectClass("head", _hat),
    "racket": ObjectClass("right_hand", _racket),  # 73 cm long, its head 26 x 34 cm
    "glove": ObjectClass("left_hand", _glove),  # about the hand, 28 x 28 x 16 cm
    "board-fixed-to-hand": ObjectClass("right_hand", _board_in_hand),  # a box of 2 m x 50 cm x 8 cm
    "board-under-arm": ObjectClass("spine2", _board_under_arm),  # clamped to the trunk; the arm only closes it in
    # Fixed to the pelvis, which stays between the feet: rigid to one foot it would swing with that leg's noise alone.
    "board-stood-on": ObjectClass("pelvis", _board_stood_on),
    # Rigid to no joint: the hands' distance and turns change from pose to pose.
    "bar-in-hands": ObjectClass("right_hand", _bar, "left_hand", gripped=True),  # a log, 1.1 m long and 16 cm thick
    "box-in-hands": ObjectClass("right_hand", _box, "left_hand"),  # 56 x 36 x 36 cm, held upright
    # Beside the person, on the ground; the pelvis is the one part that does not move in these worlds.
    "bicycle-beside": ObjectClass("pelvis", _bicycle),
}
