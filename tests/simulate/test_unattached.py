"""Worlds whose object does not hang on one joint: held in both hands, in either hand, beside the person; varied builds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chorus.body.model import Body, load_body
from chorus.errors import InputError
from chorus.simulate.images import WORLDS, SimulatedBatch, World, _further_stream, simulate, true_occupancy
from chorus.simulate.objects import OBJECTS, joint_index
from chorus.simulate.pose_errors import mirrored_pose
from chorus.simulate.scene import carrier, draw_pose, posed
from chorus.simulate.shapes import with_shapes


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


def drawn(world: World, count: int, body: Body, seed: int = 3) -> SimulatedBatch:
    (only,) = simulate(replace(world, image_sizes=((128, 128),)), count, seed, body, batch_size=count)
    return only


def grid(n: int = 48) -> np.ndarray:
    axis = (np.arange(n) + 0.5) * 3 / n - 1.5
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)


def test_a_solid_in_a_mirror(body: Body) -> None:
    points = np.random.default_rng(0).uniform(-1.5, 1.5, (20_000, 3))
    hit = 0
    for name, kind in OBJECTS.items():
        for shape in kind.draw(np.random.default_rng(1), body):
            mirrored = shape.mirrored()
            assert np.linalg.det(mirrored.rotation) == pytest.approx(1), name
            near = shape.centre + points * 0.4
            inside = shape.contains(near)
            np.testing.assert_array_equal(inside, mirrored.contains(near * [-1, 1, 1]))
            hit += inside.sum()
    assert hit > 1000


def test_a_bar_lies_across_both_palms(body: Body) -> None:
    world, rng = WORLDS["bar-in-both-hands"], np.random.default_rng(2)
    kind = OBJECTS[world.object_class]
    right, left = (joint_index(body, name) for name in ("right_hand", "left_hand"))
    angles = []
    for _ in range(20):
        transforms, joints = posed(body, draw_pose(world, body, rng).astype(np.float64))
        moved = carrier(kind, body, transforms, joints)
        np.testing.assert_allclose(moved[:3, :3] @ moved[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(moved[:3, :3]) == pytest.approx(1)
        np.testing.assert_allclose(moved[:3, 3], (joints[right] + joints[left]) / 2)
        bar = moved[:3, 0]
        np.testing.assert_allclose(np.cross(bar, joints[left] - joints[right]), 0, atol=1e-12)
        for hand, way in ((right, 1), (left, -1)):
            assert transforms[hand, :3, 2] @ bar * way > np.cos(np.radians(2))
        turns = [transforms[j, :3, :3] @ body.rest_inverse[j, :3, :3] for j in range(len(joints))]
        angles.append([np.degrees(np.arccos(np.clip((turn.T @ bar)[2], -1, 1))) for turn in turns])
    steady = np.std(angles, axis=0) < 2
    assert set(np.flatnonzero(steady)) <= {right, left, joint_index(body, "right_wrist"), joint_index(body, "left_wrist")}


@pytest.mark.parametrize("name", ["bar-in-both-hands", "box-in-both-hands"])
def test_truth_of_what_both_hands_hold_is_what_their_bones_see(name: str, body: Body) -> None:
    """One pose, one object: a voxel is occupied where the nearer hand's bone transform puts it into the object."""
    world = replace(WORLDS[name], pose_noise=0.0, key_poses=WORLDS[name].key_poses[:1])
    kind, centres = OBJECTS[world.object_class], grid(24)
    truth = true_occupancy(world, centres, 5, 1, body)
    assert set(np.unique(truth).tolist()) == {0.0, 1.0}
    pose = draw_pose(world, body, np.random.default_rng(0)).astype(np.float64)
    transforms, joints = posed(body, pose)
    bones = body.bone_transforms(pose[None])[0]
    flat = centres.reshape(-1, 3)
    near_right = np.linalg.norm(flat - body.rest_joints[joint_index(body, "right_hand")], axis=1) <= np.linalg.norm(
        flat - body.rest_joints[joint_index(body, "left_hand")], axis=1
    )
    bone = bones[np.where(near_right, joint_index(body, "right_hand"), joint_index(body, "left_hand"))]
    in_image = np.einsum("vab,vb->va", bone[..., :3], flat) + bone[..., 3]
    moved = carrier(kind, body, transforms, joints)
    in_object = (in_image - moved[:3, 3]) @ moved[:3, :3]
    # Whatever the random variant was, it lies within the class's bounds and contains its core.
    half = np.array([0.55, 0.08, 0.08] if name.startswith("bar") else [0.28, 0.18, 0.18])
    occupied = truth.ravel() > 0
    assert (np.abs(in_object[occupied]) <= 1.2 * half + 0.22).all()
    assert occupied[(np.abs(in_object) <= 0.25 * half).all(1)].all()
    assert occupied[near_right].any()
    assert occupied[~near_right].any()


def test_the_ball_changes_hands(body: Body) -> None:
    world = WORLDS["ball-in-either-hand"]
    given = drawn(world, 40, body)
    left = np.array([_further_stream(world, 3, i).random() < 0.5 for i in range(40)])
    assert 10 < left.sum() < 30
    one_hand = drawn(replace(world, mirrored=0.0), 40, body)
    for i in range(40):
        pose = one_hand.images.poses[i]
        wanted = mirrored_pose(pose, body) if left[i] else pose
        np.testing.assert_allclose(given.images.poses[i], wanted, atol=1e-6)
    centres = grid()
    either, right = (true_occupancy(w, centres, 0, 200, body) for w in (world, replace(world, mirrored=0.0)))
    assert (right[24:] == 0).all()
    np.testing.assert_array_equal(either[:24], right[:24])
    np.testing.assert_array_equal(either[24:] >= 0.5, right[:24][::-1] >= 0.5)
    only_left = true_occupancy(replace(world, mirrored=1.0), centres, 0, 200, body)
    np.testing.assert_array_equal(np.maximum(only_left, right), either)


def test_a_mirrored_pose_is_the_mirrored_body(body: Body) -> None:
    pose = np.random.default_rng(0).normal(0, 0.4, (body.num_joints, 3))
    pose[0] = 0
    mirrored = mirrored_pose(pose, body)
    joints, other = body.posed_joints(pose[None])[0], body.posed_joints(mirrored[None])[0]
    swap = [
        body.joint_names.index(n.replace("left", "X").replace("right", "left").replace("X", "right")) for n in body.joint_names
    ]
    np.testing.assert_allclose(other[swap], joints * [-1, 1, 1], atol=2e-3)  # the template is not quite symmetric
    np.testing.assert_allclose(mirrored_pose(mirrored, body), pose)


def test_builds(body: Body) -> None:
    shaped = with_shapes(body)
    zero = np.zeros((1, body.num_joints, 3))
    np.testing.assert_allclose(shaped.posed_vertices(zero, np.zeros(4)), body.posed_vertices(zero))
    index = {name: joint_index(body, name) for name in body.joint_names}

    def lengths(betas: list[float]) -> np.ndarray:
        joints = shaped.posed_joints(zero, np.array(betas))[0]
        pairs = (("left_shoulder", "left_wrist"), ("right_hip", "right_ankle"), ("pelvis", "neck"))
        return np.array([np.linalg.norm(joints[index[a]] - joints[index[b]]) for a, b in pairs])

    template = lengths([0, 0, 0, 0])
    np.testing.assert_allclose(lengths([1, 0, 0, 0]), 1.04 * template)
    np.testing.assert_allclose(lengths([0, 1, 0, 0]), template)
    np.testing.assert_allclose(lengths([0, 0, 1, 0]), template * [1.05, 1, 1])
    np.testing.assert_allclose(lengths([0, 0, 0, 1]), template * [1, 1.05, 1])
    wide = shaped.posed_vertices(zero, np.array([0.0, 1.0, 0.0, 0.0]))[0]
    waist = np.abs(body.vertices[:, 1] - 0.1) < 0.05
    assert 1.05 < np.ptp(wide[waist, 2]) / np.ptp(body.vertices[waist, 2]) < 1.12
    assert np.abs(shaped.posed_vertices(zero, np.ones(4))[0] - body.vertices).max() < 0.25
    assert with_shapes(shaped) is shaped

    plain, varied = drawn(WORLDS["ball"], 12, body), drawn(WORLDS["ball"].varied(), 12, body)
    np.testing.assert_array_equal(plain.images.poses, varied.images.poses)  # nothing of the build is on record
    assert all((plain.person_masks.unpack(i) != varied.person_masks.unpack(i)).any() for i in range(12))
    for wrong in ({"mirrored": 1.5}, {"mirrored": -0.1}, {"shape_spread": -1.0}):
        with pytest.raises(InputError, match="mirrored, shape_spread"):
            replace(WORLDS["ball"], **wrong)


def test_the_object_keeps_its_place_at_a_shaped_hand(body: Body) -> None:
    shaped, rng = with_shapes(body), np.random.default_rng(4)
    kind, hand = OBJECTS["ball"], joint_index(body, "right_hand")
    pose = draw_pose(WORLDS["ball"], body, rng).astype(np.float64)
    transforms, joints = posed(shaped, pose, np.array([1.0, -1.0, 2.0, 0.5]))
    moved = carrier(kind, body, transforms, joints, template=False)
    np.testing.assert_allclose(moved[:3, :3] @ body.rest_joints[hand] + moved[:3, 3], joints[hand], atol=1e-12)
    np.testing.assert_allclose(joints, shaped.posed_joints(pose[None], np.array([1.0, -1.0, 2.0, 0.5]))[0], atol=1e-12)
