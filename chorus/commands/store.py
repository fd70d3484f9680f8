"""``chorus store info`` and ``chorus store verify``: what a store holds, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import ERROR_EXIT, out, print_facts, print_json
from chorus.commands.options import INPUT, json_option


@click.command("info")
@click.argument("path", type=INPUT)
@json_option()
def store_info_command(path: Path, as_json: bool) -> None:
    """Describe a store: images by status, prompts, bytes."""
    from chorus.store import store_info

    facts = store_info(path)
    if as_json:
        print_json(facts)
        return
    facts.pop("provenance")  # pages of parameters: for --json
    print_facts(facts)


@click.command("verify", short_help="Check a store against its digests.")
@click.argument("path", type=INPUT)
@json_option()
def store_verify_command(path: Path, as_json: bool) -> None:
    """Read everything again and check it against its digests; exit code 2 where something is broken."""
    from dataclasses import asdict

    from chorus.store import verify_store

    problems = verify_store(path)
    if as_json:
        print_json([asdict(p) for p in problems])
    else:
        for problem in problems:
            out.print(f"{problem.shard}: {problem.dataset}: {problem.what}")
        out.print("nothing is broken" if not problems else f"{len(problems)} problems")
    if problems:
        raise click.exceptions.Exit(ERROR_EXIT)
