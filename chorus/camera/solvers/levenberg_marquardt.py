"""The camera fit by Levenberg-Marquardt: seven unknowns an image, analytic derivatives, compiled, image by image."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from chorus.camera.solvers.adam import FARTHEST, LEAST_DEPTH, NEAREST

STOPPED, MINIMUM, EXHAUSTED = 0, 1, 2
"""Why an image ended: its mean distance is below the limit; nothing lowers the loss any further; no steps are left."""

_SETTLED = 1e-13  # share of the loss that a step must promise to be worth taking
_MOST_ZOOM = 1.0  # change of log s in a step
_START_DAMPING, _MOST_DAMPING = 1e-3, 1e14


def _residuals(y: Any, goal: Any, p0: Any, p1: Any, s: float, q: float) -> Any:
    """Loss in px^2 and mean distance in px of joints y (m, 3); an infinite loss where one is not before the camera."""
    loss, distance = 0.0, 0.0
    for j in range(len(y)):
        depth = 1 + q * y[j, 2]
        if depth <= LEAST_DEPTH:
            return math.inf, math.inf
        off_u, off_v = (p0 + s * y[j, 0]) / depth - goal[j, 0], (p1 + s * y[j, 1]) / depth - goal[j, 1]
        square = off_u**2 + off_v**2
        loss += square
        distance += math.sqrt(square)
    return loss, distance / len(y)


_loss = numba.njit(nogil=True, cache=True)(_residuals)


def _equations(y: Any, goal: Any, p0: float, p1: float, s: float, q: float, known: bool, H: Any, g: Any) -> None:
    """Normal equations: H (7, 7) = J^T J and g (7,) = J^T r, half the loss's gradient, where J = dr / dx.

    x = (a, b, d, q): y turned further by a small rotation vector a, s by a factor exp(b), the pelvis moved by s d in the
    image, and q. (u, v) = (p + s y_xy) / (1 + q y_z). With a known focal length q = s / f follows b.
    """
    H[:], g[:] = 0.0, 0.0
    row = np.empty((2, 7))
    for j in range(len(y)):
        x0, x1, x2 = y[j, 0], y[j, 1], y[j, 2]
        inverse = 1 / (1 + q * x2)
        u, v = (p0 + s * x0) * inverse, (p1 + s * x1) * inverse
        off = (u - goal[j, 0], v - goal[j, 1])
        k = s * inverse  # du/dx0 = dv/dx1
        u2, v2 = -u * q * inverse, -v * q * inverse  # du/dx2, dv/dx2
        # dy = a x y = (a1 x2 - a2 x1, a2 x0 - a0 x2, a0 x1 - a1 x0)
        row[0, 0], row[0, 1], row[0, 2] = u2 * x1, k * x2 - u2 * x0, -k * x1
        row[1, 0], row[1, 1], row[1, 2] = -k * x2 + v2 * x1, -v2 * x0, k * x0
        row[0, 3], row[1, 3] = k * x0, k * x1
        row[0, 4], row[0, 5], row[1, 4], row[1, 5] = k, 0.0, 0.0, k
        row[0, 6], row[1, 6] = -u * x2 * inverse, -v * x2 * inverse
        if known:
            for e in range(2):
                row[e, 3] += q * row[e, 6]
                row[e, 6] = 0.0
        for e in range(2):
            for i in range(7):
                g[i] += row[e, i] * off[e]
                for m in range(i + 1):
                    H[i, m] += row[e, i] * row[e, m]


normal_equations = numba.njit(nogil=True, cache=True)(_equations)


def _solve_damped(H: Any, g: Any, damping: float, held: int, L: Any, step: Any) -> bool:
    """step = -(H + damping diag H)^-1 g by Cholesky on the lower triangle; unknown ``held`` stays (-1: none does)."""
    for i in range(7):
        for k in range(i + 1):
            value = H[i, k]
            if i == k:
                value += damping * max(H[i, i], 1e-12)
            if i == held or k == held:
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
        value = 0.0 if i == held else -g[i]
        for m in range(i):
            value -= L[i, m] * step[m]
        step[i] = value / L[i, i]
    for i in range(6, -1, -1):
        value = step[i]
        for m in range(i + 1, 7):
            value -= L[m, i] * step[m]
        step[i] = value / L[i, i]
    return True


_solve = numba.njit(nogil=True, cache=True)(_solve_damped)


def _rotation_into(a: Any, out: Any) -> None:
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


_exponential = numba.njit(nogil=True, cache=True)(_rotation_into)


def _levenberg_marquardt(
    turned: Any,
    targets: Any,
    valid: Any,
    s0: Any,
    p0: Any,
    q0: Any,
    focal: Any,
    iterations: int,
    stop_px: float,
    turn: Any,
    moved: Any,
    loss: Any,
    residual_px: Any,
    taken: Any,
    ended: Any,
) -> None:
    """Each of n images from its start; the last six are results.

    turned (n, J, 3) m joints turned by R0, targets (n, J, 2) px from the image's centre, focal (n,) px, 0 where it is an
    unknown; turn (n, 3, 3) further rotation, moved (n, 4) = log(s / s0), d in metres, q in 1/m, as Adam's parameters;
    taken (n,) steps tried, ended (n,) STOPPED, MINIMUM or EXHAUSTED.

    Every accepted step lowers the loss, and none leaves q's bounds or takes a valid joint behind the camera: the focal
    length s / q stays positive and finite. The damping is scaled by the diagonal of J^T J, so that a focal length which
    the joints hardly determine is not held back by units.
    """
    H, L, g, step = np.empty((7, 7)), np.zeros((7, 7)), np.empty(7), np.empty(7)
    extra, whole = np.empty((3, 3)), np.empty((3, 3))
    for i in range(len(turned)):
        y, goal = turned[i][valid[i]], targets[i][valid[i]]
        trial = np.empty_like(y)
        known = focal[i] > 0
        q = min(max(q0[i], 1 / FARTHEST), 1 / NEAREST)
        nearest = min(y[:, 2].min(), 0.0)
        if 1 + q * nearest < 0.1:  # a start with joints behind the camera: stand back
            q = -0.9 / nearest
        s = q * focal[i] if known else s0[i]
        place0, place1 = p0[i, 0], p0[i, 1]
        turn[i] = np.eye(3)
        now, distance = _loss(y, goal, place0, place1, s, q)
        damping, growth, ended[i], taken[i] = _START_DAMPING, 2.0, EXHAUSTED, iterations
        fresh = True
        for tried in range(iterations + 1):
            if distance < stop_px:
                ended[i], taken[i] = STOPPED, tried
                break
            if tried == iterations:
                break
            if fresh:
                normal_equations(y, goal, place0, place1, s, q, known, H, g)
                fresh = False
            pull = g[3] if known else g[6]  # by which the loss rises with q
            outwards = (q <= 1 / FARTHEST and pull > 0) or (q >= 1 / NEAREST and pull < 0)
            held = (3 if known else 6) if outwards else -1
            promise = 0.0
            if _solve(H, g, damping, held, L, step):
                step[3] = min(max(step[3], -_MOST_ZOOM), _MOST_ZOOM)
                if known:
                    change = min(max(q * math.exp(step[3]), 1 / FARTHEST), 1 / NEAREST)
                    step[3] = math.log(change / q)
                else:
                    change = min(max(q + step[6], 1 / FARTHEST), 1 / NEAREST)
                    step[6] = change - q
                for k in range(7):  # what the linear model gains by the step as it is after the bounds
                    product = 0.0
                    for m in range(7):
                        product += (H[k, m] if m <= k else H[m, k]) * step[m]
                    promise -= step[k] * (2 * g[k] + product)
                if 0 <= promise <= _SETTLED * now:
                    ended[i], taken[i] = MINIMUM, tried
                    break
                _exponential(step[:3], extra)
                for j in range(len(y)):
                    for k in range(3):
                        trial[j, k] = extra[k, 0] * y[j, 0] + extra[k, 1] * y[j, 1] + extra[k, 2] * y[j, 2]
                new_s = s * math.exp(step[3])
                new0, new1 = place0 + s * step[4], place1 + s * step[5]
                new, new_distance = _loss(trial, goal, new0, new1, new_s, change)
            else:
                new, new_distance = math.inf, math.inf
            if new < now and promise > 0:
                gain = (now - new) / promise
                y, trial = trial, y
                for k in range(3):
                    for m in range(3):
                        whole[k, m] = extra[k, 0] * turn[i, 0, m] + extra[k, 1] * turn[i, 1, m] + extra[k, 2] * turn[i, 2, m]
                turn[i] = whole
                place0, place1, s, q, now, distance = new0, new1, new_s, change, new, new_distance
                damping *= max(1 / 3, 1 - (2 * min(gain, 1.0) - 1) ** 3)
                damping, growth, fresh = max(damping, 1e-12), 2.0, True
            else:
                damping *= growth
                growth *= 2
                if damping > _MOST_DAMPING:
                    ended[i], taken[i] = MINIMUM, tried + 1
                    break
        moved[i, 0] = math.log(s / s0[i])
        moved[i, 1], moved[i, 2] = (place0 - p0[i, 0]) / s0[i], (place1 - p0[i, 1]) / s0[i]
        moved[i, 3], loss[i], residual_px[i] = q, now, distance


levenberg_marquardt = numba.njit(nogil=True, cache=True)(_levenberg_marquardt)
