"""``chorus store merge``, ``select``, ``split`` and ``compact``: stores made of stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from chorus.commands.console import out, print_json, progress_bars, wrote
from chorus.commands.options import INPUT, STORE, Count, OutputStore, body_option, json_option
from chorus.texts import counted

new_store_option = click.option("-o", "--output", type=OutputStore(new=True), required=True, help="The new store.")


def _told(made: list[Any], as_json: bool) -> None:
    """Print what became of the rows, and where they are."""
    if as_json:
        print_json([grown.to_json() for grown in made] if len(made) != 1 else made[0].to_json())
        return
    for grown in made:
        ways = {"linked": grown.linked, "copied": grown.copied, "written anew": grown.written}
        how = ", ".join(f"{number} {way}" for way, number in ways.items() if number)
        skipped = f"; {counted(grown.skipped, 'image')} skipped, whose keys were there" if grown.skipped else ""
        out.print(f"{counted(grown.images, 'image')} in {counted(grown.shards, 'shard')} ({how}){skipped}")
        wrote(grown.path)


@click.command("merge", short_help="Join stores of one category into a new one.")
@click.argument("stores", metavar="STORE...", nargs=-1, required=True, type=STORE)
@new_store_option
@click.option("--skip", is_flag=True, help="Leave images out whose key is in an earlier store, instead of refusing them.")
@click.option("--no-filter", is_flag=True, help="Give the new store no filter; else all must have the same.")
@json_option()
def store_merge_command(stores: tuple[Path, ...], output: Path, skip: bool, no_filter: bool, as_json: bool) -> None:
    """Join stores of one category into a new one, images in the order of the stores.

    Shards are hard links where the file system can, so that it takes a moment and hardly any room; else copies.
    """
    from chorus.store.growing import merge_stores

    with progress_bars() as update:
        made = merge_stores(stores, output, skip=skip, keep_filter=not no_filter, progress=lambda *n: update("merge", *n))
    _told([made], as_json)


@click.command("select", short_help="Make a store of some images of another.")
@click.argument("store_path", metavar="STORE", type=STORE)
@new_store_option
@click.option("--prompt", "prompts", multiple=True, help="Only images of this prompt, or pattern with * (repeatable).")
@click.option("--status", "statuses", multiple=True, help="Only images of this status, such as complete (repeatable).")
@click.option(
    "--filter", "filter_name", metavar="NAME|PATH", help="Only images that a filter keeps: store, paper, soft, a file."
)
@click.option("--keys", type=INPUT, help="Only images whose keys are in this text file, one a line.")
@click.option("--part", help='Only images whose object touches these body parts: "rightHand and not leftHand".')
@body_option
@json_option()
def store_select_command(
    store_path: Path,
    output: Path,
    prompts: tuple[str, ...],
    statuses: tuple[str, ...],
    filter_name: str | None,
    keys: Path | None,
    part: str | None,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Make a store of those images of another that fit all conditions given. It keeps the other's filter.

    Without conditions it is a copy of the store, whose shards are hard links where the file system can.
    """
    from chorus.store import open_store
    from chorus.store.filters import filter_rows
    from chorus.store.growing import select_store
    from chorus.votes.selection import matching_prompts

    store = open_store(store_path, verify=False)
    wanted = matching_prompts(prompts or None, store.prompts)
    rows = None if filter_name is None else filter_rows(store, store.select(), filter_name)[0]
    if part is not None:
        rows = _touching(store, store.select(prompt=wanted) if rows is None else rows, part, body_path)
    listed = None if keys is None else [line for line in keys.read_bytes().splitlines() if line]
    with progress_bars() as update:
        made = select_store(
            store, output, rows, prompt=wanted, status=statuses or None, keys=listed, progress=lambda *n: update("select", *n)
        )
    _told([made], as_json)


def _touching(store: Any, rows: Any, part: str, body_path: Path | None) -> Any:
    """Those of the rows whose object touches the body parts that a condition names."""
    import numpy as np

    from chorus.body.model import load_body
    from chorus.field import CanonicalField
    from chorus.votes.contacts import store_contacts
    from chorus.votes.parts import interaction_regions
    from chorus.votes.selection import PartQuery

    field = CanonicalField(load_body(body_path))
    regions = interaction_regions(field)
    query = PartQuery.parse(part, regions.names)
    with progress_bars() as update:
        bits = store_contacts(store, field, regions, progress=lambda *n: update("contacts", *n))
    kept = query(bits, regions)
    kept &= store.rows["has_camera"]
    return rows[np.asarray(kept)[rows]]


@click.command("split", short_help="Make several stores of one, by size or prompt.")
@click.argument("store_path", metavar="STORE", type=STORE)
@click.option("-o", "--output", type=OutputStore(new=True), required=True, help="The new folder for the stores.")
@click.option("--parts", type=Count(), help="So many stores of nearly the same number of bytes.")
@click.option("--by", type=click.Choice(["prompt"]), help="A store for each prompt.")
@json_option()
def store_split_command(store_path: Path, output: Path, parts: int | None, by: str | None, as_json: bool) -> None:
    """Make several stores of one: --parts of nearly equal bytes, images in order, or one for each prompt (--by prompt).

    Shards that fall into one part as a whole are hard links where the file system can.
    """
    from chorus.store.growing import split_store

    if (parts is None) == (by is None):
        raise click.UsageError("give one of --parts and --by")
    with progress_bars() as update:
        made = split_store(store_path, output, parts=parts, by_prompt=by is not None, progress=lambda *n: update("split", *n))
    _told(made, as_json)


@click.command("compact", short_help="Write many small shards of a store as few large ones.")
@click.argument("store_path", metavar="STORE", type=INPUT)
@click.option("--shard-size", default=4096, show_default=True, type=Count(), help="Images in a shard, at most.")
@json_option()
def store_compact_command(store_path: Path, shard_size: int, as_json: bool) -> None:
    """Write many small shards of a store as few large ones; the images keep their order, and every bit.

    The new shards take the place of the old ones in one step: whenever this is killed, the store has the old ones or the new
    ones. Writers wait; who reads the store meanwhile must open it again. Shards more than half full stay as they are.
    """
    from chorus.store.growing import compact_store

    with progress_bars() as update:
        made = compact_store(store_path, shard_size=shard_size, progress=lambda *n: update("compact", *n))
    if as_json:
        print_json(made.to_json())
        return
    if not made.written:
        out.print(f"nothing to do: {counted(made.images, 'image')} in {counted(made.shards, 'shard')}")
        return
    out.print(f"{counted(made.images, 'image')} in {counted(made.shards, 'shard')}, {made.written} of them new")
    wrote(store_path)
