"""What the commands share: consoles, progress bars, how facts and files are printed, options that several take."""

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
"""Exit code where input is wrong, or the job could not be done with it."""

out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int | None], None]]:
    """Bars on standard error, one a stage; the function yielded takes the stage, what is done and what there is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, Any] = {}

        def update(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield update


def print_json(value: Any) -> None:
    """JSON on standard output."""
    click.echo(json.dumps(value, indent=1, default=str))


def wrote(*paths: Path) -> None:
    """Say what was written and where: the last thing a command does."""
    for path in paths:
        out.print(f"wrote {path}", markup=False)


def print_table(facts: dict[str, Any]) -> None:
    """Names and values, one a line."""
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
        click.echo(f"{name.replace('_', ' '):<{width}}  {shown}")


def check_output_folders(**paths: Path | None) -> None:
    """Before minutes of work, not after: raise InputError for an option's file that lies in no folder (None: not given)."""
    from chorus.errors import InputError

    for option, path in paths.items():
        if path is not None and not path.absolute().parent.is_dir():
            raise InputError(f"--{option}: expected a file in a folder that is there, got {str(path)!r}")


def json_option(help: str | None = None) -> Callable[[_Callback], _Callback]:
    """``--json``, which callbacks get as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=help)


filter_option = click.option(
    "--filter",
    "filter_name",
    default="store",
    show_default=True,
    metavar="NAME|PATH",
    help="Which complete images: store (its own filter, if any), none, paper, soft, or a filter's file.",
)
body_option = click.option(
    "--body", "body_path", type=click.Path(path_type=Path), help="A body file (SMPL .pkl, .npz), not the mannequin."
)
