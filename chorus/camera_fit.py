"""Perspective cameras from projected joints (Eq. 8), for many images at once.

Each image has seven unknowns: rotation, translation and one focal length. They are moved as

- w     (3,) radians: R = exp([w]x) R0, an increment on the start's rotation
- b     log(s / s0), where s = f / t_z is the scale at the pelvis in pixels per metre
- d     (2,) metres: the pelvis projects to p = p0 + s0 d
- q     1/m, the inverse distance 1 / t_z

so that a step of 0.01 in any of them moves a person's joints by about one hundredth of the person's size; f = s / q and
t = ((p - c) / s, 1 / q) follow, where c is the image's centre. Joints of one person say much about s and p and little
about q: f and t_z grow and shrink together at almost no cost, the more so the farther the camera. They are not
regularised; t_z is kept within NEAREST and FARTHEST (0.3 and 1000 m). What q comes to hardly moves the picture of the
person, but whoever compares focal lengths or distances should know. Targets of a weak-perspective camera have their
optimum at q = 0: t_z goes on growing until the fit stops, as it is meant to, or reaches FARTHEST.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus._reprojection import descend
from chorus.camera import ROTATION_TOLERANCE, Cameras
from chorus.errors import InputError, check_array
from chorus.kernels.kinematics import rotation_matrices

__all__ = [
    "BODY_25_JOINTS", "FOCAL_IN_WIDTHS", "MIN_JOINTS", "CameraFit", "fit_cameras", "keypoint_targets",
    "weak_perspective_start",
]  # fmt: skip

FOCAL_IN_WIDTHS = 0.5 / math.tan(math.radians(46.4) / 2)
"""The focal length that a fit starts from, in image widths: 46.4 degrees across the width (A.4), 1.167."""

MIN_JOINTS = 4
"""Joints that an image needs: each gives two equations, and there are seven unknowns."""

BODY_25_JOINTS: dict[int, str] = {
    1: "neck", 2: "right_shoulder", 3: "right_elbow", 4: "right_wrist", 5: "left_shoulder", 6: "left_elbow",
    7: "left_wrist", 8: "pelvis", 9: "right_hip", 10: "right_knee", 11: "right_ankle", 12: "left_hip",
    13: "left_knee", 14: "left_ankle", 19: "left_foot", 22: "right_foot",
}  # fmt: skip
"""OpenPose BODY_25 keypoints that have a joint of SMPL nearby: mid-hip for the pelvis, big toes for the feet."""

_Array = NDArray[np.float64]
_AZIMUTHS, _ELEVATIONS = 12, (-45.0, 0.0, 45.0)  # view directions tried where none is given, degrees
_FINALISTS, _TRIAL = 4, 200  # of these, how many are followed, and for how many iterations
_CHUNK = 32  # images a thread takes at a time; they stop at very different times


@dataclass(frozen=True)
class CameraFit:
    """Cameras found by ``fit_cameras``, one an image.

    cameras      Cameras in the person's frame of the joints; fx = fy, principal point at the image's centre
    residual_px  (I,) float64 mean distance in pixels between targets and projections over the valid joints
    iterations   (I,) int64 steps taken
    converged    (I,) bool, whether residual_px < stop_px
    """

    cameras: Cameras
    residual_px: NDArray[np.float64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]


@dataclass(frozen=True)
class _Problem:
    """n images: what to reach, and the start that parameters are relative to. float64 but ``valid``."""

    joints: _Array  # (n, J, 3) m; 0 where not valid
    targets: _Array  # (n, J, 2) px from the image's centre; 0 where not valid
    valid: NDArray[np.bool_]  # (n, J)
    R0: _Array  # (n, 3, 3)
    s0: _Array  # (n,) px/m
    p0: _Array  # (n, 2) px from the image's centre
    q0: _Array  # (n,) 1/m

    def __getitem__(self, rows: NDArray[np.intp]) -> _Problem:
        return _Problem(
            self.joints[rows], self.targets[rows], self.valid[rows], self.R0[rows], self.s0[rows], self.p0[rows],
            self.q0[rows],
        )  # fmt: skip

    def moved(self, parameters: _Array) -> _Problem:
        """The problem with the start where parameters (n, 7) = w, b, d, q lead to."""
        return replace(
            self,
            R0=_rotations(parameters[:, :3]) @ self.R0,
            s0=self.s0 * np.exp(parameters[:, 3]),
            p0=self.p0 + self.s0[:, None] * parameters[:, 4:6],
            q0=parameters[:, 6],
        )


def fit_cameras(
    joints: Any,
    targets: Any,
    valid: Any = None,
    image_size: Any = None,
    *,
    R0: Any = None,
    t0: Any = None,
    focal0: Any = None,
    iterations: int = 2400,
    stop_px: float = 0.7,
    learning_rate: float = 0.01,
) -> CameraFit:
    """Cameras that minimise the sum over joints of squared reprojection distances over R, t and f = fx = fy (Eq. 8, A.4).

    joints         (I, J, 3) metres, person's frame (the pose without global orientation, origin at the pelvis)
    targets        (I, J, 2) pixels; joints outside the image count, too. Anything, NaN too, where not valid
    valid          (I, J) bool, or None for all; at least MIN_JOINTS of each image
    image_size     (I, 2) height, width in pixels
    R0             (I, 3, 3) rotations to start from, the global orientation; None: the best of 36 view directions, each
                   with the roll that suits the targets best, four of them followed for 200 iterations
    t0             (I, 3) metres to start from; only with R0. None: t_x and t_y from the mean of the targets, t_z from
                   their spread (both least squares of a weak-perspective camera, given R0 and focal0)
    focal0         (I,) or one number, pixels; None: FOCAL_IN_WIDTHS image widths
    iterations     at most; 2400 (for COCO-EFT 3000)
    stop_px        an image stops when the mean distance over its valid joints is less; 0.7 (for COCO-EFT 0.5)
    learning_rate  of Adam, on the parameters that this module's description defines

    Images do not influence each other. Of an image that does not stop, the iterate of least loss is kept. Computed in
    float64. Raises InputError for other shapes, numbers that are not finite, an R0 that is no rotation, t_z or focal
    lengths that are not positive, and images with too few valid joints or with all of these in one place.
    """
    problem = _checked(joints, targets, valid, image_size, R0, t0, focal0)
    check_budget(iterations, stop_px)
    if not (math.isfinite(learning_rate) and learning_rate >= 0):
        raise InputError(f"learning_rate: expected a finite number, 0 or more, got {learning_rate!r}")
    size = check_array("image_size", image_size, ("I", 2), np.int32)
    if R0 is None:
        problem = _best_view(problem, float(stop_px), float(learning_rate))
    found = _adam(problem, int(iterations), float(stop_px), float(learning_rate))
    end = problem.moved(found.parameters)
    K = np.zeros((len(size), 3, 3))
    K[:, 0, 0] = K[:, 1, 1] = end.s0 / end.q0
    K[:, :2, 2] = size[:, ::-1] / 2
    K[:, 2, 2] = 1
    t = np.column_stack([end.p0 / end.s0[:, None], 1 / end.q0])
    return CameraFit(Cameras(end.R0, t, K, size), found.residual_px, found.taken, found.residual_px < stop_px)


def check_budget(iterations: Any, stop_px: Any) -> None:
    """Raise InputError unless iterations is an integer, stop_px a finite number, and both are 0 or more."""
    if isinstance(iterations, bool) or not isinstance(iterations, int | np.integer) or iterations < 0:
        raise InputError(f"iterations: expected a number of steps, 0 or more, got {iterations!r}")
    if isinstance(stop_px, bool) or not isinstance(stop_px, int | float | np.number) or not 0 <= stop_px < math.inf:
        raise InputError(f"stop_px: expected a finite number of pixels, 0 or more, got {stop_px!r}")


def weak_perspective_start(
    scale: Any, tx: Any, ty: Any, global_orient: Any, image_size: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The paper's start (A.4) from a weak-perspective camera: R0 (I, 3, 3), t0 (I, 3) metres, focal0 (I,) pixels.

    scale, tx, ty  (I,) camera of a regressor in its square crop of the person: x in -1..1 across the crop is
                   scale (X + tx), X in metres
    global_orient  (I, 3) axis-angle in radians, person's frame to the camera's axes (x right, y down, z forward)
    image_size     (I, 2) height, width in pixels

    R0 = exp(global_orient), t0 = (tx, ty, 2 f / scale) with f = FOCAL_IN_WIDTHS image widths, as if the crop were the image.
    Where it is not, ``fit_cameras`` starts nearer to the targets with ``t0=None``. Raises InputError for other shapes,
    numbers that are not finite and a scale that is not positive.
    """
    scale = check_array("scale", scale, ("I",), np.float64)
    n = len(scale)
    tx = check_array("tx", tx, (n,), np.float64)
    ty = check_array("ty", ty, (n,), np.float64)
    orient = check_array("global_orient", global_orient, (n, 3), np.float64)
    size = check_array("image_size", image_size, (n, 2), np.int32)
    if not (scale > 0).all():
        row = int(np.argmin(scale))
        raise InputError(f"scale: expected positive numbers, got {scale[row]:g} in row {row}")
    return _rotations(orient), np.stack([tx, ty, 2 * FOCAL_IN_WIDTHS / scale], 1), FOCAL_IN_WIDTHS * size[:, 1]


def keypoint_targets(
    keypoints: Any, joint_names: Sequence[str], *, min_confidence: float = 0.3
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Targets for ``fit_cameras`` from OpenPose BODY_25 keypoints: (I, J, 2) pixels, NaN where none, and valid (I, J).

    keypoints       (I, 25, 3) x, y in pixels and confidence; OpenPose gives 0, 0, 0 where it found none
    joint_names     J names of the body's joints, SMPL's; BODY_25_JOINTS says which keypoint stands for which
    min_confidence  in 0..1; keypoints below it, and those of confidence 0, are left out

    Keypoints are where people see a joint, a few centimetres from the skeleton's: expect residuals of some pixels.
    Raises InputError for other shapes and keypoints that are not finite.
    """
    points = check_array("keypoints", keypoints, ("I", 25, 3), np.float64)
    if not 0 <= min_confidence <= 1:
        raise InputError(f"min_confidence: expected a number in 0..1, got {min_confidence!r}")
    names = list(joint_names)
    targets = np.full((len(points), len(names), 2), np.nan)
    valid = np.zeros((len(points), len(names)), np.bool_)
    for keypoint, name in BODY_25_JOINTS.items():
        if name in names:
            confidence = points[:, keypoint, 2]
            found = (confidence > 0) & (confidence >= min_confidence)
            valid[:, names.index(name)] = found
            targets[found, names.index(name)] = points[found, keypoint, :2]
    return targets, valid


def _checked(
    joints: Any, targets: Any, valid: Any, image_size: Any, R0: Any, t0: Any, focal0: Any
) -> _Problem:
    """The problem with its start; where R0 is None, only the focal length is in it, as q0 = 1 / focal and s0 = 1."""
    joints = check_array("joints", joints, ("I", "J", 3), np.float64, finite=False)
    n, j = joints.shape[:2]
    targets = check_array("targets", targets, (n, j, 2), np.float64, finite=False)
    mask = np.ones((n, j), np.bool_)
    if valid is not None:
        mask = check_array("valid", valid, (n, j), np.bool_)
    for name, array, most, unit in (("joints", joints, 1e3, "m"), ("targets", targets, 1e6, "px")):
        wild = np.argwhere(mask & ~(np.abs(array) <= most).all(-1))
        if len(wild):
            row, joint = wild[0]
            raise InputError(
                f"{name}: expected finite numbers up to {most:g} {unit}, got {array[row, joint].tolist()} "
                f"in row {row}, joint {joint}"
            )
    few = np.flatnonzero(mask.sum(1) < MIN_JOINTS)
    if few.size:
        raise InputError(
            f"valid: expected at least {MIN_JOINTS} joints in each image, got {mask[few[0]].sum()} in row {few[0]}"
        )
    size = check_array("image_size", image_size, (n, 2), np.int32)
    bad = np.flatnonzero((size <= 0).any(1))
    if bad.size:
        raise InputError(
            f"image_size: expected a positive height and width, got {size[bad[0]].tolist()} in row {bad[0]}"
        )
    joints = np.where(mask[..., None], joints, 0.0)
    targets = np.where(mask[..., None], targets - size[:, None, ::-1] / 2, 0.0)
    for name, array in (("joints", joints), ("targets", targets)):
        bad = np.flatnonzero(_spread(_centred(array, mask)[0]) < 1e-6)
        if bad.size:
            raise InputError(f"{name}: expected joints in different places, got all in one in row {bad[0]}")
    focal = FOCAL_IN_WIDTHS * size[:, 1]
    if focal0 is not None:
        focal = np.broadcast_to(check_array("focal0", focal0, (n,) if np.ndim(focal0) else (), np.float64), (n,))
    bad = np.flatnonzero(focal <= 0)
    if bad.size:
        raise InputError(f"focal0: expected positive focal lengths, got {focal[bad[0]]:g} in row {bad[0]}")
    problem = _Problem(joints, targets, mask, np.empty((n, 3, 3)), np.ones(n), np.zeros((n, 2)), 1 / focal)
    if R0 is None:
        if t0 is not None:
            raise InputError("t0: expected None where R0 is None, got a translation to start from without a rotation")
        return problem
    problem = replace(problem, R0=_checked_rotations(R0, n))
    if t0 is None:
        return _weak_perspective(problem, focal)
    t0 = check_array("t0", t0, (n, 3), np.float64)
    bad = np.flatnonzero(t0[:, 2] <= 0)
    if bad.size:
        row = bad[0]
        raise InputError(f"t0: expected the pelvis before the camera, t_z > 0, got {t0[row].tolist()} in row {row}")
    scale = focal / t0[:, 2]
    return replace(problem, s0=scale, p0=scale[:, None] * t0[:, :2], q0=1 / t0[:, 2])


def _checked_rotations(value: Any, n: int) -> _Array:
    """(n, 3, 3) rotations, brought to rotations in full precision: what input is off by would stay in the result."""
    rotations = check_array("R0", value, (n, 3, 3), np.float64)
    off = np.abs(rotations @ rotations.swapaxes(1, 2) - np.eye(3)).max((1, 2), initial=0.0)
    off = np.maximum(off, np.abs(np.linalg.det(rotations) - 1))
    if n and off.max() > ROTATION_TOLERANCE:
        raise InputError(f"R0: expected rotations, row {int(off.argmax())} is off by {off.max():.3g}")
    u, _, vt = np.linalg.svd(rotations)
    return np.asarray(u @ vt)


def _rotations(axis_angle: _Array) -> _Array:
    return np.asarray(rotation_matrices(torch.from_numpy(np.ascontiguousarray(axis_angle))).numpy())


def _centred(points: _Array, valid: NDArray[np.bool_]) -> tuple[_Array, _Array]:
    """Points (n, J, k) less their mean over the valid ones, 0 where not valid; and the mean (n, k)."""
    mean = (points * valid[..., None]).sum(1) / valid.sum(1)[:, None]
    return (points - mean[:, None]) * valid[..., None], mean


def _spread(centred: _Array) -> _Array:
    """Root of the sum of squares, (n,)."""
    return np.asarray(np.sqrt((centred**2).sum((1, 2))))


def _weak_perspective(problem: _Problem, focal: _Array) -> _Problem:
    """The start given R0 and focal (n,): position from the means of joints and targets, scale from the ratio of their
    spreads. Where R0 is right that is the least-squares scale, which otherwise may be tiny or negative."""
    seen, mean = _centred((problem.joints @ problem.R0.swapaxes(1, 2))[..., :2], problem.valid)
    wanted, middle = _centred(problem.targets, problem.valid)
    scale = _spread(wanted) / np.maximum(_spread(seen), 1e-3)
    return replace(problem, s0=scale, p0=middle - scale[:, None] * mean, q0=scale / focal)


def _best_view(problem: _Problem, stop_px: float, rate: float) -> _Problem:
    """The problem with a start where no orientation is known.

    For a view direction, the roll (with scale and position) that suits best is a least-squares fit in complex numbers, so
    that 36 directions cover all orientations. Which is right shows only when it is followed a little.
    """
    n = len(problem.q0)
    views = _view_rotations()
    wanted = _centred(problem.targets, problem.valid)[0] @ [1, 1j]
    turn = np.empty((n, len(views)), np.complex128)
    match = np.empty((n, len(views)))
    for k, view in enumerate(views):
        seen = _centred((problem.joints @ view.T)[..., :2], problem.valid)[0] @ [1, 1j]
        turn[:, k] = (seen.conj() * wanted).sum(1)
        match[:, k] = np.abs(turn[:, k]) / np.maximum(np.linalg.norm(seen, axis=1), 1e-3)  # the greater, the nearer
    best = np.argsort(-match, axis=1, kind="stable")[:, :_FINALISTS].ravel()
    image = np.repeat(np.arange(n), _FINALISTS)
    roll = np.zeros((len(image), 3))
    roll[:, 2] = np.angle(turn[image, best])
    finalists = replace(problem[image], R0=_rotations(roll) @ views[best])
    finalists = _weak_perspective(finalists, 1 / finalists.q0)
    tried = _adam(finalists, _TRIAL, stop_px, rate)
    winner = np.arange(n) * _FINALISTS + tried.loss.reshape(n, _FINALISTS).argmin(1)
    return finalists.moved(tried.parameters)[winner]


def _view_rotations() -> _Array:
    """(36, 3, 3) rotations into cameras that look at the pelvis from around, the person upright in the image."""
    azimuth = np.repeat(np.arange(_AZIMUTHS) * (2 * math.pi / _AZIMUTHS), len(_ELEVATIONS))
    elevation = np.tile(np.radians(_ELEVATIONS), _AZIMUTHS)
    level = np.cos(elevation)
    forward = -np.stack([level * np.cos(azimuth), np.sin(elevation), level * np.sin(azimuth)], 1)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return np.stack([right, np.cross(forward, right), forward], 1)


@dataclass(frozen=True)
class _Found:
    parameters: _Array  # (n, 7)
    loss: _Array  # (n,) px^2
    residual_px: _Array  # (n,)
    taken: NDArray[np.int64]  # (n,) steps


def _adam(problem: _Problem, iterations: int, stop_px: float, rate: float) -> _Found:
    """Adam on every image by itself, from the problem's start."""
    n = len(problem.q0)
    found = _Found(np.empty((n, 7)), np.empty(n), np.empty(n), np.empty(n, np.int64))
    turned = np.ascontiguousarray(problem.joints @ problem.R0.swapaxes(1, 2))

    def work(rows: slice) -> None:
        descend(
            turned[rows], problem.targets[rows], problem.valid[rows], problem.s0[rows], problem.p0[rows],
            problem.q0[rows], iterations, stop_px, rate,
            found.parameters[rows], found.loss[rows], found.residual_px[rows], found.taken[rows],
        )  # fmt: skip

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, [slice(first, first + _CHUNK) for first in range(0, n, _CHUNK)]))
    return found
