"""A record: one image analysed elsewhere, given as a folder with record.json and masks (docs/records.md)."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.camera.fit import MIN_JOINTS, fit_cameras, keypoint_targets
from chorus.errors import InputError, check_array
from chorus.ingest.record_units import check_units
from chorus.kernels.kinematics import rotation_matrices
from chorus.picture_files import PictureError, picture_file
from chorus.pictures import read_mask
from chorus.units import UnitCheck, other_rotations

RECORD, OBJECT_MASK, PERSON_MASK = "record.json", "object_mask.png", "person_mask.png"
MAX_JSON_BYTES = 1 << 22
MAX_PIXELS = 1 << 26
"""Largest image read, in pixels: 8192 x 8192."""
MIN_CONFIDENCE, ITERATIONS, STOP_PX = 0.3, 2400, 0.7
"""Defaults of the camera fit for records without a camera: least confidence of keypoints, most iterations, and the mean
distance in pixels that ends it."""
_LARGEST = 1e6  # bound of all angles, lengths, focal lengths and positions in a record
_SAME_ROTATION = 1e-3  # tolerance between the elements of two rotations that should be equal
_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class RecordError(InputError):
    """A record that cannot be used. ``stage`` is "record", "object mask", "person mask", "camera", "category" or "key"."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage


@dataclass(frozen=True, eq=False)
class Record:
    """The content of a record's folder. The person's frame is that of the pose without its global orientation.

    category, prompt, source  str, "" where not given
    image_size                height, width in pixels
    pose                      (J, 3) float64 axis-angle in radians, row 0 zero
    orientation               (3, 3) rotation from the person's frame to the camera's axes, or None: where the camera fit
                              starts; not used where there is a camera
    camera                    one camera in the person's frame (origin at the pelvis), or None
    keypoints                 (25, 3) OpenPose BODY_25 x, y in pixels and confidence, or None
    betas                     (B,) shape coefficients, or None
    object_box                (4,) float64 x0, y0, x1, y1 in pixels, half open, or None
    object_mask, person_mask  (H, W) bool, or None; an object mask has pixels
    """

    category: str
    prompt: str
    source: str
    image_size: tuple[int, int]
    pose: NDArray[np.float64]
    orientation: NDArray[np.float64] | None
    camera: Cameras | None
    keypoints: NDArray[np.float64] | None
    betas: NDArray[np.float64] | None
    object_box: NDArray[np.float64] | None
    object_mask: NDArray[np.bool_] | None
    person_mask: NDArray[np.bool_] | None


def read_record(folder: str | os.PathLike[str], *, units: UnitCheck | None = None) -> Record:
    """Read a record for a store (docs/records.md); it must have a category and an object mask.

    The prompt defaults to the category; ``object_box`` is ignored. ``units`` and errors as in ``parse_record``.
    """
    record = parse_record(folder, required=("category", "object_mask"), ignored=("object_box",), units=units)
    return replace(record, prompt=record.prompt or record.category)


def parse_record(
    folder: str | os.PathLike[str],
    *,
    required: Collection[str] = (),
    ignored: Collection[str] = (),
    units: UnitCheck | None = None,
) -> Record:
    """Read a record's folder: record.json and its masks. The layout, its units and frames: docs/records.md.

    required  which of "category" and "object_mask" must be given; image_size and pose_axis_angle always must
    ignored   fields of record.json that are not read
    units     gains what can hardly be in metres, radians or pixels; None: it is warned of (``UnitsWarning``)

    The files must be regular files in the folder; links are not followed. Raises RecordError where one is missing, too
    large, damaged or of another form, where sizes differ, numbers are not finite, or the object mask is empty.
    """
    folder = Path(folder)
    content = {name: value for name, value in _read_json(folder).items() if name not in ignored}
    try:
        record = _parse(folder, content, required)
    except RecordError:
        raise
    except InputError as error:
        raise RecordError("record", f"{RECORD}: {error}") from None
    found = UnitCheck() if units is None else units
    check_units(content, record.camera, record.image_size, folder.name or str(folder), found)
    if units is None:
        found.warn()
    return record


def record_camera(
    record: Record,
    body: Body,
    *,
    min_confidence: float = MIN_CONFIDENCE,
    iterations: int = ITERATIONS,
    stop_px: float = STOP_PX,
) -> tuple[Cameras, float]:
    """The record's camera, or one fitted to its keypoints (Eq. 8); and the mean reprojection distance in pixels, NaN where
    no camera was fitted.

    min_confidence       least confidence of the keypoints used, 0 to 1
    iterations, stop_px  of the fit, as in ``chorus.camera.fit.fit_cameras``

    Raises InputError for a pose of another number of joints than the body's, RecordError of stage "camera" where the record
    has neither a camera nor enough keypoints, or none can be fitted.
    """
    if len(record.pose) != body.num_joints:
        raise InputError(f"pose_axis_angle: expected the body's {body.num_joints} joints, got {len(record.pose)}")
    if record.camera is not None:
        return record.camera, math.nan
    if record.keypoints is None:
        raise RecordError("camera", f"{RECORD}: expected a camera or keypoints_openpose25, got neither")
    targets, valid = keypoint_targets(record.keypoints[None], body.joint_names, min_confidence=min_confidence)
    if valid.sum() < MIN_JOINTS:
        raise RecordError(
            "camera",
            f"keypoints_openpose25: expected at least {MIN_JOINTS} keypoints of joints with a confidence of "
            f"{min_confidence:g}, got {valid.sum()}",
        )
    try:
        fit = fit_cameras(
            body.posed_joints(record.pose[None]),
            targets,
            valid,
            [record.image_size],
            R0=None if record.orientation is None else record.orientation[None],
            iterations=iterations,
            stop_px=stop_px,
        )
    except InputError as error:
        raise RecordError("camera", f"camera fit: {error}") from None
    return fit.cameras, float(fit.residual_px[0])


def _parse(folder: Path, content: Mapping[str, Any], required: Collection[str]) -> Record:
    category = _text(content, "category", required="category" in required)
    size = _image_size(content)
    pose = _pose(content.get("pose_axis_angle"))
    if len(pose) == 0:
        raise InputError("pose_axis_angle: expected one row for each joint, got none")
    orientation = _orientation(pose[0], content)
    camera = None
    if content.get("camera") is not None:
        try:
            camera = _parse_camera(content["camera"], pose[0], size)
        except InputError as error:
            raise RecordError("camera", f"{RECORD}: {error}") from None
    pose[0] = 0
    object_mask = _read_mask(folder, OBJECT_MASK, size, "object mask", required="object_mask" in required)
    if object_mask is not None and not object_mask.any():
        raise RecordError("object mask", f"{OBJECT_MASK}: expected pixels of the object, got none")
    keypoints, betas, box = (content.get(name) for name in ("keypoints_openpose25", "betas", "object_box"))
    return Record(
        category,
        _text(content, "prompt"),
        _text(content, "source"),
        size,
        pose,
        orientation,
        camera,
        None if keypoints is None else _numbers("keypoints_openpose25", keypoints, (25, 3)),
        None if betas is None else _numbers("betas", betas, ("B",)),
        None if box is None else _object_box(box, size),
        object_mask,
        _read_mask(folder, PERSON_MASK, size, "person mask"),
    )


def _pose(given: Any) -> NDArray[np.float64]:
    """(J, 3) axis-angle in radians, from pose_axis_angle."""
    try:
        return _numbers("pose_axis_angle", given, ("J", 3))
    except InputError as error:
        raise InputError(f"{error}{other_rotations(given, 2)}") from None


def _image_size(content: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) in pixels; record.json has (width, height)."""
    width, height = (int(v) for v in _numbers("image_size", content.get("image_size"), (2,), integers=True))
    if not (width > 0 and height > 0 and width * height <= MAX_PIXELS):
        raise InputError(
            f"image_size: expected a positive width and height of at most {MAX_PIXELS} pixels, got {width}, {height}"
        )
    return height, width


def _object_box(given: Any, size: tuple[int, int]) -> NDArray[np.float64]:
    box = _numbers("object_box", given, (4,))
    if not (0 <= box[0] < box[2] <= size[1] and 0 <= box[1] < box[3] <= size[0]):
        raise InputError(f"object_box: expected x0, y0, x1, y1 in an image of {size[1]} x {size[0]}, got {box.tolist()}")
    return box


def _orientation(root: NDArray[np.float64], content: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Rotation from the person's frame to the camera's axes, from global_orient_axis_angle or row 0 of the pose, or None."""
    given = content.get("global_orient_axis_angle")
    if given is None:
        return _rotation(root) if root.any() else None
    rotation = _rotation(_numbers("global_orient_axis_angle", given, (3,)))
    if root.any() and np.abs(rotation - _rotation(root)).max() > _SAME_ROTATION:
        raise InputError("global_orient_axis_angle: expected the same rotation as row 0 of pose_axis_angle, or zeros there")
    return rotation


def _parse_camera(given: Any, root: NDArray[np.float64], size: tuple[int, int]) -> Cameras:
    """The camera in the person's frame: x_cam = R (exp(root) x + origin) + t, with x relative to the pelvis."""
    if not isinstance(given, dict):
        raise InputError(f"camera: expected R, t and K, got {type(given).__name__}")
    R, t, K = (
        _numbers(f"camera.{name}", given.get(name), shape) for name, shape in (("R", (3, 3)), ("t", (3,)), ("K", (3, 3)))
    )
    if given.get("origin") is not None:
        t = t + R @ _numbers("camera.origin", given["origin"], (3,))
    camera = Cameras((R @ _rotation(root))[None], t[None], K[None], [size])
    if t[2] <= 0:
        raise InputError(f"camera.t: expected the pelvis before the camera (z forward), got z = {t[2]:g} m")
    return camera


def _rotation(axis_angle: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rotation_matrices(torch.from_numpy(np.array(axis_angle))).numpy())


def _text(content: Mapping[str, Any], name: str, *, required: bool = False) -> str:
    value = content.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or not value or len(value) > 1000 or "\0" in value:
        raise InputError(f"{name}: expected a text of up to 1000 characters, got {short_repr(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # JSON can hold half a surrogate pair
        raise InputError(f"{name}: expected Unicode text, got {value!a}") from None
    return value


def _numbers(name: str, value: Any, shape: tuple[int | str, ...], *, integers: bool = False) -> NDArray[np.float64]:
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise InputError(f"{name}: expected an array of numbers, got rows of different lengths") from None
    if integers and array.dtype.kind == "f" and (array == np.rint(array)).all():  # 640.0, as some exporters write
        array = np.clip(array, -2 * _LARGEST, 2 * _LARGEST).astype(np.int64)
    if array.dtype.kind not in ("iu" if integers else "iuf"):
        raise InputError(f"{name}: expected {'integers' if integers else 'numbers'}, got {short_repr(value)}")
    checked: NDArray[np.float64] = check_array(name, array, shape, np.float64)
    if checked.size and np.abs(checked).max() > _LARGEST:
        raise InputError(f"{name}: expected numbers up to {_LARGEST:g}, got {np.abs(checked).max():g}")
    return checked


def short_repr(value: Any) -> str:
    """``repr`` cut to 60 characters, for error messages."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _open(folder: Path, name: str, stage: str) -> BinaryIO:
    """Open a regular file of the folder: a link could lead out of it, and a pipe would never end."""
    path = folder / name
    try:
        if path.is_symlink():
            raise RecordError(stage, f"{name}: expected a file, got a link")
        handle = os.open(path, _OPEN)
    except (OSError, ValueError) as error:
        raise RecordError(stage, f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise RecordError(stage, f"{name}: expected a regular file, got a folder, pipe or device")
    return os.fdopen(handle, "rb")


def _read_json(folder: Path) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number")

    with _open(folder, RECORD, "record") as file:
        raw = file.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise RecordError("record", f"{RECORD}: expected at most {MAX_JSON_BYTES} bytes, got more")
    try:
        content = json.loads(raw.decode("utf-8-sig"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RecordError("record", f"{RECORD}: expected JSON: {short_repr(str(error))}") from None
    if not isinstance(content, dict):
        raise RecordError("record", f"{RECORD}: expected a JSON object, got {type(content).__name__}")
    return content


def _read_mask(
    folder: Path, name: str, size: tuple[int, int], stage: str, *, required: bool = False
) -> NDArray[np.bool_] | None:
    """A mask of the folder as (H, W) bool; None where it is missing and not required. ``name`` may end in another suffix."""
    try:
        path = picture_file(folder, Path(name).stem)
        if path is None and not required:
            return None
        name = name if path is None else path.name
        with _open(folder, name, stage) as file:
            return read_mask(file, name=name, size=size, max_pixels=MAX_PIXELS)
    except PictureError as error:
        raise RecordError(stage, str(error)) from None
