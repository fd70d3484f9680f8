"""``chorus demo``: the main job from end to end on a simulated world."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from chorus.commands.console import kept_when_stopped, out, print_facts, print_table, progress_bars, wrote
from chorus.commands.options import SEED, Count, OutputFolder

if TYPE_CHECKING:
    from chorus.demo import DemoReport


@click.command("demo", short_help="See it work: a simulated world, tables and pictures.")
@click.option("-o", "--output", type=OutputFolder(), default="demo-output", show_default=True)
@click.option("--images", default=2000, show_default=True, type=Count(20))
@click.option("--seed", default=0, show_default=True, type=SEED)
def demo_command(output: Path, images: int, seed: int) -> None:
    """The main job from end to end on a simulated world.

    Simulates two ways to use a ball, aggregates the images, compares with the truth and draws pictures. The last line names a
    page to open in a browser, with a view to turn.
    """
    from chorus.demo import run_demo

    start = time.perf_counter()
    kept = f"{output} keeps the images simulated and the files written so far; the same command goes on with these images"
    with kept_when_stopped(lambda: kept), progress_bars() as update:
        report = run_demo(output, images, seed, progress=update)
    print_rows(report)
    simulated = "nothing: the store was there" if report.simulate_rate is None else f"{report.simulate_rate:,.0f} images/s"
    print_facts(
        {
            "simulated": simulated,
            "paper": f"{report.aggregate_rate:,.0f} images/s at 48^3 (compiled in {report.compile_seconds:.1f} s)",
            "recommended": f"{report.choose_rate:,.0f} images/s, with its choices, from up to 400 of them",
            "skinning field": f"{report.field_seconds:.1f} s",
            "all in all": f"{time.perf_counter() - start:.0f} s",
        }
    )
    wrote(*report.files)
    out.print(f"open {report.page} in a browser first")


def print_rows(report: DemoReport) -> None:
    """How well it went, in less than 80 columns, and what the columns say."""
    from chorus.canonicalization import ANCHORED, LBS
    from chorus.demo import THRESHOLD

    table = Table(title="learned from images, against the known truth", title_justify="left")
    for column in ("ball", "estimator", "moves with"):
        table.add_column(column, overflow="fold")
    for column in (f"IoU at {THRESHOLD:g}", "best IoU", "other", "off"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report.rows:
        carrier = row.chosen.removeprefix(ANCHORED).replace("_", " ") if row.chosen != LBS else "all bones"
        scores = f"{row.iou:.2f}", f"{row.best_iou:.2f}", f"{row.other_iou:.2f}", f"{100 * row.offset_m:.0f} cm"
        table.add_row(row.use, row.estimator, carrier, *scores)
    print_table(table)
    for use, (prompt, images) in {row.use: (row.prompt, row.images) for row in report.rows}.items():
        out.print(f"{use}: {prompt} ({images:,} images that show it)", style="dim")
    for line in (
        f"IoU at {THRESHOLD:g}: overlap (intersection over union) of the voxels with a probability",
        f"of {THRESHOLD:g} or more with the true ones; best IoU: at the threshold that suits best;",
        "other: with the truth of the other ball, which should be 0; off: from the",
        "centre of the voxels found to the true one",
    ):
        out.print(line, style="dim")
