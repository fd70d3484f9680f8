"""A photograph for reconstruction: its record, distributions posed like its person, and their agreement with its object."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chorus import boxes
from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.errors import InputError
from chorus.field import CanonicalField, FieldParameters
from chorus.ingest.record import RECORD, RecordError, damage_refused, parse_record, record_camera
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.posed import posed_occupancy
from chorus.render.rasterize import render_mesh
from chorus.render.splat import splat_footprints

PHOTOS = ("photo.jpg", "photo.jpeg", "photo.png")
"""Names of the photograph in a record's folder."""
THRESHOLDS: NDArray[np.float32] = (np.arange(1, 101) / 100).astype(np.float32)
"""On phi, at which the projection is compared with the object: 0.01 to 1, as in the evaluation."""
COMPARED_SIDE = 256
"""Pixels of the shorter side at which masks and projections are compared; more where the object would be too small."""
COMPARED_OBJECT = 20
"""Pixels across (square root of the area) that the object has then at least, if the photograph has them."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What is known of one photograph.

    name         of the record's folder
    category     the object's, or None               image_size    height, width in pixels
    pose         (J, 3) axis-angle in radians, row 0 zero          camera  one camera in the person's frame
    residual_px  of the camera's fit to keypoints (Eq. 8), NaN where the record has a camera
    object_mask, person_mask  (H, W) bool or None
    object_box   (4,) x0, y0, x1, y1 in pixels, half open, or None
    photo        (H, W, 3) uint8 RGB or None
    estimators   where pose and masks were estimated (``reconstruct.photo``): kind of stage -> name; empty for a record
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
        """Where the camera comes from, in words."""
        if math.isnan(self.residual_px):
            return f"the estimator {self.estimators.get('humans', '')}".strip() if self.estimators else "the record"
        return "fitted to the estimated joints (Eq. 8)" if self.estimators else "fitted to the keypoints (Eq. 8)"


def read_scene(folder: str | os.PathLike[str], body: Body, photo: str | os.PathLike[str] | None = None) -> Scene:
    """Read a record's folder (docs/records.md) for reconstruction: category and object mask may be missing.

    ``object_box`` in record.json, [x0, y0, x1, y1] in pixels, serves where there is no mask. The photograph is ``photo``, or
    photo.jpg, photo.jpeg or photo.png in the folder, if there is one. A camera is fitted where there is none (Eq. 8). Raises
    RecordError as ``chorus.ingest.record.parse_record`` does.
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
        box = boxes.boxes_of(record.object_mask).astype(np.float64)
    found = [folder / name for name in PHOTOS if (folder / name).is_file()]
    place = Path(photo) if photo is not None else found[0] if found else None
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
        None if place is None else _read_photo(place, record.image_size),
    )


def _read_photo(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    with (
        damage_refused("record", f"{path.name}: expected a JPEG or PNG photograph"),
        Image.open(path, formats=["JPEG", "PNG"]) as image,
    ):
        if image.size != size[::-1]:
            raise RecordError(
                "record",
                f"{path.name}: expected the image_size, width, height {size[1]}, {size[0]}, got "
                f"{image.size[0]}, {image.size[1]}",
            )
        return np.asarray(image.convert("RGB"))


class View:
    """A scene at the size where projections are compared with it."""

    def __init__(self, scene: Scene, vertices: NDArray[np.float64], faces: NDArray[np.int32]) -> None:
        height, width = scene.image_size
        mask, box = scene.object_mask, scene.object_box
        area = float(mask.sum()) if mask is not None else 0.0 if box is None else float(boxes.area(box))
        scale = min(1.0, max(COMPARED_SIDE / min(height, width), COMPARED_OBJECT / math.sqrt(area) if area else 0.0))
        h, w = (max(1, round(scale * side)) for side in scene.image_size)
        shrink = np.diag([w / width, h / height, 1.0])
        self.size = (h, w)
        self.camera = Cameras(scene.camera.R, scene.camera.t, shrink @ scene.camera.K, [self.size])
        self.box = None if box is None else box * [w / width, h / height, w / width, h / height]
        at = np.ix_(((np.arange(h) + 0.5) * height / h).astype(np.intp), ((np.arange(w) + 0.5) * width / w).astype(np.intp))
        self.mask = None if mask is None else mask[at]
        # Behind the person the object may go on; a mask cannot say.
        person = self.silhouette(vertices, faces) if scene.person_mask is None else scene.person_mask[at]
        self.hidden = person if self.mask is None else person & ~self.mask

    def silhouette(self, vertices: Any, faces: Any) -> NDArray[np.bool_]:
        """The pixels that a mesh covers, (h, w) bool."""
        return np.asarray(render_mesh(vertices, faces, self.camera)[1] >= 0)

    def project(self, phi: NDArray[np.float32], extent: float) -> NDArray[np.int32]:
        """How many of THRESHOLDS the largest phi over each pixel reaches, (h, w) int32."""
        levels = np.zeros(self.size, np.int32)
        matrix = self.camera.K[0] @ np.column_stack([self.camera.R[0], self.camera.t[0]])
        splat_footprints(np.ascontiguousarray(phi), extent, matrix, THRESHOLDS, levels)
        return levels


def mask_ious(levels: NDArray[np.int32], mask: NDArray[np.bool_], hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of the pixels {levels >= t}, t = 1 .. T, and a mask that has pixels, (T,); hidden pixels are left out."""
    inside, outside = (
        np.bincount(levels[where], minlength=len(THRESHOLDS) + 1)[::-1].cumsum()[-2::-1] for where in (mask, ~mask & ~hidden)
    )
    return np.asarray(inside / (np.count_nonzero(mask) + outside))


def box_ious(levels: NDArray[np.int32], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of the boxes around {levels >= t}, t = 1 .. T, and a box x0, y0, x1, y1 in pixels, (T,); 0 where there is none."""
    t = np.arange(1, len(THRESHOLDS) + 1)[:, None]
    return boxes.iou(boxes.boxes_of_profiles(levels.max(1) >= t, levels.max(0) >= t), box)


class Posing:
    """Poses many distributions like one person: where each posed voxel comes from is found once for each field.

    Eq. 11 is no inverse of Eq. 5: space far from the posed limbs follows the trunk, so that what a raised hand holds appears
    once more where the hand is in the rest pose. A posed voxel is empty if the canonical voxel that it shows goes, by Eq. 5,
    farther than ``round_trip`` metres from it.
    """

    def __init__(
        self, pose: NDArray[np.float64], body: Body, inverse: str, backend: str, min_support: int, round_trip: float
    ) -> None:
        self.body, self._pose, self._round_trip, self._min_support = body, pose, round_trip, min_support
        self._posed = partial(posed_occupancy, pose=pose, body_hash=body.hash, body=body, inverse=inverse, backend=backend)
        self._sources: dict[FieldParameters, NDArray[np.int64]] = {}

    def __call__(self, occupancy: Occupancy) -> tuple[NDArray[np.float32], FieldParameters]:
        """phi around the posed person, (N, N, N) float32, and the parameters that say on which grid."""
        p = occupancy.parameters
        if p not in self._sources:
            self._sources[p] = self._source(p)
        phi = occupancy.probability_with(self._min_support)
        return np.concatenate([np.zeros(1, np.float32), phi.ravel()])[self._sources[p]], p

    def _source(self, p: FieldParameters) -> NDArray[np.int64]:
        """1 + the canonical voxel that each posed voxel shows, 0 for none, (N, N, N)."""
        N = p.resolution
        if N**3 >= 1 << 24:
            raise InputError(f"occupancies: expected at most 255 voxels a side, got {N}")  # float32 cannot number more
        numbers = np.arange(1, N**3 + 1, dtype=np.float32).reshape(N, N, N)
        source = self._posed(numbers, parameters=p).astype(np.int64)
        if np.isfinite(self._round_trip):
            field = CanonicalField.from_parameters(self.body, p)
            back = field.warp(self._pose).reshape(-1, 3)[source - 1] - field.centres
            source[(back**2).sum(-1) > self._round_trip**2] = 0
        return source
