"""Input of the extended COCO-EFT test set: COCO annotations, EFT fits, masks and crops (docs/coco-eft.md)."""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, check_array
from chorus.ingest.record import MAX_PIXELS, short_repr

CROP_PX = 224
"""Side of the square crop around the person that EFT's pose regressor takes as input, in pixels."""

BOX_UNIT_PX = 200
"""Unit of ``bbox_scale``: the side of the crop is 200 px times it, in pixels of the image."""

_LARGEST = 1e5  # bound of all coordinates in pixels
_ROTATION_TOLERANCE = 1e-2  # EFT prints some matrices with few digits; they are orthonormalised
_NUMBER_AT_END = re.compile(r"(\d+)(?:\.\w+)?$")


@dataclass(frozen=True)
class EftRecord:
    """One fit of EFT: SMPL pose and shape, and a weak-perspective camera in a square crop.

    annotation   COCO's id of the person's annotation
    image_name   file name of the image, which ends in COCO's id of the image
    pose         (24, 3, 3) rotations; row 0 from the person's frame to the camera's axes (x right, y down, z forward)
    betas        (10,) shape coefficients
    camera       (3,) s, t_x, t_y: x = s X + t in -1..1 across the crop, X in metres relative to SMPL's model origin
    box_scale    side of the crop in the image in units of BOX_UNIT_PX     box_centre  (2,) its centre in pixels
    """

    annotation: int
    image_name: str
    pose: NDArray[np.float64]
    betas: NDArray[np.float64]
    camera: NDArray[np.float64]
    box_scale: float
    box_centre: NDArray[np.float64]


@dataclass(frozen=True)
class EftFits:
    """The fits in EFT files.

    records     annotation id -> its first fit
    broken      annotation id -> what is wrong with its fit
    duplicates  number of further fits of the same annotations, which are ignored
    nameless    number of fits without an annotation id
    """

    records: dict[int, EftRecord] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    duplicates: int = 0
    nameless: int = 0


@dataclass(frozen=True)
class CocoAnnotations:
    """COCO's instance annotations.

    images       id -> height, width in pixels
    categories   name -> id
    by_image     image id -> its annotations as in the file, crowds included
    """

    images: dict[int, tuple[int, int]]
    categories: dict[str, int]
    by_image: dict[int, list[dict[str, Any]]]


def read_annotations(path: str | os.PathLike[str]) -> CocoAnnotations:
    """Read COCO's instances_*.json. InputError where the file cannot be read or does not have COCO's form."""
    content = _read_json(path)
    lists: dict[str, list[dict[str, Any]]] = {}
    for name in ("images", "annotations", "categories"):
        rows = content.get(name)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(
                f"{path}: {name}: expected a list of objects, as in instances_val2017.json, got {short_repr(rows)}"
            )
        lists[name] = rows
    images: dict[int, tuple[int, int]] = {}
    for row in lists["images"]:
        height, width = _integer(path, row, "height"), _integer(path, row, "width")
        if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
            raise InputError(f"{path}: images: expected a height and width of 1 to {MAX_PIXELS} pixels in all, got {row}")
        images[_integer(path, row, "id")] = (height, width)
    categories: dict[str, int] = {}
    for row in lists["categories"]:
        title = row.get("name")
        if not isinstance(title, str) or not title:
            raise InputError(f"{path}: categories: expected a name, got {short_repr(title)}")
        categories[title] = _integer(path, row, "id")
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in lists["annotations"]:
        for key in ("id", "category_id"):
            _integer(path, row, key)
        image = _integer(path, row, "image_id")
        if image not in images:
            raise InputError(f"{path}: annotations: expected the id of an image in the file, got image_id {image}")
        by_image[image].append(row)
    return CocoAnnotations(images, categories, dict(by_image))


def read_eft(paths: Iterable[str | os.PathLike[str]]) -> EftFits:
    """Read EFT fit files, ``{"data": [...]}``. Broken fits are collected; InputError where a file is not of this form."""
    records: dict[int, EftRecord] = {}
    broken: dict[int, str] = {}
    duplicates = nameless = 0
    for path in paths:
        rows = _read_json(path).get("data")
        if not isinstance(rows, list):
            raise InputError(f"{path}: data: expected a list of fits, got {short_repr(rows)}")
        for row in rows:
            number = row.get("annotId") if isinstance(row, dict) else None
            if isinstance(number, float) and number.is_integer():  # as written by some exporters
                number = int(number)
            if type(number) is not int:
                nameless += 1
            elif number in records or number in broken:
                duplicates += 1
            else:
                try:
                    records[number] = _parse_eft(number, row)
                except InputError as error:
                    broken[number] = str(error)
    return EftFits(records, broken, duplicates, nameless)


def _parse_eft(number: int, row: dict[str, Any]) -> EftRecord:
    def numbers(name: str, shape: tuple[int, ...], most: float) -> NDArray[np.float64]:
        try:
            given = np.asarray(row.get(name))
        except (ValueError, OverflowError):
            raise InputError(f"{name}: expected shape {shape}, got rows of different lengths") from None
        array: NDArray[np.float64] = check_array(name, given, shape, np.float64)
        if array.size and np.abs(array).max() > most:
            raise InputError(f"{name}: expected numbers up to {most:g}, got {np.abs(array).max():g}")
        return array

    pose = numbers("parm_pose", (24, 3, 3), 2.0)
    off = np.abs(pose @ pose.swapaxes(1, 2) - np.eye(3)).max((1, 2))
    off = np.maximum(off, np.abs(np.linalg.det(pose) - 1))
    if off.max() > _ROTATION_TOLERANCE:
        raise InputError(
            f"parm_pose: expected rotations (R R^T = 1, det R = 1), joint {int(off.argmax())} is off by {off.max():.3g}"
        )
    u, _, vt = np.linalg.svd(pose)
    camera, scale = numbers("parm_cam", (3,), 1e3), numbers("bbox_scale", (), 1e3).item()
    if not camera[0] > 0:
        raise InputError(f"parm_cam: expected a positive scale, got {camera[0]:g}")
    if not scale > 0:
        raise InputError(f"bbox_scale: expected a positive number, got {scale:g}")
    image_name = row.get("imageName")
    if not isinstance(image_name, str) or not image_name:
        raise InputError(f"imageName: expected a file name, got {short_repr(image_name)}")
    centre = numbers("bbox_center", (2,), _LARGEST)
    return EftRecord(number, image_name, u @ vt, numbers("parm_shape", (10,), 1e3), camera, scale, centre)


def image_number(name: str) -> int | None:
    """COCO's image id from a file name: 44474 for COCO_train2014_000000044474.jpg and 000000044474.jpg; None without one."""
    found = _NUMBER_AT_END.search(name)
    return int(found[1]) if found and len(found[1]) <= 18 else None


def crop_to_image(points: Any, box_scale: Any, box_centre: Any) -> NDArray[np.float64]:
    """Points (n, ..., 2) from pixels of the CROP_PX crop (origin at its upper left corner) to pixels of the image.

    box_scale (n,) and box_centre (n, 2) pixels as in EftRecord. Nothing is rounded.
    """
    points, side, centre = _crop(points, box_scale, box_centre)
    moved: NDArray[np.float64] = centre + (points / CROP_PX - 0.5) * side
    return moved


def image_to_crop(points: Any, box_scale: Any, box_centre: Any) -> NDArray[np.float64]:
    """The inverse of ``crop_to_image``: points (n, ..., 2) from pixels of the image to pixels of the crop."""
    points, side, centre = _crop(points, box_scale, box_centre)
    moved: NDArray[np.float64] = ((points - centre) / side + 0.5) * CROP_PX
    return moved


def _crop(points: Any, box_scale: Any, box_centre: Any) -> tuple[NDArray[np.float64], ...]:
    points = np.asarray(points, np.float64)
    n, between = len(points), (1,) * (points.ndim - 2)
    side = BOX_UNIT_PX * check_array("box_scale", box_scale, (n,), np.float64)
    centre = check_array("box_centre", box_centre, (n, 2), np.float64)
    return points, side.reshape(n, *between, 1), centre.reshape(n, *between, 2)


def weak_projection(points: Any, camera: Any) -> NDArray[np.float64]:
    """Weak-perspective projection to pixels of the crop, (n, P, 2); camera (n, 3) = s, t_x, t_y.

    points  (n, P, 3) metres, already rotated into the camera's axes

    EFT adds the translation after the scale, x = s X + t; HMR and SPIN write s (X + t).
    """
    camera = np.asarray(camera, np.float64)
    across = camera[:, None, :1] * np.asarray(points, np.float64)[..., :2] + camera[:, None, 1:]
    return np.asarray(CROP_PX / 2 * (across + 1))


def annotation_box(annotation: dict[str, Any]) -> NDArray[np.float64]:
    """COCO's bbox (x, y, width, height) as (x0, y0, x1, y1) in pixels; InputError for an empty or invalid one."""
    try:
        x, y, width, height = check_array("bbox", np.asarray(annotation.get("bbox")), (4,), np.float64).tolist()
    except ValueError as error:
        raise InputError(f"bbox: expected x, y, width, height, got {short_repr(annotation.get('bbox'))} ({error})") from None
    if not (width > 0 and height > 0 and max(abs(x), abs(y), width, height) <= _LARGEST):
        raise InputError(f"bbox: expected a positive width and height, got {annotation['bbox']}")
    return np.array([x, y, x + width, y + height])


def decode_mask(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A COCO segmentation (polygons, or run lengths, compressed or not) as an (H, W) bool mask.

    size  height, width in pixels

    Raises InputError for anything else and for empty masks, ImportError for polygons without pycocotools, which decides what
    pixels they cover.
    """
    height, width = size
    if isinstance(segmentation, list):
        polygons = [_polygon(polygon) for polygon in segmentation]
        if not polygons:
            raise InputError("segmentation: expected polygons, got none")
        tools = _pycocotools()
        counts = _run_lengths(tools.merge(tools.frPyObjects(polygons, height, width))["counts"])
    elif isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            raise InputError(f"segmentation: expected the size {[height, width]}, got {short_repr(segmentation.get('size'))}")
        given = segmentation.get("counts")
        if isinstance(given, list):
            counts = given
        elif isinstance(given, str) and given.isascii():
            counts = _run_lengths(given.encode("ascii"))
        else:
            raise InputError(f"segmentation: expected run lengths, got {short_repr(given)}")
    else:
        raise InputError(f"segmentation: expected polygons or run lengths, got {short_repr(segmentation)}")
    if not all(type(c) is int and c >= 0 for c in counts) or sum(counts) != height * width:
        raise InputError(f"segmentation: expected run lengths that add up to {height * width} pixels, got {short_repr(counts)}")
    runs = np.arange(len(counts)) % 2 == 1  # background first, down the columns
    mask = np.ascontiguousarray(np.repeat(runs, counts).reshape(width, height).T)
    if not mask.any():
        raise InputError("segmentation: expected pixels of the image, got none")
    return mask


def _run_lengths(text: bytes) -> list[int]:
    """COCO's compressed run lengths: numbers of 5 bits a character, the low ones first, from "0" on.

    Bit 5 tells that more characters follow, bit 4 of the last one is the sign; from the fourth run on, numbers are
    differences to the run before the last. (pycocotools reads beyond the end of a truncated string.)
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise InputError("segmentation: expected compressed run lengths, got other characters")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise InputError("segmentation: expected compressed run lengths, got a string that is cut off")
    return counts


def _polygon(value: Any) -> list[float]:
    fits = isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0
    if not fits or not all(type(c) in (int, float) and math.isfinite(c) and abs(c) <= _LARGEST for c in value):
        raise InputError(f"segmentation: expected polygons of three or more points x, y in pixels, got {short_repr(value)}")
    return [float(c) for c in value]


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError:
        raise ImportError(
            "COCO's masks need pycocotools, which is not installed: pip install '.[coco]' in a checkout"
        ) from None
    return mask


def _read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be read, got {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, got something else ({short_repr(str(error))})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _integer(path: str | os.PathLike[str], row: dict[str, Any], name: str) -> int:
    value = row.get(name)
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise InputError(f"{path}: {name}: expected an integer, 0 or more, got {short_repr(value)}")
    return value
