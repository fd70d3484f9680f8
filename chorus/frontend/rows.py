"""From what the stages found in a batch of images to rows of a store, with the scores that filters judge (A.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chorus.boxes import overlap_of_first, overlap_of_smaller
from chorus.camera.cameras import Cameras
from chorus.frontend.stages import PERSON, Human, ImageRequest, Instances, Picture
from chorus.images import ImageBatch
from chorus.kernels.masks import PackedMasks
from chorus.keypoints import COCO_KEYPOINTS
from chorus.pose_fit.layouts import LIMBS
from chorus.store import COMPLETE, StoreWriter

TORSO = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
"""The keypoints whose confidences are scores of their own, for the torso rule (A.3)."""


@dataclass
class PendingRow:
    """A row of the store while its image goes through the stages: what they have found so far.

    reason       why the image went no further; "" while it goes on
    scores       name in the store, without ``score/`` -> value
    keypoints    (17, 3) x, y in pixels, confidence
    residual_px  mean reprojection distance of the camera fit, pixels; NaN where nothing was fitted
    kept         the picture that the store is to keep, as ``StoreWriter.append`` takes it; None: none
    """

    request: ImageRequest
    picture: Picture | None = None
    reason: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    person: Instances | None = None
    object: Instances | None = None
    keypoints: NDArray[np.float32] | None = None
    human: Human | None = None
    camera: Cameras | None = None
    residual_px: float = float("nan")
    kept: NDArray[np.uint8] | bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height, width in pixels; 0, 0 without a picture."""
        return (0, 0) if self.picture is None else self.picture.size


def take_instances(row: PendingRow, found: Instances, category: str) -> None:
    """Keep the person and the object where there is one of each; else the reason says which is missing or found twice."""
    persons, objects = found.of(PERSON), found.of(category)
    scores = row.scores
    scores["person_count"], scores["object_count"] = float(len(persons)), float(len(objects))
    if len(persons):
        scores["person_confidence"] = float(persons.scores.max())
    if len(objects):
        scores["object_confidence"] = float(objects.scores.max())
    for name, instances, plural in (("person", persons, "people"), ("object", objects, "objects")):
        if len(instances) != 1:
            row.reason = f"several {plural}" if len(instances) else f"no {name}"
            return
    if not objects.masks.any():
        row.reason = "no object"
        return
    row.person, row.object = persons, objects
    box, person_box = objects.boxes[0], persons.boxes[0].astype(np.float64)
    scores["overlap"] = float(overlap_of_first(box, person_box))
    scores["overlap_smaller"] = float(overlap_of_smaller(box, person_box))
    scores["person_side"] = float((person_box[2:] - person_box[:2]).max())


def take_keypoints(row: PendingRow, keypoints: NDArray[np.float32]) -> None:
    """Keep the keypoints (17, 3); those of the torso also as scores: their confidence, 0 outside the image (A.3)."""
    row.keypoints = keypoints
    height, width = row.size
    x, y, confidence = keypoints.T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    for name in TORSO:
        i = COCO_KEYPOINTS.index(name)
        row.scores[f"keypoint_{name}"] = float(confidence[i]) if inside[i] else 0.0


def take_human(row: PendingRow, human: Human) -> None:
    """Keep the 3D pose; whether each limb was seen also as scores ``limb_left_arm`` and so on, 1 or 0, where that is known."""
    row.human = human
    if human.limbs_seen is not None:
        for name, seen in zip(LIMBS, human.limbs_seen.tolist(), strict=True):
            row.scores[f"limb_{name}"] = float(seen)


def append(writer: StoreWriter, rows: Sequence[PendingRow], estimator: str, person_masks: bool) -> None:
    """Add the rows of a batch: those with mask, pose and camera as complete, the others with the reason."""
    for betas in sorted({_num_betas(row) for row in rows if not row.reason}):
        _append_complete(writer, [row for row in rows if not row.reason and _num_betas(row) == betas], estimator, person_masks)
    rejected = [row for row in rows if row.reason]
    if rejected:
        writer.append_rejected(
            [row.request.key for row in rejected],
            [row.reason for row in rejected],
            prompts=[row.request.prompt for row in rejected],
            views=[row.request.view for row in rejected],
            seeds=[row.request.seed for row in rejected],
            sizes=[row.size for row in rejected],
            scores=_scores(rejected),
            pictures=[row.kept for row in rejected],
        )


def _num_betas(row: PendingRow) -> int:
    """The number of a row's shape coefficients; rows appended by one call must have the same."""
    human = row.human
    return 0 if human is None or human.betas is None else len(human.betas)


def _append_complete(writer: StoreWriter, rows: Sequence[PendingRow], estimator: str, person_masks: bool) -> None:
    humans = [row.human for row in rows if row.human is not None]
    cameras = [row.camera for row in rows if row.camera is not None]
    objects = [row.object for row in rows if row.object is not None]
    persons = [row.person for row in rows if row.person is not None]
    joined = Cameras(*(np.concatenate([getattr(camera, name) for camera in cameras]) for name in ("R", "t", "K", "image_size")))
    batch = ImageBatch(
        PackedMasks.pack([found.masks[0] for found in objects]),
        joined,
        np.stack([human.pose for human in humans]),
        [row.request.key for row in rows],
        prompts=[row.request.prompt for row in rows],
        warn=False,  # the pipeline has looked at what the stages gave
    )
    betas = [human.betas for human in humans if human.betas is not None]
    writer.append(
        batch,
        views=[row.request.view for row in rows],
        seeds=[row.request.seed for row in rows],
        scores=_scores(rows),
        status=COMPLETE,
        betas=np.stack(betas) if betas else None,
        residual_px=[row.residual_px for row in rows],
        estimators=[human.estimator or estimator for human in humans],
        person_masks=PackedMasks.pack([person.masks[0] for person in persons]) if person_masks else None,
        pictures=[row.kept for row in rows],
    )


def _scores(rows: Sequence[PendingRow]) -> dict[str, NDArray[np.float32]]:
    """Scores that any of the rows has, NaN where a row lacks one; ``keypoints`` (n, 51) are x, y, confidence of each,
    ``joint_std`` (n, J) how uncertain each joint's rotation is, radians."""
    names = sorted({name for row in rows for name in row.scores})
    columns = {name: np.array([row.scores.get(name, np.nan) for row in rows], np.float32) for name in names}
    if any(row.keypoints is not None for row in rows):
        none = np.full((len(COCO_KEYPOINTS), 3), np.nan, np.float32)
        keypoints = np.stack([none if row.keypoints is None else row.keypoints for row in rows])
        columns["keypoints"] = keypoints.reshape(len(rows), -1)
    known = [None if row.human is None else row.human.joint_std for row in rows]
    if (some := next((std for std in known if std is not None), None)) is not None:
        unknown = np.full(len(some), np.nan)
        columns["joint_std"] = np.stack([unknown if std is None else std for std in known]).astype(np.float32)
    return columns
