"""Masks that are given: COCO's files, folders of masks, one mask; people by annotation, or by BlazePose's real detector."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chorus.boxes import boxes_of, iou
from chorus.errors import InputError
from chorus.frontend import registry
from chorus.frontend.blazepose.network import Landmarks
from chorus.frontend.blazepose.people import PersonFinder, anchors, box_of
from chorus.frontend.detection.given import GivenMasks, open_masks
from chorus.frontend.stages import PERSON, ImageRequest, Picture, Runtime
from chorus.ingest.coco import read_annotations
from chorus.pictures import read_picture
from tests.photographs import SKIER, SKIER_BOX, SKIS

HEIGHT, WIDTH = 60, 80


def picture(key: str = "a.jpg", size: tuple[int, int] = (HEIGHT, WIDTH)) -> Picture:
    return Picture(ImageRequest(key, "a person holds a kite"), np.zeros((*size, 3), np.uint8))


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def block(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def coco(path: Path, *annotations: dict[str, Any], name: str = "deep/a.jpg") -> Path:
    """A COCO file of two images of this size, 7 and 000000000009.jpg; annotations are of image 7 unless they say otherwise."""
    notes = [{"id": i + 1, "image_id": 7, "iscrowd": 0, **note} for i, note in enumerate(annotations)]
    for note in (n for n in notes if "bbox" not in n):
        x, y = np.array(note["segmentation"] or [[0, 0, 1, 1]]).reshape(-1, 2).T
        note["bbox"] = [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))]
    images = [{"id": 7, "file_name": name}, {"id": 9, "file_name": "9.jpg"}]
    content = {
        "images": [{**image, "height": HEIGHT, "width": WIDTH} for image in images],
        "categories": [{"id": 1, "name": "person"}, {"id": 38, "name": "kite"}, {"id": 18, "name": "dog"}],
        "annotations": notes,
    }
    path.write_text(json.dumps(content))
    return path


class Nobody:
    """Finds the people that it was given."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.boxes = np.array(boxes, np.float32).reshape(-1, 4)

    def people(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.boxes, np.full(len(self.boxes), 0.75, np.float32)


def test_of_coco_the_pair_that_overlaps_most_is_taken(tmp_path: Path) -> None:
    file = coco(
        tmp_path / "instances.json",
        {"category_id": 1, "segmentation": rectangle(0, 0, 20, 50)},
        {"category_id": 1, "segmentation": rectangle(40, 5, 60, 55)},
        {"category_id": 38, "segmentation": rectangle(18, 0, 40, 10)},  # a corner of the first person
        {"category_id": 38, "segmentation": rectangle(50, 20, 62, 30)},  # mostly within the second
        {"category_id": 38, "segmentation": rectangle(0, 0, 79, 59), "iscrowd": 1},
        {"category_id": 18, "segmentation": rectangle(2, 2, 10, 10)},
    )
    stage = registry.make("detector", f"given={file}", Runtime())
    stage.check("kite")
    (found,) = stage.detect([picture()], "kite")
    assert found.labels == (PERSON, "kite")
    np.testing.assert_array_equal(found.masks, [block(40, 5, 60, 55), block(50, 20, 62, 30)])
    np.testing.assert_array_equal(found.boxes, [[40, 5, 60, 55], [50, 20, 62, 30]])
    np.testing.assert_array_equal(found.scores, [1, 1])
    (everything,) = registry.make("detector", f"given={file}", Runtime(options={"several": "all"})).detect([picture()], "kite")
    assert everything.labels == (PERSON, PERSON, "kite", "kite")
    # By the whole name, its end, or the name alone; of another picture there is nothing.
    for key in ("deep/a.jpg", "other/a.jpg", "other/deep/a.jpg"):
        assert len(stage.detect([picture(key)], "kite")[0]) == 2
    for key in ("b.jpg", "val_000000000007.jpg", "val_000000000009.jpg", "val_000000000008.jpg"):
        assert len(stage.detect([picture(key)], "kite")[0]) == 0
    assert stage.detect([picture()], "dog")[0].labels == (PERSON, "dog")


def test_people_may_have_boxes_alone_and_may_be_missing(tmp_path: Path) -> None:
    box = {"category_id": 1, "segmentation": [], "bbox": [10, 10, 20, 30]}
    kite = {"category_id": 38, "segmentation": rectangle(20, 20, 30, 30)}
    (found,) = registry.make("detector", f"given={coco(tmp_path / 'a.json', box, kite)}", Runtime()).detect([picture()], "kite")
    np.testing.assert_array_equal(found.boxes[0], [10, 10, 30, 40])
    assert not found.masks[0].any()
    bad = {**box, "segmentation": [[1, 2, 3]]}  # a mask that cannot be read: the box is still good
    (found,) = registry.make("detector", f"given={coco(tmp_path / 'd.json', bad, kite)}", Runtime()).detect([picture()], "kite")
    assert found.labels == (PERSON, "kite")
    assert not found.masks[0].any()
    # A file that has the category alone has no people: they are looked for.
    (found,) = GivenMasks(open_masks(coco(tmp_path / "b.json", kite)), Nobody((0, 0, 30, 50))).detect([picture()], "kite")
    assert found.labels == (PERSON, "kite")
    (found,) = registry.make("detector", f"given={coco(tmp_path / 'c.json', box)}", Runtime()).detect([picture()], "kite")
    assert found.labels == (PERSON,)


def test_what_does_not_fit_together_is_said(tmp_path: Path) -> None:
    both = {"category_id": 38, "segmentation": rectangle(0, 0, 9, 9)}, {"category_id": 1, "segmentation": rectangle(0, 0, 9, 9)}
    file = coco(tmp_path / "instances.json", *both)
    stage = registry.make("detector", f"given={file}", Runtime())
    with pytest.raises(InputError, match=r"category: expected one of those in .*instances\.json \(person, kite, dog, .*'bear'"):
        stage.check("bear")
    with pytest.raises(InputError, match="masks: expected a picture of 80 x 60 px, as annotated, got "):
        stage.detect([picture(size=(WIDTH, HEIGHT))], "kite")
    Image.fromarray(block(0, 0, 9, 9)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: expected"):
        GivenMasks(open_masks(tmp_path / "a.png"), Nobody()).detect([picture(size=(9, 9))], "kite")
    for options, message in (
        ({"people": "all"}, r"detector\.people: expected annotations or blazepose; got 'all'"),
        ({"people": "blazepose", "weights": "missing"}, r"expected a \.tflite file"),
    ):
        with pytest.raises(InputError, match=message):
            registry.check("detector", f"given={file}", Runtime(options=options))
    with pytest.raises(InputError, match=r"category: expected one of those in .*, got 'bear'"):
        registry.check("detector", f"given={file}", Runtime(), "bear")
    for nobody in (tmp_path, coco(tmp_path / "kites.json", both[0])):
        with pytest.raises(InputError, match=r"people: expected blazepose, as .* has no people; got 'annotations'"):
            registry.check("detector", f"given={nobody}", Runtime(options={"people": "annotations"}))
    Image.fromarray(np.zeros((HEIGHT, WIDTH), bool)).save(tmp_path / "black.png")
    with pytest.raises(InputError, match=r"black\.png: expected a mask with pixels inside, got none"):
        GivenMasks(open_masks(tmp_path / "black.png"), Nobody()).detect([picture()], "kite")
    with pytest.raises(InputError, match="several: expected pair or all, got 'some'"):
        registry.check("detector", f"given={file}", Runtime(options={"several": "some"}))
    with pytest.raises(InputError, match="expected a path that exists"):
        registry.check("detector", "given=nowhere", Runtime())
    (tmp_path / "b.json").write_text("no")
    with pytest.raises(InputError, match="expected JSON"):
        registry.make("detector", f"given={tmp_path / 'b.json'}", Runtime())


def test_images_are_those_of_the_name_or_else_of_the_number(tmp_path: Path) -> None:
    """Exporters number images as they like: a number is an image's only where its own name does not say otherwise."""
    images = [
        {"id": 1, "file_name": "frame_0010.jpg"},
        {"id": 2, "file_name": "a/same.jpg"},
        {"id": 3, "file_name": "b/same.jpg"},
        {"id": 4, "file_name": "COCO_val2014_000000000004.jpg"},
        {"id": 5},
    ]
    content = {"images": [{**i, "height": 4, "width": 4} for i in images], "annotations": [], "categories": []}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    annotations = read_annotations(tmp_path / "coco.json")
    for file, number in (
        ("frame_0010.jpg", 1),
        ("frame_0001.jpg", None),
        ("x/a/same.jpg", 2),
        ("b/same.jpg", 3),
        ("same.jpg", None),
        ("000000000004.jpg", 4),
        ("5.png", 5),
        ("6.png", None),
        ("none.jpg", None),
    ):
        assert annotations.image_of(file) == number, file


def test_without_pycocotools_polygons_are_refused_before_anything_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    file = coco(tmp_path / "a.json", {"category_id": 1, "segmentation": rectangle(0, 0, 9, 9)})
    with pytest.raises(ImportError, match=r"pip install '\.\[coco\]'"):
        registry.check("detector", f"given={file}", Runtime())


def test_masks_of_a_folder_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    mask, other = block(30, 20, 42, 30), block(1, 1, 5, 5)
    Image.fromarray(mask).save(tmp_path / "a.png")
    Image.fromarray(other).save(tmp_path / "deep" / "a.tif")
    stage = GivenMasks(open_masks(tmp_path), Nobody((0, 0, 20, 59), (28, 10, 60, 59)))
    found = stage.detect([picture("a.jpg"), picture("deep/a.webp"), picture("b.jpg")], "any name")
    np.testing.assert_array_equal(found[0].masks[1], mask)
    np.testing.assert_array_equal(found[0].boxes[0], [28, 10, 60, 59])
    np.testing.assert_array_equal(found[0].scores, np.float32([0.75, 1]))
    np.testing.assert_array_equal(found[1].masks[1], other)
    assert found[1].labels == (PERSON, "any name")
    np.testing.assert_array_equal(found[2].boxes, [[28, 10, 60, 59]])  # no mask: the larger person alone
    (one,) = GivenMasks(open_masks(tmp_path / "a.png"), Nobody()).detect([picture("whatever.jpg")], "kite")
    assert one.labels == ("kite",)


def test_a_picture_that_is_not_cropped_keeps_its_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = registry.make("images", f"folder={tmp_path}", Runtime(options={"crop": "none"}))
    (made,) = source.images([ImageRequest("a.png", "a person")])
    np.testing.assert_array_equal(made.pixels, pixels)
    with pytest.raises(InputError, match="crop: expected square or none, got 'x'"):
        registry.check("images", f"folder={tmp_path}", Runtime(options={"crop": "x"}))


def test_the_box_of_a_person_is_about_the_landmarks_that_are_seen() -> None:
    points = np.zeros((33, 3))
    points[:6] = [[10, 10, 0.9], [30, 10, 0.9], [10, 50, 0.9], [30, 50, 0.9], [79, 59, 0.1], [-20, 20, 0.9]]
    found = Landmarks(points, np.zeros((33, 3)), 1.0, 1.0)
    np.testing.assert_allclose(box_of(found, (HEIGHT, WIDTH)), [10 - 4.8, 10 - 4.8, 30 + 4.8, 50 + 4.8])
    np.testing.assert_allclose(box_of(found, (52, WIDTH)), [10 - 4.8, 10 - 4.8, 30 + 4.8, 52])
    points[0, 2] = 0
    assert box_of(found, (HEIGHT, WIDTH)) is None


# --- with real weights ------------------------------------------------------------------------------------------------------


def test_a_skier_is_found_and_nobody_on_a_wall(real_weights: str) -> None:
    assert anchors().shape == (2254, 2)
    finder = PersonFinder.of("" if real_weights == "full" else real_weights)
    pixels = read_picture(SKIER)
    boxes, scores = finder.people(pixels)
    assert boxes.shape == (1, 4)
    assert iou(boxes[0], np.array(SKIER_BOX)) > 0.7
    assert scores[0] > 0.8
    (circle,) = finder.circles(pixels)
    assert np.hypot(circle.x - 408, circle.y - 208) < 25  # the middle of the annotated hips
    # A smaller one elsewhere in a larger picture is found there.
    wall = np.full((900, 700, 3), 200, np.uint8)
    wall[300:725, 30:670] = pixels
    moved, _ = finder.people(wall)
    assert iou(moved[0], np.add(SKIER_BOX, (30, 300, 30, 300))) > 0.7
    boxes, scores = finder.people(np.full((400, 300, 3), 200, np.uint8))
    assert (boxes.shape, scores.shape) == ((0, 4), (0,))


def test_a_mask_of_skis_and_the_person_on_them(real_weights: str) -> None:
    weights = {} if real_weights == "full" else {"weights": real_weights}
    stage = registry.make("detector", f"given={SKIS}", Runtime(options=weights))
    (found,) = stage.detect([Picture(ImageRequest("785.jpg", "a person rides skis"), read_picture(SKIER))], "skis")
    assert found.labels == (PERSON, "skis")
    np.testing.assert_array_equal(found.boxes[1], boxes_of(found.masks[1]))
    assert not found.masks[0].any()


def test_a_file_without_the_detector_is_refused(real_weights: str, tmp_path: Path) -> None:
    path = tmp_path / "landmarks.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3 and so on")
    with pytest.raises(InputError, match="expected a model that LiteRT can run"):
        PersonFinder.of(str(path))
