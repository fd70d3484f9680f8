"""The shape of the code itself: who may import whom, old module paths, and functions that a reader can hold in mind."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chorus._moved import MOVED

ROOT = Path(__file__).parents[1]
MOST_ARGUMENTS, MOST_LINES = 12, 100

MUST_BE_LARGER: dict[str, str] = {}
"""file:function -> why it takes more arguments, or more lines, than others may."""


def functions() -> list[tuple[str, int, int]]:
    """(file:function, positional arguments without self, lines) of everything that is no test and no command's callback."""
    found = []
    for folder in ("chorus", "kernels", "bench", "tools"):
        for path in sorted(p for p in (ROOT / folder).rglob("*.py") if "chorus/kernels" not in p.as_posix()):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.FunctionDef) or any("command" in ast.unparse(d) for d in node.decorator_list):
                    continue
                arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                found.append((f"{path.relative_to(ROOT).as_posix()}:{node.name}", len(arguments), lines))
    return found


def test_functions_are_of_a_size_that_can_be_read() -> None:
    found = functions()
    assert len(found) > 1000
    too_large = {name: (n, lines) for name, n, lines in found if n > MOST_ARGUMENTS or lines > MOST_LINES}
    assert {name: size for name, size in too_large.items() if name not in MUST_BE_LARGER} == {}
    assert MUST_BE_LARGER.keys() <= too_large.keys(), "these are small by now"


@pytest.mark.parametrize("old", MOVED)
def test_old_module_paths_are_the_modules_that_moved(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {MOVED[old]}"):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__name__ == MOVED[old]
    assert importlib.util.find_spec(MOVED[old]) is not None


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_planted_upward_import_fails_the_lint(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "*.npz")
    shutil.copytree(ROOT / "chorus", tmp_path / "chorus", ignore=ignored)  # the link to the kernels becomes their folder
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = lint(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    planted = tmp_path / "chorus" / "field.py"
    planted.write_text(planted.read_text() + "\n\ndef _up() -> None:\n    import chorus.occupancy.posed\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "chorus.field -> chorus.occupancy.posed" in done.stdout
    planted.write_text(planted.read_text().replace("import chorus.occupancy.posed", "pass"))
    sideways = tmp_path / "chorus" / "kernels" / "gpu" / "votes.py"
    sideways.write_text(sideways.read_text() + "\n\ndef _side() -> None:\n    import chorus.kernels.cpu.votes\n")
    assert "chorus.kernels.gpu.votes -> chorus.kernels.cpu.votes" in lint(tmp_path).stdout
