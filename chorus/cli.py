"""The command ``chorus``: its groups and what belongs to each. The commands themselves are in ``chorus.commands``.

Every command ends by saying what it wrote; exit code 0 only when the job was done. Heavy modules (torch, numba, matplotlib)
are imported inside the commands that need them: ``chorus --help`` is instant.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from chorus import __version__
from chorus.commands.ablate import ablate_command
from chorus.commands.aggregate import aggregate_command, explain_command, overlay_command
from chorus.commands.body import body_convert_command, body_info_command
from chorus.commands.console import ERROR_EXIT
from chorus.commands.demo import demo_command
from chorus.commands.evaluate_pap import evaluate_pap_command
from chorus.commands.evaluate_worlds import evaluate_worlds_command
from chorus.commands.filter import filter_command
from chorus.commands.ingest_coco_eft import ingest_coco_eft_command
from chorus.commands.ingest_records import ingest_records_command
from chorus.commands.mesh import mesh_command
from chorus.commands.pose import pose_command, roundtrip_command
from chorus.commands.prompts import prompts_command
from chorus.commands.reconstruct import reconstruct_command
from chorus.commands.simulate import simulate_command
from chorus.commands.store import store_info_command, store_verify_command
from chorus.commands.store_stats import store_stats_command
from chorus.commands.synthesize import ingest_images_command, remake_command, stages_command, synthesize_command


class _Group(click.Group):
    """Turns errors about input into one line and exit code 2, unexpected errors into one line and exit code 1."""

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
@click.option("--traceback", is_flag=True, help="On an error show where in the code it was raised.")
@click.option("-v", "--verbose", is_flag=True, help="Log what is chosen and why (backend, caches).")
def main(traceback: bool, verbose: bool) -> None:
    """Where is the object? 3D object occupancy around a canonical human, from very many images."""
    from chorus.commands.library_warnings import print_library_warnings

    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    click.get_current_context().with_resource(print_library_warnings())


@main.group()
def body() -> None:
    """Look at or convert body models."""


@main.group()
def ingest() -> None:
    """Bring images analysed elsewhere into a store."""


@main.group()
def store() -> None:
    """Look at image stores."""


@main.group()
def evaluate() -> None:
    """Measure how good the results are."""


COMMANDS: dict[click.Group, tuple[click.Command, ...]] = {
    main: (
        demo_command,
        simulate_command,
        prompts_command,
        synthesize_command,
        remake_command,
        stages_command,
        filter_command,
        aggregate_command,
        explain_command,
        overlay_command,
        pose_command,
        mesh_command,
        reconstruct_command,
        ablate_command,
    ),
    body: (body_info_command, body_convert_command),
    ingest: (ingest_records_command, ingest_images_command, ingest_coco_eft_command),
    store: (store_info_command, store_verify_command, store_stats_command),
    evaluate: (evaluate_pap_command, evaluate_worlds_command, roundtrip_command),
}
"""The commands of each group; a new one is written in ``chorus.commands`` and listed here."""

for _group, _commands in COMMANDS.items():
    for _command in _commands:
        _group.add_command(_command)


if __name__ == "__main__":
    sys.exit(main())
