"""Filling stores: ``chorus synthesize``, ``chorus ingest images``, ``chorus remake``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus.commands.console import print_json, progress_bars, wrote
from chorus.commands.interruption import stopping
from chorus.commands.options import INPUT, SEED, Count, Number, OutputFile, OutputStore, body_option, force_option, json_option
from chorus.commands.stage_options import assigned_options
from chorus.commands.synthesis_report import say_done, say_plan

if TYPE_CHECKING:
    from chorus.body.model import Body
    from chorus.frontend.job import Job, StageChoices
    from chorus.frontend.run import Settings

_STAGE = "NAME or NAME=MODEL, where MODEL is a hub id or a local path; `chorus stages` lists them. Or module:Class."


def run_options(**others: Callable[..., Any] | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds the options which commands that fill a store share; by name, others in their place, or none."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Callable[..., Any] | None] = {
            "output": click.option("-o", "--output", type=OutputStore(), required=True, help="The store."),
            "detector": click.option(
                "--detector", default="mask2former", show_default=True, help="What finds people and objects."
            ),
            "keypoints": click.option("--keypoints", default="vitpose", show_default=True, help="What finds keypoints."),
            "humans": click.option("--humans", help="What finds 3D poses; no default, because you must obtain its weights."),
            "assignments": click.option(
                "--set", "assignments", multiple=True, metavar="KIND.NAME=VALUE", help="An option of a stage."
            ),
            "device": click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
            "dtype": click.option("--dtype", default="auto", show_default=True, help="auto, float32, float16 or bfloat16."),
            "batch": click.option(
                "--batch",
                default=16,
                show_default=True,
                type=Count(),
                help="Images that go through the stages together.",
            ),
            "model_batch": click.option(
                "--model-batch",
                type=Count(),
                help="Most images given to a model at a time; default: what memory holds.",
            ),
            "camera_fit": click.option(
                "--camera-fit",
                default="adam",
                show_default=True,
                help="How a camera is fitted to a person's joints; adam is the paper's way.",
                type=click.Choice(["adam", "levenberg-marquardt"]),
            ),
            "focal": click.option(
                "--focal",
                default="auto",
                show_default=True,
                type=click.Choice(["auto", "fitted", "fixed"]),
                help="Focal length: fitted, as in the paper; fixed, to a view of 46.4 degrees across the image; auto: fixed "
                "where the 3D pose comes with a camera without perspective.",
            ),
            "person_masks": click.option(
                "--person-masks", is_flag=True, help="Keep the masks of the person as well as the object's."
            ),
            "keep_images": click.option(
                "--keep-images",
                default="none",
                show_default=True,
                type=click.Choice(["none", "complete", "all"]),
                help="Keep the pictures in the store: none, those with mask, pose and camera, or all.",
            ),
            "keep_format": click.option(
                "--keep-format",
                default="jpeg",
                show_default=True,
                type=click.Choice(["jpeg", "png"]),
                help="How pictures are kept: as JPEG, or as PNG, which loses nothing.",
            ),
            "commit_seconds": click.option(
                "--commit-seconds",
                default=120.0,
                show_default=True,
                type=Number(min=0),
                help="Seconds between commits: what a crash can lose.",
            ),
            "accept_changes": click.option(
                "--accept-changes", is_flag=True, help="Add to a store that was made with other stages or settings."
            ),
            "dry_run": click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
            "body": body_option,
            "json": json_option(),
        }
        for option in reversed([*{**options, **others}.values()]):
            command = command if option is None else option(command)
        return command

    return decorate


@click.command("synthesize", short_help="From a category's name to a filled store, by models.")
@click.argument("category")
@click.option("--prompts", "prompt_source", default="builtin", show_default=True, help="Where prompts come from. " + _STAGE)
@click.option(
    "--prompt-count",
    type=Count(),
    help="At most this many; default: as many as the paper has for the category, else 10.",
)
@click.option("--images", "image_source", default="stable-diffusion", show_default=True, help="What makes images.")
@click.option("--count", type=Count(), help="Images in all; default: as many as the paper has for the category.")
@click.option(
    "--view",
    "views",
    multiple=True,
    help='Only with this of the 22 additions to a prompt, such as "side view"; "" is none of them (repeatable).',
)
@click.option("--seed", default=0, show_default=True, type=SEED, help="Of the random numbers that images begin with.")
@click.option("--simulated", is_flag=True, help="A simulated world plays every stage: to try this without any model.")
@run_options()
def synthesize_command(
    category: str,
    prompt_source: str,
    prompt_count: int | None,
    image_source: str,
    count: int | None,
    views: tuple[str, ...],
    seed: int,
    simulated: bool,
    output: Path,
    body_path: Path | None,
    **options: Any,
) -> None:
    """From a CATEGORY's name to a filled store: prompts, images, detection, keypoints, 3D pose, camera.

    Stops cleanly on Ctrl-C; the same command goes on where it stopped. Under torchrun every process takes its share.
    """
    from dataclasses import replace

    from chorus.body.model import load_body
    from chorus.errors import InputError
    from chorus.frontend.job import PlanOptions, StageChoices, check_views, plan_synthesis
    from chorus.ranks import ranks

    assigned = assigned_options(options["assignments"])
    if simulated:
        _refuse_beside_simulated()
        stages = StageChoices.simulated(assigned)
    else:
        stages = replace(analysis_stages(options, assigned), images=image_source, prompts=prompt_source)
    try:
        check_views(views)
    except InputError as error:
        raise click.BadParameter(str(error).removeprefix("views: ")) from None
    plan, body = PlanOptions(count, prompt_count, views, seed), load_body(body_path)
    with ranks() as processes:
        job = plan_synthesis(
            category,
            output,
            stages,
            plan,
            settings_of(options),
            body=body,
            processes=processes,
            accept_changes=options["accept_changes"],
            ask=not options["dry_run"],
        )
        run_job(job, body, options)


@click.command("images", short_help="Take in pictures, through detection, 3D pose and camera.")
@click.argument("folder", type=INPUT)
@click.option("--category", required=True, help="The object that the pictures show people with.")
@click.option("--prompt", help="The prompt of all pictures; default: the name of each picture's folder.")
@run_options()
def ingest_images_command(
    folder: Path, category: str, prompt: str | None, output: Path, body_path: Path | None, **options: Any
) -> None:
    """Send existing pictures (an image search) through detection, keypoints, 3D pose and camera into a store.

    Pictures are resized to a shorter side of 512 pixels and cut to their centre, as in the paper.
    """
    from chorus.body.model import load_body
    from chorus.frontend.job import plan_folder
    from chorus.ranks import ranks

    stages = analysis_stages(options, assigned_options(options["assignments"]))
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


@click.command("remake", short_help="Make one image of a store again.")
@click.argument("store_path", metavar="STORE", type=INPUT)
@click.argument("key")
@click.option("-o", "--output", type=OutputFile(".png"), required=True, help="The PNG to write.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--dtype", help="Default: the type that the run used.")
@force_option
@body_option
@json_option()
def remake_command(
    store_path: Path, key: str, output: Path, device: str, dtype: str | None, body_path: Path | None, as_json: bool
) -> None:
    """Make one image of a store again, from its prompt, view and seed."""
    import numpy as np
    from PIL import Image

    from chorus.body.model import load_body
    from chorus.errors import InputError
    from chorus.files import write_atomically
    from chorus.frontend.plan import Description
    from chorus.frontend.preparing import stage_options
    from chorus.frontend.registry import make
    from chorus.frontend.run import Settings
    from chorus.frontend.stages import ImageRequest, Refusal, Runtime
    from chorus.ranks import Ranks
    from chorus.store import open_store

    if Description.load(store_path) is None:
        raise InputError(f"STORE: expected one that the front end made, got {str(store_path)!r}")
    store = open_store(store_path, verify=False)
    rows = store.rows
    found = np.flatnonzero(rows["key"] == key.encode())
    if not found.size:
        raise InputError(f"KEY: expected one of the store's {len(rows['key'])} keys, got {key!r}")
    row = int(found[0])
    # The shard tells what it was made with. The description is of the last run, which --accept-changes allows to differ.
    shard = int(np.searchsorted(np.cumsum([len(s) for s in store.shards]), row, side="right"))
    made_with = store.shards[shard].provenance.get("frontend")
    if made_with is None:
        raise InputError(f"KEY: expected one that the front end made, got {key!r}, which was put into the store by other means")
    where, dtype = Settings(device, dtype or made_with["settings"].get("dtype", "auto")).resolved(Ranks())
    runtime = Runtime(where, dtype, None, stage_options(made_with["options"], "images"), load_body(body_path))
    source = make("images", made_with["stages"]["images"], runtime)
    made = source.images([ImageRequest(key, str(rows["prompt"][row]), str(rows["view"][row]), int(rows["seed"][row]))])[0]
    if isinstance(made, Refusal):
        raise InputError(f"KEY: expected an image that can be made again, got {key!r}: {made.reason}")
    picture = Image.fromarray(made.pixels)
    write_atomically(output, lambda part: picture.save(part, "PNG"))
    if as_json:
        print_json({"wrote": [output]})
        return
    wrote(output)


def analysis_stages(options: dict[str, Any], assigned: dict[str, str]) -> StageChoices:
    """The choice of the stages after the images, with the options of all stages. UsageError without ``--humans``."""
    from chorus.frontend.job import StageChoices

    if not options["humans"]:
        raise click.UsageError("--humans: expected NAME=MODEL, as hmr=CHECKPOINT or records=FILE; see `chorus stages`")
    return StageChoices(options["humans"], options["detector"], options["keypoints"], options=assigned)


def _refuse_beside_simulated() -> None:
    """UsageError for a stage chosen beside --simulated, which chooses all stages: it would be ignored without a word."""
    context = click.get_current_context()
    for name, option in (
        ("prompt_source", "--prompts"),
        ("image_source", "--images"),
        ("detector", "--detector"),
        ("keypoints", "--keypoints"),
        ("humans", "--humans"),
    ):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option}: expected none beside --simulated, which plays every stage")


def settings_of(options: dict[str, Any]) -> Settings:
    """The settings of a run from its options."""
    from chorus.frontend.run import Settings

    return Settings(
        options["device"],
        options["dtype"],
        options["batch"],
        options["model_batch"],
        {"method": options["camera_fit"], "focal": options["focal"]},
        person_masks=options["person_masks"],
        keep_images=options["keep_images"],
        keep_format=options["keep_format"],
        commit_seconds=options["commit_seconds"],
    )


def run_job(job: Job, body: Body, options: dict[str, Any]) -> None:
    """Run a job, or show its plan (--dry-run); the first process prints. Exit code 130 (Ctrl-C) or 143 (SIGTERM) where the
    run was asked to stop."""
    first = job.ranks.first
    if options["dry_run"]:
        if first:
            say_plan(job, options["as_json"])
        return
    with stopping("the batches under way") as stop, progress_bars() if first else nullcontext() as update:
        report = job.run(
            body,
            stop=stop,
            progress=None if update is None else lambda now, total: update("images", now.images, total),
        )
    if first:
        say_done(job, report, options["as_json"])
    if report.stopped:
        raise click.exceptions.Exit(stop.exit_code)
