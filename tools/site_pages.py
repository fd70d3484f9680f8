"""Pages of the site that are not files in docs/: the references, made from the code, and pages that stand elsewhere."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {
    "../README.md": "overview.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changelog.md",
    "../bench/README.md": "bench.md",
}
"""Link from a page in docs/ -> the page of the site that it leads to."""
MODULES = {
    "Occupancies": (
        "chorus.occupancy.distribution",
        "chorus.occupancy.jobs",
        "chorus.occupancy.merging",
        "chorus.occupancy.choice",
    ),
    "Stores": ("chorus.store.growing", "chorus.store.filters", "chorus.votes.portion"),
    "Poses and cameras": ("chorus.camera.fit", "chorus.camera.views", "chorus.pose_fit.fit"),
    "Worlds with known truth": ("chorus.simulate.images", "chorus.simulate.worlds"),
    "Metrics": ("chorus.evaluate.pap.metric", "chorus.evaluate.roundtrip"),
    "Kernels": ("chorus.kernels.backends", "chorus.kernels.arrays"),
    "Errors": ("chorus.errors",),
}
"""Modules whose public names are documented beside those of ``chorus`` itself."""


def commands_page() -> str:
    """The reference of the commands: what each says of itself."""
    from chorus.cli import main

    lines = ["# Commands", "", "Made from the code: what `chorus COMMAND --help` says."]

    def add(command: click.Command, name: str, above: click.Context | None) -> None:
        context = click.Context(command, info_name=name.rpartition(" ")[2], parent=above, max_content_width=100)
        lines.extend(["", f"{'##' if above is None or isinstance(command, click.Group) else '###'} {name}", ""])
        lines.extend(["```text", command.get_help(context), "```"])
        if isinstance(command, click.Group):
            members = [(word, command.commands[word]) for word in command.list_commands(context)]
            for word, member in sorted(members, key=lambda named: isinstance(named[1], click.Group)):
                add(member, f"{name} {word}", context)

    add(main, "chorus", None)
    return "\n".join(lines) + "\n"


def python_page() -> str:
    """The reference of the Python interface, which mkdocstrings fills."""
    import chorus

    lines = ["# Python interface", "", "Made from the docstrings.", "", "## chorus", ""]
    for name, home in sorted(chorus._HOME.items()):
        found = getattr(importlib.import_module(f"chorus.{home}"), name)
        lines += [f"::: {found.__module__}.{name}", "    options:", f"      heading: chorus.{name}", ""]
    for title, modules in MODULES.items():
        lines += [f"## {title}", ""]
        for module in modules:
            lines += [f"::: {module}", ""]
    return "\n".join(lines)


def on_config(config: Any) -> Any:
    """The menu is the index of docs/README.md, with the pages that are not in docs/."""
    menu: list[dict[str, Any]] = [{"CHORUS engine": ["README.md", "overview.md"]}]
    for line in (ROOT / "docs" / "README.md").read_text(encoding="utf-8").splitlines():
        page = re.match(r"- \[[\w-]+\.md\]\(([\w-]+\.md)\)", line)
        if page:
            next(iter(menu[-1].values())).append(page[1])
        elif re.match(r"[A-Z][^.\[]+$", line):
            menu.append({line: []})
    config.nav = [*menu, {"Reference": ["commands.md", "python.md", "bench.md", "contributing.md", "changelog.md"]}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    for name, content in (("commands.md", commands_page()), ("python.md", python_page())):
        files.append(File.generated(config, name, content=content))
    for link, name in ELSEWHERE.items():
        text = (ROOT / link.removeprefix("../")).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=from_docs(text, link)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Links to pages elsewhere lead to where they are on the site; those to other files of the checkout become text."""
    for link, name in ELSEWHERE.items():
        markdown = markdown.replace(f"]({link}", f"]({name}")
    return re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", markdown)


def from_docs(text: str, link: str) -> str:
    """A page of another folder, with its links as those of a page in docs/ would be."""
    folder = link.rpartition("/")[0].removeprefix("..").strip("/")
    up = "../" + f"{folder}/" if folder else "../"

    def moved(found: re.Match[str]) -> str:
        target = found[1]
        if re.match(r"https?:|#", target):
            return found[0]
        parts: list[str] = []
        for part in (up + target).split("/"):
            if part == ".." and parts and parts[-1] != "..":
                parts.pop()
            else:
                parts.append(part)
        path = "/".join(parts)
        return f"]({path.removeprefix('../docs/')})" if path.startswith("../docs/") else f"]({path})"

    return re.sub(r"\]\(([^)\s]+)\)", moved, text)
