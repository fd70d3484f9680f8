"""A store from COCO's annotations of objects and a file of people's poses and cameras (docs/imports.md)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.errors import InputError, StoreError
from chorus.ingest.coco import CocoAnnotations, image_number, read_annotations
from chorus.ingest.coco_masks import decode_mask
from chorus.ingest.mask_folder import Import, beside, filling, kept_picture, key_problem
from chorus.ingest.posed_masks import MaskedImage, PeopleByName, Report, image_name
from chorus.ingest.poses.formats import Poses, read_people
from chorus.ingest.poses.layout import People

PERSON = "person"
CROWDS, POLYGONS = "crowds", "polygons"
"""What is left out and counted: annotations of crowds, and polygons without an area beside others that have one."""


def ingest_coco_poses(
    annotations: str | os.PathLike[str],
    poses: Poses,
    body: Body,
    how: Import,
    *,
    pictures_folder: str | os.PathLike[str] | None = None,
) -> Report:
    """Fill a store from COCO's instances of ``how.category`` and the people in the file ``poses``.

    An image's key in the store is its file name. A person belongs to the image of that name, with or without folder and ending,
    or of the number that the key ends in. Of several objects and people it is the pair whose boxes overlap most
    (``PosedMasks``); crowds are left out. Where ``how.person_masks``, the annotated person nearest to the posed one gives it.

    pictures_folder  the photographs by their file names, which the store then keeps

    Other arguments as of ``ingest_mask_folder``.

    What cannot be used is reported and leaves nothing in the store. Raises InputError for files that cannot be used or lack the
    category, StoreError as of ``ingest_mask_folder``, ImportError for polygons without pycocotools.
    """
    coco = read_annotations(annotations)
    if how.category not in coco.categories:
        known = ", ".join(list(coco.categories)[:12])
        raise InputError(f"category: expected one of those in {annotations} ({known}, ...), got {how.category!r}")
    people = _by_image(read_people(poses, body), coco)
    numbers = [n for n, notes in coco.by_image.items() if _of(notes, coco, how.category)]
    report, folder = Report(read_as=people.people.read_as), None if pictures_folder is None else Path(pictures_folder)
    with filling(how, body, people, report) as (taken, images, write):
        for done, number in enumerate(sorted(numbers), 1):
            if how.stop is not None and how.stop.is_set():
                report.stopped = True
                break
            key = coco.file_of(number)
            try:
                if key in taken:
                    people.find(key)
                    report.present.append(key)
                else:
                    images.add(_image(key, number, coco, how, folder, report, known=bool(people.find(key))))
            except StoreError:
                raise
            except (InputError, OSError) as error:
                report.rejected.append((key, str(error)))
            if images.full:
                write()
            if how.progress is not None:
                how.progress(done, len(numbers))
    if not report.stopped:
        wanted = f"annotations: expected an image of this name with the category {how.category!r}, got none"
        report.rejected += [(f"{poses.path}: {name}", wanted) for name in people.unused()]
    return report


def _by_image(people: People, coco: CocoAnnotations) -> PeopleByName:
    """The people by the file name of their image in COCO's file; those of no image by their key."""
    plain = {image_name(name): number for name, number in coco.names.items()}
    if people.frames:  # keys are numbers, which names end in
        plain = {str(image_number(name)): number for name, number in coco.names.items()}
    names = []
    for key in people.keys:
        exact = coco.names.get(key, plain.get(image_name(key)))
        number = coco.image_of(key.replace("\\", "/")) if exact is None else exact
        names.append(key if number is None else coco.file_of(number))
    return PeopleByName(people, names)


def _of(notes: Sequence[dict[str, Any]], coco: CocoAnnotations, category: str) -> list[dict[str, Any]]:
    wanted = coco.categories.get(category)
    return [note for note in notes if note["category_id"] == wanted]


def _image(
    key: str, number: int, coco: CocoAnnotations, how: Import, folder: Path | None, report: Report, *, known: bool
) -> MaskedImage:
    """The masks of an image. InputError where it cannot be used, or where no person is ``known`` in it."""
    problem = key_problem(key)
    if problem:
        raise InputError(problem)
    if not known:
        raise InputError("poses: expected a person of this image's name, got none")
    size, notes = coco.images[number], coco.by_image[number]
    left_out: Counter[str] = Counter()
    objects = _masks(_of(notes, coco, how.category), size, left_out)
    people = None
    if how.person_masks:
        people = _masks(_of(notes, coco, PERSON), size, left_out)
    if not len(objects):
        raise InputError(f"annotations: expected an object, got {left_out[CROWDS]} of crowds alone")
    picture = None if folder is None else beside(folder, image_name(key))
    for what, count in left_out.items():
        report.left_out[what] = report.left_out.get(what, 0) + count
    prompt = how.category if how.prompt is None else how.prompt
    return MaskedImage(key, objects, people, prompt, None if picture is None else kept_picture(picture, size))


def _masks(notes: Sequence[dict[str, Any]], size: tuple[int, int], left_out: Counter[str]) -> NDArray[np.bool_]:
    """The masks (N, H, W) of annotations that are no crowds. InputError for one that cannot be read."""
    masks = []
    for note in notes:
        if note["iscrowd"]:
            left_out[CROWDS] += 1
            continue
        polygons: list[str] = []
        try:
            masks.append(decode_mask(note.get("segmentation"), size, polygons))
        except InputError as error:
            raise InputError(f"annotation {note['id']}: {error}") from None
        left_out.update({POLYGONS: len(polygons)} if polygons else {})
    return np.stack(masks) if masks else np.zeros((0, *size), np.bool_)
