"""``chorus aggregate``, ``explain`` and ``overlay``: occupancies from a store, and the images behind them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from chorus.commands.as_made import asked_canonicalization, given, own_field, take_selection
from chorus.commands.console import kept_when_stopped, out, print_facts, print_json, print_table, progress_bars, wrote
from chorus.commands.options import (
    INPUT,
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
    forced,
    json_option,
    no_canonicalize_option,
    parts_option,
    share_option,
)

if TYPE_CHECKING:
    from chorus.occupancy.counts import Occupancy
    from chorus.ranks import Share


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


def _output(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path:
    """Checks the occupancy file, or with --all the folder, before anything is loaded; with --update it is that file's."""
    if value is None:
        updated: Path | None = ctx.params.get("update")
        if updated is None:
            raise click.MissingParameter(ctx=ctx, param=param)
        from chorus.files import check_output_file

        check_output_file("--update", updated, (".h5", ".hdf5"))
        return updated
    kind = OutputFolder("clusters.json") if ctx.params["all_clusters"] else OutputFile(".h5", ".hdf5")
    return kind.convert(value, param, ctx)


@click.command("aggregate", short_help="Cast the votes of a store's images into an occupancy.")
@click.argument("store_path", metavar="STORE", type=STORE)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    callback=_output,
    help="The occupancy file to write (.h5); with --all a folder; with --update by default the file itself.  [required]",
)
@click.option(
    "--update",
    type=INPUT,
    is_eager=True,
    help="Vote only for images that this occupancy has not counted, and add them to it. Prompt, part, grid and the rest are "
    "its own; others, and another filter, are refused.",
)
@share_option
@click.option(
    "--keep-every",
    default=60.0,
    show_default=True,
    type=Number(min=0, min_open=True, infinite=True),
    metavar="SECONDS",
    help="How often what was counted is kept beside the output, so that the same command goes on after a stop; inf: never.",
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
@click.pass_context
def aggregate_command(
    ctx: click.Context,
    store_path: Path,
    output: Path,
    update: Path | None,
    share: Share,
    keep_every: float,
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
    """Cast the votes of a store's images into an occupancy.

    \b
    On several processors or machines, with equal results:
      torchrun --nproc-per-node=4 -m chorus aggregate STORE -o OCC.h5
      chorus aggregate STORE -o PART-1.h5 --share 1/4     (and 2/4, 3/4, 4/4)
      chorus merge PART-*.h5 -o OCC.h5
    """
    from chorus.occupancy.summary import peak
    from chorus.ranks import ranks, several_processes
    from chorus.votes.prefetch import Timings

    if all_clusters and (prompts or part or picture or folds or update or not share.whole):
        raise click.UsageError(
            "--all takes every prompt and part: give no --prompt, --part, --fold, --picture, --update or --share with it"
        )
    if all_clusters and several_processes():
        raise click.UsageError("--all is work of one process: run it without torchrun")
    field, derived = canonical_field(body_path, resolution, canonicalization, no_canonicalize)
    if all_clusters:
        each = {"parts": parts, "epsilon": epsilon, "backend": backend, "scheme": scheme, "hidden_weight": hidden_weight}
        _aggregate_all(store_path, output, field, {**each, "canonicalization": derived}, filter_name, min_images, as_json)
        return
    how: dict[str, Any] = {
        "weighting": weighting,
        "scheme": scheme,
        "backend": backend,
        "prompt": list(prompts) or None,
        "part": part,
        "parts": parts,
        "epsilon": epsilon,
        "totals": totals,
        "folds": folds or None,
        "hidden_weight": hidden_weight,
        "canonicalization": derived,
        "filter": filter_name,
    }
    updated = None
    if update is not None:
        field, updated = _updated(ctx, update, field, how)
    timings = Timings()
    start = time.perf_counter()
    with ranks(gpus=True) as processes:
        occupancy = _counted(store_path, output, field, how, share, processes, updated, keep_every, timings)
    if occupancy is None:
        return
    seconds = time.perf_counter() - start
    written = [output]
    if picture is not None:
        from chorus.figures.three_sides import save_three_sides

        title = _title(occupancy, store_path)
        title += f" ({part})" if part else ""
        save_three_sides(picture, [("phi", occupancy.probability)], field.extent, field.body, title)
        written.append(picture)
    new = occupancy.num_images - (0 if updated is None else updated.num_images)
    made_by = occupancy.provenance[-1]
    largest, at = peak(occupancy)
    facts = {
        "images": occupancy.num_images,
        **({} if updated is None else {"new_images": new}),
        **({} if share.whole else {"share": str(share)}),
        **({"filter": made_by["filter"]["text"]} if "filter" in made_by else {}),
        "canonicalization": occupancy.parameters.canonicalization,
        "images_per_second": round(new / seconds, 1),
        "backend": made_by["backend"],
        "largest_phi": largest,
        "largest_phi_at": at,
        "voxels_seen": int((occupancy.support > 0).sum()),
        **({} if occupancy.den_hidden is None else {"hidden_votes": _hidden_votes(occupancy)}),
        **({"time": str(timings)} if timings.copy else {}),
    }
    if as_json:
        print_json({**facts, **_choice(occupancy), "wrote": written})
        return
    print_facts(_in_words(occupancy, facts))
    wrote(*written)


def _title(occupancy: Occupancy, store_path: Path) -> str:
    """What a picture is of: the store's prompts that were asked for, or the category."""
    from chorus.occupancy.joins import learned_from
    from chorus.store import open_store
    from chorus.votes.selection import matching_prompts

    names = list(learned_from(occupancy).prompts or ())
    if any(set("*?") & set(name) for name in names):  # patterns: the store knows what they stand for
        names = matching_prompts(names, open_store(store_path, verify=False).prompts) or []
    shown = "; ".join(names[:3]) + (f" and {len(names) - 3} more prompts" if len(names) > 3 else "")
    return shown or occupancy.category or store_path.name


def _in_words(occupancy: Occupancy, facts: dict[str, Any]) -> dict[str, Any]:
    """What is printed of the facts, short enough for a terminal; --json has all of them."""
    from chorus.occupancy.summary import peak_text

    words: dict[str, Any] = {name: f"{value:,}" if isinstance(value, int) else value for name, value in facts.items()}
    choice = _choice(occupancy).get("choice")
    what = ", with the choices" if choice or "hidden_choice" in occupancy.provenance[-1] else ""
    words["images_per_second"] = f"{facts['images_per_second']:,.0f}, from the store's files to the counts{what}"
    if choice is not None:
        first = next(c for c in choice["ranking"] if c["name"] == choice["chosen"])
        alike = ", ".join(choice["alike"][:2]) + (f" and {len(choice['alike']) - 2} more" if len(choice["alike"]) > 2 else "")
        told = [f"{choice['chosen']}, chosen from {choice['images']} images"]
        told.append(f"foretells held-out masks with IoU {first['score']:.3f} +- {first['spread']:.3f}")
        words["canonicalization"] = "\n".join([*told, *([f"as good: {alike}"] if alike else [])])
    if "hidden_votes" in facts:
        words["hidden_votes"] = _hidden_votes(occupancy, short=True)
    seen, largest, at = (words.pop(name) for name in ("voxels_seen", "largest_phi", "largest_phi_at"))
    words["highest probability"] = peak_text(largest, at)
    return words | {"seen by some image": f"{seen} of {occupancy.support.size:,} voxels"}


def _updated(ctx: click.Context, path: Path, field: Any, how: dict[str, Any]) -> tuple[Any, Occupancy]:
    """The occupancy to be updated, and its field; arguments of ``how`` that were not given become those it was made with."""
    from chorus.occupancy.counts import load_occupancy

    found = load_occupancy(path)
    take_selection(ctx, found, how, ("prompt", "part", "epsilon", "totals", "folds", "scheme", "weighting"), "update")
    if not given(ctx, "hidden_weight") and found.num_hidden is not None:
        chosen = all("hidden_choice" in entry for entry in found.provenance)
        how["hidden_weight"] = "auto" if chosen else found.hidden_weight
    how["canonicalization"] = asked_canonicalization(ctx)  # None: its own
    return own_field(ctx, found, field.body, "update"), found


def _counted(
    store_path: Path,
    output: Path,
    field: Any,
    how: dict[str, Any],
    share: Share,
    processes: Any,
    updated: Occupancy | None,
    keep_every: float,
    timings: Any,
) -> Occupancy | None:
    """The occupancy, written, in the first of the processes; None in the others."""
    from chorus.occupancy.jobs import Job
    from chorus.occupancy.ledger import ledger_of

    ledger = ledger_of(output)
    job = Job(store_path, field, how, share, processes, updated, ledger, keep_every, forced())

    def kept() -> str:
        return f"what was counted so far is kept in {ledger}; the same command goes on from there"

    with contextlib.ExitStack() as stack:
        if keep_every < float("inf"):
            stack.enter_context(kept_when_stopped(lambda: kept() if ledger.exists() else "nothing was kept"))
        update = stack.enter_context(progress_bars()) if processes.first else lambda *_: None
        return job.run(
            lambda occupancy: occupancy.save(output),
            timings=timings,
            progress=lambda done, total: update("aggregate", done, total),
        )


def _hidden_votes(occupancy: Any, short: bool = False) -> str:
    """The share of an occupancy's votes that the body hides, what they weigh, and why where that was chosen."""
    from chorus.occupancy.hidden_choice import HiddenChoice

    share = float(occupancy.den_hidden.sum(dtype="int64") / max(1, occupancy.den_counts.sum(dtype="int64")))
    record = occupancy.provenance[0].get("hidden_choice")
    choice = None if record is None else HiddenChoice(**record)
    if not short:
        return f"{share:.1%}, each {f'{occupancy.hidden_weight:g}' if choice is None else choice}"
    return f"{share:.1%}, each weighs {occupancy.hidden_weight:g}" + ("" if choice is None else f" ({choice.reason})")


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
