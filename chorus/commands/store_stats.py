"""``chorus store stats``: the numbers of Tables 1, 3 and 5."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import out, print_json, print_table, wrote
from chorus.commands.options import PICTURE, STORE, OutputFile, filter_option, force_option, json_option


@click.command("stats", short_help="What was kept and rejected, and where cameras stood.")
@click.argument("paths", metavar="STORE...", nargs=-1, required=True, type=STORE)
@click.option("--picture", type=PICTURE, help="Also draw reasons, azimuths, elevations, directions (PNG).")
@click.option("--by-view", is_flag=True, help="Where the cameras stood by view augmentation; then --picture draws this.")
@filter_option
@click.option("-o", "--output", type=OutputFile(), help="Also write the numbers as JSON.")
@force_option
@json_option("Print the numbers as JSON.")
def store_stats_command(
    paths: tuple[Path, ...], picture: Path | None, by_view: bool, filter_name: str, output: Path | None, as_json: bool
) -> None:
    """Numbers of images: kept, rejected and why.

    Also how evenly the cameras stood around the person.
    """
    from chorus.evaluate.statistics.stores import reasons_table, statistics_json, statistics_table, store_statistics
    from chorus.evaluate.statistics.views import views_table
    from chorus.files import write_json
    from chorus.store.filters.report import report_table

    stores = [store_statistics(path, filter=filter_name, by_view=by_view) for path in paths]
    written = []
    if output is not None:
        write_json(output, statistics_json(stores))
        written.append(output)
    if picture is not None:
        from chorus.figures.store_statistics import save_statistics, save_views

        (save_views if by_view else save_statistics)(picture, stores)
        written.append(picture)
    if as_json:
        print_json({**statistics_json(stores), "wrote": written})
        return
    print_table(statistics_table(stores))
    if any(s.rejected for s in stores):
        print_table(reasons_table(stores))
    for s in stores:
        if s.filter is not None:
            out.print(f"filter of {s.name}: {s.filter.filter}: {s.kept:,} of {s.filter.complete:,} images")
            print_table(report_table(s.filter))
        if by_view:
            print_table(views_table(f"{s.name}: cameras by view augmentation", s.views))
    wrote(*written)
