"""Occupancy around a posed human: weights around the posed mesh, smoothing and inverse LBS, against the plain way in numpy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.harness.gates import WrongResult, plain_weights
from bench.harness.measure import Contender, interleaved
from chorus.body.model import Body
from chorus.field import FieldParameters
from chorus.kernels.arrays import cube
from chorus.kernels.reference.skinning import canonical_points
from chorus.occupancy.posed import posed_occupancy

RESOLUTION = 48
POSE_NOISE = 0.25
FACE_DISTANCE = 1e-3
"""In voxels: what the plain computation takes nearer than this to a face of the canonical grid may come from either side."""
FLIPS = {"numba": 0.0, "triton": 1e-4}
"""Share of the other voxels that may differ: float32 may take another vertex for the k-th."""


def a_pose(body: Body, seed: int = 0) -> NDArray[np.float64]:
    """The rest pose with 0.25 rad of noise on every axis of every joint but the global orientation."""
    pose = np.array(body.rest_pose)
    pose[1:] += np.random.default_rng(seed).normal(0, POSE_NOISE, (body.num_joints - 1, 3))
    return pose


def plain_points(body: Body, parameters: FieldParameters, pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where each voxel of the posed frame comes from, as Eq. 4, 9, 10 and 11 are written, float64 (V, 3) metres."""
    posed = SimpleNamespace(rest_vertices=body.posed_vertices(pose[None])[0], weights=body.weights, num_joints=body.num_joints)
    weights = torch.from_numpy(plain_weights(cast(Body, posed), parameters))
    bones = torch.from_numpy(body.bone_transforms(pose[None])[0])
    lattice = cube(parameters.resolution, parameters.extent)
    return canonical_points(lattice, weights, bones).numpy()


def plain_posed(
    phi: NDArray[np.float32], parameters: FieldParameters, points: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """phi at the points' voxels, 0 outside, (N, N, N), and which points are clear of every face."""
    cell = (points + parameters.extent / 2) / parameters.spacing
    index = np.floor(cell).astype(np.int64)
    inside = np.all((index >= 0) & (index < parameters.resolution), axis=1, keepdims=True)
    found = np.where(inside[:, 0], phi[tuple(np.where(inside, index, 0).T)], 0)
    clear: NDArray[np.bool_] = np.all(np.abs(cell - np.round(cell)) > FACE_DISTANCE, axis=1, keepdims=True)
    return found.reshape(phi.shape), clear.reshape(phi.shape)


@pytest.mark.benchmark(group="posed")
def bench_posed(benchmark: Any, body: Body, quick: bool) -> None:
    p = FieldParameters(resolution=RESOLUTION)
    phi = np.random.default_rng(0).random((RESOLUTION,) * 3).astype(np.float32)  # no two voxels alike
    pose = a_pose(body)
    want, clear = plain_posed(phi, p, plain_points(body, p, pose))
    if not clear.mean() > 0.98:
        raise WrongResult(f"posed: only {clear.mean():.1%} of the voxels can be compared")
    backends = ["triton", "numba"] if torch.cuda.is_available() else ["numba"]
    for backend in backends:
        have = posed_occupancy(phi, pose, p, body.hash, body, backend=backend)
        wrong = (have != want) & clear
        if wrong.mean() > FLIPS[backend]:
            raise WrongResult(f"posed, {backend}: {int(wrong.sum())} of {wrong.size} voxels are not the plain result")

    def posed_by(backend: str) -> Contender:
        return Contender(backend, lambda: posed_occupancy(phi, pose, p, body.hash, body, backend=backend), 1, "poses")

    plain = Contender("plain numpy", lambda: plain_posed(phi, p, plain_points(body, p, pose)), 1, "poses")
    contenders = [*map(posed_by, backends), plain]
    records = interleaved(benchmark, contenders, rounds=3 if quick else 10)
    for r in records:
        r["ratio"] = r["per_s"] / records[-1]["per_s"]
    benchmark.extra_info.update(
        what=f"posed occupancy {RESOLUTION}^3",
        resolution=RESOLUTION,
        smoothing_steps=p.smoothing_steps,
        compared=round(float(clear.mean()), 4),
        ratio_to="the plain computation in numpy and scipy",
    )
