"""``chorus mesh`` and ``chorus pose``: what they write, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from click import Command
from click.testing import CliRunner, Result
from PIL import Image

from chorus.body.model import Body, load_body
from chorus.commands.mesh import mesh_command, read_volume
from chorus.commands.pose import pose_command, read_pose
from chorus.errors import InputError, MismatchError
from chorus.ingest.record import RecordError
from chorus.occupancy.counts import load_occupancy
from chorus.occupancy.surfaces import OBJECT, PERSON, threshold_of_mass
from tests.occupancy.test_surfaces import EXTENT, ball, occupancy_of


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


def run(command: Command, *arguments: Any) -> Result:
    force = ["--force"] if command is pose_command else []  # the tests write one file again and again
    return CliRunner().invoke(command, [*(str(a) for a in arguments), *force], catch_exceptions=False)


@pytest.fixture(scope="module")
def kept(body: Body, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An occupancy of a ball in the left hand."""
    path = tmp_path_factory.mktemp("surfaces") / "ball.h5"
    hand = body.rest_joints[body.joint_names.index("left_hand")]
    occupancy_of(ball(0.15, hand, 24), body).save(path)
    return path


@pytest.fixture(scope="module")
def raised(body: Body, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The left arm raised by half a radian."""
    pose = np.array(body.rest_pose)
    pose[body.joint_names.index("left_shoulder"), 2] = 0.5
    path = tmp_path_factory.mktemp("poses") / "raised.npy"
    np.save(path, pose)
    return path


def test_the_mesh_command(kept: Path, raised: Path, body: Body, tmp_path: Path) -> None:
    plain, posed = tmp_path / "plain.glb", tmp_path / "posed.glb"
    result = run(mesh_command, kept, "-o", plain)
    assert result.stdout.endswith(f"wrote {plain}\n")
    assert "watertight" in result.stdout
    want = load_occupancy(kept).mesh(0.5)
    assert np.allclose(trimesh.load(plain, force="mesh", process=False).vertices, want.vertices, atol=1e-6)

    arguments = ["-o", posed, "--pose", raised, "--with-body", "--volume", "10 l"]
    facts = json.loads(run(mesh_command, kept, *arguments, "--json").stdout)
    assert facts["volume_m3"] == pytest.approx(0.010, rel=2e-3)
    assert facts["watertight"]
    assert facts["wrote"] == [str(posed)]
    scene = trimesh.load_scene(posed, process=False)
    pose = np.load(raised)
    hand = body.posed_joints(pose[None])[0, body.joint_names.index("left_hand")]
    assert np.linalg.norm(scene.geometry[OBJECT].center_mass - hand) < 0.05
    assert np.linalg.norm(want.center_mass - hand) > 0.2  # it was elsewhere
    assert np.allclose(scene.geometry[PERSON].vertices, body.posed_vertices(pose[None])[0], atol=1e-5)
    mass = json.loads(run(mesh_command, kept, "-o", tmp_path / "m.ply", "--mass", 0.5, "--with-body", "--json").stdout)
    assert mass["threshold"] == pytest.approx(threshold_of_mass(load_occupancy(kept).probability, 0.5), abs=1e-5)
    with pytest.raises(InputError, match="expected one of them, got threshold and mass"):
        run(mesh_command, kept, "-o", plain, "--mass", 0.5, "--threshold", 0.2)
    with pytest.raises(InputError, match="threshold: expected at most the highest probability"):
        run(mesh_command, kept, "-o", plain, "--threshold", 1.5)
    with pytest.raises(InputError, match="--output: expected a name ending in"):
        run(mesh_command, kept, "-o", tmp_path / "x.fbx")


def test_volumes_have_units() -> None:
    assert read_volume("12l") == pytest.approx(0.012)
    assert read_volume(" 0.5 L") == pytest.approx(0.0005)
    assert read_volume("0.012m3") == read_volume("1.2e-2 m^3") == 0.012
    for wrong in ("12", "12 ml", "l", "1.2.3l", ""):
        with pytest.raises(InputError, match=r"--volume: expected a number with a unit, as in 12l or 0\.012m3, got"):
            read_volume(wrong)


def test_the_pose_command(kept: Path, raised: Path, body: Body, tmp_path: Path) -> None:
    out, picture, mesh = tmp_path / "posed.npz", tmp_path / "posed.png", tmp_path / "posed.ply"
    how = {"inverse": "inverse_of_blend", "interpolation": "trilinear"}
    arguments = [f"--{name}={value}" for name, value in how.items()]
    arguments += ["-o", out, "--picture", picture, "--mesh", mesh, "--threshold", 0.3]
    result = run(pose_command, kept, raised, *arguments)
    assert result.stdout.splitlines()[-3:] == [f"wrote {path}" for path in (out, picture, mesh)]
    occupancy, pose = load_occupancy(kept), np.load(raised)
    with np.load(out, allow_pickle=False) as file:
        want = occupancy.posed(pose, **how)
        assert np.array_equal(file["phi"], want)
        assert np.array_equal(file["pose"], pose)
        assert file["extent"] == EXTENT
        assert str(file["body_hash"]) == body.hash
        assert {name: str(file[name]) for name in how} == how
        assert str(file["field_hash"]) == occupancy.field_hash
        assert json.loads(str(file["provenance"]))["occupancy"] == str(kept)
    assert np.asarray(Image.open(picture)).std() > 5
    vertices = trimesh.load(mesh, force="mesh", process=False).vertices
    assert np.allclose(vertices[-len(body.vertices) :], body.posed_vertices(pose[None])[0], atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["posed.npz", "posed.ply", "posed.png"]

    several = tmp_path / "several.npz"
    np.savez(several, pose=np.stack([pose, body.rest_pose]), names=np.array(["a", "b"]))
    facts = json.loads(run(pose_command, kept, several, "-o", out, "--json").stdout)
    assert facts["poses"] == 2
    with np.load(out) as file:
        assert np.array_equal(file["phi"], occupancy.posed(np.stack([pose, body.rest_pose])))
    with pytest.raises(InputError, match="--picture, --mesh: expected one pose, \\(J, 3\\), got 2"):
        run(pose_command, kept, several, "-o", out, "--mesh", mesh)
    with pytest.raises(InputError, match=r"--output: expected a name ending in \.npz"):
        run(pose_command, kept, raised, "-o", tmp_path / "posed.txt")
    with pytest.raises(InputError, match="--pose: expected one pose"):
        run(mesh_command, kept, "-o", mesh, "--pose", several)


def test_another_body_is_refused(kept: Path, raised: Path, body: Body, tmp_path: Path) -> None:
    other = Body("other", 1.1 * body.vertices, body.faces, body.joints, body.parents, body.weights, body.joint_names)
    other.save(tmp_path / "other.npz")
    with pytest.raises(MismatchError, match="body: expected the one with hash"):
        run(pose_command, kept, raised, "-o", tmp_path / "posed.npz", "--body", tmp_path / "other.npz")
    with pytest.raises(MismatchError, match="body: expected the one with hash"):
        run(mesh_command, kept, "-o", tmp_path / "x.glb", "--with-body", "--body", tmp_path / "other.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["other.npz"]


def test_poses_are_read(body: Body, tmp_path: Path) -> None:
    pose = np.array(body.rest_pose)
    np.save(tmp_path / "a.npy", pose.astype(np.float32))
    assert np.allclose(read_pose(tmp_path / "a.npy"), pose)
    np.savez(tmp_path / "b.npz", anything=pose[None])
    assert np.array_equal(read_pose(tmp_path / "b.npz"), pose[None])
    record = tmp_path / "record"
    record.mkdir()
    turned = pose + np.eye(24, 3)  # row 0: a global orientation, which the pose is without
    content = {"category": "ball", "image_size": [8, 6], "pose_axis_angle": turned.tolist()}
    (record / "record.json").write_text(json.dumps(content))
    Image.fromarray(np.full((6, 8), 255, np.uint8)).save(record / "object_mask.png")
    want = np.array(turned)
    want[0] = 0
    assert np.allclose(read_pose(record), want)

    np.savez(tmp_path / "two.npz", a=pose, b=pose)
    np.save(tmp_path / "flat.npy", pose.ravel())
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("two.npz", "POSE: expected an array, or one named pose, in"),
        ("flat.npy", "POSE: expected shape (J, 3), got (72,)"),
        ("objects.npy", "POSE: expected a .npy or .npz file of numbers"),
        ("text.npy", "POSE: expected a .npy or .npz file of numbers"),
        ("cut.npz", "POSE: expected a .npy or .npz file of numbers"),
        ("missing.npy", "POSE: expected a .npy or .npz file or a record's folder"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            read_pose(tmp_path / name)
    with pytest.raises(RecordError):
        read_pose(tmp_path / "empty")


def test_the_pose_command_takes_shape_coefficients(kept: Path, raised: Path, body: Body, tmp_path: Path) -> None:
    shaped = Body(
        "shaped",
        body.vertices,
        body.faces,
        body.joints,
        body.parents,
        body.weights,
        body.joint_names,
        shapedirs=0.1 * np.asarray(body.vertices)[..., None],
        joint_shapedirs=0.1 * np.asarray(body.joints)[..., None],
    )
    shaped.save(tmp_path / "shaped.npz")
    hand = body.rest_joints[body.joint_names.index("left_hand")]
    occupancy_of(ball(0.15, hand, 24), shaped).save(tmp_path / "ball.h5")
    out, mesh = tmp_path / "posed.npz", tmp_path / "posed.ply"
    common = [tmp_path / "ball.h5", raised, "--body", tmp_path / "shaped.npz", "-o", out]
    run(pose_command, *common, "--betas", "-1.5", "--mesh", mesh)
    occupancy, pose = load_occupancy(tmp_path / "ball.h5"), np.load(raised)
    with np.load(out) as file:
        assert np.array_equal(file["phi"], occupancy.posed(pose, shaped, betas=[-1.5]))
        assert not np.array_equal(file["phi"], occupancy.posed(pose, shaped))
        assert file["betas"].tolist() == [-1.5]
    vertices = trimesh.load(mesh, force="mesh", process=False).vertices
    assert np.allclose(vertices[-len(body.vertices) :], shaped.posed_vertices(pose[None], [-1.5])[0], atol=1e-5)
    with pytest.raises(InputError, match="--betas: expected numbers with commas between them, got '1,x'"):
        run(pose_command, *common, "--betas", "1,x")
    with pytest.raises(InputError, match="--betas: expected finite numbers"):
        run(pose_command, *common, "--betas", "1,nan")
    with pytest.raises(InputError, match="betas: expected at most the body's 0 shape coefficients, got 1"):
        run(pose_command, kept, raised, "-o", out, "--betas", "1")
