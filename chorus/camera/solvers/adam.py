"""The camera fit by Adam, the paper's method: the loss of Eq. 8, its gradient, and the updates; compiled by numba."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from chorus.camera.solvers.problem import EXHAUSTED, FARTHEST, LEAST_DEPTH, NEAREST, STOPPED, SolverInput, SolverResult
from chorus.kernels.jit import compiled

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # Adam's usual constants


def _loss_and_gradient(points: Any, targets: Any, s0: float, p0: Any, x: Any, gradient: Any) -> Any:
    """Loss of Eq. 8 for one image in px^2, and mean distance in px; the loss's gradient is written to ``gradient`` (7,).

    points   (m, 3) metres, the joints rotated by R0       targets  (m, 2) px from the image's centre
    x        (7,) = w, b, d, q

    With x' = exp([w]x) x, s = s0 exp(b) and p = p0 + s0 d: (u, v) = (p + s x'_xy) / (1 + q x'_z), which is
    f (x' + t)_xy / (x' + t)_z. Depths 1 + q x'_z are clamped to LEAST_DEPTH from below, with derivative 0.
    """
    angle = math.sqrt(x[0] ** 2 + x[1] ** 2 + x[2] ** 2)
    if angle > 1e-4:
        first, second = math.sin(angle) / angle, (1 - math.cos(angle)) / angle**2
        third = (1 - first) / angle**2
    else:  # the next terms of the series are below 1e-9
        first, second, third = 1.0, 0.5, 1.0 / 6.0
    s, pelvis_u, pelvis_v = s0 * math.exp(x[3]), p0[0] + s0 * x[4], p0[1] + s0 * x[5]
    loss, distance = 0.0, 0.0
    d_s, d_u, d_v, d_q = 0.0, 0.0, 0.0, 0.0  # derivatives of the loss by s, the pelvis's u and v, and q
    d_rotation0, d_rotation1, d_rotation2 = 0.0, 0.0, 0.0  # by a further small rotation, about each axis
    for j in range(len(points)):
        # Rodrigues: x' = x + first (w x x) + second (w x (w x x))
        c0 = x[1] * points[j, 2] - x[2] * points[j, 1]
        c1 = x[2] * points[j, 0] - x[0] * points[j, 2]
        c2 = x[0] * points[j, 1] - x[1] * points[j, 0]
        right = points[j, 0] + first * c0 + second * (x[1] * c2 - x[2] * c1)
        down = points[j, 1] + first * c1 + second * (x[2] * c0 - x[0] * c2)
        forward = points[j, 2] + first * c2 + second * (x[0] * c1 - x[1] * c0)
        depth = 1 + x[6] * forward
        unclamped = depth > LEAST_DEPTH
        depth = max(depth, LEAST_DEPTH)
        u, v = (pelvis_u + s * right) / depth, (pelvis_v + s * down) / depth
        residual_u, residual_v = u - targets[j, 0], v - targets[j, 1]
        square = residual_u**2 + residual_v**2
        loss += square
        distance += math.sqrt(square)
        g_u, g_v = 2 * residual_u / depth, 2 * residual_v / depth
        g_depth = -(g_u * u + g_v * v) if unclamped else 0.0
        d_s += g_u * right + g_v * down
        d_u += g_u
        d_v += g_v
        d_q += g_depth * forward
        # x' turned by a small angle a changes by a x x': the gradient is x' x dloss/dx'
        g0, g1, g2 = g_u * s, g_v * s, g_depth * x[6]
        d_rotation0 += down * g2 - forward * g1
        d_rotation1 += forward * g0 - right * g2
        d_rotation2 += right * g1 - down * g0
    # dw turns by a = (1 + second [w]x + third [w]x^2) dw; its transpose takes the derivative by a back to w.
    c0 = x[1] * d_rotation2 - x[2] * d_rotation1
    c1 = x[2] * d_rotation0 - x[0] * d_rotation2
    c2 = x[0] * d_rotation1 - x[1] * d_rotation0
    gradient[0] = d_rotation0 - second * c0 + third * (x[1] * c2 - x[2] * c1)
    gradient[1] = d_rotation1 - second * c1 + third * (x[2] * c0 - x[0] * c2)
    gradient[2] = d_rotation2 - second * c2 + third * (x[0] * c1 - x[1] * c0)
    gradient[3] = d_s * s
    gradient[4], gradient[5], gradient[6] = d_u * s0, d_v * s0, d_q
    return loss, distance / len(points)


loss_and_gradient = compiled()(_loss_and_gradient)


def _adam(
    given: SolverInput, max_iterations: int, stop_px: float, learning_rate: float, parameters: Any, result: SolverResult
) -> None:
    """Adam on each of n images. An image that does not reach ``stop_px`` keeps its iterate of least loss.

    parameters  (n, 7) = w, b, d, q, written; of ``result`` all but ``rotation`` and ``parameters`` is written

    Where the focal length is known, b and q are one unknown: q = s / focal follows the scale.
    """
    for i in range(len(given.s0)):
        points, targets = given.points[i][given.valid[i]], given.targets[i][given.valid[i]]
        s0, focal = given.s0[i], given.focal[i]
        x, mean, mean_square, gradient = np.zeros(7), np.zeros(7), np.zeros(7), np.zeros(7)
        x[6] = min(max(given.q0[i], 1 / FARTHEST), 1 / NEAREST)
        if focal > 0:
            x[3] = math.log(x[6] * focal / s0)
        result.loss[i] = np.inf
        result.iterations[i] = max_iterations
        result.status[i] = EXHAUSTED
        for iteration in range(max_iterations + 1):
            loss, distance = loss_and_gradient(points, targets, s0, given.p0[i], x, gradient)
            stop = distance < stop_px
            if stop or loss < result.loss[i]:
                result.loss[i], result.residual_px[i], parameters[i] = loss, distance, x
            if stop:
                result.iterations[i] = iteration
                result.status[i] = STOPPED
                break
            if focal > 0:
                gradient[3] += x[6] * gradient[6]
                gradient[6] = 0.0
            for k in range(7):
                mean[k] = _BETA1 * mean[k] + (1 - _BETA1) * gradient[k]
                mean_square[k] = _BETA2 * mean_square[k] + (1 - _BETA2) * gradient[k] ** 2
                unbiased = mean[k] / (1 - _BETA1 ** (iteration + 1))
                x[k] -= learning_rate * unbiased / (math.sqrt(mean_square[k] / (1 - _BETA2 ** (iteration + 1))) + _EPSILON)
            if focal > 0:
                x[6] = s0 * math.exp(x[3]) / focal
            x[6] = min(max(x[6], 1 / FARTHEST), 1 / NEAREST)
            if focal > 0:
                x[3] = math.log(x[6] * focal / s0)


adam = compiled()(_adam)
