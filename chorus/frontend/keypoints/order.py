"""What the keypoint stages share: the check of COCO's order and of boxes, and results in the front end's types and units."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, check_array
from chorus.keypoints import COCO_KEYPOINTS


def check_order(names: Mapping[int, str], what: str) -> None:
    """InputError where a model's keypoint names are not COCO's, or in another order.

    "L_Shoulder", "left shoulder" and "left_shoulder" count as the same name; "LABEL_0" and the like are no names, and pass
    where there are 17 of them. ``what`` begins the message.
    """
    if len(names) != len(COCO_KEYPOINTS):
        raise InputError(f"{what}: expected the {len(COCO_KEYPOINTS)} keypoints of COCO, got {len(names)}")
    for i, expected in enumerate(COCO_KEYPOINTS):
        name = names.get(i, "")
        if not re.fullmatch(r"LABEL_\d+", name) and _plain(name) != expected:
            raise InputError(f"{what}: expected keypoint {i} to be {expected!r}, as in COCO, got {name!r}")


def check_boxes(boxes: Any, count: int) -> NDArray[np.float32]:
    """Boxes (count, 4) float32 x0, y0, x1, y1 with an area. InputError for any other."""
    checked: NDArray[np.float32] = check_array("boxes", boxes, (count, 4), np.float32)
    bad = np.flatnonzero((checked[:, 2:] <= checked[:, :2]).any(1))
    if bad.size:
        raise InputError(f"boxes: expected x0 < x1 and y0 < y1, got {checked[bad[0]].tolist()} at index {bad[0]}")
    return checked


def keypoints_of(
    points: Sequence[NDArray[np.floating[Any]]], scores: Sequence[NDArray[np.floating[Any]]]
) -> NDArray[np.float32]:
    """(I, 17, 3) float32 x, y, confidence from each image's points (17, 2) and scores (17,).

    Pixel centres are whole numbers in the points and lie at + 0.5 in the result. Confidences are cut to 0 .. 1, since a peak
    of a heat map may go beyond. A keypoint that is not finite gets confidence 0 at the origin.
    """
    if not points:
        return np.zeros((0, len(COCO_KEYPOINTS), 3), np.float32)
    found = np.concatenate([np.stack(points) + 0.5, np.clip(np.stack(scores), 0, 1)[..., None]], -1).astype(np.float32)
    found[~np.isfinite(found).all(-1)] = 0
    return found


def _plain(name: str) -> str:
    words = re.split(r"[\s_-]+", name.strip().lower())
    return "_".join({"l": "left", "r": "right"}.get(word, word) for word in words)
