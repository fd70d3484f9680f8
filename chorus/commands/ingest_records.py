"""``chorus ingest records``: record folders into a store."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import ERROR_EXIT, err, out, print_facts, print_json, wrote
from chorus.commands.options import INPUT, OutputStore, body_option, json_option


@click.command("records", short_help="Images analysed elsewhere, as folders of files.")
@click.argument("folders", nargs=-1, required=True, type=INPUT)
@click.option("-o", "--output", type=OutputStore(), required=True, help="The store to make or add to.")
@body_option
@json_option()
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
            err.print(f"rejected {folder}: {reason}")
        for key, residual in report.residual_px.items():
            out.print(f"{key}: camera fitted to its keypoints, mean distance {residual:.1f} px")
        print_facts({"added": len(report.added), "present already": len(report.present), "rejected": len(report.rejected)})
        wrote(output)
    if not report.added and not report.present:
        raise click.exceptions.Exit(ERROR_EXIT)
