"""The rule of A.3 for instances that were found twice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.frontend.stages import Instances


def without_duplicates(instances: Instances, overlap: float = 0.8, sure: float = 0.98) -> Instances:
    """The instances without those that repeat another one of the same label, most confident first (A.3).

    overlap  of two boxes of one label whose intersection is more than this part of the smaller box, the less confident goes,
    sure     unless its confidence is more than this

    Both bounds are exclusive. Instances are judged from the most to the least confident, each against those that were kept:
    what has itself been dropped drops nothing. So of A over B over C, where only neighbours overlap, A and C stay: a box that
    lies across two objects does not make one of them a duplicate of the other. Of equal confidences the one given first
    counts as the more confident. A box without area overlaps nothing.
    """
    for name, value in (("overlap", overlap), ("sure", sure)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}: expected 0 .. 1, got {value!r}")
    ordered = instances[np.argsort(-instances.scores, kind="stable")]
    shared = overlap_of_smaller(ordered.boxes)
    kept: list[int] = []
    for i, label in enumerate(ordered.labels):
        # float32 against float32: a confidence that was stored as 0.98 is not more than 0.98.
        if ordered.scores[i] > np.float32(sure) or not any(ordered.labels[k] == label and shared[i, k] > overlap for k in kept):
            kept.append(i)
    return ordered[np.array(kept, np.intp)]


def overlap_of_smaller(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, N) area of the intersection of boxes x0, y0, x1, y1 over that of the smaller of the two; 0 where it has none."""
    b = boxes.astype(np.float64)
    least = np.maximum(b[:, None, :2], b[None, :, :2])
    most = np.minimum(b[:, None, 2:], b[None, :, 2:])
    shared = np.clip(most - least, 0, None).prod(-1)
    area = (b[:, 2:] - b[:, :2]).prod(-1)
    smaller = np.minimum(area[:, None], area[None, :])
    result: NDArray[np.float64] = np.divide(shared, smaller, out=np.zeros_like(shared), where=smaller > 0)
    return result
