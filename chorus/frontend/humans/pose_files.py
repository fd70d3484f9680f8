"""3D poses found elsewhere, by any model: read from .npz or .json files and looked up by the image's key (docs/humans.md)."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.errors import InputError, check_array
from chorus.frontend.humans.crop import MAX_SIDE, Crop
from chorus.frontend.humans.hmr import NO_POSE, turned_joints
from chorus.frontend.stages import Human, Picture, Refusal, Runtime
from chorus.npz import read_npz
from chorus.units import UnitCheck, other_rotations

log = logging.getLogger(__name__)

MAX_NPZ_BYTES = 1 << 31
"""The most that the arrays of one .npz may hold, unpacked; a person of 24 joints takes about 1 KB with all there may be."""
MAX_JSON_BYTES = 1 << 28
OTHER_SIZE = "3D pose of another image size"

_LARGEST = 1e6  # no angle, length, focal length or position is greater
_SAME_ROTATION = 1e-3  # row 0 of the pose and `orientation` may differ by this much, element by element
_CAMERAS = {"weak_camera": ("weak_camera",), "perspective": ("R", "t", "K"), "joints": ("joints",)}
_NAMES = (
    "keys",
    "pose",
    "orientation",
    "betas",
    "origin",
    "image_size",
    "estimator",
    "weak_camera",
    "crop",
    "R",
    "t",
    "K",
    "joints",
)


@dataclass(frozen=True)
class _People:
    """The checked contents of a file about n people. All float64 but ``image_size``; None for what the file does not have.

    pose (n, J, 3) with row 0 zero; orientation (n, 3, 3) to the camera's axes, with the perspective camera's rotation in it;
    betas (n, B); origin (n, 3); image_size (n, 2) int32; crop (n, 3); and one of weak (n, 3), joints (n, J, 2) and cameras.
    """

    keys: list[str]
    pose: NDArray[np.float64]
    orientation: NDArray[np.float64]
    betas: NDArray[np.float64] | None
    origin: NDArray[np.float64]
    image_size: NDArray[np.int32] | None
    estimator: list[str]
    weak: NDArray[np.float64] | None
    crop: NDArray[np.float64] | None
    joints: NDArray[np.float64] | None
    cameras: Cameras | None


def make(model: str, runtime: Runtime) -> PosesFromFiles:
    """The stage ``records=PATH``, of a file or a folder of files. InputError without a body, and as of ``PosesFromFiles``."""
    if runtime.body is None:
        raise InputError("body: expected the body that poses belong to, got none")
    return PosesFromFiles(model, runtime.body)


def check(model: str, _runtime: Runtime, _category: str | None) -> None:
    """InputError for a path without files to read; they are not read yet."""
    _files(Path(model))


class PosesFromFiles:
    """HumanEstimator that looks predictions up by the pictures' keys; boxes are not used.

    All files are read and checked at once. A person given twice, number for number, is taken once. InputError for paths without
    files, damaged files, unknown names, numbers of other shapes or not finite, poses of another number of joints than the
    body's, and keys that come twice with other numbers.
    """

    def __init__(self, path: str | os.PathLike[str], body: Body) -> None:
        self._body = body
        self._rows: dict[str, tuple[_People, int]] = {}
        units, repeated, place = UnitCheck(), 0, dict[str, Path]()
        for file in _files(Path(path)):
            try:
                people = _checked(_read(file), body, units)
            except InputError as error:
                raise InputError(f"{file}: {error}") from None
            for row, key in enumerate(people.keys):
                if key not in self._rows:
                    self._rows[key], place[key] = (people, row), file
                elif _same(self._rows[key], (people, row)):
                    repeated += 1
                else:
                    raise InputError(f"{file}: expected one person of each key, got another of {key!r} than in {place[key]}")
        if repeated:
            log.warning("%s: %d people were given again, number for number: taken once", path, repeated)
        units.warn()

    def __len__(self) -> int:
        return len(self._rows)

    def humans(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> Sequence[Human | Refusal]:
        """The person of each picture; Refusal "no 3D pose" for an unknown key, OTHER_SIZE for another image size."""
        return [self._human(picture) for picture in pictures]

    def _human(self, picture: Picture) -> Human | Refusal:
        if picture.key not in self._rows:
            return Refusal(NO_POSE)
        people, row = self._rows[picture.key]
        if people.image_size is not None and tuple(people.image_size[row].tolist()) != picture.size:
            return Refusal(OTHER_SIZE)
        pose, turn = people.pose[row], people.orientation[row]
        betas = None if people.betas is None else people.betas[row]
        joints, camera, crop_camera = None, None, None
        if people.cameras is not None:
            known = people.cameras[np.array([row])]
            camera = Cameras(known.R, known.t, known.K, [picture.size])
        elif people.joints is not None:
            joints = people.joints[row]
        elif people.weak is not None:
            height, width = picture.size
            crop = Crop((width / 2, height / 2), width)
            if people.crop is not None:
                x, y, side = people.crop[row].tolist()
                crop = Crop((x, y), side)
            scale, shift = people.weak[row, 0], people.weak[row, 1:] + people.origin[row, :2]
            points = turned_joints(self._body, pose, betas, turn)
            joints = crop.from_normalised(scale * ((points - points[0])[:, :2] + shift))
            crop_camera = np.array([scale, *shift])
        orientation = Rotation.from_matrix(turn).as_rotvec()
        return Human(pose, orientation, joints, betas, camera, people.estimator[row], crop_camera)


def _same(one: tuple[_People, int], other: tuple[_People, int]) -> bool:
    """Whether two rows of files say the same of a person."""

    def values(people: _People, row: int) -> list[NDArray[Any]]:
        known = (None, None, None) if people.cameras is None else (people.cameras.R, people.cameras.t, people.cameras.K)
        given = (people.betas, people.image_size, people.weak, people.crop, people.joints)
        arrays = (people.pose, people.orientation, people.origin, *given, *known)
        return [np.zeros(0) if array is None else array[row] for array in arrays]

    return one[0].estimator[one[1]] == other[0].estimator[other[1]] and all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(values(*one), values(*other), strict=True)
    )


def _checked(content: Mapping[str, Any], body: Body, units: UnitCheck) -> _People:
    """A file's arrays by name (docs/humans.md) as people. InputError, naming the array, for what does not fit."""
    unknown = sorted(set(content) - set(_NAMES))
    if unknown:
        raise InputError(f"{unknown[0]}: expected names among {', '.join(_NAMES)}")
    keys = _texts("keys", content.get("keys"), None)
    n = len(keys)
    try:
        pose = _numbers(content, "pose", (n, body.num_joints, 3))
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
        origin = np.array(np.broadcast_to(_numbers(content, "origin", (3,) if one else (n, 3)), (n, 3)))
        units.lengths("origin", origin, keys)
    size = None
    if "image_size" in content:
        size = check_array("image_size", content["image_size"], (n, 2), np.int32)
        _refuse(keys, "image_size", "a positive height and width", size, size.min(1) <= 0)
    weak = crop = joints = cameras = None
    if kinds == ["weak_camera"]:
        weak = _numbers(content, "weak_camera", (n, 3))
        _refuse(keys, "weak_camera", "s > 0", weak, weak[:, 0] <= 0)
        if "crop" in content:
            crop = _numbers(content, "crop", (n, 3))
            _refuse(keys, "crop", f"x, y and a side up to {MAX_SIDE}", crop, (crop[:, 2] <= 0) | (crop[:, 2] > MAX_SIDE))
    elif kinds == ["joints"]:
        joints = _numbers(content, "joints", (n, body.num_joints, 2), missing=True)
    else:
        R, t, K = (_numbers(content, name, shape) for name, shape in (("R", (n, 3, 3)), ("t", (n, 3)), ("K", (n, 3, 3))))
        t = t + np.einsum("nij,nj->ni", R, origin)
        turn = R @ turn
        cameras = Cameras(turn, t, K, np.ones((n, 2), np.int32) if size is None else size)
        _refuse(keys, "t", "the pelvis before the camera (z forward)", t, t[:, 2] <= 0)
    betas = _numbers(content, "betas", (n, "B")) if "betas" in content else None
    estimator = _texts("estimator", content["estimator"], n) if "estimator" in content else [""] * n
    return _People(keys, pose, turn, betas, origin, size, estimator, weak, crop, joints, cameras)


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
    vectors = _numbers(content, "orientation", (len(keys), 3))
    units.poses("orientation", vectors[:, None], keys)
    given = Rotation.from_rotvec(vectors).as_matrix()
    differ = stated & (np.abs(given - root).max((1, 2)) > _SAME_ROTATION)
    if differ.any():
        row = int(np.argmax(differ))
        raise InputError(f"orientation: expected row 0 of pose to say the same or to be zero, got another in row {row}")
    return given


def _numbers(
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


def _texts(name: str, value: Any, n: int | None) -> list[str]:
    """n texts; one text stands for n equal ones. None: any number of them."""
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
        if not isinstance(text, str) or not text or len(text) > 1000 or "\0" in text:
            raise InputError(f"{name}: expected a text of up to 1000 characters, got {str(text)[:40]!r} in row {row}")
    if n is not None and len(texts) != n:
        raise InputError(f"{name}: expected {n}, one a key, got {len(texts)}")
    return texts


def _refuse(keys: Sequence[str], name: str, expected: str, values: NDArray[Any], bad: NDArray[np.bool_]) -> None:
    """InputError for the first of the rows that are ``bad`` (n,), if any is."""
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"{name}: expected {expected}, got {values[row].tolist()} for {keys[row]!r}")


def _files(path: Path) -> list[Path]:
    """The file, or the .npz and .json files directly in a folder; links in it are not followed."""
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".json") and p.is_file() and not p.is_symlink())
        if not found:
            raise InputError(f"{path}: expected .npz or .json files in this folder, got none")
        return found
    if path.suffix not in (".npz", ".json") or not path.is_file():
        raise InputError(f"{path}: expected a .npz or .json file, or a folder of them, that exists")
    return [path]


def _read(path: Path) -> dict[str, Any]:
    """Arrays, or lists from JSON, by name; nothing in a file is run."""
    if path.suffix == ".json":
        return _read_json(path)
    try:
        return dict(read_npz(path, most_bytes=MAX_NPZ_BYTES))
    except OSError as error:
        raise InputError(f"expected a file that can be read, got {error.strerror}") from None
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{path}: ")) from None


def _read_json(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number")

    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JSON_BYTES + 1)
        if len(raw) > MAX_JSON_BYTES:
            raise InputError(f"expected at most {MAX_JSON_BYTES} bytes of JSON, got more; use .npz")
        content = json.loads(raw.decode("utf-8-sig"), parse_constant=refuse)
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"expected JSON: {str(error)[:120]}") from None
    if not isinstance(content, dict):
        raise InputError(f"expected a JSON object, got {type(content).__name__}")
    return {name: value for name, value in content.items() if value is not None}
