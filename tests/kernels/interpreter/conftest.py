"""These tests run the Triton kernels in Triton's interpreter, in a process of their own (test_interpreter.py)."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        for item in items:
            if HERE in item.path.parents:  # the hook is given all tests of the run, not only those of this folder
                item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1; test_interpreter.py runs these"))


@pytest.fixture(autouse=True)
def _quiet() -> object:
    # numpy warns where the kernels divide by a depth of 0, which they may: the result is never used.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
