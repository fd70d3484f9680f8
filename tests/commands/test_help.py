"""What ``--help`` says fits its lines and speaks to a newcomer."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from chorus.cli import COMMANDS, main


@pytest.mark.parametrize("group", COMMANDS, ids=[str(group.name) for group in COMMANDS])
def test_summaries_fit_a_terminal_of_80_columns(group: click.Group) -> None:
    path = [] if group is main else [str(group.name)]
    told = CliRunner().invoke(main, [*path, "--help"], terminal_width=80).output
    rows = told.split("Commands:\n")[1].rstrip("\n").split("\n")
    assert len(rows) == len(group.commands)  # none is folded
    for row in rows:
        assert row.endswith("."), row
        assert not row.endswith(".."), row
        assert len(row) <= 80


@pytest.mark.parametrize("name", ["synthesize", "ingest images", "remake", "stages", "prompts", "store stats"])
def test_help_needs_no_paper(name: str) -> None:
    told = CliRunner().invoke(main, [*name.split(), "--help"], terminal_width=100).output
    assert not re.search(r"Eq\. \d|\b[AB]\.\d|Table \d|\(\d\.\d\)", told), told


def test_an_option_has_one_name() -> None:
    told = CliRunner().invoke(main, ["prompts", "--help"]).output
    assert "--prompts" in told
    assert "--source" not in told
    both = [
        CliRunner().invoke(main, ["prompts", "bed", option, "builtin", "--count", "2"]) for option in ("--prompts", "--source")
    ]
    assert both[0].stdout == both[1].stdout
    assert both[0].exit_code == both[1].exit_code == 0


def test_numbers_have_their_nouns(tmp_path: object) -> None:
    options = ("--simulated", "-o", f"{tmp_path}/s.chorus", "--dry-run", "--view", "", "--prompt-count", "1", "--count")
    for count, words in ((1, "1 prompt x 1 view, 1 image each:"), (3, "1 prompt x 1 view, 3 images each:")):
        assert words in CliRunner().invoke(main, ["synthesize", "sports ball", *options, str(count)]).output
