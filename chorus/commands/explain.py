"""``chorus explain`` and ``chorus overlay``: an occupancy's images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus.commands.as_made import asked_canonicalization, own_field, take_selection
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
from chorus.texts import shortened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chorus.store import Store
    from chorus.votes.explain import Explanation

_explained_hidden_option = click.option(
    "--hidden-weight",
    is_flag=False,
    flag_value=0.1,
    type=Number(min=0, max=1),
    help="What votes weigh that the body hides, 0 to 1; without a number 0.1. Default: they are not told apart.",
)


@click.command("explain", short_help="The images behind a place around the body.")
@click.argument("store_path", metavar="STORE", type=STORE)
@click.argument("point", metavar="[X Y Z]", nargs=3, type=Number(), required=False)
@click.option(
    "--occupancy",
    "occupancy_path",
    metavar="OCC.h5",
    type=INPUT,
    help="Ask about this occupancy: prompt, part, folds, filter, canonicalization, resolution and the weight of hidden votes "
    "are its own (others are refused), and without a point it is its most probable voxel.",
)
@click.option("--prompt", "prompts", multiple=True, help="Only images of this prompt, or pattern with * (repeatable).")
@click.option("--part", help="Only images whose object touches these body parts.")
@parts_option
@epsilon_option
@fold_option
@filter_option
@click.option("--resolution", default=48, show_default=True, type=click.IntRange(min=2, max=512), help="Voxels along an edge.")
@canonicalization_option
@no_canonicalize_option
@click.option("--show", default=5, show_default=True, type=Count(0), help="How many images to list, on the mask and off it.")
@click.option(
    "--pictures",
    type=OutputFolder(),
    help="Folder to write the pictures of the listed images to, those that the store keeps, sorted by on and off the mask.",
)
@_explained_hidden_option
@body_option
@json_option()
@click.pass_context
def explain_command(
    ctx: click.Context,
    store_path: Path,
    point: tuple[float, float, float] | None,
    occupancy_path: Path | None,
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

    It is the voxel at X Y Z, metres from the pelvis in the canonical frame (+x the person's left, +y up, +z forward; write --
    before negative ones), or the most probable one of an --occupancy.
    """
    from chorus.errors import InputError
    from chorus.occupancy.derived import derived_field
    from chorus.store import open_store
    from chorus.votes.explain import explain

    if point is None and occupancy_path is None:
        raise click.UsageError("give a point, x y z in metres, or an --occupancy, whose most probable voxel is then taken")
    store = open_store(store_path, verify=False)
    store.check_while_read = True
    kept = None if pictures is None else store.pictures
    if kept is not None and not any(True for _ in kept):
        raise InputError(
            f"--pictures: expected a store that keeps pictures (--keep-images), got {str(store_path)!r} without any"
        )
    selection: dict[str, Any] = {
        "prompt": list(prompts) or None,
        "part": part,
        "parts": parts,
        "epsilon": epsilon,
        "folds": folds or None,
        "filter": filter_name,
    }
    facts: dict[str, Any]
    if occupancy_path is not None:
        found, facts = _of_occupancy(ctx, store, occupancy_path, point, selection)
    else:
        field, derived = canonical_field(body_path, resolution, canonicalization, no_canonicalize)
        field, record = derived_field(store, field, derived, **selection)
        found = explain(point, store, field, hidden_weight=hidden_weight, **selection)
        facts = {"canonicalization": record.get("canonicalization", {}).get("text", field.canonicalization)}
    keys = {"on_mask": found.on_mask, "off_mask": found.off_mask}
    told_apart = hidden_weight is not None or facts.get("hidden_weight") is not None
    if told_apart:
        keys["hidden"] = found.hidden
    facts |= {
        "voxel": list(found.voxel),
        "centre": [round(c, 4) for c in found.centre.tolist()],
        "on_mask": len(found.on_mask),
        "off_mask": len(found.off_mask),
        "unseen": found.unseen,
        **({"hidden": len(found.hidden)} if told_apart else {}),
        **({} if found.phi is None else {"probability": round(found.phi, 4)}),
        "probability, every image alike": round(found.probability, 4),
        **({} if found.filtered is None else {"filter": str(found.filtered)}),
    }
    listed = {side: spread(names, show) for side, names in keys.items()}
    written: list[Path] = []
    if pictures is not None and kept is not None:
        for side, names in listed.items():
            folder = pictures / side.replace("_", "-")
            files = kept.write(folder, [key for key in names if key in kept])
            written += [folder / name for name in files.values()]
    if as_json:
        told = {side: [key.decode() for key in names] for side, names in keys.items()}
        print_json({**facts, "keys": told, **({} if pictures is None else {"wrote": written})})
        return
    print_facts(_in_words(found, facts))
    _list_images(store, listed, keys, pictures is None)
    wrote(*written)


def _of_occupancy(
    ctx: click.Context, store: Store, path: Path, point: Any, selection: dict[str, Any]
) -> tuple[Explanation, dict[str, Any]]:
    """The images behind a voxel of an occupancy, of its own selection, and facts about it."""
    from chorus.body.model import load_body
    from chorus.errors import MismatchError
    from chorus.occupancy.counts import load_occupancy
    from chorus.occupancy.joins import check_store
    from chorus.occupancy.merging import check_selection
    from chorus.occupancy.summary import most_probable
    from chorus.store.filters import find_filter

    occupancy, what = load_occupancy(path), "--occupancy"
    check_store(occupancy, store)
    take_selection(ctx, occupancy, selection, ("prompt", "part", "epsilon", "folds", "filter"), what)
    if isinstance(selection["filter"], str):
        selection["filter"] = find_filter(selection["filter"], store.path) or "none"
    field = own_field(ctx, occupancy, load_body(ctx.params["body_path"]), what)
    check_selection(occupancy, field, selection, what)
    asked, chosen = asked_canonicalization(ctx), occupancy.provenance[0].get("canonicalization", {}).get("asked")
    if asked not in (None, field.canonicalization, chosen):
        raise MismatchError(f"{what}: expected the occupancy's canonicalization, {field.canonicalization}, got {asked}")
    weight, has = ctx.params["hidden_weight"], None if occupancy.num_hidden is None else occupancy.hidden_weight
    if weight is not None and weight != has:
        told = "none, for it does not tell them apart" if has is None else f"{has:g}"
        raise MismatchError(f"{what}: expected the occupancy's weight of hidden votes, {told}; got {weight:g}")
    at = most_probable(occupancy)[1] if point is None else point
    found = occupancy.explain(at, store, field, **selection)
    return found, {
        "occupancy": str(path),
        "most_probable": point is None,
        "canonicalization": field.canonicalization,
        "hidden_weight": has,
        "occupancy_probability": round(float(occupancy.probability[found.voxel]), 4),
    }


def spread(keys: Sequence[bytes] | NDArray[np.bytes_], most: int) -> list[bytes]:
    """At most so many of the keys, spread evenly over all of them."""
    count = min(most, len(keys))
    return [bytes(keys[i * len(keys) // count]) for i in range(count)]


def _in_words(found: Explanation, facts: dict[str, Any]) -> dict[str, Any]:
    """What is printed of an explanation: where the voxel is, its probability, and how the votes are divided."""
    from chorus.occupancy.summary import place_text

    seen = len(found.on_mask) + len(found.off_mask)
    plain = f"{found.probability:.3f}"
    if found.phi is None:
        probability = f"{plain}, every image alike"
    else:
        there = facts["occupancy_probability"]
        same = abs(there - found.phi) < 1e-3
        source = f"that of {facts['occupancy']}" if same else f"that of {facts['occupancy']} is {there:.3f}, from other images"
        probability = f"{found.phi:.3f}, {source} ({plain} with every image alike)"
    hidden = {"body hides it": f"in {len(found.hidden):,} of them"} if "hidden" in facts else {}
    if hidden and found.hidden_weight != 1:
        hidden["body hides it"] += f", which weigh {found.hidden_weight:g}"
    words = {
        "most probable voxel" if facts.get("most_probable") else "voxel": place_text(found.centre.tolist()),
        "x y z": "{:.4f} {:.4f} {:.4f}".format(*found.centre.tolist()) + f" (voxel {', '.join(map(str, found.voxel))})",
        "probability": probability,
        "canonicalization": facts["canonicalization"],
        "images that see it": f"{seen:,}, {len(found.on_mask):,} with it on the object's mask; {found.unseen:,} do not see it",
        **hidden,
        **({} if "filter" not in facts else {"filter": facts["filter"]}),
    }
    for side, on, off in _by_side(found):
        if on + off:
            words[f"seen from {side}"] = f"{on:,} of {on + off:,} on the mask"
    return words


def _by_side(found: Explanation) -> list[tuple[str, int, int]]:
    """How many images are on the mask and off it, by the side of the person that the camera stood on."""
    import numpy as np

    names = ("the left", "the front", "the right", "the back")  # azimuth 0 is +x, the person's left; a quarter is +z

    def count(azimuth: Any) -> Any:
        return np.bincount((np.floor(azimuth / (np.pi / 2) + 0.5) % 4).astype(int), minlength=4)

    on, off = count(found.azimuth_on), count(found.azimuth_off)
    return [(names[i], int(on[i]), int(off[i])) for i in (1, 0, 3, 2)]


def _list_images(store: Store, listed: dict[str, list[bytes]], keys: dict[str, Any], hint: bool) -> None:
    """Print the listed images of each side with their prompts, and how to see them where the store keeps pictures."""
    import numpy as np

    wanted = [key for names in listed.values() for key in names]
    rows = np.flatnonzero(np.isin(store.rows["key"], wanted)).tolist() if wanted else []
    prompts = {bytes(store.rows["key"][row]): str(store.rows["prompt"][row]) for row in rows}
    width = max((len(key.decode()) for key in wanted), default=0)
    for side, names in listed.items():
        if not names:
            continue
        which = {"on_mask": "on the mask", "off_mask": "off the mask", "hidden": "the body hides it"}[side]
        out.print(f"{which}, {len(names):,} of {len(keys[side]):,}:")
        for key in names:
            out.print(f"  {key.decode():<{width}}  {shortened(prompts.get(bytes(key), ''), 60)}".rstrip())
    if hint and wanted and any(True for _ in store.pictures):
        out.print("the store keeps pictures: --pictures FOLDER writes those of the images listed")


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
