"""``chorus aggregate``, ``explain`` and ``overlay``: occupancies from a store, and the images behind them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from chorus.commands.console import kept_when_stopped, out, print_facts, print_json, print_table, progress_bars, wrote
from chorus.commands.options import (
    PICTURE,
    STORE,
    Count,
    Number,
    OutputFile,
    OutputFolder,
    body_option,
    canonical_field,
    canonicalization_option,
    epsilon_option,
    filter_option,
    fold_option,
    force_option,
    json_option,
    no_canonicalize_option,
    parts_option,
)


class _HiddenWeight(Number):
    """A number from 0 to 1, or "auto"."""

    def __init__(self) -> None:
        super().__init__(min=0, max=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else super().convert(value, param, ctx)


_hidden_option = click.option(
    "--hidden-weight",
    is_flag=False,
    flag_value="auto",
    type=_HiddenWeight(),
    metavar="[0..1|auto]",
    help="What votes weigh that the body hides; auto: 0.1 where masks show what is seen of the object, else 1. Without a value "
    "auto; default: they are not told apart.",
)


def _output(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """Checks the occupancy file, or with --all the folder, before anything is loaded."""
    kind = OutputFolder("clusters.json") if ctx.params["all_clusters"] else OutputFile(".h5", ".hdf5")
    return kind.convert(value, param, ctx)


@click.command("aggregate", short_help="Cast the votes of a store's images into an occupancy.")
@click.argument("store_path", metavar="STORE", type=STORE)
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
@parts_option
@epsilon_option
@click.option(
    "--totals",
    default="before",
    show_default=True,
    type=click.Choice(["before", "after"]),
    help="Whether view weights count the images before or after the condition on parts.",
)
@fold_option
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
@click.option(
    "--weighting",
    default="azimuth",
    show_default=True,
    help="View weights: azimuth, azimuth-elevation, either with -shrunk, none.",
)
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
    hidden_weight: float | str | None,
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
        **({} if occupancy.den_hidden is None else {"hidden_votes": _hidden_votes(occupancy)}),
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


def _hidden_votes(occupancy: Any) -> str:
    """The share of an occupancy's votes that the body hides, what they weigh, and why where that was chosen."""
    from chorus.occupancy.hidden_choice import HiddenChoice

    share = float(occupancy.den_hidden.sum(dtype="int64") / max(1, occupancy.den_counts.sum(dtype="int64")))
    choice = occupancy.provenance[0].get("hidden_choice")
    return f"{share:.1%}, each {f'{occupancy.hidden_weight:g}' if choice is None else HiddenChoice(**choice)}"


def _choice(occupancy: Any) -> dict[str, Any]:
    """How the canonicalization of an occupancy was chosen, where it was: {"choice": ``Choice.to_json``}."""
    record = occupancy.provenance[0].get("canonicalization", {})
    return {"choice": record} if "ranking" in record else {}


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
