"""``chorus ingest photos``: photographs whose objects' masks are known, without a hub, a licence to sign or a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus.commands.options import INPUT
from chorus.commands.stage_options import assigned_options
from chorus.commands.synthesize import run_job, run_options, settings_of

_HUMANS = "What finds 3D poses; NAME or NAME=MODEL, as `chorus stages` lists them."


@click.command("photos", short_help="Take in photographs with masks of the object, on any laptop.")
@click.argument("folder", type=INPUT)
@click.option(
    "--masks",
    type=INPUT,
    required=True,
    help="The object's masks: a folder with FOLDER/NAME.png for the photograph NAME.jpg, or COCO's instances (.json).",
)
@click.option("--category", required=True, help="The object; in COCO's file by its name there.")
@click.option("--prompt", help="The prompt of all photographs; default: the name of each one's folder.")
@run_options(
    detector=None,
    keypoints=click.option("--keypoints", help="What finds keypoints.  [default: blazepose, with the weights of --humans]"),
    humans=click.option("--humans", default="blazepose", show_default=True, help=_HUMANS),
    camera_fit=click.option(
        "--camera-fit",
        default="levenberg-marquardt",
        show_default=True,
        help="How a camera is fitted to a person's joints; adam is the paper's way.",
        type=click.Choice(["adam", "levenberg-marquardt"]),
    ),
    keep_images=click.option(
        "--keep-images",
        default="complete",
        show_default=True,
        type=click.Choice(["none", "complete", "all"]),
        help="Keep the pictures in the store: none, those with mask, pose and camera, or all.",
    ),
)
def ingest_photos_command(
    folder: Path, masks: Path, category: str, prompt: str | None, output: Path, body_path: Path | None, **options: Any
) -> None:
    """Photographs of people with an object whose mask is known, through 3D pose and camera into a store.

    The person is found by BlazePose, whose weights one command fetches (`python -m chorus.frontend.blazepose`), or taken from
    COCO's annotations. Photographs keep their size. Of several people and objects it is the pair whose boxes overlap most.
    """
    from chorus.body.model import load_body
    from chorus.frontend.job import StageChoices, plan_folder
    from chorus.ranks import ranks

    chosen = {"images.crop": "none", **assigned_options(options["assignments"])}
    name, _, weights = options["humans"].partition("=")
    ours = name == "blazepose"
    if ours and weights:  # its file has the detector of people, too
        chosen.setdefault("detector.weights", weights)
    keypoints = options["keypoints"] or (options["humans"] if ours else "blazepose")
    stages = StageChoices(options["humans"], f"given={masks}", keypoints, options=chosen)
    body = load_body(body_path)
    with ranks() as processes:
        job = plan_folder(
            folder,
            category,
            output,
            stages,
            settings_of(options),
            prompt=prompt,
            body=body,
            processes=processes,
            accept_changes=options["accept_changes"],
        )
        run_job(job, body, options)
