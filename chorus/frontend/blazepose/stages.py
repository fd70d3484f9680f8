"""The stages ``blazepose``: COCO's keypoints, and 3D pose by a fit of the body to the landmarks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.body.model import Body, check_smpl_joints
from chorus.errors import InputError, check_array
from chorus.frontend.blazepose.network import Landmarks, Network
from chorus.frontend.blazepose.weights import read_weights, resolve
from chorus.frontend.keypoints.order import check_boxes, keypoints_of
from chorus.frontend.stages import Human, Picture, Refusal, Runtime
from chorus.keypoints import COCO_OF_BLAZEPOSE
from chorus.pose_fit.fit import FitOptions, PoseFit, fit_poses

MIN_VISIBILITY = 0.65
"""Landmarks less visible do not count: legs that the frame cuts off are placed somewhere in the picture, often at .5."""
MIN_PRESENCE = 0.3
"""Below it, or where most landmarks lie outside of the box, there is no pose."""
NO_POSE, TOO_SMALL = "no 3D pose", "person too small"
_MIN_SIDE = 20.0  # pixels of the longer side of a box


def make_keypoints(model: str, runtime: Runtime) -> BlazePoseKeypoints:
    """The keypoint stage ``blazepose``. InputError where the weights are missing or no model that fits."""
    return BlazePoseKeypoints(_network(model))


def make_humans(model: str, runtime: Runtime) -> BlazePoseHumans:
    """The 3D pose stage ``blazepose``. InputError as ``make_keypoints``, and for a body without SMPL's joints."""
    if runtime.body is None:
        raise InputError("body: expected the body that poses belong to, got none")
    return BlazePoseHumans(_network(model), runtime.body, _options(runtime))


def check(model: str, runtime: Runtime, _category: str | None) -> None:
    """InputError for weights that are missing, options out of bounds, and a body without SMPL's joints."""
    resolve(model)
    _options(runtime)
    if runtime.kind == "humans" and runtime.body is not None:
        check_smpl_joints(runtime.body)


def _options(runtime: Runtime) -> FitOptions:
    return FitOptions(runtime.number("min_visibility", MIN_VISIBILITY))


def _network(model: str) -> Network:
    return Network(read_weights(resolve(model)), torch.get_num_threads())


class BlazePoseKeypoints:
    """KeypointEstimator on BlazePose: 17 of its 33 landmarks, their visibility as confidence."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def keypoints(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """(I, 17, 3) float32 x, y in pixels of the whole image and visibility; a person who is not found: visibility 0."""
        checked = check_boxes(boxes, len(pictures)).astype(np.float64)
        found = [self._network.find(picture.pixels, box) for picture, box in zip(pictures, checked, strict=True)]
        points = [one.points[COCO_OF_BLAZEPOSE] for one in found]
        sure = [one.presence >= MIN_PRESENCE for one in found]
        # keypoints_of adds half a pixel for libraries whose pixel centres are whole numbers; these points need none.
        return keypoints_of([p[:, :2] - 0.5 for p in points], [p[:, 2] * s for p, s in zip(points, sure, strict=True)])


class BlazePoseHumans:
    """HumanEstimator on BlazePose: its landmarks, and a body fitted to them by ``fit_poses``, all pictures at once."""

    def __init__(self, network: Network, body: Body, options: FitOptions | None = None) -> None:
        check_smpl_joints(body)
        self._network, self.body, self.options = network, body, options or FitOptions(MIN_VISIBILITY)

    def landmarks(self, picture: Picture, box: NDArray[np.float64]) -> Landmarks | None:
        """The landmarks of the person in a box (4,); None where the network sees nobody there."""
        found = self._network.find(picture.pixels, box)
        return found if found.presence >= MIN_PRESENCE and found.inside >= 0.5 else None

    def humans(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> Sequence[Human | Refusal]:
        """The person of each picture; Refusal "person too small", or "no 3D pose" with what was missing."""
        checked = check_array("boxes", boxes, (len(pictures), 4), np.float32).astype(np.float64)
        found: list[Human | Refusal] = [Refusal(NO_POSE)] * len(pictures)
        seen: dict[int, Landmarks] = {}
        for row, (picture, box) in enumerate(zip(pictures, checked, strict=True)):
            if not (box[2:] > box[:2]).all() or (box[2:] - box[:2]).max() < _MIN_SIDE:
                found[row] = Refusal(TOO_SMALL)
            elif (landmarks := self.landmarks(picture, box)) is not None:
                seen[row] = landmarks
        rows = list(seen)
        if not rows:
            return found
        fit = fit_poses(
            self.body,
            np.stack([seen[row].points for row in rows]),
            np.array([pictures[row].size for row in rows], np.int32),
            layout="blazepose-33",
            world=np.stack([seen[row].world for row in rows]),
            options=self.options,
        )
        for i, row in enumerate(rows):
            found[row] = human_of(fit, i, self.body, seen[row].points, checked[row])
        return found


def human_of(fit: PoseFit, i: int, body: Body, landmarks: NDArray[np.float64], box: NDArray[np.float64]) -> Human | Refusal:
    """Row ``i`` of a fit as a Human, from the landmarks (L, 3) that it was fitted to and the person's box (4,).

    The targets of the camera fit (Eq. 8) are the posed joints' projections, moved by as much as the landmark at the joint is
    off, so that its residual says how well pose and landmarks agree; joints that no landmark saw have no target.
    """
    if fit.reasons[i]:
        return Refusal(f"{NO_POSE}: {fit.reasons[i]}")
    joints = np.full((body.num_joints, 2), np.nan)
    for joint, landmark in enumerate(fit.landmark_of_joint):
        if landmark >= 0 and fit.used[i, landmark]:
            joints[joint] = fit.joints_px[i, joint] + landmarks[landmark, :2] - fit.landmarks_px[i, landmark]
    if np.isfinite(joints).all(1).sum() < 4:
        return Refusal(f"{NO_POSE}: too few joints seen")
    t, focal = fit.cameras.t[i], fit.cameras.K[i, 0, 0]
    side = float((box[2:] - box[:2]).max())
    crop = (box[:2] + box[2:]) / 2
    shift = t[:2] - (crop - fit.cameras.K[i, :2, 2]) * t[2] / focal  # metres between the crop's middle and the pelvis
    return Human(
        fit.poses[i],
        fit.orientation[i],
        joints,
        estimator="blazepose",
        crop_camera=np.array([2 * focal / (t[2] * side), *shift]),
        joint_std=fit.joint_std[i],
        limbs_seen=fit.limbs_seen[i],
    )
