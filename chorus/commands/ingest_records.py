"""``chorus ingest records``: record folders into a store."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from chorus.commands.console import ERROR_EXIT, err, out, print_facts, print_json, progress_bars, wrote
from chorus.commands.interruption import stopping
from chorus.commands.options import INPUT, OutputStore, body_option, json_option

_SHOWN = 20
"""Rejected records that are printed one by one; the rest is counted. With --json all are printed."""


@click.command("records", short_help="Take in folders of predictions made elsewhere.")
@click.argument("folders", nargs=-1, type=INPUT)
@click.option(
    "--list",
    "list_file",
    type=click.File("rb"),
    help="A file with a folder on each line, or - for standard input; also what `find -print0` prints.",
)
@click.option("-o", "--output", type=OutputStore(), required=True, help="The store to make or add to.")
@body_option
@json_option()
def ingest_records_command(
    folders: tuple[Path, ...], list_file: BinaryIO | None, output: Path, body_path: Path | None, as_json: bool
) -> None:
    """Read records (record.json, object_mask.png, person_mask.png) into a store.

    FOLDERS are records, or folders that hold records at any depth. A record that is rejected leaves nothing in the store: the
    same command reads it again once it is repaired, and skips those that the store has.
    """
    from dataclasses import asdict

    from chorus.body.model import load_body
    from chorus.errors import InputError
    from chorus.ingest.record_folders import ingest_records

    given = [*folders, *(() if list_file is None else _listed(list_file.read()))]
    if not given:
        raise InputError("FOLDERS: expected folders of records, or --list, got none")
    with stopping("the records read so far") as stop, progress_bars() as update:
        report = ingest_records(
            given, output, load_body(body_path), stop=stop, progress=lambda done, total: update("records", done, total)
        )
    if as_json:
        print_json(asdict(report))
    else:
        for folder, reason in report.rejected[:_SHOWN]:
            err.print(f"rejected {folder}: {reason}")
        if len(report.rejected) > _SHOWN:
            err.print(f"rejected {len(report.rejected) - _SHOWN} more (--json lists all)")
        for key, residual in report.residual_px.items():
            out.print(f"{key}: camera fitted to its keypoints, mean distance {residual:.1f} px")
        print_facts({"added": len(report.added), "present already": len(report.present), "rejected": len(report.rejected)})
        if report.stopped:
            out.print("stopped before the end; the same command goes on from here")
        if report.added:
            wrote(output)
        elif output.exists():
            out.print(f"nothing was added to {output}")
        else:
            out.print(f"{output} was not made: no record could be used")
    if report.stopped:
        raise click.exceptions.Exit(stop.exit_code)
    if not report.added and not report.present:
        raise click.exceptions.Exit(ERROR_EXIT)


def _listed(content: bytes) -> Iterator[Path]:
    """The paths in a list, one a line or with a null after each; empty lines and a byte order mark are skipped."""
    content = content.removeprefix(codecs.BOM_UTF8)
    for line in content.split(b"\0" if b"\0" in content else b"\n"):
        path = line.removesuffix(b"\r").decode("utf-8", "surrogateescape")
        if path.strip():
            yield Path(path)
