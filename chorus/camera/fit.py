"""Perspective cameras from projected joints (Eq. 8), for many images at once.

Each image has seven unknowns: rotation, translation and one focal length. They are parametrised by

- w     (3,) radians: R = exp([w]x) R0, an increment on the initial rotation R0
- b     log(s / s0), where s = f / t_z is the scale at the pelvis in pixels per metre
- d     (2,) metres: the pelvis projects to p = p0 + s0 d
- q     1/m, the inverse distance 1 / t_z

so that a step of 0.01 in any of them moves a person's joints by about one hundredth of the person's size; f = s / q and
t = ((p - c) / s, 1 / q) follow, where c is the image's centre. The joints of one person determine s and p well and q badly:
f and t_z can grow or shrink together at almost no cost, the more so the farther the camera. They are not regularised; t_z is
kept within NEAREST and FARTHEST (0.3 and 1000 m). The value of q hardly changes the projected person, but do not rely on
fitted focal lengths or distances; where the focal length is known, give it. Targets from a weak-perspective camera have their
optimum at q = 0: t_z grows until the fit stops at ``stop_px`` or t_z reaches FARTHEST.

Two methods minimise the loss: ``adam``, the paper's, and ``levenberg-marquardt``, which uses the analytic derivatives of all
residuals and needs about ten steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.camera.solvers.multistart import SolverOptions, solve
from chorus.camera.solvers.problem import (
    EXHAUSTED,
    FARTHEST,
    FOCAL_IN_WIDTHS,
    LEAST_DEPTH,
    MIN_JOINTS,
    MINIMUM,
    NEAREST,
    Problem,
    checked_focal,
    checked_rotations,
    checked_translations,
    faults,
    rotations,
)
from chorus.errors import InputError, check_array

__all__ = [
    "BODY_25_JOINTS",
    "FARTHEST",
    "FOCAL_IN_WIDTHS",
    "LEAST_DEPTH",
    "METHODS",
    "MIN_JOINTS",
    "NEAREST",
    "CameraFit",
    "FitFailure",
    "check_budget",
    "fit_cameras",
    "keypoint_targets",
    "weak_perspective_start",
]

METHODS = ("adam", "levenberg-marquardt")

BODY_25_JOINTS: dict[int, str] = {
    1: "neck",
    2: "right_shoulder",
    3: "right_elbow",
    4: "right_wrist",
    5: "left_shoulder",
    6: "left_elbow",
    7: "left_wrist",
    8: "pelvis",
    9: "right_hip",
    10: "right_knee",
    11: "right_ankle",
    12: "left_hip",
    13: "left_knee",
    14: "left_ankle",
    19: "left_foot",
    22: "right_foot",
}
"""OpenPose BODY_25 keypoint -> the SMPL joint nearest to it: mid-hip for the pelvis, big toes for the feet."""

_REASONS = {MINIMUM: "a minimum of the loss above stop_px", EXHAUSTED: "iterations used up above stop_px"}


class FitFailure(NamedTuple):
    """An image whose camera did not come below ``stop_px``: its row, mean distance in pixels (NaN: not fitted), and why."""

    row: int
    residual_px: float
    reason: str


@dataclass(frozen=True)
class CameraFit:
    """Cameras found by ``fit_cameras``, one for each image.

    cameras      Cameras in the person's frame of the joints; fx = fy, principal point at the image's centre. Where an
                 image could not be fitted, a meaningless placeholder one metre in front of the person
    residual_px  (I,) float64 mean distance in pixels between targets and projections over the valid joints; NaN where
                 the image could not be fitted
    iterations   (I,) int64 steps from the start that led to the result, without those that chose a view direction
    converged    (I,) bool, whether residual_px < stop_px, with all valid joints in front of the camera
    loss_px2     (I,) float64 the loss: the sum of squared distances in pixels^2; NaN where residual_px is
    reasons      (I,) str, why an image did not converge: at a minimum, out of iterations, a joint behind the camera (Adam
                 only; residual_px then has that joint at LEAST_DEPTH), or what is wrong with its input; "" where it did
    """

    cameras: Cameras
    residual_px: NDArray[np.float64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    loss_px2: NDArray[np.float64]
    reasons: tuple[str, ...]

    @property
    def at_bound(self) -> NDArray[np.bool_]:
        """Whether the distance t_z ended at a bound, NEAREST or FARTHEST, (I,) bool; it is then undetermined."""
        z = self.cameras.t[:, 2]
        return (z <= NEAREST * (1 + 1e-9)) | (z >= FARTHEST * (1 - 1e-9))

    def failures(self, limit_px: float | None = None) -> list[FitFailure]:
        """The images that did not converge, in order; with ``limit_px``, those not fitted or with a residual above it."""
        rows = np.flatnonzero(~self.converged if limit_px is None else ~(self.residual_px <= limit_px)).tolist()
        return [FitFailure(row, float(self.residual_px[row]), self.reasons[row]) for row in rows]


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
    method: str = "adam",
    fit_focal: bool = True,
    strict: bool = True,
) -> CameraFit:
    """Fit cameras to projected joints: rotation, translation and focal length of least reprojection error (Eq. 8, A.4).

        min over R, t, f of sum_j |pi(K (R x_j + t)) - u_j|^2    with pi(x, y, z) = (x, y) / z and the valid joints j

    for each image, with joints x_j, targets u_j and K = [[f, 0, W/2], [0, f, H/2], [0, 0, 1]].

    joints         (I, J, 3) metres, person's frame (the pose without global orientation, origin at the pelvis)
    targets        (I, J, 2) pixels, also of joints outside the image; any numbers, NaN included, where not valid
    valid          (I, J) bool, or None for all; at least MIN_JOINTS in each image
    image_size     (I, 2) height, width in pixels
    R0             (I, 3, 3) initial rotations, the global orientation; None: of 36 view directions, each with its best roll,
                   the four likeliest are fitted for 200 iterations, and the best of these is the start
    t0             (I, 3) metres, initial translations; only with R0. None: t_x and t_y from the mean of the targets, t_z from
                   their spread (both least squares of a weak-perspective camera, given R0 and focal0)
    focal0         (I,) or one number, pixels, initial focal length; None: FOCAL_IN_WIDTHS image widths
    iterations     at most; 2400 (for COCO-EFT 3000)
    stop_px        an image stops when the mean distance over its valid joints is less; 0.7 (for COCO-EFT 0.5). With 0 it
                   goes on: Adam until its iterations are used up, Levenberg-Marquardt to a minimum
    learning_rate  of Adam, on the parameters defined at the top of this module
    method         "adam" (the paper) or "levenberg-marquardt", which reaches a minimum in about ten steps. Where that is above
                   stop_px, it is also started from the mirrored orientation (flat bodies have two minima) and from the view
                   directions, with or without R0 (which is a start, not a prior), and the least minimum is kept
    fit_focal      False: the focal length is known to be focal0, which leaves six unknowns and determines t_z well
    strict         whether an image whose joints, targets or valid cannot be used raises InputError; False: it is reported
                   in ``reasons``, and the rest are fitted

    Images do not influence each other. For an image that does not reach stop_px, the iterate of least loss is kept.
    Computed in float64.

    Raises InputError for other shapes, numbers that are not finite, an R0 that is no rotation, t_z or focal
    lengths that are not positive, and images with too few valid joints or with all valid joints in one place.
    """
    check_budget(iterations, stop_px)
    if not (math.isfinite(learning_rate) and learning_rate >= 0):
        raise InputError(f"learning_rate: expected a finite number, 0 or more, got {learning_rate!r}")
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    problem, size, faulty = _checked(joints, targets, valid, image_size, R0, t0, focal0, fit_focal)
    if strict and faulty:
        raise InputError(faulty[min(faulty)])
    n = len(size)
    rows = np.setdiff1d(np.arange(n), np.array(sorted(faulty), np.intp))
    options = SolverOptions(method, int(iterations), float(stop_px), float(learning_rate))
    end, result = solve(problem[rows], options, R0 is None, R0 is not None and t0 is None)
    K = np.zeros((n, 3, 3))
    K[:, 0, 0] = K[:, 1, 1] = problem.s0 / problem.q0
    K[rows, 0, 0] = K[rows, 1, 1] = end.s0 / end.q0
    K[:, :2, 2] = size[:, ::-1] / 2
    K[:, 2, 2] = 1
    R, t = np.tile(np.eye(3), (n, 1, 1)), np.tile([0.0, 0.0, 1.0], (n, 1))
    R[rows], t[rows] = end.R0, np.column_stack([end.p0 / end.s0[:, None], 1 / end.q0])
    residual, loss, taken = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, np.int64)
    residual[rows], loss[rows], taken[rows] = result.residual_px, result.loss, result.iterations
    reasons = np.full(n, "", object)
    reasons[rows] = [_REASONS.get(status, "") for status in result.status.tolist()]
    for row, reason in faulty.items():
        reasons[row] = reason
    depth = (end.joints @ end.R0.swapaxes(1, 2))[..., 2] * end.q0[:, None] + 1
    behind = rows[(end.valid & (depth <= LEAST_DEPTH)).any(1)]  # only Adam can end like this, from a bad start
    reasons[behind] = "a joint is not before the camera"
    converged = residual < stop_px
    converged[behind] = False
    return CameraFit(Cameras(R, t, K, size), residual, taken, converged, loss, tuple(reasons.tolist()))


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

    R0 = exp(global_orient), t0 = (tx, ty, 2 f / scale) with f = FOCAL_IN_WIDTHS image widths, as if the crop were the whole
    image. Where it is not, ``fit_cameras`` with ``t0=None`` has a better start. Raises InputError for other shapes,
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
    return rotations(orient), np.stack([tx, ty, 2 * FOCAL_IN_WIDTHS / scale], 1), FOCAL_IN_WIDTHS * size[:, 1]


def keypoint_targets(
    keypoints: Any, joint_names: Sequence[str], *, min_confidence: float = 0.3
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Targets for ``fit_cameras`` from OpenPose BODY_25 keypoints: (I, J, 2) pixels, NaN where none, and valid (I, J).

    keypoints       (I, 25, 3) x, y in pixels and confidence; OpenPose writes 0, 0, 0 for a missing keypoint
    joint_names     J names of the body's joints, SMPL's; BODY_25_JOINTS says which keypoint stands for which
    min_confidence  in 0..1; keypoints below it, and those of confidence 0, are left out

    Keypoints lie where annotators see a joint, a few centimetres from SMPL's: expect residuals of some pixels.
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
    joints: Any, targets: Any, valid: Any, image_size: Any, R0: Any, t0: Any, focal0: Any, fit_focal: bool
) -> tuple[Problem, NDArray[np.int32], dict[int, str]]:
    """The problem with its start; image sizes (I, 2); and row -> what is wrong with an image, whose row holds zeros.

    Where R0 or t0 is None, the start has only the focal length, as q0 = 1 / focal and s0 = 1; ``solve`` finds the rest.
    """
    joints = check_array("joints", joints, ("I", "J", 3), np.float64, finite=False)
    n, j = joints.shape[:2]
    targets = check_array("targets", targets, (n, j, 2), np.float64, finite=False)
    mask = np.ones((n, j), np.bool_)
    if valid is not None:
        mask = check_array("valid", valid, (n, j), np.bool_)
    size = check_array("image_size", image_size, (n, 2), np.int32)
    bad = np.flatnonzero((size <= 0).any(1))
    if bad.size:
        raise InputError(f"image_size: expected a positive height and width, got {size[bad[0]].tolist()} in row {bad[0]}")
    faulty = faults(joints, targets, mask)
    usable = mask.copy()
    usable[list(faulty)] = False
    joints = np.where(usable[..., None], joints, 0.0)
    targets = np.where(usable[..., None], targets - size[:, None, ::-1] / 2, 0.0)
    focal = checked_focal("focal0", focal0, size)
    known = np.zeros(n) if fit_focal else np.array(focal)
    R = np.tile(np.eye(3), (n, 1, 1)) if R0 is None else checked_rotations(R0, n)
    problem = Problem(joints, targets, mask, R, np.ones(n), np.zeros((n, 2)), 1 / focal, known)
    if t0 is None:
        return problem, size, faulty
    if R0 is None:
        raise InputError("t0: expected None where R0 is None, got a translation to start from without a rotation")
    t0 = checked_translations(t0, n)
    scale = focal / t0[:, 2]
    start = Problem(joints, targets, mask, R, scale, scale[:, None] * t0[:, :2], 1 / t0[:, 2], known)
    return start, size, faulty
