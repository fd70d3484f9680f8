"""Finding a person's 3D pose."""

from __future__ import annotations

from chorus.frontend.registry import StageInfo

STAGES: tuple[StageInfo, ...] = ()
