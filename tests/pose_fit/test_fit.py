"""Poses fitted to landmarks of simulated people: derivatives, what is found, what is said to be uncertain, bad input."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bench.harness.landmarks import IMAGE, joint_errors, people
from chorus.body.model import Body, load_body
from chorus.errors import InputError
from chorus.keypoints import BLAZEPOSE_33, COCO_KEYPOINTS, COCO_OF_BLAZEPOSE
from chorus.pose_fit import LAYOUTS, FitOptions, fit_poses
from chorus.pose_fit.layouts import BONES, LIMBS, body_points
from chorus.pose_fit.priors import MOVING, prior_of
from chorus.pose_fit.problem import Skeleton, State, Targets, normal_equations, residuals, stepped
from tests.frontend.tiny_humans import shapely

BODY = load_body()
LIMB_JOINTS = [
    BODY.joint_names.index(f"{side}_{name}") for side in ("left", "right") for name in ("hip", "knee", "shoulder", "elbow")
]


def other_side(name: str) -> str:
    return re.sub("left|right", lambda side: {"left": "right", "right": "left"}[side[0]], name)


def sizes(count: int) -> np.ndarray:
    return np.full((count, 2), IMAGE)


def test_the_gradient_is_that_of_the_cost() -> None:
    landmarks, bones = tuple(body_points(BODY)), BONES
    skeleton, rng, n = Skeleton.of(BODY, landmarks, bones), np.random.default_rng(3), 2
    # Angles beyond the limits, points on both sides of Huber's bound, and a joint at zero: every branch.
    angles = rng.normal(0, 0.8, (n, len(skeleton.moving), 3))
    angles[0, 4] = 0
    state = State(Rotation.random(n, random_state=1).as_matrix(), np.array([[0.1, 0.2, 3.0]] * n), angles)
    count = len(landmarks)
    unit = rng.normal(0, 1, (n, len(bones), 3))
    targets = Targets(
        rng.normal(0, 60, (n, count, 2)),
        rng.uniform(0, 0.05, (n, count)),
        unit / np.linalg.norm(unit, axis=2, keepdims=True),
        rng.uniform(0, 3, (n, len(bones))),
        np.array([400.0, 700.0]),
    )
    cost, g, H = normal_equations(skeleton, state, targets)

    def at(step: np.ndarray) -> np.ndarray:
        moved = stepped(state, step)
        return residuals(skeleton, moved, targets, skeleton.posed(moved)[2]).cost()

    np.testing.assert_allclose(cost, at(np.zeros_like(g)))
    differences = np.empty_like(g)
    for k in range(g.shape[1]):
        step = np.zeros_like(g)
        step[:, k] = 1e-6
        differences[:, k] = (at(step) - at(-step)) / 2e-6
    np.testing.assert_allclose(g, differences, rtol=1e-5, atol=1e-5 * np.abs(g).max())
    assert (np.linalg.eigvalsh(H) > -1e-6).all()


def test_the_skeleton_is_the_bodys_own_kinematics() -> None:
    skeleton = Skeleton.of(BODY, LAYOUTS["coco-17"], ())
    angles = np.random.default_rng(0).normal(0, 0.4, (3, len(MOVING), 3))
    state = State(np.tile(np.eye(3), (3, 1, 1)), np.zeros((3, 3)), angles)
    np.testing.assert_allclose(skeleton.posed(state)[1], BODY.posed_joints(skeleton.poses(angles)), atol=1e-12)


def test_exact_landmarks_give_the_pose_as_far_as_they_tell_it() -> None:
    made = people(BODY, 24)
    fit = fit_poses(BODY, made.landmarks, sizes(24), layout="blazepose-33", world=made.world)
    assert fit.converged.all()
    assert np.median(fit.residual_px) < 2
    assert np.median(joint_errors(fit.poses, made.poses)[:, LIMB_JOINTS]) < 16  # twists and the spine are guessed
    true = BODY.posed_joints(made.poses) @ made.cameras.R.swapaxes(1, 2)
    found = BODY.posed_joints(fit.poses) @ fit.cameras.R.swapaxes(1, 2)
    assert np.median(np.linalg.norm(found - true, axis=2)) < 0.03
    np.testing.assert_allclose(fit.joints_px, fit.cameras.project(BODY.posed_joints(fit.poses))[0], atol=1e-6)
    np.testing.assert_allclose(Rotation.from_rotvec(fit.orientation).as_matrix(), fit.cameras.R, atol=1e-12)
    assert not fit.poses[:, 0].any()
    assert fit.seen[:, 1:22].all()
    assert fit.limbs_seen.all()
    np.testing.assert_allclose(fit.cameras.K, made.cameras.K)


def test_where_landmarks_are_sure_the_body_is_where_they_say() -> None:
    made = people(BODY, 8)
    sure = FitOptions(point_spread=1e-4, bone_spread=2e-3, iterations=200)
    fit = fit_poses(BODY, made.landmarks, sizes(8), layout="blazepose-33", world=made.world, options=sure)
    assert (fit.residual_px < 0.1).all()
    used = tuple(name for name in BLAZEPOSE_33 if name in body_points(BODY))
    skeleton = Skeleton.of(BODY, used, ())

    def placed(R: np.ndarray, poses: np.ndarray) -> np.ndarray:
        points = skeleton.posed(State(R, np.zeros((8, 3)), poses[:, skeleton.moving]))[2]
        return np.asarray(points - points.mean(1, keepdims=True))

    off = placed(fit.cameras.R, fit.poses) - placed(made.cameras.R, made.poses)
    assert (np.linalg.norm(off, axis=2) < 0.03).all()  # metres; twists that no landmark tells are the prior's


def test_noisy_landmarks_and_what_is_said_of_them() -> None:
    made = people(BODY, 48, pixels=4, metres=0.03)
    fit = fit_poses(BODY, made.landmarks, sizes(48), layout="blazepose-33", world=made.world)
    off = np.median(joint_errors(fit.poses, made.poses)[:, LIMB_JOINTS])
    said = np.degrees(np.median(fit.joint_std[:, LIMB_JOINTS]))
    assert off < 22
    assert 0.5 < said / off < 1.6
    sure = fit_poses(
        BODY, made.landmarks, sizes(48), layout="blazepose-33", world=made.world, options=FitOptions(bone_spread=0.05)
    )
    assert np.nanmedian(sure.joint_std) < np.nanmedian(fit.joint_std)


def test_poses_of_a_batch_do_not_influence_each_other() -> None:
    made = people(BODY, 40, pixels=3, metres=0.02)
    fit = fit_poses(BODY, made.landmarks, sizes(40), layout="blazepose-33", world=made.world)
    for i in (0, 17, 39):
        one = fit_poses(BODY, made.landmarks[i : i + 1], sizes(1), layout="blazepose-33", world=made.world[i : i + 1])
        np.testing.assert_allclose(one.poses[0], fit.poses[i], atol=1e-5)
        np.testing.assert_allclose(one.joint_std[0], fit.joint_std[i], atol=1e-5)


@pytest.mark.parametrize("layout", ["coco-17", "body-25", "halpe-26"])
def test_keypoints_of_the_image_alone(layout: str) -> None:
    made = people(BODY, 16, layout, pixels=2)
    fit = fit_poses(BODY, made.landmarks, sizes(16), layout=layout)
    assert np.median(fit.residual_px) < 4
    turned = (Rotation.from_matrix(made.cameras.R).inv() * Rotation.from_rotvec(fit.orientation)).magnitude()
    assert np.degrees(np.median(turned)) < 30
    assert (np.degrees(turned) < 90).mean() > 0.8  # front and back are told apart
    true, found = BODY.posed_joints(made.poses), BODY.posed_joints(fit.poses)
    assert np.median(np.linalg.norm(true - found, axis=2)) < 0.12


def test_limbs_out_of_the_frame_are_posed_by_the_prior_and_marked() -> None:
    made = people(BODY, 8)
    landmarks, world = made.landmarks.copy(), made.world.copy()
    legs = [i for i, name in enumerate(BLAZEPOSE_33) if re.search("knee|ankle|heel|toe", name)]
    landmarks[:, legs, 1] += IMAGE  # below the image; sure all the same
    world[:, legs] = np.random.default_rng(0).normal(0, 1, (8, len(legs), 3))
    fit = fit_poses(BODY, landmarks, sizes(8), layout="blazepose-33", world=world)
    assert list(LIMBS) == ["left_arm", "left_leg", "right_arm", "right_leg"]
    assert fit.limbs_seen.tolist() == [[True, False, True, False]] * 8
    names = list(BODY.joint_names)
    for side in ("left", "right"):
        knee = names.index(f"{side}_knee")
        assert not fit.seen[:, knee].any()
        assert not fit.seen[:, names.index(f"{side}_hip")].any()
        row = MOVING.index(f"{side}_knee")
        np.testing.assert_allclose(fit.poses[:, knee], np.tile(prior_of(MOVING).mean[row], (8, 1)), atol=1e-3)
        spread = np.linalg.norm(prior_of(MOVING).spread[row])
        assert (fit.joint_std[:, knee] > 0.7 * spread).all()
    unsure = made.landmarks.copy()
    unsure[:, legs, 2] = 0.2
    faint = fit_poses(BODY, unsure, sizes(8), layout="blazepose-33", world=made.world)
    np.testing.assert_array_equal(faint.limbs_seen, fit.limbs_seen)


def test_an_arm_that_is_not_seen_is_unsure_in_that_image_alone() -> None:
    made = people(BODY, 4)
    landmarks = made.landmarks.copy()
    landmarks[0, [BLAZEPOSE_33.index(f"left_{part}") for part in ("elbow", "wrist", "pinky", "index")], 2] = 0.1
    fit = fit_poses(BODY, landmarks, sizes(4), layout="blazepose-33", world=made.world)
    assert fit.limbs_seen.tolist() == [[False, True, True, True]] + [[True] * 4] * 3
    shoulder = BODY.joint_names.index("left_shoulder")
    assert fit.seen[:, shoulder].tolist() == [False, True, True, True]
    assert fit.joint_std[0, shoulder] > 2 * fit.joint_std[1:, shoulder].max()


def test_what_cannot_be_fitted_has_a_reason_and_the_rest_is_fitted() -> None:
    made = people(BODY, 3, "coco-17")
    landmarks = made.landmarks.copy()
    landmarks[0, :, 2] = 0
    landmarks[0, :, :2] = np.nan
    landmarks[1, 5:13, 2] = 0  # shoulders to hips
    fit = fit_poses(BODY, landmarks, sizes(3), layout="coco-17")
    assert fit.reasons == ("too few landmarks seen", "no torso seen", "")
    assert fit.converged.tolist() == [False, False, True]
    assert len(fit_poses(BODY, np.zeros((0, 17, 3)), np.zeros((0, 2), int), layout="coco-17").poses) == 0


def test_right_joints_are_left_ones_in_the_mirror() -> None:
    prior = prior_of(("left_elbow", "right_elbow"))
    flip = np.array([1, -1, -1])
    np.testing.assert_array_equal(prior.mean[1], prior.mean[0] * flip)
    assert (prior.least <= prior.mean).all()
    assert (prior.mean <= prior.most).all()
    assert (prior.least[1, 1], prior.most[1, 1]) == (-prior.most[0, 1], -prior.least[0, 1])
    made = people(BODY, 12, pixels=2, metres=0.02)
    other = [BLAZEPOSE_33.index(other_side(name)) for name in BLAZEPOSE_33]
    mirrored = made.landmarks[:, other] * [-1, 1, 1] + [IMAGE, 0, 0]
    fit = fit_poses(BODY, made.landmarks, sizes(12), layout="blazepose-33", world=made.world)
    seen = fit_poses(BODY, mirrored, sizes(12), layout="blazepose-33", world=(made.world * [-1, 1, 1])[:, other])
    swap = [BODY.joint_names.index(other_side(name)) for name in BODY.joint_names]
    assert np.median(joint_errors(seen.poses, fit.poses[:, swap] * flip)) < 0.5


def test_bodies_with_smpls_joints(tmp_path: Any) -> None:
    body = shapely()
    assert len(body_points(body)) > 30
    made = people(body, 4)
    assert fit_poses(body, made.landmarks, sizes(4), layout="blazepose-33", world=made.world).converged.all()
    names = [f"finger{j}" if "hand" in name else name for j, name in enumerate(BODY.joint_names)]
    fingers = Body("fingers", BODY.vertices, BODY.faces, BODY.joints, BODY.parents, BODY.weights, names)
    fit = fit_poses(fingers, made.landmarks, sizes(4), layout="blazepose-33", world=made.world)
    assert not fit.poses[:, 22:].any()
    assert np.isnan(fit.joint_std[:, 22:]).all()
    lacking = [f"bone{j}" if name == "neck" else name for j, name in enumerate(BODY.joint_names)]
    headless = Body("x", BODY.vertices, BODY.faces, BODY.joints, BODY.parents, BODY.weights, lacking)
    with pytest.raises(InputError, match="expected SMPL's, got none named neck"):
        fit_poses(headless, made.landmarks, sizes(4), layout="blazepose-33")


def test_layouts() -> None:
    assert [BLAZEPOSE_33[i] for i in COCO_OF_BLAZEPOSE] == list(COCO_KEYPOINTS)
    assert {name: len(names) for name, names in LAYOUTS.items()} == {
        "blazepose-33": 33,
        "coco-17": 17,
        "body-25": 25,
        "halpe-26": 26,
    }
    on_body = set(body_points(BODY))
    for layout in ("coco-17", "body-25", "halpe-26"):
        assert set(LAYOUTS[layout]) <= on_body, layout


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layout": "coco"}, "layout: expected one of blazepose-33, coco-17, body-25, halpe-26; got 'coco'"),
        ({"landmarks": np.zeros((1, 18, 3))}, "landmarks: expected"),
        ({"landmarks": np.full((1, 17, 3), 2.0)}, "expected confidences in 0..1"),
        (
            {"landmarks": np.where(np.arange(3) == 2, 0.9, np.nan) * np.ones((1, 17, 1))},
            "expected finite numbers where the confidence is not 0",
        ),
        ({"image_size": [[0, 5]]}, "image_size: expected a positive height and width"),
        ({"focal": -3}, "focal: expected positive focal lengths"),
        ({"world": np.zeros((1, 3, 3))}, "world: expected"),
    ],
)
def test_bad_input(changed: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"landmarks": np.ones((1, 17, 3)), "image_size": [[9, 9]], "layout": "coco-17", **changed}
    landmarks, size = given.pop("landmarks"), given.pop("image_size")
    with pytest.raises(InputError, match=re.escape(message)):
        fit_poses(BODY, landmarks, size, **given)
    for name, value in (
        ("min_confidence", 2),
        ("point_spread", 0),
        ("bone_spread", 4),
        ("iterations", 0),
        ("iterations", True),
    ):
        with pytest.raises(InputError, match=f"{name}: expected"):
            FitOptions(**{name: value})
