"""Does the method work? Worlds with known truth, what each part of the method is worth in them, and how sure that is.

Every world and seed is simulated three times over the same objects and poses: as it is, with the body hiding the object,
and with 80 % of the cameras in front of the person. The images that show the object vote; IoU is that of the voxels with
phi >= threshold and those that at least half of the object's variants occupy. The threshold a seed is scored at is
chosen on the other seeds, so no score has seen its own truth.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from chorus.body.model import Body, load_body
from chorus.errors import InputError, check_array
from chorus.evaluate.environment import machine, versions
from chorus.evaluate.intervals import CONFIDENCE, t_interval
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy
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
"""What is compared, and its heading; the order of the table's columns."""
TABLE_WORLDS = ("ball", "backpack", "board")
THRESHOLDS: NDArray[np.float32] = (np.arange(1, 201) / 200).astype(np.float32)
"""Candidates for the threshold on phi: 0.005, 0.010, ... 1."""
SHARE = 0.01
"""Of the images, in the variant one-percent."""
TRUTH_VARIANTS = 2000
"""Objects drawn to know which voxels half of them occupy."""
SIMULATIONS = 3


@dataclass(frozen=True)
class Row:
    """One world under one variant, by seed.

    iou        at the threshold chosen on the other seeds     threshold  that threshold
    best_iou   at the seed's own best threshold: what knowing the truth would have given
    images     that voted; the others do not show the object
    mean, half_width   of ``iou`` and of its 95 % t-interval
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
    """Rows (world by variant), what they were made with, and ``seconds`` they took."""

    rows: tuple[Row, ...]
    num_images: int
    seeds: tuple[int, ...]
    resolution: int
    extent: float
    body: str
    body_hash: str
    seconds: float

    def row(self, world: str, variant: str) -> Row:
        """The row of a world and a variant; KeyError where there is none."""
        for row in self.rows:
            if (row.world, row.variant) == (world, variant):
                return row
        raise KeyError((world, variant))

    @property
    def worlds(self) -> tuple[str, ...]:
        """The worlds, in the table's order."""
        return tuple(dict.fromkeys(row.world for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON can hold it, with versions and machine."""
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
    """IoU of {phi >= threshold} and the truth set, for each of T thresholds, (T,).

    phi (N, N, N) float; truth (N, N, N) bool. Raises InputError for other shapes and an empty truth set.
    """
    shape = ("Nx", "Ny", "Nz")
    phi = check_array("phi", phi, shape, np.float32)
    truth = check_array("truth", truth, phi.shape, np.bool_)
    if not truth.any():
        raise InputError("truth: expected voxels that the object occupies, got none (a finer grid has some)")
    # Voxels with phi >= t are those from the place of t on, once sorted.
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


def worlds_table(
    num_images: int = 2000,
    seeds: Sequence[int] = range(5),
    *,
    worlds: Sequence[str] = TABLE_WORLDS,
    body: Body | None = None,
    resolution: int = 48,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> WorldsTable:
    """Simulate, vote and score every world, variant and seed.

    num_images  of each simulation; there are three per world and seed
    seeds       of the simulations, at least two, no two alike
    worlds      names in chorus.simulate.worlds.WORLDS
    body        default: the built-in one
    progress    called with images simulated and images in all, after each batch

    Simulation uses every core and takes nearly all of the time; the result does not depend on how it is split. Raises
    InputError for arguments that do not fit.
    """
    seeds = tuple(int(s) for s in seeds)
    if num_images < 1:
        raise InputError(f"num_images: expected at least 1, got {num_images}")
    if len(seeds) < 2 or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"seeds: expected at least two different ones >= 0, got {list(seeds)}")
    unknown = [name for name in worlds if name not in WORLDS]
    if unknown or not worlds:
        raise InputError(f"worlds: expected some of {', '.join(WORLDS)}; got {unknown or 'none'}")
    began = time.perf_counter()
    body = load_body() if body is None else body
    fields = {
        "full": CanonicalField(body, resolution),
        "rigid": CanonicalField(body, resolution, canonicalize=False),
    }
    total = SIMULATIONS * num_images * len(seeds) * len(worlds)
    counter = _Counter(total, progress)
    rows = []
    for name in worlds:
        truth = true_occupancy(WORLDS[name], fields["full"].centres, variants=TRUTH_VARIANTS, body=body) >= 0.5
        results = [_score_seed(WORLDS[name], seed, num_images, fields, truth, batch_size, counter) for seed in seeds]
        rows += [_row(name, variant, [result[variant] for result in results]) for variant in VARIANTS]
    p = fields["full"].parameters
    return WorldsTable(
        tuple(rows), num_images, seeds, p.resolution, p.extent, body.name, body.hash, time.perf_counter() - began
    )


class _Counter:
    """Images done, told to whoever wants to know."""

    def __init__(self, total: int, tell: Progress | None) -> None:
        self.done, self.total, self.tell = 0, total, tell

    def add(self, images: int) -> None:
        self.done += images
        if self.tell is not None:
            self.tell(self.done, self.total)


def _score_seed(
    world: World,
    seed: int,
    num_images: int,
    fields: dict[str, CanonicalField],
    truth: NDArray[np.bool_],
    batch_size: int,
    counter: _Counter,
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
    few = max(1, round(SHARE * num_images))
    chosen = np.random.default_rng([seed, few]).permutation(full.num_images) < few  # exactly so many are true
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


def _voting(world: World, seed: int, num_images: int, body: Body, batch_size: int, counter: _Counter) -> Iterator[ImageBatch]:
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
        world, variant, _floats(iou), _floats(threshold), _floats(curves.max(1)), tuple(n for _, n in results), mean, half_width
    )


def _floats(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(round(float(v), 6) for v in values)


def run(images: int = 2000, seeds: int = 5, output: str | Path | None = None, progress: Progress | None = None) -> WorldsTable:
    """The table over seeds 0 .. seeds - 1, written as JSON to ``output`` where that is given.

    Raises InputError as ``worlds_table`` does and, before any work, where ``output`` lies in no folder.
    """
    if output is not None and not Path(output).absolute().parent.is_dir():
        raise InputError(f"output: expected a file in a folder that is there, got {str(output)!r}")
    table = worlds_table(images, range(seeds), progress=progress)
    if output is not None:
        Path(output).write_text(json.dumps(table.to_json(), indent=1) + "\n")
    return table


def _cell(row: Row) -> str:
    return f"{row.mean:.2f} ± {row.half_width:.2f}"


def _caption(table: WorldsTable) -> str:
    return (
        f"IoU against the voxels that half of the object's variants occupy: mean and 95 % t-interval over "
        f"{len(table.seeds)} seeds of {table.num_images:,} images, {table.resolution}^3 voxels; thresholds chosen on "
        "the other seeds."
    )


def as_markdown(table: WorldsTable) -> str:
    """The table for a README, with a line that says what it shows."""
    lines = ["| world | " + " | ".join(VARIANTS.values()) + " |", "|---" * (len(VARIANTS) + 1) + "|"]
    lines += [
        f"| {world} | " + " | ".join(_cell(table.row(world, variant)) for variant in VARIANTS) + " |" for world in table.worlds
    ]
    return "\n".join([*lines, "", _caption(table)]) + "\n"


def as_rich(table: WorldsTable) -> Table:
    """The table for a terminal."""
    shown = Table(title="Does it work?", caption=_caption(table), caption_justify="left")
    shown.add_column("world")
    for heading in VARIANTS.values():
        shown.add_column(heading, justify="right")
    for world in table.worlds:
        shown.add_row(world, *(_cell(table.row(world, variant)) for variant in VARIANTS))
    return shown
