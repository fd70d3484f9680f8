"""Thinking of interactions: servers, local language models, our own lists."""

from __future__ import annotations

from chorus.frontend.registry import StageInfo

STAGES: tuple[StageInfo, ...] = ()
