"""Identifiers of other tools: the forms they come in, the same one twice, and references to nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask

from chorus.body.model import load_body
from chorus.errors import InputError
from chorus.ingest.coco import CocoAnnotations, annotation_box, read_annotations, read_eft
from chorus.ingest.coco_eft import ingest_coco_eft
from chorus.ingest.coco_masks import decode_mask
from chorus.ingest.identifiers import flag, identifier, unique
from chorus.store import open_store
from tests.ingest.test_coco_eft import scene, write


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, 0), (37, 37), (37.0, 37), ("37", 37), (908400416500.0, 908400416500), ((1 << 62) - 1, (1 << 62) - 1), ("007", 7)],
)
def test_identifiers(value: Any, number: int) -> None:
    assert identifier("id", value) == number


@pytest.mark.parametrize(
    "value", [-1, 1.5, "x", "", "-1", "1.0", True, None, [], float("nan"), float("inf"), float(1 << 53), 1 << 62, "9" * 19, "३"]
)
def test_what_is_none(value: Any) -> None:
    with pytest.raises(InputError, match="id: expected an integer, 0 or more, got"):
        identifier("id", value)


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "true", "True", " yes "])
def test_yes(value: Any) -> None:
    assert flag("iscrowd", value) is True


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "false", "", None])
def test_no(value: Any) -> None:
    assert flag("iscrowd", value) is False


@pytest.mark.parametrize("value", [2, 0.5, "maybe", [], float("nan")])
def test_neither(value: Any) -> None:
    with pytest.raises(InputError, match="iscrowd: expected 0 or 1, got"):
        flag("iscrowd", value)


def test_the_same_twice() -> None:
    rows = [(1, "a"), (2, "b"), (1, "a"), (1, "a")]
    assert unique("rows", rows, lambda r: r[0], lambda r: r[1]) == ({1: (1, "a"), 2: (2, "b")}, 2)
    with pytest.raises(InputError, match="rows: expected one meaning for id 1, got 'a' and 'c'"):
        unique("rows", [*rows, (1, "c")], lambda r: r[0], lambda r: r[1])


def _coco(tmp_path: Path, change: Callable[[dict[str, Any]], object] = lambda content: None) -> CocoAnnotations:
    content = {
        "images": [{"id": n, "height": 48, "width": 64, "file_name": f"{n}.jpg"} for n in (1, 2)],
        "categories": [{"id": 1, "name": "person"}, {"id": 37, "name": "sports ball"}],
        "annotations": [
            {"id": n, "image_id": 1 + n // 2, "category_id": (1, 37)[n % 2], "iscrowd": 0, "bbox": [1, 2, 3, 4]}
            for n in range(4)
        ],
    }
    change(content)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    return read_annotations(path)


def _every(name: str, key: str, form: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for row in content[name]:
            row[key] = form(row[key])

    return change


@pytest.mark.parametrize("form", [float, str])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("images", "id"),
        ("images", "height"),
        ("categories", "id"),
        ("annotations", "id"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("annotations", "iscrowd"),
    ],
)
def test_the_form_of_a_number_does_not_matter(name: str, key: str, form: Any, tmp_path: Path) -> None:
    assert _coco(tmp_path, _every(name, key, form)) == _coco(tmp_path)


@pytest.mark.parametrize("name", ["images", "categories", "annotations"])
def test_a_repeated_row_is_taken_once_and_another_of_its_id_is_refused(name: str, tmp_path: Path) -> None:
    found = _coco(tmp_path, lambda c: c[name].append(dict(c[name][0])))
    plain = _coco(tmp_path)
    assert (found.images, found.categories, found.by_image) == (plain.images, plain.categories, plain.by_image)
    assert found.repeated == 1
    other = {"images": {"height": 50}, "categories": {"name": "cat"}, "annotations": {"bbox": [0, 0, 9, 9]}}[name]
    with pytest.raises(InputError, match=rf"{name}: expected one meaning for id {plain and _first(name)}"):
        _coco(tmp_path, lambda c: c[name].append({**c[name][0], **other}))


def _first(name: str) -> int:
    return {"images": 1, "categories": 1, "annotations": 0}[name]


def test_two_categories_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a name of its own for each, got 'sports ball' for 37 and 99"):
        _coco(tmp_path, lambda c: c["categories"].append({"id": 99, "name": "sports ball "}))


def test_references_to_nothing_are_counted(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][1]["category_id"] = 38
        content["annotations"][3]["category_id"] = 38
        content["annotations"][2]["image_id"] = 7

    found = _coco(tmp_path, change)
    assert found.unknown_categories == {38: 2}
    assert found.unknown_images == {7: 1}
    assert sum(map(len, found.by_image.values())) == 1


def test_a_sound_polygon_beside_others_is_used() -> None:
    square = [10, 10, 20, 10, 20, 20, 10, 20]
    want = decode_mask([square], (48, 64))
    shapeless = ([1, 2, 3, 4], [], [1, 2, 3, 4, 5], [0, 0, 1, 1, float("nan"), 2], "x", None, [0, 0, 1e9, 0, 1, 1])
    huge = [0, 0, 10**400, 0, 1, 1]
    flat = ([10, 10, 20, 10, 15, 10], [10, 10, 20, 20, 15, 15, 12, 12], [7, 7, 7, 7, 7, 7])
    outside = ([64, 0, 70, 0, 70, 9], [-9, 3, -1, 3, -1, 9], [3, 48, 9, 48, 9, 60], [3, -9, 9, -9, 9, 0])
    for bads, words in (
        ((*shapeless, huge), "expected polygons of three or more points"),
        (flat, "expected polygons with an area"),
        (outside, "expected polygons in an image of 64 x 48 px"),
    ):
        for bad in bads:
            left_out: list[str] = []
            assert (decode_mask([bad, square, bad], (48, 64), left_out) == want).all()
            assert len(left_out) == 2
            with pytest.raises(InputError, match=words):
                decode_mask([bad], (48, 64))


def test_small_polygons_without_pixels_are_no_fault() -> None:
    left_out: list[str] = []
    speck = [5, 5, 5.2, 5, 5.2, 5.2]  # COCO has many
    decode_mask([speck, [10, 10, 20, 10, 20, 20]], (48, 64), left_out)
    assert left_out == []


def test_run_lengths_of_pycocotools() -> None:
    packed = mask.encode(np.asfortranarray(np.eye(48, 64, dtype=np.uint8)))
    assert isinstance(packed["counts"], bytes)
    assert (decode_mask(packed, (48, 64)) == np.eye(48, 64, dtype=bool)).all()
    for size in (7, "48", None, [48], {"h": 48}, [[48], 64]):
        with pytest.raises(InputError, match="segmentation: expected the size"):
            decode_mask({**packed, "size": size}, (48, 64))


def test_boxes_as_text_and_boxes_of_masks(tmp_path: Path) -> None:
    assert annotation_box({"bbox": ["1", "2.5", 3, 4.0]}).tolist() == [1, 2.5, 4, 6.5]
    for bad in (["1", "2", "3", "x"], ["1", "2", "3", "nan"], ["1", "2", "-3", "4"], "1234", {"x": 1}, [10**400, 1, 1, 1]):
        with pytest.raises(InputError, match="bbox: expected"):
            annotation_box({"bbox": bad})
    content, eft = scene()
    for note in content["annotations"]:
        if note["id"] in (10, 11, 21):  # of images 1 and 2
            del note["bbox"]
    coco, fits, out = write(tmp_path, content, eft)
    report = ingest_coco_eft(coco, fits, out, load_body(), categories=["sports ball"], min_images=1, iterations=0, reject_px=99)
    rows = open_store(report.categories[0].store or "").rows
    overlap = dict(zip(rows["key"].tolist(), rows["score/overlap"].tolist(), strict=True))
    assert overlap[b"000000000001"] == overlap[b"000000000002"] == overlap[b"000000000003"] == 1


def test_run_lengths_as_floats() -> None:
    counts = [100.0, 20.0, 48.0 * 64 - 120]
    assert decode_mask({"size": [48.0, 64.0], "counts": counts}, (48, 64)).sum() == 20


def test_fits_of_one_person_that_differ_are_named(tmp_path: Path) -> None:
    row = {"annotId": 5, "imageName": "1.jpg"}
    paths = []
    for n, rows in enumerate(
        ([row, {**row, "annotId": 5.0}], [{**row, "annotId": "5", "imageName": "2.jpg"}, {"annotId": "x"}])
    ):
        paths.append(tmp_path / f"{n}.json")
        paths[-1].write_text(json.dumps({"data": rows}))
    found = read_eft(paths)
    assert (found.duplicates, found.differing, found.nameless) == (2, (5,), 1)
    assert set(found.broken) == {5}
