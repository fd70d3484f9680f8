"""Simulated stores for ablations: four categories, a second source for one of them, and held-out test images.

Every training world has bad estimates of a share of its poses, most of which the keypoints' confidence reveals. Backpacks are
mostly seen from the front, so that view weights matter. Test images come from another seed and from cameras all around; their
masks, poses and cameras are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.errors import InputError
from chorus.evaluate.ablation.rows import FULL
from chorus.files import exclusive_lock
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS, CameraDistribution, MaskNoise, PoseEstimation, World
from chorus.store import Store, open_store

if TYPE_CHECKING:
    from chorus.body.model import Body
    from chorus.evaluate.ablation.run import AblationTable

TEST_SEED = 1_000_000
"""Seed of the held-out images; training seeds are smaller."""
IMAGE_SIZE = (256, 256)
MISESTIMATED = 0.3
"""Share of the training images whose recorded pose is a bad estimate."""
SIZES = (256, 2000)
"""Numbers of images drawn from either source: about the paper's ratio, at a size that simulates in minutes."""
OTHER_SOURCE = "image search, simulated"
OTHER_CATEGORY = "surfboard"
FIRST_SOURCE = "synthesis, simulated"


def _training(world: World) -> World:
    return replace(world.misestimated(MISESTIMATED), image_sizes=(IMAGE_SIZE,))


def _crawled(world: World) -> World:
    """A world as an image search shows it: mostly from the front, with more bad poses and worse masks."""
    return replace(
        world.biased(0.8).misestimated(0.45), image_sizes=(IMAGE_SIZE,), mask_noise=MaskNoise(boundary=2.0, morph=3, drop=0.3)
    )


def _tested(world: World) -> World:
    return replace(
        world,
        name=f"{world.name}-test",
        image_sizes=(IMAGE_SIZE,),
        cameras=CameraDistribution(),
        mask_noise=MaskNoise(),
        estimation=PoseEstimation(),
    )


_WORLDS: dict[str, tuple[World, ...]] = {
    "sports ball": (WORLDS["ball-held"], WORLDS["ball-kicked"]),
    "backpack": (WORLDS["backpack"].biased(0.8),),
    "surfboard": (WORLDS["surfboard-carried"], WORLDS["surfboard-ridden"]),
    "hat": (WORLDS["hat"],),
}
TRAINING: dict[str, tuple[World, ...]] = {category: tuple(map(_training, worlds)) for category, worlds in _WORLDS.items()}
"""Category -> worlds of the training images, one for each prompt."""
OTHER: tuple[World, ...] = tuple(map(_crawled, _WORLDS[OTHER_CATEGORY]))
"""Worlds of the second source, of OTHER_CATEGORY."""
TESTED: dict[str, tuple[World, ...]] = {category: tuple(map(_tested, worlds)) for category, worlds in _WORLDS.items()}
"""Category -> worlds of the test images."""


@dataclass(frozen=True)
class AblationStores:
    """Stores for ``ablate``.

    training  for each seed, one per category      tests  one per category      other  second source, for each seed
    """

    training: list[list[Store]]
    tests: list[Store]
    other: list[Store]


@dataclass(frozen=True)
class _Plan:
    """A store to be made in a folder: the name that its own begins with, worlds, number of images, seed."""

    folder: Path
    name: str
    worlds: tuple[World, ...]
    number: int
    seed: int

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name.replace(' ', '-')}-{self.number}-seed{self.seed}.chorus"


def simulate_stores(
    folder: str | Path,
    num_images: int = 2000,
    test_images: int = 40,
    seeds: Sequence[int] = range(5),
    *,
    categories: Sequence[str] = tuple(TRAINING),
    body: Body | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AblationStores:
    """Simulate the stores of ``ablate`` in a folder; existing stores are completed, not drawn again.

    Several processes may do so in one folder at the same time: one of them makes a store, the others go on with the next, and
    wait in the end.

    num_images   images of each category and seed, in the second source too      test_images  of each category
    categories   some of TRAINING; there is a second source if OTHER_CATEGORY is among them
    progress     called with the number of images done and of all

    Raises InputError for unknown categories and numbers out of range.
    """
    unknown = [name for name in categories if name not in TRAINING]
    if unknown or not categories:
        raise InputError(f"categories: expected some of {', '.join(TRAINING)}; got {unknown or 'none'}")
    if num_images < 1 or test_images < 1:
        raise InputError(f"num_images, test_images: expected at least 1, got {num_images} and {test_images}")
    if any(not 0 <= seed < TEST_SEED for seed in seeds):
        raise InputError(f"seeds: expected 0 to {TEST_SEED - 1:,}, got {list(seeds)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with_other = OTHER_CATEGORY in categories
    total = len(seeds) * num_images * (len(categories) + with_other) + test_images * len(categories)
    plans = [
        *(_Plan(folder, f"test-{c}", TESTED[c], test_images, TEST_SEED) for c in categories),
        *(_Plan(folder, c, TRAINING[c], num_images, seed) for seed in seeds for c in categories),
        *(_Plan(folder, f"other-{OTHER_CATEGORY}", OTHER, num_images, seed) for seed in seeds if with_other),
    ]
    done, left = 0, list(plans)

    def report(of_store: int, _: int) -> None:
        if progress is not None:
            progress(done + of_store, total)

    for wait in (False, True):  # at first those that no other process is making
        for plan in tuple(left):
            try:
                with exclusive_lock(plan.path.with_name(f".{plan.path.name}.lock"), wait):
                    write_world(plan.path, plan.worlds, plan.number, plan.seed, body, progress=report)
            except BlockingIOError:
                if wait:
                    raise
                continue
            left.remove(plan)
            done += plan.number
    stores = [open_store(plan.path) for plan in plans]
    n, each = len(categories), len(categories) * len(seeds)
    tests, other = stores[:n], stores[n + each :]
    training = [stores[n + first : n + first + n] for first in range(0, each, n)]
    return AblationStores(training, tests, other)


@dataclass(frozen=True)
class Mechanism:
    """A claim of the method about the simulated worlds, and what was measured: the mean over the seeds of the difference of PAP
    (0 to 1) between the rows ``better`` and ``worse``, and the half width of its 95 % t-interval."""

    claim: str
    better: str
    worse: str
    category: str | None
    difference: float
    half_width: float

    @property
    def holds(self) -> bool:
        """Whether the mean difference has the sign claimed."""
        return self.difference > 0

    @property
    def clear(self) -> bool:
        """Whether the whole interval has that sign."""
        return self.difference > self.half_width


_CLAIMS = (
    ("more images beat 1 %", FULL, "1 %", None),
    ("canonicalization wins for what a limb carries", FULL, "w/o canonicalization", "sports ball"),
    ("view weights win where one view dominates and the object has depth", FULL, "view weights none", "backpack"),
    ("filtering wins where the keypoints reveal bad poses", FULL, "w/o keypoint filtering", None),
)


def mechanisms(table: AblationTable) -> list[Mechanism]:
    """The claims whose rows and categories the table has, with the differences measured (vanilla PAP)."""
    names = {row.name for row in table.rows}
    found = []
    for claim, better, worse, category in _CLAIMS:
        if {better, worse} <= names and (category is None or category in table.categories):
            mean, half = table.difference(better, worse, category=category)
            found.append(Mechanism(claim, better, worse, category, mean, half))
    return found
