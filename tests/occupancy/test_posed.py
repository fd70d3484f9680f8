"""Occupancy around a posed human: what a pose must do, bodies, backends and arguments."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from chorus.body.model import Body, load_body
from chorus.camera.views import Scheme
from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField, FieldParameters, voxel_centres
from chorus.kernels import backends, kinematics
from chorus.kernels.arrays import cube
from chorus.kernels.backends import BackendUnavailableError
from chorus.kernels.reference.skinning import canonical_points, skinning_weights, smooth
from chorus.kernels.skinning import INVERSES
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.posed import (
    body_of,
    posed_bones,
    posed_mesh,
    posed_occupancy,
    sample_trilinear,
    to_canonical,
)


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


def rod(start: list[float], end: list[float], count: int, rng: np.random.Generator) -> np.ndarray:
    """Points in a cylinder of 5 cm around a segment."""
    along = np.linspace(0, 1, count)[:, None]
    return np.array(start) * (1 - along) + np.array(end) * along + rng.normal(0, 0.02, (count, 3))


def puppet() -> Body:
    """A trunk, two arms and two stumps of legs, mirrored exactly at x = 0; every vertex on one joint alone."""
    rng = np.random.default_rng(0)
    names = ["pelvis", "left_hip", "right_hip", "left_shoulder", "right_shoulder"]
    joints = np.array([[0, 0, 0], [0.1, -0.1, 0], [-0.1, -0.1, 0], [0.3, 0.5, 0], [-0.3, 0.5, 0]])
    trunk, leg, arm = (
        rod([0.1, 0, 0], [0.1, 0.6, 0], 60, rng),
        rod([0.15, -0.1, 0], [0.15, -0.7, 0], 60, rng),
        rod([0.35, 0.5, 0], [1.0, 0.5, 0], 60, rng),
    )
    half = np.concatenate([trunk, leg, arm])
    owner = np.repeat([0, 1, 3], 60)
    vertices = np.concatenate([half, half * [-1, 1, 1]])
    owners = np.concatenate([owner, np.where(owner > 0, owner + 1, 0)])
    faces = np.arange(len(vertices) // 3 * 3).reshape(-1, 3)
    return Body("puppet", vertices, faces, joints, [-1, 0, 0, 0, 0], np.eye(5)[owners], names)


def parameters(**changes: Any) -> FieldParameters:
    """A grid on which a limb's joint has all the weight near it: little de-weighting, no smoothing."""
    return FieldParameters(**{"resolution": 40, "extent": 2.6, "k": 10, "s": 1e-6, "smoothing_steps": 0, **changes})


@pytest.mark.parametrize("inverse", INVERSES)
def test_the_rest_pose_gives_phi_back(body: Body, inverse: str) -> None:
    phi = np.random.default_rng(0).random((24, 24, 24)).astype(np.float32)
    p = CanonicalField(body, 24, cache=False).parameters
    assert np.array_equal(posed_occupancy(phi, body.rest_pose, p, body.hash, inverse=inverse), phi)


def test_a_limb_moves_its_blob_rigidly() -> None:
    puppet_, p = puppet(), parameters()
    x = voxel_centres(p.resolution, p.extent)
    phi = (np.linalg.norm(x - [0.8, 0.55, 0.05], axis=-1) < 0.2).astype(np.float32)  # at the left hand
    pose = np.array(puppet_.rest_pose)
    pose[3] = [0.3, -0.5, 1.1]
    results = [posed_occupancy(phi, pose, p, puppet_.hash, puppet_, inverse=inverse) for inverse in INVERSES]
    assert np.array_equal(*results)  # where one joint rules, the inverse of a blend is the blend of inverses
    B = np.vstack([puppet_.bone_transforms(pose[None])[0, 3], [0, 0, 0, 1]])
    moved = np.concatenate([x, np.ones_like(x[..., :1])], -1) @ np.linalg.inv(B).T
    cell = np.floor((moved[..., :3] + p.extent / 2) / p.spacing).astype(int).clip(0, p.resolution - 1)
    expected = phi[tuple(np.moveaxis(cell, -1, 0))]
    assert expected.sum() > 100
    assert np.array_equal(results[0], expected)
    assert not np.array_equal(results[0], phi)


def test_a_mirrored_pose_gives_the_mirrored_result() -> None:
    puppet_, p = puppet(), parameters(s=0.25, smoothing_steps=5)
    rng = np.random.default_rng(1)
    pose = rng.normal(0, 0.4, (5, 3))
    pose[0] = 0
    mirrored = pose[[0, 2, 1, 4, 3]] * [1, -1, -1]
    phi = rng.random((p.resolution,) * 3).astype(np.float32)
    one = posed_occupancy(phi, pose, p, puppet_.hash, puppet_)
    other = posed_occupancy(phi[::-1], mirrored, p, puppet_.hash, puppet_)
    assert (one != phi).mean() > 0.05
    assert (one != other[::-1]).mean() < 1e-4  # sums are taken in another order


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_backends_agree_on_the_body(body: Body, backend: str) -> None:
    p = CanonicalField(body, 16, cache=False).parameters
    rng = np.random.default_rng(5)
    pose = rng.normal(0, 0.3, (24, 3))
    pose[0] = 0
    phi = rng.random((16, 16, 16)).astype(np.float32)
    automatic = posed_occupancy(phi, pose, p, body.hash, body, backend="auto" if not torch.cuda.is_available() else "numba")
    assert (posed_occupancy(phi, pose, p, body.hash, body, backend=backend) == automatic).mean() > 0.999
    assert (automatic != phi).mean() > 0.05


def test_without_canonicalization_it_is_the_identity(body: Body) -> None:
    p = FieldParameters(resolution=8, canonicalize=False)
    phi = np.random.default_rng(0).random((8, 8, 8)).astype(np.float32)
    pose = np.random.default_rng(1).normal(0, 1, (24, 3))
    pose[0] = 0
    assert np.array_equal(posed_occupancy(phi, pose, p, body.hash, body), phi)


def test_posing_on_a_device_is_the_bodys() -> None:
    """``posed_mesh``, which the GPU runs, against ``Body.posed_vertices``; with pose blend shapes."""
    plain = puppet()
    rng = np.random.default_rng(2)
    posedirs = rng.normal(0, 0.01, (len(plain.vertices), 3, 36))
    shaped = Body(
        "shaped", plain.vertices, plain.faces, plain.joints, plain.parents, plain.weights, plain.joint_names, posedirs=posedirs
    )
    pose = rng.normal(0, 0.5, (5, 3))
    for body_ in (plain, shaped):
        have = posed_mesh(
            torch.tensor(body_.vertices),
            torch.tensor(body_.weights).double(),
            None if body_.posedirs is None else torch.tensor(body_.posedirs).flatten(0, 1),
            kinematics.rotation_matrices(torch.tensor(pose)),
            torch.tensor(body_.relative_transforms(pose[None])[0]),
        )
        assert np.allclose(have.numpy(), body_.posed_vertices(pose[None])[0], atol=1e-6)


def test_bodies_go_by_their_hash(body: Body) -> None:
    other = puppet()
    assert body_of(body.hash).hash == body.hash
    assert body_of(other.hash, other) is other
    with pytest.raises(MismatchError, match=f"expected the one with hash {other.hash[:12]}, got mannequin .*give yours"):
        body_of(other.hash)
    with pytest.raises(MismatchError, match="got puppet"):
        posed_occupancy(np.zeros((4, 4, 4)), np.zeros((5, 3)), FieldParameters(4), body.hash, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"phi": np.zeros((4, 4, 5))}, "phi: expected shape (4, 4, 4), got (4, 4, 5)"),
        ({"phi": np.full((4, 4, 4), np.nan)}, "phi: expected finite numbers"),
        ({"pose": np.zeros((23, 3))}, "pose: expected shape (5, 3), got (23, 3)"),
        ({"pose": np.eye(5, 3)}, "pose: expected a zero row 0"),
        ({"pose": np.zeros((2, 6, 3))}, "pose: expected shape (n, 5, 3), got (2, 6, 3)"),
        ({"pose": np.stack([np.zeros((5, 3)), np.eye(5, 3)])}, "camera), got [1. 0. 0.] in pose 1"),
        ({"betas": np.zeros(1)}, "betas: expected at most the body's 0 shape coefficients, got 1"),
        ({"betas": np.zeros((2, 0))}, "betas: expected shape (1, b), got (2, 0)"),
        ({"interpolation": "cubic"}, "interpolation: expected nearest or trilinear, got 'cubic'"),
        ({"inverse": "transpose"}, "inverse: expected blend_of_inverses or inverse_of_blend, got 'transpose'"),
        ({"backend": "opencl"}, "backend: expected auto, triton, numba, reference; got 'opencl'"),
    ],
)
def test_arguments_are_checked(change: dict[str, Any], words: str) -> None:
    puppet_ = puppet()
    arguments = {"phi": np.zeros((4, 4, 4)), "pose": np.zeros((5, 3)), "parameters": FieldParameters(4, k=5), **change}
    with pytest.raises(InputError, match=re.escape(words)):
        posed_occupancy(body_hash=puppet_.hash, body=puppet_, **arguments)


def test_backends_that_cannot_run_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    backends._choose.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    puppet_ = puppet()
    with pytest.raises(BackendUnavailableError, match=r"triton cannot run here: PyTorch sees no GPU.* What can: numba"):
        posed_occupancy(np.zeros((4, 4, 4)), np.zeros((5, 3)), FieldParameters(4, k=5), puppet_.hash, puppet_, backend="triton")


def shaped_puppet() -> Body:
    """The puppet with two shape coefficients: everything grows from the origin, and the left arm moves to the left."""
    plain = puppet()
    shapedirs, joint_shapedirs = np.zeros((len(plain.vertices), 3, 2)), np.zeros((5, 3, 2))
    shapedirs[..., 0], joint_shapedirs[..., 0] = 0.1 * plain.vertices, 0.1 * plain.joints
    arm = plain.weights[:, 3] > 0
    shapedirs[arm, 0, 1] = joint_shapedirs[3, 0, 1] = 0.2
    return Body(
        "shaped",
        plain.vertices,
        plain.faces,
        plain.joints,
        plain.parents,
        plain.weights,
        plain.joint_names,
        shapedirs=shapedirs,
        joint_shapedirs=joint_shapedirs,
    )


def a_pose(joints: int, seed: int = 3, noise: float = 0.4) -> np.ndarray:
    pose = np.random.default_rng(seed).normal(0, noise, (joints, 3))
    pose[0] = 0
    return pose


@pytest.mark.parametrize("inverse", INVERSES)
def test_canonical_points_are_the_kernels(inverse: str) -> None:
    rng = np.random.default_rng(0)
    lattice = cube(5, 2.0)
    weights = rng.dirichlet(np.ones(5), lattice.num_voxels)
    bones = puppet().bone_transforms(a_pose(5)[None])[0]
    want = canonical_points(lattice, torch.tensor(weights), torch.tensor(bones), inverse=inverse).numpy()
    have = to_canonical(lattice.centres().numpy(), weights, bones, inverse)
    assert np.allclose(have, want, atol=1e-12)
    assert np.abs(have - lattice.centres().numpy()).max() > 0.1


def test_what_has_no_inverse_comes_from_nowhere() -> None:
    turned = np.concatenate([np.diag([1.0, -1, -1]), np.zeros((3, 1))], 1)
    bones = np.stack([np.eye(3, 4), turned])  # half of each flattens space onto the x axis
    points = to_canonical(np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]), np.array([[0.5, 0.5], [1, 0]]), bones, INVERSES[1])
    assert not np.isfinite(points[0]).all()
    assert np.allclose(points[1], [0.1, 0.2, 0.3])
    phi = np.ones((4, 4, 4), np.float32)
    assert sample_trilinear(phi, points, 2.0).tolist() == [0, 1]


def test_trilinear_by_hand() -> None:
    phi = np.zeros((4, 4, 4), np.float32)  # centres at -1.5, -0.5, 0.5, 1.5
    phi[1, 2, 3] = 1
    phi[2, 2, 3] = 0.5
    points = np.array(
        [
            [-0.5, 0.5, 1.5],
            [0, 0.5, 1.5],
            [-0.25, 0.5, 1.5],
            [-0.5, 0.5, 1.75],
            [-0.5, 0.5, 2.5],
            [-0.5, 0, 1.75],
            [np.nan, 0, 0],
            [0, np.inf, 0],
            [1e300, 0, 0],
        ]
    )
    want = [1, 0.75, 0.875, 0.75, 0, 0.375, 0, 0, 0]  # beyond the last centre phi falls to 0, one voxel on
    assert np.allclose(sample_trilinear(phi, points, 4.0), want)


@pytest.mark.parametrize("inverse", INVERSES)
def test_trilinear_is_exact_on_a_plane(inverse: str) -> None:
    """phi linear in x, y, z, so that between voxels it is known: against the definition's canonical points."""
    puppet_, p = puppet(), parameters(resolution=20, s=0.25, smoothing_steps=3)
    normal = np.array([0.03, -0.05, 0.08])
    phi = 0.5 + voxel_centres(20, p.extent) @ normal
    pose = a_pose(5)
    lattice = cube(20, p.extent)
    table = torch.tensor(puppet_.weights, dtype=torch.float64)
    mesh = torch.tensor(puppet_.posed_vertices(pose[None])[0])
    weights, near = skinning_weights(lattice, mesh, table, k=p.k, tau=p.tau, s=p.s)
    weights = smooth(lattice, weights, near, steps=3)
    points = canonical_points(lattice, weights, torch.tensor(puppet_.bone_transforms(pose[None])[0]), inverse=inverse).numpy()
    within = (np.abs(points) < p.extent / 2 - p.spacing / 2 - 1e-6).all(1).reshape(phi.shape)
    moved = np.linalg.norm(points - lattice.centres().numpy(), axis=1).reshape(phi.shape) > 0.1
    assert (within & moved).sum() > 200
    for backend in ("numba", "reference"):
        have = posed_occupancy(phi, pose, p, puppet_.hash, puppet_, inverse=inverse, interpolation="trilinear", backend=backend)
        assert np.allclose(have[within], 0.5 + (points @ normal).reshape(phi.shape)[within], atol=2e-6)


def test_trilinear_in_the_rest_pose_and_beside_nearest(body: Body) -> None:
    p = CanonicalField(body, 24, cache=False).parameters
    x = voxel_centres(24, p.extent)
    phi = np.exp(-10 * ((x - [0.7, 0.4, 0.1]) ** 2).sum(-1)).astype(np.float32)
    rest = posed_occupancy(phi, body.rest_pose, p, body.hash, interpolation="trilinear")
    assert np.allclose(rest, phi, atol=1e-6)
    pose = a_pose(24, noise=0.25)
    near, linear = (posed_occupancy(phi, pose, p, body.hash, interpolation=i) for i in ("nearest", "trilinear"))
    assert not np.array_equal(near, linear)
    assert np.abs(near - phi).max() > 0.5  # the blob has moved,
    assert np.abs(near - linear).max() < 0.3  # and to the same place
    assert abs(near.sum() - linear.sum()) < 0.03 * near.sum()


def test_triton_does_not_interpolate() -> None:
    puppet_ = puppet()
    with pytest.raises(BackendUnavailableError, match=r"expected numba .* for trilinear interpolation, got triton"):
        posed_occupancy(
            np.zeros((4, 4, 4)),
            np.zeros((5, 3)),
            FieldParameters(4, k=5),
            puppet_.hash,
            puppet_,
            interpolation="trilinear",
            backend="triton",
        )


@pytest.mark.parametrize("interpolation", ["nearest", "trilinear"])
@pytest.mark.parametrize("canonicalize", [True, False])
def test_a_batch_is_its_poses_one_by_one(interpolation: str, canonicalize: bool) -> None:
    puppet_, p = puppet(), parameters(resolution=12, canonicalize=canonicalize)
    phi = np.random.default_rng(0).random((12, 12, 12)).astype(np.float32)
    poses = np.stack([a_pose(5, seed) for seed in range(3)])
    told: list[tuple[int, int]] = []
    batch = posed_occupancy(
        phi, poses, p, puppet_.hash, puppet_, interpolation=interpolation, progress=lambda *step: told.append(step)
    )
    assert batch.shape == (3, 12, 12, 12)
    assert batch.dtype == np.float32
    assert told == [(1, 3), (2, 3), (3, 3)]
    for have, pose in zip(batch, poses, strict=True):
        assert np.array_equal(have, posed_occupancy(phi, pose, p, puppet_.hash, puppet_, interpolation=interpolation))
    assert np.array_equal(batch[0], batch[1]) is not canonicalize
    assert posed_occupancy(phi, poses[:0], p, puppet_.hash, puppet_, interpolation=interpolation).shape == (0, 12, 12, 12)


def test_bones_take_the_template_to_the_shaped_person() -> None:
    body_ = shaped_puppet()
    pose, betas = a_pose(5), np.array([1.5, -0.7])
    bones = posed_bones(body_, pose, betas)
    joints = np.concatenate([body_.rest_joints, np.ones((5, 1))], 1)
    assert np.allclose(np.einsum("jab,jb->ja", bones, joints), body_.posed_joints(pose[None], betas)[0])
    assert np.allclose(bones[:, :, :3], body_.bone_transforms(pose[None])[0, :, :, :3])
    assert np.allclose(posed_bones(body_, pose), body_.bone_transforms(pose[None])[0])
    assert np.allclose(posed_bones(body_, pose, np.zeros(2)), body_.bone_transforms(pose[None])[0])


@pytest.mark.parametrize("interpolation", ["nearest", "trilinear"])
def test_betas_move_what_a_limb_carries(interpolation: str) -> None:
    """The second coefficient moves the left arm to the left, and with it a blob at the hand."""
    body_, p = shaped_puppet(), parameters()
    x = voxel_centres(p.resolution, p.extent)
    phi = (np.linalg.norm(x - [0.8, 0.55, 0.05], axis=-1) < 0.2).astype(np.float32)
    found = {}
    for name, betas in (("none", None), ("zero", np.zeros(2)), ("longer", [0, 1.0]), ("batch", np.array([[0, 0], [0, 1.0]]))):
        pose = np.stack([body_.rest_pose] * 2) if name == "batch" else body_.rest_pose
        found[name] = posed_occupancy(phi, pose, p, body_.hash, body_, betas=betas, interpolation=interpolation)
    assert np.array_equal(found["none"], found["zero"])
    assert np.array_equal(found["batch"], np.stack([found["zero"], found["longer"]]))
    centre = [(x * found[name][..., None]).sum((0, 1, 2)) / found[name].sum() for name in ("none", "longer")]
    assert np.allclose(centre[1] - centre[0], [0.2, 0, 0], atol=0.02)


def test_an_occupancy_passes_everything_on() -> None:
    puppet_, p = puppet(), parameters(resolution=12)
    counts = np.zeros((12, 12, 12, 12), np.int32)
    counts[0] = np.random.default_rng(0).integers(0, 101, (12, 12, 12))
    den, totals = np.zeros_like(counts), np.array([100] + [0] * 11)
    den[0] = 100
    occupancy = Occupancy(counts, den, totals, totals, Scheme(), "azimuth", p, puppet_.hash)
    poses, told = np.stack([a_pose(5, 1), a_pose(5, 2)]), []
    how: dict[str, Any] = {"inverse": INVERSES[1], "interpolation": "trilinear", "backend": "numba"}
    have = occupancy.posed(poses, puppet_, progress=lambda *step: told.append(step), **how)
    want = posed_occupancy(occupancy.probability, poses, p, puppet_.hash, puppet_, **how)
    assert np.array_equal(have, want)
    assert told == [(1, 2), (2, 2)]
