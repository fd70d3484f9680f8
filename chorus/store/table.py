"""Rows to be written to a store: checks of a writer's arguments, and their conversion to the types of the format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, check_array, to_numpy
from chorus.images import ImageBatch
from chorus.kernels.masks import PackedMasks, words_in_box
from chorus.store.schema import CODED, COMPLETE, NO_SEED, Header
from chorus.store.verify import loose_masks

_SCORE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Rows:
    """n rows to be written.

    arrays               array name in a shard -> (n, ...); without vocabularies, codes and masks
    text                 columns of text, (n,) str, to be coded by a vocabulary
    masks, person_masks  packed without gaps in the order of the rows; person_masks None where the store keeps none
    """

    arrays: dict[str, NDArray[Any]]
    text: dict[str, NDArray[np.str_]]
    masks: PackedMasks
    person_masks: PackedMasks | None

    def slice(self, first: int, last: int) -> Rows:
        """Rows first .. last - 1, sharing memory."""
        person = self.person_masks
        return Rows(
            {name: array[first:last] for name, array in self.arrays.items()},
            {name: column[first:last] for name, column in self.text.items()},
            _slice_masks(self.masks, first, last),
            None if person is None else _slice_masks(person, first, last),
        )


def rows_of_batch(
    batch: ImageBatch,
    header: Header,
    *,
    views: Any,
    seeds: Any,
    scores: Mapping[str, Any] | None,
    status: Any,
    betas: Any,
    residual_px: Any,
    estimators: Any,
    person_masks: PackedMasks | None,
) -> Rows:
    """The rows of images with mask, pose and camera; arguments and errors as of ``StoreWriter.append``."""
    if not isinstance(batch, ImageBatch):
        raise InputError(f"batch: expected a chorus.images.ImageBatch, got {type(batch).__name__}")
    n = len(batch)
    if batch.poses.shape[1] != header.num_joints:
        raise InputError(f"batch.poses: expected the {header.num_joints} joints of the store, got {batch.poses.shape[1]}")
    if header.person_masks != (person_masks is not None):
        wanted = "the person's masks, which this store keeps" if header.person_masks else "None: the store keeps none"
        raise InputError(f"person_masks: expected {wanted}, got {'None' if person_masks is None else 'some'}")
    arrays: dict[str, NDArray[Any]] = {
        "image/key": batch.keys.copy(),
        "image/size": batch.masks.size.copy(),
        "image/seed": _seeds(seeds, n),
        "camera/R": _float32("batch.cameras.R", batch.cameras.R),
        "camera/t": _float32("batch.cameras.t", batch.cameras.t),
        "camera/K": _float32("batch.cameras.K", batch.cameras.K),
        "camera/residual_px": np.full(n, np.nan, np.float32)
        if residual_px is None
        else check_array("residual_px", residual_px, (n,), np.float32, finite=False).copy(),
        "pose/axis_angle": batch.poses.copy(),
        **_scores(scores, n),
    }
    if batch.weights is not None:
        arrays["image/weight"] = batch.weights.copy()
    if betas is not None:
        arrays["pose/betas"] = check_array("betas", betas, (n, "B"), np.float32).copy()
    text = {
        "prompt": strings("batch.prompts", batch.prompts, n, ""),
        "view": strings("views", views, n, ""),
        "estimator": strings("estimators", estimators, n, ""),
        "status": strings("status", status, n, COMPLETE),
    }
    if person_masks is not None:
        person_masks = _person_masks(person_masks, batch.masks.size)
    return Rows(arrays, text, compacted("batch.masks", batch.masks), person_masks)


def rejected_rows(
    keys: Any,
    status: Any,
    header: Header,
    *,
    prompts: Any,
    views: Any,
    seeds: Any,
    sizes: Any,
    scores: Mapping[str, Any] | None,
    estimators: Any,
) -> Rows:
    """The rows of images without mask, pose and camera; arguments and errors as of ``StoreWriter.append_rejected``."""
    keys = np.asarray(keys)
    if keys.dtype.kind == "U":
        keys = np.char.encode(keys, "utf-8")
    if keys.ndim != 1 or (keys.size and keys.dtype.kind != "S"):
        raise InputError(f"keys: expected (I,) strings, got {keys.dtype} of shape {keys.shape}")
    n = len(keys)
    text = {
        "prompt": strings("prompts", prompts, n, ""),
        "view": strings("views", views, n, ""),
        "estimator": strings("estimators", estimators, n, ""),
        "status": strings("status", status, n, ""),
    }
    bad = np.flatnonzero((text["status"] == COMPLETE) | (text["status"] == ""))
    if bad.size:
        raise InputError(f"status: expected the reason of the rejection, got {text['status'][bad[0]].item()!r} in row {bad[0]}")
    size = np.zeros((n, 2), np.int32) if sizes is None else check_array("sizes", sizes, (n, 2), np.int32).copy()
    bad = np.flatnonzero((size < 0).any(1))
    if bad.size:
        raise InputError(f"sizes: expected heights and widths, got {size[bad[0]].tolist()} in row {bad[0]}")
    nothing = {
        "camera/R": (n, 3, 3),
        "camera/t": (n, 3),
        "camera/K": (n, 3, 3),
        "camera/residual_px": (n,),
        "pose/axis_angle": (n, header.num_joints, 3),
    }
    arrays: dict[str, NDArray[Any]] = {
        "image/key": keys.astype("S") if n else keys.astype("S1"),
        "image/size": size,
        "image/seed": _seeds(seeds, n),
        **{name: np.full(shape, np.nan, np.float32) for name, shape in nothing.items()},
        **_scores(scores, n),
    }
    empty = PackedMasks(size, np.zeros((n, 4), np.int32), np.zeros(n, np.int64), np.zeros(0, np.uint32))
    return Rows(arrays, text, empty, empty if header.person_masks else None)


def trailing_shapes(rows: Rows) -> dict[str, tuple[int, ...]]:
    """Betas and scores: array -> its shape without the first axis, which must agree among the rows of a store."""
    return {name: array.shape[1:] for name, array in rows.arrays.items() if name == "pose/betas" or name.startswith("score/")}


def joined(parts: Sequence[Rows], person_masks: bool) -> dict[str, NDArray[Any]]:
    """The arrays of a shard by name, from rows in order; missing weights become 1, missing betas and scores NaN."""
    arrays: dict[str, NDArray[Any]] = {}
    trailing = {name: array.shape[1:] for part in parts for name, array in part.arrays.items()}
    for name in trailing:
        columns = []
        for part in parts:
            have = part.arrays.get(name)
            if have is None:  # an optional array that these rows do not have
                n = len(part.arrays["image/key"])
                have = np.ones(n, np.uint8) if name == "image/weight" else np.full((n, *trailing[name]), np.nan, np.float32)
            columns.append(have)
        arrays[name] = np.concatenate(columns)
    for column, name in CODED.items():
        values, codes = np.unique(np.concatenate([part.text[column] for part in parts]), return_inverse=True)
        vocabulary = values.tolist()
        if column == "status":  # code 0 is fixed
            if COMPLETE in vocabulary:
                vocabulary.remove(COMPLETE)
            vocabulary.insert(0, COMPLETE)
            if len(vocabulary) > 256:
                raise InputError(f"status: expected at most 256 different statuses in a shard, got {len(vocabulary)}")
        code_of = {value: code for code, value in enumerate(vocabulary)}
        code = np.array([code_of[value] for value in values.tolist()])
        arrays[name] = code[codes].astype(np.uint8 if column == "status" else np.int32)
        encoded = [value.encode("utf-8") for value in vocabulary]
        arrays[f"vocab/{column}"] = np.array(encoded, f"S{max(1, *map(len, encoded), 1)}")
    groups = {"mask": [part.masks for part in parts]}
    if person_masks:
        groups["person_mask"] = [part.person_masks for part in parts if part.person_masks is not None]
    from chorus.store.sparse import encode

    for group, masks in groups.items():
        encoded_masks = [encode(m) for m in masks]
        ends = np.cumsum([len(words) for _, words in encoded_masks])
        before = [0, *ends.tolist()]
        arrays[f"{group}/box"] = np.concatenate([m.box for m in masks])
        arrays[f"{group}/offset"] = np.concatenate(
            [np.zeros(1, np.int64), *(offset[1:] + at for (offset, _), at in zip(encoded_masks, before, strict=False))]
        )
        arrays[f"{group}/words"] = np.concatenate([words for _, words in encoded_masks])
    return arrays


def strings(name: str, value: Any, n: int, default: str) -> NDArray[np.str_]:
    """(n,) str from None (then the default), one str for all, or n of them. InputError, which begins with ``name``."""
    if value is None or isinstance(value, str):
        value = [default if value is None else value] * n
    column = np.asarray(value)
    if column.shape != (n,) or (n and column.dtype.kind != "U"):
        raise InputError(f"{name}: expected a string or {n} strings, got {column.dtype} of shape {column.shape}")
    return column.astype(np.str_)


def _float32(name: str, array: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        single: NDArray[np.float32] = array.astype(np.float32)
    if not np.isfinite(single).all():
        raise InputError(f"{name}: expected numbers in the range of float32, got {np.abs(array).max():g}")
    return single


def _seeds(seeds: Any, n: int) -> NDArray[np.int64]:
    if seeds is None:
        return np.full(n, NO_SEED, np.int64)
    given = to_numpy(seeds)
    if given.shape != (n,) or (n and given.dtype.kind not in "iu"):
        raise InputError(f"seeds: expected {n} integers, got {given.dtype} of shape {given.shape}")
    if given.dtype.kind == "u" and n and given.max() > np.iinfo(np.int64).max:
        raise InputError(f"seeds: expected integers that fit int64, got {given.max()}")
    return given.astype(np.int64)


def _scores(scores: Mapping[str, Any] | None, n: int) -> dict[str, NDArray[np.float32]]:
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, value in (scores or {}).items():
        if not isinstance(name, str) or not _SCORE_NAME.fullmatch(name):
            raise InputError(f"scores: expected names of letters, digits and _ . -, got {name!r}")
        given = to_numpy(value)
        if given.ndim not in (1, 2) or len(given) != n or given.dtype.kind not in "fiub":
            raise InputError(
                f"scores[{name!r}]: expected numbers of shape ({n},) or ({n}, k), got {given.dtype} of shape {given.shape}"
            )
        if given.dtype.kind in "iu" and given.size and max(abs(int(given.min())), int(given.max())) > 1 << 24:
            raise InputError(f"scores[{name!r}]: expected integers up to 2^24, which float32 holds exactly")
        arrays[f"score/{name}"] = given.astype(np.float32)
    return arrays


def _person_masks(masks: PackedMasks, size: NDArray[np.int32]) -> PackedMasks:
    if not isinstance(masks, PackedMasks):
        raise InputError(f"person_masks: expected PackedMasks, got {type(masks).__name__}")
    problem = masks.problem()
    if problem is not None:
        raise InputError(f"person_{problem}")
    if not np.array_equal(masks.size, size):
        raise InputError(f"person_masks: expected the sizes of the {len(size)} images, got other sizes")
    return compacted("person_masks", masks)


def compacted(name: str, masks: PackedMasks) -> PackedMasks:
    """A copy of masks with their words packed without gaps, in the order of the rows; InputError for inexact masks."""
    stray, loose = loose_masks(masks)
    if stray.size or loose.size:
        row = int(min([*stray[:1], *loose[:1]]))
        raise InputError(f"{name}: expected exact boxes and no bits outside them, not so in row {row}")
    counts = words_in_box(masks.box)
    pieces = [masks.words[s : s + c] for s, c in zip(masks.start.tolist(), counts.tolist(), strict=True)]
    return PackedMasks.join(masks.size.copy(), masks.box.copy(), pieces)


def _slice_masks(masks: PackedMasks, first: int, last: int) -> PackedMasks:
    ends = np.append(masks.start, len(masks.words))
    part = masks[first:last]
    return PackedMasks(part.size, part.box, part.start - ends[first], masks.words[ends[first] : ends[last]])
