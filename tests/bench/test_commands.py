"""Every command of the suite says what it takes, and ``bench/README.md`` leaves nothing out."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
COMMANDS = sorted(path.stem for path in BENCH.glob("*.py") if 'if __name__ == "__main__"' in path.read_text())
NEEDS_TRITON = {"first_contact", "static"}
ANOTHER_TRITON = {"culling"}
"""Switches Triton's interpreter on when it is imported, for the whole process."""


@pytest.mark.parametrize("command", sorted({*COMMANDS} - ANOTHER_TRITON))
def test_help_is_shown(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if command in NEEDS_TRITON:
        pytest.importorskip("triton")
    with pytest.raises(SystemExit) as shown:
        importlib.import_module(f"bench.{command}").main(["--help"])
    assert shown.value.code == 0
    name = "bench" if command == "__main__" else f"bench.{command}"
    assert capsys.readouterr().out.startswith(f"usage: python -m {name} [-h]")


def test_the_guide_names_every_file_and_nothing_that_is_not_there() -> None:
    text = (BENCH / "README.md").read_text()
    names = set(re.findall(r"`(?:\w+/)?(\w+\.(?:py|sh))`", text))
    told = {path.name for path in (*BENCH.glob("bench_*.py"), *BENCH.glob("harness/[!_]*.py"), *BENCH.glob("*.sh"))}
    assert names == told | {"conftest.py"}
    commands = set(re.findall(r"\| `python -m bench\.(\w+)", text))
    assert commands == {*COMMANDS} - {"__main__"}
