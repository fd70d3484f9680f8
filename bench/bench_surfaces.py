"""Surfaces: trilinear posing, marching cubes, the thresholds of a mass and of a volume, and a GLB file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from bench.bench_posed import a_pose, plain_points
from bench.harness.gates import WrongResult
from bench.harness.measure import Contender, interleaved
from chorus.body.model import Body
from chorus.field import FieldParameters, voxel_centres
from chorus.occupancy.posed import posed_occupancy
from chorus.occupancy.surfaces import (
    OBJECT,
    PERSON,
    body_mesh,
    describe,
    surface,
    threshold_of_mass,
    threshold_of_volume,
    write_meshes,
)

EXTENT = 3.0
RADIUS = 0.3
TOLERANCE = 1e-3
"""Of phi between voxels: float32 weights against float64, times the steepest phi there can be, 1 a voxel."""


def plain_trilinear(phi: NDArray[np.float32], extent: float, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """phi between voxel centres at points (P, 3), the eight corners one by one, 0 outside the grid, (N, N, N)."""
    N = len(phi)
    cell = (points + extent / 2) * (N / extent) - 0.5
    base = np.floor(cell).astype(np.int64)
    total = np.zeros(len(points))
    for corner in np.ndindex(2, 2, 2):
        index = base + corner
        share = np.where(corner, cell - base, 1 - (cell - base)).prod(1)
        inside = np.all((index >= 0) & (index < N), axis=1, keepdims=True)
        total += np.where(inside[:, 0], share * phi[tuple(np.where(inside, index, 0).T)], 0)
    return total.reshape(phi.shape)


def a_ball(resolution: int) -> NDArray[np.float32]:
    """phi of a blurred ball at the left hand's height, 0.5 at its radius, in noise that no threshold here sees."""
    distance = np.linalg.norm(voxel_centres(resolution, EXTENT) - [0.7, 0.4, 0.1], axis=-1)
    noise = 0.05 * np.random.default_rng(0).random(distance.shape)
    found: NDArray[np.float32] = np.maximum(np.clip(1 - distance / (2 * RADIUS), 0, 1), noise).astype(np.float32)
    return found


@pytest.mark.benchmark(group="surfaces")
def bench_trilinear(benchmark: Any, body: Body, quick: bool) -> None:
    p = FieldParameters(48, EXTENT)
    phi, pose = np.random.default_rng(0).random((48,) * 3).astype(np.float32), a_pose(body)

    def posed(interpolation: str) -> NDArray[np.float32]:
        return posed_occupancy(phi, pose, p, body.hash, body, interpolation=interpolation, backend="numba")

    def plain() -> NDArray[np.float64]:
        return plain_trilinear(phi, p.extent, plain_points(body, p, pose))

    worst = float(np.abs(posed("trilinear") - plain()).max())
    if not worst <= TOLERANCE:
        raise WrongResult(f"trilinear: differs from the plain result by up to {worst:.3g}, more than {TOLERANCE}")
    contenders = [
        Contender("trilinear", lambda: posed("trilinear"), 1, "poses"),
        Contender("nearest", lambda: posed("nearest"), 1, "poses"),
        Contender("plain numpy", plain, 1, "poses"),
    ]
    records = interleaved(benchmark, contenders, rounds=3 if quick else 10)
    for r in records:
        r["ratio"] = r["per_s"] / records[-1]["per_s"]
    benchmark.extra_info.update(
        what="posed occupancy 48^3, trilinear",
        resolution=48,
        smoothing_steps=p.smoothing_steps,
        worst_difference=worst,
        ratio_to="the plain computation in numpy and scipy",
    )


@pytest.mark.benchmark(group="surfaces")
@pytest.mark.parametrize("resolution", [48, 96])
def bench_marching_cubes(benchmark: Any, body: Body, quick: bool, resolution: int) -> None:
    phi = a_ball(resolution)
    found = surface(phi, EXTENT, 0.5)
    facts, want = describe(found), 4 / 3 * np.pi * RADIUS**3
    if not (facts.watertight and facts.pieces == 1 and abs(facts.volume_m3 / want - 1) < 0.03):
        raise WrongResult(f"surface: expected one closed surface around {want:.4f} m^3, got {facts}")
    by_volume = describe(surface(phi, EXTENT, threshold_of_volume(phi, EXTENT, 0.05))).volume_m3
    if not abs(by_volume / 0.05 - 1) < 2e-3:
        raise WrongResult(f"threshold_of_volume: expected 0.05 m^3, got {by_volume:.5f} m^3")
    share = phi[phi >= threshold_of_mass(phi, 0.2)].sum(dtype=np.float64) / phi.sum(dtype=np.float64)
    if not 0.2 <= share < 0.201:
        raise WrongResult(f"threshold_of_mass: expected 0.2 of the mass, got {share:.5f}")
    person = body_mesh(body.rest_vertices, body.faces)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "both.glb"

        def write() -> None:
            write_meshes(path, {OBJECT: found, PERSON: person})

        write()
        read = trimesh.load_scene(path, process=False).geometry[OBJECT]
        if not np.allclose(read.vertices, found.vertices, atol=1e-6):
            raise WrongResult("write_meshes: the file holds other vertices than were given")
        contenders = [
            Contender("surface", lambda: surface(phi, EXTENT, 0.5), 1, "surfaces", {"faces": facts.faces}),
            Contender("threshold of a mass", lambda: threshold_of_mass(phi, 0.2), 1, "thresholds"),
            Contender("threshold of a volume", lambda: threshold_of_volume(phi, EXTENT, 0.05), 1, "thresholds"),
            Contender("GLB with the body", write, 1, "files"),
        ]
        interleaved(benchmark, contenders, rounds=3 if quick else 15)
    benchmark.extra_info.update(what=f"marching cubes {resolution}^3", resolution=resolution)
