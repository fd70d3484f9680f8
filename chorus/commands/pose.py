"""``chorus pose`` and ``chorus evaluate roundtrip``: occupancies around posed people, and how well posing can be undone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus.commands.console import doubt_surface, print_facts, print_json, print_table, progress_bars, wrote
from chorus.commands.options import (
    INPUT,
    MESH,
    PICTURE,
    SEED,
    Count,
    Number,
    OutputFile,
    body_option,
    force_option,
    json_option,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chorus.body.model import Body

inverse_option = click.option(
    "--inverse",
    type=click.Choice(["blend_of_inverses", "inverse_of_blend"]),
    default="blend_of_inverses",
    show_default=True,
    help="How points are taken back to the rest pose.",
)


def read_pose(path: Path) -> NDArray[np.float64]:
    """A pose, (J, 3) axis-angle in radians with a zero row 0, or several, (n, J, 3).

    path  a .npy file; a .npz file with one array, or with one named ``pose``; or a record's folder (docs/records.md), whose
          global orientation is left out

    Raises InputError for a path that is none of these, and for arrays of another shape or with numbers that are not finite.
    """
    import zipfile

    import numpy as np

    from chorus.errors import InputError, check_array
    from chorus.ingest.record import read_record
    from chorus.npz import read_npy, read_npz
    from chorus.units import UnitCheck, other_rotations

    if path.is_dir():
        return read_record(path).pose
    try:
        arrays = read_npz(path) if zipfile.is_zipfile(path) else {"pose": read_npy(path)}
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"POSE: expected a .npy or .npz file or a record's folder, got {path}, which does not exist") from None
    except InputError as error:
        raise InputError(f"POSE: expected a .npy or .npz file of numbers, got {path} ({error})") from None
    name = "pose" if "pose" in arrays else next(iter(arrays)) if len(arrays) == 1 else None
    if name is None:
        raise InputError(f"POSE: expected an array, or one named pose, in {path}, got {', '.join(arrays) or 'none'}")
    loaded = arrays[name]
    shape = np.shape(loaded)
    several = len(shape) == 3 and shape != (shape[0], 3, 3)  # (24, 3, 3) are 24 rotation matrices, not 24 poses of 3 joints
    try:
        pose: NDArray[np.float64] = check_array("POSE", loaded, ("n", "J", 3) if several else ("J", 3), np.float64)
    except InputError as error:
        raise InputError(f"{error}{other_rotations(loaded, 3 if len(shape) > 3 or several else 2)}") from None
    if not pose.size:
        raise InputError(f"POSE: expected joints of a pose in {path}, got shape {shape}")
    units = UnitCheck()
    units.poses("POSE", pose.reshape(-1, *pose.shape[-2:]), range(len(pose)) if several else [path.name])
    units.warn()
    return pose


def read_betas(text: str) -> NDArray[np.float64]:
    """Shape coefficients (b,) from a text such as "0.5,-1.2"; InputError for anything else."""
    import numpy as np

    from chorus.errors import InputError, check_array

    try:
        return check_array("--betas", np.array([float(word) for word in text.split(",")]), ("b",), np.float64)
    except InputError:
        raise
    except ValueError:
        raise InputError(f"--betas: expected numbers with commas between them, got {text!r}") from None


def load_given_body(path: Path | None) -> Body | None:
    """The body of ``--body``'s file; None, which stands for the built-in mannequin, where no file is given."""
    from chorus.body.model import load_body

    return None if path is None else load_body(path)


def posed_picture(
    path: Path,
    phi: NDArray[np.float32],
    extent: float,
    body: Body,
    pose: NDArray[np.float64],
    title: str,
    betas: NDArray[np.float64] | None = None,
) -> None:
    """Draw the posed body and the distribution around it from three sides (PNG).

    phi    (N, N, N), around the posed person                   extent  edge of its grid, metres
    pose   (J, 3) axis-angle, radians, with a zero row 0        betas   (B,) shape coefficients; None: the mean shape
    """
    from chorus.figures.three_sides import save_three_sides

    vertices = body.posed_vertices(pose[None], betas)[0]
    save_three_sides(path, [("phi, posed", phi)], extent, body, title, vertices=vertices)


@click.command("pose", short_help="An occupancy around a person in a pose.")
@click.argument("occupancy_path", metavar="OCCUPANCY", type=INPUT)
@click.argument("pose_path", metavar="POSE", type=INPUT)
@click.option("-o", "--output", type=OutputFile(".npz"), required=True, help="The .npz file to write.")
@inverse_option
@click.option(
    "--interpolation",
    type=click.Choice(["nearest", "trilinear"]),
    default="nearest",
    show_default=True,
    help="Read the probability of the nearest voxel (the paper's), or between the eight nearest.",
)
@click.option("--backend", default="auto", show_default=True, help="auto, triton, numba or reference.")
@click.option("--picture", type=PICTURE, help="Also draw it with the posed body from three sides (PNG).")
@click.option("--mesh", "mesh_path", type=MESH, help="Also write surface and posed body (.glb, .ply, .obj).")
@click.option(
    "--threshold",
    default=0.5,
    show_default=True,
    type=Number(),
    help="With --mesh: around voxels of this probability or more.",
)
@click.option("--betas", "betas_text", help="The person's shape coefficients, separated by commas.")
@force_option
@body_option
@json_option()
def pose_command(
    occupancy_path: Path,
    pose_path: Path,
    output: Path,
    inverse: str,
    interpolation: str,
    backend: str,
    picture: Path | None,
    mesh_path: Path | None,
    threshold: float,
    betas_text: str | None,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """An occupancy around a person in a pose.

    Each point around the posed person takes the probability of its canonical voxel (Eq. 11 of the paper). POSE is a .npy or
    .npz file, (J, 3) axis-angle in radians with a zero first row or (n, J, 3), or a record's folder.
    """
    import json
    import time

    import numpy as np

    from chorus.errors import InputError
    from chorus.experimental.sharpened import load_distribution
    from chorus.files import write_atomically
    from chorus.occupancy.posed import body_of
    from chorus.provenance import provenance

    occupancy, poses = load_distribution(occupancy_path), read_pose(pose_path)
    if poses.ndim == 3 and (picture or mesh_path):
        raise InputError(f"--picture, --mesh: expected one pose, (J, 3), got {len(poses)} in {pose_path}")
    body = body_of(occupancy.body_hash, load_given_body(body_path))
    betas = None if betas_text is None else read_betas(betas_text)
    start = time.perf_counter()
    with progress_bars() as update:
        phi = occupancy.posed(
            poses,
            body,
            betas=betas,
            inverse=inverse,
            interpolation=interpolation,
            backend=backend,
            progress=lambda done, total: update("poses", done, total),
        )
    seconds = time.perf_counter() - start
    extent = occupancy.parameters.extent
    record = {**provenance(), "occupancy": str(occupancy_path), "occupancy_provenance": occupancy.provenance}
    facts_of_file: dict[str, Any] = {
        "phi": phi,
        "extent": extent,
        "pose": poses,
        "body_hash": occupancy.body_hash,
        "field_hash": occupancy.field_hash,
        "inverse": inverse,
        "interpolation": interpolation,
        "category": occupancy.category,
        "provenance": json.dumps(record),
    }
    if betas is not None:
        facts_of_file["betas"] = betas
    write_atomically(output, lambda part: np.savez_compressed(part, **facts_of_file))
    written = [output]
    if picture is not None:
        title = f"{occupancy.category or occupancy_path.name}, posed as {pose_path.name}"
        posed_picture(picture, phi, extent, body, poses, title, betas)
        written.append(picture)
    facts: dict[str, Any] = {
        "poses": 1 if poses.ndim == 2 else len(poses),
        "poses_per_second": round((1 if poses.ndim == 2 else len(poses)) / seconds, 2),
        "largest_phi": round(float(phi.max(initial=0)), 3),
    }
    if mesh_path is not None:
        from dataclasses import asdict

        from chorus.occupancy.surfaces import OBJECT, PERSON, body_mesh, describe, surface, write_meshes

        found = surface(phi, extent, threshold)
        person = body_mesh(body.posed_vertices(poses[None], betas)[0], body.faces)
        made_of = {
            **record,
            "inverse": inverse,
            "interpolation": interpolation,
            "threshold": threshold,
            "pose": poses.tolist(),
            **({} if betas is None else {"betas": betas.tolist()}),
        }
        write_meshes(mesh_path, {OBJECT: found, PERSON: person}, made_of)
        described = describe(found)
        facts["surface"] = asdict(described)
        doubt_surface(described.pieces, described.volume_m3)
        written.append(mesh_path)
    if as_json:
        print_json({**facts, "wrote": written})
        return
    facts["highest probability"] = facts.pop("largest_phi")
    print_facts(facts)
    wrote(*written)


@click.command("roundtrip", short_help="How far voxels land from where they were, posed and back.")
@click.option("--poses", default=100, show_default=True, type=Count(), help="Number of random poses.")
@click.option(
    "--noise",
    default=0.25,
    show_default=True,
    type=Number(min=0),
    help="Standard deviation of the poses, radians on every axis of every joint.",
)
@click.option("--resolution", default=48, show_default=True, type=click.IntRange(min=2, max=512), help="Voxels along an edge.")
@click.option("--seed", default=0, show_default=True, type=SEED)
@click.option("-o", "--output", type=OutputFile(), help="Also write the figures as JSON.")
@force_option
@body_option
@json_option()
def roundtrip_command(
    poses: int, noise: float, resolution: int, seed: int, output: Path | None, body_path: Path | None, as_json: bool
) -> None:
    """How well posing can be undone.

    How far voxels land from where they were, moved into random poses (Eq. 5 of the paper) and back (its Eq. 11).
    """
    from chorus.body.model import load_body
    from chorus.evaluate.roundtrip import as_rich, roundtrip
    from chorus.field import CanonicalField
    from chorus.files import write_json

    field = CanonicalField(load_body(body_path), resolution)
    with progress_bars() as update:
        found = roundtrip(field, poses, noise, seed, progress=lambda done, total: update("poses", done, total))
    if output is not None:
        write_json(output, found.to_json())
    if as_json:
        print_json(found.to_json())
        return
    for inverse in found.inverses:
        print_table(as_rich(found, inverse))
    if output is not None:
        wrote(output)
