"""Where a pose fit starts: orientation from the torso, limbs turned to the bones that were seen, a weak-perspective place."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from chorus.kernels.kinematics import rotation_matrices
from chorus.pose_fit.layouts import BONES
from chorus.pose_fit.priors import MOVING
from chorus.pose_fit.problem import Array, Skeleton, State, Targets

TORSO = (0, 1, 2)
"""The bones of ``BONES`` that tell the orientation: across the hips, across the shoulders, from hips to shoulders."""
_SWUNG = ("left_hip", "left_knee", "right_hip", "right_knee", "left_shoulder", "left_elbow", "right_shoulder", "right_elbow")
_FRONT = np.diag([1.0, -1.0, -1.0])  # somebody upright who faces the camera
_MARGIN = 0.1  # radians by which starts stay within the limits


def from_bones(skeleton: Skeleton, targets: Targets) -> State:
    """The start of poses whose bones' directions were seen; without a torso: upright, facing the camera."""
    n = len(targets.focal)
    angles = np.tile(skeleton.prior.mean, (n, 1, 1))
    rest = State(np.tile(np.eye(3), (n, 1, 1)), np.zeros((n, 3)), angles)
    template = skeleton.directions @ skeleton.posed(rest)[2]
    template /= np.maximum(np.linalg.norm(template, axis=2, keepdims=True), 1e-9)
    weight = targets.bone_weights[:, TORSO]
    # Kabsch: the rotation of least weighted distance between the torso's bones and those seen.
    correlation = np.einsum("ib,ibx,iby->ixy", weight, targets.bones[:, TORSO], template[:, TORSO])
    U, _, Vt = np.linalg.svd(correlation)
    U[..., -1] *= np.sign(np.linalg.det(U @ Vt))[:, None]
    R = np.where(((weight > 0).sum(1) >= 2)[:, None, None], U @ Vt, _FRONT)
    _swing(skeleton, R, angles, targets)
    return _placed(skeleton, State(R, np.zeros((n, 3)), angles), targets)


def from_direction(skeleton: Skeleton, targets: Targets, azimuth: float) -> State:
    """The start of poses of which only the image is known: upright, turned by ``azimuth`` radians from facing the camera."""
    n = len(targets.focal)
    turn = Rotation.from_rotvec([0.0, azimuth, 0.0]).as_matrix()
    angles = np.tile(skeleton.prior.mean, (n, 1, 1))
    return _placed(skeleton, State(np.tile(_FRONT @ turn, (n, 1, 1)), np.zeros((n, 3)), angles), targets)


def _swing(skeleton: Skeleton, R: Array, angles: Array, targets: Targets) -> None:
    """Turn upper and lower limbs by the least angle so that they point as seen; ``angles`` (I, M, 3) is written."""
    body, names = skeleton.body, list(skeleton.body.joint_names)
    ends = {"hip": "knee", "knee": "ankle", "shoulder": "elbow", "elbow": "wrist"}
    for joint in _SWUNG:
        side, part = joint.split("_")
        bone = next(i for i, (start, end, _) in enumerate(BONES) if (start, end) == ((joint,), (f"{side}_{ends[part]}",)))
        seen = targets.bone_weights[:, bone] > 0
        frames, _, _ = skeleton.posed(State(R, np.zeros((len(R), 3)), angles))
        j, k = names.index(joint), names.index(f"{side}_{ends[part]}")
        above = frames[:, int(body.parents[j])]
        wanted = np.einsum("iba,ib->ia", above, targets.bones[:, bone])
        along = (body.joints[k] - body.joints[j]) / np.linalg.norm(body.joints[k] - body.joints[j])
        axis = np.cross(along, wanted)
        sine, cosine = np.linalg.norm(axis, axis=1), wanted @ along
        vector = axis * (np.arctan2(sine, cosine) / np.maximum(sine, 1e-6))[:, None]
        row = MOVING.index(joint)
        inside = skeleton.prior.least[row] + _MARGIN, skeleton.prior.most[row] - _MARGIN
        least, most = np.minimum(*inside), np.maximum(*inside)
        angles[seen, row] = np.clip(vector[seen], least, most)


def _placed(skeleton: Skeleton, state: State, targets: Targets) -> State:
    """The state with the translation at which its projection has mean and spread of the landmarks seen."""
    _, _, points = skeleton.posed(state)
    w = (targets.point_weights > 0).astype(np.float64)
    total = np.maximum(w.sum(1), 1.0)[:, None]

    def about(x: Array) -> tuple[Array, Array]:
        centre = (w[..., None] * x).sum(1) / total
        return centre, np.sqrt((w * ((x - centre[:, None]) ** 2).sum(2)).sum(1))

    centre, spread = about(points[..., :2])
    mean, wanted = about(targets.points)
    depth = np.clip(targets.focal * spread / np.maximum(wanted, 1e-3), 0.5, 500.0)
    t = np.column_stack([mean * (depth / targets.focal)[:, None] - centre, depth])
    return State(state.R, t, state.angles)


def turned_by_rays(directions: Array, rays: Array) -> Array:
    """Directions (I, B, 3) given in the axes of a camera that looks along rays (I, 3), in those of the camera itself.

    A network that sees a crop gives directions as if its crop were in the middle of the image.
    """
    axis = np.cross([0.0, 0.0, 1.0], rays)
    sine = np.linalg.norm(axis, axis=1)
    vector = axis * (np.arctan2(sine, rays[:, 2]) / np.maximum(sine, 1e-9))[:, None]
    R = rotation_matrices(torch.from_numpy(vector)).numpy()
    return np.asarray(directions @ R.swapaxes(1, 2))
