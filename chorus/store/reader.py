"""Reading stores: columns of all rows, selections of rows, and batches of images with their masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.errors import InputError, StoreError, check_texts, to_numpy
from chorus.images import ImageBatch
from chorus.kernels.masks import PackedMasks, words_in_box
from chorus.store.pictures import StorePictures
from chorus.store.remote.shards import fetched_ahead
from chorus.store.schema import CODED, COMPLETE, FORMAT_VERSION, Header, store_digest
from chorus.store.shard import Shard
from chorus.store.urls import Place

COLUMNS: dict[str, str] = {
    "key": "image/key",
    "size": "image/size",
    "box": "mask/box",
    "seed": "image/seed",
    "weight": "image/weight",
    "R": "camera/R",
    "t": "camera/t",
    "K": "camera/K",
    "residual_px": "camera/residual_px",
    "pose": "pose/axis_angle",
    "betas": "pose/betas",
    "person_box": "person_mask/box",
}
"""Column of ``TableColumns`` -> the array of the shards that it joins."""


class UnknownColumn(InputError, KeyError):
    """A column that a store does not have."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


class TableColumns(Mapping[str, NDArray[Any]]):
    """The columns of a store: name -> array over all rows, read and joined when first asked for, read-only.

    key          (n,) bytes              prompt, view, status, estimator  (n,) str
    size         (n, 2) int32 H, W       box   (n, 4) int32 x0, y0, x1, y1
    R, t, K      (n, 3, 3), (n, 3), (n, 3, 3) float32; NaN for images that were rejected before they had a camera
    pose         (n, J, 3) float32       residual_px  (n,) float32 pixels or NaN
    seed         (n,) int64, -1 for none weight       (n,) uint8 integer weights, if any image has one
    betas        (n, B) float32          score/<name> (n,) or (n, k) float32; both NaN where not given
    person_box   (n, 4) int32, in a store that keeps masks of the person
    has_camera   (n,) bool               whether the image has a mask, a pose and a camera
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._joined: dict[str, NDArray[Any]] = {}
        arrays: dict[str, None] = {name: None for shard in shards for name in shard.arrays}
        names = [c for c, name in COLUMNS.items() if name in arrays]
        names += [name for name in arrays if name.startswith("score/")]
        self._names = [*names, *CODED, "has_camera"] if shards else ["key", *CODED, "has_camera"]

    def __len__(self) -> int:
        """The number of columns."""
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, column: str) -> NDArray[Any]:
        """A column, read-only. UnknownColumn (an InputError and a KeyError), naming the columns, for one the store lacks."""
        if column not in self._joined:
            if column not in self._names:
                raise UnknownColumn(f"column: expected one of {', '.join(self._names)}; got {column!r}")
            array = self._join(column)
            array.flags.writeable = False
            self._joined[column] = array
        return self._joined[column]

    def _join(self, column: str) -> NDArray[Any]:
        if not self._shards:
            return np.zeros(0, {"key": "S1", "has_camera": "?"}.get(column, "U1"))
        if column == "has_camera":
            return np.concatenate([shard.has_camera() for shard in self._shards])
        if column in CODED:
            strings: list[NDArray[np.str_]] = [s.vocabulary(column)[s.array(CODED[column])] for s in self._shards]
            return np.concatenate(strings)
        name = COLUMNS.get(column, column)
        (trailing,) = {s.arrays[name].shape[1:] for s in self._shards if name in s.arrays}
        parts = []
        for shard in self._shards:
            if name in shard.arrays:
                parts.append(shard.array(name))
            elif name == "image/weight":
                parts.append(np.ones(len(shard), np.uint8))
            else:
                parts.append(np.full((len(shard), *trailing), np.nan, np.float32))
        return np.concatenate(parts)


class Store:
    """A store as it was when opened; shards committed later are not part of it. Made by ``open_store``.

    Keeps no file open and no masks in memory: batches read them from disk. Can be pickled and used by several processes.
    """

    def __init__(self, path: Place, header: Header, fields: dict[str, Any], shards: Sequence[Shard]) -> None:
        self.path = path
        self.shards = tuple(shards)
        self.version: int = fields.get("version", FORMAT_VERSION)
        self.provenance: dict[str, Any] = fields.get("provenance") or {}
        self.check_while_read = False
        """Whether those who read images of a store that was opened without ``verify`` check its bytes meanwhile."""
        self._header = header
        self._first = np.concatenate([[0], np.cumsum([len(s) for s in shards], dtype=np.int64)])

    def __len__(self) -> int:
        """Number of rows, whatever their status."""
        return int(self._first[-1])

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, category={self.category!r}, {len(self)} images in {len(self.shards)} shards)"

    @property
    def header(self) -> Header:
        """What the store and each of its shards declare."""
        return self._header

    @property
    def first_rows(self) -> NDArray[np.int64]:
        """The first row of each shard, and at the end the number of rows: (shards + 1,) int64."""
        return self._first

    @property
    def category(self) -> str:
        """The object, as in "surfboard"."""
        return self._header.category

    @property
    def num_joints(self) -> int:
        """Joints J of the poses."""
        return self._header.num_joints

    @property
    def body_hash(self) -> str | None:
        """Hash of the body that the cameras were fitted with, or None."""
        return self._header.body_hash

    @property
    def has_person_masks(self) -> bool:
        """Whether the store has masks of the person."""
        return self._header.person_masks

    @cached_property
    def id(self) -> str:
        """Identity: sha256 over the digests of the shards; equal for equal shards, whatever their names and order."""
        return store_digest(shard.sha256 for shard in self.shards)

    @cached_property
    def rows(self) -> TableColumns:
        """The columns of all rows, each read when first asked for."""
        return TableColumns(self.shards)

    @cached_property
    def pictures(self) -> StorePictures:
        """The pictures that the store keeps, by key, each read when asked for; nothing else reads them."""
        return StorePictures(self.path, self.shards, self.rows)

    def picture(self, key: str | bytes) -> NDArray[np.uint8] | None:
        """The picture that a row was made from, (H, W, 3) uint8 RGB; None where the store does not keep it.

        Raises InputError for a key that the store does not have, StoreError for a damaged picture.
        """
        return self.pictures.find(key)

    @cached_property
    def prompts(self) -> list[str]:
        """The different prompts, sorted."""
        return self._vocabulary("prompt")

    def _vocabulary(self, column: str) -> list[str]:
        return sorted({word for shard in self.shards for word in shard.vocabulary(column).tolist()})

    def select(
        self,
        where: Callable[[TableColumns], NDArray[np.bool_]] | None = None,
        prompt: str | Sequence[str] | None = None,
        status: str | Sequence[str] | None = COMPLETE,
    ) -> NDArray[np.int64]:
        """The rows, (m,) int64 ascending, of these prompts and statuses for which ``where(store.rows)`` is true.

        prompt  one, several, or None for any          status  likewise; by default complete images only
        where   from the columns of all rows to (n,) bool

        Raises InputError for a prompt or status that no image of the store has, or a ``where`` that returns anything else.
        """
        chosen = np.ones(len(self), np.bool_)
        for column, wanted in (("prompt", prompt), ("status", status)):
            if wanted is None:
                continue
            wanted = check_texts(column, wanted)
            known = self._vocabulary(column) if self.shards else wanted
            for word in wanted:
                if word not in known:
                    raise InputError(f"{column}: expected one of {known}, got {word!r}")
            chosen &= np.concatenate(
                [np.zeros(0, np.bool_)] + [np.isin(s.vocabulary(column), wanted)[s.array(CODED[column])] for s in self.shards]
            )
        if where is not None:
            if not callable(where):
                raise InputError(f"where: expected a function of the rows' columns, got a {type(where).__name__}")
            answer = to_numpy(where(self.rows))
            if answer.shape != (len(self),) or answer.dtype != np.bool_:
                raise InputError(
                    f"where: expected an answer of bool and shape ({len(self)},), got {answer.dtype} of shape {answer.shape}"
                )
            chosen &= answer
        return np.flatnonzero(chosen).astype(np.int64, copy=False)

    def batches(self, rows: Any = None, size: int = 4096) -> Iterator[ImageBatch]:
        """The images of ``rows`` ((m,) integers; by default ``select()``), at most ``size`` at a time.

        Each batch has rows of one shard; shards come in order, rows within a shard in the order given. Mask words are the
        batch's own; of shards of version 1 they are read-only, memory-mapped views, valid as long as they are referenced.

        Raises InputError for rows that are not in the store or have no mask, pose and camera; StoreError for a shard
        that has been removed or holds invalid numbers.
        """
        rows = self.select() if rows is None else self._check_rows(rows)
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise InputError(f"size: expected a positive integer, got {size!r}")
        return self._batches(rows, int(size))

    def _batches(self, rows: NDArray[np.int64], size: int) -> Iterator[ImageBatch]:
        shards = fetched_ahead(self.shards_of(rows))
        for shard, (number, where) in zip(shards, self.by_shard(rows), strict=True):
            local = rows[where] - self._first[number]
            for first in range(0, len(local), size):
                yield _batch(shard, local[first : first + size])

    def batch(self, rows: Any) -> ImageBatch:
        """The images of ``rows`` ((m,) integers) as one batch in the order given.

        Its ``weights`` are None where none of these images has one. Raises as ``batches`` does.
        """
        rows = self._check_rows(rows)
        parts = [(where, _batch(self.shards[s], rows[where] - self._first[s])) for s, where in self.by_shard(rows)]
        if len(parts) == 1:
            return parts[0][1]
        order = np.argsort(np.concatenate([np.zeros(0, np.intp), *(where for where, _ in parts)]))
        if not parts:
            no_cameras = Cameras(np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros((0, 2)))
            return ImageBatch([], no_cameras, np.zeros((0, self.num_joints, 3)), prompts=np.zeros(0, np.str_))
        batches = [batch for _, batch in parts]
        cameras = [batch.cameras for batch in batches]
        weighted = any(batch.weights is not None for batch in batches)
        return ImageBatch(
            _joined_masks([batch.masks for batch in batches]),
            Cameras(
                np.concatenate([c.R for c in cameras]),
                np.concatenate([c.t for c in cameras]),
                np.concatenate([c.K for c in cameras]),
                np.concatenate([c.image_size for c in cameras]),
            ),
            np.concatenate([batch.poses for batch in batches]),
            np.concatenate([batch.keys for batch in batches]),
            np.concatenate([np.ones(len(b), np.uint8) if b.weights is None else b.weights for b in batches])
            if weighted
            else None,
            np.concatenate([batch.prompts for batch in batches if batch.prompts is not None]),
            warn=False,
        )[order]

    def person_masks(self, rows: Any) -> PackedMasks:
        """The person's masks of ``rows`` ((m,) integers) in the order given.

        Raises InputError in a store without them, and as ``batches`` does.
        """
        if not self.has_person_masks:
            raise InputError(f"{self.path}: expected a store with masks of the person, got one without")
        rows = self._check_rows(rows)
        parts = [(where, self.shards[s].masks(rows[where] - self._first[s], "person_mask")) for s, where in self.by_shard(rows)]
        if len(parts) == 1:
            return parts[0][1]
        order = np.argsort(np.concatenate([np.zeros(0, np.intp), *(where for where, _ in parts)]))
        return _joined_masks([masks for _, masks in parts])[order]

    def shards_of(self, rows: NDArray[np.int64]) -> tuple[Shard, ...]:
        """The shards that have some of the rows (m,), in order."""
        return tuple(self.shards[s] for s, _ in self.by_shard(rows))

    def _check_rows(self, rows: Any) -> NDArray[np.int64]:
        given = to_numpy(rows)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise InputError(f"rows: expected (m,) integers, got {given.dtype} of shape {given.shape}")
        result: NDArray[np.int64] = given.astype(np.int64, copy=False)
        bad = np.flatnonzero((result < 0) | (result >= len(self)))
        if bad.size:
            raise InputError(f"rows: expected numbers from 0 to {len(self) - 1}, got {result[bad[0]]}")
        bare = np.flatnonzero(~self.rows["has_camera"][result])
        if bare.size:
            row = result[bare[0]]
            raise InputError(
                f"rows: expected images with a mask, a pose and a camera; row {row} (key {self.rows['key'][row]!r}) "
                f"has none: {self.rows['status'][row].item()!r}"
            )
        return result

    def by_shard(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Pairs, shards in order: number of a shard that has some of the rows, (m,) int64, and their positions in ``rows``."""
        if (rows[1:] >= rows[:-1]).all():  # as selections are: no array as long as the rows is needed
            bounds = np.searchsorted(rows, self._first)
            for s in np.flatnonzero(bounds[1:] > bounds[:-1]).tolist():
                yield s, np.arange(bounds[s], bounds[s + 1])
            return
        holder = np.searchsorted(self._first, rows, "right") - 1
        order = np.argsort(holder, kind="stable")
        shards, first = np.unique(holder[order], return_index=True)
        yield from zip(shards.tolist(), np.split(order, first[1:]), strict=True)


def _joined_masks(parts: Sequence[PackedMasks]) -> PackedMasks:
    """Masks of several parts one after the other, with copies of the words they use."""
    return PackedMasks.join(
        np.concatenate([np.zeros((0, 2), np.int32), *(m.size for m in parts)]),
        np.concatenate([np.zeros((0, 4), np.int32), *(m.box for m in parts)]),
        [m.words[s : s + c] for m in parts for s, c in zip(m.start, words_in_box(m.box), strict=True)],
    )


def _batch(shard: Shard, rows: NDArray[np.int64]) -> ImageBatch:
    size = shard.array("image/size")[rows]
    try:
        return ImageBatch(
            shard.masks(rows),
            Cameras(shard.array("camera/R")[rows], shard.array("camera/t")[rows], shard.array("camera/K")[rows], size),
            shard.array("pose/axis_angle")[rows],
            shard.array("image/key")[rows],
            shard.array("image/weight")[rows] if "image/weight" in shard.arrays else None,
            shard.vocabulary("prompt")[shard.array("image/prompt")[rows]],
            warn=False,
        )
    except StoreError:
        raise
    except InputError as error:  # numbers that only ``verify`` checks when the store is opened
        raise StoreError(f"{shard.path}: {error}") from None
