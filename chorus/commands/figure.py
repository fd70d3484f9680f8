"""``chorus figure``: pictures in 3D of occupancies, fields and cameras, for papers, talks and web pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus.commands.console import print_json, progress_bars, wrote
from chorus.commands.options import (
    INPUT,
    PICTURE,
    Number,
    OutputFile,
    body_option,
    canonical_field,
    canonicalization_option,
    json_option,
)
from chorus.commands.pose import load_given_body, read_pose

if TYPE_CHECKING:
    from chorus.body.model import Body
    from chorus.figures.shells import Posed
    from chorus.occupancy.distribution import Distribution

threshold_option = click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    type=Number(min=0, max=1, min_open=True),
    help="A shell around the voxels of at least this probability (repeatable).  [default: 4 shares of the largest]",
)
view_option = click.option(
    "--view",
    "view",
    default="front left",
    show_default=True,
    help="front, front left, left, back, right, above, or AZIMUTH,ELEVATION in degrees.",
)
pixels_option = click.option(
    "--pixels", default=460, show_default=True, type=click.IntRange(40, 4000), help="Of a metre and a half, in each picture."
)
title_option = click.option("--title", default="", help="What stands above the figure.")
pose_option = click.option(
    "--pose", "pose_path", type=INPUT, help="Around a person in this pose: .npy, .npz or a record's folder."
)


def load_occupancies(paths: tuple[Path, ...], body_path: Path | None) -> tuple[list[Distribution], Body]:
    """Occupancies of files and the body of them all; MismatchError where they differ in body or extent."""
    from chorus.errors import MismatchError
    from chorus.experimental.sharpened import load_distribution
    from chorus.occupancy.posed import body_of

    found = [load_distribution(path) for path in paths]
    extents = {occupancy.parameters.extent for occupancy in found}
    if len(extents) > 1:
        raise MismatchError(f"OCCUPANCY: expected one extent, got {' and '.join(f'{e:g} m' for e in sorted(extents))}")
    body = load_given_body(body_path)
    return found, next(iter([body_of(occupancy.body_hash, body) for occupancy in found]))


def name_of(occupancy: Distribution) -> str:
    """The prompts that an occupancy is of, else its category."""
    from chorus.occupancy.joins import learned_from

    prompts = learned_from(occupancy).prompts
    return ", ".join(prompts) if prompts else occupancy.category


def one_pose(path: Path) -> Any:
    """A pose (J, 3) of a file; InputError where it has several."""
    from chorus.errors import InputError

    pose = read_pose(path)
    if pose.ndim == 3:
        if len(pose) != 1:
            raise InputError(f"--pose: expected one pose, (J, 3), got {len(pose)} in {path}")
        pose = pose[0]
    return pose


def in_pose(occupancy: Distribution, body: Body, pose: Any, label: str) -> Posed:
    """An occupancy around its body, canonical where pose is None."""
    from chorus.figures.photo_beside import pose_distribution
    from chorus.figures.shells import Posed

    if pose is None:
        return Posed(label, occupancy.probability, body.rest_vertices)
    return pose_distribution(occupancy, pose, body, label)


def told(output: Path, as_json: bool, **facts: Any) -> None:
    """Say what was written, as JSON or in words."""
    if as_json:
        print_json({**facts, "wrote": [output]})
    else:
        wrote(output)


@click.command("shells", short_help="Nested shells around the body, from several sides.")
@click.argument("paths", metavar="OCCUPANCY...", nargs=-1, required=True, type=INPUT)
@click.option("-o", "--output", type=PICTURE, required=True, help="The figure: .png, .pdf or .svg.")
@click.option("--pose", "pose_paths", multiple=True, type=INPUT, help="Also around a person in this pose (repeatable).")
@click.option("--only-posed", is_flag=True, help="With --pose: leave the canonical pose out.")
@threshold_option
@click.option(
    "--view",
    "views",
    multiple=True,
    default=("front", "left", "back", "above"),
    show_default=True,
    help="front, front left, left, back, right, above, or AZIMUTH,ELEVATION in degrees (repeatable).",
)
@pixels_option
@title_option
@body_option
@json_option()
def shells_command(
    paths: tuple[Path, ...],
    output: Path,
    pose_paths: tuple[Path, ...],
    only_posed: bool,
    thresholds: tuple[float, ...],
    views: tuple[str, ...],
    pixels: int,
    title: str,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Nested translucent shells of an occupancy with the body, canonical and posed.

    A row for each occupancy and pose, a column for each view; all share thresholds and scale. Needs the extra `figures3d`.
    """
    from chorus.figures.shells import check_views, save_shells

    if only_posed and not pose_paths:
        raise click.UsageError("--only-posed leaves the canonical pose out: give a --pose with it")
    check_views(views)
    occupancies, body = load_occupancies(paths, body_path)
    poses = [*([] if only_posed else [("canonical", None)]), *((path.stem, one_pose(path)) for path in pose_paths)]
    rows = []
    for occupancy, path in zip(occupancies, paths, strict=True):
        for name, pose in poses:
            label = name if len(paths) == 1 else path.stem if len(poses) == 1 else f"{path.stem}, {name}"
            rows.append(in_pose(occupancy, body, pose, "" if len(paths) == len(poses) == 1 else label))
    title = title or (name_of(occupancies[0]) if len(paths) == 1 else "")
    extent = occupancies[0].parameters.extent
    with progress_bars() as update:
        chosen = save_shells(
            output,
            rows,
            body,
            extent,
            title=title,
            thresholds=thresholds,
            views=views,
            pixels=pixels,
            progress=lambda done, total: update("draw views", done, total),
        )
    told(output, as_json, thresholds=chosen, rows=[row.label for row in rows], views=views)


@click.command("turntable", short_help="Nested shells that turn once around, as GIF or WebP.")
@click.argument("path", metavar="OCCUPANCY", type=INPUT)
@click.option(
    "-o", "--output", type=OutputFile(".gif", ".webp", replace=True), required=True, help="The animation: .gif, .webp."
)
@pose_option
@threshold_option
@click.option("--frames", default=36, show_default=True, type=click.IntRange(2, 720), help="Pictures in one turn.")
@click.option("--height", default=420, show_default=True, type=click.IntRange(64, 2160), help="Of a picture, pixels.")
@body_option
@json_option()
def turntable_command(
    path: Path,
    output: Path,
    pose_path: Path | None,
    thresholds: tuple[float, ...],
    frames: int,
    height: int,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """The body with nested shells, turning once around, as an animation that repeats.

    Needs the extra `figures3d`.
    """
    from chorus.figures.turntable import save_turntable

    (occupancy,), body = load_occupancies((path,), body_path)
    posed = in_pose(occupancy, body, None if pose_path is None else one_pose(pose_path), "")
    with progress_bars() as update:
        chosen = save_turntable(
            output,
            posed,
            body,
            occupancy.parameters.extent,
            thresholds=thresholds,
            frames=frames,
            height=height,
            progress=lambda done, total: update("draw frames", done, total),
        )
    told(output, as_json, thresholds=chosen, frames=frames)


@click.command("weights", short_help="Slices of a skinning field, joint by joint.")
@click.option("-o", "--output", type=PICTURE, required=True, help="The figure: .png, .pdf or .svg.")
@click.option("--joint", "joints", multiple=True, help="A joint of the body (repeatable).  [default: eight of them]")
@click.option("--plane", type=click.Choice(["front", "side", "above"]), default="front", show_default=True, help="Seen from.")
@click.option("--at", type=Number(), help="Metres along the line of sight.  [default: through the body's middle]")
@click.option("--resolution", default=96, show_default=True, type=click.IntRange(min=2, max=128), help="Voxels along an edge.")
@canonicalization_option
@title_option
@body_option
@json_option()
def weights_command(
    output: Path,
    joints: tuple[str, ...],
    plane: str,
    at: float | None,
    resolution: int,
    canonicalization: str | None,
    title: str,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """What each joint carries of the space around the body: its weight in a slice of the skinning field."""
    from chorus.errors import InputError
    from chorus.figures.skinning_slices import save_skinning_slices

    field, derived = canonical_field(body_path, resolution, canonicalization)
    if derived is not None:
        raise InputError(f"--canonicalization: expected one that needs no images, got {derived}")
    save_skinning_slices(output, field, joints=joints, plane=plane, at=at, title=title)
    told(output, as_json, canonicalization=field.canonicalization)
