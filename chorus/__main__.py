"""``python -m chorus``: the command ``chorus`` where a module is asked for, as by ``torchrun -m``."""

from __future__ import annotations

import sys

from chorus.cli import main

if __name__ == "__main__":
    sys.exit(main())
