"""A real photograph, and BlazePose's real weights where they can be had: fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chorus.errors import InputError
from chorus.frontend.blazepose.weights import fetch

SKIER = Path(__file__).parent / "data" / "000000000785.jpg"
"""425 x 640 px; its licence is in tests/data/README.md."""
SKIS = SKIER.with_name("000000000785-skis.png")
SKIER_BOX = (280.79, 44.73, 499.49, 391.41)
"""x0, y0, x1, y1 of the person in pixels, as COCO's annotators put it."""


@pytest.fixture(scope="session")
def real_weights() -> str:
    """The path of BlazePose's weights: CHORUS_BLAZEPOSE, or what the project fetches from PyPI once a machine."""
    pytest.importorskip("ai_edge_litert")
    path = os.environ.get("CHORUS_BLAZEPOSE")
    if path:
        return path
    try:
        fetch()
    except InputError as error:
        pytest.skip(f"no weights: CHORUS_BLAZEPOSE is not set, and {error}")
    return "full"
