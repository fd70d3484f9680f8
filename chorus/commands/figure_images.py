"""``chorus figure grid``, ``canonicalization``, ``photo`` and ``cameras``: figures that read the images of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus.commands.console import print_json, progress_bars, wrote
from chorus.commands.figure import (
    in_pose,
    load_occupancies,
    name_of,
    one_pose,
    pixels_option,
    threshold_option,
    title_option,
    told,
    view_option,
)
from chorus.commands.options import (
    INPUT,
    PICTURE,
    STORE,
    Canonicalization,
    Count,
    body_option,
    canonical_field,
    canonicalization_option,
    filter_option,
    joined_part_option,
    joined_prompt_option,
    json_option,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chorus.occupancy.distribution import Distribution
    from chorus.store import Store

ANY = "*"
_resolution_option = click.option(
    "--resolution", default=48, show_default=True, type=click.IntRange(min=2, max=512), help="Voxels along an edge."
)
_pose_option = click.option(
    "--pose", "pose_path", type=INPUT, help="Also around a person in this pose: .npy, .npz or a record's folder."
)


_prompt_option = click.option(
    "--prompt", "prompts", multiple=True, help="Only images of this prompt, or pattern with * (repeatable)."
)


def selected_rows(store: Store, prompts: tuple[str, ...], filter_name: str) -> NDArray[np.int64]:
    """The complete rows of a store of these prompts that a filter keeps; InputError without any."""
    from chorus.errors import InputError
    from chorus.store.filters import filter_rows
    from chorus.votes.selection import matching_prompts

    rows, _, _ = filter_rows(store, store.select(prompt=matching_prompts(prompts or None, store.prompts)), filter_name)
    if not len(rows):
        raise InputError("STORE: expected complete images of these prompts that the filter keeps, got none")
    return rows


@click.command("grid", short_help="A grid of prompts and body parts.")
@click.argument("store_path", metavar="STORE", type=STORE)
@click.option("-o", "--output", type=PICTURE, required=True, help="The figure: .png, .pdf or .svg.")
@click.option("--prompt", "prompts", multiple=True, help="A row for each: a prompt, or '*' for any.  [default: all and any]")
@click.option(
    "--part",
    "parts",
    multiple=True,
    help="A column for each: a condition on body parts, or '*'.  [default: *, the commonest 3]",
)
@click.option("--min-images", default=20, show_default=True, type=Count(), help="Images that a cell needs.")
@canonicalization_option
@_resolution_option
@filter_option
@threshold_option
@view_option
@pixels_option
@title_option
@body_option
@json_option()
def grid_command(
    store_path: Path,
    output: Path,
    prompts: tuple[str, ...],
    parts: tuple[str, ...],
    min_images: int,
    canonicalization: str | None,
    resolution: int,
    filter_name: str,
    thresholds: tuple[float, ...],
    view: str,
    pixels: int,
    title: str,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """What prompt and body part make of a store's images: a row for each prompt, a column for each part touched.

    Needs the extra `figures3d`.
    """
    from chorus.figures.shells import Posed, check_views, save_grid
    from chorus.occupancy.condition_grid import condition_grid
    from chorus.store import open_store
    from chorus.texts import counted

    check_views([view])
    field, derived = canonical_field(body_path, resolution, canonicalization)
    store = open_store(store_path)
    with progress_bars() as update:
        found = condition_grid(
            store,
            field,
            prompts,
            parts,
            min_images,
            canonicalization=derived,
            filter=filter_name,
            progress=lambda done, total: update("aggregate", done, total),
        )
        cells: list[list[Posed | str]] = [
            [
                f"only {counted(images, 'image')}"
                if occupancy is None
                else Posed("", occupancy.probability, field.body.rest_vertices)
                for occupancy, images in line
            ]
            for line in found.cells
        ]
        columns = ["whatever it touches" if part == ANY else part for part in found.parts]
        rows = ["any prompt" if prompt == ANY else prompt for prompt in found.prompts]
        chosen = save_grid(
            output,
            cells,
            rows,
            columns,
            field.body,
            field.extent,
            title=title or store.category,
            thresholds=thresholds,
            view=view,
            pixels=pixels,
            progress=lambda done, total: update("draw cells", done, total),
        )
    images = [[images for _, images in line] for line in found.cells]
    told(output, as_json, prompts=found.prompts, parts=found.parts, images=images, thresholds=chosen)


@click.command("canonicalization", short_help="Canonicalizations of one store side by side.")
@click.argument("store_path", metavar="STORE", type=STORE)
@click.option("-o", "--output", type=PICTURE, required=True, help="The figure: .png, .pdf or .svg.")
@click.option(
    "--canonicalization",
    "names",
    multiple=True,
    type=Canonicalization(),
    default=("none", "lbs"),
    show_default=True,
    help="A column for each: none, lbs, lbs-nearest, joint:NAME, per-voxel, auto (repeatable).",
)
@_prompt_option
@click.option("--part", help="Only images whose object touches these body parts.")
@_pose_option
@_resolution_option
@filter_option
@threshold_option
@view_option
@pixels_option
@title_option
@body_option
@json_option()
def canonicalization_command(
    store_path: Path,
    output: Path,
    names: tuple[str, ...],
    prompts: tuple[str, ...],
    part: str | None,
    pose_path: Path | None,
    resolution: int,
    filter_name: str,
    thresholds: tuple[float, ...],
    view: str,
    pixels: int,
    title: str,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """What canonicalization is worth: the same images aggregated in several ways, side by side.

    By default the shells are at shares of each way's own largest probability, which stands above it. Needs the extra
    `figures3d`.
    """
    import dataclasses

    from chorus.figures.shells import SHARES, Posed, check_views, save_grid
    from chorus.occupancy.aggregation import aggregate
    from chorus.store import open_store
    from chorus.votes.selection import matching_prompts

    check_views([view])
    pose = None if pose_path is None else one_pose(pose_path)
    field, _ = canonical_field(body_path, resolution, None)
    store = open_store(store_path)
    with progress_bars() as update:
        found = []
        for i, name in enumerate(names):
            how: dict[str, Any] = {"prompt": list(prompts) or None, "part": part, "filter": filter_name}
            found.append(aggregate(store, field, canonicalization=name, **how))
            update("aggregate", i + 1, len(names))
        rows = [("canonical", None)] if pose is None else [("canonical", None), ("posed", pose)]

        def scaled(posed: Posed, top: float) -> Posed:
            return dataclasses.replace(posed, phi=posed.phi / top)

        tops = [1.0 if thresholds else float(o.probability.max()) for o in found]
        cells: list[list[Posed | str]] = [
            [scaled(in_pose(o, field.body, at, ""), top) for o, top in zip(found, tops, strict=True)] for _, at in rows
        ]
        matched = matching_prompts(prompts or None, store.prompts)
        chosen = save_grid(
            output,
            cells,
            [name for name, _ in rows] if pose is not None else [""],
            [_heading(name, o) for name, o in zip(names, found, strict=True)],
            field.body,
            field.extent,
            title=title or ", ".join(matched or [store.category]),
            thresholds=thresholds or SHARES,
            legend="shells: phi" if thresholds else "share of the largest phi,",
            view=view,
            pixels=pixels,
            progress=lambda done, total: update("draw cells", done, total),
        )
    largest = [round(float(o.probability.max()), 4) for o in found]
    told(output, as_json, canonicalizations=names, images=found[0].num_images, largest_phi=largest, thresholds=chosen)


def _heading(asked: str, occupancy: Distribution) -> str:
    """What stands over a column of a canonicalization: what was asked for, what was chosen, and its largest phi."""
    chosen = occupancy.parameters.canonicalization
    name = "without canonicalization" if asked == "none" else f"{asked}: {chosen}" if asked != chosen else chosen
    return f"{name}\nlargest phi {occupancy.probability.max():.2f}"


@click.command("photo", short_help="Photographs beside the posed distribution.")
@click.argument("path", metavar="OCCUPANCY", type=INPUT)
@click.argument("store_path", metavar="STORE", type=STORE)
@click.option("-o", "--output", type=PICTURE, required=True, help="The figure: .png, .pdf or .svg.")
@click.option("--key", "keys", multiple=True, help="The image of this key (repeatable).  [default: --images of them]")
@click.option("--images", default=3, show_default=True, type=click.IntRange(1, 12), help="How many images, spread evenly.")
@joined_prompt_option
@joined_part_option
@filter_option
@threshold_option
@title_option
@body_option
@json_option()
def photo_command(
    path: Path,
    store_path: Path,
    output: Path,
    keys: tuple[str, ...],
    images: int,
    prompts: tuple[str, ...],
    part: str | None,
    filter_name: str,
    thresholds: tuple[float, ...],
    title: str,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Pictures of a store beside the occupancy posed as their people are, seen by their cameras and from the side.

    Where the store keeps no pictures, the body with the object's mask stands for them. Needs the extra `figures3d`.
    """
    from chorus.figures.photo_beside import save_photo_beside
    from chorus.occupancy.shown_images import shown_images
    from chorus.store import open_store

    (occupancy,), body = load_occupancies((path,), body_path)
    store = open_store(store_path)
    chosen, told_of = shown_images(
        occupancy, store, body, images, keys=keys, prompt=list(prompts) or None, part=part, filter=filter_name
    )
    batch = store.batch(chosen)
    names = [key.decode() for key in batch.keys]
    with progress_bars() as update:
        found = save_photo_beside(
            output,
            occupancy,
            body,
            batch,
            [store.picture(key) for key in batch.keys],
            titles=names,
            title=title or name_of(occupancy),
            thresholds=thresholds,
            progress=lambda done, total: update("draw images", done, total),
        )
    if as_json:
        print_json({"keys": names, "thresholds": found, "images": told_of, "wrote": [output]})
        return
    wrote(output)


@click.command("cameras", short_help="Where the cameras of a store stood, on a sphere.")
@click.argument("store_path", metavar="STORE", type=STORE)
@click.option("-o", "--output", type=PICTURE, required=True, help="The figure: .png, .pdf or .svg.")
@_prompt_option
@filter_option
@title_option
@body_option
@json_option()
def cameras_command(
    store_path: Path,
    output: Path,
    prompts: tuple[str, ...],
    filter_name: str,
    title: str,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Where the cameras of a store's images stood: on a sphere around the body, and their share in cells of equal area.

    Needs the extra `figures3d`.
    """
    from chorus.body.model import load_body
    from chorus.figures.camera_sphere import save_cameras
    from chorus.store import open_store

    store = open_store(store_path)
    rows = selected_rows(store, prompts, filter_name)
    save_cameras(output, store.batch(rows).cameras, load_body(body_path), title or store.category)
    told(output, as_json, images=len(rows))
