"""``chorus body info`` and ``chorus body convert``: look at body models, and write them without pickles."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import json_option, print_json, print_table, wrote


@click.command("info")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@json_option()
def body_info_command(path: Path | None, as_json: bool) -> None:
    """Describe a body file, or the built-in mannequin."""
    from chorus.body.model import info, load_body

    facts = info(load_body(path))
    print_json(facts) if as_json else print_table(facts)


@click.command("convert")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def body_convert_command(source: Path, target: Path) -> None:
    """Read a body file (an SMPL .pkl, say) and write it as a plain .npz without pickles."""
    from chorus.body.model import load_body

    if target.suffix != ".npz":
        raise click.BadParameter(f"expected a name ending in .npz, got {target.name}", param_hint="TARGET")
    load_body(source).save(target)
    wrote(target)
