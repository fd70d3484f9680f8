"""``chorus simulate``: a store of simulated images whose truth is known."""

from __future__ import annotations

from pathlib import Path

import click

from chorus.commands.console import kept_when_stopped, print_facts, print_json, progress_bars, wrote
from chorus.commands.options import SEED, Count, OutputStore, body_option, json_option, record_options

_WHY = {
    "no object": " (the object is out of sight: such images are kept, but do not vote)",
    "no person": " (the person is out of sight: such images are kept, but do not vote)",
}
"""What an image's status means."""


@click.command("simulate", short_help="Write a store of simulated images whose truth is known.")
@click.option("-o", "--output", type=OutputStore(), required=True, help="The store to make or complete.")
@click.option(
    "--world",
    "worlds",
    multiple=True,
    help="A simulated world (repeatable; a wrong name lists all); default: those of the demo.",
)
@click.option("--images", default=2000, show_default=True, type=Count(), help="In all, split over the worlds.")
@click.option("--seed", default=0, show_default=True, type=SEED)
@click.option("--biased", is_flag=True, help="80 % of the cameras in front of the person.")
@record_options
@body_option
@json_option()
def simulate_command(
    output: Path,
    worlds: tuple[str, ...],
    images: int,
    seed: int,
    biased: bool,
    pose_errors: tuple[str, ...],
    shape_spread: float,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Write a store of simulated images whose truth is known.

    A store of the same worlds and seed is completed; stopped by Ctrl-C, it keeps what it has.
    """
    from chorus.body.model import load_body
    from chorus.errors import InputError
    from chorus.simulate.images import DEMO, WORLDS, write_world

    unknown = [name for name in worlds if name not in WORLDS]
    if unknown:
        raise InputError(f"--world: expected one of {', '.join(WORLDS)}; got {unknown[0]}")
    chosen = [WORLDS[name] for name in worlds] or list(DEMO)
    if biased:
        chosen = [world.biased() for world in chosen]
    chosen = [world.recorded_with(pose_errors, shape_spread) for world in chosen]
    body, there = load_body(body_path), 0

    def count(done: int, total: int) -> None:
        nonlocal there
        there = done
        update("simulate images", done, total)

    def kept() -> str:
        return (
            f"{output} has the {there:,} of {images:,} images drawn so far; the same command goes on"
            if there
            else "nothing is kept"
        )

    with kept_when_stopped(kept), progress_bars() as update:
        made = write_world(output, chosen, images, seed, body, progress=count)
    if as_json:
        print_json({"store": output, "images": made})
        return
    print_facts({"images": f"{images:,}", **{name: f"{number:,}{_WHY.get(name, '')}" for name, number in made.items()}})
    wrote(output)
