"""The Triton kernels' interpreter tests, in a process of their own: there, nothing can be compiled any more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INTERPRETED = ("tests/kernels/interpreter", "tests/kernels/test_contract.py")


@pytest.mark.slow
def test_the_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "tests/kernels/interpreter",
            "tests/kernels/test_contract.py",
            "-q",
            "-p",
            "no:cacheprovider",
        ],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 15, done.stdout
    assert "skipped" not in done.stdout, done.stdout
