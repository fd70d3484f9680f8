"""``python -m chorus.frontend.blazepose``: fetch the weights once, and print where they are."""

from __future__ import annotations

import sys

from chorus.errors import InputError
from chorus.frontend.blazepose.weights import fetch


def main() -> int:
    """Fetch the weights. Returns the exit code: 0, or 2 where they cannot be had."""
    try:
        print(f"wrote {fetch()}: BlazePose (full), Apache-2.0, from mediapipe's wheel")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
