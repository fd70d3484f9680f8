"""Landmarks of simulated people, as BlazePose would give them: pixels with visibility, and places in space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.camera.fit import FOCAL_IN_WIDTHS
from chorus.simulate.landmarks import landmarks_of
from chorus.simulate.scene import draw_pose
from chorus.simulate.worlds import WORLDS

IMAGE = 512
"""Height and width of the images, pixels."""


class People(NamedTuple):
    """I simulated people.

    poses      (I, J, 3) radians           cameras  I cameras: upright people, seen from all sides, 3 to 5 m away
    landmarks  (I, L, 3) pixels, visibility, that of landmarks without a place on the body 0
    world      (I, L, 3) metres, in the axes of a camera that looks at the person
    """

    poses: NDArray[np.float64]
    cameras: Cameras
    landmarks: NDArray[np.float64]
    world: NDArray[np.float64]


def people(
    body: Body, count: int, layout: str = "blazepose-33", *, pixels: float = 0.0, metres: float = 0.0, seed: int = 0
) -> People:
    """People in the poses of the simulated worlds, their landmarks with Gaussian noise, in pixels and metres on each axis."""
    rng, worlds = np.random.default_rng(seed), list(WORLDS.values())
    poses = np.stack([draw_pose(worlds[i % len(worlds)], body, rng) for i in range(count)]).astype(np.float64)
    angles = np.column_stack([rng.uniform(-np.pi, np.pi, count), rng.normal(0, 0.2, count), rng.normal(0, 0.15, count)])
    R = np.diag([1.0, -1.0, -1.0]) @ Rotation.from_euler("YXZ", angles).as_matrix()
    t = np.column_stack([rng.uniform(-0.5, 0.5, count), rng.uniform(-0.2, 0.2, count), rng.uniform(3, 5, count)])
    K = np.array([[FOCAL_IN_WIDTHS * IMAGE, 0, IMAGE / 2], [0, FOCAL_IN_WIDTHS * IMAGE, IMAGE / 2], [0, 0, 1.0]])
    cameras = Cameras(R, t, np.tile(K, (count, 1, 1)), np.full((count, 2), IMAGE))
    landmarks, world = landmarks_of(body, poses, cameras, layout)
    landmarks[..., :2] += rng.normal(0, 1, landmarks[..., :2].shape) * pixels
    return People(poses, cameras, landmarks, world + rng.normal(0, 1, world.shape) * metres)


def joint_errors(found: NDArray[np.float64], true: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles (I, J) in degrees between rotations given as axis-angle (I, J, 3)."""
    a, b = (Rotation.from_rotvec(poses.reshape(-1, 3)) for poses in (found, true))
    return np.degrees((a.inv() * b).magnitude()).reshape(found.shape[:2])
