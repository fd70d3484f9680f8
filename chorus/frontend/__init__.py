"""From a category's name to a filled store: prompts, images, detection, keypoints, 3D pose, camera.

``synthesize`` does it all by one call. The stages are protocols (``chorus.frontend.stages``); their implementations are chosen
by name (``chorus.frontend.registry``) and imported only when they are used: this package needs no model library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chorus.frontend.job import PlanOptions as PlanOptions
    from chorus.frontend.job import StageChoices as StageChoices
    from chorus.frontend.job import plan_folder as plan_folder
    from chorus.frontend.job import plan_synthesis as plan_synthesis
    from chorus.frontend.job import synthesize as synthesize
    from chorus.frontend.registry import register as register
    from chorus.frontend.run import Settings as Settings
    from chorus.frontend.stage_info import StageInfo as StageInfo

_MODULE_OF = {
    "PlanOptions": "job",
    "Settings": "run",
    "StageChoices": "job",
    "StageInfo": "stage_info",
    "plan_folder": "job",
    "plan_synthesis": "job",
    "register": "registry",
    "synthesize": "job",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Load a name on first use: importing the package alone costs nothing."""
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"chorus.frontend.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'chorus.frontend' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
