"""Rows of a store from masks and people whose poses are known: who is in an image, from where seen, and with what scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.boxes import area, boxes_of, overlap_of_first, overlap_of_smaller
from chorus.camera.cameras import Cameras
from chorus.camera.fit import FOCAL_IN_WIDTHS, fit_cameras
from chorus.errors import InputError
from chorus.images import ImageBatch
from chorus.ingest.poses.layout import People
from chorus.kernels.masks import PackedMasks
from chorus.picture_files import SUFFIXES
from chorus.store import StoreWriter
from chorus.units import UnitCheck

_NUMBER_AT_END = re.compile(r"(\d{1,15})$")
_JOINTS_AT_ONCE = 1024
_AT_ONCE, _MOST_BYTES = 256, 1 << 27
"""Images, and bytes of their masks, that are held before they go to the store's writer."""


@dataclass(frozen=True)
class MaskedImage:
    """An image's masks.

    key      the image's name in the store
    objects  (N, H, W) bool, N >= 1 masks of objects, each with pixels
    people   (M, H, W) bool masks of people; None: not known
    prompt   "" for none
    picture  as ``StoreWriter.append`` takes it, or None
    """

    key: str
    objects: NDArray[np.bool_]
    people: NDArray[np.bool_] | None = None
    prompt: str = ""
    picture: Any = None


@dataclass
class Report:
    """What an import did.

    added     keys of the images added to the store
    rejected  (what, reason) of images, masks or people that could not be used
    present   keys that the store already had
    several   key -> number of people with a pose, where there was more than one; the nearest to the object was taken
    outside   keys of images added whose person projects outside of the image
    left_out  what -> number of annotations beside those used, as of crowds
    warnings  what can hardly be in metres, radians or pixels
    stopped   whether it was asked to stop before the end
    read_as   how the file of poses was read, in words
    """

    added: list[str] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    several: dict[str, int] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    stopped: bool = False
    read_as: str = ""


def image_name(text: str) -> str:
    """A picture's path as images are matched: forward slashes, without ``./`` and without the ending of a picture."""
    path = PurePosixPath(text.replace("\\", "/"))
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else str(path)


class PeopleByName:
    """People looked up by the image that they are in: one's path, without ending, is that of the other or the end of it.

    names  the image of each of n people, by its whole name alone; None: their keys. People of a film (``People.frames``) are
           those of the image whose name ends in their frame's number
    """

    def __init__(self, people: People, names: Sequence[str] | None = None) -> None:
        self.people = people
        self.rows: dict[str, list[int]] = {}
        self._ends: dict[str, set[str]] = {}
        self._used: dict[str, str] = {}
        self._whole = names is not None
        for row, key in enumerate(people.keys if names is None else names):
            name = key if self._whole else image_name(key)
            if name not in self.rows and not self._whole:
                for end in _ends(name):
                    self._ends.setdefault(end, set()).add(name)
            self.rows.setdefault(name, []).append(row)

    def find(self, key: str) -> list[int]:
        """The rows of the people in an image; none where it has none. InputError where another image has them already."""
        name = key if self._whole else self._name_of(image_name(key))
        if name is None or name not in self.rows:
            return []
        first = self._used.setdefault(name, key)
        if first != key:
            raise InputError(f"poses: expected people of one image under {name!r}, which are those of {first!r} already")
        return self.rows[name]

    def _name_of(self, name: str) -> str | None:
        if self.people.frames:
            number = _NUMBER_AT_END.search(name)
            return None if number is None or str(int(number[1])) not in self.rows else str(int(number[1]))
        longer = self._ends.get(name, set())
        if name in self.rows or len(longer) > 1:
            return name if name in self.rows else None
        return next(iter(longer), None) or next((end for end in _ends(name) if end in self.rows), None)

    def unused(self) -> list[str]:
        """Names of images that nobody asked for."""
        return [name for name in self.rows if name not in self._used]


def _ends(name: str) -> list[str]:
    """The ends of a path, from the longest, itself, to its last part."""
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def camera_of(people: People, row: int, size: tuple[int, int], body: Body) -> tuple[Cameras, float]:
    """A person's camera, and the mean distance in pixels of the fit that found it, NaN where nothing was fitted.

    Known cameras are taken as they are. A weak-perspective one, x = s (X + tx) across the crop, becomes the perspective camera
    of the paper's field of view (46.4 degrees across the width) that has the same scale and place at the pelvis. One with
    projected joints alone is fitted to them (Eq. 8).

    Raises InputError for another size than the person's ``image_size``, and where no camera can be fitted.
    """
    if people.image_size is not None and tuple(people.image_size[row].tolist()) != size:
        height, width = people.image_size[row].tolist()
        raise InputError(f"mask: expected the camera's image size, {width} x {height} px, got {size[1]} x {size[0]} px")
    if people.cameras is not None:
        return people.camera(row, size), float("nan")
    height, width = size
    focal = FOCAL_IN_WIDTHS * width
    turn = people.orientation[row][None]
    if people.weak is not None:
        scale, tx, ty = people.weak[row].tolist()
        whole = (width / 2, height / 2, max(size) if people.square else width)
        x, y, side = whole if people.crop is None else people.crop[row].tolist()
        metre = scale * side / 2  # pixels
        shift = np.array([tx, ty]) + people.origin[row, :2] + (np.array([x, y]) - [width / 2, height / 2]) / metre
        depth = focal / metre  # of the pelvis, which is where the scale holds
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        return Cameras(turn, [[*shift, depth]], K[None], [size]), float("nan")
    assert people.joints is not None  # one of the three is there
    targets = people.joints[row][None]
    fit = fit_cameras(body.posed_joints(people.pose[row][None]), targets, np.isfinite(targets).all(2), [size], R0=turn)
    return fit.cameras, float(fit.residual_px[0])


class _Row(NamedTuple):
    """An image that is to be written: what of its masks is kept, its person's row, and camera, residual and scores."""

    key: str
    prompt: str
    picture: Any
    mask: NDArray[np.bool_]
    person_mask: NDArray[np.bool_]
    person: int
    camera: Cameras
    residual_px: float
    scores: dict[str, float]


class PosedMasks:
    """Adds images to a store, each with one object and one person.

    Of several people with a pose, and of several objects, it is the pair whose boxes overlap most (of pairs that overlap as
    much, the larger ones). A person's box is that of the body's joints, projected.
    """

    def __init__(self, people: PeopleByName, body: Body, report: Report) -> None:
        self.people, self._body, self.report = people, body, report
        self._units = UnitCheck()
        self._rows: list[_Row] = []
        self._joints: dict[int, NDArray[np.float64]] = {}

    def add(self, image: MaskedImage) -> None:
        """Take an image; it is written by ``write``. InputError where it cannot be used."""
        rows = self.people.find(image.key)
        if not rows:
            raise InputError("poses: expected a person of this image's name, got none")
        size = (image.objects.shape[1], image.objects.shape[2])
        people = self.people.people
        cameras, residuals = zip(*(camera_of(people, row, size, self._body) for row in rows), strict=True)
        boxes = np.stack([self._box(camera, row) for camera, row in zip(cameras, rows, strict=True)])
        objects = boxes_of(image.objects).astype(np.float64)
        rank = overlap_of_smaller(boxes[:, None], objects[None])
        extent = (area(boxes)[:, None] * area(objects)[None]) ** 0.5
        person, one = (int(i) for i in np.unravel_index(np.lexsort((extent.ravel(), rank.ravel()))[-1], rank.shape))
        scores = {
            "person_count": float(len(rows) if image.people is None else max(len(rows), len(image.people))),
            "object_count": float(len(objects)),
            "overlap": float(overlap_of_first(objects[one], boxes[person])),
            "overlap_smaller": float(rank[person, one]),
            "person_side": float((boxes[person, 2:] - boxes[person, :2]).max()),
        }
        if len(rows) > 1:
            self.report.several[image.key] = len(rows)
        if not overlap_of_first(boxes[person], [0, 0, size[1], size[0]]) > 0:
            self.report.outside.append(image.key)
        camera = cameras[person]
        units = UnitCheck()
        units.cameras("cameras", camera.t, camera.K, camera.image_size, [image.key])
        self._units.add(units)
        self._units.warn()
        mask = image.objects[one].copy()  # without the other objects, which can be many
        nearest = self._nearest(image, boxes[person])
        row = rows[person], camera, residuals[person], scores
        self._rows.append(_Row(image.key, image.prompt, image.picture, mask, nearest, *row))

    def _box(self, camera: Cameras, row: int) -> NDArray[np.float64]:
        """The box (4,) of a person's joints in the image; all zero where one is behind the camera."""
        block = row // _JOINTS_AT_ONCE
        if block not in self._joints:  # posed many at once, which is ten times as fast as one by one
            if len(self._joints) >= 2:
                self._joints.pop(next(iter(self._joints)))
            first = block * _JOINTS_AT_ONCE
            self._joints[block] = self._body.posed_joints(self.people.people.pose[first : first + _JOINTS_AT_ONCE])
        pixels, depth = camera.project(self._joints[block][row % _JOINTS_AT_ONCE])
        if not (depth[0] > 0).all():
            return np.zeros(4)
        return np.concatenate([pixels[0].min(0), pixels[0].max(0)])

    def __len__(self) -> int:
        """Images not yet written."""
        return len(self._rows)

    @property
    def full(self) -> bool:
        """Whether it is time to ``write``: there are many images, or large ones."""
        return len(self._rows) >= _AT_ONCE or sum(row.mask.nbytes for row in self._rows) >= _MOST_BYTES

    def forget(self) -> None:
        """Count the images as added without writing them."""
        self.report.added += [row.key for row in self._rows]
        self._rows.clear()

    def write(self, writer: StoreWriter, *, person_masks: bool) -> None:
        """Append the images to the store, in which they are committed when its shard is."""
        if not self._rows:
            return
        known = [self._betas_of(row) is not None for row in self._rows]
        for some in (True, False):  # rows of one call all have shape coefficients, or none has
            self._append([row for row, has in zip(self._rows, known, strict=True) if has == some], writer, person_masks)
        self.forget()

    def _betas_of(self, row: _Row) -> NDArray[np.float64] | None:
        betas = self.people.people.betas
        return None if betas is None or np.isnan(betas[row.person]).any() else betas[row.person]

    def _append(self, rows: list[_Row], writer: StoreWriter, person_masks: bool) -> None:
        if not rows:
            return
        people, at = self.people.people, [row.person for row in rows]
        cameras = [row.camera for row in rows]
        batch = ImageBatch(
            PackedMasks.pack([row.mask for row in rows]),
            Cameras(*(np.concatenate([getattr(c, name) for c in cameras]) for name in ("R", "t", "K", "image_size"))),
            people.pose[at],
            [row.key for row in rows],
            prompts=[row.prompt for row in rows] if people.prompts is None else [people.prompts[i] for i in at],
            warn=False,
        )
        writer.append(
            batch,
            scores={name: [row.scores[name] for row in rows] for name in rows[0].scores},
            betas=None if people.betas is None or self._betas_of(rows[0]) is None else people.betas[at],
            residual_px=[row.residual_px for row in rows],
            estimators=[people.estimator[i] for i in at],
            person_masks=PackedMasks.pack([row.person_mask for row in rows]) if person_masks else None,
            pictures=[row.picture for row in rows],
        )

    @staticmethod
    def _nearest(image: MaskedImage, box: NDArray[np.float64]) -> NDArray[np.bool_]:
        """The mask of the image's person: of several, that whose box overlaps the body's most; empty where there is none."""
        if image.people is None or not len(image.people):
            return np.zeros(image.objects.shape[1:], np.bool_)
        return np.array(image.people[int(overlap_of_smaller(boxes_of(image.people), box).argmax())])

    def finish(self) -> None:
        """Put warnings of units, and of people outside of their images, into the report."""
        self._units.warn(again=True)
        self.report.warnings += self._units.sentences()
