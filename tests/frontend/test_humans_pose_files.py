"""3D poses found elsewhere: the layout of docs/humans.md, in both formats, and what is refused."""

from __future__ import annotations

import json
import os
import zipfile

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from chorus.body.model import load_body
from chorus.errors import InputError
from chorus.frontend import registry
from chorus.frontend.humans.pose_files import PosesFromFiles
from chorus.frontend.stages import Human, ImageRequest, Picture, Refusal, Runtime
from chorus.ingest.poses import arrays
from tests.frontend.tiny_humans import shapely

BODY = load_body()
HEIGHT, WIDTH = 120, 200
ORIGIN = np.array([-0.0018, -0.2233, 0.0282])
FACING = Rotation.from_rotvec([np.pi, 0, 0])


def picture(key: str, height: int = HEIGHT, width: int = WIDTH) -> Picture:
    return Picture(ImageRequest(key, "x"), np.zeros((height, width, 3), np.uint8))


def base(n: int = 3) -> dict[str, object]:
    """n people without a camera."""
    rng = np.random.default_rng(0)
    pose = rng.normal(size=(n, 24, 3)) * 0.3
    pose[:, 0] = (Rotation.from_rotvec(rng.normal(size=(n, 3)) * 0.3) * FACING).as_rotvec()
    return {"keys": np.array([f"set/{i}.jpg" for i in range(n)]), "pose": pose, "betas": rng.normal(size=(n, 10))}


def weak(n: int = 3) -> dict[str, object]:
    return base(n) | {"weak_camera": np.array([[0.8, 0.1, -0.05]] * n), "crop": np.array([[90.0, 70.0, 100.0]] * n)}


def camera(n: int = 3) -> dict[str, object]:
    R = Rotation.from_rotvec([[0.1, -0.2, 0.3]] * n).as_matrix()
    K = np.array([[[300, 0, 100], [0, 310, 60], [0, 0, 1]]] * n, float)
    return base(n) | {"R": R, "t": np.array([[0.1, 0.2, 4.0]] * n), "K": K}


def joints(n: int = 3) -> dict[str, object]:
    return base(n) | {"joints": np.random.default_rng(1).uniform(-50, 300, (n, 24, 2))}


def test_a_focal_length_about_the_images_centre(find):
    content = camera()
    del content["K"]
    for unit, pixels in (("pixels", 1), ("width", WIDTH), ("longer side", WIDTH), ("diagonal", np.hypot(WIDTH, HEIGHT))):
        for row, human in enumerate(find({**content, "focal": 1.5, "focal_unit": unit})):
            wanted = [[1.5 * pixels, 0, WIDTH / 2], [0, 1.5 * pixels, HEIGHT / 2], [0, 0, 1]]
            np.testing.assert_allclose(human.camera.K[0], wanted)
            R = content["R"][row] @ Rotation.from_rotvec(content["pose"][row, 0]).as_matrix()
            np.testing.assert_allclose(human.camera.R[0], R)


def test_a_square_crop_about_the_image(find):
    content = weak()
    del content["crop"]
    square = find({**content, "square": True})
    side = find({**content, "crop": np.array([[WIDTH / 2, HEIGHT / 2, max(WIDTH, HEIGHT)]] * 3)})
    for one, other in zip(square, side, strict=True):
        np.testing.assert_allclose(one.joints, other.joints)


def write(path, content):
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in content.items()}
        path.write_text(json.dumps(plain).replace("NaN", "null"))
    return path


@pytest.fixture(params=[".npz", ".json"])
def find(request, tmp_path):
    """What is found for a file's people, in one format and the other."""

    def find(content, keys=("set/0.jpg", "set/1.jpg", "set/2.jpg")):
        stage = registry.make("humans", f"records={write(tmp_path / f'x{request.param}', content)}", Runtime(body=BODY))
        return stage.humans([picture(key) for key in keys], np.zeros((len(keys), 4), np.float32))

    return find


def test_weak_cameras_project_joints_from_their_crop(find):
    content = weak()
    found = find(content)
    for row, human in enumerate(found):
        pose = content["pose"][row]
        assert isinstance(human, Human)
        np.testing.assert_allclose(human.pose[1:], pose[1:])
        np.testing.assert_allclose(human.orientation, pose[0], atol=1e-12)
        np.testing.assert_allclose(human.betas, content["betas"][row])
        turned = BODY.posed_joints(pose[None])[0]
        crop = 0.8 * (turned[:, :2] + [0.1, -0.05])  # -1..1 across [40, 140) x [20, 120)
        np.testing.assert_allclose(human.joints, 50 * crop + [90, 70], atol=1e-9)
        np.testing.assert_allclose(human.crop_camera, [0.8, 0.1, -0.05])


def test_a_weak_camera_without_crop_is_of_the_images_width_and_may_have_an_origin(find):
    content = weak() | {"origin": ORIGIN, "estimator": "model 7"}
    del content["crop"]
    human = find(content)[1]
    turned = BODY.posed_joints(content["pose"][1:2])[0] + ORIGIN
    expected = WIDTH / 2 * 0.8 * (turned[:, :2] + [0.1, -0.05]) + [WIDTH / 2, HEIGHT / 2]
    np.testing.assert_allclose(human.joints, expected, atol=1e-9)
    assert human.estimator == "model 7"


def test_shape_moves_the_joints_but_not_the_pelvis_that_the_origin_names(tmp_path):
    content, body = weak(), shapely()
    (human,) = PosesFromFiles(write(tmp_path / "x.npz", content), body).humans([picture("set/1.jpg")], np.zeros((1, 4)))
    turned = body.posed_joints(content["pose"][1:2], content["betas"][1:2, :2])[0]
    expected = 0.8 * ((turned - turned[0])[:, :2] + [0.1, -0.05])
    np.testing.assert_allclose(human.joints, 50 * expected + [90, 70], atol=1e-9)


def test_perspective_cameras_move_into_the_persons_frame(find):
    content = camera() | {"origin": np.tile(ORIGIN, (3, 1)), "image_size": np.array([[HEIGHT, WIDTH]] * 3)}
    human = find(content)[2]
    pose, R, t, K = (content[name][2] for name in ("pose", "R", "t", "K"))
    in_theirs = BODY.posed_joints(pose[None])[0] + ORIGIN  # with the global orientation, about the pelvis
    x = (R @ in_theirs.T).T + t
    uvz = x @ K.T
    uv, z = human.camera.project(BODY.posed_joints(human.pose[None]))
    np.testing.assert_allclose(uv[0], uvz[:, :2] / uvz[:, 2:], atol=1e-8)
    np.testing.assert_allclose(z[0], x[:, 2])
    np.testing.assert_array_equal(human.camera.image_size, [[HEIGHT, WIDTH]])
    np.testing.assert_allclose(Rotation.from_rotvec(human.orientation).as_matrix(), human.camera.R[0], atol=1e-12)
    assert human.joints is None


def test_joints_are_taken_as_they_are_and_may_be_missing(find):
    content = joints()
    content["joints"][0, 5] = np.nan
    human = find(content)[0]
    np.testing.assert_allclose(human.joints, content["joints"][0])
    assert human.camera is None


def test_the_orientation_may_stand_by_itself(find):
    content = joints()
    stated = content["pose"][:, 0].copy()
    both = find(content | {"orientation": stated})
    content["pose"][:, 0] = 0
    apart = find(content | {"orientation": stated})
    for row in range(3):
        np.testing.assert_allclose(both[row].orientation, stated[row], atol=1e-12)
        np.testing.assert_allclose(apart[row].orientation, stated[row], atol=1e-12)
    with pytest.raises(InputError, match=r"pose: expected a global orientation .* in row 0"):
        find(content)
    find(camera() | {"pose": content["pose"]})  # the camera may hold it all


def test_keys_that_are_not_there_and_pictures_of_another_size(tmp_path):
    path = write(tmp_path / "x.npz", weak() | {"image_size": [[HEIGHT, WIDTH], [WIDTH, HEIGHT], [HEIGHT, WIDTH]]})
    stage = PosesFromFiles(path, BODY)
    assert len(stage) == 3
    boxes = np.zeros((3, 4), np.float32)
    first, turned, missing = stage.humans([picture("set/0.jpg"), picture("set/1.jpg"), picture("set/9.jpg")], boxes)
    assert isinstance(first, Human)
    assert turned == Refusal("3D pose of another image size")
    assert missing == Refusal("no 3D pose")


def test_a_folder_is_all_of_its_files(tmp_path):
    write(tmp_path / "a.npz", weak(2))
    write(tmp_path / "b.json", joints() | {"keys": ["set/7.jpg", "8", "ü"]})
    (tmp_path / "notes.txt").write_text("not read")
    os.symlink(tmp_path / "a.npz", tmp_path / "link.npz")
    stage = PosesFromFiles(tmp_path, BODY)
    assert len(stage) == 5
    found = stage.humans([picture("ü"), picture("set/1.jpg")], np.zeros((2, 4), np.float32))
    assert [h.crop_camera is None for h in found] == [True, False]
    write(tmp_path / "c.json", joints(1) | {"keys": ["8"]})
    with pytest.raises(InputError, match=r"c\.json: expected one person of each key, got another of '8' than in .*b\.json"):
        PosesFromFiles(tmp_path, BODY)


def changed(content, **to):
    return content | to


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (base(), r"one kind of camera .* got none"),
        (weak() | {"joints": joints()["joints"]}, "got weak_camera and joints"),
        (camera() | {"crop": weak()["crop"]}, "crop: expected together with weak_camera"),
        ({k: v for k, v in camera().items() if k != "K"}, "K: expected numbers .* got none"),
        (changed(weak(), beta=[1.0]), "beta: expected names among"),
        (changed(weak(), pose=np.zeros((3, 23, 3))), r"pose: expected shape \(3, 24, 3\), got \(3, 23, 3\)"),
        (changed(weak(), keys=["a", "b"]), "pose: expected shape"),
        (changed(weak(), keys=["a", "b", "b"]), "one person of each key, got another of 'b'"),
        (changed(weak(), keys=["a", "b", ""]), "keys: expected a text"),
        (changed(weak(), keys=[1, 2, 3]), "keys: expected a text"),
        (changed(weak(), betas=np.full((3, 10), np.inf)), "betas: expected numbers up to|expected JSON"),
        (changed(weak(), weak_camera=np.zeros((3, 3))), r"weak_camera: expected s > 0, got .* for 'set/0.jpg'"),
        (changed(weak(), crop=np.array([[1.0, 2.0, 0.0]] * 3)), "crop: expected x, y and a side"),
        (changed(joints(), joints=np.full((3, 24, 2), 1e7)), "joints: expected numbers up to"),
        (changed(camera(), R=np.ones((3, 3, 3))), "cameras.R: expected rotations"),
        (changed(camera(), t=np.array([[0.0, 0.0, -4.0]] * 3)), "t: expected the pelvis before the camera"),
        (changed(weak(), orientation=np.zeros((3, 3))), "orientation: expected row 0 of pose"),
        (changed(weak(), image_size=[[0, 5]] * 3), "image_size"),
        (changed(weak(), estimator=["a", "b"]), "estimator: expected 3"),
        (changed(weak(), betas=[[True] * 10] * 3), "betas: expected numbers, got true"),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_what_is_wrong_is_named(tmp_path, content, message, suffix):
    path = tmp_path / f"x{suffix}"
    write(path, content)
    with pytest.raises(InputError, match=message) as caught:
        PosesFromFiles(path, BODY)
    assert str(path) in str(caught.value)


def test_hostile_and_damaged_files(tmp_path, monkeypatch):
    def error(path):
        with pytest.raises(InputError) as caught:
            PosesFromFiles(path, BODY)
        assert str(path) in str(caught.value)
        return str(caught.value)

    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    np.savez(tmp_path / "evil.npz", **(weak() | {"keys": np.array([Evil()], object)}))
    assert "objects" in error(tmp_path / "evil.npz")
    assert not ran.exists()
    whole = write(tmp_path / "cut.npz", weak()).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "damaged" in error(tmp_path / "cut.npz")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x40
    (tmp_path / "bit.npz").write_bytes(flipped)
    assert "damaged" in error(tmp_path / "bit.npz")
    np.save(tmp_path / "bare.npy", np.zeros(3))
    (tmp_path / "bare.npy").rename(tmp_path / "bare.npz")
    assert "named arrays" in error(tmp_path / "bare.npz")
    # A header that claims petabytes.
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000000,), }"
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("pose.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + b"\0" * 80)
    assert "damaged" in error(tmp_path / "huge.npz")
    monkeypatch.setattr(arrays, "MAX_NPZ_BYTES", 1000)
    monkeypatch.setattr(arrays, "MAX_JSON_BYTES", 1000)
    assert "at most 1000 bytes" in error(write(tmp_path / "large.npz", weak()))
    assert "at most 1000 bytes" in error(write(tmp_path / "large.json", weak()))
    for text in ("[1]", "{", '{"pose": [[1], [1, 2]], "keys": ["a", "b"]}', "NaN", "[" * 900, '{"keys": 3}'):
        (tmp_path / "x.json").write_text(text)
        error(tmp_path / "x.json")
    assert "that exists" in error(tmp_path / "missing.npz")
    (tmp_path / "empty").mkdir()
    assert "got none" in error(tmp_path / "empty")
    with pytest.raises(InputError, match="body: expected"):
        registry.make("humans", f"records={tmp_path}", Runtime())
