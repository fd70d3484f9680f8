"""``chorus reconstruct``: human and object in 3D from one photograph, with its record or by the front end's estimators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus.commands.console import doubt_surface, print_facts, print_json, progress_bars, wrote
from chorus.commands.options import INPUT, Count, Number, OutputFolder, body_option, force_option, json_option
from chorus.commands.stage_options import assigned_options
from chorus.texts import counted

if TYPE_CHECKING:
    from chorus.body.model import Body
    from chorus.reconstruct.scene import Scene


@click.command("reconstruct", short_help="Person and object in 3D from one photograph.")
@click.argument("record", metavar="RECORD|PHOTO", type=INPUT)
@click.option(
    "--occupancies",
    multiple=True,
    required=True,
    type=INPUT,
    help="A folder of `chorus aggregate --all`, a folder of such folders, or an occupancy file (repeatable).",
)
@click.option("-o", "--output", type=OutputFolder("reconstruction.json"), required=True, help="The folder to write to.")
@click.option("--category", help="The object's category, instead of the record's.")
@click.option("--photo", type=INPUT, help="The photograph; default: photo.jpg, .png, ... in the record.")
@click.option(
    "--threshold",
    type=Number(),
    help="Around voxels of this probability or more; default: what agrees best with the object's mask.",
)
@click.option("--mass", type=Number(), help="Instead of --threshold: the surface holds this share of all probability.")
@click.option("--min-images", default=30, show_default=True, type=Count(), help="Images that a distribution needs.")
@click.option(
    "--min-support",
    default=5,
    show_default=True,
    type=Count(),
    help="Images that must have seen a voxel; else it is empty.",
)
@click.option(
    "--round-trip",
    default=0.2,
    show_default=True,
    type=Number(min=0, min_open=True, infinite=True),
    help="Posed voxels whose canonical voxel is posed farther away than this, metres, are emptied; inf: none are.",
)
@click.option(
    "--inverse",
    type=click.Choice(["blend_of_inverses", "inverse_of_blend"]),
    default="blend_of_inverses",
    show_default=True,
    help="How voxels are taken back to the rest pose.",
)
@click.option("--backend", default="auto", show_default=True, help="For the posed field: auto, triton, numba or reference.")
@click.option(
    "--detector",
    default="mask2former",
    show_default=True,
    help="Of a PHOTO: what finds person and object; NAME or NAME=MODEL, as `chorus stages` lists them.",
)
@click.option(
    "--object-mask",
    type=INPUT,
    help="Of a PHOTO: the mask of the object, a picture of its size; then nothing is looked for but the person.",
)
@click.option("--humans", default="blazepose", show_default=True, help="Of a PHOTO: what finds the 3D pose.")
@click.option("--set", "assignments", multiple=True, metavar="KIND.NAME=VALUE", help="Of a PHOTO: an option of a stage.")
@click.option("--device", default="auto", show_default=True, help="Of a PHOTO: auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--camera-fit",
    default="levenberg-marquardt",
    show_default=True,
    type=click.Choice(["levenberg-marquardt", "adam"]),
    help="Of a PHOTO: how the camera is fitted to the joints; adam is the paper's.",
)
@force_option
@body_option
@json_option("Print what reconstruction.json holds.")
def reconstruct_command(
    record: Path,
    occupancies: tuple[Path, ...],
    output: Path,
    category: str | None,
    photo: Path | None,
    threshold: float | None,
    mass: float | None,
    min_images: int,
    min_support: int,
    round_trip: float,
    inverse: str,
    backend: str,
    detector: str,
    object_mask: Path | None,
    humans: str,
    assignments: tuple[str, ...],
    device: str,
    camera_fit: str,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Human and object in 3D from one photograph.

    Writes a GLB, an overlay and scores. From a RECORD's folder: pose, camera or keypoints, object mask. Or from a PHOTO alone:
    the object whose box overlaps a person's most is found among the stored categories, then the person's pose and camera.
    """
    from chorus.body.model import load_body
    from chorus.errors import InputError
    from chorus.reconstruct.scene import read_scene
    from chorus.reconstruct.single_view import reconstruct, write_reconstruction

    body = load_body(body_path)
    if record.is_file():
        if photo is not None:
            raise InputError(f"--photo: expected it beside a record's folder alone, got it with the photograph {str(record)!r}")
        source = click.get_current_context().get_parameter_source("detector")
        if object_mask is not None and source is click.core.ParameterSource.COMMANDLINE:
            raise InputError(f"--detector: expected none beside --object-mask, which takes its place; got {detector!r}")
        specs = {"detector": detector if object_mask is None else f"given={object_mask}", "humans": humans}
        scene = _estimated(record, occupancies, body, category, specs, assignments, device, camera_fit)
    else:
        if object_mask is not None:
            raise InputError(f"--object-mask: expected it beside a photograph, got it with the record {str(record)!r}")
        scene = read_scene(record, body, photo)
    with progress_bars() as update:
        result = reconstruct(
            scene,
            occupancies,
            body,
            category=category,
            threshold=threshold,
            mass=mass,
            min_images=min_images,
            min_support=min_support,
            round_trip=round_trip,
            inverse=inverse,
            backend=backend,
            progress=lambda done, total: update("compare distributions", done, total),
        )
    written = write_reconstruction(output, result)
    facts = result.to_json()
    doubt_surface(facts["object"]["pieces"], facts["object"]["volume_m3"])
    if as_json:
        print_json({**facts, "wrote": written})
        return
    residual = facts["camera"]["residual_px"]
    chosen, shape = facts["chosen"], facts["object"]
    print_facts(
        {
            "category": f"{chosen['category']} ({chosen['category_from']})",
            "prompt": chosen["prompt"] or "any",
            "part": chosen["part"] or "any",
            "chosen_as": chosen["cluster_from"],
            "candidates": f"{sum(not c['skipped'] for c in facts['candidates'])} of {len(facts['candidates'])} stored",
            "threshold": f"{facts['threshold']['value']:.3f} ({facts['threshold']['from']})",
            "camera": facts["camera"]["from"] + ("" if residual is None else f", mean distance {residual:.1f} px"),
            "object": f"{1000 * shape['volume_m3']:.1f} litres in {counted(shape['pieces'], 'piece')}, centre "
            + ", ".join(f"{c:.2f}" for c in shape["centre"])
            + " m",
            "silhouette_iou": "no mask" if shape["silhouette_iou"] is None else f"{shape['silhouette_iou']:.2f}",
        }
    )
    wrote(*written)


def _estimated(
    photo: Path,
    occupancies: tuple[Path, ...],
    body: Body,
    category: str | None,
    specs: dict[str, str],
    assignments: tuple[str, ...],
    device: str,
    camera_fit: str,
) -> Scene:
    """The scene of a photograph that has no record, by stages of the front end.

    A mask that is given is of the category that is wanted, or of none that is known: the distributions tell then.
    """
    from dataclasses import replace

    from chorus.frontend.devices import resolve
    from chorus.frontend.preparing import check_choices, make_stages
    from chorus.frontend.stages import Runtime
    from chorus.reconstruct.distributions import stored_categories
    from chorus.reconstruct.photo import estimate_scene

    where, dtype = resolve(device, "float32")
    given, options = specs["detector"].startswith("given="), assigned_options(assignments)
    if given and specs["humans"].startswith("blazepose="):  # its file has the detector of people, too
        options.setdefault("detector.weights", specs["humans"].partition("=")[2])
    runtime = Runtime(where, dtype, body=body)
    looked_for = category or "object" if given else category
    check_choices(specs, options, runtime, looked_for)
    categories = stored_categories(occupancies)
    stages = make_stages(specs, options, runtime, looked_for)
    detector, estimator = stages["detector"], stages["humans"]
    scene = estimate_scene(
        photo, categories, detector, estimator, body, category=looked_for, method=camera_fit, estimators=specs
    )
    return replace(scene, category=category) if given else scene
