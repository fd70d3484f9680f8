"""The body: kinematics against smplx and against what must hold of any body; validation; files of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chorus.body.model import SMPL_JOINTS, SMPLH_JOINTS, SMPLX_JOINTS, Body, info, load_body
from chorus.body.smpl_files import body_arrays
from chorus.errors import InputError
from chorus.kernels import kinematics

TREE = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)


def smpl_arrays(seed: int = 0, vertices: int = 60, joints: int = 24, betas: int = 10) -> dict[str, Any]:
    """Random arrays with the keys, shapes and dtypes of a published SMPL file."""
    rng = np.random.default_rng(seed)
    parents = list(TREE[:22]) + [int(rng.integers(9, 22)) for _ in range(22, joints)] if joints != 24 else list(TREE)
    regressor = rng.random((joints, vertices)) * (rng.random((joints, vertices)) < 0.2)
    regressor[:, 0] += 0.1
    weights = rng.random((vertices, joints)) ** 8
    return {
        "v_template": rng.normal(0, 0.5, (vertices, 3)),
        "f": rng.integers(0, vertices, (90, 3)).astype(np.uint32),
        "weights": weights / weights.sum(1, keepdims=True),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, *parents[1:]], range(joints)], np.uint32),
        "posedirs": rng.normal(0, 0.01, (vertices, 3, 9 * (joints - 1))),
        "shapedirs": rng.normal(0, 0.03, (vertices, 3, betas)),
    }


@pytest.fixture(scope="module")
def smpl() -> Body:
    return Body("random", **body_arrays(smpl_arrays()))


@pytest.fixture(scope="module")
def mannequin() -> Body:
    return load_body()


def random_poses(count: int, joints: int = 24, scale: float = 0.7, seed: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, scale, (count, joints, 3))


def test_vertices_and_joints_equal_those_of_smplx(smpl: Body) -> None:
    smplx = pytest.importorskip("smplx")
    from smplx.utils import Struct

    arrays = smpl_arrays()
    oracle = smplx.SMPL(
        model_path="",
        data_struct=Struct(**arrays),
        vertex_ids=dict.fromkeys(("nose", "reye", "leye", "rear", "lear"), 3),  # this mesh has no face
        use_feet_keypoints=False,
        use_hands=False,
        batch_size=6,
        dtype=torch.float64,
    )
    poses = random_poses(6)
    betas = np.random.default_rng(2).normal(0, 2, (6, 10))
    pelvis = arrays["J_regressor"][0] @ arrays["v_template"]
    turn, pose = torch.tensor(poses[:, 0]), torch.tensor(poses[:, 1:].reshape(6, 69))
    wanted = oracle(betas=torch.tensor(betas), global_orient=turn, body_pose=pose)
    vertices = wanted.vertices.detach().numpy() - pelvis
    joints = wanted.joints.detach().numpy()[:, :24] - pelvis
    assert smpl.posedirs is not None
    assert np.abs(smpl.posedirs).max() > 0.01  # the blend shapes are there to be tested
    np.testing.assert_allclose(smpl.posed_vertices(poses, betas), vertices, rtol=0, atol=1e-5)
    np.testing.assert_allclose(smpl.posed_joints(poses, betas), joints, rtol=0, atol=1e-5)
    # without betas, with fewer than the body has, and with one set for all
    plain = oracle(betas=torch.zeros(6, 10, dtype=torch.float64), global_orient=turn, body_pose=pose)
    vertices = plain.vertices.detach().numpy() - pelvis
    np.testing.assert_allclose(smpl.posed_vertices(poses), vertices, rtol=0, atol=1e-5)
    padded = np.concatenate([betas[:, :4], np.zeros((6, 6))], 1)
    np.testing.assert_allclose(smpl.posed_vertices(poses, betas[:, :4]), smpl.posed_vertices(poses, padded), atol=1e-12)
    np.testing.assert_allclose(
        smpl.posed_joints(poses, betas[0]), smpl.posed_joints(poses, np.repeat(betas[:1], 6, 0)), atol=1e-12
    )


def test_joint_names_are_those_of_smplx() -> None:
    names = pytest.importorskip("smplx.joint_names")
    theirs = [n.replace("_smplhf", "") for n in names.JOINT_NAMES[:55]]
    assert list(SMPLX_JOINTS) == theirs
    assert list(SMPLH_JOINTS) == names.SMPLH_JOINT_NAMES[:52]
    assert list(SMPL_JOINTS[:22]) == theirs[:22]


def test_rotation_by_hand_and_near_zero() -> None:
    quarter = kinematics.rotation_matrices(torch.tensor([0.0, 0.0, np.pi / 2], dtype=torch.float64))
    np.testing.assert_allclose(quarter.numpy(), [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15)
    for size in (0.0, 1e-300, 1e-12, 1e-8, 1e-4):
        rotation = kinematics.rotation_matrices(torch.tensor([size, -2 * size, 3 * size], dtype=torch.float64)).numpy()
        first_order = np.eye(3) + size * np.array([[0, -3, -2], [3, 0, -1], [2, 1, 0]])
        np.testing.assert_allclose(rotation, first_order, rtol=0, atol=15 * size**2)
    small = torch.zeros(2, 3, requires_grad=True)
    kinematics.rotation_matrices(small).sum().backward()
    assert small.grad is not None
    assert torch.isfinite(small.grad).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=3, max_size=3), st.sampled_from([torch.float32, torch.float64]))
def test_rotations_are_rotations_about_their_axis(axis_angle: list[float], dtype: torch.dtype) -> None:
    vector = torch.tensor(axis_angle, dtype=dtype)
    rotation = kinematics.rotation_matrices(vector)
    eps = 1e-5 if dtype is torch.float32 else 1e-13
    assert rotation.dtype == dtype
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=dtype), atol=eps, rtol=0)
    torch.testing.assert_close(rotation @ vector, vector, atol=20 * eps, rtol=0)
    assert abs(float(torch.linalg.det(rotation)) - 1) < 10 * eps


def test_chain_by_hand() -> None:
    """An elbow bent by 90 degrees about z, then the shoulder as well: positions worked out on paper."""
    joints = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], dtype=torch.float64)
    poses = torch.zeros(2, 3, 3, dtype=torch.float64)
    poses[0, 1, 2] = np.pi / 2
    poses[1, 0, 2] = poses[1, 1, 2] = np.pi / 2
    moved = kinematics.relative_transforms(poses, joints, [-1, 0, 1])
    hand = torch.tensor([3.0, 0, 0, 1], dtype=torch.float64)
    np.testing.assert_allclose((moved[0] @ hand)[:, :3], [[3, 0, 0], [1, 2, 0], [1, 2, 0]], atol=1e-15)
    np.testing.assert_allclose((moved[1] @ hand)[:, :3], [[0, 3, 0], [-2, 1, 0], [-2, 1, 0]], atol=1e-15)
    np.testing.assert_array_equal(moved[:, :, 3], np.broadcast_to([0, 0, 0, 1], (2, 3, 4)))


def test_zero_pose_is_the_template_and_rest_pose_the_canonical(smpl: Body, mannequin: Body) -> None:
    for body in (smpl, mannequin):
        zero = np.zeros((1, 24, 3))
        still = np.broadcast_to(np.eye(4), (1, 24, 4, 4))
        np.testing.assert_allclose(body.relative_transforms(zero), still, atol=1e-14)
        np.testing.assert_allclose(body.posed_vertices(zero)[0], body.vertices, atol=1e-6)  # float32 weights
        np.testing.assert_allclose(body.posed_joints(zero)[0], body.joints, atol=1e-14)
        rest = body.rest_pose
        assert rest[1].tolist() == [0, 0, np.pi / 6]
        assert rest[2].tolist() == [0, 0, -np.pi / 6]
        assert np.count_nonzero(rest) == 2
        bones = body.bone_transforms(rest[None])
        assert bones.shape == (1, 24, 3, 4)
        np.testing.assert_allclose(bones[0], np.broadcast_to(np.eye(4)[:3], (24, 3, 4)), atol=1e-14)
        np.testing.assert_array_equal(body.rest_vertices, body.posed_vertices(rest[None])[0])
        np.testing.assert_array_equal(body.rest_joints, body.posed_joints(rest[None])[0])


def test_global_orientation_moves_the_body_rigidly_about_the_pelvis(smpl: Body) -> None:
    poses = random_poses(3)
    still = poses.copy()
    still[:, 0] = 0
    turn = kinematics.rotation_matrices(torch.tensor(poses[:, 0])).numpy()
    vertices = smpl.posed_vertices(still)
    np.testing.assert_allclose(smpl.posed_vertices(poses), np.einsum("iab,ivb->iva", turn, vertices), atol=1e-12)
    np.testing.assert_allclose(smpl.posed_joints(poses)[:, 0], 0, atol=1e-14)


def test_bone_transforms_take_rest_to_pose(mannequin: Body) -> None:
    """Without pose blend shapes: a vertex of one joint alone is moved from rest to pose by that joint's B."""
    poses = random_poses(4, scale=0.4)
    bones = mannequin.bone_transforms(poses)
    alone = np.flatnonzero(mannequin.weights.max(1) == 1)
    joint = mannequin.dominant_joint[alone]
    assert len(set(joint.tolist())) > 15
    rest = np.concatenate([mannequin.rest_vertices[alone], np.ones((len(alone), 1))], 1)
    wanted = mannequin.posed_vertices(poses)[:, alone]
    np.testing.assert_allclose(np.einsum("ivab,vb->iva", bones[:, joint], rest), wanted, atol=1e-12)
    # joints too: B_j takes joint j from rest to pose
    homogeneous = np.concatenate([mannequin.rest_joints, np.ones((24, 1))], 1)
    np.testing.assert_allclose(np.einsum("ijab,jb->ija", bones, homogeneous), mannequin.posed_joints(poses), atol=1e-12)


def test_torch_and_numpy_and_batches_agree(smpl: Body) -> None:
    poses = random_poses(5).astype(np.float32)
    whole = smpl.bone_transforms(poses)
    np.testing.assert_array_equal(whole, smpl.bone_transforms(torch.tensor(poses, requires_grad=True)))
    np.testing.assert_allclose(whole[3:], smpl.bone_transforms(poses[3:]), atol=1e-14)
    assert smpl.bone_transforms(poses[:0]).shape == (0, 24, 3, 4)
    assert smpl.posed_vertices(poses[:0]).shape == (0, 60, 3)
    single = kinematics.relative_transforms(torch.tensor(poses), torch.tensor(smpl.joints), smpl.parents.tolist())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), smpl.relative_transforms(poses), atol=1e-5)


def test_mannequin(mannequin: Body) -> None:
    assert mannequin.joint_names == SMPL_JOINTS
    assert tuple(mannequin.parents.tolist()) == TREE
    assert mannequin.joints[0].tolist() == [0, 0, 0]
    about = info(mannequin)
    assert (about["vertices"], about["faces"], about["joints"]) == (13718, 27420, 24)
    assert about["height_m"] == pytest.approx(1.63, abs=0.005)
    assert (about["pose_blend_shapes"], about["shape_coefficients"]) == (False, 0)
    assert np.abs(mannequin.weights.sum(1) - 1).max() == 0
    at = dict(zip(SMPL_JOINTS, mannequin.joints, strict=True))
    assert at["left_hip"][0] > 0.05  # +x is the person's left
    assert at["head"][1] > at["pelvis"][1] > at["left_ankle"][1]  # +y is up
    assert at["left_foot"][2] > at["left_ankle"][2] + 0.1  # +z is forward
    for arm in ("elbow", "wrist", "hand"):  # the T-pose: arms level
        assert at[f"left_{arm}"][1] == pytest.approx(at["left_shoulder"][1], abs=1e-4)
    np.testing.assert_allclose(at["left_hand"] * [-1, 1, 1], at["right_hand"], atol=1e-4)
    for j in range(1, 24):  # a joint lies in or near the part of the body that it moves
        near = np.linalg.norm(mannequin.vertices[mannequin.dominant_joint == j] - mannequin.joints[j], axis=1)
        assert near.min() < 0.12, SMPL_JOINTS[j]
    spread = mannequin.rest_joints[7] - mannequin.rest_joints[8]
    assert spread[0] > (mannequin.joints[7] - mannequin.joints[8])[0] + 0.5  # the rest pose spreads the legs


def test_save_and_load(smpl: Body, mannequin: Body, tmp_path: Path) -> None:
    for body in (smpl, mannequin):
        path = body.save(tmp_path / "body.npz")
        again = load_body(path)
        assert again.hash == body.hash
        assert again.name == body.name
        np.testing.assert_array_equal(again.weights, body.weights)
        with np.load(path, allow_pickle=False) as archive:
            assert all(archive[key].dtype != object for key in archive)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["body.npz"]  # nothing temporary left
    with pytest.raises(InputError, match=r"FILE\.npz"):
        smpl.save(tmp_path / "body.pkl")
    with pytest.raises(InputError, match="folder that exists"):
        smpl.save(tmp_path / "none" / "body.npz")


def test_failed_save_leaves_the_old_file(smpl: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = smpl.save(tmp_path / "body.npz")
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        smpl.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_hash_sees_every_array_and_survives_a_new_process(smpl: Body) -> None:
    seen = {smpl.hash}
    for key in ("v_template", "weights", "posedirs", "shapedirs", "J_regressor", "f"):
        arrays = smpl_arrays()
        if key == "weights":
            arrays[key] = np.roll(arrays[key], 1, 1)
        elif key == "f":
            arrays[key][0] = arrays[key][0][::-1] + 1
        else:
            arrays[key][2] *= 1.01
        seen.add(Body("other", **body_arrays(arrays)).hash)
    assert len(seen) == 7
    assert Body("renamed", **body_arrays(smpl_arrays())).hash == smpl.hash
    script = "from chorus.body.model import load_body; print(load_body().hash)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == load_body().hash


def test_arrays_are_read_only_copies() -> None:
    arrays = body_arrays(smpl_arrays())
    body = Body("b", **arrays)
    for array in (body.vertices, body.weights, body.posedirs, body.rest_pose, body.rest_vertices, body.dominant_joint):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    digest, vertex = body.hash, body.vertices[0].copy()
    arrays["vertices"][0] += 1  # the caller's own array stays the caller's
    np.testing.assert_array_equal(body.vertices[0], vertex)
    assert body.hash == digest
    with pytest.raises(AttributeError):
        body.name = "other"  # type: ignore[misc]


def test_half_precision_weights_are_rescaled_once(tmp_path: Path) -> None:
    arrays = smpl_arrays()
    arrays["weights"] = arrays["weights"].astype(np.float16)
    body = Body("half", **body_arrays(arrays))
    assert np.abs(body.weights.astype(np.float64).sum(1) - 1).max() < 1e-6
    assert load_body(body.save(tmp_path / "half.npz")).hash == body.hash


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("vertices", lambda a: np.where(np.arange(3) == 1, np.nan, a), r"body\.vertices: expected finite"),
        ("vertices", lambda a: a[:, :2], r"body\.vertices: expected shape \(V, 3\), got \(60, 2\)"),
        ("faces", lambda a: a + 60, r"body\.faces: expected vertices 0\.\.59"),
        ("parents", lambda a: np.where(a == 2, 7, a), r"body\.parents: expected an earlier joint, got 7 for joint 5"),
        ("parents", lambda a: np.abs(a), r"body\.parents: expected -1 for joint 0"),
        ("weights", lambda a: a * 0.99, r"body\.weights: expected rows that sum to 1 within 0\.001, got 0\.99"),
        ("weights", lambda a: a - 0.1, r"body\.weights: expected no negative weights"),
        ("weights", lambda a: a[:, :23], r"body\.weights: expected shape \(60, 24\)"),
        ("weights", lambda a: a * np.inf, r"body\.weights: expected finite"),
        ("joint_names", lambda a: a[:23], r"body\.joint_names: expected 24 different names"),
        ("joint_names", lambda a: [*a[:23], "pelvis"], r"body\.joint_names: expected 24 different names"),
        ("posedirs", lambda a: a[..., 1:], r"body\.posedirs: expected shape \(60, 3, 207\)"),
        ("shapedirs", lambda a: None, r"expected shapedirs and joint_shapedirs together"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")
def test_bad_bodies_are_refused(key: str, change: Any, message: str) -> None:
    arrays = body_arrays(smpl_arrays())
    arrays[key] = change(arrays[key])
    with pytest.raises(InputError, match=message):
        Body("bad", **arrays)


def test_bad_poses_and_betas_are_refused(smpl: Body, mannequin: Body) -> None:
    with pytest.raises(InputError, match=r"poses: expected shape \(I, 24, 3\), got \(24, 3\)"):
        smpl.posed_vertices(np.zeros((24, 3)))
    with pytest.raises(InputError, match="poses: expected finite numbers, got nan"):
        smpl.bone_transforms(np.full((1, 24, 3), np.nan))
    with pytest.raises(InputError, match="betas: expected at most the body's 10 shape coefficients, got 11"):
        smpl.posed_vertices(np.zeros((1, 24, 3)), np.zeros(11))
    with pytest.raises(InputError, match="betas: expected at most the body's 0"):
        mannequin.posed_joints(np.zeros((1, 24, 3)), np.zeros((1, 10)))
    with pytest.raises(InputError, match=r"betas: expected shape \(2, b\), got \(3, 10\)"):
        smpl.relative_transforms(np.zeros((2, 24, 3)), np.zeros((3, 10)))
    arrays = body_arrays(smpl_arrays())
    arrays["joint_names"] = [f"joint{i}" for i in range(24)]
    with pytest.raises(InputError, match="left_hip and right_hip"):
        _ = Body("nameless", **arrays).rest_pose
