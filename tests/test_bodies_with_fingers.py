"""SMPL-H's 52 and SMPL-X's 55 joints through the whole engine, beside SMPL's 24."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from chorus.body.model import Body, load_body
from chorus.cli import main
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy, load_occupancy
from chorus.simulate.images import WORLDS, simulate, write_world
from chorus.store import open_store
from chorus.votes.contacts import image_contacts
from chorus.votes.parts import body_parts, interaction_regions
from tests.bodies import fingered, with_fingers

BODIES = [(52, False), (52, True), (55, False), (55, True)]
RESOLUTION = 20


@pytest.fixture(scope="module")
def plain() -> tuple[Body, CanonicalField, ImageBatch]:
    """The mannequin, its field, and 24 images with a ball in the hand, hands as in the zero pose."""
    body = load_body()
    world = replace(WORLDS["ball-held"], image_sizes=((96, 96),))
    (batch,) = simulate(world, 24, 3, body, batch_size=24)
    poses = batch.images.poses.copy()
    poses[:, [body.joint_names.index(f"{side}_hand") for side in ("left", "right")]] = 0
    images = ImageBatch(batch.images.masks, batch.images.cameras, poses, batch.images.keys)
    return body, CanonicalField(body, RESOLUTION, cache=False), images


@pytest.fixture(scope="module", params=BODIES, ids=lambda p: f"{p[0]} joints{', spread' * p[1]}")
def wide(request: pytest.FixtureRequest, plain: Any) -> tuple[Body, CanonicalField, ImageBatch]:
    body = fingered(request.param[0], spread=request.param[1])
    _, _, images = plain
    poses = with_fingers(images.poses, body)
    return body, CanonicalField(body, RESOLUTION, cache=False), ImageBatch(images.masks, images.cameras, poses, images.keys)


def bent(images: ImageBatch, body: Body) -> ImageBatch:
    poses = images.poses.copy()
    poses[:, 22:] += np.random.default_rng(1).normal(0, 0.4, poses[:, 22:].shape).astype(np.float32)
    return ImageBatch(images.masks, images.cameras, poses, images.keys)


def equal(one: Occupancy, other: Occupancy) -> bool:
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ("num_counts", "den_counts", "group_totals"))


def test_joints_at_rest_change_nothing(plain: Any, wide: Any) -> None:
    body, field, images = plain
    other, wide_field, wide_images = wide
    moved = other.posed_vertices(wide_images.poses[:4].astype(float)), body.posed_vertices(images.poses[:4].astype(float))
    assert np.abs(moved[0] - moved[1]).max() < 1e-12
    votes, wide_votes = aggregate(images, field), aggregate(wide_images, wide_field)
    assert votes.num_counts.sum() > 1000
    assert equal(votes, wide_votes)
    parts, wide_parts = body_parts(body), body_parts(other)
    assert parts.keys() == wide_parts.keys()
    assert all(
        np.array_equal(parts[name], wide_parts[name]) for name in parts
    )  # fingers belong to the hand, the jaw to the face
    contacts = [
        image_contacts(i, f, interaction_regions(f, p))
        for i, f, p in ((images, field, parts), (wide_images, wide_field, wide_parts))
    ]
    assert contacts[0].any()
    assert np.array_equal(*contacts)
    pose, wide_pose = images.poses[0].astype(float), wide_images.poses[0].astype(float)
    phi, wide_phi = votes.posed(pose, body), wide_votes.posed(wide_pose, other)
    assert phi.max() > 0.2
    assert np.mean(phi != wide_phi) < 1e-3  # the nearest voxel may be another where two are as near


def test_bent_fingers_are_what_the_reference_says(wide: Any) -> None:
    body, field, images = wide
    images = bent(images, body)
    fused, reference = (aggregate(images, field, backend=name) for name in ("numba", "reference"))
    # As everywhere, single votes within float32's reach of a pixel's edge may differ.
    for name in ("num_counts", "den_counts"):
        differ = np.abs(getattr(fused, name).astype(int) - getattr(reference, name)).sum()
        assert differ <= 1e-5 * reference.den_counts.sum()
    regions = interaction_regions(field, body_parts(body))
    contacts = [image_contacts(images, field, regions, name) for name in ("numba", "reference")]
    assert np.mean(contacts[0] != contacts[1]) <= 1 / len(images)
    if np.ptp(body.dominant_joint) > 45:  # spread over the fingers: these move what is around them
        straight = aggregate(wide[2], field)
        assert not equal(fused, straight)
        pose = images.poses[0].astype(float)
        posed = [straight.posed(pose, body, backend=name) for name in ("numba", "reference")]
        assert np.mean(posed[0] != posed[1]) < 1e-3


@pytest.mark.parametrize("name", ["ball-held", "glove-worn", "bar-in-both-hands", "racket-held", "box-in-both-hands"])
def test_simulated_worlds_have_fingers(name: str) -> None:
    """Worlds name SMPL's hands; with fingers their object is where it is with hands."""
    plain, body = load_body(), fingered(55, spread=True)
    world = replace(WORLDS[name], image_sizes=((64, 64),), pose_noise=0.0)
    drawn = [next(iter(simulate(world, 6, 5, b, batch_size=6))) for b in (plain, body)]
    for i in range(6):
        assert np.array_equal(*(d.images.masks.unpack(i) for d in drawn))
        assert np.array_equal(*(d.person_masks.unpack(i) for d in drawn))


def run(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("joints", [52, 55])
def test_commands(joints: int, tmp_path: Path) -> None:
    """Store, contacts, votes of a part, posed space, PAP and a surface, by the commands."""
    body = fingered(joints, spread=True)
    file = body.save(tmp_path / "body.npz")
    world = replace(WORLDS["ball-held"], image_sizes=((96, 96),))
    for name, seed in (("train", 1), ("test", 2)):
        write_world(tmp_path / f"{name}.chorus", [world], 30, seed, body)
    store = open_store(tmp_path / "train.chorus")
    assert store.num_joints == joints
    assert store.body_hash == body.hash
    with_body = ("--body", file, "--resolution", RESOLUTION)
    run("contacts", tmp_path / "train.chorus", *with_body)
    run("aggregate", tmp_path / "train.chorus", *with_body, "-o", tmp_path / "ball.h5", "--filter", "none")
    run(
        "aggregate",
        tmp_path / "train.chorus",
        *with_body,
        "-o",
        tmp_path / "hand.h5",
        "--filter",
        "none",
        "--part",
        "rightHand",
    )
    assert 0 < load_occupancy(tmp_path / "hand.h5").num_images <= load_occupancy(tmp_path / "ball.h5").num_images
    pose = np.zeros((joints, 3))
    pose[joints - 20 :] = 0.2
    np.save(tmp_path / "pose.npy", pose)
    run("pose", tmp_path / "ball.h5", tmp_path / "pose.npy", "--body", file, "-o", tmp_path / "posed.npz")
    run("mesh", tmp_path / "ball.h5", "--body", file, "-o", tmp_path / "ball.ply", "--threshold", 0.3)
    run(
        "evaluate",
        "pap",
        tmp_path / "test.chorus",
        "--occupancy",
        tmp_path / "ball.h5",
        "--body",
        file,
        "-o",
        tmp_path / "pap.json",
    )
    report = json.loads((tmp_path / "pap.json").read_text())
    assert report
