"""The scene of a reconstruction: person, camera and object of one photograph, read from its record."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.boxes import boxes_of
from chorus.camera.cameras import Cameras
from chorus.errors import InputError
from chorus.ingest.record import RECORD, RecordError, parse_record, record_camera
from chorus.picture_files import PictureError, picture_file
from chorus.pictures import read_picture

PHOTO = "photo"
"""Name of the photograph in a record's folder, without its ending."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What is known of one photograph.

    name         name of the record's folder, or of the photograph
    category     of the object, or None              image_size    height, width in pixels
    pose         (J, 3) float64 axis-angle in radians, row 0 zero  camera  one camera, from the person's frame
    residual_px  mean reprojection distance of the camera fit (Eq. 8), NaN where the camera was given
    object_mask, person_mask  (H, W) bool or None
    object_box   (4,) x0, y0, x1, y1 in pixels, half open, or None
    photo        (H, W, 3) uint8 RGB or None
    estimators   kind of stage -> name, where pose and masks were estimated (``chorus.reconstruct.photo``); empty for a record
    """

    name: str
    category: str | None
    image_size: tuple[int, int]
    pose: NDArray[np.float64]
    camera: Cameras
    residual_px: float
    object_mask: NDArray[np.bool_] | None
    person_mask: NDArray[np.bool_] | None
    object_box: NDArray[np.float64] | None
    photo: NDArray[np.uint8] | None
    estimators: Mapping[str, str] = field(default_factory=dict)

    @property
    def camera_from(self) -> str:
        """The origin of the camera, in words."""
        if math.isnan(self.residual_px):
            return f"the estimator {self.estimators.get('humans', '')}".strip() if self.estimators else "the record"
        return "fitted to the estimated joints (Eq. 8)" if self.estimators else "fitted to the keypoints (Eq. 8)"


def read_scene(folder: str | os.PathLike[str], body: Body, photo: str | os.PathLike[str] | None = None) -> Scene:
    """Read a record's folder (docs/records.md) for reconstruction; category and object mask may be missing.

    ``object_box`` in record.json, [x0, y0, x1, y1] in pixels, takes the place of a missing mask. The photograph is ``photo``,
    or the picture named photo (photo.jpg, photo.png, ...) in the folder, if any. A record without a camera gets a fitted one
    (Eq. 8). Raises RecordError as ``chorus.ingest.record.parse_record`` and ``record_camera`` do, and for a photograph that
    cannot be read or is, upright, not of the record's size, and for two of them.
    """
    folder = Path(folder)
    record = parse_record(folder, ignored=("prompt", "source", "betas"))
    try:
        camera, residual = record_camera(record, body)
    except RecordError:
        raise
    except InputError as error:
        raise RecordError("record", f"{RECORD}: {error}") from None
    box = record.object_box
    if box is None and record.object_mask is not None:
        box = boxes_of(record.object_mask).astype(np.float64)
    photo_path = Path(photo) if photo is not None else _find_photo(folder)
    return Scene(
        folder.resolve().name,
        record.category or None,
        record.image_size,
        record.pose,
        camera,
        residual,
        record.object_mask,
        record.person_mask,
        box,
        None if photo_path is None else _read_photo(photo_path, record.image_size),
    )


def _find_photo(folder: Path) -> Path | None:
    try:
        return picture_file(folder, PHOTO)
    except PictureError as error:
        raise RecordError("record", str(error)) from None


def _read_photo(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    try:
        return read_picture(path, size=size)
    except PictureError as error:
        raise RecordError("record", str(error)) from None
