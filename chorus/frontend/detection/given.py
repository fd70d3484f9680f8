"""Masks that are known already: of COCO's annotations, or one picture a photograph; people by annotation or by BlazePose."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chorus.boxes import area, boxes_of, overlap_of_smaller
from chorus.errors import InputError
from chorus.frontend.stage_info import BLAZEPOSE_EXTRA
from chorus.frontend.stages import PERSON, Instances, Picture, Runtime
from chorus.ingest.coco import CocoAnnotations, annotation_box, read_annotations
from chorus.ingest.coco_masks import decode_mask, pycocotools
from chorus.picture_files import picture_file
from chorus.pictures import read_mask

PEOPLE = "blazepose"
"""Option ``people``: persons found by BlazePose's detector, of the fetched weights or those of the option ``weights``."""
ANNOTATED = "annotations"
"""Option ``people``: persons as COCO's file has them."""
SEVERAL = ("pair", "all")
"""Option ``several``: of several people or objects the pair whose boxes overlap most, or all, which the run then refuses."""


class People(Protocol):
    """Finds people, without masks."""

    def people(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes (N, 4) x0, y0, x1, y1 in pixels and scores (N,) in 0..1 of the people in an image (H, W, 3) uint8 RGB."""
        ...


class Masks(Protocol):
    """Where given masks come from; each raises InputError for masks that cannot be used."""

    def check(self, category: str) -> None:
        """InputError where there is nothing of a category."""
        ...

    def objects(self, picture: Picture, category: str) -> NDArray[np.bool_]:
        """The masks of the category in a picture, (N, H, W)."""
        ...

    def people(self, picture: Picture) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """Boxes (N, 4) and masks (N, H, W) of people, a mask empty where only the box is known; None: none are given."""
        ...


def make(model: str, runtime: Runtime) -> GivenMasks:
    """The stage for a COCO file, a folder of masks, or one mask. Errors as of ``check``."""
    masks, people = _chosen(model, runtime, None)
    pair = runtime.one_of("several", SEVERAL) == SEVERAL[0]
    if people == ANNOTATED:
        return GivenMasks(masks, None, pair)
    from chorus.frontend.blazepose.people import PersonFinder

    return GivenMasks(masks, PersonFinder.of(runtime.options.get("weights", "")), pair)


def check(model: str, runtime: Runtime, category: str | None) -> None:
    """InputError for options that are none, masks that cannot be read or lack the category, and BlazePose weights that are
    missing where they are needed; ImportError for libraries that are."""
    runtime.one_of("several", SEVERAL)
    _, people = _chosen(model, runtime, category)
    if people == PEOPLE:
        from chorus.frontend.blazepose.people import resolve_detector

        if importlib.util.find_spec("ai_edge_litert") is None:
            raise ImportError(f"detector given: finding people needs LiteRT, which is not installed: {BLAZEPOSE_EXTRA}")
        resolve_detector(runtime.options.get("weights", ""))


def _chosen(model: str, runtime: Runtime, category: str | None) -> tuple[Masks, str]:
    """The masks, looked at, and where people come from: PEOPLE or ANNOTATED."""
    masks, people = open_masks(model), runtime.options.get("people", "")
    if people not in ("", PEOPLE, ANNOTATED):
        raise InputError(f"{runtime.option_name('people')}: expected {ANNOTATED} or {PEOPLE}; got {people!r}")
    if category is not None:
        masks.check(category)
    annotated = isinstance(masks, CocoMasks) and masks.has_people
    if people == ANNOTATED and not annotated:
        raise InputError(f"{runtime.option_name('people')}: expected {PEOPLE}, as {model} has no people; got {people!r}")
    return masks, people or (ANNOTATED if annotated else PEOPLE)


def open_masks(path: str | Path) -> Masks:
    """The masks of a COCO file (.json), of a folder of pictures, or of one picture. InputError where it is none of them,
    ImportError where COCO's polygons need pycocotools."""
    path = Path(path).expanduser()
    if path.is_dir():
        return MaskPictures(path)
    if path.suffix.lower() != ".json":
        return OneMask(path)
    coco = _annotations(str(path), path.stat().st_mtime_ns)
    if any(isinstance(note.get("segmentation"), list) for notes in coco.by_image.values() for note in notes):
        pycocotools()
    return CocoMasks(coco, str(path))


@lru_cache(maxsize=1)
def _annotations(path: str, _written: int) -> CocoAnnotations:
    """The annotations, read once for the check before a run and for the run."""
    return read_annotations(path)


class MaskPictures:
    """A folder of masks: of the photograph FOLDER/NAME.jpg the mask FOLDER/NAME.png, or any other ending (``read_mask``)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check(self, category: str) -> None:
        """Masks are of any category."""

    def objects(self, picture: Picture, category: str) -> NDArray[np.bool_]:
        """The one mask of the picture, or none. PictureError (an InputError) where it cannot be used."""
        key = PurePosixPath(picture.key)
        path = picture_file(self.folder / key.parent, key.stem.lower())
        return _none(picture) if path is None else read_mask(path, size=picture.size)[None]

    def people(self, picture: Picture) -> None:
        """None: a folder of masks has no people."""


class OneMask(MaskPictures):
    """One file, the mask in whatever picture."""

    def objects(self, picture: Picture, category: str) -> NDArray[np.bool_]:
        """The mask. PictureError where it cannot be used, InputError where it is empty."""
        mask = read_mask(self.folder, size=picture.size)
        if not mask.any():
            raise InputError(f"{self.folder.name}: expected a mask with pixels inside, got none")
        return mask[None]


class CocoMasks:
    """COCO's annotations; a picture's are those of the image of its file name, or of the number that its name ends in."""

    def __init__(self, coco: CocoAnnotations, name: str) -> None:
        self.coco, self._name = coco, name

    @cached_property
    def has_people(self) -> bool:
        """Whether any person is annotated."""
        person = self.coco.categories.get(PERSON)
        return any(n["category_id"] == person for notes in self.coco.by_image.values() for n in notes)

    def check(self, category: str) -> None:
        """InputError, naming some that there are, for a category without a name in the file."""
        if category not in self.coco.categories:
            known = ", ".join(list(self.coco.categories)[:12])
            raise InputError(f"category: expected one of those in {self._name} ({known}, ...), got {category!r}")

    def objects(self, picture: Picture, category: str) -> NDArray[np.bool_]:
        """The category's masks in a picture; those of crowds are left out, and those of a category that the file lacks none."""
        notes = self._notes(picture, category)
        return np.stack([decode_mask(note.get("segmentation"), picture.size) for note in notes]) if notes else _none(picture)

    def people(self, picture: Picture) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The people in a picture; the mask of one that has none, or that cannot be read, is empty."""
        notes = self._notes(picture, PERSON)
        masks = np.zeros((len(notes), *picture.size), np.bool_)
        for mask, note in zip(masks, notes, strict=True):
            if note.get("segmentation"):
                with suppress(InputError):
                    mask[:] = decode_mask(note["segmentation"], picture.size)
        boxes = [annotation_box(note) for note in notes]
        return np.array(boxes, np.float32).reshape(-1, 4), masks

    def _notes(self, picture: Picture, category: str) -> list[dict[str, object]]:
        number = self.coco.image_of(picture.key)
        if number is None:
            return []
        size = self.coco.images[number]
        if size != picture.size:
            raise InputError(f"masks: expected a picture of {size[1]} x {size[0]} px, as annotated, got {picture.size[::-1]}")
        wanted = self.coco.categories.get(category)
        return [n for n in self.coco.by_image.get(number, ()) if n["category_id"] == wanted and not n["iscrowd"]]


class GivenMasks:
    """Detector that looks masks up. Of a picture with several people or objects it gives the pair whose boxes overlap most
    (4.5); of pairs that overlap as much, the larger ones.

    people  finds persons where they are not annotated; None: annotated ones are taken
    pair    False: all people and objects are given
    """

    def __init__(self, masks: Masks, people: People | None, pair: bool = True) -> None:
        self._masks, self._people, self._pair = masks, people, pair

    def check(self, category: str) -> None:
        """InputError for a category that the masks do not know."""
        self._masks.check(category)

    def detect(self, pictures: Sequence[Picture], category: str) -> list[Instances]:
        """One person and one object of each picture, or what of them there is; what is annotated has the score 1."""
        return [self._find(picture, category) for picture in pictures]

    def _find(self, picture: Picture, category: str) -> Instances:
        objects = self._masks.objects(picture, category)
        boxes = boxes_of(objects).astype(np.float32).reshape(-1, 4)
        given = self._masks.people(picture) if self._people is None else None
        if given is not None:
            persons, masks = given
            scores = np.ones(len(persons), np.float32)
        elif self._people is not None:
            persons, scores = self._people.people(picture.pixels)
            masks = np.zeros((len(persons), *picture.size), np.bool_)
        else:
            raise InputError("masks: expected people beside the objects, got none")
        person, one = _pair(persons, boxes) if self._pair else (list(range(len(persons))), list(range(len(boxes))))
        return Instances(
            np.concatenate([persons[person], boxes[one]]),
            np.concatenate([scores[person], np.ones(len(one), np.float32)]),
            (PERSON,) * len(person) + (category,) * len(one),
            np.concatenate([masks[person], objects[one]]),
        )


def _pair(persons: NDArray[np.float32], objects: NDArray[np.float32]) -> tuple[list[int], list[int]]:
    """Indices of the person and the object whose boxes (N, 4), (M, 4) overlap most, one each; none of what is missing."""
    if not len(persons) or not len(objects):
        return _largest(persons), _largest(objects)
    rank = overlap_of_smaller(persons[:, None], objects[None])
    size = (area(persons)[:, None] * area(objects)[None]) ** 0.5
    best = np.lexsort((size.ravel(), rank.ravel()))[-1]
    person, one = np.unravel_index(best, rank.shape)
    return [int(person)], [int(one)]


def _largest(boxes: NDArray[np.float32]) -> list[int]:
    return [int(area(boxes).argmax())] if len(boxes) else []


def _none(picture: Picture) -> NDArray[np.bool_]:
    return np.zeros((0, *picture.size), np.bool_)
