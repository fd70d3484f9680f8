"""From what the stages found in a batch of images to rows of a store, with the scores that filters judge (A.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chorus.boxes import overlap_of_first, overlap_of_smaller
from chorus.camera.cameras import Cameras
from chorus.frontend.stages import COCO_KEYPOINTS, PERSON, Human, ImageRequest, Instances, Picture
from chorus.images import ImageBatch
from chorus.kernels.masks import PackedMasks
from chorus.store import COMPLETE, StoreWriter

TORSO = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
"""Keypoints whose confidences are scores of their own."""


@dataclass
class Candidate:
    """One image on its way: what the stages have found so far, and why it went no further ("" while it goes on)."""

    request: ImageRequest
    picture: Picture | None = None
    reason: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    person: Instances | None = None
    thing: Instances | None = None
    keypoints: NDArray[np.float32] | None = None
    human: Human | None = None
    camera: Cameras | None = None
    residual_px: float = float("nan")

    @property
    def size(self) -> tuple[int, int]:
        """Height, width in pixels; 0, 0 without a picture."""
        return (0, 0) if self.picture is None else self.picture.size


def take_instances(candidate: Candidate, found: Instances, category: str) -> None:
    """Keep the person and the object where there is one of each; else say which of them is missing, or is several."""
    persons, things = found.of(PERSON), found.of(category)
    scores = candidate.scores
    scores["person_count"], scores["object_count"] = float(len(persons)), float(len(things))
    if len(persons):
        scores["person_confidence"] = float(persons.scores.max())
    if len(things):
        scores["object_confidence"] = float(things.scores.max())
    for name, instances, plural in (("person", persons, "people"), ("object", things, "objects")):
        if len(instances) != 1:
            candidate.reason = f"several {plural}" if len(instances) else f"no {name}"
            return
    if not things.masks.any():
        candidate.reason = "no object"
        return
    candidate.person, candidate.thing = persons, things
    box, person_box = things.boxes[0], persons.boxes[0].astype(np.float64)
    scores["overlap"] = float(overlap_of_first(box, person_box))
    scores["overlap_smaller"] = float(overlap_of_smaller(box, person_box))
    scores["person_side"] = float((person_box[2:] - person_box[:2]).max())


def take_keypoints(candidate: Candidate, keypoints: NDArray[np.float32]) -> None:
    """Keep the keypoints (17, 3); those of the torso also as scores: their confidence, 0 outside the image (A.3)."""
    candidate.keypoints = keypoints
    height, width = candidate.size
    x, y, confidence = keypoints.T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    for name in TORSO:
        i = COCO_KEYPOINTS.index(name)
        candidate.scores[f"keypoint_{name}"] = float(confidence[i]) if inside[i] else 0.0


def append(writer: StoreWriter, candidates: Sequence[Candidate], estimator: str, person_masks: bool) -> None:
    """Add the rows of a batch: those with mask, pose and camera as complete, the others with the reason."""
    for betas in sorted({_betas(c) for c in candidates if not c.reason}):
        _append_complete(writer, [c for c in candidates if not c.reason and _betas(c) == betas], estimator, person_masks)
    rejected = [c for c in candidates if c.reason]
    if rejected:
        writer.append_rejected(
            [c.request.key for c in rejected],
            [c.reason for c in rejected],
            prompts=[c.request.prompt for c in rejected],
            views=[c.request.view for c in rejected],
            seeds=[c.request.seed for c in rejected],
            sizes=[c.size for c in rejected],
            scores=_scores(rejected),
        )


def _betas(candidate: Candidate) -> int:
    """Number of shape coefficients; those of one call must have as many."""
    human = candidate.human
    return 0 if human is None or human.betas is None else len(human.betas)


def _append_complete(writer: StoreWriter, rows: Sequence[Candidate], estimator: str, person_masks: bool) -> None:
    humans = [c.human for c in rows if c.human is not None]
    cameras = [c.camera for c in rows if c.camera is not None]
    things = [c.thing for c in rows if c.thing is not None]
    persons = [c.person for c in rows if c.person is not None]
    joined = Cameras(*(np.concatenate([getattr(camera, name) for camera in cameras]) for name in ("R", "t", "K", "image_size")))
    batch = ImageBatch(
        PackedMasks.pack([thing.masks[0] for thing in things]),
        joined,
        np.stack([human.pose for human in humans]),
        [c.request.key for c in rows],
        prompts=[c.request.prompt for c in rows],
    )
    betas = [human.betas for human in humans if human.betas is not None]
    writer.append(
        batch,
        views=[c.request.view for c in rows],
        seeds=[c.request.seed for c in rows],
        scores=_scores(rows),
        status=COMPLETE,
        betas=np.stack(betas) if betas else None,
        residual_px=[c.residual_px for c in rows],
        estimators=[human.estimator or estimator for human in humans],
        person_masks=PackedMasks.pack([person.masks[0] for person in persons]) if person_masks else None,
    )


def _scores(rows: Sequence[Candidate]) -> dict[str, NDArray[np.float32]]:
    """Scores that any of the rows has, NaN where a row lacks one; ``keypoints`` (n, 51) are x, y, confidence of each."""
    names = sorted({name for c in rows for name in c.scores})
    columns = {name: np.array([c.scores.get(name, np.nan) for c in rows], np.float32) for name in names}
    if any(c.keypoints is not None for c in rows):
        none = np.full((len(COCO_KEYPOINTS), 3), np.nan, np.float32)
        columns["keypoints"] = np.stack([none if c.keypoints is None else c.keypoints for c in rows]).reshape(len(rows), -1)
    return columns
