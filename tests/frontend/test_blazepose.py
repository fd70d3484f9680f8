"""BlazePose: weights and their archives, squares, the stages on a made-up network, and with real weights where they are.

Tests with real weights take those of CHORUS_BLAZEPOSE (a .task bundle, or mediapipe's wheel), else fetch them from PyPI.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from bench.harness.landmarks import IMAGE, joint_errors, people
from chorus.body.model import load_body
from chorus.camera.cameras import Cameras
from chorus.errors import InputError
from chorus.frontend import registry
from chorus.frontend.blazepose import weights
from chorus.frontend.blazepose.__main__ import main
from chorus.frontend.blazepose.network import SIDE, Landmarks, Square, refined
from chorus.frontend.blazepose.stages import BlazePoseHumans, BlazePoseKeypoints
from chorus.frontend.cameras import calibrate
from chorus.frontend.checking.check import check_all
from chorus.frontend.rows import PendingRow, take_human
from chorus.frontend.stages import Human, ImageRequest, Picture, Refusal, Runtime
from chorus.keypoints import COCO_OF_BLAZEPOSE
from chorus.pictures import read_picture
from chorus.render import face_normals, render_mesh, shade
from tests.photographs import SKIER, SKIER_BOX

BODY = load_body()
MODEL = b"\x1c\0\0\0TFL3 and so on"
WHOLE = np.array([[0, 0, IMAGE, IMAGE]], np.float32)
PICTURE = Picture(ImageRequest("a.jpg", "a person"), np.zeros((IMAGE, IMAGE, 3), np.uint8))


# --- weights ----------------------------------------------------------------------------------------------------------------


def archive(path: Path, *members: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in members:
            file.writestr(name, MODEL + name.encode())
    return path


def test_weights_are_read_from_files_bundles_and_wheels(tmp_path: Path) -> None:
    bare = tmp_path / "bare.tflite"
    bare.write_bytes(MODEL)
    assert weights.read_weights(bare) == MODEL
    bundle = archive(tmp_path / "a.task", "pose_detector.tflite", "pose_landmarks_detector.tflite")
    assert weights.read_weights(bundle).endswith(b"pose_landmarks_detector.tflite")
    assert weights.read_detector(bundle).endswith(b"pose_detector.tflite")
    folder = "mediapipe/modules/pose_landmark/"
    wheel = archive(tmp_path / "a.whl", f"{folder}pose_landmark_lite.tflite", f"{folder}pose_landmark_full.tflite")
    assert weights.read_weights(wheel).endswith(b"full.tflite")
    with pytest.raises(InputError, match=r"expected an archive that holds pose_detection\.tflite or the like"):
        weights.read_detector(wheel)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds pose_landmark_full\.tflite"):
        weights.read_weights(archive(tmp_path / "a.zip", "pose_detector.tflite"))
    text = tmp_path / "a.tflite"
    text.write_text("no model")
    with pytest.raises(InputError, match="expected a model of TensorFlow Lite"):
        weights.read_weights(text)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(archive(tmp_path / "b.zip", "pose_landmark_full.tflite").read_bytes().replace(MODEL, b"x" * len(MODEL), 1))
    with pytest.raises(InputError, match=r"cut\.zip: expected a file or archive that can be read"):
        weights.read_weights(cut)


def test_without_weights_the_stage_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHORUS_CACHE", str(tmp_path))
    monkeypatch.setattr(registry, "is_installed", lambda _: True)
    for kind in ("keypoints", "humans"):
        with pytest.raises(InputError, match=r"fetch them once: python -m chorus\.frontend\.blazepose"):
            registry.check(kind, "blazepose", Runtime(body=BODY))
        with pytest.raises(InputError, match=r"expected a \.tflite file, a \.task bundle or mediapipe's wheel, got 'missing'"):
            registry.check(kind, "blazepose=missing", Runtime(body=BODY))
    kinds = {outcome.kind: outcome for outcome in check_all() if outcome.name == "blazepose"}
    assert {kind: outcome.state for kind, outcome in kinds.items()} == {"keypoints": "not here", "humans": "not here"}
    assert "fetch them once" in kinds["humans"].reason
    path = weights.default_path()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(MODEL)
    assert registry.check("humans", "blazepose", Runtime(body=BODY))[1] == "full"
    weights.default_path(weights.DETECTOR).write_bytes(MODEL)
    assert weights.fetch() == path  # they are there: nothing is downloaded
    with pytest.raises(InputError, match="min_visibility: expected a number from 0 to 1, got '2'"):
        registry.check("humans", "blazepose", Runtime(body=BODY, options={"min_visibility": "2"}))
    monkeypatch.setattr(registry, "is_installed", lambda _: False)
    with pytest.raises(ImportError, match=r"ai_edge_litert.*pip install '\.\[blazepose\]'"):
        registry.check("humans", "blazepose", Runtime(body=BODY))


def test_fetching_takes_the_model_out_of_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHORUS_CACHE", str(tmp_path))
    asked: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        archive(Path(command[command.index("--dest") + 1]) / "mediapipe.whl", *(f"m/{name}" for name in weights.SHA256))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(weights.subprocess, "run", pip)
    with pytest.raises(InputError, match=r"expected the known weights in mediapipe==0\.10\.21, got another pose_landmark_full"):
        weights.fetch()
    assert not weights.default_path().exists()
    contents = {name: MODEL + f"m/{name}".encode() for name in weights.SHA256}
    monkeypatch.setattr(weights, "SHA256", {name: hashlib.sha256(c).hexdigest() for name, c in contents.items()})
    assert main() == 0
    assert str(weights.default_path()) in capsys.readouterr().out
    assert {name: weights.default_path(name).read_bytes() for name in contents} == contents
    assert asked[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert asked[0][-1] == weights.WHEEL
    assert "--no-deps" in asked[0]

    weights.default_path().unlink()
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no network\n")
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: failed)
    assert main() == 2
    assert "expected pip to download mediapipe==0.10.21, it said: ERROR: no network" in capsys.readouterr().err


# --- squares and heat maps --------------------------------------------------------------------------------------------------


def test_a_square_and_its_points_are_of_one_mind() -> None:
    rows, columns = np.mgrid[:300, :400]
    for square in (Square(200, 150, 200), Square(180, 140, 150, 0.5), Square(210, 160, 120, -2.2), Square(200, 150, 600, 1.0)):
        at = square.to_image(np.array([[0.3, 0.6]]))[0]
        blob = np.exp(-((columns + 0.5 - at[0]) ** 2 + (rows + 0.5 - at[1]) ** 2) / 50)
        cut = square.cut(np.repeat((255 * blob)[..., None], 3, 2).astype(np.uint8))[..., 0]
        assert cut.shape == (SIDE, SIDE)
        place = np.array([(cut.sum(0) @ (np.arange(SIDE) + 0.5)), (cut.sum(1) @ (np.arange(SIDE) + 0.5))]) / cut.sum() / SIDE
        np.testing.assert_allclose(place, [0.3, 0.6], atol=0.006)
    upright = Square(0, 0, 10, math.pi / 2)  # the square's up is the image's right
    np.testing.assert_allclose(upright.to_image(np.array([[0.5, 0.0]])), [[5, 0]], atol=1e-12)
    assert not Square(-500, -500, 100).cut(np.full((50, 50, 3), 255, np.uint8)).any()


def test_points_are_moved_to_sure_peaks_alone() -> None:
    heat = np.full((64, 64, 3), -20.0, np.float32)
    heat[20, 31, 0] = heat[10, 10, 1] = 5
    heat[20, 31, 2] = -1
    points = np.array([[30.5 / 64, 20.5 / 64]] * 3)
    moved = refined(points, heat)
    np.testing.assert_allclose(moved[0], [31 / 64, 20 / 64], atol=1e-6)
    np.testing.assert_array_equal(moved[1:], points[1:])  # too far away; not sure
    np.testing.assert_array_equal(refined(points + 5, heat), points + 5)


# --- stages, on landmarks that are known ------------------------------------------------------------------------------------


class Known:
    """A network that gives the landmarks of simulated people, one after the other."""

    def __init__(self, found: list[Landmarks]) -> None:
        self.found = iter(found)

    def find(self, pixels: np.ndarray, box: np.ndarray) -> Landmarks:
        return next(self.found)


def found_of(made: Any, **changed: Any) -> list[Landmarks]:
    pairs = zip(made.landmarks, made.world, strict=True)
    return [Landmarks(points, world, 0.99, 1.0)._replace(**changed) for points, world in pairs]


def test_humans_of_known_landmarks_and_the_camera_fitted_to_them() -> None:
    made = people(BODY, 6, pixels=1, metres=0.01)
    stage = BlazePoseHumans(Known(found_of(made)), BODY)  # type: ignore[arg-type]
    humans = stage.humans([PICTURE] * 6, np.tile(WHOLE, (6, 1)))
    assert all(isinstance(human, Human) for human in humans)
    kept = [human for human in humans if isinstance(human, Human)]
    cameras = calibrate(kept, [(IMAGE, IMAGE)] * 6, BODY, method="levenberg-marquardt")
    assert cameras.reasons == ("",) * 6
    assert (cameras.residual_px < 6).all()
    # crop_camera makes the focal length a fixed one: it would trade against the distance.
    np.testing.assert_allclose(cameras.cameras.K[:, 0, 0], made.cameras.K[:, 0, 0])
    np.testing.assert_allclose(cameras.cameras.t[:, 2], made.cameras.t[:, 2], rtol=0.15)
    turned = Rotation.from_matrix(made.cameras.R).inv() * Rotation.from_matrix(cameras.cameras.R)
    assert np.degrees(np.median(turned.magnitude())) < 15
    for human, camera in zip(kept, made.cameras.t, strict=True):
        assert human.crop_camera is not None
        scale, tx, ty = human.crop_camera
        z = 2 * made.cameras.K[0, 0, 0] / (IMAGE * scale)
        np.testing.assert_allclose([tx, ty, z], camera, atol=0.5)
        assert human.limbs_seen is not None
        assert human.limbs_seen.all()
        assert human.joint_std is not None
        assert (human.joint_std[:22] > 0).all()
        assert human.estimator == "blazepose"
    assert np.median(joint_errors(np.stack([human.pose for human in kept]), made.poses)) < 25


def test_who_is_not_there_or_too_small_is_refused() -> None:
    made = people(BODY, 1)
    absent, elsewhere = found_of(made, presence=0.1) + found_of(made, inside=0.2)
    blind = found_of(made)[0]
    blind = blind._replace(points=blind.points * [1, 1, 0.1])
    stage = BlazePoseHumans(Known([absent, elsewhere, blind]), BODY)  # type: ignore[arg-type]
    small = np.array([[0, 0, 9, 12]], np.float32)
    found = stage.humans([PICTURE] * 4, np.concatenate([small, np.tile(WHOLE, (3, 1))]))
    reasons = ["person too small", "no 3D pose", "no 3D pose", "no 3D pose: too few landmarks seen"]
    assert [one.reason for one in found if isinstance(one, Refusal)] == reasons
    assert stage.humans([], np.zeros((0, 4), np.float32)) == []
    keypoints = BlazePoseKeypoints(Known([absent])).keypoints([PICTURE], WHOLE)  # type: ignore[arg-type]
    assert not keypoints[0, :, 2].any()


def test_keypoints_are_the_landmarks_of_coco() -> None:
    made = people(BODY, 2)
    found = BlazePoseKeypoints(Known(found_of(made))).keypoints([PICTURE] * 2, np.tile(WHOLE, (2, 1)))  # type: ignore[arg-type]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, made.landmarks[:, COCO_OF_BLAZEPOSE], rtol=1e-5)


def test_limbs_become_scores_of_the_row() -> None:
    row = PendingRow(PICTURE.request, PICTURE)
    human = Human(np.zeros((24, 3)), np.zeros(3), np.zeros((24, 2)), limbs_seen=np.array([True, False, True, True]))
    take_human(row, human)
    assert row.scores == {"limb_left_arm": 1, "limb_left_leg": 0, "limb_right_arm": 1, "limb_right_leg": 1}
    with pytest.raises(InputError, match="limbs_seen: expected"):
        replace(human, limbs_seen=np.array([True]))
    with pytest.raises(InputError, match="joint_std: expected"):
        replace(human, joint_std=np.zeros(3))


# --- with real weights ------------------------------------------------------------------------------------------------------


def rendered(pose: np.ndarray, azimuth: float) -> tuple[Picture, Cameras]:
    """The mannequin, shaded, in front of a plain wall."""
    R = np.diag([1.0, -1.0, -1.0]) @ Rotation.from_rotvec([0, azimuth, 0]).as_matrix()
    focal = 1.167 * IMAGE
    K = np.array([[focal, 0, IMAGE / 2], [0, focal, IMAGE / 2], [0, 0, 1.0]])
    camera = Cameras(R[None], [[0, -0.1, 2.8]], K[None], [[IMAGE, IMAGE]])
    vertices = BODY.posed_vertices(pose[None])[0]
    _, face = render_mesh(vertices, BODY.faces, camera)
    lit = shade(face, face_normals(vertices, BODY.faces) @ R.T * [1, -1, -1], colour=(0.8, 0.55, 0.45))
    pixels = np.where((face >= 0)[..., None], lit, 225).astype(np.uint8)
    return Picture(ImageRequest("rendered.png", "a person"), pixels), camera


def test_a_rendered_mannequin_is_found_and_posed(real_weights: str) -> None:
    pose = BODY.rest_pose.copy()
    names = list(BODY.joint_names)
    pose[names.index("left_shoulder"), 2], pose[names.index("right_shoulder"), 2] = -0.9, 0.3
    pose[names.index("right_elbow"), 1] = 0.9
    pose[names.index("left_hip"), 0], pose[names.index("left_knee"), 0] = -0.7, 0.8
    picture, camera = rendered(pose, 0.4)
    rows = np.argwhere((picture.pixels != 225).any(2))
    box = np.array([[*rows.min(0)[::-1], *(rows.max(0)[::-1] + 1)]], np.float32)
    (human,) = registry.make("humans", f"blazepose={real_weights}", Runtime(body=BODY)).humans([picture], box)
    assert isinstance(human, Human), human
    fitted = calibrate([human], [picture.size], BODY, method="levenberg-marquardt")
    true = camera.project(BODY.posed_joints(pose[None]))[0][0]
    found = fitted.cameras.project(BODY.posed_joints(human.pose[None]))[0][0]
    height = float(box[0, 3] - box[0, 1])
    assert np.median(np.linalg.norm(found - true, axis=1)) < 0.04 * height
    across = [names.index("left_shoulder"), names.index("right_shoulder")]
    assert np.sign(np.subtract(*found[across, 0])) == np.sign(np.subtract(*true[across, 0]))  # not taken for a back
    posed = BODY.posed_joints(human.pose[None])[0]
    bones = [(a, b) for a, b in (("left_hip", "left_knee"), ("right_elbow", "right_wrist"), ("left_shoulder", "left_elbow"))]
    for start, end in bones:
        a, b = names.index(start), names.index(end)
        there = camera.R[0] @ (BODY.posed_joints(pose[None])[0][b] - BODY.posed_joints(pose[None])[0][a])
        here = fitted.cameras.R[0] @ (posed[b] - posed[a])
        angle = np.degrees(np.arccos(np.clip(there @ here / np.linalg.norm(there) / np.linalg.norm(here), -1, 1)))
        assert angle < 30, (start, angle)
    keypoints = registry.make("keypoints", f"blazepose={real_weights}", Runtime()).keypoints([picture], box)
    assert keypoints.shape == (1, 17, 3)
    empty = Picture(picture.request, np.full_like(picture.pixels, 225))
    (nobody,) = registry.make("humans", f"blazepose={real_weights}", Runtime(body=BODY)).humans([empty], box)
    assert isinstance(nobody, Refusal)


def test_weights_of_another_model_are_refused(real_weights: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(MODEL)
    with pytest.raises(InputError, match="expected a model that LiteRT can run"):
        registry.make("keypoints", f"blazepose={path}", Runtime())


def test_a_real_photograph(real_weights: str) -> None:
    pixels = read_picture(SKIER)
    picture = Picture(ImageRequest(SKIER.name, "a person rides skis"), pixels)
    box = np.array([SKIER_BOX], np.float32)
    # Shoulders, hips, knees and ankles as COCO's annotators put them, left and right.
    annotated = np.array([[399, 108], [358, 129], [424, 203], [393, 214], [429, 294], [367, 273], [466, 362], [396, 341]])
    (human,) = registry.make("humans", f"blazepose={real_weights}", Runtime(body=BODY)).humans([picture], box)
    assert isinstance(human, Human)
    fitted = calibrate([human], [picture.size], BODY, method="levenberg-marquardt")
    joints = fitted.cameras.project(BODY.posed_joints(human.pose[None]))[0][0]
    names = [f"{side}_{part}" for part in ("shoulder", "hip", "knee", "ankle") for side in ("left", "right")]
    off = np.linalg.norm(joints[[BODY.joint_names.index(name) for name in names]] - annotated, axis=1) / (391 - 45)
    assert np.median(off) < 0.035
    assert fitted.residual_px[0] < 8
