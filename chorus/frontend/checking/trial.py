"""A stage's work on the one picture, and what came of it in words. Each kind is given what a run gives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.boxes import iou
from chorus.errors import InputError
from chorus.frontend.checking import contract
from chorus.frontend.checking.picture import CheckPicture, request
from chorus.frontend.humans.pose_files import PosesFromFiles
from chorus.frontend.stages import PERSON, Human, Instances, Refusal
from chorus.frontend.synthesis.folder import FolderImages, folder_requests
from chorus.frontend.synthesis.loading import BROKEN
from chorus.texts import counted, shortened

PROMPTS = 3
"""How many prompts are asked for."""


@dataclass(frozen=True)
class Trial:
    """What a stage is to do, and how to look at what it gives.

    work      calls the stage once            given  what it is given, in words
    look      what came, as sentences, and what of it obeys the contract; ContractError where it does not
    """

    work: Callable[[], Any]
    given: str
    look: Callable[[Any], tuple[list[str], str]]


def trial(kind: str, stage: Any, shown: CheckPicture, category: str, body: Body) -> Trial:
    """The trial of a stage of one kind. InputError for a folder of pictures that has none."""
    picture, boxes = shown.picture, shown.person[None]
    height, width = picture.size
    given = f"one picture of {width} x {height}"
    if kind == "prompts":
        return Trial(
            lambda: stage.prompts(category, PROMPTS),
            f"the category {category!r}, {PROMPTS} prompts asked for",
            lambda found: _after(contract.prompts(found, PROMPTS), lambda: [repr(shortened(text, 100)) for text in found]),
        )
    if kind == "images":
        asked = folder_requests(Path(stage.root))[0] if isinstance(stage, FolderImages) else request()
        return Trial(
            lambda: stage.images([asked]),
            f"the file {asked.key!r}" if isinstance(stage, FolderImages) else f"the prompt {asked.text!r}",
            lambda found: _after(contract.image(found, asked), lambda: _told_image(found[0])),
        )
    if kind == "detector":
        return Trial(
            lambda: stage.detect([picture], category),
            f"{given}, person and {category!r}",
            lambda found: _after(contract.instances(found, picture, category), lambda: _told_instances(found[0], shown)),
        )
    if kind == "keypoints":
        return Trial(
            lambda: stage.keypoints([picture], boxes),
            f"{given} and the person's box",
            lambda found: _after(contract.keypoints(found), lambda: _told_keypoints(found[0], shown)),
        )
    return Trial(
        lambda: stage.humans([picture], boxes),
        f"{given} and the person's box",
        lambda found: _after(contract.human(found, body), lambda: _told_human(found[0], stage)),
    )


def _after(obeyed: str, told: Callable[[], list[str]]) -> tuple[list[str], str]:
    """What came is told only once it is known to obey."""
    return told(), obeyed


def _told_image(made: Any) -> list[str]:
    if isinstance(made, Refusal):
        if made == BROKEN:
            raise InputError("expected a picture of finite numbers, got others: try --dtype float32")
        return [f"refused: {made.reason}"]
    pixels: NDArray[np.uint8] = made.pixels
    height, width = made.size
    told = f"a picture of {width} x {height}, values from {pixels.min()} to {pixels.max()}, {pixels.mean():.0f} on average"
    return [told, *(["all of it has one colour"] if (pixels == pixels[0, 0]).all() else [])]


def _told_instances(found: Instances, shown: CheckPicture) -> list[str]:
    if len(found) == 0:
        return ["nothing: the picture is a drawing, which a model may not take for a person and a ball"]
    told = []
    for label in dict.fromkeys(found.labels):
        some = found.of(label)
        wanted, word = (shown.person, "person") if label == PERSON else (shown.ball, "ball")
        best = float(iou(some.boxes, wanted).max())
        scores = ", ".join(f"{score:.2f}" for score in some.scores[:5].tolist())
        more = ", ..." if len(some) > 5 else ""
        told.append(f"{len(some)} x {label} (scores {scores}{more}); IoU with the drawn {word}'s box {best:.2f} at best")
    return told


def _told_keypoints(found: NDArray[np.float32], shown: CheckPicture) -> list[str]:
    x, y, confidence = found.T
    x0, y0, x1, y1 = shown.person.tolist()
    inside = int(((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).sum())
    most = f"confidences from {confidence.min():.2f} to {confidence.max():.2f}"
    return [f"{counted(len(found), 'keypoint')}, {inside} of them inside of the drawn person's box, {most}"]


def _told_human(found: Human | Refusal, stage: Any) -> list[str]:
    if isinstance(found, Refusal):
        about = f" ({counted(len(stage), 'person', 'people')} in the files)" if isinstance(stage, PosesFromFiles) else ""
        return [f"refused: {found.reason}{about}"]
    angles = np.linalg.norm(found.pose, axis=1)
    turned = float(np.linalg.norm(found.orientation))
    return [f"a pose of {len(angles)} joints, the most turned one by {angles.max():.2f} rad; the person by {turned:.2f} rad"]
