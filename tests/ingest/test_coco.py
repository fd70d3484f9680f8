"""The files of the extended COCO-EFT test set: crops, masks and boxes by hand, and what is wrong with bad ones."""

import json

import numpy as np
import pytest
from pycocotools import mask

from chorus.boxes import overlap_of_smaller
from chorus.errors import InputError
from chorus.ingest.coco import (
    CROP_PX,
    annotation_box,
    crop_to_image,
    image_number,
    image_to_crop,
    read_eft,
    weak_projection,
)
from chorus.ingest.coco_masks import decode_mask
from tests.ingest.test_coco_eft import fit, rectangle


def test_crop_by_hand():
    # A crop of 1.5 x 200 px around (320, 200): from 170 to 470 and from 50 to 350.
    corners = np.array([[[0, 0], [CROP_PX, CROP_PX], [112, 56]]])
    image = crop_to_image(corners, [1.5], [[320, 200]])
    np.testing.assert_allclose(image, [[[170, 50], [470, 350], [320, 125]]])
    # s X + t = 0.8 * 0.5 + 0.1 = 0.5 of the half crop right of its middle: 112 * 1.5 = 168.
    np.testing.assert_allclose(weak_projection([[[0.5, -0.25, 9.0]]], [[0.8, 0.1, 0.0]]), [[[168, 89.6]]])


def test_crop_round_trip():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1000, 2000, (50, 24, 2))
    scale, centre = rng.uniform(0.2, 6, 50), rng.uniform(0, 640, (50, 2))
    in_crop = image_to_crop(points, scale, centre)
    assert np.abs(crop_to_image(in_crop, scale, centre) - points).max() < 0.5
    np.testing.assert_allclose(crop_to_image(in_crop, scale, centre), points, atol=1e-9)
    np.testing.assert_allclose(image_to_crop(centre[:, None], scale, centre), np.full((50, 1, 2), CROP_PX / 2))


def test_masks_by_hand():
    square = np.zeros((6, 8), bool)
    square[1:4, 2:5] = True
    np.testing.assert_array_equal(decode_mask(rectangle(2, 1, 3, 3), (6, 8)), square)
    two = square.copy()
    two[4:6, 6:8] = True
    np.testing.assert_array_equal(decode_mask(rectangle(2, 1, 3, 3) + rectangle(6, 4, 2, 2), (6, 8)), two)
    # Run lengths go down the columns, background first: 13 pixels before (2, 1), then three columns of 3 of 6.
    runs = {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 20]}
    np.testing.assert_array_equal(decode_mask(runs, (6, 8)), square)
    packed = mask.encode(np.asfortranarray(square.astype(np.uint8)))
    compressed = {"size": [6, 8], "counts": packed["counts"].decode("ascii")}
    np.testing.assert_array_equal(decode_mask(compressed, (6, 8)), square)
    rng = np.random.default_rng(0)
    for density in (0.02, 0.5, 0.98):  # runs of all lengths, differences of both signs
        noise = rng.random((301, 97)) < density
        counts = mask.encode(np.asfortranarray(noise.astype(np.uint8)))["counts"].decode("ascii")
        np.testing.assert_array_equal(decode_mask({"size": [301, 97], "counts": counts}, (301, 97)), noise)
    outside = decode_mask(rectangle(-50, -50, 53, 60), (6, 8))  # polygons are cut at the image's edge
    assert outside[:, :3].all()
    assert not outside[:, 4:].any()


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        [],
        [[]],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5]],
        [[1, 2, 3, 4, 5, "6"]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 1e9, 4, 5, 6]],
        [7],
        [[True, 2, 3, 4, 5, 6]],
        [[20.0, 20.0, 30.0, 20.0, 30.0, 30.0]],
        {"size": [6, 9], "counts": [54]},
        {"counts": [48]},
        {"size": [6, 8], "counts": [47]},
        {"size": [6, 8], "counts": [-1, 49]},
        {"size": [6, 8], "counts": [48]},
        {"size": [6, 8], "counts": None},
        {"size": [6, 8], "counts": [24.5, 23.5]},
        {"size": [6, 8], "counts": "zzzzzzzzz"},
        {"size": [6, 8], "counts": ""},
        {"size": [6, 8], "counts": "\u00e9"},
        {"size": [6, 8], "counts": "oooooooooooooooooooooooo0"},
    ],
)
def test_bad_masks(value):
    with pytest.raises(InputError, match="segmentation"):
        decode_mask(value, (6, 8))


def test_boxes():
    a, b = annotation_box({"bbox": [0, 0, 10, 10]}), annotation_box({"bbox": [5, 5, 2.5, 20]})
    assert overlap_of_smaller(a, b) == pytest.approx(2.5 * 5 / 50)
    assert overlap_of_smaller(b, a) == pytest.approx(0.25)
    assert overlap_of_smaller(a, annotation_box({"bbox": [2, 2, 3, 3]})) == 1
    assert overlap_of_smaller(a, annotation_box({"bbox": [10, 0, 3, 3]})) == 0
    for bad in (None, [1, 2, 3], [1, 2, 0, 4], [1, 2, 3, float("nan")], [1, 2, 1e9, 3], "1234", [[1], [2, 3]]):
        with pytest.raises(InputError, match="bbox"):
            annotation_box({"bbox": bad})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parm_pose": np.eye(3).tolist()}, "parm_pose"),
        ({"parm_pose": (2 * np.tile(np.eye(3), (24, 1, 1))).tolist()}, "parm_pose: expected rotations"),
        ({"parm_pose": np.tile(np.diag([1, 1, -1]), (24, 1, 1)).tolist()}, "parm_pose: expected rotations"),
        ({"parm_pose": None}, "parm_pose"),
        ({"parm_shape": [0.0] * 9}, "parm_shape"),
        ({"parm_cam": [0, 0, 0]}, "parm_cam: expected a positive scale"),
        ({"parm_cam": [1, float("nan"), 0]}, "parm_cam"),
        ({"parm_cam": [[1], [2, 3]]}, "parm_cam"),
        ({"parm_cam": [1e9, 0, 0]}, "parm_cam"),
        ({"bbox_scale": 0}, "bbox_scale"),
        ({"bbox_scale": [1.0]}, "bbox_scale"),
        ({"bbox_center": [1, 2, 3]}, "bbox_center"),
        ({"bbox_center": ["1", "2"]}, "bbox_center"),
        ({"imageName": None}, "imageName"),
        ({"imageName": 7}, "imageName"),
    ],
)
def test_bad_fits_are_reported_and_stop_nothing(tmp_path, changes, words):
    path = tmp_path / "eft.json"
    path.write_text(json.dumps({"data": [fit(1, 1, **changes), fit(2, 2)]}))
    fits = read_eft([path])
    assert list(fits.records) == [2]
    assert list(fits.broken) == [1]
    with pytest.raises(InputError, match=words):
        raise InputError(fits.broken[1])


def test_further_and_nameless_fits_are_counted(tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps({"data": [fit(1, 1), fit(1, 1, seed=9), fit(None, 1), 7, fit(3.0, 3)]}))
    second.write_text(json.dumps({"data": [fit(1, 1, seed=8), fit(2, 2)]}))
    fits = read_eft([first, second])
    assert sorted(fits.records) == [1, 2, 3]
    assert (fits.duplicates, fits.nameless) == (2, 2)
    np.testing.assert_allclose(fits.records[1].betas, fit(1, 1)["parm_shape"])


def test_image_numbers():
    assert image_number("COCO_train2014_000000044474.jpg") == 44474
    assert image_number("000000044474.jpg") == 44474
    assert image_number("some/where/12.png") == 12
    assert image_number("image.jpg") is None
    assert image_number("9" * 40 + ".jpg") is None
