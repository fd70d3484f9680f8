"""The rules of A.3 by name: what each looks at in the scores of a store, when an image passes, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError

Columns = Mapping[str, NDArray[Any]]
"""The columns of a store's rows, as ``chorus.store.TableColumns``, or a dictionary of arrays with the same names."""

TORSO_MODES = ("any", "all")
"""``any``: at least one shoulder and one hip (A.3); ``all``: both shoulders and both hips (3.2)."""

SHOULDERS = ("score/keypoint_left_shoulder", "score/keypoint_right_shoulder")
HIPS = ("score/keypoint_left_hip", "score/keypoint_right_hip")


@dataclass(frozen=True)
class Rule:
    """A predicate over one number an image, made of the columns ``needs``.

    name     by which it is set, reported and saved       what   the number, in words
    compare  "==", ">=" or "<=": how the number must stand to the threshold
    paper    the paper's threshold; None: not a rule of the paper, off unless asked for
    least, most  thresholds that make sense               top    the greatest value of the number, where it has one
    score    columns and the torso mode -> (n,) float32, NaN where it is not known
    """

    name: str
    what: str
    compare: str
    paper: float | None
    least: float
    most: float
    needs: tuple[str, ...]
    score: Callable[[Columns, str], NDArray[np.float32]]
    top: float = np.inf

    def threshold(self, value: Any) -> float:
        """A threshold for this rule; InputError for anything but a number that makes sense."""
        number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if not number or not self.least <= value <= self.most:
            wanted = f"{self.least:g}" if self.least == self.most else f"a number from {self.least:g} to {self.most:g}"
            raise InputError(f"{self.name}: expected {wanted}, got {value!r}")
        return float(value)

    def missing(self, rows: Columns) -> list[str]:
        """The columns that rows would need and do not have."""
        return [name for name in self.needs if name not in rows]

    def passes(self, values: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
        """Which numbers (n,) pass; an unknown one (NaN) does not. Compared in float32, as scores are kept: a score of 0.7
        written by anyone passes a threshold of 0.7."""
        limit = np.float32(threshold)
        if self.compare == "==":
            return np.asarray(values == limit, np.bool_)
        return np.asarray(values >= limit if self.compare == ">=" else values <= limit, np.bool_)

    def confidence(self, values: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
        """Soft filtering: how far numbers (n,) are to be believed, 0 to 1, where the rule proper says yes or no.

        ==  1 or 0.
        >=  through (0, 0), (t, 1/2) and (min(2 t, top), 1), straight between and level beyond: an image at the threshold counts
            half of one beyond doubt. With t = 1/2 and top = 1 it is the number itself.
        <=  1 - number / (2 t), at least 0: 1 at 0, 1/2 at the threshold, 0 from twice the threshold on.

        0 where the number is not known.
        """
        if self.compare == "==":
            return self.passes(values, threshold).astype(np.float64)
        t, x = float(np.float32(threshold)), np.nan_to_num(values.astype(np.float64), nan=-np.inf, neginf=-np.inf)
        if self.compare == "<=":
            return np.where(np.isnan(values), 0.0, np.clip(1 - np.maximum(x, 0) / (2 * t), 0, 1))
        full = min(2 * t, self.top)
        return np.where(x >= full, 1.0, np.interp(x, [0.0, t, full], [0.0, 0.5, 1.0]) if full > t else _below(x, t))

    def needed(self, threshold: float, torso_mode: str) -> str:
        """What an image must have, as in "torso >= 0.7 (any)"."""
        if self.least == self.most:
            return self.name
        return f"{self.name} {self.compare} {threshold:g}" + (f" ({torso_mode})" if self.name == "torso" else "")


def _below(x: NDArray[np.float64], t: float) -> NDArray[np.float64]:
    """The ramp where the threshold is the top, or 0: only what reaches it is beyond doubt."""
    return np.clip(x / (2 * t), 0, 0.5) if t > 0 else np.zeros_like(x)


def _column(name: str) -> Callable[[Columns, str], NDArray[np.float32]]:
    return lambda rows, _: np.asarray(rows[name], np.float32)


def _torso(rows: Columns, mode: str) -> NDArray[np.float32]:
    """The least of what is asked for: of the better shoulder and the better hip, or of all four.

    A keypoint that is not known is no keypoint: the other of its pair may still stand for both.
    """
    pairs = [[np.asarray(rows[name], np.float32) for name in names] for names in (SHOULDERS, HIPS)]
    of_pair = np.fmax if mode == "any" else np.minimum
    return np.asarray(np.minimum(of_pair(*pairs[0]), of_pair(*pairs[1])), np.float32)


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("one-person", "people found", "==", 1, 1, 1, ("score/person_count",), _column("score/person_count")),
        Rule("one-object", "objects found", "==", 1, 1, 1, ("score/object_count",), _column("score/object_count")),
        Rule(
            "person-confidence",
            "the detector's confidence in the person",
            ">=",
            None,
            0,
            1,
            ("score/person_confidence",),
            _column("score/person_confidence"),
            1,
        ),
        Rule(
            "object-confidence",
            "the detector's confidence in the object",
            ">=",
            None,
            0,
            1,
            ("score/object_confidence",),
            _column("score/object_confidence"),
            1,
        ),
        Rule(
            "overlap",
            "intersection of the boxes over the object's",
            ">=",
            0.1,
            0,
            1,
            ("score/overlap",),
            _column("score/overlap"),
            1,
        ),
        Rule(
            "overlap-smaller",
            "intersection of the boxes over the smaller one (COCO-EFT: 0.5)",
            ">=",
            None,
            0,
            1,
            ("score/overlap_smaller",),
            _column("score/overlap_smaller"),
            1,
        ),
        Rule(
            "person-side",
            "longer side of the person's box, pixels",
            ">=",
            None,
            0,
            1e6,
            ("score/person_side",),
            _column("score/person_side"),
        ),
        Rule("torso", "confidence of shoulders and hips inside the image", ">=", 0.7, 0, 1, (*SHOULDERS, *HIPS), _torso, 1),
        Rule("pose", "whether there is a 3D pose with a camera", "==", 1, 1, 1, ("has_camera",), _column("has_camera")),
        Rule(
            "residual",
            "mean reprojection distance of the camera fit, pixels",
            "<=",
            None,
            0.01,
            1e6,
            ("residual_px",),
            _column("residual_px"),
        ),
    )
}
"""In the order of the cascade: what the detector says, the keypoints, the 3D pose, the camera."""


def rule(name: Any) -> Rule:
    """The rule of this name. InputError, naming those there are, where there is none."""
    if not isinstance(name, str) or name not in RULES:
        raise InputError(f"rule: expected one of {', '.join(RULES)}; got {name!r}")
    return RULES[name]
