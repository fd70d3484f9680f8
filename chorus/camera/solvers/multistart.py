"""The methods of the camera fit on many images: threads, starts where none is given, the search for the least minimum."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus.camera.solvers.adam import descend
from chorus.camera.solvers.levenberg_marquardt import EXHAUSTED, STOPPED, levenberg_marquardt
from chorus.camera.solvers.problem import Array, Problem, likely_views, mirrored, rotations, weak_perspective

_FINALISTS, _TRIAL = 4, 200  # view directions that are followed where none is given, and for how many iterations
_SAME = 1e-9  # share by which two losses at one minimum may differ
_CHUNK = 32  # images a thread takes at a time; they stop at very different times


class Budget(NamedTuple):
    method: str
    iterations: int
    stop_px: float
    learning_rate: float


@dataclass(frozen=True)
class Found:
    turn: Array  # (n, 3, 3) rotation after the start's
    moved: Array  # (n, 4) b, d, q
    loss: Array  # (n,) px^2
    residual_px: Array  # (n,)
    taken: NDArray[np.int64]  # (n,) steps
    ended: NDArray[np.int8]  # (n,) STOPPED, MINIMUM, EXHAUSTED

    def put(self, rows: NDArray[np.intp], other: Found, chosen: NDArray[np.bool_]) -> None:
        """Take over the ``chosen`` of the results of another run for these rows."""
        for name in ("turn", "moved", "loss", "residual_px", "taken", "ended"):
            getattr(self, name)[rows[chosen]] = getattr(other, name)[chosen]


def solve(problem: Problem, budget: Budget, blind: bool, place: bool) -> tuple[Problem, Found]:
    """The problem moved to where the method ends, and how it ended; ``blind``: find the orientation, ``place``: the rest."""
    if blind:
        problem = _best_view(problem, budget)
    elif place:
        problem = weak_perspective(problem, 1 / problem.q0)
    found = _run(problem, budget)
    end = problem.moved(found.turn, found.moved)
    if budget.method == "adam" or budget.iterations == 0:
        return end, found
    again = np.flatnonzero(found.ended != STOPPED)
    for search in ("mirrored",) if blind else ("views", "mirrored"):
        here = end[again]
        if search == "mirrored":
            other = mirrored(here, here.s0 / here.q0)
        else:
            other = _best_view(replace(here, q0=problem.q0[again] / problem.s0[again]), budget)
        tried = _run(other, budget)
        better = tried.loss < found.loss[again] * (1 - _SAME)
        found.put(again, tried, better)
        reached = other.moved(tried.turn, tried.moved)
        for name in ("R0", "s0", "p0", "q0"):
            getattr(end, name)[again[better]] = getattr(reached, name)[better]
    return end, found


def _best_view(problem: Problem, budget: Budget) -> Problem:
    """The problem with a start where no orientation is known: that of a few likely views which, followed a little, is best.

    Of the problem's own start it takes the focal length only, as 1 / q0.
    """
    n = len(problem.q0)
    starts = likely_views(problem, _FINALISTS)
    tried = _run(starts, budget._replace(iterations=_TRIAL))
    winner = np.arange(n) * _FINALISTS + tried.loss.reshape(n, _FINALISTS).argmin(1)
    return starts.moved(tried.turn, tried.moved)[winner]


def _run(problem: Problem, budget: Budget) -> Found:
    """The method on every image by itself, from the problem's start."""
    n = len(problem.q0)
    found = Found(np.empty((n, 3, 3)), np.empty((n, 4)), np.empty(n), np.empty(n), np.empty(n, np.int64), np.empty(n, np.int8))
    turned = np.ascontiguousarray(problem.joints @ problem.R0.swapaxes(1, 2))
    parameters = np.empty((n, 7))

    def work(rows: slice) -> None:
        given = (
            turned[rows],
            problem.targets[rows],
            problem.valid[rows],
            problem.s0[rows],
            problem.p0[rows],
            problem.q0[rows],
            problem.focal[rows],
            budget.iterations,
            budget.stop_px,
        )
        measured = found.loss[rows], found.residual_px[rows], found.taken[rows]
        if budget.method == "adam":
            descend(*given, budget.learning_rate, parameters[rows], *measured)
        else:
            levenberg_marquardt(*given, found.turn[rows], found.moved[rows], *measured, found.ended[rows])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, [slice(first, first + _CHUNK) for first in range(0, n, _CHUNK)]))
    if budget.method == "adam":
        found.turn[:], found.moved[:] = rotations(parameters[:, :3]), parameters[:, 3:]
        found.ended[:] = np.where(found.residual_px < budget.stop_px, STOPPED, EXHAUSTED)
    return found
