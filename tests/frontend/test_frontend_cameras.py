"""The camera step: from people's projected joints to cameras in their frames."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from chorus.body.model import Body, load_body
from chorus.camera.cameras import Cameras
from chorus.errors import InputError
from chorus.frontend import registry
from chorus.frontend.cameras import calibrate
from chorus.frontend.stages import Human, ImageRequest, Picture, Runtime
from tests.camera.test_fit import degrees_between, people
from tests.frontend.tiny_humans import shapely, tiny_hmr_checkpoint

BODY = load_body()


def seen(n: int = 12, seed: int = 0) -> tuple[list[Human], Cameras]:
    """n people as an estimator that is 3 degrees off would give them, and their cameras."""
    _, cameras, _ = people(n, seed)
    rng = np.random.default_rng(seed)
    poses = rng.normal(size=(n, 24, 3)) * 0.3
    poses[:, 0] = 0
    uv, _ = cameras.project(BODY.posed_joints(poses))
    off = Rotation.from_rotvec(rng.normal(size=(n, 3)) * 0.03)
    orientations = (off * Rotation.from_matrix(cameras.R)).as_rotvec()
    return [Human(*row) for row in zip(poses, orientations, uv, strict=True)], cameras


def residuals(humans: list[Human], cameras: Cameras, body: Body = BODY) -> np.ndarray:
    uv, z = cameras.project(body.posed_joints(np.stack([h.pose for h in humans])))
    assert (z > 0).all()
    return np.linalg.norm(uv - np.stack([h.joints for h in humans]), axis=-1).mean(1)


@pytest.mark.parametrize("method", ["adam", "levenberg-marquardt"])
def test_cameras_of_simulated_people_come_back(method):
    humans, truth = seen()
    found = calibrate(humans, truth.image_size, BODY, method=method, stop_px=0.02)
    assert found.reasons == ("",) * 12
    np.testing.assert_allclose(found.residual_px, residuals(humans, found.cameras), atol=1e-9)
    assert (found.residual_px < 0.02).all()
    assert degrees_between(found.cameras.centres, truth.centres).max() < 1
    np.testing.assert_array_equal(found.cameras.image_size, truth.image_size)
    assert found.cameras.R.dtype == found.residual_px.dtype == np.float64


def test_images_do_not_influence_each_other():
    humans, truth = seen()
    together = calibrate(humans, truth.image_size, BODY)
    for i in (0, 7):
        alone = calibrate(humans[i : i + 1], truth.image_size[i : i + 1], BODY)
        for name in ("R", "t", "K"):
            np.testing.assert_allclose(
                getattr(alone.cameras, name)[0], getattr(together.cameras, name)[i], rtol=1e-6, atol=1e-6
            )


def test_known_cameras_pass_through_and_failures_stay_in_their_rows():
    humans, truth = seen(6)
    known = truth[np.array([1])]
    humans[1] = dataclasses.replace(humans[1], joints=None, camera=known)
    humans[2].joints[3:] = np.nan  # three joints are too few
    humans[4].joints[:] = 50.0
    humans[5].joints[7:] = np.nan  # seven are enough
    found = calibrate(humans, truth.image_size, BODY)
    assert [bool(r) for r in found.reasons] == [False, False, True, False, True, False]
    assert found.reasons[2] == "valid: expected at least 4 joints in each image, got 3"
    assert found.reasons[4] == "targets: expected joints in different places, got all in one"
    assert np.isnan(found.residual_px).tolist() == [False, True, True, False, True, False]
    assert (found.residual_px[[0, 3, 5]] < 0.7).all()
    for name in ("R", "t", "K", "image_size"):
        np.testing.assert_array_equal(getattr(found.cameras, name)[1], getattr(known, name)[0])
    assert len(found.cameras) == 6


def test_large_residuals_are_for_filters_to_judge():
    humans, truth = seen(2)
    humans[0].joints[:] += np.random.default_rng(0).normal(size=(24, 2)) * 15
    found = calibrate(humans, truth.image_size, BODY)
    assert found.reasons == ("", "")
    assert found.residual_px[0] > 5
    assert found.residual_px[1] < 0.7


def test_all_known_and_none():
    humans, truth = seen(2)
    known = [dataclasses.replace(h, joints=None, camera=truth[np.array([i])]) for i, h in enumerate(humans)]
    found = calibrate(known, truth.image_size, BODY)
    np.testing.assert_array_equal(found.cameras.K, truth.K)
    assert found.reasons == ("", "")
    empty = calibrate([], np.zeros((0, 2), np.int32), BODY)
    assert len(empty.cameras) == 0
    assert empty.reasons == ()


def test_weak_perspective_targets_stop_adam_nearer_than_levenberg_marquardt():
    """What the choice of the default method rests on."""
    humans, truth = seen()
    for row, human in enumerate(humans):
        turned = Rotation.from_rotvec(human.orientation).apply(BODY.posed_joints(human.pose[None])[0])
        human.joints[:] = 120 * turned[:, :2] + truth.image_size[row, ::-1] / 2
    adam = calibrate(humans, truth.image_size, BODY)
    newton = calibrate(humans, truth.image_size, BODY, method="levenberg-marquardt")
    assert (adam.residual_px < 0.7).all()
    assert (newton.residual_px < 0.7).all()
    assert np.median(adam.cameras.t[:, 2]) < 40
    assert np.median(newton.cameras.t[:, 2]) > 100
    fixed = calibrate(humans, truth.image_size, BODY, method="levenberg-marquardt", focal="fixed")
    np.testing.assert_allclose(fixed.cameras.K[:, 0, 0], truth.image_size[:, 1] / 2 / np.tan(np.radians(23.2)), rtol=1e-12)


def test_the_focal_length_of_weak_perspective_people_is_fixed_and_the_distance_then_right():
    """What the default of ``focal`` rests on: their joints say nothing of perspective."""
    humans, truth = seen(24)
    flat = []
    for row, human in enumerate(humans):
        turned = truth.R[row] @ BODY.posed_joints(human.pose[None])[0].T
        scale = truth.K[row, 0, 0] / truth.t[row, 2]
        middle = truth.K[row, :2, 2] + scale * truth.t[row, :2]
        flat.append(dataclasses.replace(human, joints=scale * turned[:2].T + middle, crop_camera=np.array([1.0, 0.0, 0.0])))
    nearly = truth.K[:, 0, 0] / truth.image_size[:, 1] / 1.167  # true focal lengths, in those that are assumed
    found = {focal: calibrate(flat, truth.image_size, BODY, focal=focal) for focal in ("auto", "fitted", "fixed")}
    off = {name: fit.cameras.t[:, 2] / truth.t[:, 2] for name, fit in found.items()}
    assert np.abs(np.median(off["auto"] * nearly) - 1) < 0.05
    assert np.median(off["fitted"]) > 3
    np.testing.assert_array_equal(found["auto"].cameras.K, found["fixed"].cameras.K)
    # Others, of whom no weak-perspective camera is known, are fitted as in the paper; each by itself.
    mixed = calibrate([flat[0], humans[1]], truth.image_size[:2], BODY)
    np.testing.assert_allclose(mixed.cameras.K[0], found["auto"].cameras.K[0])
    np.testing.assert_allclose(mixed.cameras.K[1], calibrate(humans[1:2], truth.image_size[1:2], BODY).cameras.K[0])
    assert mixed.cameras.K[1, 0, 0] != mixed.cameras.K[0, 0, 0]
    with pytest.raises(InputError, match="focal: expected one of auto, fitted, fixed; got 'free'"):
        calibrate(humans, truth.image_size, BODY, focal="free")


def test_the_papers_start_needs_the_regressors_camera(tmp_path):
    humans, truth = seen(3)
    with pytest.raises(InputError, match=r"start: expected .fitted., because 3 of 3"):
        calibrate(humans, truth.image_size, BODY, start="paper")
    stage = registry.make("humans", f"hmr={tiny_hmr_checkpoint(tmp_path / 'x.pt')}", Runtime(body=BODY))
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    pictures = [Picture(ImageRequest(key, "x"), pixels) for key in "ab"]
    found = stage.humans(pictures, np.array([[50, 10, 400, 500], [100, 100, 300, 420]], np.float32))
    for start in ("fitted", "paper"):
        fit = calibrate(found, [[512, 512]] * 2, BODY, start=start, focal="fitted")
        assert fit.reasons == ("", "")
        assert (fit.residual_px < 0.7).all()
        np.testing.assert_allclose(fit.residual_px, residuals(found, fit.cameras), atol=1e-9)
        assert (fit.cameras.centres[:, 2] > 1).all()  # they face the camera


def test_shape_is_fitted_when_asked():
    body = shapely()
    humans, truth = seen(4)
    betas = np.array([1.5, 2.0, 9.0])  # more than the body has
    for human, camera in zip(humans, (truth[np.array([i])] for i in range(4)), strict=True):
        joints = body.posed_joints(human.pose[None], betas[:2])
        human.joints[:] = camera.project(joints - joints[:, :1])[0][0]
    humans = [dataclasses.replace(h, betas=betas) for h in humans[:3]] + [dataclasses.replace(humans[3], betas=np.zeros(0))]
    found = calibrate(humans, truth.image_size, body, fit_betas=True, method="levenberg-marquardt", stop_px=0.01)
    assert (found.residual_px[:3] < 0.01).all()
    np.testing.assert_allclose(found.cameras.t[:3], truth.t[:3], rtol=0.02, atol=0.01)
    template = calibrate(humans, truth.image_size, body, method="levenberg-marquardt", stop_px=0.01)
    # A person a seventh larger, all over, looks like one who is nearer by as much.
    np.testing.assert_allclose(template.cameras.t[:3, 2], truth.t[:3, 2] / 1.15, rtol=0.02)
    with pytest.raises(InputError, match="fit_betas"):
        calibrate(humans, truth.image_size, BODY, fit_betas=True)


def test_bad_arguments_are_named():
    humans, truth = seen(2)
    size = truth.image_size
    for changed, message in (
        ({"method": "x"}, "method: expected one of adam"),
        ({"start": "x"}, "start: expected one of fitted"),
        ({"iterations": -1}, "iterations"),
        ({"stop_px": np.nan}, "stop_px"),
    ):
        with pytest.raises(InputError, match=message):
            calibrate(humans, size, BODY, **changed)
    with pytest.raises(InputError, match="sizes"):
        calibrate(humans, size[:1], BODY)
    short = Human(np.zeros((23, 3)), np.zeros(3), np.zeros((23, 2)))
    with pytest.raises(InputError, match=r"humans\[1\].pose: expected the body's 24 joints, got 23"):
        calibrate([humans[0], short], size, BODY)
    wrong = dataclasses.replace(humans[0], joints=None, camera=truth[np.array([1])])
    with pytest.raises(InputError, match=r"humans\[0\].camera: expected one of height, width"):
        calibrate([wrong], size[:1], BODY)
