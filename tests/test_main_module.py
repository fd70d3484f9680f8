"""``python -m chorus`` is the command ``chorus``: the same words, the same exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import chorus

ROOT = Path(__file__).resolve().parent.parent


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "chorus", *arguments], cwd=ROOT, capture_output=True, text=True)


def test_it_answers_as_the_command_does() -> None:
    done = command("--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"version {chorus.__version__}")
    done = command("body", "info", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hash"] == chorus.load_body().hash


def test_it_fails_as_the_command_does(tmp_path: Path) -> None:
    done = command("aggregate", str(tmp_path / "none.chorus"), "-o", str(tmp_path / "a.h5"))
    assert done.returncode == 2
    assert "none.chorus" in done.stderr
    assert "Traceback" not in done.stderr
