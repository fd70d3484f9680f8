"""Layouts of files with poses and cameras, by name: each brings its arrays to the one of ``chorus.ingest.poses.layout``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from chorus.body.model import Body
from chorus.errors import InputError, check_array
from chorus.ingest.poses.arrays import json_arrays, read_csv, read_json, read_npz
from chorus.ingest.poses.layout import NAMES, People, checked_people
from chorus.ingest.poses.smpl_layouts import KEYS, from_matrices, hmr2, romp, smpl, smplx, wham
from chorus.pickles import read_pickle
from chorus.units import UnitCheck

AUTO = "auto"
SUFFIXES = (".npz", ".json", ".csv", ".pkl", ".pickle")


_NESTED = ("pred_smpl_params", "smpl_params", "smpl", "params")
"""Names under which other software keeps a dictionary of arrays."""


@dataclass(frozen=True)
class Format:
    """A layout of arrays about people.

    name     as --format has it
    what     which software's, and the frame, in a few words
    needs    names that arrays of this layout have, by which it is recognised
    convert  arrays by name and the body -> arrays by the names of ``layout.NAMES``; also ``frames`` (n), numbers of frames
    film     whether a file is about the frames of a film, and not about the people in one image
    """

    name: str
    what: str
    needs: tuple[str, ...]
    convert: Callable[[Mapping[str, Any], Body], dict[str, Any]]
    film: bool = False


def _plain(content: Mapping[str, Any], body: Body) -> dict[str, Any]:
    """Our own layout, in the forms that people's files have it."""
    found = dict(content)
    other = next((name for name in KEYS if name in found), "keys")
    if "keys" not in found and other in found:
        found["keys"] = found.pop(other)
    n = np.size(found.get("keys", ()))
    if "pose" in found:
        found["pose"] = axis_angles("pose", found["pose"], body.num_joints)
    for name in ("R", "K"):
        value = found.get(name)
        if value is not None and np.shape(value) == (3, 3):  # one camera for all
            found[name] = np.tile(np.asarray(value), (n, 1, 1))
    return found


def axis_angles(name: str, value: Any, joints: int) -> Any:
    """Rotations (n, J, 3) axis-angle, from these, from (n, 3 J) in one row, or from matrices (n, J, 3, 3); else ``value``.

    Raises InputError for matrices that are no rotations.
    """
    try:
        array = np.asarray(value)
    except ValueError:  # said where the shape is checked
        return value
    if array.ndim == 2 and array.shape[1] == 3 * joints and array.dtype.kind in "iuf":
        return array.reshape(-1, joints, 3)
    if array.ndim == 4 and array.shape[2:] == (3, 3) and array.dtype.kind in "iuf":
        return from_matrices(name, array)
    return value


PLAIN = Format("plain", "this project's own: keys, pose, and a camera (R, t, K)", ("pose",), _plain)
FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format("hmr2", "4D-Humans, TokenHMR: the camera's axes", ("global_orient", "body_pose", "pred_cam"), hmr2),
        Format("romp", "ROMP, BEV: the camera's axes", ("smpl_thetas", "smpl_betas"), romp),
        Format("wham", "WHAM: the camera's axes", ("pose", "trans", "betas"), wham, film=True),
        Format("smplx", "SMPL-X: the file's world", ("global_orient", "body_pose"), smplx, film=True),
        Format("smpl", "AMASS, SMPL, SMPL-H: the file's world", ("poses",), smpl, film=True),
        PLAIN,
    )
}
"""Layouts by name, in the order in which they are looked for."""


@dataclass(frozen=True)
class Poses:
    """Files of poses, and how they are read.

    path         a file, or a folder of files at any depth
    format       a name in FORMATS, or AUTO: by the names of the arrays
    cameras      a file with the cameras that the poses lack: R, t, K or focal by our names, one for all or one each
    first_frame  for files without names of images: the number that the name of the first frame's image ends in
    """

    path: Path
    format: str = AUTO
    cameras: Path | None = None
    first_frame: int | None = None


def read_people(poses: Poses, body: Body) -> People:
    """People with poses and cameras. InputError, naming the file, for what cannot be used.

    A file without names is about the image of its own name. Numbers that can hardly be in metres, radians and pixels are warned
    of (``chorus.units.UnitsWarning``).
    """
    path, units, found, names = Path(poses.path), UnitCheck(), [], dict[str, None]()
    more = {} if poses.cameras is None else _one(_content(Path(poses.cameras)), Path(poses.cameras))
    for file in _files(path):
        content = _content(file)
        try:
            for arrays in _people(content):
                chosen = _recognised(arrays) if poses.format == AUTO else FORMATS[poses.format]
                _require(arrays, chosen)
                names[chosen.name] = None
                converted = _converted(chosen, {**arrays, **more}, body)
                found.append(_named(converted, chosen, file.stem, poses.first_frame))
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
    try:
        people = checked_people(_joined(found), body, units)
        people = replace(people, read_as=_told(names, people))
        if not len(people):
            raise InputError("keys: expected people, got none")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    units.warn()
    return people if poses.first_frame is None else replace(people, frames=True)


def _told(names: Iterable[str], people: People) -> str:
    """Which layouts were read, and where the pelvis was taken to be."""
    at = "at t" if not people.origin.any() else "at {:.4f}, {:.4f}, {:.4f} m in the model's frame".format(*people.origin[0])
    return f"{', '.join(names)}; pelvis {at}"


def _converted(chosen: Format, arrays: dict[str, Any], body: Body) -> dict[str, Any]:
    try:
        return chosen.convert(arrays, body)
    except InputError:
        raise
    except (ValueError, TypeError, IndexError) as error:  # numpy's, of arrays that do not go together
        raise InputError(f"expected arrays of {chosen.name} as in docs/imports.md: {error}") from None


def _content(path: Path) -> Any:
    try:
        return _read(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise InputError(f"{path}: expected files of poses ({', '.join(SUFFIXES)}) in this folder, got none")
    return found


def _read(path: Path) -> Any:
    """Arrays by name, or what a pickle holds, as lists and dictionaries."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES or not path.is_file():
        raise InputError(f"expected a file that ends in {', '.join(SUFFIXES)}")
    if suffix == ".npz":
        return read_npz(path, objects=True)
    if suffix in (".pkl", ".pickle"):
        return read_pickle(path)
    return read_csv(path) if suffix == ".csv" else json_arrays(read_json(path))


def _one(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected arrays by name, got {type(content).__name__}")
    return {name: value for name, value in content.items() if name not in ("keys", "key")}


def _people(content: Any) -> Iterator[dict[str, Any]]:
    """The dictionaries of arrays in a file: the content itself, what is under "results", or one of each tracked person."""
    if isinstance(content, dict) and not any(isinstance(key, str) for key in content) and content:
        content = list(content.values())  # by the number of a track
    if isinstance(content, list):
        for item in content:
            yield from _people(item)
        return
    if not isinstance(content, dict):
        raise InputError(f"expected arrays by name, got {type(content).__name__}")
    results = content.get("results")
    if isinstance(results, (dict, list)):
        beside = {name: value for name, value in content.items() if name != "results"}
        yield from ({**beside, **found} for found in _people(results))
        return
    if content and all(isinstance(value, dict) for name, value in content.items()) and not set(content) & set(_NESTED):
        for name, value in content.items():  # by the image's name, one person each
            yield {"keys": [str(name)], **{key: np.asarray(item)[None] for key, item in _flat(value).items()}}
        return
    yield _flat(content)


def _flat(content: dict[Any, Any]) -> dict[str, Any]:
    """Arrays by name, those of a dictionary of parameters among them."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if value is not None:
            flat.update(value if isinstance(value, dict) and name in _NESTED else {str(name): value})
    return flat


def _recognised(content: Mapping[str, Any]) -> Format:
    given = set(content)
    if "keys" in given and "pose" in given:
        return PLAIN
    if any(name.startswith(("pred_cam", "cam_t")) for name in given):
        given.add("pred_cam")
    for format in FORMATS.values():
        if given.issuperset(format.needs):
            return format
    raise InputError(f"expected arrays named as in docs/imports.md ({', '.join(NAMES)}), got {', '.join(sorted(given)[:12])}")


def _require(content: Mapping[str, Any], format: Format) -> None:
    missing = [name for name in format.needs if name not in content and name != "pred_cam"]
    others = {"pose", "smpl_pose", "global_orient"} if format.name == "smpl" else set()
    if missing and format is not PLAIN and not others & set(content):
        raise InputError(f"{missing[0]}: expected it in a file of {format.name}, got {', '.join(list(content)[:12])}")


def _named(found: dict[str, Any], format: Format, stem: str, first: int | None) -> dict[str, Any]:
    """With names of the images: given, or by the frames' numbers, or the file's own."""
    frames = found.pop("frames", None)
    if "keys" in found:
        return found
    n = len(found["pose"]) if "pose" in found else 0
    if first is not None:
        numbers = np.arange(n) if frames is None else check_array("frame_ids", frames, (n,), np.int64)
        return {**found, "keys": [str(int(number) + first) for number in numbers]}
    if format is PLAIN:
        return found  # said where keys are checked
    if format.film and n > 1:
        raise InputError(
            f"keys: expected the names of the images (an array named {', '.join(KEYS[:4])}, ...), got none; of the frames of a "
            "film say with --first-frame which number the name of the first one ends in"
        )
    return {**found, "keys": [stem] * n}


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The arrays of several files, one after the other. InputError where their names differ."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for name in parts[0]:
        if any(set(part) != set(parts[0]) for part in parts):
            raise InputError("expected files with arrays of the same names, or the same camera")
        values = [part[name] for part in parts]
        if name in ("focal_unit", "square", "estimator") and all(np.ndim(value) == 0 for value in values):
            if len(set(values)) > 1:
                raise InputError(f"{name}: expected the same in all files, got {values[0]!r} and others")
            joined[name] = values[0]
        elif name == "keys" or isinstance(values[0], list):
            joined[name] = [item for value in values for item in np.asarray(value).tolist()]
        else:
            try:
                joined[name] = np.concatenate([np.asarray(value) for value in values])
            except ValueError as error:
                raise InputError(f"{name}: expected arrays of the same shape in all files: {error}") from None
    return joined
