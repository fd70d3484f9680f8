"""What a viewer shows, without a viewer: surfaces that follow threshold, pose and question, and the images behind them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from chorus.body.model import Body, load_body
from chorus.errors import InputError, MismatchError
from chorus.occupancy.aggregation import aggregate
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import Store, open_store
from chorus.view.poses import PRESETS, REST, groups_of, preset
from chorus.view.session import ANY, Question, Session

RESOLUTION = 20


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, body: Body) -> Store:
    path = tmp_path_factory.mktemp("view") / "balls.chorus"
    write_world(path, [WORLDS["ball-held"], WORLDS["ball-kicked"]], num_images=120, body=body)
    return open_store(path)


@pytest.fixture
def session(store: Store, body: Body) -> Session:
    """Of the ball that is held, with the field in which it is rigid."""
    prompt = next(p for p in store.prompts if "hold" in p)
    asked = Question(prompt=prompt, canonicalization="joint:right_hand")
    return Session(None, body, store=store, resolution=RESOLUTION, question=asked)


def test_surfaces_are_nested_and_follow_the_threshold(session: Session) -> None:
    shells = session.shells()
    assert [shell.level for shell in shells] == sorted(shell.level for shell in shells)
    assert len(shells) == 3
    outer, *inner = [trimesh.Trimesh(shell.vertices, shell.faces, process=False) for shell in shells]
    assert outer.is_watertight
    for mesh in inner:
        assert (mesh.bounds[0] >= outer.bounds[0]).all()
        assert (mesh.bounds[1] <= outer.bounds[1]).all()
        assert mesh.volume < outer.volume
    session.threshold = session.largest * 0.9
    smaller = trimesh.Trimesh(session.shells()[0].vertices, session.shells()[0].faces, process=False)
    assert smaller.volume < 0.7 * outer.volume
    session.threshold = 1.1
    assert session.shells() == []


def test_the_object_follows_the_hand(session: Session, body: Body) -> None:
    hand = body.joint_names.index("right_hand")
    for name in PRESETS:
        session.set_pose(preset(body, name))
        at = session.shells()[0].vertices.mean(0)
        assert np.linalg.norm(at - body.posed_joints(session.pose[None])[0, hand]) < 0.35, name
        assert np.allclose(session.person(), body.posed_vertices(session.pose[None])[0], atol=1e-6)
    session.set_pose(preset(body, REST))
    assert np.array_equal(session.phi(), session.distribution.probability)


def test_presets_are_what_they_are_called(body: Body) -> None:
    joints = {name: body.posed_joints(preset(body, name)[None])[0] for name in PRESETS}
    index = body.joint_names.index
    assert joints["arms down"][index("left_wrist"), 1] < joints["T"][index("left_wrist"), 1] - 0.3
    assert joints["arms forward"][index("right_wrist"), 2] > joints["T"][index("right_wrist"), 2] + 0.3
    assert joints["right arm raised"][index("right_wrist"), 1] > joints["T"][index("right_wrist"), 1] + 0.3
    assert joints["sitting"][index("left_knee"), 2] > 0.25
    assert joints["sitting"][index("left_ankle"), 1] < joints["sitting"][index("left_knee"), 1] - 0.25
    assert joints["walking"][index("left_ankle"), 2] > joints["walking"][index("right_ankle"), 2] + 0.3
    groups = groups_of(body)
    assert sum(len(joints) for joints in groups.values()) == 16
    assert body.joint_names[groups["left arm"][1]] == "left_elbow"


def test_other_questions_are_answered_as_aggregate_does(session: Session, store: Store) -> None:
    seen: list[tuple[int, int | None]] = []
    question = Question(prompt=ANY, part="rightHand", weighting="none", canonicalization="lbs")
    session.ask(question, lambda done, total: seen.append((done, total)))
    want = aggregate(store, session.field, "none", part="rightHand")
    assert np.allclose(session.distribution.probability, want.probability)
    assert session.distribution.num_images == want.num_images
    assert seen
    assert session.field.canonicalization == "lbs"
    seen.clear()
    before = session.distribution.probability
    for weighting in session.weightings():
        session.ask(Question(ANY, "rightHand", weighting, "lbs"), lambda done, total: seen.append((done, total)))
        assert session.distribution.weighting == weighting
    assert seen == []  # no image was asked again
    assert len(session.weightings()) == 5
    session.ask(Question(ANY, "rightHand", "azimuth", "lbs"))
    assert not np.array_equal(session.distribution.probability, before)
    with pytest.raises(InputError):
        session.ask(Question(prompt="a prompt that no image has"))
    assert session.question == Question(ANY, "rightHand", "azimuth", "lbs")


def test_an_image_and_what_it_votes_for(session: Session) -> None:
    batch = session.cameras(9)
    assert 2 <= len(batch) <= 9
    row = int(np.argmax([batch.masks.unpack(i).sum() for i in range(len(batch))]))
    picture, mask = session.picture(row), batch.masks.unpack(row)
    assert picture.shape == (*mask.shape, 3)
    assert (picture[mask][:, 0] > picture[mask][:, 2] + 50).all()
    assert (picture[~mask] == 225).all()
    # The voxels lie in the mask's cone: carried by the hand into the image's pose, they fall on the mask.
    session.set_pose(batch.poses[row])
    votes = session.votes(row)
    assert votes is not None
    u, v, z = ((votes.vertices @ batch.cameras.R[row].T + batch.cameras.t[row]) @ batch.cameras.K[row].T).T
    near = np.argwhere(mask).min(0)[::-1] - 45, np.argwhere(mask).max(0)[::-1] + 45  # a voxel is 0.15 m wide
    pixel = np.stack([u / z, v / z], -1)
    inside = ((pixel >= near[0]) & (pixel <= near[1])).all(1)
    assert inside.mean() > 0.95


@pytest.mark.parametrize("name", [REST, "arms forward"])
def test_a_click_finds_the_images_behind_a_voxel(session: Session, body: Body, name: str) -> None:
    session.set_pose(preset(body, name))
    middle = session.shells()[0].vertices.mean(0)
    origin = middle + np.array([0.0, 0, 3])
    at = session.hit(origin, [0, 0, -2.0])
    assert at is not None
    assert np.allclose(at[:2], middle[:2])
    assert middle[2] < at[2] < 3
    assert session.hit(origin, [0, 0, 1.0]) is None
    found = session.behind(middle)
    voxel = session.distribution.probability[found.voxel]
    assert voxel > session.threshold / 2  # the voxel that was carried there, whatever the pose
    assert len(found.on_mask) > len(found.off_mask) / 4
    sheet = session.contact_sheet(found.on_mask[:4], 100)
    assert sheet is not None
    assert sheet.shape == (200, 300, 3)
    orange = (sheet[..., 0].astype(int) - sheet[..., 2] > 80).reshape(2, 100, 3, 100).sum((1, 3))
    assert (orange.ravel()[:4] > 0).all()  # each of the four shows its mask
    assert not orange.ravel()[4:].any()
    assert session.contact_sheet([]) is None
    assert len(found.on_mask) + len(found.off_mask) + found.unseen == session.distribution.num_images


def test_an_occupancy_alone_has_no_images(session: Session, body: Body, tmp_path: Path) -> None:
    alone = Session(session.distribution, body)
    assert alone.prompts() == [ANY]
    alone.ask(replace(alone.question, weighting="none"))
    assert alone.distribution.weighting == "none"
    for ask in (lambda: alone.cameras(), lambda: alone.behind([0, 0, 0]), lambda: alone.ask(Question(part="face"))):
        with pytest.raises(InputError, match="got an occupancy alone"):
            ask()
    alone.write(tmp_path / "shown.glb")
    scene = trimesh.load(tmp_path / "shown.glb")
    assert set(scene.geometry) == {"object", "person"}
    with pytest.raises(InputError, match="distribution: expected"):
        Session(None, body)
    bigger = Body("bigger", body.vertices * 1.1, body.faces, body.joints, body.parents, body.weights, body.joint_names)
    with pytest.raises(MismatchError):
        Session(session.distribution, bigger)
