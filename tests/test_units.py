"""Numbers of suspicious units: what is warned of and what is not, wherever numbers enter."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chorus.body.model import Body, load_body
from chorus.camera.cameras import Cameras
from chorus.commands.pose import read_pose
from chorus.errors import InputError
from chorus.images import ImageBatch
from chorus.ingest.coco_eft import ingest_coco_eft
from chorus.ingest.record import read_record
from chorus.ingest.record_folders import ingest_records
from chorus.store import StoreWriter, open_store
from chorus.units import UnitCheck, UnitsWarning, other_rotations
from tests.ingest.test_coco_eft import scene, write
from tests.ingest.test_record_folders import content, make

BODY = load_body()
SIZE = np.array([[480, 640]])
K = np.array([[[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]])
UPRIGHT = np.diag([1.0, -1.0, -1.0])


def cameras(t: Any = (0, 0, 4), K: Any = K, size: Any = SIZE) -> list[str]:
    units = UnitCheck()
    units.cameras("camera", np.array([t], float), np.asarray(K, float).reshape(1, 3, 3), size, ["a"])
    return units.sentences()


def matrix(fx: float, fy: float, cx: float, cy: float) -> list[list[float]]:
    return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]


@pytest.mark.parametrize("t", [(0, 0, 4), (0, 0, 99.9), (30, 40, 80), (0.1, 0.2, 0.5)])
def test_people_that_stand_where_people_stand(t: Any) -> None:
    assert cameras(t) == []


@pytest.mark.parametrize("t", [(0, 0, 3000), (0, 0, 101), (0, 200, 4), (-70, 70, 30)])
def test_a_translation_in_another_unit(t: Any) -> None:
    distance = np.linalg.norm(t)
    assert cameras(t) == [
        f"camera.t: expected the person at most 100 metres away, got {distance:.4g} m for 'a': "
        "are these millimetres or centimetres?"
    ]


@pytest.mark.parametrize(
    ("given", "size", "words"),
    [
        (matrix(600, 600, 320, 240), SIZE, None),
        (matrix(10, 10, 320, 240), SIZE, None),
        (matrix(1.2, 1.6, 0.5, 0.5), SIZE, "a focal length in pixels, got fx = 1.2, fy = 1.6 in an image of 640 x 480 px"),
        (matrix(600, 1.6, 320, 240), SIZE, "a focal length in pixels"),
        (matrix(600, 600, 0.5, 0.5), SIZE, "a principal point in pixels, got cx, cy = 0.5, 0.5"),
        (matrix(600, 600, 0, 0), SIZE, "a principal point in pixels"),
        (matrix(600, 600, 0.5, 240), SIZE, None),
        (matrix(1.2, 1.6, 0.5, 0.5), [[100, 90]], None),  # a picture of so few pixels may have such a camera
    ],
)
def test_cameras_in_shares_of_the_image(given: Any, size: Any, words: str | None) -> None:
    found = cameras(K=given, size=size)
    assert len(found) == (words is not None)
    assert words is None or f"camera.K: expected {words}" in found[0]


def test_poses_in_degrees() -> None:
    poses = np.zeros((3, 24, 3))
    poses[:, 5] = [[3.0, 0, 0], [0, 90, 0], [0, 0, 45]]
    units = UnitCheck()
    units.poses("poses", poses, [b"a", b"b", b"c"])
    assert units.sentences() == [
        "poses: expected axis-angle in radians, of at most 9.42, got 90 of joint 5 for 'b' and 1 more: are these degrees?"
    ]
    units = UnitCheck()
    units.poses("poses", np.full((1, 24, 3), 2 * np.pi / np.sqrt(3)), ["a"])  # whole turns: odd, but radians
    assert units.sentences() == []


def test_points_in_shares_of_the_image() -> None:
    def found(points: Any, size: Any = SIZE) -> list[str]:
        units = UnitCheck()
        units.pixels("keypoints", np.asarray(points, float)[None], size, ["a"])
        return units.sentences()

    assert found([[0.5, 0.25], [1.1, 0.9]]) == [
        "keypoints: expected pixels, got at most 1.1 in an image of 640 x 480 px for 'a': are these shares of the image's size?"
    ]
    assert found([[0.5, 0.25], [np.nan, np.nan], [0, 0]])
    for sound in ([[0, 0], [0, 0]], [[np.nan, np.nan]], [[0.5, 0.25], [3, 1]], [[-300, 1], [1, 1]], np.zeros((0, 2))):
        assert found(sound) == []
    assert found([[0.5, 0.25]], [[64, 64]]) == []


@pytest.mark.parametrize(
    ("factor", "unit"), [(1000, "millimetres"), (100, "centimetres"), (0.001, "another unit"), (3, "another unit"), (0.6, None)]
)
def test_bodies_in_another_unit(factor: float, unit: str | None, tmp_path: Path) -> None:
    scaled = Body("b", BODY.vertices * factor, BODY.faces, BODY.joints * factor, BODY.parents, BODY.weights, BODY.joint_names)
    path = scaled.save(tmp_path / "b.npz")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_body(path)
    texts = [str(w.message) for w in caught if w.category is UnitsWarning]
    assert len(texts) == (unit is not None)
    assert unit is None or f"is the body in {unit}?" in texts[0]
    assert unit is None or f"for '{path}'" in texts[0]


def test_the_built_in_body_is_of_a_person() -> None:
    units = UnitCheck()
    units.body("mannequin", BODY.vertices)
    assert units.sentences() == []


def batch(t: Any = (0, 0, 4), n: int = 3, **more: Any) -> ImageBatch:
    found = Cameras(np.tile(UPRIGHT, (n, 1, 1)), np.tile(np.float64(t), (n, 1)), np.tile(K, (n, 1, 1)), np.tile(SIZE, (n, 1)))
    return ImageBatch(np.ones((n, 480, 640), bool), found, np.zeros((n, 24, 3)), **more)


def test_a_batch_is_warned_of_once(tmp_path: Path) -> None:
    with pytest.warns(UnitsWarning) as caught:
        far = batch((0, 0, 3000))
    assert [str(w.message) for w in caught] == [
        "cameras.t: expected the person at most 100 metres away, got 3000 m for 'image-0' and 2 more: "
        "are these millimetres or centimetres?"
    ]
    assert Path(caught[0].filename).name != "units.py"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch()
        batch((0, 0, 3000), warn=False)
        far[:1]
        far.with_weights(None)
        with StoreWriter(tmp_path / "s", category="ball") as writer:
            writer.append(far)
        store = open_store(tmp_path / "s")  # what is stored was warned of when it came
        store.batch(store.select())
        list(store.batches())


def test_more_of_the_same_is_counted_and_said_at_the_end() -> None:
    units, other = UnitCheck(), UnitCheck()
    for check, keys in ((units, ["a", "b"]), (other, ["c"])):
        n = len(keys)
        check.cameras("camera", np.full((n, 3), 900.0), np.tile(K, (n, 1, 1)), np.tile(SIZE, (n, 1)), keys)
    with pytest.warns(UnitsWarning, match="for 'a' and 1 more: "):
        units.warn()
    units.add(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        units.warn()
    with pytest.warns(UnitsWarning, match="for 'a' and 2 more: "):
        units.warn(again=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        units.warn(again=True)


DEGREES = [[0, 0, 0], *[[0, 0, 30]] * 23]
CAMERA = content()["camera"]
WRONG = [
    ({"camera": {**CAMERA, "t": [100, 200, 4000]}}, "camera.t", "got 4006 m for 'r'"),
    ({"camera": {**CAMERA, "t": [0, 0, 80], "origin": [-1.8, -223.3, 28.2]}}, "camera.origin", "got 225.1 m for 'r'"),
    ({"camera": {**CAMERA, "K": matrix(1.6, 1.2, 0.5, 0.5)}}, "camera.K", "fx = 1.6, fy = 1.2 in an image of 90 x 120 px"),
    ({"pose_axis_angle": DEGREES}, "pose_axis_angle", "got 30 of joint 1 for 'r'"),
    ({"global_orient_axis_angle": [180, 0, 0]}, "global_orient_axis_angle", "got 180 of joint 0"),
    ({"pose_axis_angle": [[0, 170, 0], *[[0, 0, 0]] * 23]}, "pose_axis_angle", "got 170 of joint 0"),
    ({"keypoints_openpose25": [[0.5, 0.5, 1]] * 25}, "keypoints_openpose25", "at most 0.5"),
]


@pytest.mark.parametrize(("changes", "field", "words"), WRONG)
def test_records(changes: dict[str, Any], field: str, words: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "r", content(**changes))
    with pytest.warns(UnitsWarning) as caught:
        read_record(folder)
    assert any(str(w.message).startswith(f"{field}: expected") and words in str(w.message) for w in caught)
    with pytest.warns(UnitsWarning):
        report = ingest_records([folder], tmp_path / "s", BODY)
    assert report.added == ["r"]  # a warning, no refusal
    assert any(line.startswith(field) for line in report.warnings)


def test_records_of_one_kind_are_one_warning(tmp_path: Path) -> None:
    far = content(camera={**CAMERA, "t": [0, 0, 4000]})
    folders = [make(tmp_path / name, far if name != "b" else content()) for name in "abcd"]
    make(tmp_path / "e", {**far, "category": "other"})
    with pytest.warns(UnitsWarning) as caught:
        report = ingest_records([*folders, tmp_path / "e"], tmp_path / "s", BODY)
    ends = [str(w.message).split(": are")[0][-14:] for w in caught]
    assert ends == ["4000 m for 'a'", "'a' and 2 more"]  # at once, and in the end
    assert len(report.warnings) == 1
    assert "for 'a' and 2 more" in report.warnings[0]


def test_sound_records_say_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = ingest_records([make(tmp_path / "r", content(image_size=[90.0, 120.0]))], tmp_path / "s", BODY)
    assert (report.added, report.warnings) == (["r"], [])


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    make(tmp_path / "r", content(camera={**CAMERA, "t": [0, 0, 4000]}))
    arguments = [sys.executable, "-m", "chorus.cli", "ingest", "records", "r", "-o", "s"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True, env=_env())
    assert [line for line in done.stderr.splitlines() if "camera.t" in line] == [
        "chorus: warning: camera.t: expected the person at most 100 metres away, got 4000 m for 'r': "
        "are these millimetres or centimetres?"
    ]
    assert "units.py" not in done.stderr
    assert "warnings.warn" not in done.stderr


def _env() -> dict[str, str]:
    import os

    root = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root, "COLUMNS": "300"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda coco, fits: [f.update(bbox_center=[0.5, 0.4]) for f in fits], "bbox_center"),
        (lambda coco, fits: [f.update(bbox_scale=240) for f in fits], "bbox_scale"),
        (lambda coco, fits: [f.update(parm_cam=[9e-4, 0, 0]) for f in fits], "parm_cam"),
        (lambda coco, fits: [a.update(bbox=[v / 640 for v in a["bbox"]]) for a in coco], "bbox"),
    ],
)
def test_coco_eft(change: Any, field: str, tmp_path: Path) -> None:
    content, eft = scene()
    change(content["annotations"], eft["data"])
    coco, fits, out = write(tmp_path, content, eft)
    with pytest.warns(UnitsWarning, match=rf"{field}: expected") as caught:
        report = ingest_coco_eft(coco, fits, out, BODY, categories=["sports ball"], min_images=1, iterations=0)
    assert len(report.unit_warnings) == 1
    assert str(caught[-1].message) == report.unit_warnings[0]
    assert json.loads(json.dumps(report.as_dict()))["unit_warnings"] == report.unit_warnings


def test_coco_eft_with_a_pelvis_in_millimetres(tmp_path: Path) -> None:
    coco, fits, out = write(tmp_path, *scene())
    with pytest.warns(UnitsWarning, match=r"pelvis: expected metres, within 3 of the body, got 225.1 m"):
        ingest_coco_eft(coco, fits, out, BODY, categories=["skis"], pelvis=(-1.8, -223.3, 28.2))


def test_cameras_that_were_fitted_are_not_warned_of(tmp_path: Path) -> None:
    coco, fits, out = write(tmp_path, *scene())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnitsWarning)
        method = "levenberg-marquardt"  # goes far away, where perspective is gone
        report = ingest_coco_eft(coco, fits, out, BODY, categories=["sports ball"], min_images=1, stop_px=0, method=method)
        store = open_store(report.categories[0].store or "")
        far = store.batch(store.select()).cameras.t
    assert np.linalg.norm(far, axis=1).max() > 100


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((24, 3, 3), "rotation matrices"),
        ((24, 9), "rotation matrices"),
        ((24, 4), "quaternions"),
        ((24, 6), "first two columns"),
        ((72,), "24 joints in one row: reshape them to (24, 3)"),
        ((24, 2), ""),
        ((7,), ""),
        ((), ""),
    ],
)
def test_poses_in_another_form_are_named(shape: tuple[int, ...], words: str, tmp_path: Path) -> None:
    said = other_rotations(np.zeros(shape), 2)
    assert words in said
    assert bool(words) == bool(said)
    assert words in other_rotations(np.zeros((5, *shape)), 3)
    np.save(tmp_path / "pose.npy", np.zeros(shape))
    record = make(tmp_path / "r", content(pose_axis_angle=np.zeros(shape).tolist()))
    for read in (lambda: read_record(record), lambda: read_pose(tmp_path / "pose.npy")):
        with pytest.raises(InputError) as caught:
            read()
        assert words in str(caught.value)
    with pytest.raises(InputError) as caught:
        ImageBatch([np.ones((480, 640), bool)], batch(n=1).cameras, np.zeros((1, *shape)))
    assert words in str(caught.value)
    assert other_rotations([[0, 0, 0], [0]], 2) == ""


def test_poses_for_posing_in_degrees(tmp_path: Path) -> None:
    np.save(tmp_path / "pose.npy", np.array(DEGREES, float))
    with pytest.warns(UnitsWarning, match=r"POSE: expected axis-angle .* got 30 of joint 1 for 'pose.npy': are these degrees"):
        read_pose(tmp_path / "pose.npy")
    np.save(tmp_path / "poses.npy", np.array([np.zeros((24, 3)), DEGREES], float))
    with pytest.warns(UnitsWarning, match=r"for '1'"):
        assert read_pose(tmp_path / "poses.npy").shape == (2, 24, 3)
