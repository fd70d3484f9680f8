"""Pose and camera against annotated photographs: on drawn people whose joints are known, and on a real photograph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from bench.harness.landmarks import IMAGE, people
from chorus.body.model import load_body
from chorus.cli import main
from chorus.errors import InputError
from chorus.evaluate.photos import JOINTS, evaluate_photos, keypoints_on, worst
from chorus.figures.photos import save_people
from chorus.frontend.stages import Human, Picture, Refusal
from chorus.keypoints import COCO_KEYPOINTS
from chorus.pose_fit.layouts import body_points
from chorus.render import render_mesh
from tests.photographs import SKIER, SKIER_BOX
from tests.photographs import real_weights as real_weights

BODY = load_body()
MADE = people(BODY, 3)
PEOPLE = 2  # drawn and annotated


class Told:
    """Gives the poses that it was told, one after the other, with the cameras; or a refusal."""

    def __init__(self, *humans: Human | Refusal) -> None:
        self.humans_to_give = iter(humans)

    def humans(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> Sequence[Human | Refusal]:
        assert len(pictures) == len(boxes) == 1
        return [next(self.humans_to_give)]


def true_human(i: int) -> Human:
    camera = MADE.cameras[np.array([i])]
    return Human(MADE.poses[i], np.zeros(3), None, camera=camera)


def annotation(i: int, **changed: Any) -> dict[str, Any]:
    """COCO's of person i, whose joints are where the body has them; the mask is a run of the silhouette."""
    camera = MADE.cameras[np.array([i])]
    joints = keypoints_on(BODY, body_points(BODY), MADE.poses[i], camera)
    rows = np.zeros((17, 3))
    rows[5:] = np.column_stack([joints - 0.5, np.full(12, 2)])  # COCO counts pixels from 0
    _, face = render_mesh(BODY.posed_vertices(MADE.poses[i][None])[0], BODY.faces, camera)
    runs = np.flatnonzero(np.diff(np.concatenate([[False], (face >= 0).T.ravel(), [False]]).astype(np.int8)))
    counts = np.diff(np.concatenate([[0], runs, [IMAGE * IMAGE]])).tolist()
    note = {
        "id": 100 + i,
        "image_id": i,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [10, 10, 200, 300],
        "keypoints": rows.ravel().tolist(),
        "segmentation": {"size": [IMAGE, IMAGE], "counts": counts},
    }
    return {**note, **changed}


def told(folder: Path, *notes: dict[str, Any]) -> Path:
    images = [{"id": i, "file_name": f"{i}.png", "height": IMAGE, "width": IMAGE} for i in range(3)]
    content = {"images": images, "categories": [{"id": 1, "name": "person"}], "annotations": list(notes)}
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(PEOPLE):
        Image.new("RGB", (IMAGE, IMAGE)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_the_true_pose_and_camera_have_no_error(photos: Path) -> None:
    coco = told(photos, annotation(0), annotation(1))
    report = evaluate_photos(photos, coco, Told(true_human(0), true_human(1)), BODY)
    assert [person.annotation for person in report.people] == [100, 101]
    np.testing.assert_allclose(report.percent(), 0, atol=1e-9)
    for i, person in enumerate(report.people):
        assert person.iou == 1
        assert np.isnan(person.residual_px)
        up = BODY.vertices[:, 1]
        focal = MADE.cameras.K[i, 1, 1]
        assert person.height_px == pytest.approx((up.max() - up.min()) * focal / MADE.cameras.t[i, 2])
    facts = report.to_json()
    assert facts["median_percent"] == 0
    assert facts["median_silhouette_iou"] == 1
    assert facts["median_residual_px"] is None
    json.dumps(facts, allow_nan=False)


def test_errors_are_distances_to_what_is_annotated(photos: Path) -> None:
    note = annotation(0)
    rows = np.array(note["keypoints"]).reshape(17, 3)
    rows[COCO_KEYPOINTS.index("left_knee"), :2] += [3, 4]
    rows[COCO_KEYPOINTS.index("right_wrist")] = 0  # not annotated
    rows[COCO_KEYPOINTS.index("nose")] = [1, 1, 2]  # not compared
    coco = told(photos, {**note, "keypoints": rows.ravel().tolist(), "segmentation": None}, annotation(1))
    report = evaluate_photos(photos, coco, Told(true_human(0), true_human(1)), BODY)
    person = report.people[0]
    expected = np.zeros(12)
    expected[JOINTS.index("left_knee")], expected[JOINTS.index("right_wrist")] = 5, np.nan
    np.testing.assert_allclose(person.errors_px, expected, atol=1e-9)
    assert np.isnan(person.iou)
    assert report.to_json()["worst_first"][0]["errors_px"]["right_wrist"] is None
    other = evaluate_photos(photos, coco, Told(true_human(0), true_human(2)), BODY)  # somebody else's pose
    assert [p.annotation for p in worst(other.people, 1)] == [101]
    assert other.people[1].median_percent > 5
    assert other.people[1].iou < 0.9


def test_photographs_of_one_name_in_two_folders_are_two(photos: Path, tmp_path: Path) -> None:
    coco = told(photos, annotation(0), annotation(1))
    content = json.loads(coco.read_text())
    for i, folder in enumerate(("a", "b")):
        content["images"][i]["file_name"] = f"{folder}/p[1].png"
        (photos / folder).mkdir()
        (photos / f"{i}.png").rename(photos / folder / "p[1].png")
    coco.write_text(json.dumps(content))
    report = evaluate_photos(photos, coco, Told(true_human(0), true_human(1)), BODY)
    assert [(person.file, person.annotation) for person in report.people] == [("a/p[1].png", 100), ("b/p[1].png", 101)]
    np.testing.assert_allclose(report.percent(), 0, atol=1e-9)
    save_people(tmp_path / "people.png", photos, report.people, BODY)
    assert (tmp_path / "people.png").stat().st_size > 10_000


def test_who_has_no_pose_is_named_and_who_is_left_out(photos: Path) -> None:
    few = np.array(annotation(1)["keypoints"]).reshape(17, 3) * (np.arange(17) < 8)[:, None]
    notes = annotation(0), annotation(1, keypoints=few.ravel().tolist()), annotation(1, id=7, iscrowd=1), annotation(2)
    report = evaluate_photos(photos, told(photos, *notes), Told(Refusal("no 3D pose")), BODY)
    (person,) = report.people
    assert person.reason == "no 3D pose"
    assert report.to_json()["worst_first"] == [{"file": "0.png", "annotation": 100, "reason": "no 3D pose"}]
    assert report.to_json()["median_percent"] is None
    for wrong in ([1, 2, 3], ["a"] * 51, [[1], [2, 3]]):
        with pytest.raises(InputError, match="annotation 100: keypoints: expected"):
            evaluate_photos(photos, told(photos, annotation(0, keypoints=wrong)), Told(), BODY)
    with pytest.raises(InputError, match=r"coco\.json: annotation 100: bbox: expected a positive width"):
        evaluate_photos(photos, told(photos, annotation(0, bbox=[1, 1, 0, 5])), Told(), BODY)
    with pytest.raises(InputError, match="expected photographs of people with annotated keypoints, none of"):
        evaluate_photos(photos, told(photos, annotation(2)), Told(), BODY)
    with pytest.raises(InputError, match="expected a folder of photographs"):
        evaluate_photos(photos / "none", told(photos, annotation(0)), Told(), BODY)
    Image.new("RGB", (IMAGE + 1, IMAGE)).save(photos / "0.png")
    with pytest.raises(InputError, match=rf"0\.png: .*{IMAGE}"):
        evaluate_photos(photos, told(photos, annotation(0)), Told(true_human(0)), BODY)


def test_a_real_photograph_by_the_command(real_weights: str, tmp_path: Path) -> None:
    x0, y0, x1, y1 = SKIER_BOX
    rows = np.zeros((17, 3))
    rows[5:7], rows[11:] = (
        [[399, 108, 2], [358, 129, 2]],
        np.array([[424, 203, 2], [393, 214, 2], [429, 294, 2], [367, 273, 2], [466, 362, 2], [396, 341, 2]]),
    )
    note = {"id": 1, "image_id": 785, "category_id": 1, "iscrowd": 0, "bbox": [x0, y0, x1 - x0, y1 - y0]}
    content = {
        "images": [{"id": 785, "file_name": SKIER.name, "height": 425, "width": 640}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{**note, "keypoints": rows.ravel().tolist()}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    humans = "blazepose" if real_weights == "full" else f"blazepose={real_weights}"
    asked = ["evaluate", "photos", str(SKIER.parent), "--annotations", str(tmp_path / "coco.json"), "--humans", humans]
    done = CliRunner().invoke(main, [*asked, "-o", str(tmp_path / "r.json"), "--picture", str(tmp_path / "worst.png")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["with_pose"] == 1
    assert report["median_percent"] < 3.5
    assert report["median_residual_px"] < 8
    assert "largest errors" in done.stdout
    assert (tmp_path / "worst.png").stat().st_size > 20_000
