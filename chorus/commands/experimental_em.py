"""``chorus experimental em``: an occupancy sharpened by noisy-OR EM."""

from __future__ import annotations

import time
from pathlib import Path

import click

from chorus.commands.console import print_facts, print_json, progress_bars, wrote
from chorus.commands.options import (
    INPUT,
    PICTURE,
    STORE,
    Count,
    OutputFile,
    body_option,
    filter_option,
    force_option,
    json_option,
)
from chorus.commands.pose import load_given_body


@click.command("em", short_help="Sharpen an occupancy by noisy-OR EM; fails where poses are off.")
@click.argument("store_path", metavar="STORE", type=STORE)
@click.argument("occupancy_path", metavar="OCCUPANCY", type=INPUT)
@click.option("-o", "--output", type=OutputFile(".h5", ".hdf5"), required=True, help="The result (HDF5).")
@click.option("--steps", default=8, show_default=True, type=Count(0), help="Of EM; 0 leaves the probability as it is.")
@filter_option
@click.option("--picture", type=PICTURE, help="Also draw before and after from three sides (PNG).")
@force_option
@body_option
@json_option()
def experimental_em_command(
    store_path: Path,
    occupancy_path: Path,
    output: Path,
    steps: int,
    filter_name: str,
    picture: Path | None,
    body_path: Path | None,
    as_json: bool,
) -> None:
    """Sharpen an occupancy by noisy-OR EM over the images of STORE that it was made from. Experimental.

    Voxels on one ray share the credit for a mask: thin objects become sharper, and one threshold fits most objects. It
    collapses where recorded poses are off (a ball in the hand at 0.1 rad an axis: IoU .52 to .71, of plain votes .80), and
    silhouettes of held-out images do not notice. The result can be posed, meshed and scored, not merged.
    """
    from chorus.experimental.noisy_or import noisy_or
    from chorus.occupancy.counts import load_occupancy
    from chorus.occupancy.posed import body_of

    occupancy = load_occupancy(occupancy_path)
    body = body_of(occupancy.body_hash, load_given_body(body_path))
    start = time.perf_counter()
    with progress_bars() as update:
        found = noisy_or(
            occupancy,
            store_path,
            body,
            steps=steps,
            filter=filter_name,
            progress=lambda done, total: update("steps", done, total),
        )
    seconds = time.perf_counter() - start
    found.save(output)
    written = [output]
    if picture is not None:
        from chorus.figures.three_sides import save_three_sides

        phis = [("phi", occupancy.probability), ("after EM", found.probability)]
        save_three_sides(picture, phis, occupancy.parameters.extent, body, f"{occupancy.category or 'object'}: noisy-OR EM")
        written.append(picture)
    made = found.provenance[0]
    facts = {
        "images": found.num_images,
        "images_per_second": round(found.num_images / seconds, 1),
        "steps": steps,
        "candidates": made["candidates"],
        "last_change": made["last_change"],
        "largest_phi": round(float(found.probability.max()), 3),
    }
    if as_json:
        print_json({**facts, "wrote": written})
        return
    facts["highest probability"] = facts.pop("largest_phi")
    print_facts(facts)
    wrote(*written)
