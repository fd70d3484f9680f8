"""What users install: the source distribution, the wheel and the editable installation hold the same, whole library."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    *("LICENSE", "MANIFEST.in", "Makefile", "README.md", "constraints.txt", "pyproject.toml", "setup.py"),
    *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", ".pre-commit-config.yaml", ".ci", ".github"),
    *("bench", "chorus", "docs", "kernels", "notebooks", "tests", "tools"),
)
JUNK = shutil.ignore_patterns("__pycache__", "*.egg-info")
DATA = ("chorus/data/mannequin.npz", "chorus/data/report.html", "chorus/data/view3d.js")
KINDS = ("wheel", "wheel from sdist", "editable")


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, env={**os.environ, **variables}
    )


def succeed(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = run(*command, cwd=cwd, **variables)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, in a folder with a space: builds leave files behind, and must not find older ones."""
    copy = tmp_path_factory.mktemp("check out") / "chorus engine"
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=JUNK)
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source distribution, the wheel built from it, and the wheel built from the checkout."""
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir")
    first, second = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("dist")
    succeed(*build, first, source, cwd=first)
    succeed(*build, second, "--wheel", source, cwd=second)
    (sdist,), (from_sdist,), (wheel,) = first.glob("*.tar.gz"), first.glob("*.whl"), second.glob("*.whl")
    return {"sdist": sdist, "wheel from sdist": from_sdist, "wheel": wheel}


@pytest.fixture(scope="module", params=KINDS)
def installed(
    request: pytest.FixtureRequest, built: dict[str, Path], source: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """(the folder it is installed into, the folder that its modules must come from), one for each kind."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--target", target)
    if request.param == "editable":
        succeed(*pip, "--editable", source, cwd=target)
        return target, source
    succeed(*pip, built[request.param], cwd=target)
    return target, target


def python(target: Path, code: str) -> str:
    """Run code where the project comes from ``target`` alone, and only what it depends on from the environment.

    -S keeps the environment's own installation of the project out: its links (.pth files) are not followed.
    """
    dependencies = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    start = f"import site, sys; site.addsitedir({str(target)!r}); sys.path += {dependencies!r}\n"
    return succeed(sys.executable, "-I", "-S", "-c", start + code, cwd=target)


def package_files(folder: Path) -> dict[str, str]:
    """Path -> digest of each file of the package in a checkout, following the link chorus/kernels."""
    found = {}
    for parent, _, names in os.walk(folder / "chorus", followlinks=True):
        for path in (Path(parent, name) for name in names):
            if "__pycache__" not in path.parts:
                found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def wheel_files(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def wheel_text(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (path for path in archive.namelist() if path.endswith(f".dist-info/{name}"))
        return archive.read(path).decode()


def metadata(wheel: Path) -> Message:
    return Parser().parsestr(wheel_text(wheel, "METADATA"))


def test_sdist_holds_the_kernels_as_files_and_only_once(built: dict[str, Path], source: Path) -> None:
    with tarfile.open(built["sdist"]) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if not (member.isfile() or member.isdir())]
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    assert set(package_files(source)) <= names
    assert {"LICENSE", "Makefile", "constraints.txt", "pyproject.toml", "setup.py", "tests/test_install.py"} <= names
    assert {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "docs/README.md", ".github/workflows/ci.yml", ".ci/run"} <= names
    assert {"notebooks/first_steps.ipynb", "notebooks/benchmark_kernels.ipynb"} <= names
    assert not {name for name in names if name.startswith("kernels/") or "__pycache__" in name}


@pytest.mark.parametrize("kind", ["wheel", "wheel from sdist"])
def test_wheel_holds_the_whole_package_and_nothing_else(built: dict[str, Path], source: Path, kind: str) -> None:
    files = wheel_files(built[kind])
    expected = package_files(source)
    assert {"chorus/kernels/reference/votes.py", "chorus/py.typed", *DATA} <= set(expected)
    assert {name: digest for name, digest in files.items() if ".dist-info/" not in name} == expected
    assert wheel_text(built[kind], "top_level.txt").split() == ["chorus"]


def test_wheels_from_checkout_and_sdist_are_equal(built: dict[str, Path]) -> None:
    assert wheel_files(built["wheel"]) == wheel_files(built["wheel from sdist"])


def test_metadata(built: dict[str, Path], source: Path) -> None:
    about = metadata(built["wheel"])
    assert about["Name"] == "chorus-hoi"
    assert f'__version__ = "{about["Version"]}"' in (source / "chorus" / "_version.py").read_text()
    assert about["Requires-Python"] == ">=3.10"
    licences = set(about.get_all("License-File", []))
    assert licences == {"LICENSE", *(f"chorus/data/{path.name}" for path in (source / "chorus/data").glob("LICENSE-*"))}
    assert any(licence.startswith("chorus/data/") for licence in licences)
    required = [line for line in about.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [line for line in required if line.startswith(("triton", "smplx", "kernels", "transformers"))]


def test_installed_library_works_outside_the_checkout(installed: tuple[Path, Path]) -> None:
    target, origin = installed
    out = python(
        target,
        """
import importlib, importlib.machinery, pkgutil, chorus, chorus.kernels
for module in pkgutil.walk_packages(chorus.kernels.__path__, "chorus.kernels."):
    if not module.name.startswith("chorus.kernels.gpu."):  # these need the optional package triton
        importlib.import_module(module.name)
print(chorus.load_body().num_joints)
print(importlib.util.find_spec("kernels"))
for name, module in sorted(sys.modules.items()):
    if name.split(".")[0] == "chorus":
        print(module.__file__)
""",
    )
    joints, top_level, *files = out.splitlines()
    assert joints == "24"
    assert top_level == "None"
    assert any(Path(file).match("chorus/kernels/reference/votes.py") for file in files)
    assert not [file for file in files if not Path(file).is_relative_to(origin)]


def test_installed_command_answers(installed: tuple[Path, Path]) -> None:
    target, _ = installed
    out = python(
        target,
        """
from importlib.metadata import distribution
(script,) = distribution("chorus-hoi").entry_points.select(group="console_scripts")
sys.argv = [script.name, "--help"]
script.load()()
""",
    )
    assert out.startswith("Usage: chorus ")


def test_type_checker_sees_the_installed_kernels(built: dict[str, Path], tmp_path: Path) -> None:
    succeed(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        tmp_path / "site",
        built["wheel"],
        cwd=tmp_path,
    )
    (tmp_path / "use.py").write_text("from chorus.kernels import masks\n\nreveal_type(masks.__file__)\nmasks.no_such()\n")
    # Without the environment's packages mypy reads this library alone, which is all that is asked for and takes seconds.
    options = ("--strict", "--no-site-packages", "--follow-imports=silent", "--config-file=", "--cache-dir", os.devnull)
    done = run(sys.executable, "-m", "mypy", *options, "use.py", cwd=tmp_path, MYPYPATH=str(tmp_path / "site"))
    *_, no_such, summary = done.stdout.splitlines()
    assert 'Module has no attribute "no_such"' in no_such, done.stdout + done.stderr
    assert summary.startswith("Found 1 error in 1 file"), done.stdout


def test_a_checkout_without_symbolic_links_is_refused(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "copy", symlinks=True)
    (tmp_path / "copy" / "chorus" / "kernels").unlink()
    (tmp_path / "copy" / "chorus" / "kernels").write_text("../kernels")  # what git writes where links are not allowed
    done = run(sys.executable, "setup.py", "--version", cwd=tmp_path / "copy")
    assert done.returncode != 0
    assert "core.symlinks true" in done.stderr
