"""``chorus occupancies``: distributions of simulated worlds, ready for ``pose``, ``mesh`` and ``reconstruct``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from chorus.commands.console import kept_when_stopped, print_json, print_table, progress_bars, wrote
from chorus.commands.options import SEED, Count, OutputFolder, body_option, force_option, json_option


@click.command("occupancies", short_help="Ready-made occupancies of simulated worlds.")
@click.option("-o", "--output", type=OutputFolder("occupancies.json"), required=True, help="The folder to write to.")
@click.option(
    "--world",
    "worlds",
    multiple=True,
    help="A simulated world (repeatable; a wrong name lists all); default: all of them.",
)
@click.option("--images", default=600, show_default=True, type=Count(), help="Of each world.")
@click.option("--resolution", default=48, show_default=True, type=click.IntRange(min=2, max=512), help="Voxels along an edge.")
@click.option("--seed", default=0, show_default=True, type=SEED)
@force_option
@body_option
@json_option()
def occupancies_command(
    output: Path,
    worlds: tuple[str, ...],
    images: int,
    resolution: int,
    seed: int,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Ready-made occupancies of simulated worlds: a folder for each category, as `chorus reconstruct --occupancies` takes it.

    They say where a ball in the hand, a board under the arm or a hat is around the body, and are a start for those who have no
    images of their own object yet.
    """
    from chorus.body.model import load_body
    from chorus.occupancy.ready import write_ready

    now = ["", 0, 0]

    def count(category: str, done: int, total: int) -> None:
        now[:] = category, done, total
        update("worlds", done, total)

    def kept() -> str:
        return f"{now[1]} of {now[2]} worlds are done; their distributions stay in {output}; the same command begins anew"

    with kept_when_stopped(kept), progress_bars() as update:
        rows = write_ready(output, worlds, images, seed, resolution=resolution, body=load_body(body_path), progress=count)
    if as_json:
        print_json(rows)
        return
    table = Table()
    for column in ("category", "prompt", "images", "canonicalization", "highest probability", "file"):
        table.add_column(column, justify="right" if column in ("images", "highest probability") else "left", overflow="fold")
    for row in rows:
        facts = f"{row['images']:,}", row["canonicalization"], f"{row['largest_phi']:.2f}"
        table.add_row(row["category"], row["prompt"], *facts, row["file"])
    print_table(table)
    wrote(output)
