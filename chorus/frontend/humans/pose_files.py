"""3D poses found elsewhere, by any model: read from .npz or .json files and looked up by the image's key (docs/humans.md)."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.body.model import Body
from chorus.errors import InputError
from chorus.frontend.humans.crop import Crop
from chorus.frontend.humans.hmr import NO_POSE, turned_joints
from chorus.frontend.stages import Human, Picture, Refusal, Runtime
from chorus.ingest.poses.arrays import json_arrays, read_json, read_npz
from chorus.ingest.poses.layout import People, checked_people
from chorus.units import UnitCheck

log = logging.getLogger(__name__)

OTHER_SIZE = "3D pose of another image size"


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
        self._rows: dict[str, tuple[People, int]] = {}
        units, repeated, place = UnitCheck(), 0, dict[str, Path]()
        for file in _files(Path(path)):
            try:
                people = checked_people(_read(file), body, units)
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
        betas = None if people.betas is None or np.isnan(people.betas[row]).any() else people.betas[row]
        joints, camera, crop_camera = None, None, None
        if people.cameras is not None:
            camera = people.camera(row, picture.size)
        elif people.joints is not None:
            joints = people.joints[row]
        elif people.weak is not None:
            height, width = picture.size
            crop = Crop((width / 2, height / 2), max(picture.size) if people.square else width)
            if people.crop is not None:
                x, y, side = people.crop[row].tolist()
                crop = Crop((x, y), side)
            scale, shift = people.weak[row, 0], people.weak[row, 1:] + people.origin[row, :2]
            points = turned_joints(self._body, pose, betas, turn)
            joints = crop.from_normalised(scale * ((points - points[0])[:, :2] + shift))
            crop_camera = np.array([scale, *shift])
        orientation = Rotation.from_matrix(turn).as_rotvec()
        return Human(pose, orientation, joints, betas, camera, people.estimator[row], crop_camera)


def _same(one: tuple[People, int], other: tuple[People, int]) -> bool:
    """Whether two rows of files say the same of a person."""

    def values(people: People, row: int) -> list[NDArray[Any]]:
        known = (None, None, None) if people.cameras is None else (people.cameras.R, people.cameras.t, people.cameras.K)
        given = (people.betas, people.image_size, people.weak, people.crop, people.joints)
        arrays = (people.pose, people.orientation, people.origin, *given, *known)
        return [np.zeros(0) if array is None else array[row] for array in arrays]

    return one[0].estimator[one[1]] == other[0].estimator[other[1]] and all(
        np.array_equal(a, b, equal_nan=True) for a, b in zip(values(*one), values(*other), strict=True)
    )


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
    if path.suffix != ".json":
        return read_npz(path)
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"expected a JSON object, got {type(content).__name__}")
    return json_arrays(content)
