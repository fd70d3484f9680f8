"""What importing the library costs and touches, and that the folder kernels/ does not disturb those who own that name."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import chorus

ROOT = Path(__file__).resolve().parent.parent
OPTIONAL = (
    "triton",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "pycocotools",
    "smplx",
    "viser",
    "openai",
    "s3fs",
    "gcsfs",
)


def run(code: str, *path: Path, cwd: Path) -> Any:
    """The JSON that the code's last line prints, run in a Python of its own with ``path`` in front of sys.path."""
    start = f"import json, sys; sys.path[:0] = {[str(folder) for folder in path]!r}\n"
    done = subprocess.run([sys.executable, "-c", start + code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    """A folder where every optional package can be imported, so that an attempt to do so shows, installed or not."""
    for name in OPTIONAL:
        (tmp_path / "decoys" / name).mkdir(parents=True)
        (tmp_path / "decoys" / name / "__init__.py").write_text("")
    return tmp_path / "decoys"


WATCHED = (*OPTIONAL, "matplotlib")
LOADED = f"""
torch = sys.modules.get("torch")
cuda = torch is not None and torch.cuda.is_initialized()
print(json.dumps([sorted(set(sys.modules).intersection({WATCHED!r})), cuda, "torch" in sys.modules]))
"""


def test_import_alone_loads_no_framework(decoys: Path, tmp_path: Path) -> None:
    code = "import chorus, chorus.kernels"
    assert run(code + LOADED, decoys, ROOT, cwd=tmp_path) == [[], False, False]


def test_public_names_load_neither_optional_packages_nor_cuda(decoys: Path, tmp_path: Path) -> None:
    code = "import chorus\nfor name in chorus.__all__: getattr(chorus, name)"
    assert run(code + LOADED, decoys, ROOT, cwd=tmp_path) == [[], False, True]


def test_an_attempt_to_load_one_would_show(decoys: Path, tmp_path: Path) -> None:
    """The watch itself works: this is what the two tests above would see."""
    code = "import smplx, triton, matplotlib"
    assert run(code + LOADED, decoys, ROOT, cwd=tmp_path)[0] == ["matplotlib", "smplx", "triton"]


def test_public_names_and_choosing_a_backend_need_no_optional_package(tmp_path: Path) -> None:
    code = f"""
for name in {OPTIONAL!r}:
    sys.modules[name] = None  # importing it raises ImportError
import chorus
for name in chorus.__all__:
    getattr(chorus, name)
import chorus.kernels.backends
print(json.dumps(sorted(chorus.__all__)))
"""
    assert run(code, ROOT, cwd=tmp_path) == sorted(chorus.__all__)


def test_public_names_are_those_that_type_checkers_and_editors_see() -> None:
    tree = ast.parse((ROOT / "chorus" / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    inner = ("__future__", "typing", "chorus", "chorus._version")
    declared = {alias.name: node.module for node in imports for alias in node.names if node.module not in inner}
    assert set(chorus.__all__) - {"__version__"} == set(declared)
    for name, module in declared.items():
        assert getattr(chorus, name) is getattr(importlib.import_module(str(module)), name)
    assert set(chorus.__all__) <= set(dir(chorus))
    with pytest.raises(AttributeError, match="no_such_name"):
        chorus.no_such_name  # noqa: B018


def processor_seconds(*arguments: str) -> float:
    """The least that a Python with these arguments takes of a processor, in five runs: much the same on a busy machine."""
    found = []
    for _ in range(5):
        with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, arguments
        found.append(used.ru_utime + used.ru_stime)
    return min(found)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not count it")
@pytest.mark.parametrize(("arguments", "most"), [(("-c", "import chorus"), 0.2), (("-m", "chorus", "--help"), 0.5)])
def test_import_and_help_are_instant(arguments: tuple[str, ...], most: float) -> None:
    assert processor_seconds(*arguments) < most


# Hugging Face's `kernels` owns the top-level name. transformers asks for it by that name, and with a checkout as the
# working folder finds ours.


def test_the_folder_kernels_imports_nothing() -> None:
    code = "before = set(sys.modules)\nimport kernels\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    assert run(code, cwd=ROOT) == ["kernels"]


def test_no_distribution_of_ours_claims_the_name_kernels() -> None:
    assert "chorus-hoi" in importlib.metadata.packages_distributions()["chorus"]
    assert "chorus-hoi" not in importlib.metadata.packages_distributions().get("kernels", [])


PROBE = """
import importlib, importlib.metadata, importlib.util
from packaging.version import Version
assert importlib.util.find_spec("kernels").origin.endswith("__init__.py")
try:
    version = importlib.metadata.version("kernels")
except importlib.metadata.PackageNotFoundError:
    version = getattr(importlib.import_module("kernels"), "__version__", "N/A")
print(json.dumps([version, Version(version) >= Version("0.9.0")]))
"""


@pytest.mark.skipif("kernels" in importlib.metadata.packages_distributions(), reason="Hugging Face's kernels is installed here")
def test_the_question_transformers_asks_is_answered_no() -> None:
    """The question of transformers 5.0 to 5.5, which later releases ask with more care.

    They find the folder, find no distribution of that name, and read kernels.__version__, or "N/A" where there is none:
    and "N/A", as a version, raises. So ours must state one, older than any that they would take.
    """
    assert run(PROBE, cwd=ROOT)[1] is False


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_transformers_works_in_a_checkout() -> None:
    code = """
import transformers
from transformers.utils.import_utils import is_kernels_available
model = transformers.BertModel(transformers.BertConfig(
    vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
print(json.dumps([is_kernels_available(), model.config.hidden_size]))
"""
    assert run("import os; os.environ['HF_HUB_OFFLINE'] = '1'\n" + code, cwd=ROOT) == [
        "kernels" in importlib.metadata.packages_distributions(),
        8,
    ]
