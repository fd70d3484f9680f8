"""The inner loop of the camera fit: the reprojection loss of Eq. 8, its gradient, and Adam, compiled, image by image."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

NEAREST, FARTHEST = 0.3, 1000.0
"""Bounds of the distance t_z between camera and pelvis in metres."""

LEAST_DEPTH = 0.01
"""Adam draws joints nearer than this share of t_z as if they were there, as the loss has a pole at 0; the second-order
solver takes no step that brings them there."""

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8  # Adam's usual constants


def _loss(y: Any, goal: Any, s0: float, p0: Any, x: Any, gradient: Any) -> Any:
    """Eq. 8 of one image: the loss in px^2 and the mean distance in px; its gradient goes into ``gradient`` (7,).

    y (m, 3) the joints turned by R0, goal (m, 2) px from the image's centre, x (7,) = w, b, d, q. With x' = exp([w]x) y:
    (u, v) = (p + s x'_xy) / (1 + q x'_z), which is f (x' + t)_xy / (x' + t)_z.
    """
    angle = math.sqrt(x[0] ** 2 + x[1] ** 2 + x[2] ** 2)
    if angle > 1e-4:
        first, second = math.sin(angle) / angle, (1 - math.cos(angle)) / angle**2
        third = (1 - first) / angle**2
    else:  # the next terms of the series are below 1e-9
        first, second, third = 1.0, 0.5, 1.0 / 6.0
    scale, place_u, place_v = s0 * math.exp(x[3]), p0[0] + s0 * x[4], p0[1] + s0 * x[5]
    loss, distance, by_scale, by_u, by_v, by_q = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    torque0, torque1, torque2 = 0.0, 0.0, 0.0
    for j in range(len(y)):
        # Rodrigues: x' = y + first (w x y) + second (w x (w x y))
        c0 = x[1] * y[j, 2] - x[2] * y[j, 1]
        c1 = x[2] * y[j, 0] - x[0] * y[j, 2]
        c2 = x[0] * y[j, 1] - x[1] * y[j, 0]
        right = y[j, 0] + first * c0 + second * (x[1] * c2 - x[2] * c1)
        down = y[j, 1] + first * c1 + second * (x[2] * c0 - x[0] * c2)
        ahead = y[j, 2] + first * c2 + second * (x[0] * c1 - x[1] * c0)
        depth = 1 + x[6] * ahead
        free = depth > LEAST_DEPTH
        depth = max(depth, LEAST_DEPTH)
        u, v = (place_u + scale * right) / depth, (place_v + scale * down) / depth
        off_u, off_v = u - goal[j, 0], v - goal[j, 1]
        square = off_u**2 + off_v**2
        loss += square
        distance += math.sqrt(square)
        g_u, g_v = 2 * off_u / depth, 2 * off_v / depth
        g_depth = -(g_u * u + g_v * v) if free else 0.0
        by_scale += g_u * right + g_v * down
        by_u += g_u
        by_v += g_v
        by_q += g_depth * ahead
        # x' turned by a small angle a changes by a x x': the gradient is x' x dloss/dx'
        f0, f1, f2 = g_u * scale, g_v * scale, g_depth * x[6]
        torque0 += down * f2 - ahead * f1
        torque1 += ahead * f0 - right * f2
        torque2 += right * f1 - down * f0
    # dw turns by a = (1 + second [w]x + third [w]x^2) dw; its transpose takes the torque back to w.
    c0, c1, c2 = x[1] * torque2 - x[2] * torque1, x[2] * torque0 - x[0] * torque2, x[0] * torque1 - x[1] * torque0
    gradient[0] = torque0 - second * c0 + third * (x[1] * c2 - x[2] * c1)
    gradient[1] = torque1 - second * c1 + third * (x[2] * c0 - x[0] * c2)
    gradient[2] = torque2 - second * c2 + third * (x[0] * c1 - x[1] * c0)
    gradient[3] = by_scale * scale
    gradient[4], gradient[5], gradient[6] = by_u * s0, by_v * s0, by_q
    return loss, distance / len(y)


loss_and_gradient = numba.njit(nogil=True, cache=True)(_loss)


def _descend(
    turned: Any,
    targets: Any,
    valid: Any,
    s0: Any,
    p0: Any,
    q0: Any,
    focal: Any,
    iterations: int,
    stop_px: float,
    rate: float,
    parameters: Any,
    loss: Any,
    residual_px: Any,
    taken: Any,
) -> None:
    """Adam on each of n images; the last four are results. Until it stops, an image keeps its iterate of least loss.

    focal (n,) px where it is known, then q = s / focal follows the scale; 0 where it is an unknown.
    """
    for i in range(len(turned)):
        y, goal = turned[i][valid[i]], targets[i][valid[i]]
        x, first, second, gradient = np.zeros(7), np.zeros(7), np.zeros(7), np.zeros(7)
        x[6] = min(max(q0[i], 1 / FARTHEST), 1 / NEAREST)
        if focal[i] > 0:
            x[3] = math.log(x[6] * focal[i] / s0[i])
        loss[i] = np.inf
        taken[i] = iterations
        for step in range(iterations + 1):
            now, distance = loss_and_gradient(y, goal, s0[i], p0[i], x, gradient)
            stop = distance < stop_px
            if stop or now < loss[i]:
                loss[i], residual_px[i], parameters[i] = now, distance, x
            if stop:
                taken[i] = step
                break
            if focal[i] > 0:
                gradient[3] += x[6] * gradient[6]
                gradient[6] = 0.0
            for k in range(7):
                first[k] = _BETA1 * first[k] + (1 - _BETA1) * gradient[k]
                second[k] = _BETA2 * second[k] + (1 - _BETA2) * gradient[k] ** 2
                change = first[k] / (1 - _BETA1 ** (step + 1))
                x[k] -= rate * change / (math.sqrt(second[k] / (1 - _BETA2 ** (step + 1))) + _EPS)
            if focal[i] > 0:
                x[6] = s0[i] * math.exp(x[3]) / focal[i]
            x[6] = min(max(x[6], 1 / FARTHEST), 1 / NEAREST)
            if focal[i] > 0:
                x[3] = math.log(x[6] * focal[i] / s0[i])


descend = numba.njit(nogil=True, cache=True)(_descend)
