"""phi at points around posed people: what posed inference says, and gradients that finite differences confirm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from chorus.body.model import Body, load_body
from chorus.camera.views import Scheme
from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField, FieldParameters, voxel_centres
from chorus.kernels.arrays import cube
from chorus.kernels.reference.skinning import smooth
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.posed import posed_occupancy
from chorus.occupancy.query import _nearest, _nearest_of_all, _Smooth, query

RESOLUTION = 12


@pytest.fixture(scope="module")
def body() -> Body:
    """The built-in body with pose and shape blend shapes, which it lacks."""
    plain, rng = load_body(), np.random.default_rng(2)
    some = slice(None, None, 9)
    shapes = rng.normal(0, 0.02, (len(plain.vertices[some]), 3, 4))
    return Body(
        "blended",
        plain.vertices[some],
        np.zeros((0, 3)),
        plain.joints,
        plain.parents,
        plain.weights[some],
        plain.joint_names,
        posedirs=rng.normal(0, 2e-3, (len(plain.vertices[some]), 3, 9 * 23)),
        shapedirs=shapes,
        joint_shapedirs=rng.normal(0, 0.02, (24, 3, 4)),
    )


@pytest.fixture(scope="module")
def poses() -> torch.Tensor:
    found = torch.tensor(np.random.default_rng(3).normal(0, 0.3, (2, 24, 3)))
    found[:, 0] = 0
    return found


@pytest.fixture(scope="module")
def phi() -> Any:
    """Smooth, so that gradients are of a size that differences see."""
    x = voxel_centres(RESOLUTION, 3.0)
    return (0.5 + 0.5 * np.sin(3 * x[..., 0] + 2 * x[..., 1] ** 2 - 4 * x[..., 2])).astype(np.float32)


def joint_map() -> Any:
    """Voxels left of the middle rigid with the left hand, the others with the pelvis or the right hand."""
    x = voxel_centres(RESOLUTION, 3.0)[..., 0]
    return np.where(x > 0.4, 22, np.where(x > -0.4, 0, 23))


FIELDS: dict[str, dict[str, Any]] = {
    "lbs": {},
    "lbs, no smoothing": {"smoothing_steps": 0},
    "lbs-nearest": {"canonicalization": "lbs-nearest"},
    "joint": {"canonicalization": "joint:right_hand"},
    "per-voxel": {"canonicalization": "per-voxel", "joint_map": joint_map()},
    "none": {"canonicalize": False},
}
every_field = pytest.mark.parametrize("kind", FIELDS)


def parameters(body: Body, kind: str) -> FieldParameters:
    return CanonicalField(body, RESOLUTION, cache=False, **FIELDS[kind]).parameters


@every_field
@pytest.mark.parametrize(("inverse", "shaped"), [("blend_of_inverses", False), ("inverse_of_blend", True)])
def test_at_voxel_centres_it_is_the_posed_field(
    body: Body, poses: torch.Tensor, phi: Any, kind: str, inverse: str, shaped: bool
) -> None:
    p = parameters(body, kind)
    betas = np.array([[1.0, -0.5, 0.3], [0.2, 0, -1]]) if shaped else None
    want = posed_occupancy(
        phi, poses.numpy(), p, body.hash, body, betas=betas, inverse=inverse, interpolation="trilinear", backend="numba"
    )
    centres = torch.tensor(voxel_centres(RESOLUTION, 3.0)).reshape(1, -1, 3).expand(2, -1, 3)
    for asked in (poses, poses.clone().requires_grad_()):  # both ways to the weights
        have = query(phi, centres, asked, p, body.hash, body, betas=betas, inverse=inverse)
        assert have.dtype == torch.float64
        # Which voxel a point is in is a matter of rounding where joints differ from voxel to voxel.
        off = np.abs(have.detach().numpy().reshape(want.shape) - want)
        assert (off > 2e-5).mean() <= (1e-3 if kind == "per-voxel" else 0)
    single = query(phi, centres[0].float(), poses[0].float(), p, body.hash, body, inverse=inverse)
    assert (single.dtype, single.shape) == (torch.float32, (RESOLUTION**3,))
    if not shaped:
        assert (np.abs(single.numpy() - want[0].ravel()) > 1e-3).mean() <= 2e-3
    assert (np.abs(want[0] - phi).max() < 1e-6) == (kind == "none")


def away_from_kinks(body: Body, count: int, seed: int = 0) -> torch.Tensor:
    """Points near the body, in the middle third of a cell between voxel centres, where the weights are smooth."""
    rng = np.random.default_rng(seed)
    near = body.vertices[rng.integers(len(body.vertices), size=(2, count))] + rng.normal(0, 0.15, (2, count, 3))
    cell = np.floor((near + 1.5) / 0.25 - 0.5)
    return torch.tensor((cell + 0.5 + rng.uniform(0.35, 0.65, near.shape)) * 0.25 - 1.5)


@pytest.mark.parametrize(("kind", "inverse"), [*((kind, "blend_of_inverses") for kind in FIELDS), ("lbs", "inverse_of_blend")])
def test_gradients_are_those_of_finite_differences(body: Body, poses: torch.Tensor, phi: Any, kind: str, inverse: str) -> None:
    p, points = parameters(body, kind), away_from_kinks(body, 6)
    joints = torch.tensor([1, 6, 16, 19, 21])  # a hip, the spine, a shoulder, an elbow, a wrist

    def value(points: torch.Tensor, some: torch.Tensor) -> torch.Tensor:
        return query(phi, points, poses.index_copy(1, joints, some), p, body.hash, body, inverse=inverse)

    asked = points.requires_grad_(), poses[:, joints].clone().requires_grad_()
    assert torch.autograd.gradcheck(value, asked, eps=1e-7, atol=1e-4, rtol=1e-3, fast_mode=True)
    by_points, by_poses = torch.autograd.grad(value(*asked).sum(), asked)
    assert by_points.abs().max() > 0.1
    assert (by_poses.abs().max() > 1e-2) == (kind != "none")


def test_a_step_along_the_gradient_raises_phi(body: Body, poses: torch.Tensor, phi: Any) -> None:
    """Row 0 gets no gradient, so that an optimiser leaves it at zero; float32, as is usual."""
    p = parameters(body, "lbs")
    pose, points = poses.float().requires_grad_(), away_from_kinks(body, 50).float()
    before = query(phi, points, pose, p, body.hash, body).mean()
    before.backward()
    assert pose.grad is not None
    assert not pose.grad[:, 0].any()
    with torch.no_grad():
        after = query(phi, points, pose + 0.05 * pose.grad / pose.grad.norm(), p, body.hash, body).mean()
    assert before + 1e-4 < after


def test_smoothing_and_its_transpose() -> None:
    """Forwards as the definition; backwards <g, S x> = <S^T g, x>."""
    lattice = cube(7, 1.0)
    generator = torch.Generator().manual_seed(0)
    weights, near = torch.rand(7**3, 4, generator=generator).double(), torch.rand(7**3, generator=generator) < 0.6
    weights = weights / weights.sum(1, keepdim=True)
    free = 0.3 * near.double().view(7, 7, 7)[1:-1, 1:-1, 1:-1]
    grid = weights.T.reshape(4, 7, 7, 7).requires_grad_()
    smoothed: Any = _Smooth.apply(grid, free, 5)  # type: ignore[no-untyped-call]
    want = smooth(lattice, weights, near, steps=5)
    assert torch.allclose(smoothed.detach().reshape(4, -1).T, want, atol=1e-12)
    g = torch.rand(smoothed.shape, generator=generator).double()
    (adjoint,) = torch.autograd.grad(smoothed, grid, g)
    assert torch.allclose((g * smoothed).sum(), (adjoint * grid).sum())
    assert not torch.allclose(adjoint, g)


@pytest.mark.parametrize("tau", [0.2, 1e30])
def test_a_gpu_finds_the_same_vertices(tau: float) -> None:
    generator = torch.Generator().manual_seed(0)
    points, vertices = (torch.rand(count, 3, generator=generator).double() for count in (3000, 200))
    for mine, its in zip(_nearest_of_all(points, vertices, 7, tau), _nearest(points, vertices, 7, tau), strict=True):
        assert torch.equal(mine, its)
    assert _nearest(points, vertices, 7, tau)[1].shape[1] == 7


def test_outside_there_is_nothing(body: Body, poses: torch.Tensor, phi: Any) -> None:
    for kind in FIELDS:
        far = torch.tensor([[[9.0, 0, 0], [0, -4.0, 0]]]).double()
        assert not query(phi, far, poses[:1], parameters(body, kind), body.hash, body).any()


def occupancy(body: Body) -> Occupancy:
    scheme = Scheme("azimuth")
    shape = (scheme.num_groups, RESOLUTION, RESOLUTION, RESOLUTION)
    den = np.full(shape, 10)
    num = np.random.default_rng(0).integers(0, 11, shape)
    tens = np.full(scheme.num_groups, 10)
    return Occupancy(num, den, tens, tens, scheme, "azimuth", parameters(body, "lbs"), body.hash)


def test_an_occupancy_is_asked(body: Body, poses: torch.Tensor) -> None:
    occ = occupancy(body)
    points = away_from_kinks(body, 20)
    have = occ.query(points, poses, body)
    assert torch.equal(have, query(occ.probability, points, poses, occ.parameters, body.hash, body))
    assert have.shape == (2, 20)
    assert occ.query(points[:0], poses[:0], body).shape == (0, 20)
    assert occ.query(points[:, :0], poses, body).shape == (2, 0)
    with pytest.raises(MismatchError):
        occ.query(points, poses)
    for change, words in (
        ({"points": points[..., :2]}, r"points: expected float32 or float64 of shape \(B, P, 3\)"),
        ({"points": points.int()}, "points: expected float32 or float64 .* got torch.int32"),
        ({"poses": poses[:1]}, r"poses: expected floating point of shape \(2, 24, 3\), got .*\(1, 24, 3\)"),
        ({"poses": poses + 1}, "poses: expected a zero row 0"),
        ({"poses": poses * torch.nan}, "poses: expected finite"),
        ({"points": points / 0}, "points: expected finite"),
        ({"inverse": "other"}, "inverse: expected blend_of_inverses or"),
        ({"betas": np.zeros(9)}, "betas: expected at most the body's 4"),
    ):
        arguments: dict[str, Any] = {"points": points, "poses": poses, **change}
        with pytest.raises(InputError, match=words):
            occ.query(body=body, **arguments)
