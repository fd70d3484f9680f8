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
from chorus.commands.ablate import ablate_command
from chorus.commands.aggregate import aggregate_command, explain_command, overlay_command
from chorus.commands.console import body_option, err, out, print_json, print_table, progress_bars, wrote
from chorus.commands.evaluate_pap import evaluate_pap_command
from chorus.commands.filter import filter_command
from chorus.commands.ingest_coco_eft import ingest_coco_eft_command
from chorus.commands.mesh import mesh_command
from chorus.commands.pose import pose_command, roundtrip_command
from chorus.commands.prompts import prompts_command
from chorus.commands.reconstruct import reconstruct_command
from chorus.commands.store_stats import store_stats_command
from chorus.commands.synthesize import ingest_images_command, remake_command, stages_command, synthesize_command

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
            from chorus.errors import StageError

            expected = isinstance(error, (ValueError, OSError, ImportError, StageError))
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
    from chorus.body.model import info, load_body

    facts = info(load_body(path))
    print_json(facts) if as_json else print_table(facts)


@body.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def body_convert(source: Path, target: Path) -> None:
    """Read a body file (an SMPL .pkl, say) and write it as a plain .npz without pickles."""
    from chorus.body.model import load_body

    if target.suffix != ".npz":
        raise click.BadParameter(f"expected a name ending in .npz, got {target.name}", param_hint="TARGET")
    load_body(source).save(target)
    wrote(target)


@main.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The store to make or complete.")
@click.option("--world", "worlds", multiple=True, help="Which world (repeatable; a wrong one lists them); default: the demo's.")
@click.option("--images", default=2000, show_default=True, type=click.IntRange(min=1), help="In all, split over the worlds.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--biased", is_flag=True, help="80 % of the cameras in front of the person.")
@body_option
@click.option("--json", "as_json", is_flag=True)
def simulate(
    output: Path, worlds: tuple[str, ...], images: int, seed: int, biased: bool, body_path: Path | None, as_json: bool
) -> None:
    """Write a store of simulated images whose truth is known."""
    from chorus.body.model import load_body
    from chorus.errors import InputError
    from chorus.simulate.images import DEMO, WORLDS, write_world

    unknown = [name for name in worlds if name not in WORLDS]
    if unknown:
        raise InputError(f"--world: expected one of {', '.join(WORLDS)}; got {unknown[0]}")
    chosen = [WORLDS[name] for name in worlds] or list(DEMO)
    if biased:
        chosen = [world.biased() for world in chosen]
    with progress_bars() as update:
        made = write_world(
            output,
            chosen,
            images,
            seed,
            load_body(body_path),
            progress=lambda done, total: update("simulate images", done, total),
        )
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

    from chorus.body.model import load_body
    from chorus.ingest.record_folders import ingest_records

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


for command in (
    aggregate_command,
    explain_command,
    overlay_command,
    pose_command,
    mesh_command,
    reconstruct_command,
    ablate_command,
    synthesize_command,
    remake_command,
    stages_command,
    filter_command,
):
    main.add_command(command)
main.add_command(prompts_command)
ingest.add_command(ingest_coco_eft_command)
ingest.add_command(ingest_images_command)
evaluate.add_command(evaluate_pap_command)
evaluate.add_command(roundtrip_command)
store.add_command(store_stats_command)


if __name__ == "__main__":
    sys.exit(main())
