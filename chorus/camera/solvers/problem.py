"""What a camera fit starts from: images checked, parameters relative to a start, and where that start may come from.

Also what the solvers, which are compiled, are given (``SolverInput``) and fill in (``SolverResult``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.camera.cameras import ROTATION_TOLERANCE
from chorus.errors import InputError, check_array
from chorus.kernels.kinematics import rotation_matrices

FOCAL_IN_WIDTHS = 0.5 / math.tan(math.radians(46.4) / 2)
"""The focal length that a fit starts from, in image widths: 46.4 degrees across the width (A.4), 1.167."""

MIN_JOINTS = 4
"""Joints that an image needs: each gives two equations, and there are seven unknowns."""

NEAREST, FARTHEST = 0.3, 1000.0
"""Bounds of the distance t_z between camera and pelvis in metres."""

LEAST_DEPTH = 0.01
"""Depths are in units of t_z, 1 at the pelvis. Adam draws joints nearer than this as if they were there, as the loss has a
pole at 0; Levenberg-Marquardt takes no step that brings them there."""

STOPPED, MINIMUM, EXHAUSTED = 0, 1, 2
"""Why an image ended: its mean distance is below the limit; nothing lowers the loss any further; no iterations are left."""

Array = NDArray[np.float64]
_AZIMUTHS, _ELEVATIONS = 12, (-45.0, 0.0, 45.0)  # view directions tried where none is given, degrees


class SolverInput(NamedTuple):
    """n images as the compiled solvers take them; float64 but ``valid``."""

    points: Array  # (n, J, 3) m, the joints turned by R0
    targets: Array  # (n, J, 2) px from the image's centre
    valid: NDArray[np.bool_]  # (n, J)
    s0: Array  # (n,) px/m
    p0: Array  # (n, 2) px from the image's centre
    q0: Array  # (n,) 1/m
    focal: Array  # (n,) px where the focal length is known, 0 where it is an unknown

    def rows(self, rows: slice) -> SolverInput:
        """Some of the images, by views."""
        return SolverInput._make(array[rows] for array in self)


class SolverResult(NamedTuple):
    """Where a solver took n images from their starts."""

    rotation: Array  # (n, 3, 3) after the start's R0
    parameters: Array  # (n, 4) b, d, q
    loss: Array  # (n,) px^2
    residual_px: Array  # (n,) mean distance
    iterations: NDArray[np.int64]  # (n,)
    status: NDArray[np.int8]  # (n,) STOPPED, MINIMUM or EXHAUSTED

    @classmethod
    def empty(cls, n: int) -> SolverResult:
        """To be filled in."""
        return cls(np.empty((n, 3, 3)), np.empty((n, 4)), np.empty(n), np.empty(n), np.empty(n, np.int64), np.empty(n, np.int8))

    def rows(self, rows: slice) -> SolverResult:
        """Those of some of the images, by views: what is written to them is written here."""
        return SolverResult._make(array[rows] for array in self)

    def put(self, rows: NDArray[np.intp], other: SolverResult, chosen: NDArray[np.bool_]) -> None:
        """Take over the ``chosen`` of the results of another run for these rows."""
        for name in self._fields:
            getattr(self, name)[rows[chosen]] = getattr(other, name)[chosen]


@dataclass(frozen=True)
class Problem:
    """n images: what to reach, and the start that parameters are relative to. float64 but ``valid``."""

    joints: Array  # (n, J, 3) m; 0 where not valid
    targets: Array  # (n, J, 2) px from the image's centre; 0 where not valid
    valid: NDArray[np.bool_]  # (n, J)
    R0: Array  # (n, 3, 3)
    s0: Array  # (n,) px/m
    p0: Array  # (n, 2) px from the image's centre
    q0: Array  # (n,) 1/m
    focal: Array  # (n,) px where the focal length is known, 0 where it is an unknown

    def __getitem__(self, rows: Any) -> Problem:
        return Problem(
            self.joints[rows],
            self.targets[rows],
            self.valid[rows],
            self.R0[rows],
            self.s0[rows],
            self.p0[rows],
            self.q0[rows],
            self.focal[rows],
        )

    def solver_input(self) -> SolverInput:
        """The problem as the compiled solvers take it."""
        points = np.ascontiguousarray(self.joints @ self.R0.swapaxes(1, 2))
        return SolverInput(points, self.targets, self.valid, self.s0, self.p0, self.q0, self.focal)

    def restarted(self, result: SolverResult) -> Problem:
        """The same images with their start where a solver took them."""
        return replace(
            self,
            R0=result.rotation @ self.R0,
            s0=self.s0 * np.exp(result.parameters[:, 0]),
            p0=self.p0 + self.s0[:, None] * result.parameters[:, 1:3],
            q0=result.parameters[:, 3],
        )


def faults(joints: Array, targets: Array, valid: NDArray[np.bool_]) -> dict[int, str]:
    """Why images cannot be fitted: row -> argument, what was expected, what came. No entry where they can."""
    found: dict[int, str] = {}
    for name, array, most, unit in (("joints", joints, 1e3, "m"), ("targets", targets, 1e6, "px")):
        for row, joint in np.argwhere(valid & ~(np.abs(array) <= most).all(-1)).tolist():
            found.setdefault(
                row,
                f"{name}: expected finite numbers up to {most:g} {unit}, got {array[row, joint].tolist()} "
                f"in row {row}, joint {joint}",
            )
    for row in np.flatnonzero(valid.sum(1) < MIN_JOINTS).tolist():
        found[row] = f"valid: expected at least {MIN_JOINTS} joints in each image, got {valid[row].sum()} in row {row}"
    for name, array in (("joints", joints), ("targets", targets)):
        usable = valid.copy()
        usable[list(found)] = False
        spread = span(centred(np.where(usable[..., None], array, 0.0), usable)[0])
        for row in np.flatnonzero((spread < 1e-6) & usable.any(1)).tolist():
            found[row] = f"{name}: expected joints in different places, got all in one in row {row}"
    return found


def checked_focal(value: Any, size: NDArray[np.int32]) -> Array:
    """(n,) px from None, a number or n of them."""
    n = len(size)
    if value is None:
        return np.asarray(FOCAL_IN_WIDTHS * size[:, 1], np.float64)
    focal: Array = np.broadcast_to(check_array("focal0", value, (n,) if np.ndim(value) else (), np.float64), (n,))
    bad = np.flatnonzero(focal <= 0)
    if bad.size:
        raise InputError(f"focal0: expected positive focal lengths, got {focal[bad[0]]:g} in row {bad[0]}")
    return focal


def checked_rotations(value: Any, n: int) -> Array:
    """(n, 3, 3) rotations, brought to rotations in full precision: what input is off by would stay in the result."""
    given = check_array("R0", value, (n, 3, 3), np.float64)
    off = np.abs(given @ given.swapaxes(1, 2) - np.eye(3)).max((1, 2), initial=0.0)
    off = np.maximum(off, np.abs(np.linalg.det(given) - 1))
    if n and off.max() > ROTATION_TOLERANCE:
        raise InputError(f"R0: expected rotations, row {int(off.argmax())} is off by {off.max():.3g}")
    u, _, vt = np.linalg.svd(given)
    return np.asarray(u @ vt)


def checked_translations(value: Any, n: int) -> Array:
    """(n, 3) m with t_z > 0."""
    t0 = check_array("t0", value, (n, 3), np.float64)
    bad = np.flatnonzero(t0[:, 2] <= 0)
    if bad.size:
        row = bad[0]
        raise InputError(f"t0: expected the pelvis before the camera, t_z > 0, got {t0[row].tolist()} in row {row}")
    return t0


def rotations(axis_angle: Array) -> Array:
    """(n, 3) radians -> (n, 3, 3)."""
    return np.asarray(rotation_matrices(torch.from_numpy(np.ascontiguousarray(axis_angle))).numpy())


def centred(points: Array, valid: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Points (n, J, k) less their mean over the valid ones, 0 where not valid; and the mean (n, k)."""
    mean = (points * valid[..., None]).sum(1) / np.maximum(valid.sum(1), 1)[:, None]
    return (points - mean[:, None]) * valid[..., None], mean


def span(points: Array) -> Array:
    """Root of the sum of squares of centred points, (n,)."""
    return np.asarray(np.sqrt((points**2).sum((1, 2))))


def weak_perspective(problem: Problem, focal: Array) -> Problem:
    """The start given R0 and focal (n,): position from the means of joints and targets, scale from the ratio of their
    spreads. Where R0 is right that is the least-squares scale, which otherwise may be tiny or negative."""
    projected, mean = centred((problem.joints @ problem.R0.swapaxes(1, 2))[..., :2], problem.valid)
    targets, target_mean = centred(problem.targets, problem.valid)
    scale = span(targets) / np.maximum(span(projected), 1e-3)
    return replace(problem, s0=scale, p0=target_mean - scale[:, None] * mean, q0=scale / focal)


def likely_views(problem: Problem, count: int) -> Problem:
    """``count`` starts for each image, one after the other, where only the focal length is known, as 1 / q0.

    For a view direction, the roll (with scale and position) that suits best is a least-squares fit in complex numbers, so
    that 36 directions cover all orientations. Which is right shows only when it is followed a little.
    """
    n = len(problem.q0)
    views = _view_rotations()
    targets = centred(problem.targets, problem.valid)[0] @ [1, 1j]
    similarity = np.empty((n, len(views)), np.complex128)  # the roll is its angle
    match = np.empty((n, len(views)))
    for k, view in enumerate(views):
        projected = centred((problem.joints @ view.T)[..., :2], problem.valid)[0] @ [1, 1j]
        similarity[:, k] = (projected.conj() * targets).sum(1)
        match[:, k] = np.abs(similarity[:, k]) / np.maximum(np.linalg.norm(projected, axis=1), 1e-3)
    best = np.argsort(-match, axis=1, kind="stable")[:, :count].ravel()
    image = np.repeat(np.arange(n), count)
    roll = np.zeros((len(image), 3))
    roll[:, 2] = np.angle(similarity[image, best])
    starts = replace(problem[image], R0=rotations(roll) @ views[best])
    return weak_perspective(starts, 1 / starts.q0)


def mirrored(problem: Problem, focal: Array) -> Problem:
    """The start that a flat body cannot be told from: its plane tilted the other way against the image.

    Joints are flat enough for the loss to have a second minimum near there. With n the direction in which the joints turned
    by R0 spread least: mirrored in that plane, which changes them little, and in depth, which the image hardly shows.
    """
    points = centred(problem.joints @ problem.R0.swapaxes(1, 2), problem.valid)[0]
    _, axes = np.linalg.eigh(points.swapaxes(1, 2) @ points)
    normal = axes[:, :, 0]
    mirror = np.eye(3) - 2 * normal[:, :, None] * normal[:, None, :]
    return weak_perspective(replace(problem, R0=np.diag([1.0, 1.0, -1.0]) @ mirror @ problem.R0), focal)


def _view_rotations() -> Array:
    """(36, 3, 3) rotations into cameras that look at the pelvis from around, the person upright in the image."""
    azimuth = np.repeat(np.arange(_AZIMUTHS) * (2 * math.pi / _AZIMUTHS), len(_ELEVATIONS))
    elevation = np.tile(np.radians(_ELEVATIONS), _AZIMUTHS)
    level = np.cos(elevation)
    forward = -np.stack([level * np.cos(azimuth), np.sin(elevation), level * np.sin(azimuth)], 1)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return np.stack([right, np.cross(forward, right), forward], 1)
