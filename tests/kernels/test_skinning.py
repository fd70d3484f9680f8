"""Weights around a mesh, their smoothing and the look-up of Eq. 11: the numba twin against the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from chorus.body.model import Body, load_body
from chorus.kernels import kinematics
from chorus.kernels.cpu import skinning as cpu_neighbours
from chorus.kernels.cpu import smoothing as cpu_smoothing
from chorus.kernels.cpu.skinning import near_weights
from chorus.kernels.reference import skinning as neighbours
from chorus.kernels.reference.skinning import INVERSES, Lattice, cube


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


def small_mesh(count: int, joints: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.3, (count, 3)), rng.dirichlet([0.3] * joints, count).astype(np.float32)


@pytest.mark.parametrize(
    ("lattice", "vertices", "joints", "k", "tau", "s"),
    [
        (cube(16, 2.0), 300, 5, 8, 0.4, 0.25),
        (Lattice((5, 9, 3), (-0.5, -1.0, 0.1), 0.21), 40, 3, 40, 0.5, 0.5),
        (cube(17, 3.0), 1000, 24, 30, 0.8, 0.25),
        (cube(9, 1.0), 33, 60, 1, 0.3, 1.0),
        (cube(6, 1.0), 16, 2, 16, 5.0, 0.25),
        (cube(5, 60.0), 700, 4, 30, 0.8, 0.25),
        (Lattice((1, 1, 2), (0.0, 0.0, 0.0), 0.5), 1, 1, 1, 2.0, 0.25),
    ],
)
def test_neighbour_weights_are_the_definitions(
    lattice: Lattice, vertices: int, joints: int, k: int, tau: float, s: float
) -> None:
    points, table = (torch.from_numpy(a) for a in small_mesh(vertices, joints))
    have, near = cpu_neighbours.skinning_weights(lattice, points, table, k=k, tau=tau, s=s)
    want, near_too = neighbours.neighbour_weights(lattice, points, table, k=k, tau=tau, s=s)
    assert torch.equal(near, near_too)
    assert have.dtype == torch.float32
    assert (have - want).abs().max() < 2e-7
    assert torch.equal(have[~near], torch.eye(joints)[:1].expand(int((~near).sum()), joints))


def test_the_worst_order_of_vertices_changes_nothing() -> None:
    """Clusters far apart, duplicated vertices and vertices on a line: bounds are loose or zero, results are the same."""
    rng = np.random.default_rng(4)
    points = np.concatenate(
        [
            rng.normal(0, 0.01, (100, 3)) + 0.7,
            rng.normal(0, 0.01, (100, 3)) - 0.7,
            np.repeat(rng.normal(0, 0.3, (5, 3)), 9, 0),
            np.c_[np.linspace(-1, 1, 70), np.zeros((70, 2))],
        ]
    )
    table = np.eye(3, dtype=np.float32)[rng.integers(0, 3, len(points))]
    table[200:245] = np.repeat(table[200:245:9], 9, 0)  # equal vertices, equal weights: whichever is taken
    order = rng.permutation(len(points))
    lattice = cube(12, 2.0)
    a, b = (near_weights(lattice, points[o], table[o], k=9, tau=0.6, s=0.25).dense()[0] for o in (slice(None), order))
    want, _ = neighbours.neighbour_weights(lattice, torch.from_numpy(points), torch.from_numpy(table), k=9, tau=0.6, s=0.25)
    assert (a - want).abs().max() < 2e-7
    assert (b - want).abs().max() < 2e-7


def test_ties_take_some_choice_among_equals() -> None:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * 0.125
    lattice = Lattice((1, 1, 1), (0.0, 0.0, 0.0), 1.0)
    weights, _ = near_weights(lattice, corners, np.eye(8, dtype=np.float32), k=3, tau=1e6, s=0.25).dense()
    assert np.allclose(np.sort(weights[0].numpy())[-3:], 1 / 3, atol=1e-6)
    assert np.allclose(weights[0].sum(), 1, atol=1e-6)


def test_a_mesh_far_from_every_voxel_leaves_the_pelvis() -> None:
    points, table = small_mesh(50, 3)
    w = near_weights(cube(9, 1.0), points + 5, table, k=4, tau=0.5, s=0.25, steps=3)
    weights, near = w.dense()
    assert not near.any()
    assert torch.equal(weights, torch.eye(3)[:1].expand(729, 3))
    offset, joint, weight = w.sparse(1e-6)
    assert np.array_equal(offset, np.arange(730))
    assert (joint == 0).all()
    assert (weight == 1).all()
    phi = np.random.default_rng(0).random((9, 9, 9)).astype(np.float32)
    assert np.array_equal(cpu_neighbours.sample(w, random_bones(3).numpy(), phi, cube(9, 1.0)), phi)


def test_threads_give_the_same_bits(body: Body) -> None:
    facts = {"k": 30, "tau": 0.8, "s": 0.25, "steps": 30}
    one, three = (near_weights(cube(20, 3.0), body.rest_vertices, body.weights, threads=n, **facts) for n in (1, 3))
    assert np.array_equal(one.weight, three.weight)
    assert np.array_equal(one.near, three.near)


@pytest.mark.parametrize(
    ("shape", "steps"), [((6, 7, 9), 1), ((6, 7, 40), 30), ((12, 5, 17), 90), ((2, 9, 9), 5), ((3, 3, 3), 9)]
)
def test_smoothing_is_the_definitions(shape: tuple[int, int, int], steps: int) -> None:
    rng = np.random.default_rng(1)
    lattice = Lattice(shape, (0.0, 0.0, 0.0), 0.1)
    near = torch.from_numpy(rng.random(lattice.num_voxels) < 0.8)
    weights = torch.from_numpy(rng.dirichlet([0.3] * 3, lattice.num_voxels))
    weights[~near] = torch.tensor([1.0, 0, 0]).double()
    weights[near, 2] *= (torch.arange(lattice.num_voxels) < 40)[near]  # a joint that is not everywhere
    weights /= weights.sum(1, keepdim=True)
    have = cpu_neighbours.smooth(lattice, weights, near, steps=steps)
    want = neighbours.smooth(lattice, weights, near, steps=steps)
    assert have.shape == want.shape
    assert (have - want).abs().max() < 1e-6
    assert float(have.min()) >= 0
    assert min(shape) < 3 or (want - weights).abs().max() > 0.01


def test_the_papers_thirty_steps_are_taken_one_by_one_and_many_by_the_series() -> None:
    assert not neighbours.series_pays(30)
    assert neighbours.series_pays(120)  # 96^3
    assert len(neighbours.series(853)) < 100  # 256^3
    for steps in (1, 2, 30, 200):
        c = neighbours.series(steps)
        assert min(c) > -1e-15
        assert sum(c) == pytest.approx(1, abs=1e-14)
        y = np.linspace(-1, 1, 101)
        assert np.abs(np.polynomial.chebyshev.chebval(y, c) - (0.7 + 0.3 * y) ** steps).max() < 2e-8
    assert cpu_smoothing.reach(30) < 30
    assert cpu_smoothing.reach(2) == 2


def test_series_and_steps_agree_on_the_body(body: Body) -> None:
    """What the series changes of a field of 30 and of 120 steps, measured: below 1e-6 everywhere."""
    for steps in (30, 120):
        results = []
        for use_series in (False, True):
            w = near_weights(cube(24, 3.0), body.rest_vertices, body.weights, k=30, tau=0.8, s=0.25)
            cpu_smoothing.smooth_slots((24,) * 3, w.near, w.voxel, w.weight, steps, 2, use_series)
            assert np.abs(w.weight.sum(0) - 1)[w.near].max() < 1e-6
            results.append(w.weight)
        assert 0 < np.abs(results[0] - results[1]).max() < 1e-6


def random_bones(joints: int, seed: int = 0) -> torch.Tensor:
    """(J, 3, 4) rigid transforms; the first is the identity."""
    rng = np.random.default_rng(seed)
    rotation = kinematics.rotation_matrices(torch.from_numpy(rng.normal(0, 0.4, (joints, 3))))
    transforms = torch.cat([rotation, torch.from_numpy(rng.normal(0, 0.1, (joints, 3, 1)))], -1)
    transforms[0] = torch.eye(3, 4)
    return transforms


@pytest.mark.parametrize("inverse", INVERSES)
def test_look_up_is_equation_11(inverse: str) -> None:
    rng = np.random.default_rng(2)
    lattice, grid = Lattice((6, 5, 9), (-0.6, -0.5, -0.7), 0.2), Lattice((7, 8, 5), (-0.55, -0.7, -0.4), 0.19)
    weights = torch.from_numpy(rng.dirichlet([0.3] * 5, lattice.num_voxels).astype(np.float32))
    phi = torch.from_numpy(rng.random(grid.shape).astype(np.float32)) + 1
    B = random_bones(5)
    have = cpu_neighbours.sample_canonical(lattice, weights, B, phi, grid, inverse=inverse)
    homogeneous = torch.cat([B, torch.tensor([0.0, 0, 0, 1]).double().expand(5, 1, 4)], 1).numpy()
    outside = 0
    for v, x in enumerate(lattice.centres().numpy()):  # Eq. 11 as it is written, voxel by voxel
        w, point = weights[v].double().numpy(), np.append(x, 1)
        if inverse == "blend_of_inverses":
            canonical = sum(w[j] * (np.linalg.inv(homogeneous[j]) @ point) for j in range(5))
        else:
            canonical = np.linalg.inv(np.einsum("j,jab->ab", w, homogeneous)) @ point
        cell = [round((canonical[c] - grid.origin[c]) / grid.spacing) for c in range(3)]
        inside = all(0 <= cell[c] < grid.shape[c] for c in range(3))
        outside += not inside
        assert float(have.flatten()[v]) == (float(phi[tuple(cell)]) if inside else 0.0)
    assert 0 < outside < lattice.num_voxels
    want = neighbours.posed_lookup(lattice, weights.double(), B, phi, grid, inverse=inverse)
    assert torch.equal(have, want)


def test_a_blend_without_inverse_is_outside() -> None:
    half_turn = torch.eye(3, 4).double()
    half_turn[0, 0] = half_turn[1, 1] = -1
    B = torch.stack([torch.eye(3, 4).double(), half_turn])
    lattice, weights = cube(2, 1.0), torch.full((8, 2), 0.5)
    for backend in (cpu_neighbours, neighbours):
        posed = backend.sample_canonical(lattice, weights, B, torch.ones(2, 2, 2), lattice, inverse="inverse_of_blend")
        assert (posed == 0).all()


@pytest.mark.parametrize("inverse", INVERSES)
def test_all_in_one_is_the_definitions(inverse: str) -> None:
    points, table = (torch.from_numpy(a) for a in small_mesh(200, 5, seed=3))
    lattice, grid = cube(15, 2.0), Lattice((9, 11, 10), (-0.8, -0.9, -0.7), 0.17)
    phi = torch.from_numpy(np.random.default_rng(3).random(grid.shape).astype(np.float32))
    B = random_bones(5)
    B[0] = random_bones(2, seed=5)[1]  # a pelvis that moves takes the far voxels along
    facts: dict[str, Any] = {"k": 7, "tau": 0.3, "s": 0.25, "steps": 6, "inverse": inverse}
    have = cpu_neighbours.posed_phi(lattice, points, table, B, phi, grid, **facts)
    want = neighbours.posed_phi(lattice, points, table, B, phi, grid, **facts)
    assert float((have != want).float().mean()) < 2e-3  # weights are float32: a voxel may lie that close to another's face
    assert 0.1 < float((want > 0).float().mean()) < 1


def test_kernels_check_what_they_are_given() -> None:
    points, table = (torch.from_numpy(a) for a in small_mesh(20, 3))
    lattice = cube(4, 1.0)
    facts: dict[str, Any] = {"k": 5, "tau": 0.5, "s": 0.25}
    phi = torch.zeros(4, 4, 4)
    for backend in (neighbours, cpu_neighbours):
        with pytest.raises(ValueError, match=r"k: expected 1 \.\. 20"):
            backend.skinning_weights(lattice, points, table, **{**facts, "k": 21})
        with pytest.raises(ValueError, match="vertices: expected shape"):
            backend.skinning_weights(lattice, points[:, :2], table, **facts)
        with pytest.raises(ValueError, match="vertex_weights: expected shape"):
            backend.skinning_weights(lattice, points, table[:5], **facts)
        with pytest.raises(ValueError, match="tau, s: expected positive"):
            backend.skinning_weights(lattice, points, table, **{**facts, "tau": 0.0})
        with pytest.raises(ValueError, match="bones: expected shape"):
            backend.sample_canonical(lattice, torch.ones(64, 3) / 3, random_bones(4), phi, lattice)
        with pytest.raises(ValueError, match="weights: expected shape"):
            backend.sample_canonical(lattice, torch.ones(60, 3) / 3, random_bones(3), phi, lattice)
        with pytest.raises(ValueError, match="phi: expected the grid's shape"):
            backend.sample_canonical(lattice, torch.ones(64, 3) / 3, random_bones(3), phi[:3], lattice)
    with pytest.raises(ValueError, match="vertices: expected finite"):
        near_weights(lattice, np.full((6, 3), np.nan), np.ones((6, 1)), **facts)
    with pytest.raises(ValueError, match=r"lattice\.shape"):
        Lattice((0, 2, 2), (0.0, 0.0, 0.0), 1.0)
    with pytest.raises(ValueError, match=r"lattice\.spacing"):
        Lattice((2, 2, 2), (0.0, 0.0, 0.0), 0.0)
