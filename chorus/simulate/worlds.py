"""Simulated worlds: object, poses, cameras, quality of masks and poses; and ready-made worlds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chorus.errors import InputError, MismatchError
from chorus.simulate.objects import OBJECTS
from chorus.simulate.pose_errors import PoseError
from chorus.simulate.seeing import CameraDistribution, MaskNoise, PoseEstimation
from chorus.store.schema import STORE_JSON, read_store_json

__all__ = ["DEMO", "WORLDS", "CameraDistribution", "MaskNoise", "Pose", "PoseEstimation", "World", "check_made_alike"]


Pose = Mapping[str, tuple[float, float, float]]
"""Axis-angle in radians by joint name; joints not named keep the rest pose."""


@dataclass(frozen=True)
class World:
    """The scene of simulated images, and how it is seen. Masks are exact except for ``mask_noise``.

    name, category, prompt   of the images; keys begin with the name
    object_class             a key of OBJECTS
    key_poses                one is chosen at random for each image
    pose_noise               sigma in radians of normal noise on every axis of every joint except the global orientation
    image_sizes              (height, width) in pixels; one is chosen at random for each image
    occlusion                whether body and object hide each other; if not, both masks are whole silhouettes
    estimation               errors of the stored pose, and the confidence of keypoints
    pose_errors              further errors of what is recorded, one after the other (``chorus.simulate.pose_errors``)
    mirrored                 share of the images in which pose and object are mirrored: held in the other hand
    shape_spread             sigma of the shape coefficients of the people drawn; fields and votes take the template

    Raises InputError for an unknown object class, no key pose or size, a negative noise, sizes that are not positive.
    """

    name: str
    category: str
    object_class: str
    prompt: str
    key_poses: tuple[Pose, ...] = field(default_factory=lambda: ({},))
    pose_noise: float = 0.25
    cameras: CameraDistribution = field(default_factory=CameraDistribution)
    image_sizes: tuple[tuple[int, int], ...] = ((512, 512),)
    mask_noise: MaskNoise = field(default_factory=MaskNoise)
    occlusion: bool = True
    estimation: PoseEstimation = field(default_factory=PoseEstimation)
    pose_errors: tuple[PoseError, ...] = ()
    mirrored: float = 0.0
    shape_spread: float = 0.0

    def __post_init__(self) -> None:
        if self.object_class not in OBJECTS:
            raise InputError(f"object_class: expected one of {', '.join(OBJECTS)}, got {self.object_class!r}")
        if not self.key_poses or not self.image_sizes:
            raise InputError("key_poses, image_sizes: expected at least one each, got none")
        if not self.pose_noise >= 0:
            raise InputError(f"pose_noise: expected radians >= 0, got {self.pose_noise}")
        if any(height < 1 or width < 1 for height, width in self.image_sizes):
            raise InputError(f"image_sizes: expected positive heights and widths, got {self.image_sizes}")
        if not (0 <= self.mirrored <= 1 and self.shape_spread >= 0):
            raise InputError(
                f"mirrored, shape_spread: expected a share in 0..1 and a sigma >= 0, got {self.mirrored}, {self.shape_spread}"
            )

    def biased(self, share: float = 0.8) -> World:
        """The same world with this share of its cameras in the sector (by default 60 degrees in front of the person)."""
        return replace(self, name=f"{self.name}-biased", cameras=replace(self.cameras, sector_share=share))

    def occluded(self, occlusion: bool = True) -> World:
        """The same world with the body hiding the object (or not)."""
        return replace(self, name=f"{self.name}-{'' if occlusion else 'un'}occluded", occlusion=occlusion)

    def misestimated(self, share: float = 0.3) -> World:
        """The same world with bad estimates of this share of the poses, most of which the keypoints reveal."""
        return replace(self, name=f"{self.name}-misestimated", estimation=replace(self.estimation, share=share))

    def with_pose_errors(self, *errors: PoseError | str) -> World:
        """The same images with these errors on record, PoseError or "NAME:SCALE", after those it has."""
        made = tuple(PoseError.parse(e) if isinstance(e, str) else e for e in errors)
        name = "-".join([self.name, *(f"{e.name}{e.scale:g}" for e in made)])
        return replace(self, name=name, pose_errors=self.pose_errors + made)

    def recorded_with(self, errors: Sequence[PoseError | str] = (), shape_spread: float = 0.0) -> World:
        """``with_pose_errors`` and ``varied`` where there is anything to change, as the command line has them."""
        world = self.with_pose_errors(*errors) if errors else self
        return world.varied(shape_spread) if shape_spread else world

    def varied(self, spread: float = 1.0) -> World:
        """The same world with people of varied builds, none of which is on record."""
        return replace(self, name=f"{self.name}-varied{spread:g}", shape_spread=spread)


_CARRYING: tuple[Pose, ...] = tuple(
    {
        "left_hip": (step, 0.0, 0.05),
        "right_hip": (-step, 0.0, -0.05),
        "left_knee": (0.25, 0.0, 0.0),
        "left_shoulder": (0.0, 0.0, -1.2),
        "right_shoulder": (0.0, 0.0, 1.25),
        "right_elbow": (0.0, 0.4, 0.0),
    }
    for step in (-0.3, 0.0, 0.3)
)
_RIDING: tuple[Pose, ...] = (
    {"left_shoulder": (0.0, 0.0, -0.4), "right_shoulder": (0.0, 0.0, 0.4)},
    {"left_knee": (0.4, 0.0, 0.0), "right_knee": (0.4, 0.0, 0.0), "spine1": (0.2, 0.0, 0.0)},
)
_SEGMENTER = MaskNoise(boundary=1.0, morph=2, drop=0.1)

_HOLDING: tuple[Pose, ...] = tuple(
    {
        "left_hip": (0.0, 0.0, 0.08),
        "right_hip": (0.0, 0.0, -0.08),
        "left_shoulder": (0.0, 0.0, -1.1),
        "right_shoulder": (0.0, raised, 0.9 - 0.5 * raised),
        "right_elbow": (0.0, 0.5, 0.0),
    }
    for raised in (0.0, 0.6, 1.2)
)


def _mirrored(pose: Pose) -> Pose:
    """The pose in a mirror, left for right."""
    swap = {"left": "right", "right": "left"}
    names = {name: "_".join(swap.get(part, part) for part in name.split("_")) for name in pose}
    return {names[name]: (x, -y, -z) for name, (x, y, z) in pose.items()}


_KICKING: tuple[Pose, ...] = tuple(
    {
        "left_hip": (-swing, 0.0, 0.08),
        "right_hip": (0.0, 0.0, -0.08),
        "left_knee": (0.4 * (1.3 - swing), 0.0, 0.0),
        "left_shoulder": (0.0, 0.0, -0.7),
        "right_shoulder": (0.0, 0.0, 0.7),
    }
    for swing in (0.1, 0.6, 1.1)
)
_BOTH_HANDS: tuple[Pose, ...] = tuple(
    {
        "left_hip": (0.0, 0.0, 0.08),
        "right_hip": (0.0, 0.0, -0.08),
        "left_shoulder": (0.0, -forward, -down),
        "right_shoulder": (0.0, forward, down),
        "left_elbow": (0.0, -bent, 0.0),
        "right_elbow": (0.0, bent, 0.0),
    }
    for forward, down, bent in ((0.98, 0.8, 0.2), (0.9, 0.9, 0.6), (1.2, 0.2, 0.3))  # before the thighs, the waist, the chest
)
_BESIDE: tuple[Pose, ...] = tuple(
    {
        "left_hip": (-step, 0.0, 0.08),
        "right_hip": (step, 0.0, -0.08),
        "left_shoulder": (0.0, 0.0, -1.2),
        "right_shoulder": (0.0, 0.6, 0.8),
        "right_elbow": (0.0, 0.4, 0.0),
    }
    for step in (-0.2, 0.0, 0.2)
)
_MOSTLY_FRONT = CameraDistribution(sector_share=0.4)
"""40 % of the cameras in front of the person, as in real photographs."""

WORLDS: dict[str, World] = {
    world.name: world
    for world in (
        # Two prompts of one category each: occluded, noisily segmented.
        World(
            "surfboard-carried",
            "surfboard",
            "board-under-arm",
            "a person carries a surfboard under the arm",
            _CARRYING,
            pose_noise=0.15,
            mask_noise=_SEGMENTER,
        ),
        World(
            "surfboard-ridden",
            "surfboard",
            "board-stood-on",
            "a person stands on a surfboard",
            _RIDING,
            pose_noise=0.15,
            mask_noise=_SEGMENTER,
        ),
        World(
            "ball-held",
            "sports ball",
            "ball",
            "a person holds a ball in the right hand",
            _HOLDING,
            pose_noise=0.2,
            mask_noise=_SEGMENTER,
            cameras=_MOSTLY_FRONT,
        ),
        World(
            "ball-kicked",
            "sports ball",
            "ball-at-foot",
            "a person kicks a ball with the left foot",
            _KICKING,
            pose_noise=0.2,
            mask_noise=_SEGMENTER,
            cameras=_MOSTLY_FRONT,
        ),
        World("hat", "hat", "hat", "a person wears a hat", mask_noise=_SEGMENTER),
        # What to expect of the method itself: exact masks, poses around the rest pose. Take .biased(), .occluded().
        World("ball", "ball", "ball", "a person holds a ball", occlusion=False),
        World("backpack", "backpack", "backpack", "a person wears a backpack", occlusion=False),
        World("board", "board", "board-fixed-to-hand", "a person holds a board", occlusion=False),
        # What does not hang on one joint: occluded, exact masks.
        World("bar-in-both-hands", "bar", "bar-in-hands", "a person holds a bar in both hands", _BOTH_HANDS, pose_noise=0.15),
        World("box-in-both-hands", "box", "box-in-hands", "a person carries a box in both hands", _BOTH_HANDS, pose_noise=0.15),
        World("bicycle-beside", "bicycle", "bicycle-beside", "a person stands next to a bicycle", _BESIDE, pose_noise=0.15),
        World(
            "ball-in-either-hand",
            "ball",
            "ball",
            "a person holds a ball in one hand",
            _HOLDING,
            pose_noise=0.2,
            mirrored=0.5,
        ),
        # By COCO's names, for photographs of sports.
        World(
            "racket-held",
            "tennis racket",
            "racket",
            "a person holds a tennis racket in the right hand",
            _HOLDING,
            pose_noise=0.2,
            mask_noise=_SEGMENTER,
            cameras=_MOSTLY_FRONT,
        ),
        World(
            "glove-worn",
            "baseball glove",
            "glove",
            "a person wears a baseball glove",
            tuple(_mirrored(pose) for pose in _HOLDING),
            pose_noise=0.2,
            mask_noise=_SEGMENTER,
            cameras=_MOSTLY_FRONT,
            mirrored=0.5,
        ),
    )
}
"""Ready-made worlds by name."""

DEMO = (WORLDS["ball-held"], WORLDS["ball-kicked"])
"""Two ways to meet a ball: one category, two prompts."""


def check_made_alike(path: Path, made: dict[str, Any]) -> None:
    """MismatchError where ``path`` is a store that was not simulated like this: images of two runs would mix in it.

    made  "seed", and "worlds" as dictionaries: what a store of simulated images keeps in its provenance
    """
    if not (path / STORE_JSON).is_file():
        return
    _, fields = read_store_json(path)
    found = (fields.get("provenance") or {}).get("simulated")
    if not isinstance(found, dict):
        raise MismatchError(f"path: expected a new store or one of simulated images, got {str(path)!r}, made by other means")
    if found.get("seed") != made["seed"]:
        raise MismatchError(
            f"path: expected a new store or one simulated with seed {made['seed']}, got {str(path)!r} of seed "
            f"{found.get('seed')}"
        )
    ours, theirs = json.loads(json.dumps(made["worlds"])), found.get("worlds") or []
    names = [", ".join(str(world.get("name")) for world in worlds) for worlds in (ours, theirs)]
    # Releases differ in what a world has: only what both know can tell them apart.
    alike = len(ours) == len(theirs) and all(
        all(mine[name] == its[name] for name in mine.keys() & its.keys()) for mine, its in zip(ours, theirs, strict=True)
    )
    if not alike:
        what = f"the worlds {names[1]}" if names[0] != names[1] else "worlds of these names with other settings"
        raise MismatchError(
            f"path: expected a new store or one simulated with the worlds {names[0]}, got {str(path)!r} of {what}"
        )
