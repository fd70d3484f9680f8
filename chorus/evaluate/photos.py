"""How well 3D pose and camera fit annotated photographs: COCO's keypoints, and its masks of people."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.errors import InputError, check_array
from chorus.ingest.coco import CocoAnnotations, annotation_box, read_annotations
from chorus.ingest.coco_masks import decode_mask
from chorus.keypoints import COCO_KEYPOINTS
from chorus.picture_files import SUFFIXES, PictureError
from chorus.pictures import read_picture
from chorus.pose_fit.layouts import body_points
from chorus.render import render_mesh

if TYPE_CHECKING:
    from chorus.frontend.stages import HumanEstimator

JOINTS = COCO_KEYPOINTS[5:]
"""The keypoints that are compared: shoulders, elbows, wrists, hips, knees and ankles, left and right."""
MIN_KEYPOINTS = 4
"""Annotated keypoints among JOINTS that a person needs to be compared."""


@dataclass(frozen=True)
class PhotoPerson:
    """One annotated person and the body posed like them.

    file, annotation  the photograph's path in its folder, with forward slashes, and COCO's id of the person
    reason       why there is no pose or camera; "" where there are, and without them all below is NaN
    height_px    of the person standing upright at their distance, pixels
    errors_px    (12,) distances between JOINTS as annotated and on the posed body, pixels; NaN where not annotated
    residual_px  mean distance of the camera fit (Eq. 8), pixels; NaN where the camera was known
    iou          of the posed body's silhouette and COCO's mask of the person; NaN where it has none
    pose, camera of the person
    annotated_px, joints_px  (12, 2) JOINTS as annotated, NaN where they are not, and on the posed body, pixels
    """

    file: str
    annotation: int
    reason: str = ""
    height_px: float = float("nan")
    errors_px: NDArray[np.float64] = field(default_factory=lambda: np.full(len(JOINTS), np.nan))
    residual_px: float = float("nan")
    iou: float = float("nan")
    pose: NDArray[np.float64] | None = None
    camera: Cameras | None = None
    annotated_px: NDArray[np.float64] = field(default_factory=lambda: np.full((len(JOINTS), 2), np.nan))
    joints_px: NDArray[np.float64] = field(default_factory=lambda: np.full((len(JOINTS), 2), np.nan))

    @property
    def median_percent(self) -> float:
        """The median error of the annotated joints in percent of the person's height."""
        return float(100 * np.nanmedian(self.errors_px) / self.height_px) if self.pose is not None else float("nan")

    def to_json(self) -> dict[str, Any]:
        """All but pose and camera, as JSON takes it: None for NaN."""
        facts = {"file": self.file, "annotation": self.annotation}
        if self.reason:
            return {**facts, "reason": self.reason}
        errors = dict(zip(JOINTS, map(_number, self.errors_px), strict=True))
        numbers = {"height_px": self.height_px, "median_percent": self.median_percent}
        numbers |= {"residual_px": self.residual_px, "silhouette_iou": self.iou}
        return {**facts, **{name: _number(value) for name, value in numbers.items()}, "errors_px": errors}


@dataclass(frozen=True)
class PhotoReport:
    """All annotated people that were compared, and how long the 3D pose took.

    people   one after the other    seconds  of the 3D pose stage and the camera fit together
    """

    people: tuple[PhotoPerson, ...]
    seconds: float

    @property
    def found(self) -> tuple[PhotoPerson, ...]:
        """Those who have a pose and a camera."""
        return tuple(person for person in self.people if not person.reason)

    def percent(self) -> NDArray[np.float64]:
        """(n, 12) errors in percent of each person's height, NaN where not annotated."""
        return np.array([100 * p.errors_px / p.height_px for p in self.found]).reshape(-1, len(JOINTS))

    def to_json(self) -> dict[str, Any]:
        """The summary, and a row a person; the worst first."""
        percent, found = self.percent(), self.found
        joints = {name: _number(_median(percent[:, i])) for i, name in enumerate(JOINTS)}
        ranked = sorted(self.people, key=lambda p: -(p.median_percent if not p.reason else np.inf))
        return {
            "photographs": len({person.file for person in self.people}),
            "people": len(self.people),
            "with_pose": len(found),
            "seconds_per_person": _number(self.seconds / max(1, len(self.people))),
            "median_px": _number(_median(np.array([p.errors_px for p in found]))),
            "median_percent": _number(_median(percent)),
            "within_5_percent": _number(float((percent[np.isfinite(percent)] <= 5).mean()) if found else float("nan")),
            "median_residual_px": _number(_median(np.array([p.residual_px for p in found]))),
            "median_silhouette_iou": _number(_median(np.array([p.iou for p in found]))),
            "median_percent_by_joint": joints,
            "worst_first": [person.to_json() for person in ranked],
        }


def evaluate_photos(
    folder: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    humans: HumanEstimator,
    body: Body,
    *,
    method: str = "levenberg-marquardt",
    progress: Callable[[int, int], None] | None = None,
) -> PhotoReport:
    """Find the pose and camera of every annotated person in a folder's photographs, and compare them with the annotations.

    annotations  a COCO file with people's boxes and keypoints, and masks if it has them
    humans       a 3D pose stage, which is given the annotated boxes
    method       of the camera fit, as in ``chorus.camera.fit.fit_cameras``
    progress     called with the people done and all of them

    Crowds, and people with fewer than MIN_KEYPOINTS annotated joints, are left out. Raises InputError for a file that is not
    COCO's, and where no photograph of the folder has such a person.
    """
    from chorus.frontend.cameras import calibrate
    from chorus.frontend.stages import ImageRequest, Picture, Refusal

    coco = read_annotations(annotations)
    notes = list(_people(Path(folder), coco))
    if not notes:
        raise InputError(
            f"folder: expected photographs of people with annotated keypoints, none of {str(folder)!r} is in {annotations}"
        )
    points, found, seconds = body_points(body), [], 0.0
    for done, (file, note) in enumerate(notes):
        try:
            size = coco.images[note["image_id"]]
            picture = Picture(ImageRequest(file, "a person"), read_picture(Path(folder) / file, name=file, size=size))
            box = annotation_box(note)
        except PictureError:
            raise
        except InputError as error:
            raise InputError(f"{annotations}: annotation {note['id']}: {error}") from None
        began = time.perf_counter()
        (human,) = humans.humans([picture], box[None].astype(np.float32))
        if isinstance(human, Refusal):
            found.append(PhotoPerson(file, note["id"], human.reason))
        else:
            cameras = calibrate([human], [picture.size], body, method=method)
            person = PhotoPerson(file, note["id"], f"no camera: {cameras.reasons[0]}")
            if not cameras.reasons[0]:
                residual = float(cameras.residual_px[0])
                person = _compared(file, note, body, points, human.pose, cameras.cameras, residual)
            found.append(person)
        seconds += time.perf_counter() - began
        if progress is not None:
            progress(done + 1, len(notes))
    return PhotoReport(tuple(found), seconds)


def keypoints_on(
    body: Body, points: dict[str, tuple[int, NDArray[np.float64]]], pose: NDArray[np.float64], camera: Cameras
) -> NDArray[np.float64]:
    """JOINTS of a posed body in pixels, (12, 2); pose (J, 3), one camera, points as ``body_points`` gives them."""
    moved = body.relative_transforms(pose[None])[0]  # of the zero pose, in which the places are given
    places = np.array([moved[points[name][0], :3] @ [*points[name][1], 1.0] for name in JOINTS])
    return np.asarray(camera.project(places)[0][0])


def _compared(
    file: str,
    note: dict[str, Any],
    body: Body,
    points: dict[str, tuple[int, NDArray[np.float64]]],
    pose: NDArray[np.float64],
    camera: Cameras,
    residual: float,
) -> PhotoPerson:
    keypoints = _keypoints(note)
    on_body = keypoints_on(body, points, pose, camera)
    annotated = np.where(keypoints[:, 2:] > 0, keypoints[:, :2], np.nan)
    errors = np.linalg.norm(on_body - annotated, axis=1)
    height = float(camera.K[0, 1, 1] * np.ptp(body.vertices[:, 1]) / camera.t[0, 2])
    size = (int(camera.image_size[0, 0]), int(camera.image_size[0, 1]))
    overlap = float("nan")
    if note.get("segmentation"):
        mask = decode_mask(note["segmentation"], size)
        _, face = render_mesh(body.posed_vertices(pose[None])[0], body.faces, camera)
        drawn = face >= 0
        overlap = float((mask & drawn).sum() / (mask | drawn).sum())
    return PhotoPerson(file, note["id"], "", height, errors, residual, overlap, pose, camera, annotated, on_body)


def _people(folder: Path, coco: CocoAnnotations) -> Iterator[tuple[str, dict[str, Any]]]:
    """Photographs of the folder, as paths in it, and the annotated people in each."""
    if not folder.is_dir():
        raise InputError(f"folder: expected a folder of photographs, got {str(folder)!r}")
    person = coco.categories.get("person")
    files = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    for file in sorted(files):
        number = coco.image_of(file)
        for note in coco.by_image.get(number, ()) if number is not None else ():
            if note["category_id"] != person or note["iscrowd"]:
                continue
            if (_keypoints(note)[:, 2] > 0).sum() >= MIN_KEYPOINTS:
                yield file, note


def _keypoints(note: dict[str, Any]) -> NDArray[np.float64]:
    """(12, 3) x, y in pixels of the image, visibility of JOINTS; zeros where a person has no keypoints."""
    given = note.get("keypoints")
    if not given:
        return np.zeros((len(JOINTS), 3))
    where, count = f"annotation {note['id']}: keypoints", 3 * len(COCO_KEYPOINTS)
    try:
        rows = check_array(where, np.asarray(given, np.float64), (count,), np.float64).reshape(-1, 3)[5:]
    except (ValueError, TypeError) as error:  # ragged lists, and what is no number
        message = str(error) if isinstance(error, InputError) else f"{where}: expected {count} numbers: {error}"
        raise InputError(message) from None
    # COCO counts pixels; the middle of pixel 0 lies at 0.5.
    return np.asarray(rows + np.array([0.5, 0.5, 0.0]) * (rows[:, 2:] > 0))


def _median(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")


def _number(value: float) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None


def worst(people: Sequence[PhotoPerson], count: int) -> list[PhotoPerson]:
    """The people of the largest errors, at most ``count``."""
    return sorted((p for p in people if not p.reason), key=lambda p: -p.median_percent)[:count]
