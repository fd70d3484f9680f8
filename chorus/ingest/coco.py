"""Input of the extended COCO-EFT test set: COCO annotations, EFT fits, masks and crops (docs/coco-eft.md)."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, check_array
from chorus.ingest.coco_masks import LARGEST
from chorus.ingest.identifiers import flag, identifier, unique
from chorus.ingest.record import MAX_PIXELS, short_repr

CROP_PX = 224
"""Side of the square crop around the person that EFT's pose regressor takes as input, in pixels."""

BOX_UNIT_PX = 200
"""Unit of ``bbox_scale``: the side of the crop is 200 px times it, in pixels of the image."""

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
    duplicates  number of further fits of the same annotations, which are left out
    differing   annotation ids of those whose further fits are other than the first
    nameless    number of fits without an annotation id
    """

    records: dict[int, EftRecord] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    duplicates: int = 0
    differing: tuple[int, ...] = ()
    nameless: int = 0


@dataclass(frozen=True)
class CocoAnnotations:
    """COCO's instance annotations, each image, category and annotation once.

    images       id -> height, width in pixels
    categories   name -> id
    by_image     image id -> its annotations, crowds included; id, image_id, category_id are integers, iscrowd is bool
    repeated     number of images, categories and annotations that were given again, word for word, and left out
    unknown_categories, unknown_images  category or image id that the file does not have -> annotations that name it, left out
    names        file name of an image -> its id; of those in folders also the name alone, where it is one image's
    """

    images: dict[int, tuple[int, int]]
    categories: dict[str, int]
    by_image: dict[int, list[dict[str, Any]]]
    repeated: int = 0
    unknown_categories: dict[int, int] = field(default_factory=dict)
    unknown_images: dict[int, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)

    def image_of(self, file: str) -> int | None:
        """The id of the image in a file: by its path or the end of it, as COCO's file has it; else by the number that its name
        ends in, unless the image of this number has another name. None for no image.

        file  path with forward slashes
        """
        parts = PurePosixPath(file).parts
        for first in range(len(parts)):
            found = self.names.get("/".join(parts[first:]))
            if found is not None:
                return found
        number = image_number(file)
        if number not in self.images:
            return None
        named = self._names_of.get(number, [])
        return number if not named or number in map(image_number, named) else None

    def file_of(self, number: int) -> str:
        """The file name of an image, as COCO's file has it; its number of 12 digits where it has none."""
        return max(self._names_of.get(number, [f"{number:012d}"]), key=len)

    @cached_property
    def _names_of(self) -> dict[int, list[str]]:
        names: dict[int, list[str]] = defaultdict(list)
        for name, number in self.names.items():
            names[number].append(name)
        return dict(names)


def read_annotations(path: str | os.PathLike[str]) -> CocoAnnotations:
    """Read COCO's instances_*.json. InputError where the file cannot be read or does not have COCO's form.

    What exporters do to identifiers is undone (``chorus.ingest.identifiers``). An image, category or annotation that is given
    twice is taken once where both agree, and refused by its id where they do not; so are two categories of one name.
    """
    content = _read_json(path)
    lists: dict[str, list[dict[str, Any]]] = {}
    for name in ("images", "annotations", "categories"):
        rows = content.get(name)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(
                f"{path}: {name}: expected a list of objects, as in instances_val2017.json, got {short_repr(rows)}"
            )
        lists[name] = rows
    images, images_again = _by_id(f"{path}: images", lists["images"], lambda row: _image_size(path, row))
    names, names_again = _by_id(f"{path}: categories", lists["categories"], lambda row: _category_name(path, row))
    categories: dict[str, int] = {}
    for number, title in names.items():
        if title in categories:
            raise InputError(
                f"{path}: categories: expected a name of its own for each, got {title!r} for {categories[title]} and {number}"
            )
        categories[title] = number
    notes, notes_again = _by_id(f"{path}: annotations", lists["annotations"], lambda row: _annotation(path, row))
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    unknown_categories: Counter[int] = Counter()
    unknown_images: Counter[int] = Counter()
    for note in notes.values():
        if note["image_id"] not in images:
            unknown_images[note["image_id"]] += 1
        elif note["category_id"] not in names:
            unknown_categories[note["category_id"]] += 1
        else:
            by_image[note["image_id"]].append(note)
    again = images_again + names_again + notes_again
    unknown = dict(unknown_categories), dict(unknown_images)
    return CocoAnnotations(images, categories, dict(by_image), again, *unknown, _file_names(lists["images"]))


def _file_names(rows: list[dict[str, Any]]) -> dict[str, int]:
    named = [(row["file_name"], identifier("id", row["id"])) for row in rows if isinstance(row.get("file_name"), str)]
    alone: dict[str, set[int]] = defaultdict(set)
    for name, number in named:
        alone[PurePosixPath(name).name].add(number)
    return {name: min(numbers) for name, numbers in alone.items() if len(numbers) == 1} | dict(named)


_Content = TypeVar("_Content")


def _by_id(
    where: str, rows: list[dict[str, Any]], read: Callable[[dict[str, Any]], _Content]
) -> tuple[dict[int, _Content], int]:
    """Contents by id, and the number of those given again."""
    pairs = [(identifier(f"{where}: id", row.get("id")), read(row)) for row in rows]
    found, again = unique(where, pairs, key=lambda pair: pair[0], same=lambda pair: pair[1])
    return {number: content for number, (_, content) in found.items()}, again


def _image_size(path: str | os.PathLike[str], row: dict[str, Any]) -> tuple[int, int]:
    height, width = (identifier(f"{path}: images: {name}", row.get(name)) for name in ("height", "width"))
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise InputError(
            f"{path}: images: expected a height and width of 1 to {MAX_PIXELS} pixels in all, got {short_repr(row)}"
        )
    return height, width


def _category_name(path: str | os.PathLike[str], row: dict[str, Any]) -> str:
    title = row.get("name")
    if not isinstance(title, str) or not title.strip():
        raise InputError(f"{path}: categories: expected a name, got {short_repr(title)}")
    return title.strip()


def _annotation(path: str | os.PathLike[str], row: dict[str, Any]) -> dict[str, Any]:
    """An annotation with its identifiers as integers and ``iscrowd`` as bool."""
    where = f"{path}: annotations"
    numbers = {name: identifier(f"{where}: {name}", row.get(name)) for name in ("id", "image_id", "category_id")}
    crowd = flag(f"{where}: iscrowd of id {numbers['id']}", row.get("iscrowd"))
    return {**row, **numbers, "iscrowd": crowd}


def read_eft(paths: Iterable[str | os.PathLike[str]]) -> EftFits:
    """Read EFT fit files, ``{"data": [...]}``. Broken fits are collected; InputError where a file is not of this form.

    Of several fits of one annotation the first is taken: EFT's own files for parts of COCO overlap.
    """
    first: dict[int, Any] = {}
    records: dict[int, EftRecord] = {}
    broken: dict[int, str] = {}
    differing: dict[int, None] = {}
    duplicates = nameless = 0
    for path in paths:
        rows = _read_json(path).get("data")
        if not isinstance(rows, list):
            raise InputError(f"{path}: data: expected a list of fits, got {short_repr(rows)}")
        for row in rows:
            try:
                number = identifier("annotId", row.get("annotId") if isinstance(row, dict) else None)
            except InputError:
                nameless += 1
                continue
            if number in first:
                duplicates += 1
                if {**first[number], "annotId": 0} != {**row, "annotId": 0}:
                    differing[number] = None
                continue
            first[number] = row
            try:
                records[number] = _parse_eft(number, row)
            except InputError as error:
                broken[number] = str(error)
    return EftFits(records, broken, duplicates, tuple(differing), nameless)


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
    centre = numbers("bbox_center", (2,), LARGEST)
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
    """COCO's bbox (x, y, width, height) as (x0, y0, x1, y1) in pixels; InputError for an empty or invalid one.

    Numbers may be decimal text, as some exporters write.
    """
    given = annotation.get("bbox")
    try:
        numbers = [float(v) if isinstance(v, str) else v for v in given] if isinstance(given, list) else given
        x, y, width, height = check_array("bbox", np.asarray(numbers), (4,), np.float64).tolist()
    except ValueError as error:
        raise InputError(f"bbox: expected x, y, width, height, got {short_repr(given)} ({error})") from None
    if not (width > 0 and height > 0 and max(abs(x), abs(y), width, height) <= LARGEST):
        raise InputError(f"bbox: expected a positive width and height, got {given}")
    return np.array([x, y, x + width, y + height])


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
