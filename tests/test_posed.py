"""Occupancy around a posed human: what a pose must do, bodies, backends and arguments."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from chorus.body import Body, load_body
from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField, FieldParameters, voxel_centres
from chorus.kernels import kinematics
from chorus.kernels.backends import BackendUnavailableError
from chorus.kernels.neighbours import INVERSES
from chorus.posed import body_of, posed_backend, posed_mesh, posed_occupancy


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
        rod([0.1, 0, 0], [0.1, 0.6, 0], 60, rng), rod([0.15, -0.1, 0], [0.15, -0.7, 0], 60, rng),
        rod([0.35, 0.5, 0], [1.0, 0.5, 0], 60, rng),
    )  # fmt: skip
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
            torch.tensor(body_.vertices), torch.tensor(body_.weights).double(),
            None if body_.posedirs is None else torch.tensor(body_.posedirs).flatten(0, 1),
            kinematics.rotation_matrices(torch.tensor(pose)), torch.tensor(body_.relative_transforms(pose[None])[0]),
        )  # fmt: skip
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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    posed_backend.cache_clear()
    with pytest.raises(BackendUnavailableError, match=r"triton cannot run here: PyTorch sees no GPU.* What can: numba"):
        posed_backend("triton")
    assert posed_backend()[0] == "numba"
    assert posed_backend("reference")[0] == "reference"
    posed_backend.cache_clear()
