"""``chorus ablate``: Table 2's rows and more, from stores or on simulated worlds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus.commands.console import err, kept_when_stopped, out, print_json, print_table, progress_bars, wrote
from chorus.commands.options import (
    PICTURE,
    STORE,
    Count,
    Number,
    Numbers,
    OutputFile,
    OutputFolder,
    body_option,
    force_option,
    json_option,
    share_option,
)
from chorus.commands.shares import check_share, tell_share
from chorus.texts import counted

if TYPE_CHECKING:
    from chorus.ranks import Share


@click.command("ablate", short_help="What each part of the method is worth, with intervals.")
@click.argument("stores", metavar="[TRAINING_STORE]...", nargs=-1, type=STORE)
@click.option("--test", "tests", multiple=True, type=STORE, help="Test store (repeatable, one each).")
@click.option("--other", type=STORE, help="A store of one of the categories, from a second source of images.")
@click.option("--source-names", nargs=2, help="What the table calls the training stores' source and that of --other.")
@click.option(
    "--simulate",
    type=OutputFolder(),
    help="Instead of stores: simulate them into this folder, which may hold them already.",
)
@click.option(
    "--images",
    default=2000,
    show_default=True,
    type=Count(),
    help="With --simulate: training images of each category and seed.",
)
@click.option(
    "--test-images",
    default=40,
    show_default=True,
    type=Count(),
    help="With --simulate: test images of each category.",
)
@click.option("--category", "categories", multiple=True, help="With --simulate: a category (repeatable); default: all four.")
@click.option("--seeds", default=5, show_default=True, type=Count(2), help="Number of repetitions.")
@click.option(
    "--keypoint-confidence",
    default=0.7,
    show_default=True,
    type=Number(0, 1),
    help="The filter: least confidence of a shoulder and a hip .",
)
@click.option("--no-filter", is_flag=True, help="The stores keep no keypoint scores: leave the filter and its row out.")
@click.option(
    "--shares",
    type=Numbers(Number(0, 1, min_open=True)),
    default="0.01,0.1",
    show_default=True,
    help="Shares of each prompt's images to learn from.",
)
@click.option(
    "--sizes",
    type=Numbers(Count()),
    help="Numbers of images to draw from each source.  [default: 1201,9408; simulated: 256,2000]",
)
@click.option("--resolution", default=48, show_default=True, type=click.IntRange(min=2, max=256), help="Voxels along an edge.")
@click.option(
    "--resolutions",
    type=Numbers(click.IntRange(2, 256)),
    default="24,64",
    show_default=True,
    help="Other resolutions to compare with it.",
)
@click.option(
    "--k",
    type=Numbers(Count()),
    default="1,100",
    show_default=True,
    help="Numbers of nearest vertices that a voxel's weights come from, instead of 30.",
)
@click.option(
    "--tau",
    type=Numbers(Number(0, min_open=True)),
    default="0.4,1.6",
    show_default=True,
    help="Distances from the body, metres, at which voxels become rigid with the pelvis, instead of 0.8.",
)
@click.option("--table2", is_flag=True, help="Only the rows of the paper's table (Table 2).")
@click.option("--min-images", default=30, show_default=True, type=Count(), help="Test images that a category needs.")
@click.option("--backend", default="auto", show_default=True, help="auto, triton, numba or reference.")
@share_option
@click.option("-o", "--output", type=OutputFile(), help="Also write everything as JSON.")
@click.option("--picture", type=PICTURE, help="Also draw the rows with their intervals (PNG).")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@force_option
@json_option("Print everything as JSON.")
@body_option
def ablate_command(
    stores: tuple[Path, ...],
    tests: tuple[Path, ...],
    other: Path | None,
    source_names: tuple[str, str] | None,
    simulate: Path | None,
    images: int,
    test_images: int,
    categories: tuple[str, ...],
    seeds: int,
    keypoint_confidence: float,
    no_filter: bool,
    shares: tuple[float, ...],
    sizes: tuple[int, ...] | None,
    resolution: int,
    resolutions: tuple[int, ...],
    k: tuple[int, ...],
    tau: tuple[float, ...],
    table2: bool,
    min_images: int,
    backend: str,
    share: Share,
    output: Path | None,
    picture: Path | None,
    markdown: bool,
    as_json: bool,
    body_path: Path | None,
) -> None:
    """What each part of the method is worth.

    The rows of the paper's Table 2 and more: mean projective average precision (PAP) over seeds, with 95 % intervals.
    Learns from the training stores (one a category), scores on the test stores. With --simulate both are made, each seed has
    training images of its own, and the exit code is 1 where a claim about those worlds does not hold. Stopped by Ctrl-C, what
    is scored is kept beside the file of -o, and the same command goes on. With --share a part of the work is done, and kept
    there, too; the same command without --share then takes what all shares have kept, does what is missing, and writes the
    table.
    """
    from dataclasses import replace

    from chorus.body.model import load_body
    from chorus.errors import InputError
    from chorus.evaluate.ablation.report import as_markdown, as_rich, mechanism_lines, partial_table, to_json
    from chorus.evaluate.ablation.rows import AblationOptions, has_keypoints, keypoint_filter
    from chorus.evaluate.ablation.run import ablate, ablate_share
    from chorus.evaluate.ablation.simulated_stores import (
        FIRST_SOURCE,
        OTHER_SOURCE,
        SIZES,
        TRAINING,
        mechanisms,
        simulate_stores,
    )
    from chorus.evaluate.unfinished import Unfinished
    from chorus.files import write_json
    from chorus.store import open_store

    if (simulate is None) != bool(stores and tests) or (simulate is not None and (stores or tests or other)):
        raise InputError("stores: expected training stores and --test stores, or --simulate FOLDER alone")
    check_share(share, output, picture=picture, markdown=markdown)
    body, unfinished = load_body(body_path), Unfinished.beside(output, share)

    def kept() -> str:
        if output is None and unfinished:
            print_table(partial_table(unfinished))
        stores_kept = "" if simulate is None else f"the images simulated stay in {simulate}; "
        return stores_kept + unfinished.where()

    with kept_when_stopped(kept), progress_bars() as update:
        if simulate is not None:
            made = simulate_stores(
                simulate,
                images,
                test_images,
                range(seeds),
                categories=categories or tuple(TRAINING),
                body=body,
                progress=lambda done, total: update("simulate images", done, total),
            )
            training, opened, others = made.training, made.tests, made.other
        else:
            training, opened = [[open_store(path) for path in stores]], [open_store(path) for path in tests]
            others = [open_store(other)] if other is not None else []
        lacking = [store for of_seed in training for store in of_seed if not has_keypoints(store)]
        if lacking and not no_filter:
            raise InputError(f"stores: {lacking[0].path} keeps no keypoint scores to filter by (--no-filter does without)")
        default_sizes = (
            AblationOptions().sizes if simulate is None else tuple(sorted({max(1, s * images // 2000) for s in SIZES}))
        )
        options = AblationOptions(
            resolution=resolution,
            shares=shares,
            sizes=default_sizes if sizes is None else sizes,
            filtered=not no_filter,
            resolutions=resolutions,
            k=k,
            tau=tau,
        )
        if table2:
            options = replace(options, weightings=(), resolutions=(), k=(), tau=(), smoothing=False, estimators=False)
        how: dict[str, Any] = {
            "seeds": range(seeds),
            "where": None if no_filter else keypoint_filter(keypoint_confidence),
            "other": others,
            "options": options,
            "body": body,
            "backend": backend,
            "min_images": min_images,
            "progress": update,
            "unfinished": unfinished,
            "where_text": "" if no_filter else f"keypoints >= {keypoint_confidence}",
            "source_names": source_names or ((FIRST_SOURCE, OTHER_SOURCE) if simulate else ("first source", "other source")),
        }
        if share.whole:
            table = ablate(training, opened, **how)
        else:
            scored = ablate_share(share, training, opened, **how)
    if not share.whole:
        words = f"{counted(scored, 'piece')} of the work (a field or the estimators, of one category and seed)"
        tell_share(share, (scored, words), unfinished.num_kept, unfinished.path, as_json)
        return
    claims = mechanisms(table) if simulate is not None else []
    written = [simulate] if simulate is not None else []
    if output is not None:
        write_json(output, to_json(table, claims))
        unfinished.finish()
        written.append(output)
    if picture is not None:
        from chorus.figures.ablation_bars import save_ablations

        save_ablations(picture, table)
        written.append(picture)
    if as_json:
        print_json({**to_json(table, claims), "wrote": written})
    elif markdown:
        out.print(as_markdown(table, claims))
    else:
        print_table(as_rich(table))
        for line in mechanism_lines(claims):
            out.print(line)
        wrote(*written)
    failed = [claim for claim in claims if not claim.holds]
    if failed:
        err.print(f"chorus: {len(failed)} of {len(claims)} claims do not hold")
        click.get_current_context().exit(1)
