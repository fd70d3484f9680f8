"""``chorus aggregate``, ``explain`` and ``overlay``: occupancies from a store, and the images behind them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from chorus.commands.console import kept_when_stopped, out, print_facts, print_json, print_table, progress_bars, wrote
from chorus.commands.options import (
    INPUT,
    PICTURE,
    Count,
    Number,
    OutputFile,
    OutputFolder,
    body_option,
    canonical_field,
    canonicalization_option,
    filter_option,
    force_option,
    joined_part_option,
    joined_prompt_option,
    json_option,
    no_canonicalize_option,
)

_parts_option = click.option(
    "--parts",
    type=INPUT,
    help="A JSON file {part: [vertices or joints]}, instead of the 12 parts of the body.",
)
_epsilon_option = click.option(
    "--epsilon",
    default=0.13,
    show_default=True,
    type=Number(min=0, min_open=True),
    help="Radius of the parts' regions, metres.",
)
_fold_option = click.option(
    "--fold",
    "folds",
    multiple=True,
    type=click.IntRange(0, 9),
    help="Only images of this fold, 0 to 9 by a hash of their key (repeatable).",
)
_hidden_option = click.option(
    "--hidden-weight",
    is_flag=False,
    flag_value=0.1,
    type=Number(min=0, max=1),
    help="What votes weigh that the body hides, 0 to 1; without a number 0.1. Default: they are not told apart.",
)


def _output(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """Checks the occupancy file, or with --all the folder, before anything is loaded."""
    kind = OutputFolder("clusters.json") if ctx.params["all_clusters"] else OutputFile(".h5", ".hdf5")
    return kind.convert(value, param, ctx)


@click.command("aggregate", short_help="Cast the votes of a store's images into an occupancy.")
@click.argument("store_path", metavar="STORE", type=INPUT)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    callback=_output,
    required=True,
    help="The occupancy file to write (.h5); with --all a folder.",
)
@click.option("--prompt", "prompts", multiple=True, help="Only images of this prompt, or pattern with * (repeatable).")
@click.option("--part", help='Only images whose object touches these body parts: "rightHand and not leftHand".')
@_parts_option
@_epsilon_option
@click.option(
    "--totals",
    default="before",
    show_default=True,
    type=click.Choice(["before", "after"]),
    help="Whether view weights count the images before or after the condition on parts.",
)
@_fold_option
@click.option(
    "--all", "all_clusters", is_flag=True, is_eager=True, help="Every prompt, every part and every pair, with a summary."
)
@click.option(
    "--min-images",
    default=100,
    show_default=True,
    type=Count(),
    help="With --all: images that a distribution needs.",
)
@filter_option
@click.option("--resolution", default=48, show_default=True, type=click.IntRange(min=2, max=512), help="Voxels along an edge.")
@canonicalization_option
@no_canonicalize_option
@click.option("--weighting", default="azimuth", show_default=True, help="View weights: azimuth, azimuth-elevation or none.")
@_hidden_option
@click.option("--scheme", help="How to group the counts, e.g. azimuth-elevation+folds; default: what the weighting needs.")
@click.option("--backend", default="auto", show_default=True, help="auto, triton, numba or reference.")
@click.option("--picture", type=PICTURE, help="Also draw it with the body from three sides (PNG).")
@force_option
@body_option
@json_option()
def aggregate_command(
    store_path: Path,
    output: Path,
    prompts: tuple[str, ...],
    part: str | None,
    parts: Path | None,
    epsilon: float,
    totals: str,
    folds: tuple[int, ...],
    all_clusters: bool,
    min_images: int,
    filter_name: str,
    resolution: int,
    canonicalization: str | None,
    no_canonicalize: bool,
    weighting: str,
    hidden_weight: float | None,
    scheme: str | None,
    backend: str,
    picture: Path | None,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Cast the votes of a store's images into an occupancy."""
    from chorus.occupancy.aggregation import aggregate
    from chorus.votes.prefetch import Timings

    if all_clusters and (prompts or part or picture or folds):
        raise click.UsageError("--all takes every prompt and part: give no --prompt, --part, --fold or --picture with it")
    field, derived = canonical_field(body_path, resolution, canonicalization, no_canonicalize)
    if all_clusters:
        how = {"parts": parts, "epsilon": epsilon, "backend": backend, "scheme": scheme, "hidden_weight": hidden_weight}
        how["canonicalization"] = derived
        _aggregate_all(store_path, output, field, how, filter_name, min_images, as_json)
        return
    timings = Timings()
    start = time.perf_counter()
    with progress_bars() as update:
        occupancy = aggregate(
            store_path,
            field,
            weighting,
            backend,
            list(prompts) or None,
            part,
            parts=parts,
            epsilon=epsilon,
            totals=totals,
            folds=folds or None,
            scheme=scheme,
            hidden_weight=hidden_weight,
            canonicalization=derived,
            filter=filter_name,
            timings=timings,
            progress=lambda done, total: update("aggregate", done, total),
        )
    seconds = time.perf_counter() - start
    occupancy.save(output)
    written = [output]
    if picture is not None:
        from chorus.figures.three_sides import save_three_sides

        title = "; ".join(prompts) or occupancy.category or store_path.name
        title += f" ({part})" if part else ""
        save_three_sides(picture, [("phi", occupancy.probability)], field.extent, field.body, title)
        written.append(picture)
    made_by = occupancy.provenance[0]
    facts = {
        "images": occupancy.num_images,
        **({"filter": made_by["filter"]["text"]} if "filter" in made_by else {}),
        "canonicalization": occupancy.parameters.canonicalization,
        "images_per_second": round(occupancy.num_images / seconds, 1),
        "backend": made_by["backend"],
        "largest_phi": round(float(occupancy.probability.max()), 3),
        "voxels_seen": int((occupancy.support > 0).sum()),
        **({} if occupancy.den_hidden is None else {"hidden_votes": f"{_share_hidden(occupancy):.1%}, each {hidden_weight:g}"}),
        **({"time": str(timings)} if timings.copy else {}),
    }
    if as_json:
        print_json({**facts, **_choice(occupancy), "wrote": written})
        return
    facts["canonicalization"] = _choice(occupancy).get("choice", {}).get("text", facts["canonicalization"])
    seen, highest = facts.pop("voxels_seen"), facts.pop("largest_phi")
    facts |= {"highest probability": highest, "seen by some image": f"{seen:,} of {occupancy.support.size:,} voxels"}
    print_facts(facts)
    wrote(*written)


def _choice(occupancy: Any) -> dict[str, Any]:
    """How the canonicalization of an occupancy was chosen, where it was: {"choice": ``Choice.to_json``}."""
    record = occupancy.provenance[0].get("canonicalization", {})
    return {"choice": record} if "ranking" in record else {}


def _share_hidden(occupancy: Any) -> float:
    """Share of an occupancy's votes that the body hides."""
    return float(occupancy.den_hidden.sum(dtype="int64") / max(1, occupancy.den_counts.sum(dtype="int64")))


def _aggregate_all(
    store_path: Path, folder: Path, field: Any, how: dict[str, Any], filter_name: str, min_images: int, as_json: bool
) -> None:
    """``--all``: every prompt, part and pair of them with enough images into a folder, and a table of what was written."""
    from chorus.occupancy.clusters import clusters, write_clusters
    from chorus.store import open_store
    from chorus.store.filters import filter_rows, find_filter

    store = open_store(store_path)
    chosen = find_filter(filter_name, store_path) or "none"
    _, _, filtered = filter_rows(store, store.select(), chosen)
    steps = [0, 0]

    def count(done: int, total: int) -> None:
        steps[:] = done, total
        update("prompts and parts", done, total)

    def kept() -> str:
        return (
            f"{steps[0]} of {steps[1]} combinations of prompt and part were aggregated; the distributions written so far stay "
            f"in {folder}, without clusters.json, which lists them; the same command begins anew"
        )

    with kept_when_stopped(kept), progress_bars() as update:
        found = clusters(store, field, min_images, **how, filter=chosen, progress=count)
        rows = write_clusters(folder, found)
    if as_json:
        print_json(rows)
        return
    table = Table(title=f"with at least {min_images} images", title_justify="left")
    for column in ("prompt", "part", "images", "canonicalization", "highest probability", "file"):
        table.add_column(column, justify="right" if column in ("images", "highest probability") else "left", overflow="fold")
    for row in rows:
        facts = f"{row['images']:,}", row["canonicalization"], f"{row['largest_phi']:.2f}"
        table.add_row(row["prompt"] or "any", row["part"] or "any", *facts, row["file"])
    print_table(table)
    if filtered is not None:
        out.print(f"filter: {filtered}")
    wrote(folder)


@click.command("explain", short_help="The images behind a place around the body.")
@click.argument("store_path", metavar="STORE", type=INPUT)
@click.argument("point", nargs=3, type=Number())
@click.option("--prompt", "prompts", multiple=True, help="Only images of this prompt, or pattern with * (repeatable).")
@click.option("--part", help="Only images whose object touches these body parts.")
@_parts_option
@_epsilon_option
@_fold_option
@filter_option
@click.option("--resolution", default=48, show_default=True, type=click.IntRange(min=2, max=512), help="Voxels along an edge.")
@canonicalization_option
@no_canonicalize_option
@click.option("--show", default=10, show_default=True, type=Count(0), help="How many keys to list, on the mask and off it.")
@_hidden_option
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
    hidden_weight: float | None,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """The images that voted for and against a voxel.

    It is the voxel at POINT: x y z in metres, in the canonical frame (+x the person's left, +y up, +z forward).
    """
    from chorus.occupancy.derived import derived_field
    from chorus.votes.explain import explain

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
    if as_json:
        print_json({**facts, "keys": {side: [key.decode() for key in names] for side, names in keys.items()}})
        return
    print_facts(facts)
    for side, names in keys.items():
        for key in names[:show]:
            out.print(f"{side.replace('_', ' '):<8}  {key.decode()}")
        if len(names) > show:
            out.print(f"{side.replace('_', ' '):<8}  and {len(names) - show:,} more")


@click.command("overlay", short_help="Draw an occupancy posed back onto images of a store.")
@click.argument("store_path", metavar="STORE", type=INPUT)
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
    for each, and overlays.json: which picture is of which image, and the mean probability on the object's mask.
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
            on_mask = save_posed_back(output / name, occupancy, field, batch, row, title)
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
