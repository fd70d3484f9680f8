"""``chorus evaluate pap``: projective average precision on test stores."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import kept_when_stopped, out, print_json, print_table, progress_bars, wrote
from chorus.commands.options import (
    INPUT,
    PICTURE,
    STORE,
    Count,
    OutputFile,
    body_option,
    force_option,
    joined_part_option,
    joined_prompt_option,
    json_option,
)


@click.command("pap", short_help="Score occupancies against the masks of test images.")
@click.argument("stores", metavar="TEST_STORE...", nargs=-1, required=True, type=STORE)
@click.option(
    "--occupancy",
    "occupancies",
    multiple=True,
    required=True,
    type=INPUT,
    help="An occupancy of `chorus aggregate` (repeatable, one for each category).",
)
@joined_prompt_option
@joined_part_option
@click.option(
    "--splat",
    type=click.Choice(["centre", "footprint"]),
    default="centre",
    show_default=True,
    help="A voxel is the pixel of its centre (the paper's), or all pixels it overlaps.",
)
@click.option(
    "--interpolation",
    type=click.Choice(["all-point", "11-point"]),
    default="all-point",
    show_default=True,
    help="How precision is interpolated over recall.",
)
@click.option(
    "--inverse",
    type=click.Choice(["blend_of_inverses", "inverse_of_blend"]),
    default="blend_of_inverses",
    show_default=True,
    help="How voxels are taken back to the rest pose.",
)
@click.option(
    "--min-images",
    default=30,
    show_default=True,
    type=Count(),
    help="Test images that a category needs to enter mPAP.",
)
@click.option("--no-aware", is_flag=True, help="Leave out the occlusion-aware scores.")
@click.option("--backend", default="auto", show_default=True, help="For the posed field: auto, triton, numba or reference.")
@click.option("--device", help="Render in batches on this torch device, e.g. cuda; default: on the CPU's threads.")
@click.option("-o", "--output", type=OutputFile(), help="Also write everything as JSON.")
@click.option("--csv", "csv_path", type=OutputFile(), help="Also write each image's scores as CSV.")
@click.option("--picture", type=PICTURE, help="Also draw precision-recall curves (PNG).")
@force_option
@body_option
@json_option("Print everything as JSON.")
def evaluate_pap_command(
    stores: tuple[Path, ...],
    occupancies: tuple[Path, ...],
    prompts: tuple[str, ...],
    part: str | None,
    splat: str,
    interpolation: str,
    inverse: str,
    min_images: int,
    no_aware: bool,
    backend: str,
    device: str | None,
    output: Path | None,
    csv_path: Path | None,
    picture: Path | None,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Score occupancies, posed, against the masks of test images.

    The score is the projective average precision (PAP) of the paper. Scored are the complete images of the occupancy's own
    prompts and body parts, unless others are asked for; of a test store without prompts, such as those of COCO, all.
    """
    from chorus.body.model import load_body
    from chorus.evaluate.pap.categories import category_table, evaluate_pap, posing
    from chorus.evaluate.pap.pixels import PapProtocol
    from chorus.experimental.sharpened import load_distribution
    from chorus.files import write_json

    body = load_body(body_path)
    loaded = [load_distribution(path) for path in occupancies]
    scored = [0, 0]

    def count(done: int, total: int) -> None:
        scored[:] = done, total
        update("score images", done, total)

    with (
        kept_when_stopped(lambda: f"{scored[0]:,} of {scored[1]:,} images were scored; nothing is written"),
        progress_bars() as update,
    ):
        report = evaluate_pap(
            loaded,
            stores,
            pose_occupancy=posing(body, inverse, backend),
            body=body,
            aware=not no_aware,
            protocol=PapProtocol(splat=splat, interpolation=interpolation),
            min_images=min_images,
            device=device,
            prompt=list(prompts) or None,
            part=part,
            progress=count,
        )
    written = []
    if output is not None:
        write_json(output, report.to_json())
        written.append(output)
    if csv_path is not None:
        report.write_csv(csv_path)
        written.append(csv_path)
    if picture is not None:
        from chorus.figures.precision_recall import save_curves

        save_curves(picture, report)
        written.append(picture)
    if as_json:
        print_json({**report.to_json(), "wrote": written})
        return
    print_table(category_table(report))
    for source in report.sources:
        for store in source["stores"]:
            out.print(f"{store['path']}: {store['selected']['text']}")
    wrote(*written)
