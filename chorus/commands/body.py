"""``chorus body info`` and ``chorus body convert``: look at body models, and write them without pickles."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import print_facts, print_json, wrote
from chorus.commands.options import INPUT, OutputFile, force_option, json_option


@click.command("info", short_help="Describe a body file, or the built-in mannequin.")
@click.argument("path", required=False, type=INPUT)
@json_option()
def body_info_command(path: Path | None, as_json: bool) -> None:
    """Describe a body file, or the built-in mannequin."""
    from chorus.body.model import info, load_body

    facts = info(load_body(path))
    print_json(facts) if as_json else print_facts(facts)


@click.command("convert", short_help="Write a body file as a plain .npz, without pickles.")
@click.argument("source", type=INPUT)
@click.argument("target", type=OutputFile(".npz"))
@force_option
@json_option()
def body_convert_command(source: Path, target: Path, as_json: bool) -> None:
    """Read a body file (an SMPL .pkl, say) and write it as a plain .npz without pickles."""
    from chorus.body.model import load_body

    load_body(source).save(target)
    if as_json:
        print_json({"wrote": [target]})
        return
    wrote(target)
