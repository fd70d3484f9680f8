"""``chorus evaluate worlds``: simulated worlds against their truth."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import kept_when_stopped, out, print_table, progress_bars, wrote
from chorus.commands.options import Count, OutputFile, force_option, record_options


@click.command("worlds", short_help="Does it work? Simulated worlds against their truth.")
@click.option("--images", default=2000, show_default=True, type=Count(100), help="Images of each simulation.")
@click.option(
    "--seeds",
    default=5,
    show_default=True,
    type=Count(2),
    help="Repetitions; thresholds are chosen on the other seeds.",
)
@click.option(
    "--world",
    "worlds",
    multiple=True,
    help="A simulated world (repeatable; a wrong name lists all); default: ball, backpack and board.",
)
@record_options
@click.option("-o", "--output", type=OutputFile(), help="Also write the figures as JSON.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@force_option
def evaluate_worlds_command(
    images: int,
    seeds: int,
    worlds: tuple[str, ...],
    pose_errors: tuple[str, ...],
    shape_spread: float,
    output: Path | None,
    markdown: bool,
) -> None:
    """Does it work? Simulated worlds against their truth.

    Also what each part of the method adds. Stopped by Ctrl-C, what is scored is kept beside the file of -o, and the same
    command goes on.
    """
    from chorus.evaluate.unfinished import Unfinished
    from chorus.evaluate.worlds import TABLE_WORLDS, as_markdown, as_rich, partial_table, run

    unfinished = Unfinished.beside(output)

    def kept() -> str:
        if output is None and unfinished:
            print_table(partial_table(unfinished))
        return unfinished.where()

    with kept_when_stopped(kept), progress_bars() as update:
        table = run(
            images,
            seeds,
            output,
            lambda done, total: update("images", done, total),
            unfinished,
            worlds=worlds or TABLE_WORLDS,
            pose_errors=pose_errors,
            shape_spread=shape_spread,
        )
    if markdown:
        out.print(as_markdown(table))
    else:
        print_table(as_rich(table))
    if output is not None:
        wrote(output)
