"""The entropy of camera directions (Table 1) of 20,000 cameras: one pass over the cells near each, against every cell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bench.harness.gates import WrongResult
from bench.harness.measure import Contender, interleaved
from chorus.camera.cameras import Cameras
from chorus.evaluate.statistics.entropy import NSIDE, SIGMA, camera_directions, camera_entropy, cell_centres

CAMERAS = 20_000
PLAIN_CAMERAS = 32
"""The plain computation takes every cell for every camera; so many are timed, and as many are checked."""
TOLERANCE = 1e-5
"""Bits: what the end of the Gaussians at six sigma may change, and more."""


def some_cameras(n: int) -> Cameras:
    """Cameras 3 m from the origin, half of them crowded around the front."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(n, 3))
    directions[::2] = rng.normal(size=(len(directions[::2]), 3)) * 0.4 + [0, 0.1, 1]
    centres = 3 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    K = np.array([[600.0, 0, 256], [0, 600, 256], [0, 0, 1]])
    return Cameras(np.tile(np.eye(3), (n, 1, 1)), -centres, np.tile(K, (n, 1, 1)), np.full((n, 2), 512))


def plain_entropy(cameras: Cameras) -> float:
    """The definition: the sum of Gaussians of the angle at every cell's centre, as shares; bits."""
    centres = cell_centres(NSIDE)
    total = np.zeros(len(centres))
    for direction in camera_directions(cameras):
        total += np.exp(-0.5 * (np.arccos(np.clip(centres @ direction, -1, 1)) / SIGMA) ** 2)
    shares = total / total.sum()
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


@pytest.mark.benchmark(group="statistics")
def bench_camera_entropy(benchmark: Any, quick: bool) -> None:
    cameras = some_cameras(CAMERAS)
    few = cameras[:PLAIN_CAMERAS]
    have, want = camera_entropy(few), plain_entropy(few)
    if not abs(have - want) < TOLERANCE:
        raise WrongResult(f"entropy: {have} bits, by the plain computation {want}")
    every = camera_entropy(cameras)
    if not math.log2(CAMERAS) < every < math.log2(12 * NSIDE**2):
        raise WrongResult(f"entropy: {every} bits of {CAMERAS} cameras")
    contenders = [
        Contender("cells near each camera", lambda: camera_entropy(cameras), CAMERAS, "cameras", {"bits": every}),
        Contender("every cell", lambda: plain_entropy(few), PLAIN_CAMERAS, "cameras"),
    ]
    records = interleaved(benchmark, contenders, rounds=3 if quick else 7)
    for r in records:
        r["ratio"] = r["per_s"] / records[-1]["per_s"]
    benchmark.extra_info.update(
        what=f"entropy of camera directions, {12 * NSIDE**2:,} cells",
        worst_difference_bits=abs(have - want),
        ratio_to="the plain computation in numpy, cameras a second by medians",
    )
