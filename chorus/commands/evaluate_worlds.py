"""``chorus evaluate worlds``: simulated worlds against their truth."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from chorus.commands.console import kept_when_stopped, out, print_json, print_table, progress_bars, wrote
from chorus.commands.options import PICTURE, Count, OutputFile, force_option, json_option, record_options


@click.command("worlds", short_help="Does it work? Simulated worlds against their truth.")
@click.option("--images", default=2000, show_default=True, type=Count(100), help="Images of each simulation.")
@click.option(
    "--seeds",
    default=5,
    show_default=True,
    type=Count(2),
    help="Repetitions; thresholds are chosen on the other seeds.",
)
@click.option("--first-seed", default=0, show_default=True, type=Count(0), help="Seed of the first repetition.")
@click.option(
    "--world",
    "worlds",
    multiple=True,
    help="A simulated world (repeatable; a wrong name lists all); default: ball, backpack and board.",
)
@record_options
@click.option(
    "--estimators",
    is_flag=True,
    help="Compare the paper's estimator with others, the recommended one among them, in scenes of many worlds.",
)
@click.option("--scene", "scenes", multiple=True, help="With --estimators: only this scene (repeatable).")
@click.option("-o", "--output", type=OutputFile(), help="Also write the figures as JSON.")
@click.option(
    "--picture",
    type=PICTURE,
    help="With --estimators: also draw the paper's and the recommended result of each scene beside the truth (PNG).",
)
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@force_option
@json_option("Print the figures as JSON.")
def evaluate_worlds_command(
    images: int,
    seeds: int,
    first_seed: int,
    worlds: tuple[str, ...],
    pose_errors: tuple[str, ...],
    shape_spread: float,
    estimators: bool,
    scenes: tuple[str, ...],
    output: Path | None,
    picture: Path | None,
    markdown: bool,
    as_json: bool,
) -> None:
    """Does it work? Simulated worlds against their truth.

    Also what each part of the method adds; or, with --estimators, which estimator to use. Stopped by Ctrl-C, what is scored is
    kept beside the file of -o, and the same command goes on.
    """
    from chorus.evaluate import estimators as compared
    from chorus.evaluate import worlds as parts
    from chorus.evaluate.scenes import SCENES
    from chorus.evaluate.unfinished import Unfinished

    if not estimators and (scenes or picture):
        raise click.UsageError(f"{'--scene chooses' if scenes else '--picture draws'} scenes of --estimators: give both")
    if estimators and (worlds or pose_errors or shape_spread):
        raise click.UsageError("--estimators has scenes of its own: give no --world, --pose-error or --shapes with it")
    unfinished = Unfinished.beside(output)

    def kept() -> str:
        if output is None and estimators:
            return "nothing is kept (with -o FILE it would be)"
        if output is None and unfinished:
            print_table(parts.partial_table(unfinished))
        return unfinished.where()

    wanted = range(first_seed, first_seed + seeds)
    with kept_when_stopped(kept), progress_bars() as update:
        count = partial(update, "images")
        table: Any
        if estimators:
            table = compared.run(images, wanted, scenes or tuple(SCENES), output, count, unfinished)
        else:
            table = parts.run(
                images,
                wanted,
                output,
                count,
                unfinished,
                worlds=worlds or parts.TABLE_WORLDS,
                pose_errors=pose_errors,
                shape_spread=shape_spread,
            )
    if picture is not None:
        from chorus.figures.compared import save_compared

        save_compared(picture, table)
    written = [path for path in (output, picture) if path is not None]
    module: Any = compared if estimators else parts
    if as_json:
        print_json({**table.to_json(), "wrote": written})
        return
    if markdown:
        out.print(module.as_markdown(table))
    else:
        print_table(module.as_rich(table))
    wrote(*written)
