"""The documentation as a site: built without a network, every link leads somewhere, every command and public name is in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

import chorus
from chorus.cli import main

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="a source distribution has no site")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in strict mode: a warning (a page or heading that a link does not find) is an error."""
    folder = tmp_path_factory.mktemp("site")
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        env[proxy] = "http://127.0.0.1:9"  # nobody is there
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(folder)], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Page(HTMLParser):
    """What a page fetches, and its headings."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.headings: list[str] = []
        self._in_heading = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("script", "img", "iframe") and found.get("src"):
            self.fetched.append(str(found["src"]))
        if tag == "link" and found.get("rel") in ("stylesheet", "preconnect", "icon"):
            self.fetched.append(str(found.get("href")))
        if re.fullmatch(r"h[1-6]", tag):
            self._in_heading = True
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        if re.fullmatch(r"h[1-6]", tag):
            self._in_heading = False

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self.headings[-1] += data


def page(site: Path, name: str) -> _Page:
    return _Page((site / name).read_text(encoding="utf-8"))


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 35
    for file in pages:
        for source in _Page(file.read_text(encoding="utf-8")).fetched:
            assert not re.match(r"(https?:)?//", source), (file.name, source)
            assert (file.parent / source.partition("?")[0]).exists() or file.name == "404.html", (file.name, source)


def test_every_command_is_there(site: Path) -> None:
    headings = [h.replace("\u00b6", "").strip() for h in page(site, "commands.html").headings]

    def names(command: click.Command, name: str) -> list[str]:
        members = command.commands.items() if isinstance(command, click.Group) else ()
        return [name, *(found for word, member in members for found in names(member, f"{name} {word}"))]

    expected = names(main, "chorus")
    assert len(expected) > 30
    assert sorted(headings) == sorted(["Commands", *expected])


def test_every_public_name_is_there(site: Path) -> None:
    headings = " ".join(page(site, "python.html").headings)
    missing = [name for name in chorus.__all__ if name != "__version__" and f"chorus.{name}" not in headings]
    assert missing == []


def test_every_page_is_in_the_menu(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    pages = {file.stem for file in (ROOT / "docs").glob("*.md")} - {"README"}
    assert [name for name in sorted(pages) if f'href="{name}.html"' not in index] == []
