"""The problem of a camera fit: checked images, parameters relative to a start, and ways to find a start.

``SolverInput`` and ``SolverResult`` are the arguments of the compiled solvers.
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
"""Default initial focal length in image widths: 1.167, for 46.4 degrees across the width (A.4)."""

MIN_JOINTS = 4
"""Least number of valid joints in an image: each gives two equations for seven unknowns."""

NEAREST, FARTHEST = 0.3, 1000.0
"""Bounds of the distance t_z between camera and pelvis in metres."""

LEAST_DEPTH = 0.01
"""Least depth of a joint in units of t_z (the pelvis has depth 1), as the loss has a pole at 0. Adam clamps depths to it;
Levenberg-Marquardt rejects steps that go below it."""

STOPPED, MINIMUM, EXHAUSTED = 0, 1, 2
"""Status of an image: mean distance below the limit; no step lowers the loss any further; no iterations left."""

Array = NDArray[np.float64]
_AZIMUTHS, _ELEVATIONS = 12, (-45.0, 0.0, 45.0)  # grid of view directions tried without R0: number, and degrees


class SolverInput(NamedTuple):
    """n images as the compiled solvers take them; float64 except ``valid``."""

    points: Array  # (n, J, 3) m, the joints rotated by R0
    targets: Array  # (n, J, 2) px from the image's centre
    valid: NDArray[np.bool_]  # (n, J)
    s0: Array  # (n,) px/m
    p0: Array  # (n, 2) px from the image's centre
    q0: Array  # (n,) 1/m
    focal: Array  # (n,) px where the focal length is known, 0 where it is an unknown

    def rows(self, rows: slice) -> SolverInput:
        """Some of the images, as views of the arrays."""
        return SolverInput._make(array[rows] for array in self)


class SolverResult(NamedTuple):
    """The parameters that a solver reached for n images, relative to their starts."""

    rotation: Array  # (n, 3, 3), applied after the start's R0
    parameters: Array  # (n, 4) b, d, q
    loss: Array  # (n,) px^2
    residual_px: Array  # (n,) mean distance
    iterations: NDArray[np.int64]  # (n,)
    status: NDArray[np.int8]  # (n,) STOPPED, MINIMUM or EXHAUSTED

    @classmethod
    def empty(cls, n: int) -> SolverResult:
        """Uninitialised results, to be written by a solver."""
        return cls(np.empty((n, 3, 3)), np.empty((n, 4)), np.empty(n), np.empty(n), np.empty(n, np.int64), np.empty(n, np.int8))

    def rows(self, rows: slice) -> SolverResult:
        """The results of some of the images, as views: writing to them writes here."""
        return SolverResult._make(array[rows] for array in self)

    def put(self, rows: NDArray[np.intp], other: SolverResult, chosen: NDArray[np.bool_]) -> None:
        """Replace the results of ``rows`` (m,) by those of another run on them, where ``chosen`` (m,) bool."""
        for name in self._fields:
            getattr(self, name)[rows[chosen]] = getattr(other, name)[chosen]


@dataclass(frozen=True)
class Problem:
    """n images: joints and targets, and the start that the parameters are relative to. float64 except ``valid``."""

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
        """The same images with a solver's result as their start."""
        return replace(
            self,
            R0=result.rotation @ self.R0,
            s0=self.s0 * np.exp(result.parameters[:, 0]),
            p0=self.p0 + self.s0[:, None] * result.parameters[:, 1:3],
            q0=result.parameters[:, 3],
        )


def faults(joints: Array, targets: Array, valid: NDArray[np.bool_]) -> dict[int, str]:
    """Images that cannot be fitted: row -> message with the argument, what was expected and what came."""
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


def checked_focal(name: str, value: Any, size: NDArray[np.int32]) -> Array:
    """Focal lengths (n,) px from None (the default), one number, or n numbers; InputError where not positive."""
    n = len(size)
    if value is None:
        return np.asarray(FOCAL_IN_WIDTHS * size[:, 1], np.float64)
    focal: Array = np.broadcast_to(check_array(name, value, (n,) if np.ndim(value) else (), np.float64), (n,))
    bad = np.flatnonzero(focal <= 0)
    if bad.size:
        raise InputError(f"{name}: expected positive focal lengths, got {focal[bad[0]]:g} in row {bad[0]}")
    return focal


def checked_rotations(value: Any, n: int) -> Array:
    """(n, 3, 3) rotations orthonormalised in float64, as any error of the input would stay in the result; else InputError."""
    given = check_array("R0", value, (n, 3, 3), np.float64)
    off = np.abs(given @ given.swapaxes(1, 2) - np.eye(3)).max((1, 2), initial=0.0)
    off = np.maximum(off, np.abs(np.linalg.det(given) - 1))
    if n and off.max() > ROTATION_TOLERANCE:
        raise InputError(f"R0: expected rotations, row {int(off.argmax())} is off by {off.max():.3g}")
    u, _, vt = np.linalg.svd(given)
    return np.asarray(u @ vt)


def checked_translations(value: Any, n: int) -> Array:
    """Translations (n, 3) m, checked to have t_z > 0."""
    t0 = check_array("t0", value, (n, 3), np.float64)
    bad = np.flatnonzero(t0[:, 2] <= 0)
    if bad.size:
        row = bad[0]
        raise InputError(f"t0: expected the pelvis before the camera, t_z > 0, got {t0[row].tolist()} in row {row}")
    return t0


def rotations(axis_angle: Array) -> Array:
    """Rotation matrices (n, 3, 3) from axis-angle (n, 3) in radians."""
    return np.asarray(rotation_matrices(torch.from_numpy(np.ascontiguousarray(axis_angle))).numpy())


def centred(points: Array, valid: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Points (n, J, k) minus the mean of the valid ones, 0 where not valid; and the mean (n, k)."""
    mean = (points * valid[..., None]).sum(1) / np.maximum(valid.sum(1), 1)[:, None]
    return (points - mean[:, None]) * valid[..., None], mean


def span(points: Array) -> Array:
    """Spread of centred points: the root of the sum of their squares, (n,)."""
    return np.asarray(np.sqrt((points**2).sum((1, 2))))


def weak_perspective(problem: Problem, focal: Array) -> Problem:
    """The problem with a start from R0 and focal (n,) px: position from the means of joints and targets, scale from the ratio
    of their spreads. With the right R0 that equals the least-squares scale, which with a wrong one may be tiny or negative."""
    projected, mean = centred((problem.joints @ problem.R0.swapaxes(1, 2))[..., :2], problem.valid)
    targets, target_mean = centred(problem.targets, problem.valid)
    scale = span(targets) / np.maximum(span(projected), 1e-3)
    return replace(problem, s0=scale, p0=target_mean - scale[:, None] * mean, q0=scale / focal)


def likely_views(problem: Problem, count: int) -> Problem:
    """The ``count`` likeliest starts of each image, in consecutive rows, given only the focal length, as 1 / q0.

    For each of 36 view directions, the best roll (with scale and position) is a linear least-squares fit in complex numbers.
    The directions of least residual are returned; which of them is right shows only after some iterations of the fit.
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
    """The problem started from the mirrored orientation: the plane of a flat body tilted the other way against the image.

    Bodies are flat enough for the loss to have a second minimum near it. The rotated joints are mirrored in the plane normal to
    the direction of their least spread, which changes them little, and in depth, which hardly changes the image.
    """
    points = centred(problem.joints @ problem.R0.swapaxes(1, 2), problem.valid)[0]
    _, axes = np.linalg.eigh(points.swapaxes(1, 2) @ points)
    normal = axes[:, :, 0]
    mirror = np.eye(3) - 2 * normal[:, :, None] * normal[:, None, :]
    return weak_perspective(replace(problem, R0=np.diag([1.0, 1.0, -1.0]) @ mirror @ problem.R0), focal)


def _view_rotations() -> Array:
    """(36, 3, 3) rotations into the axes of cameras all around that look at the pelvis, with the person upright."""
    azimuth = np.repeat(np.arange(_AZIMUTHS) * (2 * math.pi / _AZIMUTHS), len(_ELEVATIONS))
    elevation = np.tile(np.radians(_ELEVATIONS), _AZIMUTHS)
    level = np.cos(elevation)
    forward = -np.stack([level * np.cos(azimuth), np.sin(elevation), level * np.sin(azimuth)], 1)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return np.stack([right, np.cross(forward, right), forward], 1)
