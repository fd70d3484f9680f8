"""The command ``chorus``. Every command ends by saying what it wrote; exit code 0 only when the job was done."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from chorus import __version__
from chorus.commands.coco import ingest_coco_eft_command
from chorus.commands.console import body_option, err, out, print_json, print_table, progress_bars, wrote
from chorus.commands.pap import evaluate_pap_command
from chorus.commands.pose import pose_command, roundtrip_command
from chorus.commands.statistics import store_stats_command
from chorus.commands.surfaces import mesh_command

# Heavy modules (torch, numba, matplotlib) are imported inside the commands that need them: `chorus --help` is instant.

ERROR_EXIT = 2


class _Group(click.Group):
    """Turns errors about input into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except Exception as error:
            if ctx.params.get("traceback"):
                raise
            expected = isinstance(error, (ValueError, OSError, ImportError))
            text = str(error) or type(error).__name__
            kind = "" if expected else f"unexpected {type(error).__name__}: "
            click.echo(f"chorus: error: {kind}{text}" + ("" if expected else " (--traceback shows where)"), err=True)
            ctx.exit(ERROR_EXIT if expected else 1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="chorus")
@click.option("--traceback", is_flag=True, help="On an error show where it came from.")
@click.option("-v", "--verbose", is_flag=True, help="Log what is chosen and why (backend, caches).")
def main(traceback: bool, verbose: bool) -> None:
    """Where is the object? 3D object occupancy around a canonical human, from very many images."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")


@main.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default="demo-output", show_default=True)
@click.option("--images", default=2000, show_default=True, type=click.IntRange(min=20))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
def demo(output: Path, images: int, seed: int) -> None:
    """Simulate two ways to meet a ball, aggregate the images, compare with the truth, draw pictures."""
    from chorus.demo import THRESHOLD, run_demo

    start = time.perf_counter()
    with progress_bars() as update:
        report = run_demo(output, images, seed, progress=update)
    table = Table(title="learned from images, against the known truth", title_justify="left")
    for column in ("prompt", "images", f"IoU (phi >= {THRESHOLD})", "IoU, other prompt", "centre off"):
        table.add_column(column, justify="left" if column == "prompt" else "right")
    for row in report.rows:
        found = f"{row.iou:.2f} (best {row.best_iou:.2f})"
        table.add_row(row.prompt, str(row.images), found, f"{row.other_iou:.2f}", f"{100 * row.offset_m:.0f} cm")
    out.print(table)
    simulated = "nothing: the store was there" if report.simulate_rate is None else f"{report.simulate_rate:,.0f} images/s"
    print_table(
        {
            "simulated": simulated,
            "aggregated": f"{report.aggregate_rate:,.0f} images/s at 48^3 (compiled in {report.compile_seconds:.1f} s)",
            "skinning field": f"{report.field_seconds:.1f} s",
            "all in all": f"{time.perf_counter() - start:.0f} s",
        }
    )
    wrote(*report.files)


@main.group()
def body() -> None:
    """Look at or convert body models."""


@body.command("info")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True)
def body_info(path: Path | None, as_json: bool) -> None:
    """Describe a body file, or the built-in mannequin."""
    from chorus.body import info, load_body

    facts = info(load_body(path))
    print_json(facts) if as_json else print_table(facts)


@body.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def body_convert(source: Path, target: Path) -> None:
    """Read a body file (an SMPL .pkl, say) and write it as a plain .npz without pickles."""
    from chorus.body import load_body

    if target.suffix != ".npz":
        raise click.BadParameter(f"expected a name ending in .npz, got {target.name}", param_hint="TARGET")
    load_body(source).save(target)
    wrote(target)


@main.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The store to make or complete.")
@click.option("--world", "worlds", multiple=True, help="Which world (repeatable); default: the demo's two. See --list.")
@click.option("--images", default=2000, show_default=True, type=click.IntRange(min=1), help="In all, split over the worlds.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--biased", is_flag=True, help="80 % of the cameras in front of the person.")
@body_option
@click.option("--json", "as_json", is_flag=True)
def simulate(
    output: Path, worlds: tuple[str, ...], images: int, seed: int, biased: bool, body_path: Path | None, as_json: bool
) -> None:
    """Write a store of simulated images whose truth is known."""
    from chorus.body import load_body
    from chorus.errors import InputError
    from chorus.simulate import DEMO, WORLDS, write_world

    unknown = [name for name in worlds if name not in WORLDS]
    if unknown:
        raise InputError(f"--world: expected one of {', '.join(WORLDS)}; got {unknown[0]}")
    chosen = [WORLDS[name] for name in worlds] or list(DEMO)
    if biased:
        chosen = [world.biased() for world in chosen]
    with progress_bars() as update:
        made = write_world(
            output, chosen, images, seed, load_body(body_path),
            progress=lambda done, total: update("simulate images", done, total),
        )  # fmt: skip
    if as_json:
        print_json({"store": output, "images": made})
        return
    print_table({"images by status": made})
    wrote(output)


@main.group()
def ingest() -> None:
    """Bring images analysed elsewhere into a store."""


@ingest.command("records")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The store to make or add to.")
@body_option
@click.option("--json", "as_json", is_flag=True)
def ingest_records_command(folders: tuple[Path, ...], output: Path, body_path: Path | None, as_json: bool) -> None:
    """Read record folders (record.json, object_mask.png, person_mask.png) into a store."""
    from dataclasses import asdict

    from chorus.body import load_body
    from chorus.ingest import ingest_records

    report = ingest_records(folders, output, load_body(body_path))
    if as_json:
        print_json(asdict(report))
    else:
        for folder, reason in report.rejected:
            err.print(f"rejected {folder}: {reason}", markup=False)
        for key, residual in report.residual_px.items():
            out.print(f"{key}: camera fitted to its keypoints (Eq. 8), mean distance {residual:.1f} px", markup=False)
        print_table({"added": len(report.added), "present already": len(report.present), "rejected": len(report.rejected)})
        wrote(output)
    if not report.added and not report.present:
        raise click.exceptions.Exit(ERROR_EXIT)


@main.group()
def store() -> None:
    """Look at image stores."""


@store.command("info")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True)
def store_info_command(path: Path, as_json: bool) -> None:
    """Describe a store: images by status, prompts, bytes."""
    from chorus.store import store_info

    facts = store_info(path)
    if as_json:
        print_json(facts)
        return
    facts.pop("provenance")  # pages of parameters: for --json
    print_table(facts)


@store.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True)
def store_verify_command(path: Path, as_json: bool) -> None:
    """Read everything again and check it against its digests; exit code 2 where something is broken."""
    from dataclasses import asdict

    from chorus.store import verify_store

    problems = verify_store(path)
    if as_json:
        print_json([asdict(p) for p in problems])
    else:
        for problem in problems:
            out.print(f"{problem.shard}: {problem.dataset}: {problem.what}", markup=False)
        out.print("nothing is broken" if not problems else f"{len(problems)} problems", markup=False)
    if problems:
        raise click.exceptions.Exit(ERROR_EXIT)


@main.command("aggregate")
@click.argument("store_path", metavar="STORE", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True,
    help="The occupancy file to write (.h5); with --all a folder."
)
@click.option("--prompt", "prompts", multiple=True, help="Only images of this prompt, or pattern with * (repeatable).")
@click.option("--part", help='Only images whose object touches these body parts: "rightHand and not leftHand".')
@click.option("--parts", type=click.Path(path_type=Path), help="A JSON file {part: [vertices]} instead of the 12 of Table 4.")
@click.option("--epsilon", default=0.13, show_default=True, help="Radius of the parts' regions, metres (Eq. 12).")
@click.option(
    "--totals", default="before", show_default=True, type=click.Choice(["before", "after"]),
    help="View weights count images before or after the condition on parts."
)
@click.option("--all", "every", is_flag=True, help="Every prompt, every part and every pair, with a summary.")
@click.option(
    "--min-images", default=100, show_default=True, type=click.IntRange(min=1), help="With --all: images a pair needs."
)
@click.option("--resolution", default=48, show_default=True, type=click.IntRange(min=2, max=512))
@click.option("--no-canonicalize", is_flag=True, help="The ablation: every voxel rigid with the pelvis.")
@click.option("--weighting", default="azimuth", show_default=True, help="azimuth, azimuth-elevation or none.")
@click.option("--scheme", help="How to group the counts, e.g. azimuth-elevation+folds; default: what the weighting needs.")
@click.option("--backend", default="auto", show_default=True, help="auto, triton, numba or reference.")
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw it with the body from three sides (PNG).")
@body_option
@click.option("--json", "as_json", is_flag=True)
def aggregate_command(
    store_path: Path,
    output: Path,
    prompts: tuple[str, ...],
    part: str | None,
    parts: Path | None,
    epsilon: float,
    totals: str,
    every: bool,
    min_images: int,
    resolution: int,
    no_canonicalize: bool,
    weighting: str,
    scheme: str | None,
    backend: str,
    picture: Path | None,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Cast the votes of a store's images into an occupancy."""
    from chorus.aggregation import aggregate
    from chorus.body import load_body
    from chorus.feeding import Timings
    from chorus.field import CanonicalField

    model = load_body(body_path)
    field = CanonicalField(model, resolution, canonicalize=not no_canonicalize)
    if every:
        if prompts or part or picture:
            raise click.UsageError("--all takes every prompt and part: give no --prompt, --part or --picture with it")
        _aggregate_all(store_path, output, field, parts, epsilon, backend, scheme, min_images, as_json)
        return
    timings = Timings()
    start = time.perf_counter()
    with progress_bars() as update:
        occupancy = aggregate(
            store_path, field, weighting, backend, list(prompts) or None, part, parts=parts, epsilon=epsilon, totals=totals,
            scheme=scheme, progress=lambda done, total: update("aggregate", done, total), timings=timings,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    occupancy.save(output)
    written = [output]
    if picture is not None:
        from chorus.figures.occupancy import save_three_sides

        title = "; ".join(prompts) or occupancy.category or store_path.name
        title += f" ({part})" if part else ""
        save_three_sides(picture, [("phi", occupancy.probability)], field.extent, model, title)
        written.append(picture)
    facts = {
        "images": occupancy.num_images,
        "images_per_second": round(occupancy.num_images / seconds, 1),
        "backend": occupancy.provenance[0]["backend"],
        "largest_phi": round(float(occupancy.probability.max()), 3),
        "voxels_seen": int((occupancy.support > 0).sum()),
        **({"time": str(timings)} if timings.copy else {}),
    }
    if as_json:
        print_json({**facts, "wrote": written})
        return
    print_table(facts)
    wrote(*written)


def _aggregate_all(
    store_path: Path, folder: Path, field: Any, parts: Path | None, epsilon: float, backend: str, scheme: str | None,
    min_images: int, as_json: bool,
) -> None:  # fmt: skip
    from chorus.clusters import clusters, write_clusters
    from chorus.store import open_store

    with progress_bars() as update:
        found = clusters(
            open_store(store_path), field, min_images, parts=parts, epsilon=epsilon, backend=backend, scheme=scheme,
            progress=lambda done, total: update("prompts and parts", done, total),
        )  # fmt: skip
        rows = write_clusters(folder, found)
    if as_json:
        print_json(rows)
        return
    table = Table(title=f"with at least {min_images} images", title_justify="left")
    for column in ("prompt", "part", "images", "largest phi", "file"):
        table.add_column(column, justify="right" if column in ("images", "largest phi") else "left", overflow="fold")
    for row in rows:
        table.add_row(
            row["prompt"] or "any", row["part"] or "any", f"{row['images']:,}", f"{row['largest_phi']:.2f}", row["file"]
        )
    out.print(table)
    wrote(folder)


@main.command()
@click.argument("store_path", metavar="STORE", type=click.Path(path_type=Path))
@click.argument("point", nargs=3, type=float)
@click.option("--prompt", "prompts", multiple=True, help="Only images of this prompt, or pattern with * (repeatable).")
@click.option("--part", help="Only images whose object touches these body parts.")
@click.option("--resolution", default=48, show_default=True, type=click.IntRange(min=2, max=512))
@click.option("--show", default=10, show_default=True, type=click.IntRange(min=0), help="Keys to list on either side.")
@body_option
@click.option("--json", "as_json", is_flag=True)
def explain(
    store_path: Path, point: tuple[float, float, float], prompts: tuple[str, ...], part: str | None, resolution: int, show: int,
    body_path: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """The images behind the voxel at POINT (x y z, metres, canonical frame): who voted for it and who against."""
    from chorus.body import load_body
    from chorus.explain import explain as explain_point
    from chorus.field import CanonicalField

    field = CanonicalField(load_body(body_path), resolution)
    found = explain_point(point, store_path, field, prompt=list(prompts) or None, part=part)
    keys = {"on_mask": found.on_mask, "off_mask": found.off_mask}
    facts = {
        "voxel": list(found.voxel),
        "centre": [round(c, 4) for c in found.centre.tolist()],
        "on_mask": len(found.on_mask),
        "off_mask": len(found.off_mask),
        "unseen": found.unseen,
        "probability, every image alike": round(found.probability, 4),
    }
    if as_json:
        print_json({**facts, "keys": {side: [key.decode() for key in names] for side, names in keys.items()}})
        return
    print_table(facts)
    for side, names in keys.items():
        for key in names[:show]:
            click.echo(f"{side.replace('_', ' '):<8}  {key.decode()}")
        if len(names) > show:
            click.echo(f"{side.replace('_', ' '):<8}  and {len(names) - show:,} more")


@main.command()
@click.argument("store_path", metavar="STORE", type=click.Path(path_type=Path))
@click.argument("occupancy_path", metavar="OCCUPANCY", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the pictures (PNG).")
@click.option("--images", default=8, show_default=True, type=click.IntRange(min=1), help="How many images, spread evenly.")
@body_option
def overlay(store_path: Path, occupancy_path: Path, output: Path, images: int, body_path: Path | None) -> None:
    """Draw an occupancy posed back into images of a store, over body and mask."""
    import numpy as np

    from chorus.body import load_body
    from chorus.field import CanonicalField
    from chorus.figures.images import save_posed_back
    from chorus.occupancy import load_occupancy
    from chorus.store import open_store

    occupancy, opened = load_occupancy(occupancy_path), open_store(store_path)
    field = CanonicalField.from_parameters(load_body(body_path), occupancy.parameters, occupancy.body_hash)
    rows = opened.select()
    batch = opened.batch(rows[np.unique(np.linspace(0, len(rows) - 1, images).astype(int))])
    output.mkdir(parents=True, exist_ok=True)
    for row, key in enumerate(batch.keys):
        name = key.decode()
        path = output / f"{''.join(c if c.isalnum() or c in '-_.' else '_' for c in name)}.png"
        on_mask = save_posed_back(path, occupancy, field, batch, row, name)
        out.print(f"{name}: mean phi on the mask {on_mask:.2f}", markup=False)
        wrote(path)


@main.group()
def evaluate() -> None:
    """Measure how good the results are."""


@evaluate.command("worlds")
@click.option("--images", default=2000, show_default=True, type=click.IntRange(min=100), help="A simulation.")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(min=2), help="Repetitions; thresholds are held out.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write the figures as JSON.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
def evaluate_worlds(images: int, seeds: int, output: Path | None, markdown: bool) -> None:
    """Does it work? Simulated worlds against their truth, and what each part of the method adds."""
    from chorus.evaluate.worlds import as_markdown, as_rich, run

    with progress_bars() as update:
        table = run(images, seeds, output, progress=lambda done, total: update("images", done, total))
    if markdown:
        click.echo(as_markdown(table))
    else:
        out.print(as_rich(table))
    if output is not None:
        wrote(output)


ingest.add_command(ingest_coco_eft_command)
evaluate.add_command(evaluate_pap_command)
evaluate.add_command(roundtrip_command)
store.add_command(store_stats_command)
main.add_command(pose_command)
main.add_command(mesh_command)


if __name__ == "__main__":
    sys.exit(main())
