"""Canonicalizations: names, the joints of voxels, joint maps; and the fields, parameters and hashes that they give."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest

from chorus.body.model import Body, load_body
from chorus.canonicalization import (
    AUTO,
    LBS,
    LBS_NEAREST,
    NAMES,
    NONE,
    PER_VOXEL,
    UNLIMITED,
    Anchored,
    Blended,
    JointMap,
    canonicalization_of,
    check_name,
    resolve,
)
from chorus.errors import InputError
from chorus.field import CanonicalField, FieldParameters, default_smoothing_steps
from chorus.kernels.cpu.skinning import near_weights

HAND = "joint:right_hand"


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


def a_map(body: Body, N: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, body.num_joints, (N, N, N)).astype(np.int16)


def test_names() -> None:
    assert set(NAMES) == {LBS, LBS_NEAREST, NONE, PER_VOXEL, "joint:NAME"}
    for name in (LBS, LBS_NEAREST, NONE, PER_VOXEL, HAND):
        assert check_name(name) == name
    assert check_name(AUTO, also=(AUTO,)) == AUTO
    for wrong in ("", "joint:", "LBS", "hand", 3, None, True):
        with pytest.raises(InputError, match="canonicalization: expected lbs, lbs-nearest, none, joint:NAME, per-voxel; got"):
            check_name(wrong)
    with pytest.raises(InputError, match=r"auto is a choice from images, made by chorus\.aggregate"):
        check_name(AUTO)


def test_two_ways_to_say_it() -> None:
    assert [resolve(flag, None) for flag in (None, True, False)] == [LBS, LBS, NONE]
    assert [resolve(None, name) for name in (LBS, NONE, HAND)] == [LBS, NONE, HAND]
    assert resolve(False, NONE) == NONE
    assert resolve(True, HAND) == HAND
    for flag, name in ((False, LBS), (False, HAND), (True, NONE)):
        with pytest.raises(InputError, match=f"got {flag} and '{name}'"):
            resolve(flag, name)


def test_rules(body: Body) -> None:
    assert canonicalization_of(LBS) == canonicalization_of(LBS_NEAREST) == Blended()
    assert Blended().rigid_joints(body, 4) is None
    joint = body.joint_names.index("right_hand")
    assert np.array_equal(canonicalization_of(HAND).rigid_joints(body, 3), np.full(27, joint))
    assert np.array_equal(canonicalization_of(NONE).rigid_joints(body, 2), np.zeros(8))
    with pytest.raises(InputError, match=r"expected joint: and one of pelvis, .*right_hand; got 'joint:tail'"):
        Anchored("tail").rigid_joints(body, 2)
    joints = a_map(body)
    assert np.array_equal(canonicalization_of(PER_VOXEL, JointMap(joints)).rigid_joints(body, 6), joints.ravel())
    for name, joint_map in ((PER_VOXEL, None), (LBS, JointMap(joints)), (HAND, JointMap(joints))):
        with pytest.raises(InputError, match="joint_map: expected one with canonicalization 'per-voxel', and with no other"):
            canonicalization_of(name, joint_map)


def test_joint_maps_are_values(body: Body) -> None:
    joints = a_map(body)
    one, same, other = JointMap(joints), JointMap(joints.astype(np.int64)), JointMap(a_map(body, seed=1))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != joints.tobytes()
    assert copy.deepcopy(one) is one
    joints[0, 0, 0] += 1  # its own copy, which cannot be written to
    assert one == same
    with pytest.raises(ValueError, match="read-only"):
        one.joints[0, 0, 0] = 1
    assert "6^3 voxels" in repr(one)
    assert JointMap(np.zeros((1, 1, 1))).digest != JointMap(np.zeros((2, 2, 2))).digest


@pytest.mark.parametrize(
    "joints",
    [np.zeros((2, 2)), np.zeros((2, 2, 3)), np.zeros((0, 0, 0)), np.full((2, 2, 2), -1), np.full((1, 1, 1), 0.5), "map"],
)
def test_what_is_no_joint_map(joints: Any) -> None:
    with pytest.raises(InputError, match="joint_map"):
        JointMap(joints)


def test_joint_maps_must_fit(body: Body) -> None:
    with pytest.raises(InputError, match=r"joint_map: expected 5\^3 voxels as the field has, got 6\^3"):
        CanonicalField(body, 5, canonicalization=PER_VOXEL, joint_map=a_map(body))
    with pytest.raises(InputError, match=f"joint_map: expected joints 0 .. {body.num_joints - 1} of the body, got 99"):
        CanonicalField(body, 6, canonicalization=PER_VOXEL, joint_map=np.full((6, 6, 6), 99))


def test_hashes_are_what_they_were(body: Body) -> None:
    # Stores and occupancies made before there were other canonicalizations hold these.
    assert FieldParameters(48).hash(body.hash) == "573daaee6e4a53ca060a0b18097d27b5697530a7d5cad8d9ac82f5bd2af96036"
    none = CanonicalField(body, 48, canonicalize=False, cache=False)
    assert none.hash == "12bba199a397e664e718ba7a157d9bd9c02c11ed7ae6299d300978ab085b398b"
    small = FieldParameters(24, 2.5, k=12, tau=0.5, s=0.5, smoothing_steps=3)
    assert small.hash(body.hash) == "728302151566d5b9b9e3d97c47511ab9fda82c5e5dcaf1d3e48e4d4e95ccbce4"
    assert none.hash == CanonicalField(body, 48, canonicalization="joint:pelvis").hash  # one field, one name


def test_hashes_are_of_what_makes_the_field(body: Body) -> None:
    def hash_of(name: str, **how: Any) -> str:
        return FieldParameters(6, canonicalization=name, **how).hash(body.hash)

    one, other = JointMap(a_map(body)), JointMap(a_map(body, seed=1))
    hashes = [hash_of(name) for name in (LBS, LBS_NEAREST, NONE, HAND, "joint:left_hand")]
    hashes += [hash_of(PER_VOXEL, joint_map=m) for m in (one, other)]
    assert len(set(hashes)) == len(hashes)
    assert hash_of(HAND, k=5, tau=0.3, s=1, smoothing_steps=2) == hash_of(HAND)  # nothing of it is used
    assert hash_of(LBS_NEAREST, tau=0.3, s=1, smoothing_steps=2) == hash_of(LBS_NEAREST)
    assert hash_of(LBS_NEAREST, k=5) != hash_of(LBS_NEAREST)
    assert hash_of(PER_VOXEL, joint_map=one, k=5) == hash_of(PER_VOXEL, joint_map=JointMap(one.joints))


def test_fields(body: Body) -> None:
    def field(name: str, **how: Any) -> CanonicalField:
        return CanonicalField(body, 6, canonicalization=name, cache=False, **how)

    joints = a_map(body)
    hand = field(HAND)
    assert hand.canonicalization == HAND
    assert "canonicalization='joint:right_hand'" in repr(hand)
    assert hand.weights[..., body.joint_names.index("right_hand")].min() == 1
    per_voxel = field(PER_VOXEL, joint_map=joints)
    assert np.array_equal(per_voxel.weights.argmax(-1), joints)
    assert per_voxel.weights.max(-1).min() == per_voxel.weights.sum(-1).max() == 1
    nearest = field(LBS_NEAREST)
    assert (nearest.parameters.tau, nearest.parameters.smoothing_steps) == (UNLIMITED, 0)
    dense, near = near_weights(
        nearest.arrays.lattice, body.rest_vertices, body.weights, k=30, tau=1e30, s=0.25, steps=0
    ).dense()
    assert near.all()  # at any distance
    assert np.abs(nearest.weights.reshape(-1, body.num_joints) - dense.numpy()).max() < 2e-5  # what is below 1e-6 is dropped
    with pytest.raises(InputError, match="got 'auto'; auto is a choice"):
        field(AUTO)


def test_a_rigid_field_warps_by_its_joint(body: Body) -> None:
    pose = np.random.default_rng(0).normal(0, 0.4, (body.num_joints, 3))
    pose[0] = 0
    bones = body.bone_transforms(pose[None])[0]
    joints = a_map(body)
    field = CanonicalField(body, 6, canonicalization=PER_VOXEL, joint_map=joints)
    at = (2, 4, 1)
    B = bones[joints[at]]
    assert field.warp(pose)[at] == pytest.approx(B[:, :3] @ field.centres[at] + B[:, 3], abs=1e-6)


def test_with_canonicalization(body: Body) -> None:
    field = CanonicalField(body, 6, 2.0, k=12, tau=0.5, s=0.5, smoothing_steps=3, cache=False)
    assert field.with_canonicalization(LBS) is field
    hand = field.with_canonicalization(HAND)
    assert (hand.resolution, hand.extent, hand.canonicalization) == (6, 2.0, HAND)
    assert hand.with_canonicalization(LBS).hash == field.hash  # k, tau, s and steps come back
    assert hand.around_body.hash == field.hash
    per_voxel = hand.with_canonicalization(PER_VOXEL, a_map(body))
    assert per_voxel.with_canonicalization(PER_VOXEL) is per_voxel
    assert per_voxel.with_canonicalization(PER_VOXEL, a_map(body, seed=1)).hash != per_voxel.hash
    assert per_voxel.around_body.hash == field.hash
    nearest = field.with_canonicalization(LBS_NEAREST)
    assert nearest.around_body is nearest
    back = nearest.with_canonicalization(LBS).parameters  # which has kept no tau and steps: the defaults
    assert (back.k, back.tau, back.s, back.smoothing_steps) == (12, 0.8, 0.5, default_smoothing_steps(2.0 / 6))
    with pytest.raises(InputError, match="joint_map: expected one"):
        field.with_canonicalization(PER_VOXEL)
    with pytest.raises(InputError, match="got 'joint:tail'"):
        field.with_canonicalization("joint:tail")


def test_json_and_back(body: Body) -> None:
    import json

    joints = a_map(body)
    for p, given in (
        (FieldParameters(6), None),
        (FieldParameters(6, canonicalize=False), None),
        (FieldParameters(6, canonicalization=LBS_NEAREST, k=5), None),
        (FieldParameters(6, canonicalization=HAND), None),
        (FieldParameters(6, canonicalization=PER_VOXEL, joint_map=JointMap(joints)), joints),
    ):
        facts = json.loads(json.dumps(p.to_json()))
        assert FieldParameters.from_json(facts, given) == p
    assert "canonicalization" not in FieldParameters(6).to_json()  # as before there were others
    assert "canonicalization" not in FieldParameters(6, canonicalize=False).to_json()
    for wrong in (None, a_map(body, seed=1)):
        with pytest.raises(InputError, match=re.escape(f"joint_map: expected the one with digest {facts['joint_map']}")):
            FieldParameters.from_json(facts, wrong)


def test_from_parameters(body: Body) -> None:
    for name, joint_map in ((HAND, None), (LBS_NEAREST, None), (PER_VOXEL, a_map(body))):
        field = CanonicalField(body, 6, canonicalization=name, joint_map=joint_map, cache=False)
        assert CanonicalField.from_parameters(body, field.parameters, body.hash).hash == field.hash
