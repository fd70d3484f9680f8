"""What the detectors have in common: categories by name, pictures of one size at a time."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.frontend.batching import BatchLimit, in_batches
from chorus.frontend.stages import PERSON, Instances, Picture

_R = TypeVar("_R")

TO_DETECT = 16
"""Most pictures of a first batch. Ten times as many are hardly faster, and the next stage waits for them."""


def nothing(picture: Picture) -> Instances:
    """No instances."""
    return Instances(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), (), np.zeros((0, *picture.size), np.bool_))


def by_confidence(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], labels: Sequence[str], masks: NDArray[np.bool_]
) -> Instances:
    """Instances, most confident first, those without a mask or an area left out."""
    scores = np.clip(scores, 0, 1)  # half precision overshoots
    order = np.argsort(-scores, kind="stable")
    area = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf)
    return Instances(boxes, scores, tuple(labels), masks)[order[((area > 0) & masks.any((1, 2)))[order]]]


def same_name(name: str) -> str:
    """A category's name for comparing: "Sports_Ball" and "sports ball" are one."""
    return " ".join(name.lower().replace("_", " ").split())


def find_category(category: str, names: Sequence[str], source: str) -> int:
    """The number of a category among the names. InputError, naming the nearest ones, where it is none of them."""
    known = [same_name(name) for name in names]
    wanted = same_name(category)
    if wanted in known:
        return known.index(wanted)
    near = difflib.get_close_matches(wanted, known, 5, 0.6)
    # "ball" is near "sports ball" to a reader, though not by letters.
    near += [name for name in known if set(wanted.split()) & set(name.split()) and name not in near][:5]
    hint = f"did you mean {', '.join(repr(name) for name in near[:5])}?" if near else f"as {', '.join(known[:8])}, ..."
    raise InputError(f"category: expected one of the {len(names)} of {source}, got {category!r}; {hint}")


def refuse_person(category: str) -> None:
    """InputError for a category that cannot be told from people."""
    if same_name(category) in (PERSON, ""):
        raise InputError(f"category: expected a kind of object, got {category!r}")


def of_one_size(
    pictures: Sequence[Picture], detect: Callable[[Sequence[Picture]], Sequence[_R]], limit: BatchLimit
) -> list[_R]:
    """``detect`` on batches of pictures of one size, the results in the order of the pictures.

    Models are given pictures of several sizes with padding, which they look at: what is found in a picture would depend on
    the others of its batch.
    """
    sizes: dict[tuple[int, int], list[int]] = {}
    for i, picture in enumerate(pictures):
        sizes.setdefault(picture.size, []).append(i)
    results: dict[int, _R] = {}
    for rows in sizes.values():
        results.update(zip(rows, in_batches([pictures[i] for i in rows], detect, limit), strict=True))
    return [results[i] for i in range(len(pictures))]
