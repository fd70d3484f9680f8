"""Units of what stages give: theirs are the project's own word, but a stage may be anyone's, and may read anyone's files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chorus.frontend.rows import PendingRow
from chorus.units import UnitCheck

STAGES = ("detector", "keypoints", "humans")
"""The stages whose results are numbers with a unit."""


class StageUnits:
    """What of the stages' results can hardly be in metres, radians and pixels. Each stage may run in a thread of its own."""

    def __init__(self) -> None:
        self._checks = {stage: UnitCheck() for stage in STAGES}

    def look_at(self, stage: str, rows: Sequence[PendingRow]) -> None:
        """Check what a stage has found in the images of a batch, and warn at the first of a kind: before hours of work."""
        for row in rows:
            if not row.reason:
                _CHECKS[stage](row, self._checks[stage])
        self._checks[stage].warn()

    def finish(self) -> list[str]:
        """Warn of what was found more often since, and give all sentences."""
        for check in self._checks.values():
            check.warn(again=True)
        return [sentence for check in self._checks.values() for sentence in check.sentences()]


def _detector(row: PendingRow, units: UnitCheck) -> None:
    boxes = [found.boxes[:1].reshape(-1, 2) for found in (row.person, row.object) if found is not None]
    if boxes:
        units.pixels("detector: boxes", np.concatenate(boxes)[None], [row.size], [row.request.key])


def _keypoints(row: PendingRow, units: UnitCheck) -> None:
    if row.keypoints is not None:
        units.pixels("keypoints", row.keypoints[None, :, :2], [row.size], [row.request.key])


def _humans(row: PendingRow, units: UnitCheck) -> None:
    human, keys, size = row.human, [row.request.key], [row.size]
    if human is None:
        return
    units.poses("humans: pose", human.pose[None], keys)
    units.poses("humans: orientation", human.orientation[None, None], keys)
    if human.camera is not None:
        units.cameras("humans: camera", human.camera.t, human.camera.K, size, keys)
    if human.joints is not None:
        units.pixels("humans: joints", human.joints[None], size, keys)
    if human.crop_camera is not None:
        units.weak_cameras("humans: crop_camera", human.crop_camera[:1], keys)


_CHECKS = {"detector": _detector, "keypoints": _keypoints, "humans": _humans}
