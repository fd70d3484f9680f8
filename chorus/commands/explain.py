"""``chorus explain`` and ``chorus overlay``: an occupancy's images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus.commands.console import out, print_facts, print_json, progress_bars, wrote
from chorus.commands.options import (
    INPUT,
    STORE,
    Count,
    Number,
    OutputFolder,
    body_option,
    canonical_field,
    canonicalization_option,
    epsilon_option,
    filter_option,
    fold_option,
    force_option,
    joined_part_option,
    joined_prompt_option,
    json_option,
    no_canonicalize_option,
    parts_option,
)

_explained_hidden_option = click.option(
    "--hidden-weight",
    is_flag=False,
    flag_value=0.1,
    type=Number(min=0, max=1),
    help="What votes weigh that the body hides, 0 to 1; without a number 0.1. Default: they are not told apart.",
)


@click.command("explain", short_help="The images behind a place around the body.")
@click.argument("store_path", metavar="STORE", type=STORE)
@click.argument("point", nargs=3, type=Number())
@click.option("--prompt", "prompts", multiple=True, help="Only images of this prompt, or pattern with * (repeatable).")
@click.option("--part", help="Only images whose object touches these body parts.")
@parts_option
@epsilon_option
@fold_option
@filter_option
@click.option("--resolution", default=48, show_default=True, type=click.IntRange(min=2, max=512), help="Voxels along an edge.")
@canonicalization_option
@no_canonicalize_option
@click.option("--show", default=10, show_default=True, type=Count(0), help="How many keys to list, on the mask and off it.")
@click.option(
    "--pictures",
    type=OutputFolder(),
    help="Folder to write the pictures of the listed images to, those that the store keeps, sorted by on and off the mask.",
)
@_explained_hidden_option
@body_option
@json_option()
def explain_command(
    store_path: Path,
    point: tuple[float, float, float],
    prompts: tuple[str, ...],
    part: str | None,
    parts: Path | None,
    epsilon: float,
    folds: tuple[int, ...],
    filter_name: str,
    resolution: int,
    canonicalization: str | None,
    no_canonicalize: bool,
    show: int,
    pictures: Path | None,
    hidden_weight: float | None,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """The images that voted for and against a voxel.

    It is the voxel at POINT: x y z in metres from the pelvis, in the canonical frame (+x the person's left, +y up, +z forward).
    """
    from chorus.errors import InputError
    from chorus.occupancy.derived import derived_field
    from chorus.store import open_store
    from chorus.votes.explain import explain

    kept = None if pictures is None else open_store(store_path, verify=False).pictures
    if kept is not None and not any(True for _ in kept):
        raise InputError(
            f"--pictures: expected a store that keeps pictures (--keep-images), got {str(store_path)!r} without any"
        )
    field, derived = canonical_field(body_path, resolution, canonicalization, no_canonicalize)
    selection: dict[str, Any] = {
        "prompt": list(prompts) or None,
        "part": part,
        "parts": parts,
        "epsilon": epsilon,
        "folds": folds or None,
        "filter": filter_name,
    }
    field, record = derived_field(store_path, field, derived, **selection)
    found = explain(point, store_path, field, hidden_weight=hidden_weight, **selection)
    keys = {"on_mask": found.on_mask, "off_mask": found.off_mask}
    if hidden_weight is not None:
        keys["hidden"] = found.hidden
    facts = {
        "canonicalization": record.get("canonicalization", {}).get("text", field.canonicalization),
        "voxel": list(found.voxel),
        "centre": [round(c, 4) for c in found.centre.tolist()],
        "on_mask": len(found.on_mask),
        "off_mask": len(found.off_mask),
        "unseen": found.unseen,
        **({} if hidden_weight is None else {"hidden": len(found.hidden)}),
        "probability, every image alike": round(found.probability, 4),
        **({} if found.filtered is None else {"filter": str(found.filtered)}),
    }
    written: list[Path] = []
    if pictures is not None and kept is not None:
        for side, names in keys.items():
            folder = pictures / side.replace("_", "-")
            files = kept.write(folder, [key for key in names[:show] if key in kept])
            written += [folder / name for name in files.values()]
    if as_json:
        told = {side: [key.decode() for key in names] for side, names in keys.items()}
        print_json({**facts, "keys": told, **({} if pictures is None else {"wrote": written})})
        return
    print_facts(facts)
    for side, names in keys.items():
        for key in names[:show]:
            out.print(f"{side.replace('_', ' '):<8}  {key.decode()}")
        if len(names) > show:
            out.print(f"{side.replace('_', ' '):<8}  and {len(names) - show:,} more")
    wrote(*written)


@click.command("overlay", short_help="Draw an occupancy posed back onto images of a store.")
@click.argument("store_path", metavar="STORE", type=STORE)
@click.argument("occupancy_path", metavar="OCCUPANCY", type=INPUT)
@click.option("-o", "--output", type=OutputFolder("overlays.json"), required=True, help="Folder for the pictures (PNG).")
@click.option("--images", default=8, show_default=True, type=Count(), help="How many images, spread evenly.")
@joined_prompt_option
@joined_part_option
@filter_option
@force_option
@body_option
@json_option()
def overlay_command(
    store_path: Path,
    occupancy_path: Path,
    output: Path,
    images: int,
    prompts: tuple[str, ...],
    part: str | None,
    filter_name: str,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Draw an occupancy posed back into images of a store.

    The images are those of the occupancy's own prompts and body parts, unless others are asked for. The folder gets a picture
    for each, over the image itself where the store keeps it, and overlays.json: which picture is of which image, and the mean
    probability on the object's mask.
    """
    import numpy as np

    from chorus.body.model import load_body
    from chorus.errors import InputError
    from chorus.field import CanonicalField
    from chorus.figures.overlays import save_posed_back
    from chorus.files import write_json
    from chorus.names import file_stems
    from chorus.occupancy.counts import load_occupancy
    from chorus.occupancy.joins import check_store, join
    from chorus.store import open_store

    occupancy, opened = load_occupancy(occupancy_path), open_store(store_path)
    check_store(occupancy, opened)
    field = CanonicalField.from_parameters(load_body(body_path), occupancy.parameters, occupancy.body_hash)
    chosen = join(occupancy, opened, field, list(prompts) or None, part, filter=filter_name)
    if len(chosen.rows) == 0:
        raise InputError(f"STORE: expected an image to draw, got {chosen}")
    rows = chosen.rows[np.unique(np.linspace(0, len(chosen.rows) - 1, images).astype(int))]
    batch = opened.batch(rows)
    keys = [key.decode() for key in batch.keys]
    stems = file_stems(keys)
    output.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, dict[str, Any]] = {}
    with progress_bars() as update:
        for row, key in enumerate(keys):
            name = f"{stems[key]}.png"
            prompt = "" if batch.prompts is None else str(batch.prompts[row])
            title = f"{key}: {prompt}" if prompt else key
            photo = opened.picture(batch.keys[row])
            on_mask = save_posed_back(output / name, occupancy, field, batch, row, title, photo)
            drawn[key] = {"file": name, "mean_phi_on_mask": round(on_mask, 4)}
            update("draw images", row + 1, len(keys))
    table = output / "overlays.json"
    write_json(table, {"occupancy": str(occupancy_path), "store": opened.id, "images": chosen.to_json(), "overlays": drawn})
    written = [*(output / facts["file"] for facts in drawn.values()), table]
    if as_json:
        print_json({"images": chosen.to_json(), "overlays": drawn, "wrote": written})
        return
    out.print(str(chosen))
    for key, facts in drawn.items():
        out.print(f"{key}: mean probability on the mask {facts['mean_phi_on_mask']:.2f}")
    wrote(*written)
