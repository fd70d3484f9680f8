"""What the commands share: consoles, progress bars, printing of results and of written files, options that several take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_Callback = TypeVar("_Callback", bound=Callable[..., Any])

ERROR_EXIT = 2
"""Exit code for wrong input, and for a job that could not be done with its input."""

out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int | None], None]]:
    """Progress bars on standard error, one for each stage.

    Yields a function of the stage's name, how many items are done, and how many there are in all (None: not known).
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, Any] = {}

        def update(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield update


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    click.echo(json.dumps(value, indent=1, default=str))


def wrote(*paths: Path) -> None:
    """Print which files were written: the last line of a command's output."""
    for path in paths:
        out.print(f"wrote {path}", markup=False)


def print_table(facts: dict[str, Any]) -> None:
    """Print names and values, one pair a line; ``_`` in a name is printed as a space."""
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
        click.echo(f"{name.replace('_', ' '):<{width}}  {shown}")


def check_output_folders(**paths: Path | None) -> None:
    """InputError for an output file whose folder does not exist; called before minutes of work, not after.

    paths  option's name without dashes -> its file; None: not given
    """
    from chorus.errors import InputError

    for option, path in paths.items():
        if path is not None and not path.absolute().parent.is_dir():
            raise InputError(f"--{option}: expected a file in a folder that exists, got {str(path)!r}")


def json_option(help: str = "Print the result as JSON.") -> Callable[[_Callback], _Callback]:
    """The option ``--json``; a command's function gets it as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=help)


filter_option = click.option(
    "--filter",
    "filter_name",
    default="store",
    show_default=True,
    metavar="NAME|PATH",
    help="Which complete images count: store (the store's filter, if it has one), none, paper, soft, or a filter's file.",
)
body_option = click.option(
    "--body",
    "body_path",
    type=click.Path(path_type=Path),
    help="A body file (SMPL .pkl or .npz); default: the built-in mannequin.",
)
