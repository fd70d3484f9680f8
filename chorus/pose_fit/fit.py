"""Poses, orientations and cameras of many people from landmarks in images, with or without directions in space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.camera.fit import MIN_JOINTS
from chorus.camera.solvers.problem import checked_focal
from chorus.errors import InputError, check_array
from chorus.keypoints import LAYOUTS
from chorus.pose_fit.layouts import BONES, HEAD, LIMBS, MOVED_BY, body_points
from chorus.pose_fit.problem import Array, Skeleton, State, Targets
from chorus.pose_fit.solver import Solved, covariance, minimise
from chorus.pose_fit.start import from_bones, from_direction, turned_by_rays

BATCH = 32
"""Poses that are solved together: more are no faster, as their derivatives no longer stay near the processor."""
_DIRECTIONS = 8  # azimuths that a fit without directions in space starts from
_FIRST, _KEPT = 12, 2  # steps from each of them, and how many of the best go on
_HEAD_TIMES = 2.0  # how many times less certain landmarks of the head are: faces differ from the template's


@dataclass(frozen=True)
class FitOptions:
    """How a pose is fitted.

    min_confidence  landmarks below it, and those outside the image, count as not seen; 0..1
    point_spread    standard deviation of a landmark, as a share of the person's size in the image (the diagonal of the box
                    about the landmarks seen)
    bone_spread     standard deviation of a bone's direction, radians
    iterations      most steps of Levenberg-Marquardt
    """

    min_confidence: float = 0.5
    point_spread: float = 0.008
    bone_spread: float = 0.15
    iterations: int = 40

    def __post_init__(self) -> None:
        for name, most in (("min_confidence", 1.0), ("point_spread", 1.0), ("bone_spread", math.pi)):
            value = getattr(self, name)
            if not 0 <= value <= most or (value == 0 and name != "min_confidence"):
                raise InputError(f"{name}: expected a number above 0 and up to {most:g}, got {value!r}")
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 1:
            raise InputError(f"iterations: expected a number of steps, 1 or more, got {self.iterations!r}")


@dataclass(frozen=True)
class PoseFit:
    """I poses found by ``fit_poses``, of a body with J joints, from L landmarks.

    poses         (I, J, 3) float64 axis-angle in radians; row 0 zero
    orientation   (I, 3) float64 axis-angle, radians: the person's frame (+x the person's left, +y up, +z forward) to the
                  camera's axes (x right, y down, z forward)
    cameras       I Cameras in the person's frame, of the focal length that was given
    joint_std     (I, J) float64 radians: standard deviation of each joint's rotation (root of the trace of its covariance),
                  row 0 that of the orientation; that of the prior where nothing was seen; NaN for joints that are not fitted
    seen          (I, J) bool: whether landmarks that tell the joint's rotation were seen; else the pose is only likely there
    limbs_seen    (I, 4) bool, in the order of ``LIMBS``: left arm, left leg, right arm, right leg
    residual_px   (I,) float64 mean distance in pixels between landmarks seen and their places on the posed body
    joints_px     (I, J, 2) float64 projected joints, pixels
    landmarks_px  (I, L, 2) float64 the body's landmarks, pixels; NaN for landmarks that have no place on the body
    used          (I, L) bool: landmarks that the pose was fitted to in the image
    landmark_of_joint  (J,) int64: the landmark that lies at or beside each joint, -1 where there is none
    iterations    (I,) int64 steps tried                            converged     (I,) bool, whether they ended at a minimum
    reasons       (I,) why there is no pose; "" where there is one. All numbers of such a row are placeholders
    """

    poses: NDArray[np.float64]
    orientation: NDArray[np.float64]
    cameras: Cameras
    joint_std: NDArray[np.float64]
    seen: NDArray[np.bool_]
    limbs_seen: NDArray[np.bool_]
    residual_px: NDArray[np.float64]
    joints_px: NDArray[np.float64]
    landmarks_px: NDArray[np.float64]
    used: NDArray[np.bool_]
    landmark_of_joint: NDArray[np.int64]
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]
    reasons: tuple[str, ...]


def fit_poses(
    body: Body,
    landmarks: Any,
    image_size: Any,
    *,
    layout: str,
    world: Any = None,
    focal: Any = None,
    options: FitOptions | None = None,
) -> PoseFit:
    """Fit a body's pose to landmarks of I people, all at once, by Levenberg-Marquardt with known focal lengths.

        min over R, t, a of  sum_l h(|pi(K (R x_l(a) + t)) - u_l| / s_l) + sum_b h(|R d_b(a) - d_b| / s_b)
                             + sum_j |a_j - m_j|^2 / (2 s_j^2) + limits

    with landmarks x_l(a) on the posed body and u_l in the image, unit directions of bones d_b, rotation vectors a_j of the
    joints about their usual m_j, Huber's h (quadratic up to 2), and a steep quadratic beyond the joints' limits.

    body        any body with SMPL's joints (the mannequin, SMPL, SMPL-H/X); joints beyond the 22 of the body stay at zero, and
                so do its shape coefficients
    landmarks   (I, L, 3) x, y in pixels (the image covers [0, W) x [0, H)) and confidence in 0..1; where that is 0 any
                numbers, NaN included
    image_size  (I, 2) height, width in pixels
    layout      a name of LAYOUTS, which gives L and what each landmark is: "blazepose-33", "coco-17", "body-25", "halpe-26"
    world       (I, L, 3) the landmarks in space in any unit and from any origin, in the axes of a camera that looks at the
                person (x right, y down, z forward); only the directions between them are used. None: depth follows from
                lengths in the image and from what poses are usual alone, and is ambiguous: of limbs bent towards the
                camera and away from it the likelier is taken
    focal       (I,) or one number, pixels; None: that of ``fit_cameras``. It is not fitted: it trades against distance
    options     ``FitOptions``

    Images do not influence each other but for rounding. Rows with fewer than MIN_JOINTS landmarks seen, or with none of
    shoulders and hips, get a reason. Raises InputError for other shapes, confidences outside 0..1, landmarks of some
    confidence that are not finite, unknown layouts, focal lengths that are not positive, and bodies without SMPL's joints.
    """
    options = options or FitOptions()
    if layout not in LAYOUTS:
        raise InputError(f"layout: expected one of {', '.join(LAYOUTS)}; got {layout!r}")
    names = LAYOUTS[layout]
    given = check_array("landmarks", landmarks, ("I", len(names), 3), np.float64, finite=False)
    n = len(given)
    size = check_array("image_size", image_size, (n, 2), np.int32)
    if n and not (size > 0).all():
        raise InputError(f"image_size: expected a positive height and width, got {size[(size <= 0).any(1)][0].tolist()}")
    space = None if world is None else check_array("world", world, (n, len(names), 3), np.float64, finite=False)
    if not ((given[..., 2] >= 0) & (given[..., 2] <= 1)).all():
        raise InputError("landmarks: expected confidences in 0..1 in the third column, got others")
    some = given[..., 2] > 0
    if not np.isfinite(given[some]).all() or (space is not None and not np.isfinite(space[some]).all()):
        raise InputError("landmarks: expected finite numbers where the confidence is not 0, got others")
    return _fit(body, given, size, names, space, checked_focal("focal", focal, size), options)


def _fit(
    body: Body, given: Array, size: NDArray[np.int32], names: tuple[str, ...], space: Array | None, focal: Array, o: FitOptions
) -> PoseFit:
    where = body_points(body)
    used = tuple(name for name in names if name in where)
    columns = [names.index(name) for name in used]
    bones = tuple(bone for bone in BONES if space is not None and {*bone[0], *bone[1]} <= set(used))
    skeleton = Skeleton.of(body, used, bones)
    seen = _seen(given, size, o.min_confidence)
    targets = _targets(given[:, columns], seen[:, columns], size, used, focal, o)
    if space is not None:
        targets = _with_bones(targets, space[:, columns], skeleton, bones, o)
    by_name = dict(zip(names, seen.T, strict=True))
    reasons = _reasons(by_name, seen[:, columns])
    rows = np.flatnonzero([reason == "" for reason in reasons])
    n = len(given)
    state = State(np.tile(np.eye(3), (n, 1, 1)), np.tile([0.0, 0.0, 1.0], (n, 1)), np.zeros((n, len(skeleton.moving), 3)))
    iterations, converged = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    std = np.full((n, body.num_joints), np.nan)
    for begin in range(0, len(rows), BATCH):
        batch = rows[begin : begin + BATCH]
        solved = _solve(skeleton, targets.rows(batch), o.iterations, bool(bones))
        state.put(batch, solved.state)
        iterations[batch], converged[batch] = solved.iterations, solved.converged
        std[batch] = _deviations(skeleton, solved.state, targets.rows(batch))
    return _result(body, skeleton, state, targets, size, columns, len(names), by_name, std, iterations, converged, reasons)


def _seen(given: Array, size: NDArray[np.int32], least: float) -> NDArray[np.bool_]:
    """Which landmarks (I, L) count: sure enough, and inside the image, as estimators invent what the frame cuts off."""
    x, y = given[..., 0], given[..., 1]  # NaN is nowhere
    inside = (x >= 0) & (y >= 0) & (x < size[:, 1:]) & (y < size[:, :1])
    return np.asarray(inside & (given[..., 2] > 0) & (given[..., 2] >= least), np.bool_)


def person_size(points: Array, seen: NDArray[np.bool_]) -> Array:
    """The diagonal of the box about the points seen, (I,) pixels, from (I, L, 2) and (I, L); at least 1."""
    low = np.where(seen[..., None], points, np.inf).min(1)
    high = np.where(seen[..., None], points, -np.inf).max(1)
    return np.asarray(np.maximum(np.linalg.norm(np.where(seen.any(1, keepdims=True), high - low, 0.0), axis=1), 1.0))


def _targets(
    given: Array, seen: NDArray[np.bool_], size: NDArray[np.int32], used: tuple[str, ...], focal: Array, o: FitOptions
) -> Targets:
    points = np.where(seen[..., None], given[..., :2] - size[:, None, ::-1] / 2, 0.0)
    spread = o.point_spread * person_size(points, seen)
    times = np.array([_HEAD_TIMES if name in HEAD else 1.0 for name in used])
    weights = np.where(seen, np.sqrt(np.nan_to_num(given[..., 2])), 0.0) / (spread[:, None] * times)
    n = len(given)
    return Targets(points, weights, np.zeros((n, 0, 3)), np.zeros((n, 0)), np.array(focal))


def _with_bones(
    targets: Targets,
    space: Array,
    skeleton: Skeleton,
    bones: tuple[tuple[tuple[str, ...], tuple[str, ...], float], ...],
    o: FitOptions,
) -> Targets:
    seen = targets.point_weights > 0
    vectors = skeleton.directions @ np.where(seen[..., None], space, 0.0)
    length = np.linalg.norm(vectors, axis=2)
    known = np.array([seen[:, row != 0].all(1) for row in skeleton.directions]).T & (length > 1e-6)
    unit = vectors / np.maximum(length, 1e-9)[..., None]
    count = np.maximum(seen.sum(1), 1)[:, None]
    middle = (targets.points * seen[..., None]).sum(1) / count
    unit = turned_by_rays(unit, np.column_stack([middle, targets.focal]))
    times = np.array([times for _, _, times in bones])
    return targets._replace(bones=np.where(known[..., None], unit, 0.0), bone_weights=known / (o.bone_spread * times))


def _reasons(by_name: dict[str, NDArray[np.bool_]], seen: NDArray[np.bool_]) -> list[str]:
    torso = np.any([by_name[f"{side}_{part}"] for side in ("left", "right") for part in ("shoulder", "hip")], axis=0)
    enough = seen.sum(1) >= MIN_JOINTS
    return ["" if a and b else ("no torso seen" if a else "too few landmarks seen") for a, b in zip(enough, torso, strict=True)]


def _solve(skeleton: Skeleton, targets: Targets, iterations: int, with_bones: bool) -> Solved:
    if with_bones:
        return minimise(skeleton, from_bones(skeleton, targets), targets, iterations)
    azimuths = 2 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    tried = [minimise(skeleton, from_direction(skeleton, targets, angle), targets, _FIRST) for angle in azimuths.tolist()]
    order = np.argsort([one.cost for one in tried], axis=0)[:_KEPT]
    best: Solved | None = None
    for rank in order:
        start = State(*(np.stack([tried[k].state[part][i] for i, k in enumerate(rank)]) for part in range(3)))
        found = minimise(skeleton, start, targets, iterations)
        if best is None:
            best = found
            continue
        better = np.flatnonzero(found.cost < best.cost)
        best.state.put(better, found.state.rows(better))
        for mine, theirs in zip(best[1:], found[1:], strict=True):
            mine[better] = theirs[better]
    assert best is not None
    return best


def _deviations(skeleton: Skeleton, state: State, targets: Targets) -> Array:
    """Standard deviations (I, J) in radians of the joints' rotations, from J^T J; NaN for those that do not turn."""
    variance = np.diagonal(covariance(skeleton, state, targets), axis1=1, axis2=2)
    std = np.full((len(variance), skeleton.body.num_joints), np.nan)
    std[:, 0] = np.sqrt(variance[:, :3].sum(1))
    std[:, skeleton.moving] = np.sqrt(variance[:, 6:].reshape(len(variance), -1, 3).sum(2))
    return std


def _result(
    body: Body,
    skeleton: Skeleton,
    state: State,
    targets: Targets,
    size: NDArray[np.int32],
    columns: list[int],
    count: int,
    by_name: dict[str, NDArray[np.bool_]],
    std: Array,
    iterations: NDArray[np.int64],
    converged: NDArray[np.bool_],
    reasons: list[str],
) -> PoseFit:
    n, names = len(size), list(body.joint_names)
    K = np.tile(np.eye(3), (n, 1, 1))
    K[:, 0, 0] = K[:, 1, 1] = targets.focal
    K[:, :2, 2] = size[:, ::-1] / 2
    _, origins, points = skeleton.posed(state)

    def pixels(x: Array) -> Array:
        placed = x + state.t[:, None]
        z = np.maximum(placed[..., 2:], 1e-6)
        return np.asarray(targets.focal[:, None, None] * placed[..., :2] / z + size[:, None, ::-1] / 2)

    on_body = np.full((n, count, 2), np.nan)
    on_body[:, columns] = pixels(points)
    used = targets.point_weights > 0
    in_layout = np.zeros((n, count), np.bool_)
    in_layout[:, columns] = used
    off = np.linalg.norm(on_body[:, columns] - targets.points - size[:, None, ::-1] / 2, axis=2)
    residual = (off * used).sum(1) / np.maximum(used.sum(1), 1)
    none = np.zeros(n, np.bool_)
    seen = np.zeros((n, body.num_joints), np.bool_)
    torso = np.sum([by_name[f"{side}_{part}"] for side in ("left", "right") for part in ("shoulder", "hip")], axis=0) >= 3
    for joint in ("pelvis", "spine1", "spine2", "spine3"):
        seen[:, names.index(joint)] = torso
    for joint, landmarks in MOVED_BY.items():
        if joint in names:
            there = [by_name.get(name, by_name.get(name.replace("toe", "big_toe"), none)) for name in landmarks]
            seen[:, names.index(joint)] = np.all(there, axis=0)
    limbs = np.stack([np.all([by_name.get(name, none) for name in parts], axis=0) for parts in LIMBS.values()], 1)
    orientation = Rotation.from_matrix(state.R).as_rotvec() if n else np.zeros((0, 3))
    poses = skeleton.poses(_wrapped(state.angles))
    return PoseFit(
        poses=poses,
        orientation=orientation,
        cameras=Cameras(state.R, state.t, K, size),
        joint_std=std,
        seen=seen,
        limbs_seen=limbs,
        residual_px=residual,
        joints_px=pixels(origins),
        landmarks_px=on_body,
        used=in_layout,
        landmark_of_joint=np.array([_beside(joint, list(by_name)) for joint in names], np.int64),
        iterations=iterations,
        converged=converged,
        reasons=tuple(reasons),
    )


def _beside(joint: str, landmarks: list[str]) -> int:
    """The landmark at or beside a joint; -1 where there is none."""
    side = joint.partition("_")[0]
    same: dict[str, tuple[str, ...]] = {"pelvis": ("mid_hip",), "neck": ("mid_shoulder",), f"{side}_hand": (f"{side}_index",)}
    same[f"{side}_foot"] = (f"{side}_toe", f"{side}_big_toe")
    return next((landmarks.index(name) for name in (joint, *same.get(joint, ())) if name in landmarks), -1)


def _wrapped(angles: Array) -> Array:
    """The rotation vectors (I, M, 3) of the same rotations whose length is at most pi."""
    return Rotation.from_rotvec(angles.reshape(-1, 3)).as_rotvec().reshape(angles.shape) if angles.size else angles
