"""Perspective cameras in the person's frame, and their fit to projected joints (Eq. 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, check_array

ROTATION_TOLERANCE = 1e-3
"""Largest deviation of R R^T from the identity, and of det R from 1, that still counts as a rotation (float32 input)."""


@dataclass(frozen=True, init=False)
class Cameras:
    """I perspective cameras.

    x_cam = R x + t with x in the person's frame (metres, +x the person's left, +y up, +z forward) and x_cam in OpenCV axes
    (x right, y down, z forward); (u, v) = (K x_cam)[:2] / z in pixels; pixel (column, row) = (floor u, floor v); the image
    covers [0, W) x [0, H).

    R           (I, 3, 3) float64 rotations
    t           (I, 3) float64 metres
    K           (I, 3, 3) float64 pixels; [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0
    image_size  (I, 2) int32 height, width in pixels

    Raises InputError for other shapes, numbers that are not finite, an R that is no rotation, a focal length or an image
    size that is not positive, a last row of K other than (0, 0, 1).
    """

    R: NDArray[np.float64]
    t: NDArray[np.float64]
    K: NDArray[np.float64]
    image_size: NDArray[np.int32]

    def __init__(self, R: Any, t: Any, K: Any, image_size: Any) -> None:
        R = check_array("cameras.R", R, ("I", 3, 3), np.float64)
        n = len(R)
        t = check_array("cameras.t", t, (n, 3), np.float64)
        K = check_array("cameras.K", K, (n, 3, 3), np.float64)
        image_size = check_array("cameras.image_size", image_size, (n, 2), np.int32)
        off = np.abs(R @ R.swapaxes(1, 2) - np.eye(3)).max((1, 2), initial=0.0)
        off = np.maximum(off, np.abs(np.linalg.det(R) - 1.0))
        if n and off.max() > ROTATION_TOLERANCE:
            row = int(off.argmax())
            raise InputError(
                f"cameras.R: expected rotations (R R^T = 1, det R = 1 within {ROTATION_TOLERANCE}), "
                f"row {row} is off by {off[row]:.3g}"
            )
        bad = np.flatnonzero((K[:, 0, 0] <= 0) | (K[:, 1, 1] <= 0))
        if bad.size:
            row = bad[0]
            raise InputError(
                f"cameras.K: expected positive focal lengths, got fx={K[row, 0, 0]:g}, fy={K[row, 1, 1]:g} in row {row}"
            )
        bad = np.flatnonzero((K[:, 2] != [0.0, 0.0, 1.0]).any(1) | (K[:, 1, 0] != 0.0))
        if bad.size:
            row = bad[0]
            raise InputError(f"cameras.K: expected [[fx, s, cx], [0, fy, cy], [0, 0, 1]], got {K[row].tolist()} in row {row}")
        bad = np.flatnonzero((image_size <= 0).any(1))
        if bad.size:
            raise InputError(
                f"cameras.image_size: expected a positive height and width, got {image_size[bad[0]].tolist()} in row {bad[0]}"
            )
        for name, value in (("R", R), ("t", t), ("K", K), ("image_size", image_size)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.R)

    def __getitem__(self, rows: slice | NDArray[np.intp] | NDArray[np.bool_]) -> Cameras:
        """A selection of the cameras (not validated again)."""
        chosen = object.__new__(Cameras)
        for name in ("R", "t", "K", "image_size"):
            object.__setattr__(chosen, name, getattr(self, name)[rows])
        return chosen

    @property
    def centres(self) -> NDArray[np.float64]:
        """Camera centres -R^T t in the person's frame, (I, 3) metres."""
        centres: NDArray[np.float64] = -np.einsum("iba,ib->ia", self.R, self.t)
        return centres

    def project(self, points: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Project points, (I, P, 3) or (P, 3) metres in the person's frame: (u, v) (I, P, 2) pixels and z (I, P) metres.

        Points at z <= 0 project to meaningless (u, v); test z.
        """
        x_cam = np.asarray(points, np.float64) @ self.R.swapaxes(1, 2) + self.t[:, None]
        uvz = x_cam @ self.K.swapaxes(1, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            return uvz[..., :2] / uvz[..., 2:], uvz[..., 2]
