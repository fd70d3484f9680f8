"""``chorus ingest coco-eft``: the extended COCO-EFT test set."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import (
    ERROR_EXIT,
    err,
    kept_when_stopped,
    out,
    print_facts,
    print_json,
    print_table,
    progress_bars,
    wrote,
)
from chorus.commands.options import INPUT, Count, Number, OutputFile, OutputFolder, body_option, force_option, json_option


@click.command("coco-eft", short_help="Test stores from COCO's annotations and EFT's fits.")
@click.argument("annotations", type=INPUT)
@click.argument("eft", metavar="EFT...", nargs=-1, required=True, type=INPUT)
@click.option("-o", "--output", type=OutputFolder(), required=True, help="Folder for the stores, one a category.")
@click.option("--category", "categories", multiple=True, help="COCO's name (repeatable); default: all but person.")
@click.option("--min-images", default=30, show_default=True, type=Count(), help="Images that a category needs.")
@click.option(
    "--min-overlap",
    default=0.5,
    show_default=True,
    type=Number(0, 1),
    help="Least intersection of the boxes of person and object over the smaller box.",
)
@click.option(
    "--iterations",
    default=3000,
    show_default=True,
    type=Count(0),
    help="Most iterations of the camera fit.",
)
@click.option("--stop-px", default=0.5, show_default=True, type=Number(min=0), help="Mean distance at which the fit stops.")
@click.option(
    "--reject-px",
    default=1.0,
    show_default=True,
    type=Number(min=0),
    help="Mean distance above which an image is rejected.",
)
@click.option(
    "--method",
    type=click.Choice(["adam", "levenberg-marquardt"]),
    default="adam",
    show_default=True,
    help="How cameras are fitted.",
)
@click.option("--betas", "use_betas", is_flag=True, help="Fit cameras to the joints of EFT's shapes, not the template's.")
@click.option("--report", "report_path", type=OutputFile(), help="Also write all counts and reasons as JSON.")
@force_option
@body_option
@json_option("Print all counts and reasons as JSON.")
def ingest_coco_eft_command(
    annotations: Path,
    eft: tuple[Path, ...],
    output: Path,
    categories: tuple[str, ...],
    min_images: int,
    min_overlap: float,
    iterations: int,
    stop_px: float,
    reject_px: float,
    method: str,
    use_betas: bool,
    report_path: Path | None,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Make test stores from COCO's instance ANNOTATIONS and EFT's fits of SMPL to the people in them."""
    from rich.table import Table

    from chorus.body.model import load_body
    from chorus.files import write_json
    from chorus.ingest.coco_eft import ingest_coco_eft

    steps = [0, 0]

    def count(done: int, total: int) -> None:
        steps[:] = done, total
        update("categories", done, total)

    def kept() -> str:
        return (
            f"{steps[0]} of {steps[1]} categories are done; their stores stay in {output}; go on with --category for each of "
            "the others"
        )

    with kept_when_stopped(kept), progress_bars() as update:
        report = ingest_coco_eft(
            annotations,
            eft,
            output,
            load_body(body_path),
            categories=categories or None,
            min_images=min_images,
            min_overlap=min_overlap,
            iterations=iterations,
            stop_px=stop_px,
            reject_px=reject_px,
            method=method,
            use_betas=use_betas,
            progress=count,
        )
    facts = report.as_dict()
    for line in report.warnings():
        err.print(f"warning: {line}")
    written = [c.store for c in report.categories if c.store is not None]
    if report_path is not None:
        write_json(report_path, facts)
        written.append(report_path)
    if as_json:
        print_json(facts)
    else:
        table = Table(title="extended COCO-EFT", title_justify="left")
        for column in ("category", "annotations", "kept", "rejected"):
            table.add_column(column, justify="right" if column in ("annotations", "kept") else "left")
        for c in report.categories:
            if c.annotations:
                few = f" (below {min_images}: no store)" if c.store is None and c.kept else ""
                rejected = ", ".join(f"{reason} {count}" for reason, count in c.rejected.items())
                table.add_row(c.name, str(c.annotations), f"{c.kept}{few}", rejected)
        print_table(table)
        print_facts({n: v for n, v in facts.items() if n.startswith("eft_") and n != "eft_differing"})
        wrote(*written)
    if not any(c.store for c in report.categories):
        if not as_json:
            out.print(f"no category has {min_images} images")
        raise click.exceptions.Exit(ERROR_EXIT)
