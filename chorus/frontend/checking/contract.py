"""Whether what a stage gives is what ``chorus.frontend.stages`` says, for one picture: types, shapes, dtypes, bounds, order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chorus.body.model import Body
from chorus.errors import InputError
from chorus.frontend.stages import PERSON, Human, ImageRequest, Instances, Picture, Refusal
from chorus.keypoints import COCO_KEYPOINTS
from chorus.texts import counted


class ContractError(InputError):
    """A stage gave something else than its kind must give."""


def prompts(found: Any, count: int) -> str:
    """What obeys, in words: at most ``count`` different texts, at least one. ContractError for anything else."""
    if isinstance(found, str) or not isinstance(found, Sequence):
        raise ContractError(f"expected a list of texts, got {_what(found)}")
    others = [item for item in found if not isinstance(item, str)]
    if others:
        raise ContractError(f"expected a list of texts, got {_what(others[0])} in it")
    if not 1 <= len(found) <= count:
        raise ContractError(f"expected 1 to {count} prompts, got {len(found)}")
    if len(set(found)) < len(found) or not all(text.strip() for text in found):
        raise ContractError(f"expected different texts that are not empty, got {list(found)}")
    return f"{counted(len(found), 'text')}, different, none empty"


def image(found: Any, request: ImageRequest) -> str:
    """What obeys, in words: one Picture of the request, or a Refusal. ContractError for anything else."""
    made = _one(found, (Picture, Refusal))
    if isinstance(made, Refusal):
        return "a Refusal"
    if made.request != request:
        raise ContractError(f"expected a picture of the request {request}, got one of {made.request}")
    return f"a Picture, {_array(made.pixels)}"


def instances(found: Any, picture: Picture, category: str) -> str:
    """What obeys, in words: one Instances of people and ``category``, sized as the picture. ContractError for all else."""
    got = _one(found, (Instances,))
    wrong = sorted({str(label) for label in got.labels} - {PERSON, category})
    if wrong:
        raise ContractError(f"expected the labels {PERSON!r} and {category!r}, got {wrong[0]!r}")
    if got.masks.shape[1:] != picture.size:
        raise ContractError(f"expected masks of height, width {picture.size}, as the picture, got {got.masks.shape[1:]}")
    if (np.diff(got.scores) > 0).any():
        raise ContractError(f"expected the most confident first, got scores {got.scores.tolist()}")
    return f"Instances, boxes {_array(got.boxes)}, scores {_array(got.scores)}, masks {_array(got.masks)}"


def keypoints(found: Any) -> str:
    """What obeys, in words: (1, 17, 3) float32, finite, confidence in 0..1. ContractError for anything else."""
    shape = (1, len(COCO_KEYPOINTS), 3)
    if not isinstance(found, np.ndarray):
        raise ContractError(f"expected an array of shape {shape}, got {_what(found)}")
    if found.shape != shape or found.dtype != np.float32:
        raise ContractError(f"expected float32 of shape {shape}, got {found.dtype} of shape {found.shape}")
    if not np.isfinite(found).all():
        raise ContractError(f"expected finite numbers, got {found[~np.isfinite(found)][0]}")
    confidence = found[..., 2]
    if confidence.min() < 0 or confidence.max() > 1:
        raise ContractError(f"expected confidences in 0 .. 1, got {confidence.min():g} .. {confidence.max():g}")
    return f"{_array(found)}, confidences in 0..1"


def human(found: Any, body: Body) -> str:
    """What obeys, in words: one Human with the body's joints, or a Refusal. ContractError for anything else."""
    got = _one(found, (Human, Refusal))
    if isinstance(got, Refusal):
        return "a Refusal"
    if len(got.pose) != body.num_joints:
        raise ContractError(f"expected a pose of {body.num_joints} joints, as the body has, got {len(got.pose)}")
    where = "a camera" if got.joints is None else f"joints {_array(got.joints)}"
    return f"a Human, pose {_array(got.pose)}, orientation {_array(got.orientation)}, {where}"


def _one(found: Any, kinds: tuple[type[Any], ...]) -> Any:
    """The one result for one picture. ContractError for another number or type of results."""
    expected = " or ".join(kind.__name__ for kind in kinds)
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise ContractError(f"expected a sequence with one {expected}, got {_what(found)}")
    if len(found) != 1:
        raise ContractError(f"expected one result for one picture, got {len(found)}")
    if not isinstance(found[0], kinds):
        raise ContractError(f"expected {expected}, got {_what(found[0])}")
    return found[0]


def _array(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}"


def _what(value: Any) -> str:
    """A value in a message: an array's dtype and shape, else its type."""
    name = type(value).__name__
    article = "an" if name[0] in "AEIOUaeiou" else "a"
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else f"{article} {name}"
