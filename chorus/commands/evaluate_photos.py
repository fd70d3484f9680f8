"""``chorus evaluate photos``: 3D pose and camera against annotated photographs."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import print_facts, print_json, progress_bars, wrote
from chorus.commands.options import INPUT, PICTURE, Count, OutputFile, body_option, force_option, json_option
from chorus.commands.stage_options import assigned_options


@click.command("photos", short_help="3D pose and camera against annotated photographs.")
@click.argument("folder", type=INPUT)
@click.option("--annotations", type=INPUT, required=True, help="COCO's person_keypoints (.json), with masks if it has them.")
@click.option("--humans", default="blazepose", show_default=True, help="What finds 3D poses; NAME or NAME=MODEL.")
@click.option("--set", "assignments", multiple=True, metavar="KIND.NAME=VALUE", help="An option of the stage.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--camera-fit",
    default="levenberg-marquardt",
    show_default=True,
    type=click.Choice(["levenberg-marquardt", "adam"]),
    help="How the camera is fitted to the joints; adam is the paper's.",
)
@click.option("--picture", type=PICTURE, help="Also draw the posed bodies of the largest errors over their photographs (PNG).")
@click.option("--worst", default=12, show_default=True, type=Count(), help="How many the picture shows.")
@click.option("-o", "--output", type=OutputFile(".json"), help="Also write the figures as JSON.")
@force_option
@body_option
@json_option()
def evaluate_photos_command(
    folder: Path,
    annotations: Path,
    humans: str,
    assignments: tuple[str, ...],
    device: str,
    camera_fit: str,
    picture: Path | None,
    worst: int,
    output: Path | None,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """3D pose and camera of the annotated people in a FOLDER's photographs, against their keypoints and masks.

    Errors are distances in the image between annotated shoulders, elbows, wrists, hips, knees and ankles and those of the posed
    body, in percent of the person's height standing upright.
    """
    from chorus.body.model import load_body
    from chorus.evaluate.photos import evaluate_photos
    from chorus.evaluate.photos import worst as worst_people
    from chorus.files import write_json
    from chorus.frontend.devices import resolve
    from chorus.frontend.preparing import make_stages
    from chorus.frontend.stages import Runtime

    body = load_body(body_path)
    where, dtype = resolve(device, "float32")
    stages = make_stages({"humans": humans}, assigned_options(assignments), Runtime(where, dtype, body=body))
    with progress_bars() as update:
        report = evaluate_photos(
            folder,
            annotations,
            stages["humans"],
            body,
            method=camera_fit,
            progress=lambda done, total: update("people", done, total),
        )
    facts = {"humans": humans, "camera_fit": camera_fit, **report.to_json()}
    written = []
    if output is not None:
        write_json(output, facts)
        written.append(output)
    if picture is not None:
        from chorus.figures.photos import save_people

        save_people(picture, folder, worst_people(report.people, worst), body)
        written.append(picture)
    if as_json:
        print_json({**facts, "wrote": written})
        return
    ranked = facts.pop("worst_first")
    by_joint = facts.pop("median_percent_by_joint")
    print_facts({name: "unknown" if value is None else value for name, value in facts.items()})
    print_facts({name: "unknown" if value is None else f"{value:.1f} %" for name, value in by_joint.items()})
    refused = [f"{p['file']} ({p['annotation']}): {p['reason']}" for p in ranked if "reason" in p]
    poor = [f"{p['file']} ({p['annotation']}): {p['median_percent']:.1f} %" for p in ranked if "reason" not in p][:5]
    print_facts({**({"no pose": "; ".join(refused)} if refused else {}), "largest errors": "; ".join(poor) or "none"})
    wrote(*written)
