"""Levenberg-Marquardt for many poses at once: every step is one batch of normal equations and one of linear systems."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus.pose_fit.problem import Array, Skeleton, State, Targets, normal_equations, residuals, stepped

_INITIAL_DAMPING, _MIN_DAMPING, _MAX_DAMPING = 1e-2, 1e-7, 1e6
_LEAST_REDUCTION = 1e-4
"""A pose is done once a step lowers its cost by less than this share."""
_LONGEST = 0.6
"""Most that a step changes any unknown by: radians, or shares of the distance."""


class Solved(NamedTuple):
    """I poses at a minimum: their states, costs (I,), steps tried (I,) and whether they got there within the budget (I,)."""

    state: State
    cost: Array
    iterations: NDArray[np.int64]
    converged: NDArray[np.bool_]


def minimise(skeleton: Skeleton, start: State, targets: Targets, iterations: int) -> Solved:
    """Least squares from a start (copied), at most ``iterations`` steps each; poses do not influence each other.

    A step solves (J^T J + damping diag(J^T J)) d = -J^T r. Poses that are done leave the batch.
    """
    state = State(*(np.array(array) for array in start))
    n = len(state.t)
    cost, steps, converged = np.full(n, np.inf), np.zeros(n, np.int64), np.zeros(n, np.bool_)
    damping, growth = np.full(n, _INITIAL_DAMPING), np.full(n, 2.0)
    live = np.arange(n)
    g, H = np.empty((0, 0)), np.empty((0, 0, 0))
    stale = np.ones(n, np.bool_)  # among the live: whose normal equations are of an earlier state
    for _ in range(iterations):
        if not live.size:
            break
        fresh = live[stale]
        if fresh.size == live.size:
            cost[live], g, H = normal_equations(skeleton, state.rows(live), targets.rows(live))
        elif fresh.size:
            cost[fresh], g[stale], H[stale] = normal_equations(skeleton, state.rows(fresh), targets.rows(fresh))
        step = _damped_step(g, H, damping[live])
        trial = stepped(state.rows(live), step)
        subset = targets.rows(live)
        trial_cost = residuals(skeleton, trial, subset, skeleton.posed(trial)[2]).cost()
        better = trial_cost < cost[live]
        gained = np.where(better, cost[live] - trial_cost, 0.0)
        done = better & (gained <= _LEAST_REDUCTION * cost[live])
        state.put(live[better], trial.rows(np.flatnonzero(better)))
        cost[live[better]] = trial_cost[better]
        damping[live] = np.where(better, np.maximum(damping[live] / 5, _MIN_DAMPING), damping[live] * growth[live])
        growth[live] = np.where(better, 2.0, growth[live] * 2)
        done |= damping[live] > _MAX_DAMPING
        steps[live] += 1
        converged[live[done]] = True
        keep = ~done
        live, g, H, stale = live[keep], g[keep], H[keep], better[keep]
    return Solved(state, cost, steps, converged)


def _damped_step(g: Array, H: Array, damping: Array) -> Array:
    diagonal = np.arange(g.shape[1])
    damped = H.copy()
    damped[:, diagonal, diagonal] += damping[:, None] * H[:, diagonal, diagonal] + 1e-9
    step = -np.linalg.solve(damped, g[..., None])[..., 0]
    longest = np.abs(step).max(1, initial=0.0)
    return np.asarray(step * np.minimum(1.0, _LONGEST / np.maximum(longest, 1e-12))[:, None])


def covariance(skeleton: Skeleton, state: State, targets: Targets) -> Array:
    """(J^T J)^-1 (I, N, N) at a minimum: the unknowns' covariance where residuals are as uncertain as their weights say."""
    _, _, H = normal_equations(skeleton, state, targets)
    diagonal = np.arange(H.shape[1])
    H[:, diagonal, diagonal] += 1e-9
    return np.asarray(np.linalg.inv(H))
