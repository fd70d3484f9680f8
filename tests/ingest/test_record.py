"""One record's folder: what must be in it and what need not, which fields are read for what, and its camera."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chorus.body.model import load_body
from chorus.errors import InputError
from chorus.ingest.record import RecordError, parse_record, read_record, record_camera
from tests.ingest.test_record_folders import HEIGHT, WIDTH, content, make

BODY = load_body()


def test_what_is_not_given_is_none(tmp_path):
    folder = make(tmp_path / "r", content(category=None, camera=None), person=False)
    (folder / "object_mask.png").unlink()
    record = parse_record(folder)
    assert (record.category, record.prompt, record.source) == ("", "", "")
    assert record.image_size == (HEIGHT, WIDTH)
    assert record.pose.shape == (24, 3)
    for name in ("orientation", "camera", "keypoints", "betas", "object_box", "object_mask", "person_mask"):
        assert getattr(record, name) is None


@pytest.mark.parametrize(
    ("required", "stage", "words"),
    [("category", "record", "category"), ("object_mask", "object mask", r"object_mask\.png: cannot be read")],
)
def test_what_is_required_must_be_there(required, stage, words, tmp_path):
    folder = make(tmp_path / "r", content(category=None))
    (folder / "object_mask.png").unlink()
    with pytest.raises(RecordError, match=words) as caught:
        parse_record(folder, required=(required,))
    assert caught.value.stage == stage
    with pytest.raises(RecordError):
        read_record(folder)


def test_the_objects_box(tmp_path):
    record = parse_record(make(tmp_path / "r", content(object_box=[1, 2.5, WIDTH, HEIGHT])))
    assert record.object_box is not None
    assert record.object_box.tolist() == [1, 2.5, WIDTH, HEIGHT]
    for number, box in enumerate(([5, 5, 5, 9], [0, 0, WIDTH + 1, 9], [-1, 0, 5, 5], [0, 0, 5])):
        folder = make(tmp_path / str(number), content(object_box=box))
        with pytest.raises(RecordError, match="object_box: expected"):
            parse_record(folder)
        assert read_record(folder).object_box is None  # stores have no use for it
        assert parse_record(folder, ignored=("object_box",)).object_box is None


def test_the_prompt_is_the_category_where_stores_need_one(tmp_path):
    folder = make(tmp_path / "r")
    assert parse_record(folder).prompt == ""
    assert read_record(folder).prompt == "kite"
    assert read_record(make(tmp_path / "s", content(prompt="fly a kite"))).prompt == "fly a kite"


def test_cameras(tmp_path):
    given = parse_record(make(tmp_path / "given"))
    camera, residual = record_camera(given, BODY)
    assert camera is given.camera
    assert math.isnan(residual)
    without = parse_record(make(tmp_path / "without", content(camera=None)))
    with pytest.raises(RecordError, match="expected a camera or keypoints_openpose25") as caught:
        record_camera(without, BODY)
    assert caught.value.stage == "camera"
    keypoints = np.column_stack([np.full((25, 2), 20.0), np.full(25, 0.5)]).tolist()
    unsure = parse_record(make(tmp_path / "unsure", content(camera=None, keypoints_openpose25=keypoints)))
    with pytest.raises(RecordError, match=r"at least 4 keypoints of joints with a confidence of 0\.6, got 0"):
        record_camera(unsure, BODY, min_confidence=0.6)
    few = parse_record(make(tmp_path / "few", content(pose_axis_angle=np.zeros((22, 3)).tolist())))
    with pytest.raises(InputError, match="expected the body's 24 joints, got 22"):
        record_camera(few, BODY)
