"""``ingest photos`` and ``reconstruct --object-mask``: one real photograph, BlazePose's real weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from chorus.body.model import load_body
from chorus.cli import main
from chorus.pictures import read_mask
from chorus.store import open_store
from tests.photographs import SKIER, SKIER_BOX, SKIS
from tests.photographs import real_weights as real_weights


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def humans(real_weights: str) -> str:
    return "blazepose" if real_weights == "full" else f"blazepose={real_weights}"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two photographs, one without a mask, and a folder of masks beside it."""
    for folder in ("photos/a person rides skis", "masks/a person rides skis"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(SKIER, tmp_path / "photos" / "a person rides skis" / "1.jpg")
    shutil.copy(SKIER, tmp_path / "photos" / "a person rides skis" / "2.jpg")
    shutil.copy(SKIS, tmp_path / "masks" / "a person rides skis" / "1.png")
    return tmp_path


def test_from_photographs_to_an_occupancy_picture(photos: Path, humans: str) -> None:
    store_path = photos / "skis.chorus"
    both = "--humans", humans  # and the keypoints by the same weights
    masks = "--masks", photos / "masks"
    done = run("ingest", "photos", photos / "photos", *masks, "--category", "skis", "-o", store_path, *both)
    assert done.exit_code == 0, done.output
    store = open_store(store_path)
    assert store.rows["status"].tolist() == ["complete", "no object"]
    assert store.prompts == ["a person rides skis"]
    np.testing.assert_array_equal(store.rows["size"], [[425, 640]] * 2)  # neither cropped nor resized
    (row,) = store.select()
    images = store.batch([row])
    np.testing.assert_array_equal(images.masks.unpack(0), read_mask(SKIS))
    assert store.rows["residual_px"][row] < 8
    assert store.picture(store.rows["key"][row]) is not None
    body = load_body()
    joints = images.cameras.project(body.posed_joints(images.poses.astype(np.float64)))[0][0]
    ankles = joints[[body.joint_names.index(f"{side}_ankle") for side in ("left", "right")]]
    np.testing.assert_allclose(ankles, [[466, 362], [396, 341]], atol=25)  # as COCO's annotators put them

    again = run("ingest", "photos", photos / "photos", *masks, "--category", "skis", "-o", store_path, *both, "--dry-run")
    assert again.exit_code == 0, again.output
    done = run("aggregate", store_path, "-o", photos / "skis.h5", "--picture", photos / "skis.png", "--resolution", 16)
    assert done.exit_code == 0, done.output
    assert (photos / "skis.png").stat().st_size > 10_000


def test_a_test_set_of_pap_from_coco_annotations(photos: Path, humans: str, tmp_path: Path) -> None:
    """For those who have no EFT fits: COCO's boxes and masks, poses by BlazePose."""
    x0, y0, x1, y1 = SKIER_BOX
    outline = [[280, 350, 520, 350, 520, 372, 280, 372]]
    notes = [
        {
            "id": 1,
            "category_id": 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "segmentation": [[300, 50, 480, 50, 480, 380, 300, 380]],
        },
        {"id": 2, "category_id": 35, "bbox": [280, 350, 240, 22], "segmentation": outline},
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 425, "width": 640} for i in (1, 2)],
        "categories": [{"id": 1, "name": "person"}, {"id": 35, "name": "surfboard"}],
        "annotations": [{**note, "image_id": 1, "iscrowd": 0} for note in notes],
    }
    # The second picture has two people, of whom either might be meant.
    again = [{**note, "id": note["id"] + 10 * k, "image_id": 2, "iscrowd": 0} for k in (1, 2) for note in notes[: 3 - k]]
    content["annotations"] += again
    (tmp_path / "coco.json").write_text(json.dumps(content))
    asked = [
        "ingest",
        "photos",
        photos / "photos",
        "--masks",
        tmp_path / "coco.json",
        "--category",
        "surfboard",
        "--person-masks",
    ]
    store_path = tmp_path / "tests.chorus"
    done = run(*asked, "-o", store_path, "--humans", humans, "--set", "detector.several=all")
    assert done.exit_code == 0, done.output
    store = open_store(store_path)
    assert store.rows["status"].tolist() == ["complete", "several people"]
    assert store.person_masks(store.select()).areas().tolist() == [180 * 330]
    assert run("occupancies", "-o", tmp_path / "ready", "--world", "surfboard-ridden", "--images", 100).exit_code == 0
    learned = tmp_path / "ready" / "surfboard" / "surfboard-ridden.h5"
    scored = run("evaluate", "pap", store_path, "--occupancy", learned, "--prompt", "*", "--json")
    assert scored.exit_code == 0, scored.output + str(scored.exception)
    (category,) = json.loads(scored.stdout)["categories"]
    assert category["images"] == 1
    assert category["pap"]["vanilla"] > 0.1


def test_what_is_missing_is_said_before_anything_is_loaded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHORUS_CACHE", str(photos / "cache"))
    asked = ["ingest", "photos", photos / "photos", "--category", "skis", "-o", photos / "s.chorus"]
    done = run(*asked, "--masks", photos / "masks")
    assert done.exit_code == 2
    assert "python -m chorus.frontend.blazepose" in str(done.exception) + done.output
    done = run(*asked, "--masks", photos / "none")
    assert done.exit_code == 2
    assert not (photos / "s.chorus").exists()


def test_a_photograph_and_a_mask_are_enough(photos: Path, humans: str) -> None:
    """The category is not given: what is stored tells, and the report says which."""
    made = run(
        "occupancies",
        "-o",
        photos / "ready",
        "--world",
        "surfboard-ridden",
        "--world",
        "hat",
        "--resolution",
        24,
        "--images",
        200,
    )
    assert made.exit_code == 0, made.output
    asked = ["reconstruct", SKIER, "--object-mask", SKIS, "--occupancies", photos / "ready", "--humans", humans]
    done = run(*asked, "-o", photos / "out")
    assert done.exit_code == 0, done.output
    report = json.loads((photos / "out" / "reconstruction.json").read_text())
    assert report["chosen"]["category"] == "surfboard"
    assert report["chosen"]["prompt"] == "a person stands on a surfboard"
    assert "agrees best" in report["chosen"]["category_from"]
    assert report["camera"]["residual_px"] < 8
    assert report["object"]["silhouette_iou"] > 0.05  # it lies at her feet
    done = run(*asked, "-o", photos / "hat", "--category", "hat")
    assert json.loads((photos / "hat" / "reconstruction.json").read_text())["chosen"]["category"] == "hat", done.output
    refused = run("reconstruct", photos / "masks", "--object-mask", SKIS, "--occupancies", photos / "ready", "-o", photos / "x")
    assert refused.exit_code == 2
    assert "--object-mask: expected it beside a photograph" in refused.output + str(refused.exception)
    refused = run(*asked, "-o", photos / "x", "--detector", "mask2former")
    assert refused.exit_code == 2
    assert "--detector: expected none beside --object-mask" in refused.output + str(refused.exception)
