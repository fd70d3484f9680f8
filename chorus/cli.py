"""The command ``chorus``: its groups and what belongs to each. The commands themselves are in ``chorus.commands``.

Every command ends by saying what it wrote; exit code 0 only when the job was done. Heavy modules (torch, numba, matplotlib)
are imported inside the commands that need them: ``chorus --help`` is instant.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

import click

from chorus import __version__
from chorus.commands.ablate import ablate_command
from chorus.commands.aggregate import aggregate_command
from chorus.commands.body import body_convert_command, body_info_command
from chorus.commands.completion import completion_command
from chorus.commands.console import (
    ERROR_EXIT,
    INTERRUPTED,
    be_quiet,
    err,
    escape_what_cannot_be_encoded,
    log_to_stderr,
    out,
)
from chorus.commands.contacts import contacts_command
from chorus.commands.demo import demo_command
from chorus.commands.evaluate_pap import evaluate_pap_command
from chorus.commands.evaluate_photos import evaluate_photos_command
from chorus.commands.evaluate_worlds import evaluate_worlds_command
from chorus.commands.experimental_em import experimental_em_command
from chorus.commands.explain import explain_command, overlay_command
from chorus.commands.export import export_coco_command, export_occupancy_command
from chorus.commands.figure import shells_command, turntable_command, weights_command
from chorus.commands.figure_images import cameras_command, canonicalization_command, grid_command, photo_command
from chorus.commands.filter import FilterGroup, filter_set_command, filter_show_command
from chorus.commands.ingest_coco import ingest_coco_command
from chorus.commands.ingest_coco_eft import ingest_coco_eft_command
from chorus.commands.ingest_folder import ingest_folder_command
from chorus.commands.ingest_photos import ingest_photos_command
from chorus.commands.ingest_records import ingest_records_command
from chorus.commands.interruption import Stopped, exit_code, signals_stop
from chorus.commands.merge import merge_command
from chorus.commands.mesh import mesh_command
from chorus.commands.occupancies import occupancies_command
from chorus.commands.overview import add_examples, format_sections
from chorus.commands.pose import pose_command, roundtrip_command
from chorus.commands.prompts import prompts_command
from chorus.commands.reconstruct import reconstruct_command
from chorus.commands.report import report_command
from chorus.commands.simulate import simulate_command
from chorus.commands.stages import stages_command
from chorus.commands.store import store_index_command, store_info_command, store_pictures_command, store_verify_command
from chorus.commands.store_growing import (
    store_compact_command,
    store_merge_command,
    store_select_command,
    store_split_command,
)
from chorus.commands.store_stats import store_stats_command
from chorus.commands.synthesize import ingest_images_command, remake_command, synthesize_command
from chorus.commands.view import view_command


class _Group(click.Group):
    """Turns every error into one line on standard error that begins "chorus: error:".

    Exit codes: 2 for wrong input and a job that cannot be done with it, 1 for unexpected errors, 130 for Ctrl-C, 143 for
    SIGTERM, 129 for SIGHUP, 141 where the reader of standard output has gone.
    """

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command line, as ``click.Group.main``."""
        escape_what_cannot_be_encoded()
        run: Callable[..., Any] = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **extra)
        try:
            with signals_stop(), warnings.catch_warnings():
                warnings.showwarning = _show_warning
                result = run(*args, standalone_mode=False, **extra)
            sys.stdout.flush()  # a reader that has gone is noticed here, not by Python on its way out
        except click.exceptions.NoArgsIsHelpError as error:
            err.print(error.format_message())
            sys.exit(ERROR_EXIT)
        except click.ClickException as error:
            err.print(f"chorus: error: {_sentence(error)}")
            sys.exit(ERROR_EXIT)
        except click.Abort as aborted:
            by = aborted.__cause__
            err.print(f"chorus: stopped by {by if isinstance(by, Stopped) else 'Ctrl-C'}")
            sys.exit(exit_code(by.number) if isinstance(by, Stopped) else INTERRUPTED)
        except BrokenPipeError:
            out.on_broken_pipe()
        except SystemExit:  # click's own answer to a closed pipe
            if out.has_reader():
                raise
            out.on_broken_pipe()
        sys.exit(result if isinstance(result, int) else 0)  # what a context exited with

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by what they are for."""
        format_sections(self, ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the group's command; exit code 2 or 1 for its errors."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except Exception as error:
            if ctx.params.get("traceback"):
                raise
            if isinstance(error, BrokenPipeError) and not out.has_reader():
                raise
            from chorus.errors import StageError

            expected = isinstance(error, (ValueError, OSError, ImportError, StageError))
            text = str(error) or type(error).__name__
            kind = "" if expected else f"unexpected {type(error).__name__}: "
            err.print(f"chorus: error: {kind}{text}" + ("" if expected else " (--traceback shows where)"))
            ctx.exit(ERROR_EXIT if expected else 1)


def _sentence(error: click.ClickException) -> str:
    """What click found wrong with a command line, in the form of the other errors: the option, then what is wrong."""
    text = error.format_message()
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
        name = error.param_hint or (
            error.param and error.param.get_error_hint(error.ctx or click.get_current_context(silent=True))
        )
        names = " or ".join(name) if isinstance(name, (list, tuple)) else str(name or "")
        text = f"{names.replace(chr(39), '')}: {error.message}"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        text = f"{text.rstrip('.')} (see {error.ctx.command_path} --help)"
    return text


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning of ours or of a library as one line, without the place in the code that raised it."""
    err.print(f"chorus: warning: {message}")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="chorus")
@click.option("--traceback", is_flag=True, help="On an error show where in the code it was raised.")
@click.option("-v", "--verbose", is_flag=True, help="Log what is chosen and why (backend, caches).")
@click.option("-q", "--quiet", is_flag=True, help="Only results and errors: no progress, no names of files written.")
@click.pass_context
def main(ctx: click.Context, traceback: bool, verbose: bool, quiet: bool) -> None:
    """Where is the object? 3D object occupancy around a canonical human, from very many images."""
    log_to_stderr(logging.INFO if verbose else logging.WARNING)
    if quiet:
        ctx.with_resource(be_quiet())


@main.group()
def body() -> None:
    """Look at or convert body models."""


@main.group()
def ingest() -> None:
    """Bring images analysed elsewhere into a store."""


@main.group()
def export() -> None:
    """Write stores and occupancies for other software."""


@main.group()
def store() -> None:
    """Look at image stores, and make stores of stores."""


@main.group("filter", cls=FilterGroup)
def filter_group() -> None:
    """Which images of a store count."""


@main.group()
def figure() -> None:
    """Pictures for papers, talks and web pages."""


@main.group()
def evaluate() -> None:
    """Measure how good the results are."""


@main.group()
def experimental() -> None:
    """Estimators with known failures; each says its own."""


COMMANDS: dict[click.Group, tuple[click.Command, ...]] = {
    main: (
        demo_command,
        completion_command,
        simulate_command,
        occupancies_command,
        prompts_command,
        synthesize_command,
        remake_command,
        stages_command,
        aggregate_command,
        merge_command,
        contacts_command,
        explain_command,
        overlay_command,
        pose_command,
        mesh_command,
        report_command,
        view_command,
        reconstruct_command,
        ablate_command,
    ),
    body: (body_info_command, body_convert_command),
    ingest: (
        ingest_folder_command,
        ingest_coco_command,
        ingest_records_command,
        ingest_photos_command,
        ingest_images_command,
        ingest_coco_eft_command,
    ),
    filter_group: (filter_show_command, filter_set_command),
    store: (
        store_info_command,
        store_verify_command,
        store_stats_command,
        store_pictures_command,
        store_merge_command,
        store_select_command,
        store_split_command,
        store_compact_command,
        store_index_command,
    ),
    export: (export_coco_command, export_occupancy_command),
    figure: (
        shells_command,
        turntable_command,
        grid_command,
        canonicalization_command,
        photo_command,
        cameras_command,
        weights_command,
    ),
    evaluate: (evaluate_pap_command, evaluate_worlds_command, evaluate_photos_command, roundtrip_command),
    experimental: (experimental_em_command,),
}
"""The commands of each group; a new one is written in ``chorus.commands`` and listed here."""

for _group, _commands in COMMANDS.items():
    for _command in _commands:
        _group.add_command(_command)
add_examples(main)


if __name__ == "__main__":
    sys.exit(main())
