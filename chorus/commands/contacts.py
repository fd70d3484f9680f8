"""``chorus contacts``: which body parts the object touches in which image, found before anything asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from chorus.commands.console import out, print_json, print_table, progress_bars
from chorus.commands.options import STORE, body_option, epsilon_option, json_option, parts_option, share_option
from chorus.texts import counted

if TYPE_CHECKING:
    from chorus.ranks import Share


@click.command("contacts", short_help="Find which body parts the objects of a store touch.")
@click.argument("store_path", metavar="STORE", type=STORE)
@parts_option
@epsilon_option
@click.option("--resolution", default=48, show_default=True, type=click.IntRange(min=2, max=512), help="Voxels along an edge.")
@share_option
@click.option("--backend", default="auto", show_default=True, help="auto, triton, numba or reference.")
@body_option
@json_option()
def contacts_command(
    store_path: Path,
    parts: Path | None,
    epsilon: float,
    resolution: int,
    share: Share,
    backend: str,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Find which body parts the object touches in each image of a store, and keep it in the store's folder.

    aggregate --part finds what is missing by itself; this does it before, where there are many images by several tasks of a job
    array, each with a --share of its own.
    """
    import numpy as np

    from chorus.body.model import load_body
    from chorus.field import CanonicalField
    from chorus.ranks import ranks
    from chorus.store import open_store
    from chorus.votes.contacts import store_contacts
    from chorus.votes.parts import interaction_regions
    from chorus.votes.portion import whole_shards

    field = CanonicalField(load_body(body_path), resolution)
    regions = interaction_regions(field, parts, epsilon)
    store = open_store(store_path)
    with ranks(gpus=True) as processes:
        if processes.world > 1 and not share.whole:
            raise click.UsageError("--share is for job arrays: torchrun divides the work among its processes by itself")
        mine = whole_shards(store, store.select(status=None), share if processes.world == 1 else processes.as_share)
        mine = mine[store.rows["has_camera"][mine]] if len(mine) else mine
        with progress_bars() as update:
            bits = store_contacts(
                store,
                field,
                regions,
                backend,
                rows=mine,
                progress=lambda done, total: update("contacts", done, total) if processes.first else None,
            )[mine]
        each = [int(np.count_nonzero(regions.has(bits, name))) for name in regions.names]
        images, *numbers = processes.sums([len(mine), *each])
    if not processes.first:
        return
    touched = dict(zip(regions.names, numbers, strict=True))
    if as_json:
        print_json({"images": images, "share": str(share), "touched": touched})
        return
    table = Table(title=f"{counted(images, 'image')} of {store_path}", title_justify="left")
    table.add_column("part")
    table.add_column("touched in", justify="right")
    for name, number in touched.items():
        table.add_row(name, f"{number:,}")
    print_table(table)
    out.print("the contacts are kept in the store, where its folder can be written to")
