"""The rules of A.3 by name: the score that each tests, when an image passes, and with what confidence."""

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

LIMBS = ("score/limb_left_arm", "score/limb_left_leg", "score/limb_right_arm", "score/limb_right_leg")
"""Whether each limb was seen by the 3D pose stage, 1 or 0; NaN where it does not say."""


@dataclass(frozen=True)
class Rule:
    """A predicate over one number for each image, its score.

    name     name in options, reports and files           what   the score, in words
    compare  "==", ">=" or "<=": an image passes where score <compare> threshold
    paper    the paper's threshold; None: not a rule of the paper, off by default
    least, most  range of thresholds, both included       top    greatest possible score, or infinity
    needs    columns that the score is computed from
    score    (columns, torso mode) -> (n,) float32, NaN where it is unknown
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
        """``value`` checked as a threshold of this rule; InputError for anything but a number in its range."""
        number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        if not number or not self.least <= value <= self.most:
            wanted = f"{self.least:g}" if self.least == self.most else f"a number from {self.least:g} to {self.most:g}"
            raise InputError(f"{self.name}: expected {wanted}, got {value!r}")
        return float(value)

    def missing(self, rows: Columns) -> list[str]:
        """The columns that the score needs and the rows lack."""
        return [name for name in self.needs if name not in rows]

    def passes(self, values: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
        """Which scores (n,) pass, (n,) bool; an unknown one (NaN) does not. Compared in float32, as scores are stored, so that
        a score of 0.7 passes a threshold of 0.7."""
        limit = np.float32(threshold)
        if self.compare == "==":
            return np.asarray(values == limit, np.bool_)
        return np.asarray(values >= limit if self.compare == ">=" else values <= limit, np.bool_)

    def confidence(self, values: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
        """Soft filtering: the confidence of scores x (n,) for a threshold t, (n,) float64 in 0..1, instead of pass or fail.

        ==  1 or 0.
        >=  piecewise linear through (0, 0), (t, 1/2) and (min(2 t, top), 1), constant beyond: an image at the threshold has
            half the weight of a certain one. With t = 1/2 and top = 1 it is the score itself.
        <=  max(1 - x / (2 t), 0): 1 at 0, 1/2 at the threshold, 0 from twice the threshold on.

        0 where the score is unknown.
        """
        if self.compare == "==":
            return self.passes(values, threshold).astype(np.float64)
        t, x = float(np.float32(threshold)), np.nan_to_num(values.astype(np.float64), nan=-np.inf, neginf=-np.inf)
        if self.compare == "<=":
            return np.where(np.isnan(values), 0.0, np.clip(1 - np.maximum(x, 0) / (2 * t), 0, 1))
        full = min(2 * t, self.top)
        return np.where(x >= full, 1.0, np.interp(x, [0.0, t, full], [0.0, 0.5, 1.0]) if full > t else _ramp_below(x, t))

    def requirement(self, threshold: float, torso_mode: str) -> str:
        """The condition as text, such as "torso >= 0.7 (any)"."""
        if self.least == self.most:
            return self.name
        return f"{self.name} {self.compare} {threshold:g}" + (f" ({torso_mode})" if self.name == "torso" else "")


def _ramp_below(x: NDArray[np.float64], t: float) -> NDArray[np.float64]:
    """Confidence below a threshold that is the greatest score, or 0: at most 1/2; scores that reach the threshold have 1."""
    return np.clip(x / (2 * t), 0, 0.5) if t > 0 else np.zeros_like(x)


def _column(name: str) -> Callable[[Columns, str], NDArray[np.float32]]:
    return lambda rows, _: np.asarray(rows[name], np.float32)


def _torso(rows: Columns, mode: str) -> NDArray[np.float32]:
    """Least confidence: of the better shoulder and the better hip ("any"), or of all four ("all").

    In "any", an unknown keypoint (NaN) leaves the score to the other one of its pair.
    """
    pairs = [[np.asarray(rows[name], np.float32) for name in names] for names in (SHOULDERS, HIPS)]
    of_pair = np.fmax if mode == "any" else np.minimum
    return np.asarray(np.minimum(of_pair(*pairs[0]), of_pair(*pairs[1])), np.float32)


def _limbs(rows: Columns, _: str) -> NDArray[np.float32]:
    """Share of arms and legs that were seen; unknown where any of the four is."""
    return np.asarray(sum(np.asarray(rows[name], np.float32) for name in LIMBS) / np.float32(4), np.float32)


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
        Rule("limbs", "share of arms and legs that the 3D pose saw", ">=", None, 0, 1, LIMBS, _limbs, 1),
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
"""The rules in the order in which an image is tested: detector, keypoints, 3D pose, camera."""


def rule(name: Any) -> Rule:
    """The rule of this name. InputError, which lists the names, for an unknown one."""
    if not isinstance(name, str) or name not in RULES:
        raise InputError(f"rule: expected one of {', '.join(RULES)}; got {name!r}")
    return RULES[name]
