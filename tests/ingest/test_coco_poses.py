"""``chorus ingest coco``: segmentations of all kinds with poses, matched by the images' names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as tools

from chorus.cli import main
from chorus.ingest.coco_masks import decode_mask
from chorus.store import open_store, verify_store
from tests.ingest.posed import HEIGHT, WIDTH, people, square

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools


def ingest(annotations: Path, poses: Path, *more: object) -> Result:
    arguments = ["ingest", "coco", annotations, "--poses", poses, "--category", "ball", "-o", poses.parent / "s.chorus", *more]
    return CliRunner().invoke(main, [str(value) for value in arguments])


def runs(mask: NDArray[np.bool_], *, compressed: bool) -> dict[str, Any]:
    """A mask as COCO's run lengths."""
    flat = mask.T.ravel()
    if compressed:
        return {"size": list(mask.shape), "counts": tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()}
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]])))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()}


def annotations(path: Path, rows: list[tuple[int, int, Any, int]], names: list[str]) -> Path:
    """A COCO file of images 1, 2, ... with rows (image, category, segmentation, iscrowd)."""
    images = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(names, 1)]
    notes = [
        {
            "id": i,
            "image_id": image,
            "category_id": category,
            "segmentation": segmentation,
            "iscrowd": crowd,
            "bbox": [1, 1, 2, 2],
        }
        for i, (image, category, segmentation, crowd) in enumerate(rows, 10)
    ]
    categories = [{"id": 1, "name": "person"}, {"id": 37, "name": "ball"}, {"id": 38, "name": "kite"}]
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    return path


def test_polygons_run_lengths_and_crowds(tmp_path: Path) -> None:
    content = people(5)
    content["keys"] = np.array(["0001.jpg", "0002", "train/0003.jpg", "COCO_train_000000000004", "0005"])
    masks = [square(i) for i in range(5)]
    polygon = [[40.0, 30, 70, 30, 70, 52, 40, 52]]
    rows = [
        (1, 37, polygon, 0),
        (2, 37, runs(masks[1], compressed=False), 0),
        (3, 37, runs(masks[2], compressed=True), 0),
        (3, 37, runs(np.ones((HEIGHT, WIDTH), bool), compressed=False), 1),
        (4, 37, runs(masks[3], compressed=True), 0),
        (4, 38, runs(masks[0], compressed=True), 0),
        (5, 37, runs(masks[4], compressed=False), 1),
        (6, 37, polygon, 0),
    ]
    names = ["0001.jpg", "0002.jpg", "train/0003.jpg", "000000000004.jpg", "0005.jpg", "0006.jpg"]
    np.savez(tmp_path / "p.npz", **content)
    result = ingest(annotations(tmp_path / "a.json", rows, names), tmp_path / "p.npz")
    assert result.exit_code == 0, result.output
    assert "left out crowds  1" in result.stdout
    assert "rejected 0005.jpg: annotations: expected an object, got 1 of crowds alone" in result.stderr
    assert "rejected 0006.jpg: poses: expected a person of this image's name" in result.stderr
    assert verify_store(tmp_path / "s.chorus") == []
    store = open_store(tmp_path / "s.chorus")
    assert [key.decode() for key in store.rows["key"].tolist()] == names[:4]
    batch = store.batch(store.select())
    np.testing.assert_array_equal(batch.masks.unpack(0), tools.decode(tools.frPyObjects(polygon, HEIGHT, WIDTH))[..., 0] == 1)
    for row in (1, 2, 3):
        np.testing.assert_array_equal(batch.masks.unpack(row), masks[row])
    np.testing.assert_allclose(batch.poses[:, 1:], content["pose"][:4, 1:], atol=1e-6)
    again = ingest(tmp_path / "a.json", tmp_path / "p.npz")
    assert "present already  4" in again.stdout
    assert "nothing was added" in again.stdout


def test_the_pair_that_overlaps_most_and_its_person_mask(tmp_path: Path) -> None:
    content = people(1)
    content["keys"], content["t"] = np.array(["a.jpg"]), np.array([[0.0, 0.0, 4.0]])
    far, near, body, other = (np.zeros((HEIGHT, WIDTH), bool) for _ in range(4))
    far[2:12, 2:30] = True
    near[40:50, 60:75] = True
    body[20:80, 50:80] = True
    other[20:80, 0:20] = True
    rows = [(1, 37, runs(far, compressed=True), 0), (1, 37, runs(near, compressed=False), 0)]
    rows += [(1, 1, runs(mask, compressed=True), 0) for mask in (other, body)]
    np.savez(tmp_path / "p.npz", **content)
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    file = annotations(tmp_path / "a.json", rows, ["a.jpg"])
    result = ingest(file, tmp_path / "p.npz", "--person-masks", "--images", tmp_path / "photos", "--prompt", "hold")
    assert result.exit_code == 0, result.output
    store = open_store(tmp_path / "s.chorus")
    np.testing.assert_array_equal(store.batch([0]).masks.unpack(0), near)
    np.testing.assert_array_equal(store.person_masks([0]).unpack(0), body)
    np.testing.assert_array_equal(store.picture("a.jpg"), pixels)
    assert store.rows["score/object_count"].tolist() == [2]
    assert store.rows["score/person_count"].tolist() == [2]
    assert store.prompts == ["hold"]


def test_what_does_not_fit(tmp_path: Path) -> None:
    content = people(3)
    content["keys"] = np.array(["a", "b", "c"])
    content["image_size"] = np.array([[HEIGHT + 1, WIDTH], [HEIGHT, WIDTH], [HEIGHT, WIDTH]])
    rows = [(1, 37, runs(square(0), compressed=True), 0), (2, 37, {"size": [1, 2], "counts": [2]}, 0), (3, 38, [[1, 2]], 0)]
    np.savez(tmp_path / "p.npz", **content)
    file = annotations(tmp_path / "a.json", rows, ["a.jpg", "b.jpg", "c.jpg"])
    result = ingest(file, tmp_path / "p.npz")
    assert result.exit_code == 2
    assert f"rejected a.jpg: mask: expected the camera's image size, {WIDTH} x {HEIGHT + 1} px" in result.stderr
    assert "rejected b.jpg: annotation 11: segmentation: expected the size" in result.stderr
    assert "p.npz: c: annotations: expected an image of this name with the category 'ball', got none" in result.stderr.replace(
        "c.jpg", "c"
    )
    assert not (tmp_path / "s.chorus").exists()
    told = CliRunner().invoke(
        main, ["ingest", "coco", str(file), "--poses", str(tmp_path / "p.npz"), "--category", "cup", "-o", str(tmp_path / "x")]
    )
    assert "category: expected one of those in" in told.stderr
    assert "person, ball, kite" in told.stderr


def coco_tiny() -> list[Path]:
    place = os.environ.get("CHORUS_COCO_DATA")
    root = Path(place) if place else Path(__file__).parents[3] / "shared" / "data" / "coco_tiny"
    if not root.is_dir():
        pytest.skip("set CHORUS_COCO_DATA to a folder with COCO's instances_*2017.json")
    return sorted(root.glob("instances_*.json"))


def test_cocos_own_masks_are_pycocotools_pixel_for_pixel() -> None:
    checked = crowds = 0
    for path in coco_tiny():
        content = json.loads(path.read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        for note in content["annotations"]:
            size, given = sizes[note["image_id"]], note["segmentation"]
            lengths = tools.frPyObjects(given, *size)
            expected = tools.decode(tools.merge(lengths) if isinstance(lengths, list) else lengths) == 1
            np.testing.assert_array_equal(decode_mask(given, size), expected, err_msg=str(note["id"]))
            packed = {
                "size": list(size),
                "counts": tools.encode(np.asfortranarray(expected.astype(np.uint8)))["counts"].decode(),
            }
            np.testing.assert_array_equal(decode_mask(packed, size), expected, err_msg=str(note["id"]))
            checked += 1
            crowds += note["iscrowd"]
    assert checked > 1000
    assert crowds > 10


def test_cocos_own_files_fill_a_store(tmp_path: Path) -> None:
    path = coco_tiny()[-1]
    content = json.loads(path.read_text())
    number = {category["name"]: category["id"] for category in content["categories"]}["chair"]
    notes = [note for note in content["annotations"] if note["category_id"] == number and not note["iscrowd"]]
    images = {image["id"]: image for image in content["images"] if image["id"] in {note["image_id"] for note in notes}}
    given = people(len(images))
    given["keys"] = np.array([image["file_name"] for image in images.values()])
    given["focal"] = np.full(len(images), 500.0)
    np.savez(tmp_path / "p.npz", **given)
    arguments = ["ingest", "coco", path, "--poses", tmp_path / "p.npz", "--category", "chair", "-o", tmp_path / "s"]
    result = CliRunner().invoke(main, [str(value) for value in arguments])
    assert result.exit_code == 0, result.output
    store = open_store(tmp_path / "s")
    assert len(store) == len(images) > 3
    of_image = {image["file_name"].encode(): image for image in images.values()}
    for row, key in enumerate(store.rows["key"].tolist()):
        image = of_image[key]
        size = (image["height"], image["width"])
        every = [decode_mask(note["segmentation"], size) for note in notes if note["image_id"] == image["id"]]
        assert any((store.batch([row]).masks.unpack(0) == mask).all() for mask in every)
