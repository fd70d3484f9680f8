"""``chorus ingest coco``: COCO's annotations and a file of poses and cameras into a store."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import progress_bars
from chorus.commands.ingest_folder import cameras_option, first_frame_option, format_option, poses_option, print_import
from chorus.commands.interruption import stopping
from chorus.commands.options import INPUT, OutputStore, body_option, json_option


@click.command("coco", short_help="Take in COCO's annotations, and a file of poses and cameras.")
@click.argument("annotations", type=INPUT)
@poses_option
@format_option
@cameras_option
@first_frame_option
@click.option("-o", "--output", type=OutputStore(), required=True, help="The store to make or add to.")
@click.option("--category", required=True, help="The object, by its name in ANNOTATIONS.")
@click.option("--prompt", help="The prompt of all images.  [default: the category]")
@click.option("--person-masks", is_flag=True, help="Keep the masks of people, too; empty where none is annotated.")
@click.option("--images", "pictures", type=INPUT, help="A folder of the photographs, by their file names, to keep too.")
@click.option("--dry-run", is_flag=True, help="Look at everything and write nothing.")
@body_option
@json_option()
def ingest_coco_command(
    annotations: Path,
    poses: Path,
    format: str,
    cameras: Path | None,
    first_frame: int | None,
    output: Path,
    category: str,
    prompt: str | None,
    person_masks: bool,
    pictures: Path | None,
    dry_run: bool,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Fill a store from COCO's ANNOTATIONS (instances_*.json): polygons, run lengths, compressed or not.

    The file of poses is that of `chorus ingest folder`; its keys are the images' file names, with or without ending, or names
    that end in COCO's number of the image. Images without a pose are reported, and so are poses without an object. Crowds are
    left out. Of several objects and people in an image it is the pair whose boxes overlap most. The same command goes on where
    it was stopped. Polygons need the extra `coco`: pip install '.[coco]' in a checkout.
    """
    from chorus.body.model import load_body
    from chorus.ingest.coco_poses import ingest_coco_poses
    from chorus.ingest.mask_folder import Import
    from chorus.ingest.poses.formats import Poses

    with stopping("the images read so far") as stop, progress_bars() as update:
        report = ingest_coco_poses(
            annotations,
            Poses(poses, format, cameras, first_frame),
            load_body(body_path),
            Import(
                output,
                category,
                prompt,
                dry_run,
                person_masks=person_masks,
                stop=stop,
                progress=lambda done, total: update("images", done, total),
            ),
            pictures_folder=pictures,
        )
    print_import(report, output, dry_run=dry_run, as_json=as_json, stopped_code=stop.exit_code)
