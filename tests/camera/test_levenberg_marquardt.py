"""The second-order camera fit: derivatives, minima, against Adam, and what it says of images that fail."""

import math

import numpy as np
import pytest

from chorus.camera.cameras import Cameras
from chorus.camera.fit import FARTHEST, METHODS, NEAREST, fit_cameras
from chorus.camera.solvers.levenberg_marquardt import Placement, normal_equations
from chorus.errors import InputError
from tests.camera.test_fit import degrees_between, distances, people, rotations

LM = "levenberg-marquardt"


def noisy_people(n, seed, noise=2.0):
    joints, cameras, rng = people(n, seed)
    truth, _ = cameras.project(joints)
    return joints, cameras, truth + rng.normal(size=truth.shape) * noise, rng


def angle_between(a, b):
    return np.degrees(np.arccos(np.clip((np.einsum("iab,iab->i", a, b) - 1) / 2, -1, 1)))


def project(y, parameters, p0, q, known_focal):
    """Eq. 8's projection with x = (a, b, d, q) from a state (y, s = 150, p0, q), written without derivatives."""
    turned = y @ rotations(parameters[None, :3])[0].T
    s = 150.0 * math.exp(parameters[3])
    place = p0 + 150.0 * parameters[4:6]
    near = s / known_focal if known_focal else q + parameters[6]
    return (place + s * turned[:, :2]) / (1 + near * turned[:, 2:])


@pytest.mark.parametrize("known", [False, True])
def test_normal_equations_are_those_of_numerical_derivatives(known):
    rng = np.random.default_rng(3)
    y, goal, p0, q = rng.normal(size=(9, 3)) * 0.5, rng.normal(size=(9, 2)) * 100, rng.normal(size=2) * 50, 0.3
    focal = 150.0 / q if known else 0.0
    J = np.empty((18, 7))
    for k in range(7):
        step = np.zeros(7)
        step[k] = 1e-6
        J[:, k] = (project(y, step, p0, q, focal) - project(y, -step, p0, q, focal)).ravel() / 2e-6
    residual = (project(y, np.zeros(7), p0, q, focal) - goal).ravel()
    H, g = np.full((7, 7), np.nan), np.full(7, np.nan)
    normal_equations(y, goal, Placement(p0[0], p0[1], 150.0, q), known, H, g)
    np.testing.assert_allclose(np.tril(H), np.tril(J.T @ J), rtol=1e-6, atol=1e-2)
    np.testing.assert_allclose(g, J.T @ residual, rtol=1e-6, atol=1e-2)
    assert (J[:, 6] == 0).all() == known


@pytest.mark.parametrize("noise", [0.0, 2.0, 10.0])
@pytest.mark.parametrize("start", ["near", "far", "none"])
def test_loss_is_never_above_adams(start, noise):
    joints, cameras, targets, rng = noisy_people(96, 31, noise)
    off = {"near": 0.1, "far": 0.6}.get(start)
    R0 = None if off is None else rotations(rng.normal(size=(96, 3)) * off) @ cameras.R
    adam, second = (
        fit_cameras(joints, targets, None, cameras.image_size, R0=R0, stop_px=0.0, iterations=1200, method=m) for m in METHODS
    )
    assert (second.loss_px2 <= adam.loss_px2 * (1 + 1e-9) + 1e-9).all()
    assert second.iterations.max() < 100
    np.testing.assert_allclose(second.loss_px2, (distances(second, joints, targets) ** 2).sum(1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(adam.loss_px2, (distances(adam, joints, targets) ** 2).sum(1), rtol=1e-9, atol=1e-9)
    depth = second.cameras.project(joints)[1]
    assert (depth > 0).all()
    assert (second.cameras.K[:, 0, 0] > 0).all()
    assert ((second.cameras.t[:, 2] >= NEAREST * 0.999) & (second.cameras.t[:, 2] <= FARTHEST * 1.001)).all()


def test_it_is_a_minimum():
    joints, cameras, targets, rng = noisy_people(32, 5)
    fit = fit_cameras(joints, targets, None, cameras.image_size, R0=cameras.R, stop_px=0.0, method=LM)
    for _ in range(20):
        turn = rotations(rng.normal(size=(32, 3)) * 1e-3)
        K = fit.cameras.K.copy()
        K[:, 0, 0] = K[:, 1, 1] = K[:, 0, 0] * np.exp(rng.normal(size=32) * 1e-3)
        t = fit.cameras.t * (1 + rng.normal(size=(32, 3)) * 1e-3)
        t[:, 2] = np.minimum(t[:, 2], FARTHEST)  # the bounds are part of the problem
        other = Cameras(turn @ fit.cameras.R, t, K, fit.cameras.image_size)
        loss = ((other.project(joints)[0] - targets) ** 2).sum((1, 2))
        assert (loss >= fit.loss_px2 * (1 - 1e-9)).all()


def test_two_pixels_of_noise():
    joints, cameras, targets, rng = noisy_people(256, 11)
    R0 = rotations(rng.normal(size=(256, 3)) * 0.1) @ cameras.R
    focal = cameras.K[:, 0, 0]
    for R in (R0, None):
        known = fit_cameras(
            joints, targets, None, cameras.image_size, R0=R, focal0=focal, fit_focal=False, stop_px=0.0, method=LM
        )
        np.testing.assert_allclose(known.cameras.K[:, 0, 0], focal, rtol=1e-12)
        assert np.median(angle_between(known.cameras.R, cameras.R)) < 2
        assert np.median(np.abs(known.cameras.t[:, 2] / cameras.t[:, 2] - 1)) < 0.03
        free = fit_cameras(joints, targets, None, cameras.image_size, R0=R, stop_px=0.0, method=LM)
        assert np.median(angle_between(free.cameras.R, cameras.R)) < 2
        # Of a free focal length only the scale f / t_z is well determined, t_z by itself is not.
        scale = free.cameras.t[:, 2] / free.cameras.K[:, 0, 0] / (cameras.t[:, 2] / focal)
        assert np.median(np.abs(scale - 1)) < 0.03
        assert (free.loss_px2 <= known.loss_px2 * (1 + 1e-9)).all()


@pytest.mark.parametrize("method", METHODS)
def test_known_focal_length_is_kept(method):
    joints, cameras, _ = people(24, 8)
    truth, _ = cameras.project(joints)
    fit = fit_cameras(
        joints,
        truth,
        None,
        cameras.image_size,
        R0=cameras.R,
        focal0=700.0,
        fit_focal=False,
        stop_px=0.0,
        iterations=600,
        method=method,
    )
    np.testing.assert_allclose(fit.cameras.K[:, 0, 0], 700.0, rtol=1e-12)
    right = fit_cameras(
        joints,
        truth,
        None,
        cameras.image_size,
        R0=cameras.R,
        focal0=cameras.K[:, 0, 0],
        fit_focal=False,
        stop_px=0.05,
        method=method,
    )
    assert right.converged.all()
    np.testing.assert_allclose(right.cameras.t[:, 2], cameras.t[:, 2], rtol=5e-3)


def test_flat_people_have_two_minima_and_both_are_tried():
    joints, cameras, rng = people(64, 17)
    flat = joints.copy()
    flat[..., 2] = 0.02 * rng.normal(size=flat.shape[:2])  # all joints near a plane
    truth, _ = cameras.project(flat)
    exact = fit_cameras(flat, truth, None, cameras.image_size, R0=cameras.R, stop_px=0.0, method=LM)
    # Start from the plane tilted the other way, where following the loss downhill alone ends in the wrong minimum.
    mirror = np.diag([1.0, 1.0, -1.0])
    wrong = mirror @ cameras.R @ mirror
    adam = fit_cameras(flat, truth, None, cameras.image_size, R0=wrong, stop_px=0.0)
    fit = fit_cameras(flat, truth, None, cameras.image_size, R0=wrong, stop_px=0.0, method=LM)
    np.testing.assert_allclose(fit.residual_px, exact.residual_px, atol=1e-3)
    assert fit.residual_px.max() < 1e-3
    assert (adam.residual_px > 0.1).any()  # the case is hard


def test_starts_with_joints_behind_the_camera_are_stood_back_from():
    joints, cameras, _ = people(16, 6)
    truth, _ = cameras.project(joints)
    t0 = np.tile([0.0, 0.0, 0.31], (16, 1))
    fit = fit_cameras(joints, truth, None, cameras.image_size, R0=cameras.R, t0=t0, stop_px=0.05, method=LM)
    assert fit.converged.all()
    assert (fit.cameras.project(joints)[1] > 0).all()
    adam = fit_cameras(joints, truth, None, cameras.image_size, R0=cameras.R, t0=t0, stop_px=1e6)
    behind = (adam.cameras.project(joints)[1] <= 0).any(1)
    assert behind.any()
    assert [reason == "a joint is not before the camera" for reason in adam.reasons] == behind.tolist()
    assert (adam.converged == ~behind).all()


def test_weak_perspective_targets_end_at_the_farthest_distance():
    joints, cameras, _ = people(16, 9)
    scale = cameras.K[:, 0, 0] / cameras.t[:, 2]
    flat = (joints @ cameras.R.swapaxes(1, 2))[..., :2] * scale[:, None, None] + cameras.image_size[:, None, ::-1] / 2
    fit = fit_cameras(joints, flat, None, cameras.image_size, R0=cameras.R, stop_px=0.0, method=LM)
    assert fit.at_bound.all()
    np.testing.assert_allclose(fit.cameras.t[:, 2], FARTHEST)
    assert fit.residual_px.max() < 0.1
    assert degrees_between(fit.cameras.R[:, 2], cameras.R[:, 2]).max() < 0.1


def test_images_are_alone_and_stop_by_themselves():
    joints, cameras, targets, _ = noisy_people(70, 12, 0.4)
    fit = fit_cameras(joints, targets, None, cameras.image_size, stop_px=0.5, method=LM)
    assert 0 < fit.converged.sum() < 70
    assert (fit.residual_px < 0.5).tolist() == fit.converged.tolist() == [not reason for reason in fit.reasons]
    for row in (0, 33, 69):
        one = slice(row, row + 1)
        alone = fit_cameras(joints[one], targets[one], None, cameras.image_size[one], stop_px=0.5, method=LM)
        np.testing.assert_array_equal(alone.cameras.t[0], fit.cameras.t[row])
        assert alone.reasons[0] == fit.reasons[row]


def test_invalid_joints_are_ignored():
    joints, cameras, rng = people(16, 2)
    truth, _ = cameras.project(joints)
    valid = rng.random((16, 24)) < 0.6
    spoilt = np.where(valid[..., None], truth, rng.choice([np.nan, np.inf, 1e9, 0.0], truth.shape))
    fit = fit_cameras(joints, spoilt, valid, cameras.image_size, stop_px=0.01, method=LM)
    assert fit.converged.all()
    assert distances(fit, joints, truth)[valid].mean() < 0.02


@pytest.mark.parametrize("method", METHODS)
def test_failures_are_reported_and_do_not_stop_the_others(method):
    joints, cameras, targets, rng = noisy_people(6, 4, 0.0)
    joints, targets = joints.copy(), targets.copy()
    valid = np.ones((6, 24), bool)
    targets[1] += rng.normal(size=targets[1].shape) * 20
    targets[2, 5] = np.nan
    valid[3, 3:] = False
    targets[4] = 7.0
    arguments = {"R0": cameras.R, "method": method, "iterations": 400}
    fit = fit_cameras(joints, targets, valid, cameras.image_size, strict=False, **arguments)
    assert fit.converged.tolist() == [True, False, False, False, False, True]
    found = {failure.row: failure for failure in fit.failures()}
    assert sorted(found) == [1, 2, 3, 4]
    assert found[1].residual_px > 5
    assert ("a minimum" in found[1].reason) == (method == LM)
    assert ("iterations used up" in found[1].reason) == (method == "adam")
    for row, words in ((2, "targets: .*row 2, joint 5"), (3, "valid: .*got 3 in row 3"), (4, "targets: .*row 4")):
        assert math.isnan(found[row].residual_px)
        assert math.isnan(fit.loss_px2[row])
        with pytest.raises(InputError, match=words):
            raise InputError(found[row].reason)
    assert [failure.row for failure in fit.failures(100.0)] == [2, 3, 4]
    good = fit_cameras(
        joints[[0, 1, 5]],
        targets[[0, 1, 5]],
        None,
        cameras.image_size[[0, 1, 5]],
        R0=cameras.R[[0, 1, 5]],
        method=method,
        iterations=400,
    )
    np.testing.assert_array_equal(good.cameras.t, fit.cameras.t[[0, 1, 5]])
    with pytest.raises(InputError, match="row 2, joint 5"):
        fit_cameras(joints, targets, valid, cameras.image_size, **arguments)
    none = fit_cameras(joints[:0], targets[:0], None, cameras.image_size[:0], method=method)
    assert none.failures() == []


def test_no_iterations_return_the_start():
    joints, cameras, _ = people(4)
    truth, _ = cameras.project(joints)
    fit = fit_cameras(
        joints,
        truth + np.array([3, 4]),
        None,
        cameras.image_size,
        R0=cameras.R,
        t0=cameras.t,
        focal0=cameras.K[:, 0, 0],
        iterations=0,
        method=LM,
    )
    np.testing.assert_allclose(fit.cameras.t, cameras.t, rtol=1e-12)
    np.testing.assert_allclose(fit.residual_px, 5, rtol=1e-9)


def test_unknown_method():
    joints, cameras, _ = people(2)
    with pytest.raises(InputError, match=r"method: expected one of adam, levenberg-marquardt; got 'newton'"):
        fit_cameras(joints, cameras.project(joints)[0], None, cameras.image_size, method="newton")
