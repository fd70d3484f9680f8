"""Landmarks of simulated people, as a network sees them, and the poses that are fitted to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.keypoints import LAYOUTS
from chorus.pose_fit.fit import fit_poses
from chorus.pose_fit.layouts import body_points

NOISE_PX, NOISE_M = 0.016, 0.03
"""Noise of BlazePose's landmarks on each axis: in the image as a share of the person's height standing upright (on photographs
of COCO their median distance to what annotators marked is 2.6 % of it), and in space, metres."""
VISIBLE = 0.95
"""Visibility of landmarks that a body has."""


def landmarks_of(
    body: Body, poses: NDArray[np.float64], cameras: Cameras, layout: str = "blazepose-33"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where I people's landmarks are: (I, L, 3) pixels and visibility, and (I, L, 3) metres.

    Visibility is that of landmarks with a place on the body, 0 of others: that the body hides them does not count. Metres are
    in the axes of a camera that looks at the person, as BlazePose gives them (x right, y down, z forward).
    """
    names, where, transforms = LAYOUTS[layout], body_points(body), body.relative_transforms(poses)
    count = len(poses)
    landmarks, world = np.zeros((count, len(names), 3)), np.zeros((count, len(names), 3))
    for i, name in enumerate(names):
        if name in where:
            joint, place = where[name]
            posed = transforms[:, joint, :3, :3] @ place + transforms[:, joint, :3, 3]
            landmarks[:, i, :2] = cameras.project(posed[:, None])[0][:, 0]
            landmarks[:, i, 2] = VISIBLE
            world[:, i] = (cameras.R @ posed[..., None])[..., 0]
    known = np.array([name in where for name in names])
    centre = cameras.K[:, :2, 2]
    ray = np.column_stack([landmarks[:, known, :2].mean(1) - centre, cameras.K[:, 0, 0]])
    axis = np.cross([0.0, 0.0, 1.0], ray)
    sine = np.linalg.norm(axis, axis=1)
    turn = np.where(sine > 0, np.arctan2(sine, ray[:, 2]) / np.maximum(sine, 1e-12), 0.0)
    return landmarks, world @ Rotation.from_rotvec(axis * turn[:, None]).as_matrix()


def fitted_records(
    body: Body,
    poses: NDArray[np.float64],
    cameras: Cameras,
    noise: float,
    rngs: Sequence[np.random.Generator],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Poses (I, J, 3), R (I, 3, 3), t (I, 3) as ``fit_poses`` finds them from landmarks with ``noise`` times BlazePose's noise.

    rngs  one an image

    Images without a pose keep the true one. Focal length and principal point are taken as known.
    """
    landmarks, world = landmarks_of(body, poses, cameras)
    height = cameras.K[:, 1, 1] * float(np.ptp(body.vertices[:, 1])) / np.maximum(cameras.t[:, 2], 0.1)
    for i, rng in enumerate(rngs):
        landmarks[i, :, :2] += rng.normal(0, 1, landmarks[i, :, :2].shape) * noise * NOISE_PX * height[i]
        world[i] += rng.normal(0, 1, world.shape[1:]) * noise * NOISE_M
    size = np.asarray(cameras.image_size)
    # The fit's principal point is the image's centre: landmarks move there, and keep their places to the border.
    shift = cameras.K[:, :2, 2] - size[:, ::-1] / 2
    landmarks[..., :2] -= shift[:, None]
    fit = fit_poses(body, landmarks, size, layout="blazepose-33", world=world, focal=cameras.K[:, 0, 0])
    found = np.array([not reason for reason in fit.reasons])
    return (
        np.where(found[:, None, None], fit.poses, poses),
        np.where(found[:, None, None], fit.cameras.R, cameras.R),
        np.where(found[:, None], fit.cameras.t, cameras.t),
    )
