"""``chorus stages``: what can be chosen for each stage, and whether it works here."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from chorus.commands.console import err, out, print_json, print_table
from chorus.commands.options import json_option
from chorus.commands.stage_options import assigned_options
from chorus.texts import sized

if TYPE_CHECKING:
    from chorus.frontend.checking.check import Outcome, StageReport

ALL = "all"
"""Given to --check: every stage that can run here."""


@click.command("stages", short_help="What can be chosen for each stage, and whether it works.")
@click.option("--kind", help="Only of this kind: prompts, images, detector, keypoints or humans.")
@click.option(
    "--check",
    "checked",
    metavar="NAME",
    help="Make this stage, give it one picture and say what comes; what is missing of its model is downloaded. NAME or "
    "KIND:NAME, as it is listed or as module:Class; all: every stage that can run here with its default model.",
)
@click.option("--weights", metavar="MODEL", help="With --check NAME: a hub id or a path, instead of the default model.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="With --check NAME: an option of the stage.")
@click.option("--category", help='With --check NAME: what is asked for beside people; default: "sports ball".')
@click.option("--device", default="auto", show_default=True, help="With --check: auto, cpu, cuda, cuda:1, ...")
@click.option("--dtype", default="auto", show_default=True, help="With --check: auto, float32, float16 or bfloat16.")
@json_option()
def stages_command(
    kind: str | None,
    checked: str | None,
    weights: str | None,
    assignments: tuple[str, ...],
    category: str | None,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """List what can be chosen for each stage, with licences, where weights come from, and options.

    With --check, try a stage instead: a minute on one drawn picture shows whether its model can be had, loads and does its work
    on this machine, how long that takes and how much memory. The exit code is 0 only if it does.
    """
    from chorus.errors import InputError
    from chorus.frontend.devices import resolve
    from chorus.frontend.registry import KINDS
    from chorus.frontend.stages import Runtime

    if kind is not None and kind not in KINDS:
        raise InputError(f"--kind: expected one of {', '.join(KINDS)}; got {kind!r}")
    single = {"--weights": weights, "--set": assignments, "--category": category}
    given = [option for option, value in single.items() if value]
    if given and checked in (None, ALL):
        raise click.UsageError(f"{given[0]}: expected only with --check NAME, got it {'with all' if checked else 'without'}")
    if checked is None:
        _list(kind, as_json)
        return
    runtime = Runtime(*resolve(device, dtype))
    if checked == ALL:
        _check_all(kind, runtime, as_json)
        return
    _check(checked, kind, weights, assignments, category, runtime, as_json)


def _list(kind: str | None, as_json: bool) -> None:
    from chorus.frontend.registry import broken_stages, stages

    broken = [f"--{stage.kind} {stage.name}: cannot be chosen: {stage.error}" for stage in broken_stages(kind)]
    if as_json:
        print_json([asdict(info) for info in stages(kind)])
        for line in broken:
            err.print(line)
        return
    for info in stages(kind):
        out.print(f"--{info.kind} {info.name}{'=MODEL' if info.model == '' else ''}: {info.what}")
        for name, value in (("model", info.model), ("licence", info.licence), ("weights", info.weights), ("needs", info.needs)):
            if value:
                out.print(f"    {name:<8} {value}")
        for name, meaning in info.options or ():
            out.print(f"    --set {info.kind}.{name}=...  {meaning}")
    for line in broken:
        out.print(line)


def _check(
    text: str,
    kind: str | None,
    weights: str | None,
    assignments: tuple[str, ...],
    category: str | None,
    runtime: Any,
    as_json: bool,
) -> None:
    """One stage: a report on standard output."""
    from dataclasses import replace

    from chorus.errors import InputError
    from chorus.frontend.checking.check import check_stage, choice
    from chorus.frontend.checking.picture import CATEGORY

    kind, spec = choice(text, kind)
    if weights:
        if "=" in spec:
            raise InputError(f"--weights: expected none beside {spec!r}, which names them; got {weights!r}")
        spec = f"{spec}={weights}"
    named = assigned_options(assignments, kind)
    options = {name.removeprefix(f"{kind}."): value for name, value in named.items()}
    _say_beginning(kind, spec.partition("=")[0])
    report = check_stage(kind, spec, replace(runtime, options=options), category or CATEGORY)
    if as_json:
        print_json(asdict(report))
        return
    _say(report)


def _check_all(kind: str | None, runtime: Any, as_json: bool) -> None:
    """Every stage: a table. Exit code 2 where one that could run did not do its work."""
    from chorus.commands.console import ERROR_EXIT
    from chorus.frontend.checking.check import check_all

    outcomes = list(check_all(runtime, kind, _say_beginning))
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        _say_all(outcomes)
    if any(outcome.state == "failed" for outcome in outcomes):
        raise click.exceptions.Exit(ERROR_EXIT)


def _say_beginning(kind: str, name: str) -> None:
    err.print(f"checking {kind} {name} ...")


def _say(report: StageReport) -> None:
    rows: list[tuple[str, str]] = []
    for model in report.weights:
        rows.append(("weights", model.model))
        if model.revision:
            rows.append(("revision", f"{model.revision} ({model.asked or 'main branch'})"))
            rows.append(("cached", model.place))
        if model.size is not None:
            new = f", {sized(model.downloaded)} of it downloaded now" if model.downloaded else ""
            rows.append(("size", f"{sized(model.size)} on disk{new}"))
    rows += [
        ("device", f"{report.device}, {report.dtype}"),
        *(("option", f"{name}={value}") for name, value in report.options.items()),
        ("loading", f"{report.loading_s:.2f} s"),
        ("running", f"{report.running_s:.2f} s"),
        ("memory", _memory(report)),
        ("given", report.given),
        *(("found", text) for text in report.found),
        ("contract", f"obeyed: {report.contract}"),
    ]
    last = ""
    for name, value in rows:
        out.print(f"{'' if name == last and name in ('found', 'option') else name:<9} {value}")
        last = name
    out.print(f"{report.kind} {report.name} works here")


def _say_all(outcomes: list[Outcome]) -> None:
    from rich.table import Table

    table = Table("stage", "result", "loading", "running", "memory")
    table.add_column("what came, or why not", overflow="fold")
    for outcome in outcomes:
        report = outcome.report
        numbers = ("", "", "") if report is None else (f"{report.loading_s:.1f} s", f"{report.running_s:.1f} s", _peak(report))
        told = outcome.reason if report is None else "; ".join(report.found)
        table.add_row(f"{outcome.kind} {outcome.name}", outcome.state, *numbers, told)
    print_table(table)
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in ("works", "failed", "not here")}
    out.print(f"{counts['works']} work, {counts['failed']} failed, {counts['not here']} cannot run here as things are")
    if any(outcome.state == "not here" for outcome in outcomes):
        out.print(
            "`chorus stages` says what to install for a stage, and --check NAME --weights MODEL tries one with other weights:"
        )
        out.print("a hub id, or, without a network, a folder that save_pretrained wrote on a machine with one")


def _peak(report: StageReport) -> str:
    """The most memory of a trial, in short."""
    rss, gpu = report.memory.rss, report.memory.gpu
    return ("?" if rss is None else sized(rss)) + ("" if gpu is None else f", GPU {sized(gpu)}")


def _memory(report: StageReport) -> str:
    rss, before = report.memory.rss, report.memory.before
    if rss is None:
        return f"{_peak(report)}: this system does not tell"
    return _peak(report) + " at most" + ("" if before is None else f" (RSS; {sized(max(rss - before, 0))} more than before)")
