"""The Triton kernels of ``gpu.skinning``, run by Triton's interpreter, against the definition in float64.

Run in a process of its own: ``TRITON_INTERPRET=1 python -m pytest tests/kernels/interpreter``.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from chorus.kernels.arrays import Lattice, cube
from chorus.kernels.kinematics import rotation_matrices
from chorus.kernels.reference import skinning as reference
from chorus.kernels.skinning import INVERSES, series_pays

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run with TRITON_INTERPRET=1, in a process of its own", allow_module_level=True)

from chorus.kernels.gpu import skinning

TILE = skinning.TILE


def mesh(count: int, joints: int, seed: int = 0, spread: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices (P, 3) and their weights (P, J): a cloud, each vertex on a few joints."""
    rng = np.random.default_rng(seed)
    vertices = torch.from_numpy(rng.normal(0, spread, (count, 3)).astype(np.float32))
    weights = torch.from_numpy(rng.dirichlet([0.2] * joints, count).astype(np.float32))
    return vertices, weights


def bones(joints: int, seed: int = 0) -> torch.Tensor:
    """(J, 3, 4) rigid transforms, float64; the first is the identity."""
    rng = np.random.default_rng(seed)
    rotation = rotation_matrices(torch.from_numpy(rng.normal(0, 0.4, (joints, 3))))
    transforms = torch.cat([rotation, torch.from_numpy(rng.normal(0, 0.1, (joints, 3, 1)))], -1)
    transforms[0] = torch.eye(3, 4)
    return transforms


@pytest.mark.parametrize(
    ("lattice", "vertices", "joints", "k", "tau", "s"),
    [
        (cube(8, 2.0), 70, 5, 6, 0.4, 0.25),  # the last tile is not full; some bricks are far
        (Lattice((5, 9, 3), (-0.5, -1.0, 0.1), 0.21), 40, 3, 40, 0.5, 0.5),  # bricks stick out; every vertex is a neighbour
        (cube(6, 1.0), 100, 24, 33, 0.8, 1.0),  # more neighbours than a tile has vertices
        (cube(4, 1.0), 32, 17, 1, 0.3, 0.25),
    ],
    ids=["bricks", "odd", "many neighbours", "one neighbour"],
)
def test_weights_are_the_definitions(lattice: Lattice, vertices: int, joints: int, k: int, tau: float, s: float) -> None:
    points, table = mesh(vertices, joints)
    have, near = skinning.skinning_weights(lattice, points, table, k=k, tau=tau, s=s)
    want, near_too = reference.skinning_weights(lattice, points.double(), table, k=k, tau=tau, s=s)
    assert torch.equal(near, near_too)
    assert 0 < int(near.sum()) <= lattice.num_voxels
    assert have.dtype == torch.float32
    assert (have - want).abs().max() < 1e-5
    assert torch.equal(have[~near], torch.eye(joints)[:1].expand(int((~near).sum()), joints))


def test_far_bricks_are_left_alone() -> None:
    points, table = mesh(40, 3, spread=0.05)
    weights, near = skinning.skinning_weights(cube(8, 4.0), points, table, k=5, tau=0.6, s=0.25)
    assert 0 < int(near.sum()) < 100
    assert (weights[~near] == torch.tensor([1.0, 0, 0])).all()


def test_several_launches_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    points, table = mesh(40, 4)
    lattice = Lattice((5, 4, 8), (-0.6, -0.5, -0.5), 0.2)
    whole = skinning.skinning_weights(lattice, points, table, k=5, tau=0.8, s=0.25)
    monkeypatch.setattr(skinning, "BRICKS_PER_LAUNCH", 3)
    pieces = skinning.skinning_weights(lattice, points, table, k=5, tau=0.8, s=0.25)
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_many_tiles_are_looked_at_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skinning, "CHUNK", 2)  # 5 tiles in 3 chunks, the last not full
    points, table = mesh(150, 4)
    have, _ = skinning.skinning_weights(cube(4, 1.5), points, table, k=9, tau=0.8, s=0.25)
    want, _ = reference.skinning_weights(cube(4, 1.5), points.double(), table, k=9, tau=0.8, s=0.25)
    assert (have - want).abs().max() < 1e-5


def test_a_voxel_on_a_vertex_takes_its_weights() -> None:
    points, table = mesh(40, 4)
    lattice = cube(4, 1.0)
    centres = lattice.centres(torch.float32)
    points[7] = centres[21]
    points[8] = points[9] = centres[42]  # two in one place: any mean of theirs
    weights, near = skinning.skinning_weights(lattice, points, table, k=5, tau=0.8, s=0.25)
    assert bool(near[21])
    assert torch.allclose(weights[21], table[7], atol=1e-6)
    low, high = torch.minimum(table[8], table[9]), torch.maximum(table[8], table[9])
    assert ((weights[42] >= low - 1e-6) & (weights[42] <= high + 1e-6)).all()


def test_ties_share_what_is_left() -> None:
    """Eight vertices at the corners of a cube around a voxel, three wanted: each counts 3 / 8; the result is their mean."""
    corners = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=torch.float32) * 0.125
    table = torch.eye(8)
    lattice = Lattice((3, 3, 3), (-0.25, -0.25, -0.25), 0.25)
    weights, _ = skinning.skinning_weights(lattice, corners, table, k=3, tau=10.0, s=0.25)
    middle = weights[13].double()
    d = 0.125 * 3**0.5
    alpha = ((10 - d) / (10 + d)) ** 0.25
    expected = torch.full((8,), alpha / 8, dtype=torch.float64)
    expected[0] += 1 - alpha
    assert torch.allclose(middle, expected, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 4, 60])
def test_smoothing_is_the_definitions(steps: int) -> None:
    """Sixty steps go by the Chebyshev series."""
    assert series_pays(steps) == (steps == 60)
    rng = np.random.default_rng(1)
    lattice = Lattice((6, 7, 9), (0.0, 0.0, 0.0), 0.1)
    near = torch.from_numpy(rng.random(lattice.num_voxels) < 0.8)
    weights = torch.from_numpy(rng.dirichlet([0.3] * 3, lattice.num_voxels))
    weights[~near] = torch.tensor([1.0, 0, 0]).double()
    before = weights.clone()
    have = skinning.smooth(lattice, weights.float(), near, steps=steps)
    want = reference.smooth(lattice, weights, near, steps=steps)
    assert torch.equal(weights, before)
    assert (want - weights).abs().max() > 0.01
    assert (have - want).abs().max() < 1e-6


@pytest.mark.parametrize("inverse", INVERSES)
def test_sampling_is_equation_11(inverse: str) -> None:
    rng = np.random.default_rng(2)
    lattice, grid = Lattice((6, 5, 9), (-0.6, -0.5, -0.7), 0.2), Lattice((7, 8, 5), (-0.55, -0.7, -0.4), 0.19)
    J = 5
    weights = torch.from_numpy(rng.dirichlet([0.3] * J, lattice.num_voxels).astype(np.float32))
    phi = torch.from_numpy(rng.random(grid.shape).astype(np.float32)) + 1
    B = bones(J)
    have = skinning.sample_canonical(lattice, weights, B, phi, grid, inverse=inverse)
    want = reference.sample_canonical(lattice, weights.double(), B, phi, grid, inverse=inverse)
    points = reference.canonical_points(lattice, weights.double(), B, inverse=inverse)
    cell = (points - torch.tensor(grid.origin)) / grid.spacing + 0.5
    clear = ((cell - cell.round()).abs() > 1e-4).all(1).reshape(lattice.shape)
    assert clear.float().mean() > 0.95
    assert torch.equal(have[clear], want[clear])
    assert 0.1 < float((want > 0).float().mean()) < 1


def test_a_blend_without_inverse_is_outside() -> None:
    half_turn = torch.eye(3, 4).double()
    half_turn[0, 0] = half_turn[1, 1] = -1
    B = torch.stack([torch.eye(3, 4).double(), half_turn])
    lattice = cube(2, 1.0)
    weights = torch.full((8, 2), 0.5)
    ones = torch.ones(lattice.shape)
    assert (skinning.sample_canonical(lattice, weights, B, ones, lattice, inverse="inverse_of_blend") == 0).all()


def test_all_in_one() -> None:
    points, table = mesh(60, 4)
    lattice = cube(7, 1.6)
    phi = torch.from_numpy(np.random.default_rng(3).random(lattice.shape).astype(np.float32))
    parameters = {"k": 6, "tau": 0.5, "s": 0.25, "steps": 3}
    order = skinning.tile_order(points)
    assert sorted(order.tolist()) == list(range(60))
    have = skinning.posed_phi(lattice, points, table, bones(4), phi, lattice, order=order, **parameters)
    want = reference.posed_phi(lattice, points.double(), table, bones(4), phi, lattice, **parameters)
    assert float((have == want).float().mean()) > 0.99  # a voxel may lie within float32's rounding of another's face


def test_arguments_are_checked() -> None:
    points, table = mesh(20, 3)
    with pytest.raises(ValueError, match=r"k: expected 1 \.\. 20"):
        skinning.skinning_weights(cube(4, 1.0), points, table, k=21, tau=0.5, s=0.5)
    with pytest.raises(ValueError, match="one device"):
        skinning.skinning_weights(cube(4, 1.0), points, table.to("meta"), k=2, tau=0.5, s=0.5)
    with pytest.raises(ValueError, match="inverse: expected"):
        skinning.posed_phi(
            cube(4, 1.0),
            points,
            table,
            bones(3),
            torch.zeros(4, 4, 4),
            cube(4, 1.0),
            k=2,
            tau=0.5,
            s=0.5,
            steps=0,
            inverse="none",
        )
