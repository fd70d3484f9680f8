"""``chorus export coco`` and ``occupancy``: a store and an occupancy for other software."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus.commands.console import print_facts, print_json, progress_bars, wrote
from chorus.commands.options import INPUT, STORE, Number, OutputFile, OutputFolder, force_option, forced, json_option

_THRESHOLD = 0.1


@click.command("coco", short_help="A store as COCO's annotations and a .npz of poses.")
@click.argument("store_path", metavar="STORE", type=STORE)
@click.option("-o", "--output", type=OutputFolder("annotations.json"), required=True, help="Folder for the two files.")
@click.option("--prompt", "prompts", multiple=True, help="Only images of this prompt (repeatable).")
@force_option
@json_option()
def export_coco_command(store_path: Path, output: Path, prompts: tuple[str, ...], as_json: bool) -> None:
    """Write a store's complete images as annotations.json, COCO's instances, and poses.npz.

    `chorus ingest coco` reads them back: the same masks, poses and cameras, bit for bit. Scores, views and seeds are not
    written; the pictures that a store keeps are, by `chorus store pictures`.
    """
    from dataclasses import asdict

    from chorus.exports.coco import ANNOTATIONS, POSES, export_coco
    from chorus.files import check_output_file
    from chorus.store import open_store

    store = open_store(store_path, verify=False)
    if output.is_dir():  # a file of poses of one's own is not replaced
        check_output_file("--output", output / POSES, replace=forced())
    output.mkdir(parents=True, exist_ok=True)
    with progress_bars() as update:
        done = export_coco(
            store, output, prompt=list(prompts) or None, progress=lambda count, total: update("images", count, total)
        )
    files = [output / ANNOTATIONS, output / POSES]
    if as_json:
        print_json({**asdict(done), "wrote": files})
        return
    print_facts(asdict(done))
    wrote(*files)


@click.command("occupancy", short_help="An occupancy as .npy, NIfTI or PLY points.")
@click.argument("occupancy_path", metavar="OCCUPANCY", type=INPUT)
@click.option(
    "-o",
    "--output",
    type=OutputFile(".npy", ".nii", ".gz", ".ply", replace=True),
    required=True,
    help="The file: .npy, .nii, .nii.gz or .ply.",
)
@click.option(
    "--threshold",
    type=Number(0, 1),
    help=f"Points of a .ply: voxels of at least this probability.  [default: {_THRESHOLD}]",
)
@json_option()
def export_occupancy_command(occupancy_path: Path, output: Path, threshold: float | None, as_json: bool) -> None:
    """Write an occupancy's probabilities as a file that other software opens.

    .npy: (N, N, N) float32, and NAME.npy.json with the affine to metres from the pelvis (+x the person's left, +y up, +z
    forward). .nii, .nii.gz: NIfTI with an affine to millimetres, x to the right, y forward, z up; needs the extra `nifti`.
    .ply: points with colours and a probability each, for Blender, Open3D, MeshLab. A surface: `chorus mesh`.
    """
    from chorus.errors import InputError
    from chorus.experimental.sharpened import load_distribution
    from chorus.exports.volumes import export_points, export_volume
    from chorus.provenance import provenance

    if output.suffix == ".gz" and not output.name.endswith(".nii.gz"):
        raise InputError(f"--output: expected a name ending in .npy, .nii, .nii.gz or .ply, got {str(output)!r}")
    points = output.suffix.lower() == ".ply"
    if threshold is not None and not points:
        raise InputError("--threshold: expected with a .ply alone, whose points it chooses")
    occupancy = load_distribution(occupancy_path)
    phi, extent = occupancy.probability, occupancy.parameters.extent
    about = {
        **provenance(),
        "occupancy": str(occupancy_path),
        "body_hash": occupancy.body_hash,
        "field_hash": occupancy.field_hash,
    }
    facts: dict[str, Any] = {
        "voxels": f"{len(phi)}^3",
        "extent, metres": extent,
        "greatest probability": round(float(phi.max()), 4),
    }
    if points:
        facts["points"] = export_points(output, phi, extent, _THRESHOLD if threshold is None else threshold, about)
        files = [output]
    else:
        files = export_volume(output, phi, extent, about)
    if as_json:
        print_json({**facts, "wrote": files})
        return
    print_facts(facts)
    wrote(*files)
