"""Finding a person's keypoints in the image."""

from __future__ import annotations

from chorus.frontend.registry import StageInfo

STAGES: tuple[StageInfo, ...] = ()
