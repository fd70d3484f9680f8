"""``chorus evaluate pap``: projective average precision on test stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    share_option,
)
from chorus.commands.shares import check_share, tell_share
from chorus.texts import counted

if TYPE_CHECKING:
    from chorus.evaluate.pap.categories import PapReport
    from chorus.ranks import Share


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
@share_option
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
    share: Share,
    output: Path | None,
    csv_path: Path | None,
    picture: Path | None,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Score occupancies, posed, against the masks of test images.

    The score is the projective average precision (PAP) of the paper. Scored are the complete images of the occupancy's own
    prompts and body parts, unless others are asked for; of a test store without prompts, such as those of COCO, all. Stopped by
    Ctrl-C or a kill, what is scored is kept beside the file of -o, and the same command goes on. With --share a part of the
    images is scored, and kept there, too; the same command without --share then takes what all shares have kept, scores what is
    missing, and writes the scores.
    """
    from chorus.body.model import load_body
    from chorus.evaluate.pap.categories import evaluate_pap, evaluate_pap_share, posing
    from chorus.evaluate.pap.pixels import PapProtocol
    from chorus.evaluate.unfinished import Unfinished
    from chorus.experimental.sharpened import load_distribution

    check_share(share, output, picture=picture, csv=csv_path)
    body, unfinished = load_body(body_path), Unfinished.beside(output, share)
    loaded = [load_distribution(path) for path in occupancies]
    scored = [0, 0]

    def count(done: int, total: int) -> None:
        scored[:] = done, total
        update("score images", done, total)

    def kept() -> str:
        where = "nothing is kept (with -o FILE it would be)" if output is None else unfinished.where("images", len)
        return f"{scored[0]:,} of {scored[1]:,} images were scored; {where}" if scored[1] else f"no image was scored; {where}"

    with kept_when_stopped(kept), progress_bars() as update:
        how: dict[str, Any] = {
            "pose_occupancy": posing(body, inverse, backend),
            "body": body,
            "aware": not no_aware,
            "protocol": PapProtocol(splat=splat, interpolation=interpolation),
            "device": device,
            "prompt": list(prompts) or None,
            "part": part,
            "progress": count,
            "unfinished": unfinished,
        }
        if share.whole:
            report = evaluate_pap(loaded, stores, min_images=min_images, **how)
        else:
            now = evaluate_pap_share(share, loaded, stores, **how)
    if not share.whole:
        in_all = sum(len(block) for _, block in unfinished.own)
        tell_share(share, (now, counted(now, "image")), in_all, unfinished.path, as_json)
        return
    written = _write(report, output, csv_path, picture)
    unfinished.finish()
    _print(report, written, as_json)


def _write(report: PapReport, output: Path | None, csv_path: Path | None, picture: Path | None) -> list[Path]:
    """Write the files that were asked for; their paths."""
    from chorus.files import write_json

    if output is not None:
        write_json(output, report.to_json())
    if csv_path is not None:
        report.write_csv(csv_path)
    if picture is not None:
        from chorus.figures.precision_recall import save_curves

        save_curves(picture, report)
    return [path for path in (output, csv_path, picture) if path is not None]


def _print(report: PapReport, written: list[Path], as_json: bool) -> None:
    from chorus.evaluate.pap.categories import category_table

    if as_json:
        print_json({**report.to_json(), "wrote": written})
        return
    print_table(category_table(report))
    for source in report.sources:
        for store in source["stores"]:
            out.print(f"{store['path']}: {store['selected']['text']}")
    wrote(*written)
