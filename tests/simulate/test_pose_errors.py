"""Errors of recorded poses: they do what they say, by the image's key alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.spatial.transform import Rotation

from chorus.body.model import Body, load_body
from chorus.cli import main
from chorus.errors import InputError
from chorus.images import ImageBatch
from chorus.simulate.images import WORLDS, simulate
from chorus.simulate.objects import joint_index
from chorus.simulate.pose_errors import ARMS, LEGS, MODELS, PoseError, chain_depths, mirrored_pose, with_pose_errors
from chorus.store import open_store

SMALL = replace(WORLDS["ball-held"], image_sizes=((24, 24),))


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def images(body: Body) -> ImageBatch:
    (batch,) = simulate(SMALL, 200, 7, body, batch_size=200)
    return batch.images


def off(true: ImageBatch, wrong: ImageBatch) -> np.ndarray:
    """Rotation vectors from the true to the recorded rotation of each joint, in the joint's frame, (I, J, 3)."""
    a, b = (Rotation.from_rotvec(i.poses.reshape(-1, 3).astype(np.float64)) for i in (true, wrong))
    return (a.inv() * b).as_rotvec().reshape(true.poses.shape)


@pytest.mark.parametrize("name", MODELS)
def test_errors_depend_on_key_and_seed_alone(name: str, images: ImageBatch, body: Body) -> None:
    error = PoseError(name, 0.3)
    wrong = with_pose_errors(images, [error], body)
    rows = np.random.default_rng(0).permutation(len(images))[:70]
    some = with_pose_errors(images[rows], [str(error)], body)
    np.testing.assert_array_equal(some.poses, wrong.poses[rows])
    np.testing.assert_array_equal(some.cameras.R, wrong.cameras.R[rows])
    other = with_pose_errors(images, [error], body, seed=1)
    assert (other.poses != wrong.poses).any() or (other.cameras.R != wrong.cameras.R).any()
    assert (wrong.poses != images.poses).any() or (wrong.cameras.R != images.cameras.R).any()
    assert not wrong.poses[:, 0].any()
    for a, b in ((wrong.masks.words, images.masks.words), (wrong.cameras.K, images.cameras.K), (wrong.keys, images.keys)):
        np.testing.assert_array_equal(a, b)
    if MODELS[name].make is None:  # a fit to landmarks without noise is a fit: near the truth, not it
        return
    np.testing.assert_array_equal(wrong.cameras.t, images.cameras.t)
    none = with_pose_errors(images, [PoseError(name, 0.0)], body)
    np.testing.assert_allclose(none.poses, images.poses, atol=1e-6)
    np.testing.assert_array_equal(none.cameras.R, images.cameras.R)


def test_axis_and_chain(images: ImageBatch, body: Body) -> None:
    each = off(images, with_pose_errors(images, ["axis:0.1"], body))
    np.testing.assert_allclose(each[:, 1:].std((0, 2)), 0.1, rtol=0.2)
    assert np.abs(np.corrcoef(each[:, 1:].reshape(len(each), -1).T) - np.eye(69)).max() < 0.4  # independent
    growing = off(images, with_pose_errors(images, ["chain:0.3"], body))
    depths = chain_depths(body)
    assert depths[0] == 0
    assert depths.max() == depths[joint_index(body, "left_hand")] == 1
    np.testing.assert_allclose(growing[:, 1:].std((0, 2)), 0.3 * depths[1:], rtol=0.2)


def test_fitted(body: Body) -> None:
    """Errors of a fit: few without noise, more with it, and in the image they hardly show."""
    (batch,) = simulate(WORLDS["ball-held"], 60, 7, body, batch_size=60)
    images = batch.images
    seen = images.cameras.project(body.posed_joints(images.poses.astype(np.float64)))[0]
    names = [n for n in body.joint_names if n.endswith(("knee", "elbow", "shoulder", "wrist", "ankle"))]
    limbs = [body.joint_names.index(name) for name in names]
    turned, moved = [], []
    for scale in (0, 1, 3):
        wrong = with_pose_errors(images, [f"fitted:{scale}"], body)
        turned.append(np.degrees(np.linalg.norm(off(images, wrong), axis=2))[:, limbs])
        found = wrong.cameras.project(body.posed_joints(wrong.poses.astype(np.float64)))[0]
        moved.append(np.linalg.norm(found - seen, axis=2)[:, limbs])
        angle = Rotation.from_matrix(images.cameras.R).inv() * Rotation.from_matrix(wrong.cameras.R)
        assert np.degrees(np.median(angle.magnitude())) < (12, 22, 40)[len(moved) - 1]
    height = images.cameras.K[:, 1, 1] * np.ptp(body.vertices[:, 1]) / images.cameras.t[:, 2]
    medians = [np.median(angles) for angles in turned]
    assert medians[0] < medians[1] < medians[2]
    assert 8 < medians[1] < 30
    shares = [np.median(distance / height[:, None]) for distance in moved]
    assert shares[0] < shares[1] < shares[2]
    assert shares[1] < 0.03
    # One error after the other: what is fitted to is what is recorded so far.
    both = with_pose_errors(images, ["swap:1", "fitted:1"], body)
    swapped = with_pose_errors(images, ["swap:1"], body)
    assert np.median(np.linalg.norm(off(swapped, both), axis=2)) < np.median(np.linalg.norm(off(images, both), axis=2))


def test_swap(images: ImageBatch, body: Body) -> None:
    wrong = with_pose_errors(images, ["swap:0.4"], body)
    kinds = {"none": 0, "arms": 0, "legs": 0, "both": 0}
    for before, after in zip(images.poses.astype(np.float64), wrong.poses, strict=True):
        for name, parts in (("none", ()), ("arms", ARMS), ("legs", LEGS), ("both", ARMS + LEGS)):
            kinds[name] += np.allclose(after, mirrored_pose(before, body, parts), atol=1e-6)
    assert sum(kinds.values()) == len(images)
    assert 1 - kinds["none"] / len(images) == pytest.approx(0.4, abs=0.1)
    assert min(kinds.values()) > 8
    left, right = (joint_index(body, f"{side}_shoulder") for side in ("left", "right"))
    arms = mirrored_pose(images.poses[0], body, ARMS)
    np.testing.assert_allclose(arms[left], images.poses[0, right] * [1, -1, -1])
    unmoved = [j for j, name in enumerate(body.joint_names) if name.partition("_")[2] not in ARMS]
    np.testing.assert_array_equal(arms[unmoved], images.poses[0, unmoved])


def test_flipped_forearms_look_the_same_and_lie_mirrored_in_depth(images: ImageBatch, body: Body) -> None:
    wrong = with_pose_errors(images, ["flip:1"], body)
    before, after = body.posed_joints(images.poses), body.posed_joints(wrong.poses)
    for side in ("left", "right"):
        elbow, wrist = (joint_index(body, f"{side}_{part}") for part in ("elbow", "wrist"))
        np.testing.assert_allclose(after[:, elbow], before[:, elbow], atol=1e-5)
        view = before[:, elbow] - images.cameras.centres
        view /= np.linalg.norm(view, axis=1)[:, None]
        arm, flipped = (joints[:, wrist] - joints[:, elbow] for joints in (before, after))
        depth = np.einsum("ic,ic->i", arm, view)
        np.testing.assert_allclose(np.einsum("ic,ic->i", flipped, view), -depth, atol=1e-4)
        np.testing.assert_allclose(flipped + depth[:, None] * view, arm - depth[:, None] * view, atol=1e-4)
    changed = [body.joint_names[j] for j in np.flatnonzero((np.abs(wrong.poses - images.poses) > 1e-6).any((0, 2)))]
    assert changed == ["left_elbow", "right_elbow"]
    part = with_pose_errors(images, ["flip:0.3"], body).poses
    for elbow in (joint_index(body, "left_elbow"), joint_index(body, "right_elbow")):
        assert (part[:, elbow] != images.poses[:, elbow]).any(1).mean() == pytest.approx(0.3, abs=0.1)


def test_a_forearm_along_the_view_turns_round(body: Body, images: ImageBatch) -> None:
    one = images[:1]
    pose = one.poses.copy()
    elbow, wrist, shoulder = (joint_index(body, f"left_{part}") for part in ("elbow", "wrist", "shoulder"))
    joints, turns = body.posed_joints(pose)[0], body.relative_transforms(pose)[0, :, :3, :3]
    view = joints[elbow] - one.cameras.centres[0]
    arm = turns[elbow].T @ (joints[wrist] - joints[elbow])
    turn = Rotation.align_vectors(view[None] / np.linalg.norm(view), arm[None] / np.linalg.norm(arm))[0].as_matrix()
    pose[0, elbow] = Rotation.from_matrix(turns[shoulder].T @ turn).as_rotvec()
    along = ImageBatch(one.masks, one.cameras, pose, one.keys, one.weights, one.prompts)
    after = body.posed_joints(with_pose_errors(along, ["flip:1"], body).poses)[0]
    before = body.posed_joints(pose)[0]
    np.testing.assert_allclose(after[wrist] - after[elbow], before[elbow] - before[wrist], atol=1e-3)


def test_tilt(images: ImageBatch, body: Body) -> None:
    wrong = with_pose_errors(images, ["tilt:0.2"], body)
    np.testing.assert_array_equal(wrong.poses, images.poses)
    turns = Rotation.from_matrix(images.cameras.R.swapaxes(1, 2) @ wrong.cameras.R).as_rotvec()
    np.testing.assert_allclose(turns[:, [0, 2]].std(0), 0.2, rtol=0.2)
    np.testing.assert_allclose(turns[:, 1], 0, atol=1e-6)
    pelvis = np.zeros((1, 3))
    np.testing.assert_allclose(wrong.cameras.project(pelvis)[0], images.cameras.project(pelvis)[0], rtol=1e-5)


def test_several_errors_and_worlds_with_errors(images: ImageBatch, body: Body) -> None:
    both = with_pose_errors(images, ["axis:0.1", "tilt:0.2"], body)
    np.testing.assert_array_equal(both.poses, with_pose_errors(images, ["axis:0.1"], body).poses)
    np.testing.assert_array_equal(both.cameras.R, with_pose_errors(images, ["tilt:0.2"], body).cameras.R)
    world = SMALL.with_pose_errors("swap:0.3", PoseError("axis", 0.05))
    assert world.name == "ball-held-swap0.3-axis0.05"
    (batch,) = simulate(world, 20, 7, body)
    (true,) = simulate(SMALL, 20, 7, body)
    np.testing.assert_array_equal(batch.images.masks.words, true.images.masks.words)  # drawn with the true poses
    same_keys = ImageBatch(
        true.images.masks, true.images.cameras, true.images.poses, batch.images.keys, prompts=true.images.prompts
    )
    np.testing.assert_array_equal(batch.images.poses, with_pose_errors(same_keys, ["swap:0.3", "axis:0.05"], body).poses)
    assert with_pose_errors(images, [], body) is images
    assert len(with_pose_errors(images[:0], ["axis:0.1"], body)) == 0


@pytest.mark.parametrize(
    "text", ["axis", "axis:", ":1", "axis:x", "axis:-1", "swap:1.5", "axis:nan", "shape:1", "tilt:inf", ""]
)
def test_wrong_errors(text: str) -> None:
    with pytest.raises(InputError, match="pose_error: expected"):
        PoseError.parse(text)
    result = CliRunner().invoke(main, ["simulate", "-o", "never.chorus", "--pose-error", text])
    assert result.exit_code == 2
    assert "expected" in result.output


def test_wrong_bodies_and_kinds(images: ImageBatch, body: Body) -> None:
    with pytest.raises(InputError, match="errors: expected"):
        with_pose_errors(images, [0.1], body)  # type: ignore[list-item]
    short = ImageBatch(images.masks, images.cameras, images.poses[:, :20], images.keys)
    with pytest.raises(InputError, match="poses: expected the body's 24 joints, got 20"):
        with_pose_errors(short, ["axis:0.1"], body)


def test_the_command_records_wrong_poses(tmp_path: Path) -> None:
    stores = []
    for name, more in (("true", []), ("wrong", ["--pose-error", "axis:0.1", "--pose-error", "tilt:0.1", "--shapes", "1"])):
        path = tmp_path / f"{name}.chorus"
        made = ["simulate", "-o", str(path), "--world", "box-in-both-hands", "--images", "4", *more]
        result = CliRunner().invoke(main, made)
        assert result.exit_code == 0, result.output
        stores.append(open_store(path))
    true, wrong = (store.batch(store.select(status=None)) for store in stores)
    assert sorted(wrong.keys)[0] == b"box-in-both-hands-axis0.1-tilt0.1-varied1-0-0000000"
    rotations = off(true[np.argsort(true.keys)], wrong[np.argsort(wrong.keys)])
    assert 0.05 < rotations[:, 1:].std() < 0.15
