"""The rule of A.3 that removes instances that were found twice."""

from __future__ import annotations

import numpy as np

from chorus.boxes import overlap_of_smaller
from chorus.errors import InputError
from chorus.frontend.stages import Instances


def without_duplicates(instances: Instances, overlap: float = 0.8, sure: float = 0.98) -> Instances:
    """The instances without those that repeat another one of the same label, most confident first (A.3).

    Of two boxes with one label whose intersection is more than ``overlap`` of the smaller box's area, the less confident one is
    dropped, unless its confidence is more than ``sure``. Both bounds are exclusive, in 0 .. 1; InputError for others.

    Instances are judged from the most to the least confident, each against those that were kept: a dropped one drops no other.
    So of A, B, C in this order, where B overlaps A and C, A and C stay: a box that lies across two objects does not make one
    of them a duplicate of the other. Of equal confidences the one given first counts as the more confident. A box without
    area overlaps nothing.
    """
    for name, value in (("overlap", overlap), ("sure", sure)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}: expected 0 .. 1, got {value!r}")
    ordered = instances[np.argsort(-instances.scores, kind="stable")]
    shared = overlap_of_smaller(ordered.boxes[:, None], ordered.boxes[None])
    kept: list[int] = []
    for i, label in enumerate(ordered.labels):
        # float32 against float32: a confidence that was stored as 0.98 is not more than 0.98.
        if ordered.scores[i] > np.float32(sure) or not any(ordered.labels[k] == label and shared[i, k] > overlap for k in kept):
            kept.append(i)
    return ordered[np.array(kept, np.intp)]
