"""The camera fit on many images: threads, starts where none is given, and further starts in search of the least minimum."""

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

_NUM_TRIALS, _TRIAL_ITERATIONS = 4, 200  # view directions that are followed where none is given, and for how long
_EQUAL_LOSS = 1e-9  # share by which two losses at one minimum may differ
_CHUNK = 32  # images a thread takes at a time; they stop at very different times


class SolverOptions(NamedTuple):
    """Which method, its limits, and Adam's learning rate."""

    method: str
    max_iterations: int
    stop_px: float
    learning_rate: float


def solve(
    problem: Problem, options: SolverOptions, rotation_unknown: bool, position_unknown: bool
) -> tuple[Problem, SolverResult]:
    """The problem restarted where the method ends, and how it ended.

    Where the rotation is unknown, so is the rest of the start but the focal length; where the position is unknown, R0 and the
    focal length are given.
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
        here = end[unfinished]
        if search == "mirrored":
            start = mirrored(here, here.s0 / here.q0)
        else:
            start = _best_view(replace(here, q0=problem.q0[unfinished] / problem.s0[unfinished]), options)
        tried = _run(start, options)
        better = tried.loss < result.loss[unfinished] * (1 - _EQUAL_LOSS)
        result.put(unfinished, tried, better)
        reached = start.restarted(tried)
        for name in ("R0", "s0", "p0", "q0"):
            getattr(end, name)[unfinished[better]] = getattr(reached, name)[better]
    return end, result


def _best_view(problem: Problem, options: SolverOptions) -> Problem:
    """The problem with a start where no orientation is known: that of a few likely views which, followed a little, is best.

    Of the problem's own start it takes the focal length only, as 1 / q0.
    """
    n = len(problem.q0)
    starts = likely_views(problem, _NUM_TRIALS)
    tried = _run(starts, options._replace(max_iterations=_TRIAL_ITERATIONS))
    best = np.arange(n) * _NUM_TRIALS + tried.loss.reshape(n, _NUM_TRIALS).argmin(1)
    return starts.restarted(tried)[best]


def _run(problem: Problem, options: SolverOptions) -> SolverResult:
    """The method on every image by itself, from the problem's start."""
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
