"""Triton's folder of compiled kernels is never needed: another one is found, and said once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]

COMPILES = """
import logging, os, resource, signal, sys
logging.basicConfig(format="%(message)s")
from chorus.kernels import backends
from chorus.kernels.gpu.compiled_code import folder

if len(sys.argv) > 1:  # a full disk: for a moment, no file can grow beyond this
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), before[1]))
backends.why_not_triton = lambda: None
backends.torch.version.hip = None
assert backends._choose("auto") == "triton"
assert backends._choose.cache_clear() is None and backends._choose("auto") == "triton"  # a second time nothing is said
if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

@triton.jit
def double(x, y):
    tl.store(y, tl.load(x) * 2)

made = triton.compile(ASTSource(double, {"x": "*fp32", "y": "*fp32"}), target=GPUTarget("cuda", 80, 32))
assert made.asm["ptx"]
assert list(folder().iterdir())
print(folder())
"""


def _run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script.write_text(COMPILES)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITON")}
    every = {**kept, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, str(script), *arguments], env=every, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("place", ["TRITON_CACHE_DIR", "HOME", "full"])
def test_kernels_are_compiled_without_a_place(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    if place == "full":
        done = _run(tmp_path / "work.py", "1000", TRITON_CACHE_DIR=str(tmp_path / "cache"))
    else:
        done = _run(tmp_path / "work.py", **{place: str(tmp_path / "file" / "below")})
    assert done.stderr.count("compiled GPU kernels are not cached") == 1, done.stderr
    assert "TRITON_CACHE_DIR names another folder" in done.stderr
    used = Path(done.stdout.strip())
    assert used.name.startswith("chorus-triton-")
    assert not used.exists()  # it went with the process


def test_a_place_that_can_be_written_to_is_used(tmp_path: Path) -> None:
    done = _run(tmp_path / "work.py", TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert done.stdout.strip() == str(tmp_path / "cache")
    assert "not cached" not in done.stderr
    assert list((tmp_path / "cache").iterdir())
