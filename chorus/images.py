"""A batch of images as the engine uses them: masks, cameras and poses, without pixel colours."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.errors import InputError, check_array, to_numpy
from chorus.kernels.arrays import VoteImages
from chorus.kernels.masks import PackedMasks
from chorus.units import UnitCheck, other_rotations


@dataclass(frozen=True, init=False)
class ImageBatch:
    """I images of one category of object.

    masks    object masks: PackedMasks, or (I, H, W) bool, or a sequence of (H, W) bool of differing size
    cameras  Cameras, in the person's frame
    poses    (I, J, 3) float32 axis-angle in radians; row 0 (global orientation) zero: the camera contains it
    keys     (I,) fixed-width bytes, unique names of the images; "image-0", ... if not given
    weights  (I,) uint8 integer weights (a quantised confidence), or None for 1 each
    prompts  (I,) str, the prompt each image was made from, or None

    Numbers that can hardly be in metres, radians and pixels are warned of once (``chorus.units.UnitsWarning``), unless
    ``warn`` is False: for cameras that were fitted here, and numbers that have been looked at where they came from.

    Raises InputError for arrays of other shapes or types, masks of another size than their camera's image, a global
    orientation that is not zero, and keys that are not unique.
    """

    masks: PackedMasks
    cameras: Cameras
    poses: NDArray[np.float32]
    keys: NDArray[np.bytes_]
    weights: NDArray[np.uint8] | None
    prompts: NDArray[np.str_] | None

    def __init__(
        self,
        masks: Any,
        cameras: Cameras,
        poses: Any,
        keys: Any = None,
        weights: Any = None,
        prompts: Any = None,
        *,
        warn: bool = True,
    ) -> None:
        if not isinstance(cameras, Cameras):
            raise InputError(f"cameras: expected Cameras, got a {type(cameras).__name__}")
        n = len(cameras)
        if not isinstance(masks, PackedMasks):
            if not hasattr(masks, "__iter__"):
                raise InputError(f"masks: expected PackedMasks or (H, W) bool each, got a {type(masks).__name__}")
            dense = [to_numpy(m) for m in masks]
            for row, mask in enumerate(dense):
                if mask.ndim != 2 or mask.dtype != np.bool_:
                    raise InputError(f"masks: expected (H, W) bool each, got {mask.dtype} of shape {mask.shape} in row {row}")
            masks = PackedMasks.pack(dense)
        if len(masks) != n:
            raise InputError(f"masks: expected {n}, one for each camera, got {len(masks)}")
        problem = masks.problem()
        if problem is not None:
            raise InputError(problem)
        differ = np.flatnonzero((masks.size != cameras.image_size).any(1))
        if differ.size:
            row = differ[0]
            raise InputError(
                f"masks: expected the size of the camera's image, height, width {cameras.image_size[row].tolist()}, "
                f"got {masks.size[row].tolist()} in row {row}"
            )
        poses = _checked_poses(poses, n)
        if poses.shape[1] == 0:
            raise InputError(f"poses: expected at least one joint, got shape {poses.shape}")
        bad = np.flatnonzero(poses[:, 0].any(1))
        if bad.size:
            raise InputError(
                "poses: expected a zero global orientation (joint 0; the camera contains it), "
                f"got {poses[bad[0], 0].tolist()} in row {bad[0]}"
            )
        if keys is None:
            keys = np.array([f"image-{i}" for i in range(n)], "S")
        keys = np.asarray(keys)
        if keys.dtype.kind == "U":
            keys = np.char.encode(keys, "utf-8")
        if keys.shape != (n,) or (n and keys.dtype.kind != "S"):
            raise InputError(f"keys: expected {n} strings, got {keys.dtype} of shape {keys.shape}")
        distinct, first, row_of = np.unique(keys, return_index=True, return_inverse=True)
        if len(distinct) < n:
            row = int(np.flatnonzero(first[row_of] != np.arange(n))[0])
            raise InputError(f"keys: expected unique keys, got {keys[row]!r} in rows {first[row_of[row]]} and {row}")
        if weights is not None:
            weights = _checked_weights(weights, n)
        if prompts is not None:
            prompts = np.asarray(prompts, np.str_)
            if prompts.shape != (n,):
                raise InputError(f"prompts: expected {n} strings, got shape {prompts.shape}")
        for name, value in (
            ("masks", masks),
            ("cameras", cameras),
            ("poses", poses),
            ("keys", keys),
            ("weights", weights),
            ("prompts", prompts),
        ):
            object.__setattr__(self, name, value)
        if warn:
            units = UnitCheck()
            units.cameras("cameras", cameras.t, cameras.K, cameras.image_size, keys)
            units.poses("poses", poses, keys)
            units.warn()

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, rows: slice | NDArray[np.intp] | NDArray[np.bool_]) -> ImageBatch:
        """A selection of the images (not validated again); mask words are shared."""
        chosen = {}
        for name, value in self._arrays().items():
            chosen[name] = None if value is None else value[rows]
        return ImageBatch._of(chosen)

    def with_weights(self, weights: Any) -> ImageBatch:
        """The same images with other weights, (I,) uint8, or None for 1 each; the arrays are shared.

        Raises InputError for weights of another shape or type.
        """
        checked = None if weights is None else _checked_weights(weights, len(self))
        return ImageBatch._of({**self._arrays(), "weights": checked})

    def _arrays(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def _of(cls, arrays: dict[str, Any]) -> ImageBatch:
        """A batch from arrays that have been checked."""
        made = object.__new__(cls)
        for name, value in arrays.items():
            object.__setattr__(made, name, value)
        return made


def _checked_poses(poses: Any, count: int) -> NDArray[np.float32]:
    poses = to_numpy(poses)
    try:
        checked: NDArray[np.float32] = check_array("poses", poses, (count, "J", 3), np.float32)
    except InputError as error:
        raise InputError(f"{error}{other_rotations(poses, 3)}") from None
    return checked


def _checked_weights(weights: Any, count: int) -> NDArray[np.uint8]:
    found = to_numpy(weights)
    if found.dtype != np.uint8 or found.shape != (count,):
        raise InputError(f"weights: expected uint8 of shape ({count},), got {found.dtype} of shape {found.shape}")
    return found


def vote_images(batch: ImageBatch) -> VoteImages:
    """A batch as the kernels take it, on the CPU; only arrays that are not contiguous are copied."""
    masks, cameras = batch.masks, batch.cameras
    return VoteImages(
        poses=_tensor(batch.poses),
        R=_tensor(cameras.R),
        t=_tensor(cameras.t),
        K=_tensor(cameras.K),
        size=_tensor(masks.size),
        box=_tensor(masks.box),
        start=_tensor(masks.start),
        words=_tensor(masks.words.view(np.int32)),
    )


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    with warnings.catch_warnings():
        # Arrays mapped from a store are read-only, which torch cannot express; the kernels only read them.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(np.ascontiguousarray(array))
