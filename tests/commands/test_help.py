"""What ``--help`` says fits its lines and speaks to a newcomer."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from chorus.cli import COMMANDS, main
from chorus.commands.overview import EXAMPLES, SECTIONS
from tests.test_docs import wrong_commands


@pytest.mark.parametrize("group", COMMANDS, ids=[str(group.name) for group in COMMANDS])
def test_summaries_fit_a_terminal_of_80_columns(group: click.Group) -> None:
    path = [] if group is main else [str(group.name)]
    told = CliRunner().invoke(main, [*path, "--help"], terminal_width=80).output
    commands = told.split("and exit.")[-1] if group is main else told.split("Commands:\n")[1]
    rows = [row for row in commands.split("\n") if row.startswith("  ")]
    assert len(rows) == len(group.commands)  # none is folded
    for row in rows:
        assert row.endswith("."), row
        assert not row.endswith(".."), row
        assert len(row) <= 80


def commands(group: click.Group = main, path: str = "") -> dict[str, click.Command]:
    """The commands of all groups: name -> command."""
    found: dict[str, click.Command] = {}
    for word, command in group.commands.items():
        name = f"{path} {word}".strip()
        found |= commands(command, name) if isinstance(command, click.Group) else {name: command}
    return found


def takes(command: click.Command, words: str) -> bool:
    """Whether the words are a command's arguments, all of them, stores where it wants stores and occupancies where it wants
    those; nothing is looked for on the disk."""
    context = click.Context(command, resilient_parsing=False)
    found, rest, _ = command.make_parser(context).parse_args(shlex.split(words))
    endings = {"STORE": (".chorus", ".zip"), "OCCUPANCY": (".h5",), "TEST_STORE": (".chorus",)}
    for argument in (p for p in command.params if isinstance(p, click.Argument)):
        given = found.get(argument.name)
        values = [value for value in (given if isinstance(given, tuple) else (given,)) if isinstance(value, str)]
        if argument.required and not values:
            return False
        wanted = endings.get(argument.human_readable_name.strip("[].…"))
        if wanted and not all(value.endswith(wanted) for value in values):
            return False
    required = {p.name for p in command.params if isinstance(p, click.Option) and p.required}
    return not rest and required <= found.keys()


def test_every_command_shows_an_example_that_it_takes() -> None:
    assert sorted(set(commands()) - set(EXAMPLES)) == []
    for name in commands():
        assert wrong_commands("```\n" + "\n".join(EXAMPLES[name]) + "\n```\n") == [], name
        lines = [line for line in EXAMPLES[name] if line.startswith("chorus ")]
        assert [line for line in lines if not takes(commands()[name], line.removeprefix(f"chorus {name}"))] == []
    for name in commands():
        assert "Example" in CliRunner().invoke(main, [*name.split(), "--help"]).output, name


def test_every_command_can_print_json() -> None:
    without = {name for name, command in commands().items() if not any("--json" in p.opts for p in command.params)}
    assert without == {"demo", "completion", "view"}  # for people


def test_the_overview_is_by_purpose() -> None:
    told = CliRunner().invoke(main, ["--help"], terminal_width=100).output
    headings = re.findall(r"^(\w[\w ]*):$", told, re.M)
    assert headings == ["Options", *SECTIONS]  # nothing is left for Others
    assert {word for words in SECTIONS.values() for word in words} == set(main.commands)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_told_how_to_complete(shell: str) -> None:
    script = CliRunner().invoke(main, ["completion", shell])
    assert script.exit_code == 0
    assert "_CHORUS_COMPLETE" in script.output


def test_commands_are_completed() -> None:
    env = {**os.environ, "_CHORUS_COMPLETE": "bash_complete", "COMP_WORDS": "chorus store me", "COMP_CWORD": "2"}
    run = "from chorus.cli import main; main(prog_name='chorus')"
    done = subprocess.run([sys.executable, "-c", run], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "plain,merge\n", done


def test_without_arguments_it_says_what_there_is() -> None:
    for words in ([], ["store"]):
        told = CliRunner().invoke(main, words)
        assert told.exit_code == 2
        assert (told.stdout, told.stderr.startswith("Usage: ")) == ("", True)


def test_quiet_says_results_alone(tmp_path: Path) -> None:
    store = tmp_path / "s.chorus"
    loud = CliRunner().invoke(main, ["simulate", "-o", str(store), "--images", "4", "--world", "ball-held"])
    assert "wrote" in loud.stdout
    quiet = CliRunner().invoke(main, ["-q", "simulate", "-o", str(store), "--images", "6", "--world", "ball-held"])
    assert quiet.exit_code == 0, quiet.output
    assert ("wrote" in quiet.stdout, quiet.stderr) == (False, "")
    assert "wrote" in CliRunner().invoke(main, ["simulate", "-o", str(store), "--images", "8", "--world", "ball-held"]).stdout


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
