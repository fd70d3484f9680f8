"""``chorus mesh``: the surface of an occupancy as a file that other tools open."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from chorus.commands.console import doubt_surface, print_facts, print_json, progress_bars, wrote
from chorus.commands.options import INPUT, MESH, Number, body_option, json_option
from chorus.commands.pose import inverse_option, load_given_body, read_pose

DEFAULT_THRESHOLD = 0.5
_UNITS = {"l": 1e-3, "m3": 1.0}


def read_volume(text: str) -> float:
    """Cubic metres from a text with a unit, as in "12l", "0.5 L", "0.012m3" or "0.012 m^3"; InputError for anything else."""
    from chorus.errors import InputError

    found = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(l|m3|m\^3)\s*", text, re.IGNORECASE)
    try:
        if found is None:
            raise ValueError
        return float(found[1]) * _UNITS[found[2].lower().replace("^", "")]
    except ValueError:
        raise InputError(f"--volume: expected a number with a unit, as in 12l or 0.012m3, got {text!r}") from None


@click.command("mesh", short_help="The surface of an occupancy as GLB, PLY or OBJ.")
@click.argument("occupancy_path", metavar="OCCUPANCY", type=INPUT)
@click.option("-o", "--output", type=MESH, required=True, help="The file: .glb, .ply or .obj.")
@click.option(
    "--threshold", type=Number(), help=f"Around the voxels of at least this probability.  [default: {DEFAULT_THRESHOLD}]"
)
@click.option("--mass", type=Number(), help="Around the fewest voxels that hold this share (0 to 1) of all probability.")
@click.option("--volume", help="Enclosing this volume, in litres or m^3: 12l, 0.012m3.")
@click.option(
    "--pose",
    "pose_path",
    type=INPUT,
    help="Around a person in this pose: .npy, .npz or a record's folder.",
)
@click.option("--with-body", is_flag=True, help="Also the body, at rest or posed, as a second node in another colour.")
@inverse_option
@click.option(
    "--interpolation",
    type=click.Choice(["nearest", "trilinear"]),
    default="trilinear",
    show_default=True,
    help="With --pose: how the probability is read between voxels; nearest makes a surface of steps.",
)
@body_option
@json_option()
def mesh_command(
    occupancy_path: Path,
    output: Path,
    threshold: float | None,
    mass: float | None,
    volume: str | None,
    pose_path: Path | None,
    with_body: bool,
    inverse: str,
    interpolation: str,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """The surface of an occupancy, as a file for 3D tools.

    By marching cubes; in metres from the pelvis: +x the person's left, +y up, +z forward. Needs the extra `mesh`:
    pip install '.[mesh]' in a checkout.
    """
    from dataclasses import asdict

    from chorus.errors import InputError
    from chorus.experimental.sharpened import load_distribution
    from chorus.occupancy.posed import body_of
    from chorus.occupancy.surfaces import (
        OBJECT,
        PERSON,
        body_mesh,
        choose_threshold,
        describe,
        surface,
        write_meshes,
    )
    from chorus.provenance import provenance

    cubic_metres = None if volume is None else read_volume(volume)
    if threshold is None and mass is None and cubic_metres is None:
        threshold = DEFAULT_THRESHOLD
    occupancy = load_distribution(occupancy_path)
    phi, extent = occupancy.probability, occupancy.parameters.extent
    given = load_given_body(body_path)
    pose = None
    if pose_path is not None:
        pose = read_pose(pose_path)
        if pose.ndim == 3:
            if len(pose) != 1:
                raise InputError(f"--pose: expected one pose, (J, 3), got {len(pose)} in {pose_path}")
            pose = pose[0]
        with progress_bars() as update:
            phi = occupancy.posed(
                pose,
                given,
                inverse=inverse,
                interpolation=interpolation,
                progress=lambda done, total: update("poses", done, total),
            )
    chosen = choose_threshold(phi, extent, threshold, mass, cubic_metres)
    found = surface(phi, extent, chosen)
    meshes = {OBJECT: found}
    if with_body:
        body = body_of(occupancy.body_hash, given)
        vertices = body.rest_vertices if pose is None else body.posed_vertices(pose[None])[0]
        meshes[PERSON] = body_mesh(vertices, body.faces)
    made_of = {
        **provenance(),
        "occupancy": str(occupancy_path),
        "body_hash": occupancy.body_hash,
        "field_hash": occupancy.field_hash,
        "occupancy_provenance": occupancy.provenance,
        "threshold": chosen,
        "pose": None if pose is None else pose.tolist(),
        "inverse": inverse,
        "interpolation": interpolation,
    }
    write_meshes(output, meshes, made_of)
    described = describe(found)
    facts: dict[str, Any] = {"threshold": round(chosen, 6), **asdict(described)}
    doubt_surface(described.pieces, described.volume_m3)
    if as_json:
        print_json({**facts, "wrote": [output]})
        return
    litres = 1000 * facts.pop("volume_m3")
    low, high = ([round(c, 3) for c in facts.pop(corner)] for corner in ("low", "high"))
    facts["area_m2"] = round(facts["area_m2"], 4)
    print_facts({**facts, "volume": f"{litres:.4g} l", "from, metres": low, "to, metres": high})
    wrote(output)
