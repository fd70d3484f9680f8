"""A pose fit finds simulated people again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from chorus.body.model import load_body
from chorus.errors import InputError
from chorus.pose_fit import LAYOUTS, FitOptions, fit_poses
from chorus.pose_fit.layouts import BONES, body_points
from chorus.pose_fit.problem import Skeleton, State, Targets, normal_equations, stepped

FOCAL, SIZE, PEOPLE = 600.0, (480, 640), 8


def simulated(layout: str) -> tuple[Any, Any, Any, Any]:
    """Landmarks, the same in space, true poses (I, J, 3) and orientations (I, 3, 3) of people seen from all sides in front."""
    body, names = load_body(), LAYOUTS[layout]
    used = tuple(name for name in names if name in body_points(body))
    skeleton, rng = Skeleton.of(body, used, ()), np.random.default_rng(0)
    angles = rng.normal(0, 0.12, (PEOPLE, len(skeleton.moving), 3))
    turned = np.column_stack([rng.uniform(-60, 60, PEOPLE), np.full(PEOPLE, 180.0)])
    state = State(Rotation.from_euler("yx", turned, degrees=True).as_matrix(), np.tile([0.0, 0, 5], (PEOPLE, 1)), angles)
    points = skeleton.posed(state)[2]
    placed = points + state.t[:, None]
    landmarks, world = np.zeros((2, PEOPLE, len(names), 3))
    columns = [names.index(name) for name in used]
    landmarks[:, columns, :2] = FOCAL * placed[..., :2] / placed[..., 2:] + np.array(SIZE[::-1]) / 2
    landmarks[:, columns, 2] = 1
    world[:, columns] = points
    return landmarks, world, skeleton.poses(angles), state.R


def degrees(a: Rotation, b: Rotation) -> Any:
    return np.degrees((a * b.inv()).magnitude())


def test_directions_in_space_give_the_orientation_and_a_body_that_lies_on_the_landmarks() -> None:
    landmarks, world, poses, R = simulated("blazepose-33")
    fit = fit_poses(load_body(), landmarks, [SIZE] * PEOPLE, layout="blazepose-33", world=world, focal=FOCAL)
    assert fit.reasons == ("",) * PEOPLE
    assert fit.converged.all()
    assert (fit.residual_px < 1.5).all()  # of people 200 px tall
    assert np.median(degrees(Rotation.from_rotvec(fit.orientation), Rotation.from_matrix(R))) < 12
    joints = list(load_body().joint_names)
    knees = [joints.index("left_knee"), joints.index("right_knee")]
    found, true = (Rotation.from_rotvec(p[:, knees].reshape(-1, 3)) for p in (fit.poses, poses))
    assert np.median(degrees(found, true)) < 15
    assert fit.limbs_seen.all()


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "blazepose-33"])
def test_keypoints_in_the_image_alone_are_met(layout: str) -> None:
    landmarks = simulated(layout)[0]
    fit = fit_poses(load_body(), landmarks, [SIZE] * PEOPLE, layout=layout, focal=FOCAL)
    assert np.median(fit.residual_px) < 3


def test_what_nothing_saw_is_said() -> None:
    landmarks, world, _, _ = simulated("blazepose-33")
    names = LAYOUTS["blazepose-33"]
    landmarks[0, [names.index(f"left_{part}") for part in ("elbow", "wrist", "pinky", "index")], 2] = 0.1
    landmarks[1, :, 2] = 0
    fit = fit_poses(load_body(), landmarks, [SIZE] * PEOPLE, layout="blazepose-33", world=world, focal=FOCAL)
    assert fit.limbs_seen[0].tolist() == [False, True, True, True]
    assert fit.reasons[1] == "too few landmarks seen"
    shoulder = list(load_body().joint_names).index("left_shoulder")
    assert fit.joint_std[0, shoulder] > 2 * fit.joint_std[2:, shoulder].max()
    assert not fit.seen[0, shoulder]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layout": "coco-18"}, "layout: expected one of"),
        ({"landmarks": np.zeros((1, 16, 3))}, "landmarks"),
        ({"landmarks": np.full((1, 17, 3), 2.0)}, "confidences in 0..1"),
        ({"focal": -1.0}, "focal: expected positive"),
        ({"image_size": [(0, 5)]}, "image_size: expected a positive"),
    ],
)
def test_wrong_input_is_named(changed: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"landmarks": np.zeros((1, 17, 3)), "image_size": [SIZE], "layout": "coco-17"} | changed
    with pytest.raises(InputError, match=message):
        fit_poses(load_body(), given.pop("landmarks"), given.pop("image_size"), **given)


def test_the_gradient_is_that_of_the_cost() -> None:
    rng, n = np.random.default_rng(1), 3
    skeleton = Skeleton.of(load_body(), tuple(body_points(load_body())), BONES)
    angles = rng.normal(0, 0.8, (n, len(skeleton.moving), 3))  # some beyond their limits
    state = State(Rotation.random(n, rng=1).as_matrix(), np.array([[0.1, -0.2, 4.0]] * n), angles)
    points, bones = len(skeleton.carriers), len(BONES)
    unit = rng.normal(0, 1, (n, bones, 3))
    targets = Targets(
        rng.normal(0, 60, (n, points, 2)),
        rng.uniform(0, 0.05, (n, points)),  # residuals on both sides of Huber's bend
        unit / np.linalg.norm(unit, axis=2, keepdims=True),
        rng.uniform(0, 3, (n, bones)),
        np.full(n, FOCAL),
    )
    _, gradient, _ = normal_equations(skeleton, state, targets)
    found, small = np.empty_like(gradient), 1e-6
    for k in range(gradient.shape[1]):
        step = np.zeros_like(gradient)
        step[:, k] = small
        above, below = (normal_equations(skeleton, stepped(state, sign * step), targets)[0] for sign in (1, -1))
        found[:, k] = (above - below) / (2 * small)
    np.testing.assert_allclose(gradient, found, rtol=1e-5, atol=1e-5 * np.abs(gradient).max())


def test_where_landmarks_are_sure_the_body_is_where_they_say() -> None:
    landmarks, world, _, _ = simulated("blazepose-33")
    sure = FitOptions(point_spread=1e-4, bone_spread=2e-3, iterations=200)
    fit = fit_poses(load_body(), landmarks, [SIZE] * PEOPLE, layout="blazepose-33", world=world, focal=FOCAL, options=sure)
    assert (fit.residual_px < 0.1).all()
    names = LAYOUTS["blazepose-33"]
    used = tuple(name for name in names if name in body_points(load_body()))
    skeleton = Skeleton.of(load_body(), used, ())
    R = Rotation.from_rotvec(fit.orientation).as_matrix()
    points = skeleton.posed(State(R, fit.cameras.t, fit.poses[:, skeleton.moving]))[2]
    off = points - world[:, [names.index(name) for name in used]]
    off -= off.mean(1, keepdims=True)
    assert (np.linalg.norm(off, axis=2) < 0.03).all()  # metres; twists that no landmark tells are the prior's
