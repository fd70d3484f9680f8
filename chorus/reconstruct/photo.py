"""A scene for reconstruction from a photograph without a record, by the estimators of the front end (4.5)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.boxes import boxes_of, overlap_of_smaller
from chorus.errors import InputError
from chorus.ingest.record import MAX_PIXELS, RecordError
from chorus.picture_files import PictureError
from chorus.pictures import read_picture
from chorus.reconstruct.scene import Scene

if TYPE_CHECKING:
    from chorus.frontend.stages import Detector, HumanEstimator, Picture


@dataclass(frozen=True, eq=False)
class Found:
    """The person and the object found in one photograph.

    category  of the object            overlap  intersection of the two boxes over the smaller one, 0 to 1
    boxes     of person and object, (4,) float64 x0, y0, x1, y1 in pixels, half open
    masks     of person (empty where only the box is known) and object, (H, W) bool
    """

    category: str
    overlap: float
    person_box: NDArray[np.float64]
    object_box: NDArray[np.float64]
    person_mask: NDArray[np.bool_]
    object_mask: NDArray[np.bool_]


def read_photo(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """A photograph as (H, W, 3) uint8 RGB, by ``chorus.pictures.read_picture``. RecordError where it cannot be used."""
    try:
        return read_picture(path, max_pixels=MAX_PIXELS)
    except PictureError as error:
        raise RecordError("record", str(error)) from None


def find_interaction(picture: Picture, categories: Sequence[str], detector: Detector, *, category: str | None = None) -> Found:
    """The person and object that interact: of all pairs, the one whose boxes overlap most (4.5).

    categories  of objects to look for; those that the detector does not know are skipped
    category    the only one to look for, instead

    Of pairs of equal overlap, the one of greater confidence (person times object) is taken. Raises InputError where the
    detector knows none of the categories, and where no person's box overlaps an object's.
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
    num_people = num_objects = 0
    for name in known:
        (instances,) = detector.detect([picture], name)
        persons, objects = instances.of(PERSON), instances.of(name)
        num_people, num_objects = max(num_people, len(persons)), num_objects + len(objects)
        for p in range(len(persons)):
            for o in range(len(objects)):
                boxes = persons.boxes[p].astype(np.float64), objects.boxes[o].astype(np.float64)
                rank = float(overlap_of_smaller(*boxes)), float(persons.scores[p] * objects.scores[o])
                if rank > best and rank[0] > 0 and objects.masks[o].any():
                    best, found = rank, Found(name, rank[0], *boxes, persons.masks[p], objects.masks[o])
    if found is None:
        raise InputError(
            f"photo: expected a person whose box overlaps that of an object among {', '.join(known)}; got {num_people} people "
            f"and {num_objects} such objects"
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
    """Estimate the scene of a photograph: person and object by ``find_interaction``, pose by ``humans``, camera by Eq. 8 where
    the estimator gives none.

    categories, category  as for ``find_interaction``      method  of the camera fit, as in ``chorus.camera.fit.fit_cameras``
    estimators            kind of stage -> name, for the report

    Raises RecordError for a file that is not a photograph, InputError where person, object, pose or camera is not found.
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
        found.person_mask if found.person_mask.any() else None,  # a detector that finds boxes alone gives empty masks
        boxes_of(found.object_mask).astype(np.float64),
        picture.pixels,
        dict(estimators or {}) or {"humans": human.estimator},
    )
