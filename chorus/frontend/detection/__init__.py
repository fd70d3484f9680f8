"""Finding people and objects with boxes and masks."""

from __future__ import annotations

from chorus.frontend.registry import StageInfo

STAGES: tuple[StageInfo, ...] = ()
