"""A photograph without a record: what the front end's estimators find in it, as a scene for reconstruction (4.5)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from chorus.body.model import Body
from chorus.errors import InputError
from chorus.ingest import record as records
from chorus.ingest.record import RecordError
from chorus.reconstruct.scene import Scene, mask_box

if TYPE_CHECKING:
    from chorus.frontend.stages import Detector, HumanEstimator, Picture


@dataclass(frozen=True, eq=False)
class Found:
    """The person and the object of one photograph.

    category  the object's             overlap  intersection of the two boxes over the smaller one, 0 to 1
    boxes     of person and object, (4,) float64 x0, y0, x1, y1 in pixels, half open
    masks     of person and object, (H, W) bool
    """

    category: str
    overlap: float
    person_box: NDArray[np.float64]
    object_box: NDArray[np.float64]
    person_mask: NDArray[np.bool_]
    object_mask: NDArray[np.bool_]


def read_photo(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """A JPEG or PNG as (H, W, 3) uint8 RGB, turned as its EXIF says. RecordError for another file, or one that is too large."""
    path = Path(path)
    try:
        with Image.open(path, formats=["JPEG", "PNG"]) as image:
            if image.width * image.height > records.MAX_PIXELS:
                raise RecordError(
                    "record", f"{path.name}: expected at most {records.MAX_PIXELS} pixels, got {image.width} x {image.height}"
                )
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except RecordError:
        raise
    except records._DAMAGED as error:
        raise RecordError("record", f"{path.name}: expected a JPEG or PNG photograph: {error}") from None


def overlap_of_boxes(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Intersection of two boxes (4,) over the area of the smaller one; 0 where that has none."""
    smaller = min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod())
    shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(shared / smaller) if smaller > 0 else 0.0


def find_interaction(picture: Picture, categories: Sequence[str], detector: Detector, *, category: str | None = None) -> Found:
    """The object that a person meets: of all pairs of person and object the one whose boxes overlap most (4.5).

    categories  those looked for; the detector may not know them all     category  the only one looked for, instead

    Equal overlaps: the pair of greater confidence, person times object. Raises InputError where the detector knows none of
    the categories, and where there is no person or no object that meets one.
    """
    from chorus.frontend.stages import PERSON, check_category

    known, refused = [], []
    for name in categories if category is None else [category]:
        try:
            check_category(detector, name)
            known.append(name)
        except InputError as error:
            refused.append(str(error))
    if not known:
        raise InputError(f"category: expected one that the detector finds: {'; '.join(refused) or 'none is stored'}")

    best: tuple[float, float] = (0.0, 0.0)
    found: Found | None = None
    people = things = 0
    for name in known:
        (instances,) = detector.detect([picture], name)
        persons, objects = instances.of(PERSON), instances.of(name)
        people, things = max(people, len(persons)), things + len(objects)
        for p in range(len(persons)):
            for o in range(len(objects)):
                boxes = persons.boxes[p].astype(np.float64), objects.boxes[o].astype(np.float64)
                rank = overlap_of_boxes(*boxes), float(persons.scores[p] * objects.scores[o])
                if rank > best and rank[0] > 0 and objects.masks[o].any():
                    best, found = rank, Found(name, rank[0], *boxes, persons.masks[p], objects.masks[o])
    if found is None:
        raise InputError(
            f"photo: expected a person whose box overlaps that of an object among {', '.join(known)}; got {people} people and "
            f"{things} such objects"
        )
    return found


def estimate_scene(
    photo: str | os.PathLike[str],
    categories: Sequence[str],
    detector: Detector,
    humans: HumanEstimator,
    body: Body,
    *,
    category: str | None = None,
    method: str = "levenberg-marquardt",
    estimators: Mapping[str, str] | None = None,
) -> Scene:
    """A photograph as a scene: object and person by ``find_interaction``, pose by ``humans``, camera by Eq. 8 where the
    estimator knows none.

    categories, category  as for ``find_interaction``      estimators  names of the stages, for the report: kind -> name
    method                of the camera fit

    Raises RecordError for a file that is no photograph, InputError where something is not found.
    """
    from chorus.frontend.cameras import calibrate
    from chorus.frontend.stages import ImageRequest, Picture, Refusal

    path = Path(photo)
    picture = Picture(ImageRequest(path.name, category or ""), read_photo(path))
    found = find_interaction(picture, categories, detector, category=category)
    (human,) = humans.humans([picture], found.person_box[None].astype(np.float32))
    if isinstance(human, Refusal):
        raise InputError(f"photo: expected a person whose pose can be found: {human.reason}")
    if len(human.pose) != body.num_joints:
        raise InputError(f"humans: expected poses of the body's {body.num_joints} joints, got {len(human.pose)}")
    camera = calibrate([human], [picture.size], body, method=method)
    if camera.reasons[0]:
        raise InputError(f"photo: expected a person to whose joints a camera can be fitted: {camera.reasons[0]}")
    return Scene(
        path.stem,
        found.category,
        picture.size,
        human.pose,
        camera.cameras,
        float(camera.residual_px[0]),
        found.object_mask,
        found.person_mask,
        mask_box(found.object_mask),
        picture.pixels,
        dict(estimators or {}) or {"humans": human.estimator},
    )
