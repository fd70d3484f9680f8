"""The scenes that estimators are compared on: simulated worlds, alone and mixed, and the same with what real images get wrong.

A scene's images are those of its worlds, as many of each. Its truth has the voxels that at least half of the object's variants
occupy, in any of its worlds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.errors import InputError, check_texts
from chorus.images import ImageBatch
from chorus.simulate.images import simulate, true_occupancy
from chorus.simulate.objects import OBJECTS
from chorus.simulate.worlds import WORLDS, World

TRUTH_VARIANTS = 2000
"""Number of random objects from which the true voxels are computed."""


@dataclass(frozen=True)
class Scene:
    """Images of one or several worlds as one selection. ``heading`` says in words what they show."""

    name: str
    heading: str
    worlds: tuple[World, ...]

    @property
    def joints(self) -> tuple[str, ...]:
        """The joints that its objects are rigid to, each once."""
        return tuple(dict.fromkeys(OBJECTS[world.object_class].joint for world in self.worlds))

    def truth(self, centres: NDArray[np.float32], body: Body) -> NDArray[np.bool_]:
        """The true voxels (N, N, N) of those with centres (N, N, N, 3) in metres."""
        occupied = [true_occupancy(world, centres, variants=TRUTH_VARIANTS, body=body) >= 0.5 for world in self.worlds]
        union: NDArray[np.bool_] = np.logical_or.reduce(occupied)
        return union

    def images(self, num_images: int, seed: int, body: Body) -> Iterator[tuple[ImageBatch, int]]:
        """Batches of the images that show the object, as a store would select them, and how many were drawn for each."""
        for number, world in enumerate(self.worlds):
            share = num_images // len(self.worlds) + (number < num_images % len(self.worlds))
            for batch in simulate(world, share, seed, body):
                yield batch.images[batch.status == "complete"], len(batch)


def _scenes() -> Iterator[Scene]:
    for name in ("ball", "backpack", "board"):
        yield Scene(name, f"{name}, whole masks", (WORLDS[name],))
    for name in ("ball", "backpack", "board"):
        yield Scene(f"{name}-occluded", f"{name}, hidden by the body", (WORLDS[name].occluded(),))
    for name in ("surfboard-ridden", "surfboard-carried", "ball-held", "ball-kicked", "hat"):
        yield Scene(name, name.replace("-", " "), (WORLDS[name],))
    yield Scene("ball-held-or-kicked", "ball held or kicked", (WORLDS["ball-held"], WORLDS["ball-kicked"]))


SCENES: dict[str, Scene] = {scene.name: scene for scene in _scenes()}
"""The scenes by name."""


def scenes_named(names: object) -> tuple[Scene, ...]:
    """The scenes of these names; InputError for none and for unknown ones."""
    found = check_texts("scenes", names)
    unknown = [name for name in found if name not in SCENES]
    if unknown or not found:
        raise InputError(f"scenes: expected some of {', '.join(SCENES)}; got {unknown or 'none'}")
    return tuple(SCENES[name] for name in found)
