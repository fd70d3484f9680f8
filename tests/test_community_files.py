"""The files that hosts and tools read: citation, changelog, templates, workflow and hooks say what holds."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml  # comes with the front end's model libraries

import chorus
from chorus._moved import MOVED

ROOT = Path(__file__).resolve().parent.parent


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


# --- CITATION.cff: the rules of the Citation File Format 1.2.0 --------------------------------------------------------------

REQUIRED = {"cff-version", "message", "title", "authors"}
OPTIONAL = {
    *("abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license", "license-url"),
    *("preferred-citation", "references", "repository", "repository-artifact", "repository-code", "type", "url", "version"),
}
PLACE = {"address", "alias", "city", "country", "email", "fax", "orcid", "post-code", "region", "tel", "website"}
ENTITY = PLACE | {"name", "date-start", "date-end", "location"}
PERSON = PLACE | {"affiliation", "family-names", "given-names", "name-particle", "name-suffix"}


def check_authors(authors: Any) -> None:
    assert isinstance(authors, list)
    assert authors
    for author in authors:
        assert author.keys() <= (ENTITY if "name" in author else PERSON)
        assert all(isinstance(value, str) for value in author.values())


def test_citation_is_a_valid_citation_file() -> None:
    cff = read("CITATION.cff")
    assert REQUIRED <= cff.keys() <= REQUIRED | OPTIONAL
    assert str(cff["cff-version"]) == "1.2.0"
    assert cff["type"] in ("software", "dataset")
    check_authors(cff["authors"])
    for reference in cff["references"]:
        assert {"authors", "title", "type"} <= reference.keys()
        assert reference["type"] in ("article", "conference-paper", "software", "thesis", "report", "generic")
        check_authors(reference["authors"])
        assert isinstance(reference["year"], int)
        assert "name" in reference["conference"]
    assert len(cff["keywords"]) == len(set(cff["keywords"]))


def test_citation_agrees_with_the_package() -> None:
    cff, pyproject = read("CITATION.cff"), (ROOT / "pyproject.toml").read_text()
    assert str(cff["version"]) == chorus.__version__
    assert f'license = "{cff["license"]}"' in pyproject
    (paper,) = cff["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Han", "Joo"]
    assert paper["year"] == 2023


# --- CHANGELOG.md -----------------------------------------------------------------------------------------------------------


def test_changelog_is_of_keep_a_changelogs_form() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line) for line in versions[1:])
    assert versions[1].startswith(f"## [{chorus.__version__}]")
    sections = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_changelog_names_every_module_that_moved() -> None:
    rows = re.findall(r"^\| `(chorus\.[\w.]+)` \| `(chorus\.[\w.]+)` \|$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert dict(rows) == MOVED


# --- the host ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_issue_forms(name: str) -> None:
    form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= form.keys() <= {"name", "description", "body", "labels", "title", "assignees"}
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes", "markdown")
        assert field["attributes"]["label"]
        options = field["attributes"].get("options", [])
        assert (field["type"] == "dropdown") == bool(options)
        assert len(options) == len(set(options))
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_workflow_runs_what_anyone_runs() -> None:
    workflow = read(".github/workflows/ci.yml")
    assert {"push", "pull_request"} <= workflow[True].keys()  # YAML 1.1 takes the key `on` for true
    (job,) = workflow["jobs"].values()
    matrix = job["strategy"]["matrix"]
    least = re.search(r'requires-python = ">=(3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert least is not None
    assert matrix["os"] == ["ubuntu-latest"]
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert matrix["python"][0] == least[1]
    assert [extra["os"] for extra in matrix["include"]] == ["macos-latest"]
    (step,) = (step for step in job["steps"] if "run" in step)
    command, script = shlex.split(step["run"])
    assert command == "bash"
    assert (ROOT / script).is_file()
    makefile = (ROOT / "Makefile").read_text()
    for variable in step["env"]:
        assert f"{variable} ?=" in makefile  # the environment reaches make only where the Makefile lets it


def test_hooks_run_what_make_runs() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    (repo,) = read(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    entries = [hook["entry"] for hook in repo["hooks"]]
    assert len(entries) == 4
    for hook in repo["hooks"]:
        assert hook["language"] == "system"
        assert hook["pass_filenames"] is False
        assert f"\t{hook['entry']}\n" in makefile
