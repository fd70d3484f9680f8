"""Cameras fitted to 24 projected joints (Eq. 8): Levenberg-Marquardt against Adam, with the focal length free and known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.harness.gates import WrongResult
from bench.harness.measure import Contender, interleaved
from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.camera.fit import CameraFit, fit_cameras
from chorus.kernels.kinematics import rotation_matrices

NOISE_PX = 2.0
ADAM_IMAGES = 256
"""Adam is timed on the first of the images: it takes 2,400 iterations on each."""
MOST_DEGREES, MOST_DEPTH = 2.0, 0.03
"""What the medians must stay below: rotation, and depth where the focal length is known."""


def seen_people(body: Body, n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], Cameras]:
    """Joints (n, 24, 3) m of posed people, where cameras from all around see them with 2 px of noise, and these cameras."""
    rng = np.random.default_rng(seed)
    poses = rng.normal(size=(n, body.num_joints, 3)) * 0.3
    poses[:, 0] = 0
    joints = body.posed_joints(poses)
    azimuth, elevation = rng.uniform(-np.pi, np.pi, n), rng.uniform(-0.3, 0.6, n)
    level = np.cos(elevation)
    forward = -np.stack([level * np.cos(azimuth), np.sin(elevation), level * np.sin(azimuth)], 1)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    R = np.stack([right, np.cross(forward, right), forward], 1)
    size = rng.integers(300, 700, (n, 2))
    K = np.zeros((n, 3, 3))
    K[:, 0, 0] = K[:, 1, 1] = rng.uniform(0.8, 2.0, n) * size[:, 1]
    K[:, :2, 2] = size[:, ::-1] / 2
    K[:, 2, 2] = 1
    z = rng.uniform(2, 8, n) * K[:, 0, 0] / size[:, 1] / 1.167
    t = np.stack([rng.uniform(-0.15, 0.15, n) * z, rng.uniform(-0.1, 0.1, n) * z, z], 1)
    cameras = Cameras(R, t, K, size)
    targets, _ = cameras.project(joints)
    return joints, targets + rng.normal(size=targets.shape) * NOISE_PX, cameras


def accuracy(fit: CameraFit, truth: Cameras) -> dict[str, float]:
    """Errors against the true cameras: rotation in degrees, depth t_z and t_z / f in per cent, medians and 95th percentiles."""
    cosine = (np.einsum("iab,iab->i", fit.cameras.R, truth.R) - 1) / 2
    z, true_z = fit.cameras.t[:, 2], truth.t[:, 2]
    scale = z / fit.cameras.K[:, 0, 0] / (true_z / truth.K[:, 0, 0])
    errors = {
        "rotation_deg": np.degrees(np.arccos(np.clip(cosine, -1, 1))),
        "depth_percent": 100 * np.abs(z / true_z - 1),
        "depth_over_focal_percent": 100 * np.abs(scale - 1),
    }
    facts = {
        f"{name}_{what}": round(float(np.quantile(e, q)), 3)
        for name, e in errors.items()
        for what, q in (("median", 0.5), ("p95", 0.95))
    }
    return {**facts, "residual_px": round(float(fit.residual_px.mean()), 4)}


def check_fits(adam: CameraFit, second: CameraFit, truth: Cameras, known_focal: bool, name: str) -> None:
    """The second-order solver nowhere above Adam's loss, and the medians within what is asked for."""
    above = second.loss_px2 > adam.loss_px2 * (1 + 1e-9)
    if above.any():
        raise WrongResult(f"{name}: the loss is above Adam's in {int(above.sum())} of {len(above)} images")
    found = accuracy(second, truth)
    if not found["rotation_deg_median"] < MOST_DEGREES:
        raise WrongResult(f"{name}: rotation off by {found['rotation_deg_median']} degrees in the median")
    depth = found["depth_percent_median" if known_focal else "depth_over_focal_percent_median"]
    if not depth < 100 * MOST_DEPTH:
        raise WrongResult(f"{name}: depth off by {depth} % in the median")


@pytest.mark.benchmark(group="camera_fit")
@pytest.mark.parametrize("known_focal", [False, True], ids=["free-focal", "known-focal"])
def bench_camera_fit(benchmark: Any, body: Body, quick: bool, known_focal: bool) -> None:
    n = 1024 if quick else 4096
    joints, targets, truth = seen_people(body, n)
    turns = np.random.default_rng(1).normal(size=(n, 3)) * 0.1  # a pose regressor is off by some degrees
    R0 = np.asarray(rotation_matrices(torch.from_numpy(turns)).numpy()) @ truth.R
    focal = truth.K[:, 0, 0] if known_focal else None

    def fit(method: str, rows: int, start: bool = True) -> CameraFit:
        return fit_cameras(
            joints[:rows],
            targets[:rows],
            None,
            truth.image_size[:rows],
            R0=R0[:rows] if start else None,
            focal0=None if focal is None else focal[:rows],
            fit_focal=not known_focal,
            stop_px=0.0,
            method=method,
        )

    adam, second = fit("adam", ADAM_IMAGES), fit("levenberg-marquardt", n)
    some = truth[:ADAM_IMAGES]
    check_fits(adam, fit("levenberg-marquardt", ADAM_IMAGES), some, known_focal, "levenberg-marquardt")
    check_fits(adam, fit("levenberg-marquardt", ADAM_IMAGES, False), some, known_focal, "levenberg-marquardt, no start")

    def contender(name: str, method: str, rows: int, facts: dict[str, Any], start: bool = True) -> Contender:
        call: Callable[[], CameraFit] = partial(fit, method, rows, start)
        return Contender(name, call, rows, "fits", facts)

    records = interleaved(
        benchmark,
        [
            contender("Levenberg-Marquardt", "levenberg-marquardt", n, accuracy(second, truth)),
            contender("Levenberg-Marquardt, no start", "levenberg-marquardt", n, {}, False),
            contender("Adam, 2,400 iterations", "adam", ADAM_IMAGES, accuracy(adam, some)),
        ],
        rounds=3 if quick else 7,
    )
    for r in records:
        r["ratio"] = r["per_s"] / records[-1]["per_s"]
    benchmark.extra_info.update(
        what=f"{n:,} cameras from 24 joints with {NOISE_PX:g} px of noise, focal length {'known' if known_focal else 'free'}",
        known_focal=known_focal,
        ratio_to="Adam in the same run, fits a second by medians",
    )
