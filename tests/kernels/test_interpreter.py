"""The Triton kernels' interpreter tests, in a process of their own: there, nothing can be compiled any more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("tests", "at_least"), [("tests/kernels/interpreter", 29), ("tests/kernels/test_contract.py", 12)])
def test_the_kernels_in_the_interpreter(tests: str, at_least: int) -> None:
    pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", tests, "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**environment, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= at_least, done.stdout
    assert "skipped" not in done.stdout, done.stdout
