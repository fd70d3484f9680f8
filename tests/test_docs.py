"""The documentation names what is there: paths, modules, functions, links and commands."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import click
import pytest

from chorus.cli import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "bench").glob("*.md")),
]
PATH = re.compile(r"(?<![\w./-])(?:chorus|kernels|bench|tests|tools|docs|\.ci|\.github)/(?:[\w./*-]*[\w*/])?")
DOTTED = re.compile(r"(?<![\w./-])chorus(?:\.[A-Za-z_]\w*)+")
ENTRY_POINTS = {"chorus.backends", "chorus.detectors", "chorus.humans", "chorus.keypoints", "chorus.prompts"}
"""Groups of entry points, which look like modules and are none."""

every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def text(page: Path) -> str:
    """A page without addresses of the web."""
    return re.sub(r"https?://\S+", "", page.read_text(encoding="utf-8"))


def is_there(path: str) -> bool:
    """In a checkout; or in a source distribution, where the kernels stand in the package alone."""
    return any(True for place in (ROOT, ROOT / "chorus") for _ in place.glob(path.rstrip("/")))


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one; fields of dataclasses count as well."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return part in getattr(found, "__annotations__", {})
            found = getattr(found, part)
        return True
    return False


@every_page
def test_paths_exist(page: Path) -> None:
    assert [path for path in sorted(set(PATH.findall(text(page)))) if not is_there(path)] == []


@every_page
def test_file_names_exist(page: Path) -> None:
    """Names of Python files without a folder, as tables list them: a file of the project has that name."""
    made_here = set(re.findall(r"# file: (\w+\.py)", text(page)))
    names = set(re.findall(r"`(\w+\.py)`", text(page))) - made_here
    folders = ("chorus", "bench", "tests", "tools", "chorus/kernels")
    files = {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")} | {p.name for p in ROOT.glob("*.py")}
    assert sorted(names - files) == []


@every_page
def test_modules_and_names_exist(page: Path) -> None:
    found = set(DOTTED.findall(text(page))) - ENTRY_POINTS
    assert [name for name in sorted(found) if not resolves(name)] == []


@every_page
def test_commands_that_are_modules_exist(page: Path) -> None:
    modules = sorted(set(re.findall(r"python -m (bench[\w.]*|chorus[\w.]*)", text(page))))
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def command_lines(page: str) -> list[str]:
    """What code blocks, fenced or indented, have a shell do with ``chorus``, a command each."""
    blocks = re.findall(r"^```\w*\n(.*?)^```|^(    \S[^\n]*\n)", page, re.M | re.S)
    lines = "".join(a or b for a, b in blocks).replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.split(r"[;|]", line.partition("#")[0])]
    return [part for part in parts if part.split()[:1] == ["chorus"]]


def wrong_commands(page: str) -> list[tuple[str, list[str]]]:
    """Commands that there are not, or not with these options."""
    wrong = []
    for line in command_lines(page):
        rest, command = line.split()[1:], main
        while isinstance(command, click.Group) and rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0].strip("[].") for word in rest if re.match(r"\[?-[-a-z]", word)} - {"--"}
        if (isinstance(command, click.Group) and rest) or used - known:
            wrong.append((line, sorted(used - known)))
    return wrong


@every_page
def test_commands_exist(page: Path) -> None:
    assert wrong_commands(text(page)) == []


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors that hosts give to headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that pages speak of, with fewer images."""
    from chorus.simulate.images import write_world
    from chorus.simulate.worlds import WORLDS

    path = tmp_path_factory.mktemp("store") / "balls.chorus"
    write_world(path, [WORLDS["ball-held"], WORLDS["ball-kicked"]], num_images=60)
    return path


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


WITH_PYTHON = [
    page for page in PAGES if python_blocks(page) and page.name not in ("CONTRIBUTING.md", "frontend.md", "pytorch.md")
]
"""Pages whose Python is not run by tests of its own."""


@pytest.mark.parametrize("page", WITH_PYTHON, ids=[str(page.relative_to(ROOT)) for page in WITH_PYTHON])
def test_python_on_a_page_runs(page: Path, balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first line to its last: every name is defined on the page."""
    from chorus.kernels import backends

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backends, "BACKENDS", dict(backends.BACKENDS))
    shutil.copytree(balls, "balls.chorus")
    names: dict[str, Any] = {"__name__": "page"}
    for block in python_blocks(page):
        exec(compile(block, str(page), "exec"), names)


def test_the_readme_shows_the_newest_votes_and_names_rows_as_the_command_does() -> None:
    from bench.table import main as table

    readme = ROOT / "README.md"
    assert table(["--readme", str(readme), "--check"]) == 0
    record = json.loads((ROOT / "bench" / "results" / "ablations-2026-11-28.json").read_text())
    results = (ROOT / "docs" / "results.md").read_text()
    part = results.split("| method | images |")[1].split("\n\n")[0]
    named = [line.split("|")[1].strip() for line in part.splitlines()[2:]]
    assert sorted(named) == sorted(row["name"] for row in record["rows"])


def test_extras_are_installed_from_a_checkout() -> None:
    """The package is not on an index: what is said to install it must work in a checkout."""
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text().split("optional-dependencies]")[1], re.M))
    sources = [
        p for folder in ("chorus", "kernels", "docs", "bench") for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md")
    ]
    said = [(path, line) for path in [*sources, *PAGES] for line in path.read_text().splitlines() if "pip install" in line]
    assert said
    for path, line in said:
        assert "chorus-hoi" not in line, path
        assert set(re.findall(r"pip install '\.\[(\w+)\]'", line)) <= extras, path


def test_the_order_of_rooms_is_the_one_that_is_checked() -> None:
    """CONTRIBUTING.md names the layers from the bottom, pyproject.toml from the top."""
    said = re.search(r"below it alone: (.*?)\. The list is exhaustive", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    layers = re.search(r"^layers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert said is not None
    assert layers is not None
    rows = [set(row.split(" | ")) for row in re.findall(r'"([^"]+)"', layers[1])][::-1]
    named = [set(re.findall(r"\w+", row)) for row in said[1].split("<")]
    places = [[i for i, row in enumerate(rows) if rooms <= row] for rooms in named]
    assert all(len(place) == 1 for place in places), dict(zip(map(str, named), places, strict=True))
    assert places == sorted(places)
    assert len(named) > 10


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", index))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert "(docs/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("chorus.store.filters.rules.RULES", True),
        ("chorus.images.ImageBatch.masks", True),
        ("chorus.load_body", True),
        ("chorus.images.NoSuchName", False),
        ("chorus.no_such_module.f", False),
    ],
)
def test_names_that_are_missing_are_found(name: str, there: bool) -> None:
    assert resolves(name) is there


def test_paths_that_are_missing_are_found() -> None:
    assert is_there("chorus/store/*.py")
    assert is_there("kernels/masks.py")
    assert is_there("kernels/")
    assert not is_there("kernels/triton_votes.py")
    assert PATH.findall("see chorus/no_such.py, and `kernels/`.") == ["chorus/no_such.py", "kernels/"]
    assert DOTTED.findall("balls.chorus/x, chorus.images.Y; a.chorus.b") == ["chorus.images.Y"]


def test_commands_that_are_missing_are_found() -> None:
    page = (
        "```\nchorus store nfo a.chorus\nchorus aggregate a -o b --promt x; chorus demo  # chorus no\n```\n    chorus watch x\n"
    )
    assert [words for words, _ in wrong_commands(page)] == [
        "chorus store nfo a.chorus",
        "chorus aggregate a -o b --promt x",
        "chorus watch x",
    ]
    assert sum(len(command_lines(text(page))) for page in PAGES) > 40
