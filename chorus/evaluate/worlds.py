"""Does the method work? IoU with the truth in simulated worlds, for the method and for variants of it, with intervals.

Every world and seed is simulated three times over the same objects and poses: unchanged, with the body hiding the object,
and with 80 % of the cameras in front of the person. The images that show the object vote. IoU compares the voxels with
phi >= threshold and those that at least half of the object's variants occupy. The threshold for a seed is chosen on the
other seeds, so that no score depends on the truth it is compared with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from chorus.body.model import Body, load_body
from chorus.errors import InputError, check_array, check_texts, check_whole
from chorus.evaluate.intervals import CONFIDENCE, t_interval
from chorus.evaluate.unfinished import Unfinished, run_to_end
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy
from chorus.provenance import machine, versions
from chorus.simulate.images import simulate, true_occupancy
from chorus.simulate.worlds import WORLDS, World

Progress = Callable[[int, int], None]

VARIANTS: dict[str, str] = {
    "full": "full",
    "occluded": "body occluding",
    "rigid": "no canonicalization",
    "one-percent": "1 % of images",
    "biased-weighted": "biased cameras, weighted",
    "biased-unweighted": "biased cameras, not weighted",
}
"""Variant -> heading of its column, in the order of the table."""
TABLE_WORLDS = ("ball", "backpack", "board")
THRESHOLDS: NDArray[np.float32] = (np.arange(1, 201) / 200).astype(np.float32)
"""Candidates for the threshold on phi: 0.005, 0.010, ... 1."""
SHARE = 0.01
"""Share of the images in the variant one-percent."""
TRUTH_VARIANTS = 2000
"""Number of random objects from which the true voxels are computed."""
SIMULATIONS = 3


@dataclass(frozen=True)
class Row:
    """One world under one variant, by seed.

    iou        at the threshold chosen on the other seeds     threshold  that threshold
    best_iou   at the threshold that maximises it for the seed: the upper bound
    images     number of images that voted; the rest do not show the object
    mean, half_width   mean of ``iou`` over the seeds, and half width of its 95 % t-interval
    """

    world: str
    variant: str
    iou: tuple[float, ...]
    threshold: tuple[float, ...]
    best_iou: tuple[float, ...]
    images: tuple[int, ...]
    mean: float
    half_width: float


@dataclass(frozen=True)
class WorldsTable:
    """Rows (world by variant), the settings they were computed with, and the ``seconds`` they took."""

    rows: tuple[Row, ...]
    num_images: int
    seeds: tuple[int, ...]
    resolution: int
    extent: float
    body: str
    body_hash: str
    seconds: float
    pose_errors: tuple[str, ...] = ()
    shape_spread: float = 0.0

    def row(self, world: str, variant: str) -> Row:
        """The row of a world and a variant; KeyError for unknown ones."""
        for row in self.rows:
            if (row.world, row.variant) == (world, variant):
                return row
        raise KeyError((world, variant))

    @property
    def worlds(self) -> tuple[str, ...]:
        """The worlds, in the table's order."""
        return tuple(dict.fromkeys(row.world for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        """The table as a dictionary for JSON, with versions and machine."""
        return {
            "table": "worlds",
            "date": date.today().isoformat(),
            **asdict(self),
            "thresholds": "0.005 to 1 by 0.005; chosen for each seed on the others",
            "interval": f"{CONFIDENCE:.0%} t-interval over seeds",
            "images_simulated": SIMULATIONS * self.num_images * len(self.seeds) * len(self.worlds),
            "machine": machine(),
            "versions": versions(),
        }


def iou_curve(phi: Any, truth: Any, thresholds: NDArray[np.float32] = THRESHOLDS) -> NDArray[np.float64]:
    """IoU of {phi >= threshold} and the true voxels, for each of T ascending thresholds, (T,) float64.

    phi (N, N, N) float; truth (N, N, N) bool. Raises InputError for other shapes and an empty truth set.
    """
    shape = ("Nx", "Ny", "Nz")
    phi = check_array("phi", phi, shape, np.float32)
    truth = check_array("truth", truth, phi.shape, np.bool_)
    if not truth.any():
        raise InputError("truth: expected voxels that the object occupies, got none (a finer grid has some)")
    # In sorted order, the voxels with phi >= t are those from the insertion point of t on.
    predicted, hits = (values.size - np.searchsorted(np.sort(values), thresholds) for values in (phi.ravel(), phi[truth]))
    iou: NDArray[np.float64] = hits / (predicted + np.count_nonzero(truth) - hits)
    return iou


def held_out_scores(
    curves: Any, thresholds: NDArray[np.float32] = THRESHOLDS
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Score each seed at the threshold that maximises the mean IoU of the other seeds (of equals, the lowest).

    curves (S, T) IoU by seed and threshold -> IoU (S,) and thresholds (S,). Raises InputError for fewer than two seeds.
    """
    curves = check_array("curves", curves, ("S", len(thresholds)), np.float64)
    if len(curves) < 2:
        raise InputError(f"seeds: expected at least 2, to choose thresholds on other seeds; got {len(curves)}")
    chosen = [int(np.delete(curves, seed, axis=0).mean(0).argmax()) for seed in range(len(curves))]
    return curves[np.arange(len(curves)), chosen], thresholds[chosen]


def checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Seeds as a tuple. InputError for fewer than two, for equal and for negative ones."""
    found = tuple(check_array("seeds", list(seeds) if isinstance(seeds, range) else seeds, ("S",), np.int64).tolist())
    if len(found) < 2 or len(set(found)) < len(found) or min(found) < 0:
        raise InputError(f"seeds: expected at least two different ones >= 0, got {list(found)}")
    return found


def worlds_table(
    num_images: int = 2000,
    seeds: Sequence[int] = range(5),
    *,
    worlds: Sequence[str] = TABLE_WORLDS,
    body: Body | None = None,
    resolution: int = 48,
    batch_size: int = 128,
    pose_errors: Sequence[str] = (),
    shape_spread: float = 0.0,
    progress: Progress | None = None,
    unfinished: Unfinished | None = None,
) -> WorldsTable:
    """Simulate, vote and score every world, variant and seed.

    num_images  images in each simulation; there are three per world and seed
    seeds       at least two different seeds of the simulations
    worlds      names in chorus.simulate.worlds.WORLDS
    body        default: the built-in one
    pose_errors, shape_spread   errors of what is recorded, "NAME:SCALE" (chorus.simulate.pose_errors), and of people's builds
    progress    called with images simulated and images in all, after each batch
    unfinished  where each world and seed is kept once it is scored, and taken from where it is there already

    Simulation uses every core and takes nearly all of the time; the result does not depend on how it is split. Raises
    InputError for unknown worlds and numbers out of range.
    """
    seeds = checked_seeds(seeds)
    num_images, worlds = check_whole("num_images", num_images, 1), check_texts("worlds", worlds)
    unknown = [name for name in worlds if name not in WORLDS]
    if unknown or not worlds:
        raise InputError(f"worlds: expected some of {', '.join(WORLDS)}; got {unknown or 'none'}")
    changed = [WORLDS[name].recorded_with(pose_errors, shape_spread) for name in worlds]
    began = time.perf_counter()
    body = load_body() if body is None else body
    fields = {
        "full": CanonicalField(body, resolution),
        "rigid": CanonicalField(body, resolution, canonicalize=False),
    }
    total = SIMULATIONS * num_images * len(seeds) * len(worlds)
    counter = _ProgressCounter(total, progress)
    unfinished = Unfinished() if unfinished is None else unfinished
    settings = {"images": num_images, "body": body.hash, "resolution": resolution, "variants": list(VARIANTS)}
    if pose_errors or shape_spread:
        settings |= {"pose_errors": list(pose_errors), "shape_spread": shape_spread}
    unfinished.begin(settings)
    rows = []
    for name, world in zip(worlds, changed, strict=True):
        truth = true_occupancy(world, fields["full"].centres, variants=TRUTH_VARIANTS, body=body) >= 0.5
        results = []
        for seed in seeds:
            scored = _kept_seed(unfinished, name, seed)
            if scored is None:
                scored = _score_seed(world, seed, num_images, fields, truth, batch_size, counter)
                unfinished.keep(_seed_name(name, seed), {v: [c.tolist(), n] for v, (c, n) in scored.items()})
            else:
                counter.add(SIMULATIONS * num_images)
            results.append(scored)
        rows += [_row(name, variant, [result[variant] for result in results]) for variant in VARIANTS]
    p = fields["full"].parameters
    seconds = time.perf_counter() - began
    recorded = (tuple(map(str, pose_errors)), shape_spread)
    return WorldsTable(tuple(rows), num_images, seeds, p.resolution, p.extent, body.name, body.hash, seconds, *recorded)


def _seed_name(world: str, seed: int) -> str:
    return f"{world}, seed {seed}"


def _kept_seed(unfinished: Unfinished, world: str, seed: int) -> dict[str, tuple[NDArray[np.float64], int]] | None:
    """What ``_score_seed`` gave in an interrupted run; None where it is not kept."""
    kept = unfinished.get(_seed_name(world, seed))
    return None if kept is None else {variant: (np.array(curve), int(images)) for variant, (curve, images) in kept.items()}


class _ProgressCounter:
    """Images simulated so far, reported to ``progress``."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def add(self, images: int) -> None:
        self.done += images
        if self.progress is not None:
            self.progress(self.done, self.total)


def _score_seed(
    world: World,
    seed: int,
    num_images: int,
    fields: dict[str, CanonicalField],
    truth: NDArray[np.bool_],
    batch_size: int,
    counter: _ProgressCounter,
) -> dict[str, tuple[NDArray[np.float64], int]]:
    """IoU curve and number of voting images of every variant, for one seed."""

    def votes(which: World, field: CanonicalField, kept: list[ImageBatch] | None = None) -> Occupancy:
        batches = _voting(which, seed, num_images, field.body, batch_size, counter)
        if kept is None:
            return aggregate(batches, field)
        kept.extend(batches)
        return aggregate(kept, field)

    plain: list[ImageBatch] = []  # masks are bits: some megabytes
    full = votes(world, fields["full"], plain)
    biased = votes(world.biased(), fields["full"])
    share = max(1, round(SHARE * num_images))
    chosen = np.random.default_rng([seed, share]).permutation(full.num_images) < share  # exactly ``share`` elements are True
    ends = np.cumsum([len(batch) for batch in plain])
    sample = [batch[rows] for batch, rows in zip(plain, np.split(chosen, ends[:-1]), strict=True) if rows.any()]
    occupancies = {
        "full": full,
        "occluded": votes(world.occluded(), fields["full"]),
        "rigid": aggregate(plain, fields["rigid"]),
        "one-percent": aggregate(sample, fields["full"]),
        "biased-weighted": biased,
        "biased-unweighted": biased.reweight("none"),
    }
    return {name: (iou_curve(occ.probability, truth), occ.num_images) for name, occ in occupancies.items()}


def _voting(
    world: World, seed: int, num_images: int, body: Body, batch_size: int, counter: _ProgressCounter
) -> Iterator[ImageBatch]:
    """The images that show the object, as a store would select them."""
    for batch in simulate(world, num_images, seed, body, batch_size=batch_size):
        complete = batch.status == "complete"
        counter.add(len(batch))
        if complete.any():
            yield batch.images[complete]


def _row(world: str, variant: str, results: Sequence[tuple[NDArray[np.float64], int]]) -> Row:
    curves = np.stack([curve for curve, _ in results])
    iou, threshold = held_out_scores(curves)
    mean, half_width = t_interval(iou)
    return Row(
        world, variant, rounded(iou), rounded(threshold), rounded(curves.max(1)), tuple(n for _, n in results), mean, half_width
    )


def rounded(values: NDArray[Any]) -> tuple[float, ...]:
    """Numbers as they are kept in JSON."""
    return tuple(round(float(v), 6) for v in values)


def partial_table(unfinished: Unfinished) -> Table:
    """What an interrupted ``worlds_table`` has scored, for a terminal; worlds of a single seed have no interval yet."""
    by_world: dict[str, list[dict[str, tuple[NDArray[np.float64], int]]]] = {}
    for name, _ in unfinished.items():
        world, _, seed = name.partition(", seed ")
        by_world.setdefault(world, []).append(_kept_seed(unfinished, world, int(seed)) or {})
    table = Table(title="Does it work? (partial: stopped before all was scored)")
    table.add_column("world")
    table.add_column("seeds", justify="right")
    for heading in VARIANTS.values():
        table.add_column(heading, justify="right")
    for world, results in by_world.items():
        enough = len(results) > 1
        cells = [mean_cell(_row(world, v, [result[v] for result in results])) if enough else "-" for v in VARIANTS]
        table.add_row(world, str(len(results)), *cells)
    return table


def run(
    images: int = 2000,
    seeds: int | Sequence[int] = 5,
    output: str | Path | None = None,
    progress: Progress | None = None,
    unfinished: Unfinished | None = None,
    *,
    worlds: Sequence[str] = TABLE_WORLDS,
    pose_errors: Sequence[str] = (),
    shape_spread: float = 0.0,
) -> WorldsTable:
    """The table over the seeds, or so many from 0 on, written as JSON to ``output`` where that is given.

    An interrupted call can be repeated: each seed of a world is kept in ``unfinished`` (default: the file ``output`` +
    ".unfinished") once it is scored. Raises InputError as ``worlds_table`` does and, before any work, where ``output`` cannot
    be written.
    """

    def make(kept: Unfinished) -> WorldsTable:
        return worlds_table(
            images,
            range(seeds) if isinstance(seeds, int) else seeds,
            worlds=worlds,
            pose_errors=pose_errors,
            shape_spread=shape_spread,
            progress=progress,
            unfinished=kept,
        )

    return run_to_end(make, None if output is None else Path(output), unfinished)


class HasMean(Protocol):
    """A row of a table of means over seeds."""

    @property
    def mean(self) -> float: ...
    @property
    def half_width(self) -> float: ...


def mean_cell(row: HasMean) -> str:
    """A row's mean and the half width of its interval, for a table."""
    return f"{row.mean:.2f} ± {row.half_width:.2f}"


def _caption(table: WorldsTable) -> str:
    recorded = [f"poses recorded with {', '.join(table.pose_errors)}"] if table.pose_errors else []
    recorded += [f"builds varied by {table.shape_spread:g}"] if table.shape_spread else []
    return (
        f"IoU against the voxels that half of the object's variants occupy: mean and 95 % t-interval over "
        f"{len(table.seeds)} seeds of {table.num_images:,} images, {table.resolution}^3 voxels; thresholds chosen on "
        "the other seeds." + "".join(f" {part[0].upper()}{part[1:]}." for part in recorded)
    )


def as_markdown(table: WorldsTable) -> str:
    """The table for a README, with a line that says what it shows."""
    lines = ["| world | " + " | ".join(VARIANTS.values()) + " |", "|---" * (len(VARIANTS) + 1) + "|"]
    for world in table.worlds:
        cells = [mean_cell(table.row(world, variant)) for variant in VARIANTS]
        lines.append(f"| {world} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _caption(table)]) + "\n"


def as_rich(table: WorldsTable) -> Table:
    """The table for a terminal."""
    rich_table = Table(title="Does it work?", caption=_caption(table), caption_justify="left")
    rich_table.add_column("world")
    for heading in VARIANTS.values():
        rich_table.add_column(heading, justify="right")
    for world in table.worlds:
        rich_table.add_row(world, *(mean_cell(table.row(world, variant)) for variant in VARIANTS))
    return rich_table
