"""Making images, or reading them from a folder."""

from __future__ import annotations

from chorus.frontend.registry import StageInfo

STAGES: tuple[StageInfo, ...] = ()
