"""People with 3D poses and cameras, from arrays by name: the layout of docs/humans.md, which every other is brought to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.errors import InputError, check_array
from chorus.units import UnitCheck, other_rotations

MAX_CROP = 32768
"""The largest crop, in pixels of the image: boxes lie in an image, and an image of this side takes 3 GB."""

_LARGEST = 1e6  # no angle, length, focal length or position is greater
_SAME_ROTATION = 1e-3  # row 0 of the pose and `orientation` may differ by this much, element by element
_CAMERAS = {"weak_camera": ("weak_camera",), "perspective": ("R", "t", "K", "focal"), "joints": ("joints",)}
NAMES = (
    "keys",
    "pose",
    "orientation",
    "betas",
    "origin",
    "image_size",
    "estimator",
    "prompt",
    "weak_camera",
    "crop",
    "square",
    "R",
    "t",
    "K",
    "focal",
    "focal_unit",
    "joints",
)
"""The names that arrays may have."""


FOCAL_UNITS: dict[str, Callable[[tuple[int, int]], float]] = {
    "pixels": lambda size: 1.0,
    "width": lambda size: float(size[1]),
    "longer side": lambda size: float(max(size)),
    "diagonal": lambda size: math.hypot(*size),
}
"""Units of a focal length, and what one is in pixels of an image of a size (height, width)."""


@dataclass(frozen=True)
class People:
    """The checked arrays of n people. All float64 but ``image_size``; None for what is not known.

    pose (n, J, 3) with row 0 zero; orientation (n, 3, 3) to the camera's axes, with the perspective camera's rotation in it;
    betas (n, B), NaN in rows without; origin (n, 3); image_size (n, 2) int32; crop (n, 3); prompts n texts; and one of weak
    (n, 3), joints (n, J, 2) and cameras, in the person's frame.

    focal_unit  "" where the cameras' K are known in pixels; else K has a focal length in that unit, one of FOCAL_UNITS, and the
                principal point is at the image's centre
    square      the crop of weak cameras is the square about the image's centre whose side is the image's longer one
    frames      keys are numbers of a film's frames
    read_as     of which layout the file was, and where the pelvis was taken to be, in words
    """

    keys: list[str]
    pose: NDArray[np.float64]
    orientation: NDArray[np.float64]
    betas: NDArray[np.float64] | None
    origin: NDArray[np.float64]
    image_size: NDArray[np.int32] | None
    estimator: list[str]
    prompts: list[str] | None
    weak: NDArray[np.float64] | None
    crop: NDArray[np.float64] | None
    joints: NDArray[np.float64] | None
    cameras: Cameras | None
    focal_unit: str = ""
    square: bool = False
    frames: bool = False
    read_as: str = ""

    def __len__(self) -> int:
        return len(self.keys)

    def camera(self, row: int, size: tuple[int, int]) -> Cameras:
        """A known camera, of an image of ``size`` (height, width)."""
        if self.cameras is None:
            raise InputError("cameras: expected people with known cameras, got others")
        known = self.cameras[np.array([row])]
        K = known.K.copy()
        if self.focal_unit:
            K[0, :2] *= FOCAL_UNITS[self.focal_unit](size)
            K[0, :2, 2] = size[1] / 2, size[0] / 2
        return Cameras(known.R, known.t, K, [size])


def checked_people(content: Mapping[str, Any], body: Body, units: UnitCheck) -> People:
    """Arrays by name (docs/humans.md) as people. InputError, naming the array, for what does not fit.

    units  gains what can hardly be in metres, radians or pixels
    """
    unknown = sorted(set(content) - set(NAMES))
    if unknown:
        raise InputError(f"{unknown[0]}: expected names among {', '.join(NAMES)}")
    keys = texts_of("keys", content.get("keys"), None)
    n = len(keys)
    try:
        pose = numbers_of(content, "pose", (n, body.num_joints, 3))
    except InputError as error:
        raise InputError(f"{error}{other_rotations(content.get('pose'), 3)}") from None
    units.poses("pose", pose, keys)  # with row 0, the global orientation, which later is a matrix
    kinds = [kind for kind, names in _CAMERAS.items() if any(name in content for name in names)]
    if len(kinds) != 1:
        listed = "weak_camera; R, t and K; or joints"
        raise InputError(f"expected one kind of camera ({listed}), got {' and '.join(kinds) if kinds else 'none'}")
    if "crop" in content and kinds != ["weak_camera"]:
        raise InputError("crop: expected together with weak_camera")
    turn = _orientation(content, pose, keys, units, needed=kinds != ["perspective"])
    pose[:, 0] = 0
    origin = np.zeros((n, 3))
    if "origin" in content:
        one = np.ndim(content["origin"]) == 1
        origin = np.array(np.broadcast_to(numbers_of(content, "origin", (3,) if one else (n, 3)), (n, 3)))
        units.lengths("origin", origin, keys)
    size = None
    if "image_size" in content:
        size = check_array("image_size", content["image_size"], (n, 2), np.int32)
        refuse_rows(keys, "image_size", "a positive height and width", size, size.min(1) <= 0)
    weak = crop = joints = cameras = None
    focal_unit = _focal_unit(content)
    if kinds == ["weak_camera"]:
        weak = numbers_of(content, "weak_camera", (n, 3))
        refuse_rows(keys, "weak_camera", "s > 0", weak, weak[:, 0] <= 0)
        if "crop" in content:
            crop = numbers_of(content, "crop", (n, 3))
            refuse_rows(keys, "crop", f"x, y and a side up to {MAX_CROP}", crop, (crop[:, 2] <= 0) | (crop[:, 2] > MAX_CROP))
    elif kinds == ["joints"]:
        joints = numbers_of(content, "joints", (n, body.num_joints, 2), missing=True)
    else:
        R, t, K = _camera(content, n)
        t = t + np.einsum("nij,nj->ni", R, origin)
        turn = R @ turn
        cameras = Cameras(turn, t, K, np.ones((n, 2), np.int32) if size is None else size)
        refuse_rows(keys, "t", "the pelvis before the camera (z forward)", t, t[:, 2] <= 0)
    betas = None
    if "betas" in content:
        betas = numbers_of(content, "betas", (n, "B"), missing=True)
        some = np.isnan(betas)
        refuse_rows(keys, "betas", "numbers, or none at all (NaN)", betas, np.asarray(some.any(1) & ~some.all(1)))
    estimator = texts_of("estimator", content["estimator"], n, empty=True) if "estimator" in content else [""] * n
    prompts = texts_of("prompt", content["prompt"], n, empty=True) if "prompt" in content else None
    return People(
        keys, pose, turn, betas, origin, size, estimator, prompts, weak, crop, joints, cameras, focal_unit, _square(content)
    )


def _focal_unit(content: Mapping[str, Any]) -> str:
    """The unit of ``focal``; "" without it."""
    if "focal" not in content:
        if "focal_unit" in content:
            raise InputError("focal_unit: expected together with focal")
        return ""
    (unit,) = texts_of("focal_unit", np.atleast_1d(content.get("focal_unit", "pixels")), 1)
    if unit not in FOCAL_UNITS:
        raise InputError(f"focal_unit: expected one of {', '.join(FOCAL_UNITS)}; got {unit!r}")
    return unit


def _square(content: Mapping[str, Any]) -> bool:
    """Whether the crop is the square about the image."""
    square = bool(np.all(content.get("square", False)))
    if square and ("crop" in content or "weak_camera" not in content):
        raise InputError("square: expected together with weak_camera, and without crop")
    return square


def _camera(content: Mapping[str, Any], n: int) -> tuple[NDArray[np.float64], ...]:
    """R (n, 3, 3), t (n, 3) and K (n, 3, 3) of perspective cameras; with a focal length K has its principal point at 0, 0."""
    R = numbers_of(content, "R", (n, 3, 3)) if "R" in content else np.tile(np.eye(3), (n, 1, 1))
    t = numbers_of(content, "t", (n, 3))
    if "focal" not in content:
        return R, t, numbers_of(content, "K", (n, 3, 3))
    if "K" in content:
        raise InputError("focal: expected K or focal, got both")
    focal = np.broadcast_to(numbers_of(content, "focal", () if np.ndim(content["focal"]) == 0 else (n,)), (n,))
    return R, t, focal[:, None, None] * np.diag([1.0, 1.0, 0.0]) + np.diag([0.0, 0.0, 1.0])


def _orientation(
    content: Mapping[str, Any], pose: NDArray[np.float64], keys: Sequence[str], units: UnitCheck, *, needed: bool
) -> NDArray[np.float64]:
    """Global orientations (n, 3, 3), from the array ``orientation`` or from row 0 of the poses."""
    root = Rotation.from_rotvec(pose[:, 0]).as_matrix()
    stated = pose[:, 0].any(1)
    if "orientation" not in content:
        if needed and not stated.all():
            row = int(np.argmin(stated))
            raise InputError(f"pose: expected a global orientation in row 0, or the array orientation; got zeros in row {row}")
        return root
    vectors = numbers_of(content, "orientation", (len(keys), 3))
    units.poses("orientation", vectors[:, None], keys)
    given = Rotation.from_rotvec(vectors).as_matrix()
    differ = stated & (np.abs(given - root).max((1, 2)) > _SAME_ROTATION)
    if differ.any():
        row = int(np.argmax(differ))
        raise InputError(f"orientation: expected row 0 of pose to say the same or to be zero, got another in row {row}")
    return given


def numbers_of(
    content: Mapping[str, Any], name: str, shape: tuple[int | str, ...], *, missing: bool = False
) -> NDArray[np.float64]:
    """An array as float64, a copy; NaN, or null in JSON, only where numbers may be ``missing``."""
    if name not in content:
        raise InputError(f"{name}: expected numbers of shape {shape}, got none")
    value = content[name]
    try:
        array = np.asarray(value)
        if array.dtype == np.object_ and all(v is None or type(v) in (int, float) for v in array.flat):
            array = array.astype(np.float64)
    except (ValueError, OverflowError, TypeError):
        raise InputError(f"{name}: expected an array of numbers, got rows of different lengths, or none") from None
    if array.dtype == np.bool_:
        raise InputError(f"{name}: expected numbers, got true and false")
    checked: NDArray[np.float64] = np.array(check_array(name, array, shape, np.float64, finite=not missing))
    most = np.abs(checked[~np.isnan(checked)]).max(initial=0.0)
    if most > _LARGEST:
        raise InputError(f"{name}: expected numbers up to {_LARGEST:g}, got {most:g}")
    return checked


def texts_of(name: str, value: Any, n: int | None, *, empty: bool = False) -> list[str]:
    """n texts, which may be ``empty``; one text stands for n equal ones. None: any number of them."""
    texts = value.tolist() if isinstance(value, np.ndarray) else value
    if n is not None and isinstance(texts, str | bytes):
        texts = [texts] * n
    if not isinstance(texts, list):
        raise InputError(f"{name}: expected a list of texts, got {type(texts).__name__}")
    try:
        texts = [text.decode("utf-8") if isinstance(text, bytes) else text for text in texts]
    except UnicodeDecodeError:
        raise InputError(f"{name}: expected texts in UTF-8, got other bytes") from None
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not (text or empty) or len(text) > 1000 or "\0" in text:
            raise InputError(f"{name}: expected a text of up to 1000 characters, got {str(text)[:40]!r} in row {row}")
    if n is not None and len(texts) != n:
        raise InputError(f"{name}: expected {n}, one a key, got {len(texts)}")
    return texts


def refuse_rows(keys: Sequence[str], name: str, expected: str, values: NDArray[Any], bad: NDArray[np.bool_]) -> None:
    """InputError for the first of the rows that are ``bad`` (n,), if any is."""
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"{name}: expected {expected}, got {values[row].tolist()} for {keys[row]!r}")
