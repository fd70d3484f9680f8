"""The camera fit by Levenberg-Marquardt: seven unknowns for each image, analytic derivatives; compiled by numba.

Names are those of Nocedal and Wright, Numerical Optimization, chapters 4 and 10. With the residuals r(x) and their Jacobian
J, the loss ||r||^2 is modelled around x by m(p) = ||r + J p||^2 = ||r||^2 + 2 g^T p + p^T H p, where g = J^T r (half the
gradient) and H = J^T J (half the Gauss-Newton Hessian). The step p solves

    (H + damping diag H) p = -g

and is judged by the gain ratio: actual reduction of the loss over the reduction that the model predicted, m(0) - m(p). Steps
that do not lower the loss are rejected. The damping, which takes the place of a trust-region radius, follows the gain ratio by
Nielsen's rule (Damping parameter in Marquardt's method, 1999). Scaling it by the diagonal of H makes steps independent of the
units of the unknowns, which matters for the focal length, as the joints hardly determine it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from chorus.camera.solvers.problem import (
    EXHAUSTED,
    FARTHEST,
    LEAST_DEPTH,
    MINIMUM,
    NEAREST,
    STOPPED,
    SolverInput,
    SolverResult,
)
from chorus.kernels.jit import compiled

_INITIAL_DAMPING, _MIN_DAMPING, _MAX_DAMPING = 1e-3, 1e-12, 1e14
_MIN_RELATIVE_REDUCTION = 1e-13  # a step with a smaller predicted reduction of the loss ends the fit
_MAX_LOG_SCALE_STEP = 1.0  # largest change of log s in a step


class Placement(NamedTuple):
    """The unknowns other than the rotation: the pelvis at (u, v) px from the image's centre, the scale s there in px/m, and
    the inverse distance q in 1/m. Joints x in camera axes, relative to the pelvis, project to (p + s x_xy) / (1 + q x_z)."""

    u: float
    v: float
    s: float
    q: float


def _reprojection_loss(points: Any, targets: Any, at: Placement) -> Any:
    """Loss in px^2 and mean distance in px of points (m, 3); infinite where one is not in front of the camera."""
    loss, distance = 0.0, 0.0
    for j in range(len(points)):
        depth = 1 + at.q * points[j, 2]
        if depth <= LEAST_DEPTH:
            return math.inf, math.inf
        residual_u = (at.u + at.s * points[j, 0]) / depth - targets[j, 0]
        residual_v = (at.v + at.s * points[j, 1]) / depth - targets[j, 1]
        square = residual_u**2 + residual_v**2
        loss += square
        distance += math.sqrt(square)
    return loss, distance / len(points)


reprojection_loss = compiled()(_reprojection_loss)


def _normal_equations(points: Any, targets: Any, at: Placement, focal_known: bool, H: Any, g: Any) -> None:
    """H (7, 7) = J^T J, its lower triangle, and g (7,) = J^T r, where J = dr / dx.

    x = (a, b, d, q): points rotated further by a small rotation vector a, s multiplied by exp(b), the pelvis moved by s d in
    the image, and q. With a known focal length f, q = s / f follows b, and the row and column of q are 0.
    """
    H[:], g[:] = 0.0, 0.0
    J = np.empty((2, 7))  # of one point
    for j in range(len(points)):
        x0, x1, x2 = points[j, 0], points[j, 1], points[j, 2]
        inverse_depth = 1 / (1 + at.q * x2)
        u, v = (at.u + at.s * x0) * inverse_depth, (at.v + at.s * x1) * inverse_depth
        residual = (u - targets[j, 0], v - targets[j, 1])
        du_dx0 = at.s * inverse_depth  # = dv/dx1
        du_dx2, dv_dx2 = -u * at.q * inverse_depth, -v * at.q * inverse_depth
        # dx = a x x = (a1 x2 - a2 x1, a2 x0 - a0 x2, a0 x1 - a1 x0)
        J[0, 0], J[0, 1], J[0, 2] = du_dx2 * x1, du_dx0 * x2 - du_dx2 * x0, -du_dx0 * x1
        J[1, 0], J[1, 1], J[1, 2] = -du_dx0 * x2 + dv_dx2 * x1, -dv_dx2 * x0, du_dx0 * x0
        J[0, 3], J[1, 3] = du_dx0 * x0, du_dx0 * x1
        J[0, 4], J[0, 5], J[1, 4], J[1, 5] = du_dx0, 0.0, 0.0, du_dx0
        J[0, 6], J[1, 6] = -u * x2 * inverse_depth, -v * x2 * inverse_depth
        if focal_known:
            for e in range(2):
                J[e, 3] += at.q * J[e, 6]
                J[e, 6] = 0.0
        for e in range(2):
            for i in range(7):
                g[i] += J[e, i] * residual[e]
                for k in range(i + 1):
                    H[i, k] += J[e, i] * J[e, k]


normal_equations = compiled()(_normal_equations)


def _solve_damped(H: Any, g: Any, damping: float, fixed: int, L: Any, step: Any) -> bool:
    """step (7,) = -(H + damping diag H)^-1 g by the Cholesky factor L of the lower triangle; False where there is none.

    fixed  index of an unknown that does not change, or -1
    """
    for i in range(7):
        for k in range(i + 1):
            value = H[i, k]
            if i == k:
                value += damping * max(H[i, i], 1e-12)
            if i == fixed or k == fixed:
                value = 1.0 if i == k else 0.0
            for m in range(k):
                value -= L[i, m] * L[k, m]
            if i == k:
                if value <= 0:
                    return False
                L[i, i] = math.sqrt(value)
            else:
                L[i, k] = value / L[k, k]
    for i in range(7):
        value = 0.0 if i == fixed else -g[i]
        for m in range(i):
            value -= L[i, m] * step[m]
        step[i] = value / L[i, i]
    for i in range(6, -1, -1):
        value = step[i]
        for m in range(i + 1, 7):
            value -= L[m, i] * step[m]
        step[i] = value / L[i, i]
    return True


solve_damped = compiled()(_solve_damped)


def _fixed_unknown(q: float, g: Any, focal_known: bool) -> int:
    """The unknown that changes q, where q is at a bound and steepest descent would leave it; else -1."""
    unknown = 3 if focal_known else 6
    slope = g[unknown]
    outwards = (q <= 1 / FARTHEST and slope > 0) or (q >= 1 / NEAREST and slope < 0)
    return unknown if outwards else -1


fixed_unknown = compiled()(_fixed_unknown)


def _bound_step(step: Any, q: float, focal_known: bool) -> float:
    """Clip a step (7,) in place so that the change of scale is limited and q stays within its bounds; returns the new q."""
    step[3] = min(max(step[3], -_MAX_LOG_SCALE_STEP), _MAX_LOG_SCALE_STEP)
    if focal_known:
        new_q = min(max(q * math.exp(step[3]), 1 / FARTHEST), 1 / NEAREST)
        step[3] = math.log(new_q / q)
    else:
        new_q = min(max(q + step[6], 1 / FARTHEST), 1 / NEAREST)
        step[6] = new_q - q
    return new_q


bound_step = compiled()(_bound_step)


def _predicted_reduction(H: Any, g: Any, step: Any) -> float:
    """m(0) - m(p) = -(2 g^T p + p^T H p); H by its lower triangle. Negative where clipping changed the step too much."""
    reduction = 0.0
    for k in range(7):
        product = 0.0
        for m in range(7):
            product += (H[k, m] if m <= k else H[m, k]) * step[m]
        reduction -= step[k] * (2 * g[k] + product)
    return reduction


predicted_reduction = compiled()(_predicted_reduction)


def _rotation_from_vector(a: Any, out: Any) -> None:
    """Rodrigues: out (3, 3) = exp([a]x)."""
    angle = math.sqrt(a[0] ** 2 + a[1] ** 2 + a[2] ** 2)
    first = math.sin(angle) / angle if angle > 1e-4 else 1 - angle**2 / 6
    second = 2 * (math.sin(angle / 2) / angle) ** 2 if angle > 1e-4 else 0.5 - angle**2 / 24
    cosine = 1 - second * angle**2
    for i in range(3):
        for k in range(3):
            out[i, k] = second * a[i] * a[k] + (cosine if i == k else 0.0)
    out[0, 1] -= first * a[2]
    out[0, 2] += first * a[1]
    out[1, 0] += first * a[2]
    out[1, 2] -= first * a[0]
    out[2, 0] -= first * a[1]
    out[2, 1] += first * a[0]


rotation_from_vector = compiled()(_rotation_from_vector)


def _minimise(
    points: Any, targets: Any, start: Placement, focal_known: bool, max_iterations: int, stop_px: float, rotation: Any
) -> Any:
    """Fit one image: placement, loss, mean distance, steps tried and status; ``rotation`` (3, 3) is written.

    points (m, 3) m, the joints rotated by R0; targets (m, 2) px from the image's centre; the loss at the start is finite.
    """
    H, L, g, step = np.empty((7, 7)), np.zeros((7, 7)), np.empty(7), np.empty(7)
    turn, product = np.empty((3, 3)), np.empty((3, 3))
    trial_points = np.empty_like(points)
    rotation[:] = np.eye(3)
    at, trial = start, start
    loss, distance = reprojection_loss(points, targets, at)
    damping, growth = _INITIAL_DAMPING, 2.0
    accepted = True
    for iteration in range(max_iterations + 1):
        if distance < stop_px:
            return at, loss, distance, iteration, STOPPED
        if iteration == max_iterations:
            break
        if accepted:
            normal_equations(points, targets, at, focal_known, H, g)
        trial_loss, trial_distance, predicted = math.inf, math.inf, 0.0
        if solve_damped(H, g, damping, fixed_unknown(at.q, g, focal_known), L, step):
            q = bound_step(step, at.q, focal_known)
            predicted = predicted_reduction(H, g, step)
            if 0 <= predicted <= _MIN_RELATIVE_REDUCTION * loss:
                return at, loss, distance, iteration, MINIMUM
            rotation_from_vector(step[:3], turn)
            for j in range(len(points)):
                for k in range(3):
                    trial_points[j, k] = turn[k, 0] * points[j, 0] + turn[k, 1] * points[j, 1] + turn[k, 2] * points[j, 2]
            trial = Placement(at.u + at.s * step[4], at.v + at.s * step[5], at.s * math.exp(step[3]), q)
            trial_loss, trial_distance = reprojection_loss(trial_points, targets, trial)
        accepted = trial_loss < loss and predicted > 0
        if accepted:
            gain_ratio = (loss - trial_loss) / predicted
            points, trial_points = trial_points, points
            for k in range(3):
                for m in range(3):
                    product[k, m] = turn[k, 0] * rotation[0, m] + turn[k, 1] * rotation[1, m] + turn[k, 2] * rotation[2, m]
            rotation[:] = product
            at, loss, distance = trial, trial_loss, trial_distance
            damping = max(damping * max(1 / 3, 1 - (2 * min(gain_ratio, 1.0) - 1) ** 3), _MIN_DAMPING)
            growth = 2.0
        else:
            damping *= growth
            growth *= 2
            if damping > _MAX_DAMPING:
                return at, loss, distance, iteration + 1, MINIMUM
    return at, loss, distance, max_iterations, EXHAUSTED


minimise = compiled()(_minimise)


def _levenberg_marquardt(given: SolverInput, max_iterations: int, stop_px: float, result: SolverResult) -> None:
    """Fit each of n images from its start; ``result`` is written.

    Every accepted step lowers the loss, and none leaves the bounds of q or takes a valid joint behind the camera, so that the
    focal length s / q stays positive and finite.
    """
    for i in range(len(given.s0)):
        points, targets = given.points[i][given.valid[i]], given.targets[i][given.valid[i]]
        s0, focal = given.s0[i], given.focal[i]
        focal_known = focal > 0
        q = min(max(given.q0[i], 1 / FARTHEST), 1 / NEAREST)
        nearest = min(points[:, 2].min(), 0.0)
        if 1 + q * nearest < 0.1:  # a start with joints behind the camera: move it back
            q = -0.9 / nearest
        start = Placement(given.p0[i, 0], given.p0[i, 1], q * focal if focal_known else s0, q)
        at, result.loss[i], result.residual_px[i], result.iterations[i], result.status[i] = minimise(
            points, targets, start, focal_known, max_iterations, stop_px, result.rotation[i]
        )
        result.parameters[i, 0] = math.log(at.s / s0)
        result.parameters[i, 1], result.parameters[i, 2] = (at.u - start.u) / s0, (at.v - start.v) / s0
        result.parameters[i, 3] = at.q


levenberg_marquardt = compiled()(_levenberg_marquardt)
