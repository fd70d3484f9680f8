"""Which images of a category qualify for the extended COCO-EFT test set, and why the rest do not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.boxes import boxes_of, overlap_of_smaller
from chorus.errors import InputError
from chorus.ingest.coco import (
    BOX_UNIT_PX,
    CocoAnnotations,
    EftFits,
    EftRecord,
    annotation_box,
    image_number,
)
from chorus.ingest.coco_masks import decode_mask
from chorus.units import UnitCheck

REASONS = (
    "crowd",
    "several objects",
    "no person",
    "several people",
    "no EFT fit",
    "EFT fit",
    "box",
    "object mask",
    "person mask",
    "overlap",
    "camera",
)
"""Why an annotation is not in the test set, in the order of the tests: it is a crowd; the image has more objects of the
category, no person, or several people (or a crowd); the person has no fit in the files, or a broken one or one of another
image; a box or mask is broken; the boxes overlap too little; the camera's residual is too large."""

PERSON = "person"


@dataclass
class InteractionImage:
    """A candidate: an image with one person and one object.

    key     name of the image       size     height, width in pixels
    record  the person's fit        masks    (H, W) bool of the object and of the person
    overlap intersection of the two boxes over the smaller one, 0 to 1
    """

    key: str
    size: tuple[int, int]
    record: EftRecord
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    overlap: float


@dataclass
class Verdicts:
    """The images of one category: candidates, whose overlap and camera are tested later, and the rejected ones.

    units     what can hardly be in the unit that it should be in
    rejected  (key, size, reason)       counted   reason -> number of annotations
    failures  (key, reason, message) of images with one person and one object
    polygons  (key, message) of polygons that were left out of masks, beside others that could be used
    """

    units: UnitCheck = field(default_factory=UnitCheck)
    candidates: list[InteractionImage] = field(default_factory=list)
    rejected: list[tuple[str, tuple[int, int], str]] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    polygons: list[tuple[str, str]] = field(default_factory=list)


def judge(image: int, objects: list[dict[str, Any]], coco: CocoAnnotations, fits: EftFits, verdicts: Verdicts) -> None:
    """Add one image to the candidates or to the rejected ones; ``objects`` are its annotations of the category."""
    key, size = f"{image:012d}", coco.images[image]
    crowds = sum(a["iscrowd"] for a in objects)
    people = [a for a in coco.by_image[image] if a["category_id"] == coco.categories[PERSON]]
    reason = words = ""
    if crowds == len(objects):
        reason = "crowd"
    elif len(objects) > 1:
        reason = "several objects"
    elif not people:
        reason = "no person"
    elif len(people) > 1 or people[0]["iscrowd"]:
        reason = "several people"
    if reason:
        verdicts.rejected.append((key, size, reason))
        verdicts.counted["crowd"] += crowds
        verdicts.counted[reason] += len(objects) - crowds
        return
    target, person = objects[0], people[0]
    record = fits.records.get(person["id"])
    left_out: list[str] = []
    try:
        if record is None:
            broken = fits.broken.get(person["id"])
            reason, words = ("no EFT fit", f"of person {person['id']}") if broken is None else ("EFT fit", broken)
            raise InputError(words)
        reason = "EFT fit"
        if image_number(record.image_name) != image:
            raise InputError(f"imageName: expected image {image}, got {record.image_name!r}")
        reason = "box"
        boxes = [None if a.get("bbox") is None else annotation_box(a) for a in (target, person)]
        _check_units([box for box in boxes if box is not None], record, size, key, verdicts.units)
        reason = "object mask"
        mask = decode_mask(target.get("segmentation"), size, left_out)
        reason = "person mask"
        person_mask = decode_mask(person.get("segmentation"), size, left_out)
        both = zip(boxes, (mask, person_mask), strict=True)
        overlap = float(overlap_of_smaller(*(boxes_of(m) if box is None else box for box, m in both)))
        verdicts.candidates.append(InteractionImage(key, size, record, (mask, person_mask), overlap))
        verdicts.polygons += [(key, words) for words in left_out]
    except InputError as error:
        verdicts.rejected.append((key, size, reason))
        verdicts.counted[reason] += 1
        verdicts.failures.append((key, reason, str(error)))


def _check_units(
    boxes: list[NDArray[np.float64]], record: EftRecord, size: tuple[int, int], key: str, units: UnitCheck
) -> None:
    """Add what of an image can hardly be in pixels or metres to ``units``: boxes (4,) of object and person, and the fit."""
    keys, sizes = [key], np.array([size])
    units.pixels("bbox", np.reshape(boxes, (1, -1, 2)), sizes, keys)
    units.pixels("bbox_center", record.box_centre[None, None], sizes, keys)
    units.crops("bbox_scale", [BOX_UNIT_PX * record.box_scale], sizes, keys)
    units.weak_cameras("parm_cam", [record.camera[0]], keys)
