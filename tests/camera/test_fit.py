"""The camera fit (Eq. 8) against cameras that are known."""

import math

import numpy as np
import pytest
import torch

from chorus.body.model import load_body
from chorus.camera.cameras import Cameras
from chorus.camera.fit import (
    BODY_25_JOINTS,
    FOCAL_IN_WIDTHS,
    MIN_JOINTS,
    fit_cameras,
    keypoint_targets,
    weak_perspective_start,
)
from chorus.camera.solvers.adam import loss_and_gradient
from chorus.errors import InputError
from chorus.kernels.kinematics import rotation_matrices

BODY = load_body()


def rotations(axis_angle):
    return rotation_matrices(torch.as_tensor(np.asarray(axis_angle, np.float64))).numpy()


def people(n, seed=0):
    """n posed people and the cameras they are seen by: joints (n, 24, 3), Cameras, and the generator."""
    rng = np.random.default_rng(seed)
    poses = rng.normal(size=(n, 24, 3)) * 0.3
    poses[:, 0] = 0
    azimuth, elevation = rng.uniform(-np.pi, np.pi, n), rng.uniform(-0.3, 0.6, n)
    level = np.cos(elevation)
    forward = -np.stack([level * np.cos(azimuth), np.sin(elevation), level * np.sin(azimuth)], 1)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    R = np.stack([right, np.cross(forward, right), forward], 1)
    size = rng.integers(300, 700, (n, 2))
    focal = rng.uniform(0.8, 2.0, n) * size[:, 1]
    z = rng.uniform(2, 8, n) * focal / size[:, 1] / 1.167
    K = np.zeros((n, 3, 3))
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, :2, 2] = size[:, ::-1] / 2
    K[:, 2, 2] = 1
    t = np.stack([rng.uniform(-0.15, 0.15, n) * z, rng.uniform(-0.1, 0.1, n) * z, z], 1)
    return BODY.posed_joints(poses), Cameras(R, t, K, size), rng


def degrees_between(a, b):
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def distances(fit, joints, truth):
    return np.linalg.norm(fit.cameras.project(joints)[0] - truth, axis=-1)


@pytest.mark.parametrize("start", ["near", "far", "none"])
def test_exact_targets_give_the_camera_back(start):
    joints, cameras, rng = people(64)
    truth, _ = cameras.project(joints)
    off = {"near": 0.1, "far": 0.4}.get(start)
    R0 = None if off is None else rotations(rng.normal(size=(64, 3)) * off) @ cameras.R
    fit = fit_cameras(joints, truth, None, cameras.image_size, R0=R0, stop_px=0.05)
    assert fit.converged.all()
    assert distances(fit, joints, truth).mean(1).max() < 0.1
    assert degrees_between(fit.cameras.centres, cameras.centres).max() < 1.0
    np.testing.assert_allclose(fit.residual_px, distances(fit, joints, truth).mean(1), atol=1e-9)
    np.testing.assert_array_equal(fit.cameras.K[:, 0, 0], fit.cameras.K[:, 1, 1])
    np.testing.assert_array_equal(fit.cameras.K[:, :2, 2], cameras.image_size[:, ::-1] / 2)


def test_noise_of_two_pixels():
    joints, cameras, rng = people(64)
    truth, _ = cameras.project(joints)
    noisy = truth + rng.normal(size=truth.shape) * 2
    R0 = rotations(rng.normal(size=(64, 3)) * 0.1) @ cameras.R
    fit = fit_cameras(joints, noisy, None, cameras.image_size, R0=R0)
    # It is at the minimum: its loss is less than the true camera's, whose projections it is nearer to than the targets are.
    assert ((distances(fit, joints, noisy) ** 2).sum(1) < ((noisy - truth) ** 2).sum((1, 2))).all()
    assert distances(fit, joints, truth).mean() < 1.1
    assert np.median(degrees_between(fit.cameras.centres, cameras.centres)) < 2
    assert (fit.iterations == 2400).all()
    assert not fit.converged.any()
    # Without a start the same optimum is found.
    blind = fit_cameras(joints, noisy, None, cameras.image_size)
    np.testing.assert_allclose(blind.residual_px, fit.residual_px, atol=1e-3)
    assert degrees_between(blind.cameras.centres, fit.cameras.centres).max() < 0.5


def test_any_orientation_is_found_without_a_start():
    joints, cameras, rng = people(32, 4)
    turned = Cameras(rotations(rng.normal(size=(32, 3)) * 2), cameras.t, cameras.K, cameras.image_size)
    truth, _ = turned.project(joints)
    fit = fit_cameras(joints, truth, None, turned.image_size, stop_px=0.2)
    assert fit.converged.all()
    assert np.median(degrees_between(fit.cameras.centres, turned.centres)) < 1


def test_images_stop_by_themselves_and_do_not_influence_each_other():
    joints, cameras, rng = people(40, 1)
    truth, _ = cameras.project(joints)
    truth[7] += rng.normal(size=truth[7].shape) * 3
    R0 = rotations(rng.normal(size=(40, 3)) * 0.2) @ cameras.R
    fit = fit_cameras(joints, truth, None, cameras.image_size, R0=R0, stop_px=0.3, iterations=700)
    assert len(set(fit.iterations.tolist())) > 5
    assert fit.iterations[7] == 700
    assert not fit.converged[7]
    assert fit.residual_px[np.arange(40) != 7].max() < 0.3
    for row in (0, 7, 33):
        one = slice(row, row + 1)
        alone = fit_cameras(joints[one], truth[one], None, cameras.image_size[one], R0=R0[one], stop_px=0.3, iterations=700)
        assert alone.iterations[0] == fit.iterations[row]
        np.testing.assert_array_equal(alone.cameras.t[0], fit.cameras.t[row])


def test_invalid_joints_are_ignored():
    joints, cameras, rng = people(16, 2)
    truth, _ = cameras.project(joints)
    valid = rng.random((16, 24)) < 0.6
    spoilt = np.where(valid[..., None], truth, rng.choice([np.nan, np.inf, 1e9, 0.0], truth.shape))
    fit = fit_cameras(joints, spoilt, valid, cameras.image_size, R0=cameras.R, stop_px=0.05)
    some = np.where(valid[..., None], truth, 0.0)
    same = fit_cameras(joints, some, valid, cameras.image_size, R0=cameras.R, stop_px=0.05)
    np.testing.assert_array_equal(fit.cameras.t, same.cameras.t)
    assert fit.converged.all()
    assert distances(fit, joints, truth)[valid].mean() < 0.1


def test_joints_outside_the_image_count():
    joints, cameras, _ = people(8, 3)
    t = cameras.t + [1.5, 0, 0] * cameras.t[:, 2:] / 2
    aside = Cameras(cameras.R, t, cameras.K, cameras.image_size)
    truth, _ = aside.project(joints)
    assert (truth[..., 0] > cameras.image_size[:, None, 1]).all(1).any()
    fit = fit_cameras(joints, truth, None, cameras.image_size, R0=cameras.R, stop_px=0.1)
    assert fit.converged.all()
    assert degrees_between(fit.cameras.centres, aside.centres).max() < 2


def test_no_iterations_return_the_start():
    joints, cameras, _ = people(4)
    truth, _ = cameras.project(joints)
    fit = fit_cameras(
        joints, truth, None, cameras.image_size, R0=cameras.R, t0=cameras.t, focal0=cameras.K[:, 0, 0], iterations=0
    )
    np.testing.assert_allclose(fit.cameras.t, cameras.t, rtol=1e-12)
    np.testing.assert_allclose(fit.cameras.K, cameras.K, rtol=1e-12)
    np.testing.assert_allclose(fit.residual_px, 0, atol=1e-9)
    truth += np.array([3, 4])
    shifted = fit_cameras(
        joints, truth, None, cameras.image_size, R0=cameras.R, t0=cameras.t, focal0=cameras.K[:, 0, 0], iterations=0
    )
    np.testing.assert_allclose(shifted.residual_px, 5, rtol=1e-9)
    assert not shifted.converged.any()
    assert len(fit_cameras(np.zeros((0, 24, 3)), np.zeros((0, 24, 2)), None, np.zeros((0, 2))).cameras) == 0


def test_gradient_is_the_derivative():
    rng = np.random.default_rng(0)
    y, goal, p0 = rng.normal(size=(9, 3)), rng.normal(size=(9, 2)) * 100, rng.normal(size=2) * 50
    for size in (0.0, 1e-6, 0.3, 2.0):
        x = np.append(rng.normal(size=6) * 0.3, 0.2)
        x[:3] *= size
        gradient, unused = np.empty(7), np.empty(7)
        loss_and_gradient(y, goal, 150.0, p0, x, gradient)
        for k in range(7):
            step = np.zeros(7)
            step[k] = 1e-6
            up, _ = loss_and_gradient(y, goal, 150.0, p0, x + step, unused)
            down, _ = loss_and_gradient(y, goal, 150.0, p0, x - step, unused)
            assert gradient[k] == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=0.5)


def test_weak_perspective_start_and_targets():
    n = 32
    joints, _, rng = people(n, 5)
    size = np.tile([400, 400], (n, 1))  # the crop is the image
    scale, tx, ty = rng.uniform(0.7, 1.0, n), rng.uniform(-0.1, 0.1, n), rng.uniform(-0.1, 0.1, n)
    orient = rng.normal(size=(n, 3))
    R0, t0, focal0 = weak_perspective_start(scale, tx, ty, orient, size)
    np.testing.assert_allclose(R0, rotations(orient))
    assert math.isclose(FOCAL_IN_WIDTHS, 1.167, abs_tol=5e-4)
    np.testing.assert_allclose(focal0, FOCAL_IN_WIDTHS * 400)
    np.testing.assert_allclose(t0, np.stack([tx, ty, 2 * FOCAL_IN_WIDTHS / scale], 1))
    flat = np.einsum("iab,ijb->ija", R0, joints)[..., :2]
    targets = 200 + 200 * scale[:, None, None] * (flat + np.stack([tx, ty], 1)[:, None])
    paper = fit_cameras(joints, targets, None, size, R0=R0, t0=t0, focal0=focal0)
    assert paper.converged.all()
    assert paper.residual_px.max() < 0.7
    ours = fit_cameras(joints, targets, None, size, R0=R0)
    assert ours.converged.all()
    for fit in (paper, ours):
        assert np.median(degrees_between(fit.cameras.R[:, 2], R0[:, 2])) < 5
    on = fit_cameras(joints, targets, None, size, R0=R0, stop_px=0.0)  # an orthographic camera is far away
    assert on.residual_px.max() < 0.05
    assert on.cameras.t[:, 2].min() > 100
    assert degrees_between(on.cameras.R[:, 2], R0[:, 2]).max() < 1


def test_keypoints():
    points = np.zeros((2, 25, 3))
    points[0, :, :2] = np.arange(25)[:, None] * [1, 2]
    points[0, :, 2] = 0.5
    points[0, 4, 2] = 0.2
    targets, valid = keypoint_targets(points, BODY.joint_names)
    names = list(BODY.joint_names)
    assert valid.sum() == len(BODY_25_JOINTS) - 1
    assert not valid[1].any()
    assert not valid[0, names.index("right_wrist")]
    for keypoint, name in ((5, "left_shoulder"), (9, "right_hip"), (14, "left_ankle"), (8, "pelvis")):
        np.testing.assert_array_equal(targets[0, names.index(name)], [keypoint, 2 * keypoint])
    assert np.isnan(targets[~valid]).all()
    assert keypoint_targets(points, BODY.joint_names, min_confidence=0)[1][1].sum() == 0
    with pytest.raises(InputError, match="keypoints"):
        keypoint_targets(points[:, :18], BODY.joint_names)
    with pytest.raises(InputError, match="min_confidence"):
        keypoint_targets(points, BODY.joint_names, min_confidence=2)


def spoil(name, value):
    def change(arguments):
        array = np.array(arguments[name])
        array[(1,) + (0,) * (array.ndim - 1)] = value
        arguments[name] = array

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoil("joints", np.nan), "joints.*row 1, joint 0"),
        (spoil("targets", np.inf), "targets.*row 1, joint 0"),
        (spoil("targets", 1e12), "targets.*up to 1e"),
        (spoil("image_size", 0), "image_size.*row 1"),
        (spoil("R0", 7), "R0.*row 1"),
        (spoil("t0", np.nan), "t0"),
        (lambda a: a.update(t0=-a["t0"]), "t0.*t_z > 0"),
        (lambda a: a.update(R0=None), "t0.*None"),
        (lambda a: a.update(focal0=-1.0), "focal0.*row 0"),
        (lambda a: a.update(focal0=np.ones(7)), "focal0"),
        (lambda a: a.update(valid=np.arange(24) < [[MIN_JOINTS], [MIN_JOINTS - 1], [24]]), "valid.*4.*3 in row 1"),
        (lambda a: a.update(targets=np.full((3, 24, 2), 5.0)), "targets.*one"),
        (lambda a: a.update(joints=np.zeros((3, 24, 3))), "joints.*one"),
        (lambda a: a.update(targets=np.zeros((3, 23, 2))), "targets"),
        (lambda a: a.update(image_size=None), "image_size"),
        (lambda a: a.update(iterations=-1), "iterations"),
        (lambda a: a.update(iterations=1.5), "iterations"),
        (lambda a: a.update(stop_px=math.nan), "stop_px"),
        (lambda a: a.update(learning_rate=math.inf), "learning_rate"),
    ],
)
def test_bad_input(change, words):
    joints, cameras, _ = people(3)
    arguments = {
        "joints": joints,
        "targets": cameras.project(joints)[0],
        "valid": None,
        "image_size": cameras.image_size,
        "R0": cameras.R,
        "t0": cameras.t,
        "iterations": 3,
    }
    fit_cameras(**arguments)
    change(arguments)
    with pytest.raises(InputError, match=words):
        fit_cameras(**arguments)


def test_bad_weak_perspective():
    with pytest.raises(InputError, match=r"scale.*row 1"):
        weak_perspective_start([1, -1], [0, 0], [0, 0], np.zeros((2, 3)), [[9, 9], [9, 9]])
