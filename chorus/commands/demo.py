"""``chorus demo``: the main job from end to end on a simulated world."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.table import Table

from chorus.commands.console import kept_when_stopped, print_facts, print_table, progress_bars, wrote
from chorus.commands.options import SEED, Count, OutputFolder


@click.command("demo", short_help="See it work: a simulated world, tables and pictures.")
@click.option("-o", "--output", type=OutputFolder(), default="demo-output", show_default=True)
@click.option("--images", default=2000, show_default=True, type=Count(20))
@click.option("--seed", default=0, show_default=True, type=SEED)
def demo_command(output: Path, images: int, seed: int) -> None:
    """The main job from end to end on a simulated world.

    Simulates two ways to use a ball, aggregates the images, compares with the truth and draws pictures. The last line names a
    page to open in a browser, with a view to turn.
    """
    from chorus.demo import THRESHOLD, run_demo

    start = time.perf_counter()
    kept = f"{output} keeps the images simulated and the files written so far; the same command goes on with these images"
    with kept_when_stopped(lambda: kept), progress_bars() as update:
        report = run_demo(output, images, seed, progress=update)
    table = Table(title="learned from images, against the known truth", title_justify="left")
    for column in ("prompt", "estimator", "field", "images", f"IoU (phi >= {THRESHOLD})", "IoU, other prompt", "centre off"):
        table.add_column(column, justify="left" if column in ("prompt", "estimator", "field") else "right")
    for row in report.rows:
        found = f"{row.iou:.2f} (best {row.best_iou:.2f})"
        table.add_row(
            row.prompt,
            row.estimator,
            row.chosen,
            str(row.images),
            found,
            f"{row.other_iou:.2f}",
            f"{100 * row.offset_m:.0f} cm",
        )
    print_table(table)
    simulated = "nothing: the store was there" if report.simulate_rate is None else f"{report.simulate_rate:,.0f} images/s"
    print_facts(
        {
            "simulated": simulated,
            "paper's votes": f"{report.aggregate_rate:,.0f} images/s at 48^3 (compiled in {report.compile_seconds:.1f} s)",
            "recommended": f"{report.choose_rate:,.0f} images/s, the choice of field from up to 400 of them included",
            "skinning field": f"{report.field_seconds:.1f} s",
            "all in all": f"{time.perf_counter() - start:.0f} s",
        }
    )
    wrote(*report.files)
