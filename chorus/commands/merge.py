"""``chorus merge``: occupancies that were counted apart, as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus.commands.console import err, print_facts, print_json, wrote
from chorus.commands.options import INPUT, OutputFile, force_option, json_option

if TYPE_CHECKING:
    from chorus.occupancy.counts import Occupancy


@click.command("merge", short_help="Add occupancies that were counted apart.")
@click.argument("paths", metavar="OCCUPANCY...", type=INPUT, nargs=-1, required=True)
@click.option("-o", "--output", type=OutputFile(".h5", ".hdf5"), required=True, help="The occupancy file to write (.h5).")
@force_option
@json_option()
def merge_command(paths: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Add occupancies that were counted apart: shares of one job, other stores, other prompts. The sum is exact.

    Occupancies of another category, body, grid, canonicalization or weighting are refused, and those that have counted an image
    that another one has counted.
    """
    from chorus.errors import InputError
    from chorus.occupancy.counts import load_occupancy
    from chorus.occupancy.merging import merge, missing_shares
    from chorus.occupancy.summary import peak, peak_text

    at = iter(paths)
    reading = paths[0]

    def loaded() -> Iterator[Occupancy]:
        nonlocal reading
        for reading in at:
            yield load_occupancy(reading)

    try:
        total = merge(loaded())
    except InputError as error:
        if str(reading) in str(error):
            raise
        raise type(error)(f"{reading}: {error}") from None
    total.save(output)
    missing = missing_shares(total)
    if missing:
        err.print(f"chorus: warning: shares that are not among these: {', '.join(map(str, missing))}")
    largest, place = peak(total)
    facts: dict[str, object] = {"occupancies": len(paths), "images": total.num_images}
    if as_json:
        missed = [str(share) for share in missing]
        print_json({**facts, "largest_phi": largest, "largest_phi_at": place, "missing_shares": missed, "wrote": [output]})
        return
    facts["highest probability"] = peak_text(largest, place)
    print_facts(facts)
    wrote(output)
