"""What the detectors share: categories by name, instances in order of confidence, batches of pictures of one size."""

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

COCO_CATEGORIES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant",
    "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra",
    "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork",
    "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut",
    "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 categories of COCO, in its order."""

_NAMES_OF_VOC = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""Names of Pascal VOC, by which some models trained on COCO call its categories -> COCO's."""

MOST_PICTURES = 16
"""Most pictures of a first batch. Ten times as many are hardly faster, and the next stage waits for them."""


def no_instances(picture: Picture) -> Instances:
    """The result for a picture in which nothing was found."""
    return Instances(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), (), np.zeros((0, *picture.size), np.bool_))


def by_confidence(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], labels: Sequence[str], masks: NDArray[np.bool_]
) -> Instances:
    """Instances, most confident first, without those whose mask is empty or whose box has no area.

    boxes  (N, 4) x0, y0, x1, y1 pixels      scores  (N,)      labels  N      masks  (N, H, W)
    """
    scores = np.clip(scores, 0, 1)  # half precision may exceed 1
    order = np.argsort(-scores, kind="stable")
    area = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf)
    return Instances(boxes, scores, tuple(labels), masks)[order[((area > 0) & masks.any((1, 2)))[order]]]


def same_name(name: str) -> str:
    """A category's name for comparing: "Sports_Ball" and "sports ball" are one, and so are "motorbike" and "motorcycle"."""
    plain = " ".join(name.lower().replace("_", " ").split())
    return _NAMES_OF_VOC.get(plain, plain)


def find_category(category: str, names: Sequence[str], source: str) -> int:
    """The index of a category among ``names``. InputError, naming similar ones of ``source``, where it is none of them."""
    known = [same_name(name) for name in names]
    wanted = same_name(category)
    if wanted in known:
        return known.index(wanted)
    near = difflib.get_close_matches(wanted, known, 5, 0.6)
    # "ball" is similar to "sports ball" for a reader, though not letter by letter.
    near += [name for name in known if set(wanted.split()) & set(name.split()) and name not in near][:5]
    hint = f"did you mean {', '.join(repr(name) for name in near[:5])}?" if near else f"as {', '.join(known[:8])}, ..."
    raise InputError(f"category: expected one of the {len(names)} of {source}, got {category!r}; {hint}")


def refuse_person(category: str) -> None:
    """InputError for a category without a name, or that is "person" itself."""
    if same_name(category) in (PERSON, ""):
        raise InputError(f"category: expected a kind of object, got {category!r}")


def of_one_size(
    pictures: Sequence[Picture], detect: Callable[[Sequence[Picture]], Sequence[_R]], limit: BatchLimit
) -> list[_R]:
    """``detect`` on batches of pictures of one size, the results in the order of the pictures.

    Pictures of several sizes would be padded, and models see the padding: what is found in a picture would depend on the
    other pictures of its batch.
    """
    sizes: dict[tuple[int, int], list[int]] = {}
    for i, picture in enumerate(pictures):
        sizes.setdefault(picture.size, []).append(i)
    results: dict[int, _R] = {}
    for rows in sizes.values():
        results.update(zip(rows, in_batches([pictures[i] for i in rows], detect, limit), strict=True))
    return [results[i] for i in range(len(pictures))]
