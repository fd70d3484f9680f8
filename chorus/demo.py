"""The demo: the whole pipeline on simulated worlds with known truth (simulate, store, aggregate, compare, draw)."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body, load_body
from chorus.errors import InputError
from chorus.field import CanonicalField
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy
from chorus.simulate.images import DEMO, true_occupancy, write_world
from chorus.store import Store, open_store

Progress = Callable[[str, int, int | None], None]
"""Called with the stage, the number of steps done, and of all (None: unknown)."""

PAPER, RECOMMENDED = "paper", "recommended"
ESTIMATORS: dict[str, dict[str, Any]] = {PAPER: {}, RECOMMENDED: {"canonicalization": "auto", "hidden_weight": "auto"}}
"""Name -> arguments of ``aggregate``."""
THRESHOLD = 0.5
"""On phi, at which the learned distribution is compared with the truth."""
IMAGES_SHOWN = 4
"""Number of images of each prompt whose masks are drawn over the body."""


@dataclass(frozen=True)
class DemoRow:
    """How well one prompt's distribution, by one estimator, agrees with its truth.

    use         "held" or "kicked": what the prompt is about
    estimator   "paper", or "recommended": the canonicalization and the weight of hidden votes chosen from the images
    chosen      the canonicalization       hidden_weight  what votes weigh that the body hides
    iou         {phi >= threshold} against the voxels that at least half of the object's variations occupy
    other_iou   the same against the other prompt's truth: it should be near zero
    best_iou    at ``best_threshold``, chosen to maximise it: the upper bound for this distribution
    offset_m    distance in metres between the phi-weighted centre of {phi >= threshold} and the centre of the true voxels
    """

    prompt: str
    use: str
    estimator: str
    chosen: str
    hidden_weight: float
    images: int
    iou: float
    other_iou: float
    best_iou: float
    best_threshold: float
    offset_m: float


@dataclass(frozen=True)
class DemoReport:
    """What the demo measured.

    simulate_rate, aggregate_rate    images per second, the latter of the paper's votes, without compile time; None where the
                                     images existed already
    choose_rate                      images per second of the recommended estimator, choice included
    compile_seconds, field_seconds   for compiling the kernels, and for the skinning field
    files                            written        page  of them the one to open first
    """

    rows: list[DemoRow]
    simulate_rate: float | None
    aggregate_rate: float
    choose_rate: float
    compile_seconds: float
    field_seconds: float
    files: list[Path]
    page: Path


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two voxel sets; 0 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def run_demo(output: str | os.PathLike[str], num_images: int = 2000, seed: int = 0, *, progress: Progress) -> DemoReport:
    """Simulate images of two prompts into a store, aggregate them, compare with the truth, draw pictures into ``output``.

    The store is named after the seed and the number of images; an existing one is completed, not drawn again.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    body = load_body()
    start = time.perf_counter()
    field = CanonicalField(body)
    field_seconds = time.perf_counter() - start

    store_path = output / f"sports-ball-{num_images}-seed{seed}.chorus"
    start = time.perf_counter()
    made = write_world(store_path, DEMO, num_images, seed, body, progress=partial(progress, "simulate images"))
    drawn = sum(made.values()) - made.get("already there", 0)
    simulate_rate = drawn / (time.perf_counter() - start) if drawn else None

    store = open_store(store_path)
    start = time.perf_counter()
    for options in ESTIMATORS.values():
        aggregate(store.batch(store.select()[:64]), field, **options)
    compile_seconds = time.perf_counter() - start
    found, rates = {}, {}
    for name, options in ESTIMATORS.items():
        start = time.perf_counter()
        found[name] = [
            aggregate(
                store,
                field,
                prompt=world.prompt,
                scheme="azimuth+folds",
                progress=partial(progress, f"aggregate {world.name}, {name}"),
                **options,
            )
            for world in DEMO
        ]
        rates[name] = sum(o.num_images for o in found[name]) / (time.perf_counter() - start)

    truths = [true_occupancy(world, field.centres, seed, body=body) for world in DEMO]
    rows = [_compare(i, name, found[name][i], field, truths) for i in range(len(DEMO)) for name in ESTIMATORS]
    files = [store_path, *_write_results(output, found, truths, field, store, partial(progress, "draw pictures"))]
    files.append(_write_page(output, found[RECOMMENDED][0], truths[0], store, body, progress))
    return DemoReport(rows, simulate_rate, rates[PAPER], rates[RECOMMENDED], compile_seconds, field_seconds, files, files[-1])


def _write_results(
    output: Path,
    found: dict[str, list[Occupancy]],
    truths: list[NDArray[np.float32]],
    field: CanonicalField,
    store: Store,
    progress: Callable[[int, int], None],
) -> list[Path]:
    """Write the occupancies and all pictures; their paths."""
    from chorus.figures.azimuths import save_view_distribution
    from chorus.figures.overlays import save_masks, save_posed_back
    from chorus.figures.three_sides import save_three_sides

    files = []
    steps = 2 * len(DEMO) + 3
    for i, (world, truth) in enumerate(zip(DEMO, truths, strict=True)):
        progress(i, steps)
        for name, of_worlds in found.items():
            files.append(output / (f"{world.name}.h5" if name == PAPER else f"{world.name}-{name}.h5"))
            of_worlds[i].save(files[-1])
        compared = [*((name, of_worlds[i].probability) for name, of_worlds in found.items()), ("true", truth)]
        files.append(output / f"{world.name}.png")
        save_three_sides(files[-1], compared, field.extent, field.body, world.prompt)
    occupancies = found[RECOMMENDED]
    images = store.batch(np.concatenate([store.select(prompt=world.prompt)[:IMAGES_SHOWN] for world in DEMO]))
    for i, (world, occupancy) in enumerate(zip(DEMO, occupancies, strict=True)):
        progress(len(DEMO) + i, steps)
        picture = output / f"{world.name}-posed.png"
        its_field = CanonicalField.from_parameters(field.body, occupancy.parameters)
        save_posed_back(picture, occupancy, its_field, images, IMAGES_SHOWN * i, world.prompt)
        files.append(picture)
    progress(steps - 2, steps)
    titles = [str(p) for p in images.prompts] if images.prompts is not None else [""] * len(images)
    note = "some masks have simulated flaws, as a segmenter's do: a piece missing, a frayed edge"
    save_masks(output / "masks.png", images, field.body, titles, note=note)
    progress(steps - 1, steps)
    save_view_distribution(output / "views.png", [(w.prompt, o) for w, o in zip(DEMO, occupancies, strict=True)])
    progress(steps, steps)
    return [*files, output / "masks.png", output / "views.png"]


def _write_page(
    output: Path,
    occupancy: Occupancy,
    truth: NDArray[np.float32],
    store: Store,
    body: Body,
    progress: Callable[[str, int, int], None],
) -> Path:
    """Write the report of the first world's occupancy, which says how to get that of the other; its path."""
    from chorus.report.report import write_report

    name, other = (f"{world.name}-{RECOMMENDED}.h5" for world in DEMO)
    page = output / "report.html"
    command = ["chorus", "report", str(output / other), str(store.path), "-o", str(output / f"report-{DEMO[1].name}.html")]
    notes = (
        "These images are simulated, so that the truth is known: the view shows it under \u201cpose\u201d.",
        f"The demo learned a second use of the ball, \u201c{DEMO[1].prompt}\u201d; its page: {shlex.join(command)}",
    )
    return write_report(page, occupancy, store, body, images=3, source=name, truth=truth, notes=notes, progress=progress)


def _compare(
    world: int, estimator: str, occupancy: Occupancy, field: CanonicalField, truths: list[NDArray[np.float32]]
) -> DemoRow:
    prompt, phi = DEMO[world].prompt, occupancy.probability
    truth, other = truths[world] >= 0.5, truths[1 - world] >= 0.5
    if not truth.any():
        raise InputError(f"world: expected voxels that half of the variations occupy, got none for {prompt!r}")
    found = phi >= THRESHOLD
    best, at = max((iou(phi >= t, truth), float(t)) for t in np.arange(0.05, 1.0, 0.05))
    centre = (field.centres[found] * phi[found, None]).sum(0) / max(float(phi[found].sum()), 1e-9)
    offset = float(np.linalg.norm(centre - field.centres[truth].mean(0)))
    return DemoRow(
        prompt,
        DEMO[world].name.rpartition("-")[2],
        estimator,
        occupancy.parameters.canonicalization,
        occupancy.hidden_weight,
        occupancy.num_images,
        iou(found, truth),
        iou(found, other),
        best,
        at,
        offset,
    )
