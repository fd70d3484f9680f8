"""Least squares of a pose fit: kinematics with derivatives, residuals, and normal equations, for many poses at once.

Unknowns of a pose, N = 6 + 3 M for the M joints that turn (``priors.MOVING``), in this order:

- w    (3,) radians: increment of the orientation, R = exp([w]x) R0
- t    (3,): t_x / z0, t_y / z0 and log(t_z / z0), increments on the translation of the start, whose depth is z0
- a_j  (3,) radians: rotation vectors of the joints

Everything is in the camera's axes (x right, y down, z forward); I poses, P points on the body, B bones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.kernels.kinematics import relative_transforms, rotation_matrices
from chorus.pose_fit.layouts import body_points
from chorus.pose_fit.priors import LIMIT_SPREAD, MOVING, Prior, prior_of

Array = NDArray[np.float64]
HUBER = 2.0
"""Standard deviations beyond which a landmark's or a bone's residual counts by its length, no longer by its square."""
LEAST_DEPTH = 0.05
"""Least depth of a point in metres; nearer ones are taken to be there, so that nothing divides by zero."""


class State(NamedTuple):
    """Where I poses stand: R (I, 3, 3) person's frame to the camera's axes, t (I, 3) metres, angles (I, M, 3) radians."""

    R: Array
    t: Array
    angles: Array

    def rows(self, rows: NDArray[np.intp]) -> State:
        """Some of the poses."""
        return State(*(array[rows] for array in self))

    def put(self, rows: NDArray[np.intp], other: State) -> None:
        """Replace the poses of ``rows`` by those of another state."""
        for mine, theirs in zip(self, other, strict=True):
            mine[rows] = theirs


class Targets(NamedTuple):
    """What I poses are fitted to; a weight is the inverse of a standard deviation, 0 where nothing was seen.

    points   (I, P, 2) pixels from the principal point       point_weights  (I, P) 1 / pixels
    bones    (I, B, 3) unit directions, camera's axes        bone_weights   (I, B) 1 / radians
    focal    (I,) pixels
    """

    points: Array
    point_weights: Array
    bones: Array
    bone_weights: Array
    focal: Array

    def rows(self, rows: NDArray[np.intp]) -> Targets:
        """The targets of some of the poses."""
        return Targets(*(array[rows] for array in self))


@dataclass(frozen=True)
class Skeleton:
    """What a fit needs to know of a body.

    moving    (M,) index of each joint that turns       prior   of their rotation vectors
    carriers  (P,) joint that carries each landmark     places  (P, 3) metres in the zero pose
    above     (P, M) bool, whether a joint moves a landmark
    directions  (B, P): bones as differences of means of landmarks
    """

    body: Body
    moving: NDArray[np.intp]
    prior: Prior
    carriers: NDArray[np.intp]
    places: Array
    above: NDArray[np.bool_]
    directions: Array

    @classmethod
    def of(
        cls, body: Body, landmarks: tuple[str, ...], bones: tuple[tuple[tuple[str, ...], tuple[str, ...], float], ...]
    ) -> Skeleton:
        """The skeleton of a body with some landmarks and bones between them. InputError for a body without SMPL's joints."""
        where, names = body_points(body), list(body.joint_names)
        carriers = np.array([where[name][0] for name in landmarks], np.intp)
        places = np.array([where[name][1] for name in landmarks])
        moving = np.array([names.index(name) for name in MOVING], np.intp)
        ancestors = np.eye(body.num_joints, dtype=np.bool_)
        for j in range(1, body.num_joints):
            ancestors[j] |= ancestors[body.parents[j]]
        directions = np.zeros((len(bones), len(landmarks)))
        for row, (start, end, _) in enumerate(bones):
            for ends, sign in ((start, -1.0), (end, 1.0)):
                for name in ends:
                    directions[row, landmarks.index(name)] += sign / len(ends)
        return cls(body, moving, prior_of(MOVING), carriers, places, ancestors[carriers][:, moving], directions)

    def poses(self, angles: Array) -> Array:
        """Axis-angle poses (I, J, 3) in radians of rotation vectors (I, M, 3); row 0 and joints that do not turn are zero."""
        poses = np.zeros((len(angles), self.body.num_joints, 3))
        poses[:, self.moving] = angles
        return poses

    def posed(self, state: State) -> tuple[Array, Array, Array]:
        """Frames (I, J, 3, 3) and origins (I, J, 3) of all joints from the pelvis, points (I, P, 3), in the camera's axes."""
        moved = relative_transforms(
            torch.from_numpy(self.poses(state.angles)), torch.from_numpy(self.body.joints.copy()), self.body.parents.tolist()
        ).numpy()
        frames = state.R[:, None] @ moved[..., :3, :3]
        shift = (state.R[:, None] @ moved[..., :3, 3:])[..., 0]  # the pelvis is the origin, before and after
        origins = (frames @ self.body.joints[..., None])[..., 0] + shift
        points = (frames[:, self.carriers] @ self.places[..., None])[..., 0] + shift[:, self.carriers]
        return frames, origins, points


class Residuals(NamedTuple):
    """Whitened residuals of I poses: points (I, P, 2), bones (I, B, 3), prior and limits (I, M, 3)."""

    points: Array
    bones: Array
    prior: Array
    limits: Array

    def cost(self) -> Array:
        """Half the sum of squares of prior and limits, and Huber's cost of points and bones, (I,)."""
        robust = [_huber(np.linalg.norm(part, axis=2)).sum(1) for part in (self.points, self.bones)]
        return np.asarray(robust[0] + robust[1] + ((self.prior**2).sum((1, 2)) + (self.limits**2).sum((1, 2))) / 2)


def _huber(length: Array) -> Array:
    return np.where(length <= HUBER, length**2 / 2, HUBER * (length - HUBER / 2))


def residuals(skeleton: Skeleton, state: State, targets: Targets, points: Array) -> Residuals:
    """The residuals of poses whose points (I, P, 3) from the pelvis are known.

    points  (f (x, y) / z - u) / sigma              bones  (b / |b| - d) / sigma
    prior   (a - mean) / spread                     limits (a - its nearest place within the limits) / LIMIT_SPREAD
    """
    placed = points + state.t[:, None]
    z = np.maximum(placed[..., 2:], LEAST_DEPTH)
    uv = targets.focal[:, None, None] * placed[..., :2] / z
    bones = skeleton.directions @ points
    unit = bones / np.maximum(np.linalg.norm(bones, axis=2, keepdims=True), 1e-9)
    prior = skeleton.prior
    return Residuals(
        (uv - targets.points) * targets.point_weights[..., None],
        (unit - targets.bones) * targets.bone_weights[..., None],
        (state.angles - prior.mean) / prior.spread,
        (state.angles - np.clip(state.angles, prior.least, prior.most)) / LIMIT_SPREAD,
    )


def normal_equations(skeleton: Skeleton, state: State, targets: Targets) -> tuple[Array, Array, Array]:
    """Cost (I,), gradient J^T r (I, N) and J^T J (I, N, N) of poses, robust weights in it (one step of reweighting)."""
    frames, origins, points = skeleton.posed(state)
    r = residuals(skeleton, state, targets, points)
    n, moved = len(points), 3 * len(skeleton.moving)
    axes = frames[:, skeleton.moving] @ _right_jacobian(state.angles)  # (I, M, 3, 3): columns turn everything below the joint
    arms = (points[:, :, None] - origins[:, None, skeleton.moving]) * skeleton.above[..., None]
    slopes = np.empty((n, points.shape[1], 3, 3 + moved))  # of points from the pelvis, by w and a
    slopes[..., :3] = -_cross(points)
    # d p / d a = axis x arm for each column of the axes, that is -[arm]x axes.
    turned = np.matmul(-_cross(arms), axes[:, None])  # (I, P, M, 3, 3)
    slopes[..., 3:] = turned.swapaxes(2, 3).reshape(n, points.shape[1], 3, moved)

    placed = points + state.t[:, None]
    z = np.maximum(placed[..., 2], LEAST_DEPTH)
    weight = targets.point_weights * np.sqrt(_robust(r.points))
    gain = weight * targets.focal[:, None] / z
    xy = placed[..., :2] / z[..., None]
    by_points = np.empty((n, points.shape[1], 2, 6 + moved))
    through = gain[..., None, None] * (slopes[..., :2, :] - xy[..., None] * slopes[..., 2:, :])
    by_points[..., :3], by_points[..., 6:] = through[..., :3], through[..., 3:]
    by_points[..., 3:6] = 0
    depth = state.t[:, None, 2]
    by_points[..., 0, 3] = by_points[..., 1, 4] = gain * depth
    by_points[..., 5] = -gain[..., None] * xy * depth[..., None]

    bones = skeleton.directions @ points
    length = np.maximum(np.linalg.norm(bones, axis=2), 1e-9)[..., None, None]
    unit = bones[..., None] / length
    change = np.matmul(skeleton.directions, slopes.reshape(n, points.shape[1], -1)).reshape(n, -1, 3, 3 + moved)
    bone_weight = targets.bone_weights * np.sqrt(_robust(r.bones))
    change = (change - unit * (unit.swapaxes(2, 3) @ change)) / length * bone_weight[..., None, None]
    by_bones = np.zeros((n, bones.shape[1], 3, 6 + moved))
    by_bones[..., :3], by_bones[..., 6:] = change[..., :3], change[..., 3:]

    J = np.concatenate([by_points.reshape(n, -1, 6 + moved), by_bones.reshape(n, -1, 6 + moved)], 1)
    seen = np.sqrt(_robust(r.points))[..., None] * r.points, np.sqrt(_robust(r.bones))[..., None] * r.bones
    stacked = np.concatenate([seen[0].reshape(n, -1), seen[1].reshape(n, -1)], 1)
    H = J.swapaxes(1, 2) @ J
    g = (J.swapaxes(1, 2) @ stacked[..., None])[..., 0]
    prior = skeleton.prior
    outside = (r.limits != 0) / LIMIT_SPREAD
    g[:, 6:] += (r.prior / prior.spread + r.limits * outside).reshape(n, -1)
    diagonal = np.arange(6, 6 + moved)
    H[:, diagonal, diagonal] += (prior.spread**-2 + outside**2).reshape(n, -1)
    return r.cost(), g, H


def stepped(state: State, step: Array) -> State:
    """The state after a step (I, N) in the unknowns."""
    R = rotation_matrices(torch.from_numpy(np.ascontiguousarray(step[:, :3]))).numpy() @ state.R
    t = state.t.copy()
    t[:, :2] += step[:, 3:5] * state.t[:, 2:]
    t[:, 2] *= np.exp(np.clip(step[:, 5], -1, 1))
    return State(R, t, state.angles + step[:, 6:].reshape(state.angles.shape))


def _robust(whitened: Array) -> Array:
    """Huber's weight of each residual, (I, K) from (I, K, c)."""
    return np.asarray(HUBER / np.maximum(np.linalg.norm(whitened, axis=2), HUBER))


def _cross(v: Array) -> Array:
    """[v]x of vectors (..., 3), (..., 3, 3)."""
    matrix = np.zeros((*v.shape, 3))
    matrix[..., 0, 1], matrix[..., 0, 2], matrix[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    matrix[..., 1, 0], matrix[..., 2, 0], matrix[..., 2, 1] = v[..., 2], -v[..., 1], v[..., 0]
    return matrix


def _right_jacobian(a: Array) -> Array:
    """J_r(a) = 1 - (1 - cos t) / t^2 [a]x + (t - sin t) / t^3 [a]x^2 with t = |a|: exp(a + d) = exp(a) exp(J_r d)."""
    t = np.linalg.norm(a, axis=-1)[..., None, None]
    small = t < 1e-3
    safe = np.where(small, 1.0, t)
    first = np.where(small, 0.5 - t**2 / 24, (1 - np.cos(safe)) / safe**2)
    second = np.where(small, 1 / 6 - t**2 / 120, (safe - np.sin(safe)) / safe**3)
    K = _cross(a)
    return np.asarray(np.eye(3) - first * K + second * (K @ K))
