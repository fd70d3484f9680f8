"""How much of what takes long is tested: by ``make test`` a part, by ``make soak`` all."""

from __future__ import annotations

import os

SOAK = os.environ.get("CHORUS_SOAK") == "1"
"""Whether every target, world and moment is tried, and not only those that differ most."""
