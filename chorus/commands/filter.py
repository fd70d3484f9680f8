"""``chorus filter show`` and ``set``: which images of a store are used, decided by the scores that it keeps."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import out, print_json, print_table, wrote
from chorus.commands.options import INPUT, STORE, filter_option, json_option


class FilterGroup(click.Group):
    """The group ``filter``. A store in place of a command, which once wrote the filter, is told the two commands."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, as ``click.Group`` has it; UsageError for a word that is none."""
        if self.get_command(ctx, args[0]) is None:
            ctx.fail(f"filter: expected `chorus filter show STORE` or `chorus filter set STORE ...`, got {args[0]!r}")
        found: tuple[str | None, click.Command | None, list[str]] = super().resolve_command(ctx, args)
        return found


@click.command("show")
@click.argument("store_path", metavar="STORE", type=STORE)
@filter_option
@json_option()
def filter_show_command(store_path: Path, filter_name: str, as_json: bool) -> None:
    """What a store's filter keeps, and what each rule rejects.

    Nothing is written. --filter shows what another filter would keep.
    """
    from chorus.store import open_store
    from chorus.store.filters import Filter, find_filter
    from chorus.store.filters.report import filter_report, report_table

    store = open_store(store_path, verify=False)
    chosen = find_filter(filter_name, store_path)
    report = filter_report(chosen or Filter.none(), store.rows)
    if as_json:
        print_json({"store": str(store.path), "has_filter": chosen is not None, **report.to_json()})
        return
    if chosen is None:
        out.print("no filter: every complete image counts")
    print_table(report_table(report))


@click.command("set")
@click.argument("store_path", metavar="STORE", type=INPUT)
@click.option("--rule", "assignments", multiple=True, metavar="RULE=NUMBER", help="A threshold: overlap=0.2; repeatable.")
@click.option("--off", "off", multiple=True, metavar="RULE", help="Switch a rule off; repeatable.")
@click.option("--torso-mode", type=click.Choice(["any", "all"]), help="A shoulder and a hip must be sure, or all four joints.")
@click.option("--soft/--hard", "soft", default=None, help="Weigh each image by its scores, or keep it or not.")
@click.option("--from", "start", metavar="NAME|PATH", help="Begin with paper, none, soft or a filter's file.")
@click.option("--reset", is_flag=True, help="Begin with the paper's rules, not with the filter that the store has.")
@click.option("--dry-run", is_flag=True, help="Say what it would do and write nothing.")
@json_option()
def filter_set_command(
    store_path: Path,
    assignments: tuple[str, ...],
    off: tuple[str, ...],
    torso_mode: str | None,
    soft: bool | None,
    start: str | None,
    reset: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Choose the images of a store that count.

    Begins with the store's filter, or the paper's rules where it has none, and changes what is asked for; no model is run. The
    result is kept as filter.json in the store's folder and used by all commands that aggregate it, unless they are told
    otherwise.

    \b
    Rules: one-person, one-object, person-confidence, object-confidence, overlap, overlap-smaller, person-side, torso, residual;
    pose is always on.
    """
    from chorus.store import open_store
    from chorus.store.filters import Filter, find_filter, rule, write_store_filter
    from chorus.store.filters.report import filter_report, report_table

    if start is not None and reset:
        raise click.UsageError("--reset begins with the paper's rules: give no --from with it")
    store = open_store(store_path, verify=False)
    if start is not None:
        chosen = find_filter(start, store_path) or Filter.none()
    else:
        chosen = (None if reset else find_filter("store", store_path)) or Filter.paper()
    if soft is not None:
        chosen = chosen.softened() if soft else chosen.hardened()
    thresholds = _assigned(assignments)
    for name in off:
        if rule(name).name in thresholds:
            raise click.UsageError(f"{name} is set and switched off: give one of the two")
        thresholds[name] = None
    chosen = chosen.changed(thresholds, torso_mode)
    report = filter_report(chosen, store.rows)
    written = [] if dry_run else [write_store_filter(store_path, chosen)]
    if as_json:
        print_json({"store": str(store.path), **report.to_json(), "wrote": written})
        return
    print_table(report_table(report))
    wrote(*written)
    if dry_run:
        out.print("dry run: nothing is written")


def _assigned(assignments: tuple[str, ...]) -> dict[str, float | None]:
    """The thresholds by rule from the command line's RULE=NUMBER. InputError for other texts, rules and numbers."""
    from chorus.errors import InputError
    from chorus.store.filters import rule

    thresholds: dict[str, float | None] = {}
    for text in assignments:
        name, equals, number = text.partition("=")
        if not equals:
            raise InputError(f"--rule: expected RULE=NUMBER, as overlap=0.2; got {text!r}")
        try:
            value = float(number)
        except ValueError:
            raise InputError(f"--rule {rule(name).name}: expected a number, got {number!r}") from None
        thresholds[name] = rule(name).threshold(value)
    return thresholds
