"""Which estimator to use? IoU with the truth of simulated scenes, for the paper's and for others, on the same images.

As in ``chorus.evaluate.worlds``: IoU compares the voxels with phi >= threshold with the true ones, and the threshold for a seed
is chosen on the other seeds. No estimator is told the truth, nor which joint the objects are rigid to.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from chorus.body.model import Body, load_body
from chorus.canonicalization import ANCHORED, AUTO, LBS, LBS_NEAREST, NONE
from chorus.errors import check_whole
from chorus.evaluate.intervals import CONFIDENCE, t_interval
from chorus.evaluate.scenes import SCENES, scenes_named
from chorus.evaluate.unfinished import Unfinished, run_to_end
from chorus.evaluate.worlds import Progress, checked_seeds, held_out_scores, iou_curve, mean_cell, rounded
from chorus.experimental.noisy_or import noisy_or
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.hidden import HIDDEN_WEIGHT
from chorus.occupancy.hidden_choice import weigh_hidden
from chorus.provenance import machine, versions

PAPER, RECOMMENDED = "paper", "recommended"


@dataclass(frozen=True)
class Estimator:
    """How phi is made: the canonicalization, what hidden votes weigh (``chorus.aggregate``), and whether EM sharpens it."""

    heading: str
    canonicalization: str
    hidden_weight: float | str
    em: bool = False


ESTIMATORS: dict[str, Estimator] = {
    PAPER: Estimator("paper", LBS, 1.0),
    "paper-hidden": Estimator("paper, hidden votes 0.1", LBS, HIDDEN_WEIGHT),
    "nearest": Estimator("lbs-nearest", LBS_NEAREST, 1.0),
    "chosen": Estimator("chosen field", AUTO, 1.0),
    "chosen-hidden": Estimator("chosen field, hidden votes 0.1", AUTO, HIDDEN_WEIGHT),
    RECOMMENDED: Estimator("recommended: both chosen", AUTO, AUTO),
    "chosen-hidden-em": Estimator("chosen field, hidden votes 0.1, EM (experimental)", AUTO, HIDDEN_WEIGHT, em=True),
}
"""The estimators by name, in the order of the table."""


@dataclass(frozen=True)
class Row:
    """One scene under one estimator, by seed.

    iou           at the threshold chosen on the other seeds     threshold  that threshold
    best_iou      at the threshold that maximises it for the seed: the upper bound
    images        number of images that voted
    seconds       that its pass took, hidden votes counted, whatever they weigh; choice and EM included
    chosen        the canonicalization                           hidden_weight  what hidden votes weighed
    mean, half_width    mean of ``iou`` over the seeds, and half width of its 95 % t-interval
    gain, gain_half_width   the same of ``iou`` less the paper's with the same seed
    """

    scene: str
    estimator: str
    iou: tuple[float, ...]
    threshold: tuple[float, ...]
    best_iou: tuple[float, ...]
    images: tuple[int, ...]
    seconds: tuple[float, ...]
    chosen: tuple[str, ...]
    hidden_weight: tuple[float, ...]
    mean: float
    half_width: float
    gain: float
    gain_half_width: float


@dataclass(frozen=True)
class EstimatorsTable:
    """Rows (scene by estimator), the settings they were computed with, and the ``seconds`` they took."""

    rows: tuple[Row, ...]
    num_images: int
    seeds: tuple[int, ...]
    resolution: int
    extent: float
    body: str
    body_hash: str
    seconds: float

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> EstimatorsTable:
        """The table of which ``to_json`` made a record."""

        def values(of: type, kept: dict[str, Any]) -> dict[str, Any]:
            found = {field.name: kept[field.name] for field in fields(of)}
            return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}

        return cls(**{**values(cls, record), "rows": tuple(Row(**values(Row, row)) for row in record["rows"])})

    def row(self, scene: str, estimator: str) -> Row:
        """The row of a scene and an estimator; KeyError for unknown ones."""
        for row in self.rows:
            if (row.scene, row.estimator) == (scene, estimator):
                return row
        raise KeyError((scene, estimator))

    @property
    def scenes(self) -> tuple[str, ...]:
        """The scenes, in the table's order."""
        return tuple(dict.fromkeys(row.scene for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        """The table as a dictionary for JSON, with versions and machine."""
        return {
            "table": "estimators",
            "date": date.today().isoformat(),
            **asdict(self),
            "thresholds": "0.005 to 1 by 0.005; chosen for each seed on the others",
            "interval": f"{CONFIDENCE:.0%} t-interval over seeds",
            "generating_joint": generating_joints(self),
            "machine": machine(),
            "versions": versions(),
        }


Result = dict[str, Any]
"""Of one scene, seed and estimator: curve (T,) IoU by threshold, images, seconds, chosen, hidden_weight."""


def estimators_table(
    num_images: int = 2000,
    seeds: Sequence[int] = range(5),
    *,
    scenes: Sequence[str] = tuple(SCENES),
    body: Body | None = None,
    resolution: int = 48,
    progress: Progress | None = None,
    unfinished: Unfinished | None = None,
) -> EstimatorsTable:
    """Simulate, vote and score every scene, seed and estimator.

    num_images  images of each scene                     seeds  at least two different seeds of the simulations
    scenes      names in chorus.evaluate.scenes: SCENES or FITTED   body   default: the built-in one
    progress    called with images simulated and images in all, after each batch
    unfinished  where each scene and seed is kept once it is scored, and taken from where it is there already

    Raises InputError for unknown scenes and numbers out of range.
    """
    seeds, num_images, wanted = checked_seeds(seeds), check_whole("num_images", num_images, 1), scenes_named(scenes)
    began, body = time.perf_counter(), load_body() if body is None else body
    field = CanonicalField(body, resolution)
    unfinished = Unfinished() if unfinished is None else unfinished
    unfinished.begin({"images": num_images, "body": body.hash, "resolution": resolution, "estimators": list(ESTIMATORS)})
    done, total, rows = 0, num_images * len(seeds) * len(wanted), []

    def report(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, total)

    images: dict[int, list[ImageBatch]] = {}  # of one group of worlds, by seed; masks are bits: some megabytes
    for number, scene in enumerate(wanted):
        if number == 0 or scene.worlds != wanted[number - 1].worlds:
            truth = scene.truth(field.centres, body)
            images.clear()
        results = []
        for seed in seeds:
            name = f"{scene.name}, seed {seed}"
            kept: dict[str, Result] | None = unfinished.get(name)
            if kept is None:
                if seed not in images:
                    images[seed] = []
                    for batch, drawn in scene.draw(num_images, seed, body):
                        images[seed].append(batch)
                        report(drawn)
                else:
                    report(num_images)
                kept = score_images(scene.recorded(images[seed], body), field, truth)
                unfinished.keep(name, kept)
            else:
                report(num_images)
            results.append(kept)
        rows += _rows(scene.name, results)
    p = field.parameters
    seconds = time.perf_counter() - began
    return EstimatorsTable(tuple(rows), num_images, seeds, p.resolution, p.extent, body.name, body.hash, seconds)


def score_images(batches: Sequence[ImageBatch], field: CanonicalField, truth: NDArray[np.bool_]) -> dict[str, Result]:
    """The results of every estimator on the same images."""
    found: dict[str, Result] = {}
    for canonicalization in dict.fromkeys(estimator.canonicalization for estimator in ESTIMATORS.values()):
        # One pass for all weights of hidden votes.
        began = time.perf_counter()
        counted = aggregate(list(batches), field, canonicalization=canonicalization, hidden_weight=1.0)
        seconds = time.perf_counter() - began
        for name, estimator in ESTIMATORS.items():
            if estimator.canonicalization == canonicalization:
                occupancy = weigh_hidden(counted, estimator.hidden_weight)
                phi, extra = occupancy.probability, 0.0
                if estimator.em:
                    began = time.perf_counter()
                    phi = noisy_or(occupancy, list(batches), field.body).probability
                    extra = time.perf_counter() - began
                found[name] = {
                    "curve": iou_curve(phi, truth).tolist(),
                    "images": occupancy.num_images,
                    "seconds": round(seconds + extra, 3),
                    "chosen": occupancy.parameters.canonicalization,
                    "hidden_weight": occupancy.hidden_weight,
                }
    return {name: found[name] for name in ESTIMATORS}


def _rows(scene: str, results: Sequence[dict[str, Result]]) -> list[Row]:
    scores = {name: held_out_scores(np.array([result[name]["curve"] for result in results])) for name in ESTIMATORS}
    rows = []
    for name, (iou, threshold) in scores.items():
        mean, half_width = t_interval(iou)
        gain, gain_half_width = t_interval(iou - scores[PAPER][0])
        of = [result[name] for result in results]
        rows.append(
            Row(
                scene,
                name,
                rounded(iou),
                rounded(threshold),
                rounded(np.array([max(r["curve"]) for r in of])),
                tuple(r["images"] for r in of),
                tuple(r["seconds"] for r in of),
                tuple(r["chosen"] for r in of),
                tuple(r["hidden_weight"] for r in of),
                *(round(value, 6) for value in (mean, half_width, gain, gain_half_width)),
            )
        )
    return rows


def generating_joints(table: EstimatorsTable) -> dict[str, str]:
    """By scene whose objects are rigid to one joint: in how many of the seeds the chosen field is anchored there, "3 of 5"."""
    found = {}
    for name in table.scenes:
        joints = SCENES[name].joints
        if len(joints) == 1:
            chosen = table.row(name, "chosen").chosen
            found[name] = f"{sum(c in (ANCHORED + joints[0], *_also(joints[0])) for c in chosen)} of {len(chosen)}"
    return found


def _also(joint: str) -> tuple[str, ...]:
    return (NONE,) if joint == "pelvis" else ()


def run(
    images: int = 2000,
    seeds: Sequence[int] = range(5),
    scenes: Sequence[str] = tuple(SCENES),
    output: str | Path | None = None,
    progress: Progress | None = None,
    unfinished: Unfinished | None = None,
) -> EstimatorsTable:
    """The table, written as JSON to ``output`` where that is given; an interrupted call can be repeated, as for worlds.

    Raises InputError as ``estimators_table`` does and, before any work, where ``output`` cannot be written.
    """

    def make(kept: Unfinished) -> EstimatorsTable:
        return estimators_table(images, seeds, scenes=scenes, progress=progress, unfinished=kept)

    return run_to_end(make, None if output is None else Path(output), unfinished)


def _caption(table: EstimatorsTable) -> str:
    loses = [name for name in table.scenes if table.row(name, RECOMMENDED).gain < 0]
    worst = min(table.row(name, RECOMMENDED).gain for name in table.scenes)
    behind = (
        f"is behind the paper's in {', '.join(loses)} (by {-worst:.3f} at most)" if loses else "is nowhere behind the paper's"
    )
    return (
        f"IoU against the true voxels: mean and 95 % t-interval over {len(table.seeds)} seeds of {table.num_images:,} images, "
        f"{table.resolution}^3 voxels; thresholds chosen on the other seeds. The recommended estimator {behind}."
    )


def as_markdown(
    table: EstimatorsTable, scenes: Sequence[str] | None = None, estimators: Sequence[str] = tuple(ESTIMATORS)
) -> str:
    """The table in Markdown, or some of its scenes (None: all) and estimators, with a line that says what all of it shows."""
    lines = ["| scene | " + " | ".join(ESTIMATORS[name].heading for name in estimators) + " | field chosen |"]
    lines += ["|---" * (len(estimators) + 2) + "|"]
    for scene in table.scenes if scenes is None else scenes:
        cells = [mean_cell(table.row(scene, name)) for name in estimators]
        lines.append(f"| {SCENES[scene].heading} | {' | '.join(cells)} | {_chosen(table, scene)} |")
    return "\n".join([*lines, "", _caption(table)]) + "\n"


def as_rich(table: EstimatorsTable) -> Table:
    """The table for a terminal."""
    rich_table = Table(title="Which estimator?", caption=_caption(table), caption_justify="left")
    rich_table.add_column("scene")
    for estimator in ESTIMATORS.values():
        rich_table.add_column(estimator.heading, justify="right")
    rich_table.add_column("field chosen")
    for scene in table.scenes:
        cells = [mean_cell(table.row(scene, name)) for name in ESTIMATORS]
        rich_table.add_row(SCENES[scene].heading, *cells, _chosen(table, scene))
    return rich_table


def _chosen(table: EstimatorsTable, scene: str) -> str:
    names, counts = np.unique(table.row(scene, RECOMMENDED).chosen, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return ", ".join(f"{names[i]} ({counts[i]})" if len(names) > 1 else str(names[i]) for i in order)
