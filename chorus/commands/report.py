"""``chorus report``: a result on one page."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import err, print_json, progress_bars, wrote
from chorus.commands.options import (
    INPUT,
    STORE,
    OutputFile,
    body_option,
    filter_option,
    joined_part_option,
    joined_prompt_option,
    json_option,
)
from chorus.commands.pose import load_given_body


@click.command("report", short_help="A result on one page, with a view to turn.")
@click.argument("occupancy_path", metavar="OCCUPANCY", type=INPUT)
@click.argument("store_path", metavar="[STORE]", type=STORE, required=False)
@click.option(
    "-o", "--output", type=OutputFile(".html", ".htm", replace=True), required=True, help="The page to write (.html)."
)
@click.option("--images", default=4, show_default=True, type=click.IntRange(0, 12), help="With STORE: sample images.")
@joined_prompt_option
@joined_part_option
@filter_option
@click.option("--title", default="", help="Of the page.  [default: the occupancy's prompts]")
@body_option
@json_option()
def report_command(
    occupancy_path: Path,
    store_path: Path | None,
    output: Path,
    images: int,
    prompts: tuple[str, ...],
    part: str | None,
    filter_name: str,
    title: str,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Everything about an occupancy on one page: a single HTML file that needs no network.

    What it is, a view to turn with a threshold to move, figures, numbers, error bars where folds were kept, and how it was
    made; with the STORE that it was learned from also cameras and sample images. Figures are better with the extra `figures3d`.
    """
    from chorus.experimental.sharpened import load_distribution
    from chorus.report.report import LARGEST_FILE, write_report
    from chorus.store import open_store

    if store_path is None and (prompts or part):
        raise click.UsageError("--prompt and --part choose images of a STORE: give one with them")
    occupancy = load_distribution(occupancy_path)
    store = None if store_path is None else open_store(store_path)
    with progress_bars() as update:
        write_report(
            output,
            occupancy,
            store,
            load_given_body(body_path),
            images=images,
            source=occupancy_path.name,
            title=title,
            progress=update,
            prompt=list(prompts) or None,
            part=part,
            filter=filter_name,
        )
    size = output.stat().st_size
    if size > LARGEST_FILE:
        err.print(f"chorus: warning: {output} has {size / 1e6:.1f} MB; fewer --images make it smaller")
    if as_json:
        print_json({"bytes": size, "wrote": [output]})
        return
    wrote(output)
