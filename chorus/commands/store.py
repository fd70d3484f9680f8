"""``chorus store info``, ``verify``, ``index``, ``pictures``: what a store holds, whether it is whole, its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus.commands.console import ERROR_EXIT, out, print_facts, print_json, progress_bars, wrote
from chorus.commands.options import INPUT, STORE, OutputFolder, force_option, json_option, share_option
from chorus.texts import counted, shortened, sized

if TYPE_CHECKING:
    from chorus.ranks import Share


@click.command("info", short_help="Describe a store: images by status, prompts, bytes.")
@click.argument("path", metavar="STORE", type=STORE)
@json_option()
def store_info_command(path: Path, as_json: bool) -> None:
    """Describe a store: images by status, prompts, bytes."""
    from chorus.store import store_info

    facts = store_info(path)
    if as_json:
        print_json(facts)
        return
    print_facts(_in_words(facts))


def _in_words(facts: dict[str, Any]) -> dict[str, str]:
    """What a store holds, the most important first; --json has all of it."""
    images, complete = facts["images"], facts["by_status"].get("complete", 0)
    others = [f"{number:,} {name}" for name, number in facts["by_status"].items() if name != "complete"]
    kinds = sorted((k for k in facts["bytes_per_image"] if k != "total"), key=lambda k: -facts["bytes_per_image"][k])
    each = [f"{k.replace('_', ' ')} {sized(facts['bytes_per_image'][k])}" for k in kinds if facts["bytes_per_image"][k]]
    pictures, each_size = facts["pictures"], sized(facts["bytes_per_image"]["total"])
    words = {
        "store": f"{facts['path']} ({facts['category'] or 'category not named'})",
        "images": f"{images:,}",
        "that can vote": f"{complete:,} (complete: with mask, pose and camera)",
        "that cannot": ", ".join(others),
        "prompts": _listed(facts["by_prompt"], facts["complete_by_prompt"]),
        "views": _listed(facts["by_view"]),
        "size": f"{sized(facts['bytes'])} in {counted(facts['shards'], 'shard')}, {each_size} an image",
        "an image's": ", ".join(each),
        "pictures kept": "none"
        if not pictures["kept"]
        else f"{pictures['kept']:,}, {sized(pictures['bytes'])}: "
        + ", ".join(f"{number:,} {kind}" for kind, number in pictures["media_types"].items()),
        "orphaned pictures": f"{pictures['orphans']:,}" if pictures["orphans"] else "",
        "body": f"{facts['num_joints']} joints, hash {(facts['body_hash'] or 'not known')[:12]}",
        "format": f"version {facts['version']}, written by {', '.join(facts['software'])}; id {facts['id'][:12]}",
    }
    return {name: value for name, value in words.items() if value}


def _listed(counts: dict[str, int], voting: dict[str, int] | None = None, most: int = 12) -> str:
    """Names and their numbers, one a line, the most frequent first; and how many of them can vote, where that is given."""
    names = [name for name in counts if name or len(counts) > 1]
    width = max((len(f"{counts[name]:,}") for name in names), default=0)
    lines = [f"{counts[name]:>{width},} {shortened(name, 44) or '(none)'}" for name in names[:most]]
    if voting is not None:
        lines = [f"{line} ({voting.get(name, 0):,} can vote)" for line, name in zip(lines, names, strict=False)]
    return "\n".join(lines + ([f"and {len(names) - most:,} more"] if len(names) > most else []))


@click.command("verify", short_help="Read a store again and check it against its digests.")
@click.argument("path", metavar="STORE", type=STORE)
@share_option
@json_option()
def store_verify_command(path: Path, share: Share, as_json: bool) -> None:
    """Read everything again and check it against its digests; exit code 2 where something is broken."""
    from dataclasses import asdict

    from chorus.store import verify_store

    problems = verify_store(path, share)
    if as_json:
        print_json([asdict(p) for p in problems])
    else:
        for problem in problems:
            out.print(f"{problem.shard}: {problem.dataset}: {problem.what}")
        out.print("nothing is broken" if not problems else counted(len(problems), "problem"))
    if problems:
        raise click.exceptions.Exit(ERROR_EXIT)


@click.command("index", short_help="Write index.json, which a store on a web server needs.")
@click.argument("path", metavar="STORE", type=INPUT)
@json_option()
def store_index_command(path: Path, as_json: bool) -> None:
    """Write index.json into a store: which shards it has, for a web server, which cannot be asked that.

    A store on another kind of server opens with fewer requests if it has one. Write it again when the store has changed, before
    it is uploaded: readers of the index see the shards that it names.
    """
    from chorus.store.remote.index import write_index

    written = write_index(path)
    if as_json:
        print_json({"wrote": [written]})
        return
    wrote(written)


@click.command("pictures", short_help="Write the pictures that a store keeps as files.")
@click.argument("store_path", metavar="STORE", type=STORE)
@click.option("-o", "--output", type=OutputFolder("pictures.json"), required=True, help="Folder for the pictures.")
@click.option("--key", "keys", multiple=True, help="Only the picture of this image (repeatable); default: all that are kept.")
@force_option
@json_option()
def store_pictures_command(store_path: Path, output: Path, keys: tuple[str, ...], as_json: bool) -> None:
    """Write the pictures that a store keeps (--keep-images) as files, byte for byte as they are kept.

    The folder gets a file for each, named after its key, and pictures.json: which file is of which image.
    """
    from chorus.errors import InputError
    from chorus.files import write_json
    from chorus.store import open_store
    from chorus.store.pictures import text_of

    kept = open_store(store_path, verify=False).pictures
    wanted = [key.encode("utf-8", "surrogateescape") for key in dict.fromkeys(keys)] or list(kept)
    if not wanted:
        raise InputError(f"STORE: expected one that keeps pictures (--keep-images), got {str(store_path)!r} without any")
    for key in wanted:
        if key not in kept:
            raise InputError(f"--key: expected an image whose picture the store keeps, got {text_of(key)!r}")
    output.mkdir(parents=True, exist_ok=True)
    with progress_bars() as update:
        files = kept.write(output, wanted, lambda done: update("write pictures", done, len(wanted)))
    table = output / "pictures.json"
    write_json(table, files)
    if as_json:
        print_json({"pictures": files, "wrote": [table]})
        return
    out.print(f"{counted(len(files), 'picture')} in {output}")
    wrote(table)
