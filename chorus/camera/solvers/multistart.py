"""The camera fit of many images: threads, starts where none is given, and further starts to find the least minimum."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from chorus.camera.solvers.adam import adam
from chorus.camera.solvers.levenberg_marquardt import levenberg_marquardt
from chorus.camera.solvers.problem import (
    STOPPED,
    Problem,
    SolverResult,
    likely_views,
    mirrored,
    rotations,
    weak_perspective,
)

_NUM_TRIALS, _TRIAL_ITERATIONS = 4, 200  # view directions fitted where no R0 is given, and their iterations
_EQUAL_LOSS = 1e-9  # relative difference below which two losses belong to the same minimum
_CHUNK = 32  # images per task of a thread: small, as images stop at very different times


class SolverOptions(NamedTuple):
    """The method, its limits, and Adam's learning rate."""

    method: str
    max_iterations: int
    stop_px: float
    learning_rate: float


def solve(
    problem: Problem, options: SolverOptions, rotation_unknown: bool, position_unknown: bool
) -> tuple[Problem, SolverResult]:
    """The problem with the solution as its start, and the solver's result.

    rotation_unknown  the start has only the focal length (``likely_views`` gives the rest)
    position_unknown  the start has only R0 and the focal length (``weak_perspective`` gives the rest)
    """
    if rotation_unknown:
        problem = _best_view(problem, options)
    elif position_unknown:
        problem = weak_perspective(problem, 1 / problem.q0)
    result = _run(problem, options)
    end = problem.restarted(result)
    if options.method == "adam" or options.max_iterations == 0:
        return end, result
    unfinished = np.flatnonzero(result.status != STOPPED)
    for search in ("mirrored",) if rotation_unknown else ("views", "mirrored"):
        reached = end[unfinished]
        if search == "mirrored":
            start = mirrored(reached, reached.s0 / reached.q0)
        else:
            start = _best_view(replace(reached, q0=problem.q0[unfinished] / problem.s0[unfinished]), options)
        trial = _run(start, options)
        better = trial.loss < result.loss[unfinished] * (1 - _EQUAL_LOSS)
        result.put(unfinished, trial, better)
        trial_end = start.restarted(trial)
        for name in ("R0", "s0", "p0", "q0"):
            getattr(end, name)[unfinished[better]] = getattr(trial_end, name)[better]
    return end, result


def _best_view(problem: Problem, options: SolverOptions) -> Problem:
    """The problem started from the view direction that is best after a few iterations, of the likeliest ones.

    Only the focal length of the given start is used, as 1 / q0.
    """
    n = len(problem.q0)
    starts = likely_views(problem, _NUM_TRIALS)
    tried = _run(starts, options._replace(max_iterations=_TRIAL_ITERATIONS))
    best = np.arange(n) * _NUM_TRIALS + tried.loss.reshape(n, _NUM_TRIALS).argmin(1)
    return starts.restarted(tried)[best]


def _run(problem: Problem, options: SolverOptions) -> SolverResult:
    """Run the method on every image separately, in threads, from the problem's start."""
    n = len(problem.q0)
    given, result = problem.solver_input(), SolverResult.empty(n)
    vectors = np.empty((n, 7))  # Adam's w, b, d, q

    def work(rows: slice) -> None:
        limits = options.max_iterations, options.stop_px
        if options.method == "adam":
            adam(given.rows(rows), *limits, options.learning_rate, vectors[rows], result.rows(rows))
        else:
            levenberg_marquardt(given.rows(rows), *limits, result.rows(rows))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, [slice(first, first + _CHUNK) for first in range(0, n, _CHUNK)]))
    if options.method == "adam":
        result.rotation[:], result.parameters[:] = rotations(vectors[:, :3]), vectors[:, 3:]
    return result
