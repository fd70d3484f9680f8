"""Errors of recorded poses as estimators make them: what is drawn is the true pose, what is recorded is a wrong one.

Each model has one scale (MODELS). An image's errors depend on its key, the seed and the name of the model alone: not on the
order or number of images, nor on other models. They are made of true poses once (``with_pose_errors``), so that images drawn
once can be recorded with many errors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.camera.cameras import Cameras
from chorus.errors import InputError, check_kind, check_whole
from chorus.images import ImageBatch
from chorus.simulate.objects import joint_index

if TYPE_CHECKING:
    from chorus.body.model import Body

ARMS = ("collar", "shoulder", "elbow", "wrist", "hand")
LEGS = ("hip", "knee", "ankle", "foot")


class Recorded(NamedTuple):
    """What is recorded of one image: pose (J, 3) axis-angle in radians, camera R (3, 3) and t (3,), person to camera frame."""

    pose: NDArray[np.float64]
    R: NDArray[np.float64]
    t: NDArray[np.float64]


def _turned(pose: NDArray[np.float64], sigmas: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Every joint but the pelvis turned in its own frame: R_j exp(e_j), e_j normal with sigma_j on each axis."""
    off = rng.normal(0, 1, (len(pose) - 1, 3)) * sigmas[1:, None]
    turned = pose.copy()
    turned[1:] = (Rotation.from_rotvec(pose[1:]) * Rotation.from_rotvec(off)).as_rotvec()
    return turned


def _axis(true: Recorded, scale: float, body: Body, rng: np.random.Generator) -> Recorded:
    return true._replace(pose=_turned(true.pose, np.full(len(true.pose), scale), rng))


def chain_depths(body: Body) -> NDArray[np.float64]:
    """Number of joints from the pelvis to each joint as a share of the longest chain's, (J,): 0 at the pelvis, 1 at a hand."""
    depths = np.zeros(body.num_joints)
    for joint, parent in enumerate(body.parents.tolist()):
        if joint:
            depths[joint] = depths[parent] + 1
    shares: NDArray[np.float64] = depths / depths.max()
    return shares


def _chain(true: Recorded, scale: float, body: Body, rng: np.random.Generator) -> Recorded:
    return true._replace(pose=_turned(true.pose, scale * chain_depths(body), rng))


def mirrored_pose(pose: NDArray[np.float64], body: Body, parts: Sequence[str] | None = None) -> NDArray[np.float64]:
    """The pose (J, 3) in a mirror: left and right exchanged, rotations (x, -y, -z).

    parts  only these joints, without "left_" and "right_"; default: the whole body, the joints of the middle included
    """
    mirrored = np.asarray(pose, np.float64).copy()
    for joint, name in enumerate(body.joint_names):
        other = other_side(name)
        if other == name:
            if parts is None:
                mirrored[joint] = pose[joint] * [1, -1, -1]
        elif parts is None or name.partition("_")[2] in parts:
            mirrored[joint] = pose[joint_index(body, other)] * [1, -1, -1]
    return mirrored


def other_side(name: str) -> str:
    """The joint of the other side: left_hand for right_hand; one of the middle is its own."""
    side, _, part = name.partition("_")
    return f"{ {'left': 'right', 'right': 'left'}[side] }_{part}" if side in ("left", "right") else name


def _swap(true: Recorded, scale: float, body: Body, rng: np.random.Generator) -> Recorded:
    swapped, which = rng.random() < scale, rng.integers(3)
    if not swapped:
        return true
    return true._replace(pose=mirrored_pose(true.pose, body, (ARMS, LEGS, ARMS + LEGS)[which]))


def _flip(true: Recorded, scale: float, body: Body, rng: np.random.Generator) -> Recorded:
    pose = true.pose.copy()
    flipped = rng.random(2) < scale
    if not flipped.any():
        return true
    turns = body.relative_transforms(true.pose[None])[0, :, :3, :3]  # of each joint's frame, from the zero pose
    joints, centre = body.posed_joints(true.pose[None])[0], -true.R.T @ true.t
    for side in np.array(["left", "right"])[flipped]:
        elbow, wrist = (joint_index(body, f"{side}_{part}") for part in ("elbow", "wrist"))
        view, along = joints[elbow] - centre, joints[wrist] - joints[elbow]
        view, along = view / np.linalg.norm(view), along / np.linalg.norm(along)
        axis = np.cross(view, along)
        if not np.linalg.norm(axis) > 1e-6:  # it points at the camera or away from it: any axis across does
            axis = true.R[0] - (true.R[0] @ view) * view
        axis /= np.linalg.norm(axis)
        # Its angle to the view direction, a, becomes pi - a: the reflection in the plane across the view direction.
        angle = math.pi - 2 * math.atan2(float(np.linalg.norm(np.cross(view, along))), float(view @ along))
        turn = Rotation.from_rotvec(angle * axis).as_matrix() @ turns[elbow]
        pose[elbow] = Rotation.from_matrix(turns[int(body.parents[elbow])].T @ turn).as_rotvec()
    return true._replace(pose=pose)


def _tilt(true: Recorded, scale: float, body: Body, rng: np.random.Generator) -> Recorded:
    x, z = rng.normal(0, scale, 2)
    return true._replace(R=true.R @ Rotation.from_rotvec([x, 0, z]).as_matrix())


Maker = Callable[[Recorded, float, "Body", np.random.Generator], Recorded]
"""Makes the error of one image: of what is recorded, with a scale."""


@dataclass(frozen=True)
class ErrorModel:
    """One kind of error: what it does, in words; what its scale is ("radians", "share" or "times"); what makes it.

    make  None for "fitted", which is made of all images at once (``chorus.simulate.landmarks.fitted_records``)
    """

    effect: str
    unit: str
    make: Maker | None


MODELS: dict[str, ErrorModel] = {
    "axis": ErrorModel("every joint but the pelvis is turned, sigma on each axis, each on its own", "radians", _axis),
    "chain": ErrorModel(
        "as axis; sigma grows from 0 at the pelvis to the scale at the end of the longest chain", "radians", _chain
    ),
    "swap": ErrorModel("in a share of the images left and right arms, legs or both are confused (mirrored)", "share", _swap),
    "flip": ErrorModel(
        "a share of the forearms bends away from the camera instead of toward it: the same in the image, mirrored in depth",
        "share",
        _flip,
    ),
    "fitted": ErrorModel(
        "pose and camera are fitted to noisy landmarks, as of photographs; 1: with BlazePose's noise, as measured",
        "times",
        None,
    ),
    "tilt": ErrorModel("the person as a whole leans about the pelvis, sigma forwards and sideways", "radians", _tilt),
}
"""Errors of recorded poses by name. Shapes of bodies are errors of the record too: ``World.shape_spread``."""


@dataclass(frozen=True)
class PoseError:
    """A model of MODELS by name, and its scale: radians or times >= 0, or a share in 0..1. InputError for others."""

    name: str
    scale: float

    def __post_init__(self) -> None:
        if self.name not in MODELS:
            raise InputError(f"pose_error: expected one of {', '.join(MODELS)}; got {self.name!r}")
        most, wanted = {
            "share": (1, "a share in 0..1"),
            "radians": (math.pi, "radians in 0..pi"),
            "times": (10, "0..10 times"),
        }[MODELS[self.name].unit]
        if not 0 <= self.scale <= most:
            raise InputError(f"pose_error: expected {self.name} with {wanted}, got {self.scale}")

    def __str__(self) -> str:
        return f"{self.name}:{self.scale:g}"

    @classmethod
    def parse(cls, text: str) -> PoseError:
        """The error of ``NAME:SCALE``, as in "axis:0.1". InputError for another form."""
        check_kind("pose_error", text, str)
        name, colon, scale = text.partition(":")
        try:
            number = float(scale)
        except ValueError:
            number = math.nan
        if not colon or math.isnan(number):
            raise InputError(f"pose_error: expected NAME:SCALE, NAME one of {', '.join(MODELS)}; got {text!r}")
        return cls(name, number)


def with_pose_errors(
    images: ImageBatch, errors: Sequence[PoseError | str], body: Body | None = None, seed: int = 0
) -> ImageBatch:
    """The same images with wrong poses and cameras on record; masks, keys and all else stay.

    images  ImageBatch with the true poses
    errors  PoseError or "NAME:SCALE", made one after the other
    body    whose poses they are; default: the built-in one
    seed    >= 0; another one gives other errors

    Raises InputError for unknown errors, scales out of range and a body with other joints.
    """
    from chorus.body.model import load_body

    made_of = [PoseError.parse(e) if isinstance(e, str) else e for e in errors]
    for error in made_of:
        check_kind("errors", error, PoseError)
    seed = check_whole("seed", seed, 0)
    if not made_of or not len(images):
        return images
    body = load_body() if body is None else body
    if images.poses.shape[1] != body.num_joints:
        raise InputError(f"poses: expected the body's {body.num_joints} joints, got {images.poses.shape[1]}")
    old = images.cameras
    made = [Recorded(pose.astype(np.float64), old.R[i], old.t[i]) for i, pose in enumerate(images.poses)]
    for error in made_of:
        rngs = [_generator(seed, error.name, bytes(key)) for key in images.keys]
        make = MODELS[error.name].make
        if make is None:
            made = _fitted(made, old, error.scale, body, rngs)
        else:
            made = [make(record, error.scale, body, rng) for record, rng in zip(made, rngs, strict=True)]
    poses, R, t = (np.stack(parts) for parts in zip(*made, strict=True))
    cameras = Cameras(R.astype(np.float32), t, old.K, old.image_size)  # R as a store keeps it
    return ImageBatch(images.masks, cameras, poses, images.keys, images.weights, images.prompts, warn=False)


def _generator(seed: int, name: str, key: bytes) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}|{name}|".encode() + key).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def _fitted(
    made: Sequence[Recorded], cameras: Cameras, noise: float, body: Body, rngs: Sequence[np.random.Generator]
) -> list[Recorded]:
    from chorus.simulate.landmarks import fitted_records

    poses, R, t = (np.stack(parts) for parts in zip(*made, strict=True))
    found = fitted_records(body, poses, Cameras(R, t, cameras.K, cameras.image_size), noise, rngs)
    found_t = found[2].astype(np.float32).astype(np.float64)  # as a store keeps it
    return [Recorded(*record) for record in zip(*found[:2], found_t, strict=True)]
