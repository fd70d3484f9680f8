"""How far people's joints turn: means, spreads and limits of SMPL's joint rotations, in the axes of the T-pose."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Three = tuple[float, float, float]


class Prior(NamedTuple):
    """Rotation vectors of n joints in radians, each array (n, 3): mean, standard deviation, and limits that bind softly."""

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]


# Mean, spread, least, most about x, y, z of the left side; the right side's are mirrored. In the T-pose a knee bends about +x,
# a left elbow about -y; a left arm hangs down at -1.2 about z; x is the twist of an arm, y that of a leg.
_TABLE: dict[str, tuple[Three, Three, Three, Three]] = {
    "spine1": ((0.05, 0, 0), (0.2, 0.12, 0.12), (-0.5, -0.5, -0.4), (0.9, 0.5, 0.4)),
    "spine2": ((0.05, 0, 0), (0.15, 0.12, 0.12), (-0.4, -0.4, -0.4), (0.6, 0.4, 0.4)),
    "spine3": ((0, 0, 0), (0.12, 0.12, 0.1), (-0.4, -0.4, -0.3), (0.4, 0.4, 0.3)),
    "neck": ((0, 0, 0), (0.25, 0.3, 0.2), (-0.7, -0.8, -0.6), (0.7, 0.8, 0.6)),
    "head": ((0, 0, 0), (0.2, 0.25, 0.15), (-0.6, -0.7, -0.5), (0.6, 0.7, 0.5)),
    "left_collar": ((0, 0, 0), (0.08, 0.15, 0.15), (-0.3, -0.5, -0.4), (0.3, 0.5, 0.5)),
    "left_shoulder": ((0, -0.2, -0.9), (0.45, 0.7, 0.8), (-1.4, -2.2, -1.9), (1.4, 1.2, 1.6)),
    "left_elbow": ((0, -0.6, 0), (0.35, 0.9, 0.12), (-1.2, -2.7, -0.3), (1.2, 0.05, 0.3)),
    "left_wrist": ((0, 0, 0), (0.3, 0.25, 0.35), (-0.8, -0.7, -1.2), (0.8, 0.7, 1.2)),
    "left_hip": ((-0.25, 0, 0.08), (0.7, 0.3, 0.35), (-2.4, -1.0, -0.7), (0.8, 1.0, 1.3)),
    "left_knee": ((0.4, 0, 0), (0.8, 0.08, 0.06), (-0.05, -0.4, -0.2), (2.7, 0.4, 0.2)),
    "left_ankle": ((0, 0, 0), (0.3, 0.2, 0.15), (-0.8, -0.6, -0.5), (0.9, 0.6, 0.5)),
    "left_foot": ((0, 0, 0), (0.12, 0.05, 0.05), (-0.6, -0.3, -0.3), (0.6, 0.3, 0.3)),
}
LIMIT_SPREAD = 0.08
"""Standard deviation in radians of how far a joint goes beyond its limit."""

MOVING = (
    *("spine1", "spine2", "spine3", "neck", "head"),
    *(f"{side}_{name}" for side in ("left", "right") for name in ("hip", "knee", "ankle", "foot")),
    *(f"{side}_{name}" for side in ("left", "right") for name in ("collar", "shoulder", "elbow", "wrist")),
)
"""The joints that a fit turns, beside the pelvis; all others stay at zero."""


def prior_of(names: tuple[str, ...]) -> Prior:
    """The prior of joints by name; a right joint's is its left one's mirrored at x = 0."""
    rows = []
    for name in names:
        right = name.startswith("right_")
        mean, spread, least, most = (np.array(v, np.float64) for v in _TABLE[name.replace("right_", "left_")])
        if right:  # rotations about y and z change their sign
            flip = np.array([1.0, -1.0, -1.0])
            mean, least, most = mean * flip, np.where(flip > 0, least, -most), np.where(flip > 0, most, -least)
        rows.append((mean, spread, least, most))
    return Prior(*(np.array(column) for column in zip(*rows, strict=True)))
