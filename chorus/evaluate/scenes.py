"""The scenes that estimators are compared on: simulated worlds, alone and mixed, and the same with what real images get wrong.

A scene's images are those of its worlds, as many of each. Its truth has the voxels that at least half of the object's variants
occupy, in any of its worlds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.errors import InputError, check_texts
from chorus.evaluate.worlds import TRUTH_VARIANTS
from chorus.images import ImageBatch
from chorus.simulate.images import simulate, true_occupancy, with_pose_errors
from chorus.simulate.objects import OBJECTS
from chorus.simulate.worlds import WORLDS, World


@dataclass(frozen=True)
class Scene:
    """Images of one or several worlds as one selection.

    heading  what they show, in words        errors  of the recorded poses (``chorus.simulate.pose_errors``), "NAME:SCALE"
    """

    name: str
    heading: str
    worlds: tuple[World, ...]
    errors: tuple[str, ...] = ()

    @property
    def joints(self) -> tuple[str, ...]:
        """The joint that its objects are rigid to, or several; empty where some object is rigid to none."""
        kinds = [OBJECTS[world.object_class] for world in self.worlds]
        if any(kind.other_joint for kind in kinds):
            return ()
        found = dict.fromkeys(kind.joint for kind in kinds)
        return tuple(found) if all(w.mirrored == 0 for w in self.worlds) else ()

    def truth(self, centres: NDArray[np.float32], body: Body) -> NDArray[np.bool_]:
        """The true voxels (N, N, N) of those with centres (N, N, N, 3) in metres."""
        occupied = [true_occupancy(world, centres, variants=TRUTH_VARIANTS, body=body) >= 0.5 for world in self.worlds]
        union: NDArray[np.bool_] = np.logical_or.reduce(occupied)
        return union

    def draw(self, num_images: int, seed: int, body: Body) -> Iterator[tuple[ImageBatch, int]]:
        """Batches of the images that show the object, as a store would select them, with their true poses, and how many were
        drawn for each."""
        for number, world in enumerate(self.worlds):
            share = num_images // len(self.worlds) + (number < num_images % len(self.worlds))
            for batch in simulate(world, share, seed, body):
                yield batch.images[batch.status == "complete"], len(batch)

    def recorded(self, batches: Sequence[ImageBatch], body: Body) -> list[ImageBatch]:
        """The batches that ``draw`` gave as the scene has them on record."""
        return [with_pose_errors(batch, self.errors, body) for batch in batches if len(batch)]


def _with_errors(scene: Scene, *errors: str) -> Scene:
    told = ", ".join(f"{error.replace(':', ' ')}" for error in errors)
    return replace(scene, name=f"{scene.name}, {told}", heading=f"{scene.heading}; {told}", errors=errors)


def _scenes() -> Iterator[Scene]:
    """Every drawing is followed by the same with errors on record: images are drawn once for all of them."""
    scenes = [
        *(Scene(name, f"{name}, whole masks", (WORLDS[name],)) for name in ("ball", "backpack", "board")),
        *(
            Scene(f"{name}-occluded", f"{name}, hidden by the body", (WORLDS[name].occluded(),))
            for name in ("ball", "backpack", "board")
        ),
        *(
            Scene(name, name.replace("-", " "), (WORLDS[name],))
            for name in ("surfboard-ridden", "surfboard-carried", "ball-held", "ball-kicked", "hat")
        ),
        Scene("ball-held-or-kicked", "ball held or kicked", (WORLDS["ball-held"], WORLDS["ball-kicked"])),
        *(
            Scene(name, name.replace("-", " "), (WORLDS[name],))
            for name in ("bar-in-both-hands", "box-in-both-hands", "bicycle-beside", "ball-in-either-hand")
        ),
    ]
    erroneous = {
        "ball": ("axis:0.05", "axis:0.1"),
        "board": ("axis:0.1",),
        "ball-occluded": ("axis:0.1",),
        "backpack-occluded": ("axis:0.05", "axis:0.1"),
        "surfboard-ridden": ("axis:0.1",),
        "ball-held": ("axis:0.05", "axis:0.1", "chain:0.1", "swap:0.2", "flip:0.3", "tilt:0.1"),
        "ball-kicked": ("axis:0.1", "swap:0.2"),
        "hat": ("axis:0.1", "tilt:0.1"),
    }
    for scene in scenes:
        yield scene
        for error in erroneous.get(scene.name, ()):
            yield _with_errors(scene, error)
    for name in ("ball-held", "backpack"):
        yield Scene(f"{name}, varied people", f"{name.replace('-', ' ')}; people of varied builds", (WORLDS[name].varied(1.0),))


SCENES: dict[str, Scene] = {scene.name: scene for scene in _scenes()}
"""The scenes of the table, by name."""

FITTED: dict[str, Scene] = {
    scene.name: scene
    for name in ("ball-occluded", "backpack-occluded", "board-occluded", "surfboard-ridden", "ball-held", "ball-kicked", "hat")
    for scene in [_with_errors(SCENES[name], "fitted:1")]
}
"""Scenes whose poses on record are as BlazePose's on photographs, by name; made when they are asked for."""


def scenes_named(names: object) -> tuple[Scene, ...]:
    """The scenes of these names; InputError for none and for unknown ones."""
    found = check_texts("scenes", names)
    every = SCENES | FITTED
    unknown = [name for name in found if name not in every]
    if unknown or not found:
        raise InputError(f"scenes: expected some of {', '.join(every)}; got {unknown or 'none'}")
    return tuple(every[name] for name in found)
