"""What is timed: images for the votes, made without simulating anybody.

The vote workload (seed 0 unless told otherwise):

- images of 512 x 512 pixels, focal length 1.167 x width, principal point at the centre;
- cameras all around the person (azimuth uniform, elevation 0.1 +- 0.2 rad, roll 0.05 rad), so far away that the person
  fills 40 to 90 % of the image's height (to first order: near limbs look larger); grouped by azimuth in 12 bins;
- poses: the rest pose with 0.25 rad of noise on every axis of every joint but the global orientation;
- masks: a tilted, wavy ellipse at a random point of the posed body, about 8 % of the image in a box of about 18 %
  (box 44 % full, as photographs of carried things are; not upright, which would flatter the box test), wholly inside it.

``VoteWorkload.facts`` says what came out: mean area, box and person height are measured, not assumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.camera.views import AZIMUTH_BINS, azimuth_bin
from chorus.images import ImageBatch, vote_images
from chorus.kernels.arrays import VoteImages
from chorus.simulate.worlds import CameraDistribution

SIZE = 512
POSE_NOISE = 0.25
# Spelled out, so that a change of the simulated worlds does not change what is timed.
CAMERAS = CameraDistribution(
    elevation=(0.1, 0.2), elevation_limit=1.2, fill=(0.4, 0.9), closest=2.0, look_at=0.08, roll=0.05, focal=1.167
)
AREA = 0.08
AREA_SPREAD = 0.35
"""Sigma of the logarithm of a mask's area."""
AXIS_RATIO = (0.2, 0.42)
TILT = (math.radians(30), math.radians(60))
WAVES = 0.04
"""Amplitude of each of the harmonics 3 .. 6 of the outline, as a share of the radius."""
VERTICES = 700
"""Of the body, to see how tall it is in the image."""


@dataclass(frozen=True)
class VoteWorkload:
    """I images as the library and as the kernels take them, and the group of each, (I,) int64 in 0 .. 11."""

    batch: ImageBatch
    images: VoteImages
    group: torch.Tensor
    person_fill: NDArray[np.float64]
    """Height of the projected person as a share of the image's, (I,)."""

    num_groups = AZIMUTH_BINS

    def __len__(self) -> int:
        return len(self.batch)

    def rows(self, rows: slice | NDArray[np.intp]) -> VoteWorkload:
        """A selection of the images."""
        batch = self.batch[rows]
        return VoteWorkload(batch, vote_images(batch), self.group[rows], self.person_fill[rows])

    def facts(self) -> dict[str, Any]:
        """What the images are like, measured."""
        masks = self.batch.masks
        pixels = masks.size.astype(np.int64).prod(1)
        box = (masks.box[:, 2:] - masks.box[:, :2]).astype(np.int64).prod(1)
        return {
            "images": len(self),
            "size": [SIZE, SIZE],
            "mean_mask_area": round(float((masks.areas() / pixels).mean()), 4),
            "mean_box_area": round(float((box / pixels).mean()), 4),
            "person_height": [round(float(q), 3) for q in np.quantile(self.person_fill, (0, 0.5, 1))],
            "mask_bytes": round(4 * len(masks.words) / len(self)),
            "groups": self.num_groups,
        }


def vote_workload(body: Body, num_images: int, seed: int = 0, size: int = SIZE) -> VoteWorkload:
    """The first ``num_images`` images of the workload of a seed; fewer images are a prefix of more."""
    some = np.linspace(0, len(body.vertices) - 1, VERTICES).astype(np.intp)
    points = np.c_[body.rest_vertices[some], np.ones(len(some))]
    weights = body.weights[some].astype(np.float64)
    streams = [np.random.default_rng([seed, index]) for index in range(num_images)]
    poses = np.tile(body.rest_pose, (num_images, 1, 1))
    for pose, rng in zip(poses, streams, strict=True):
        pose[1:] += rng.normal(0, POSE_NOISE, (body.num_joints - 1, 3))
    poses = poses.astype(np.float32)
    bones = body.bone_transforms(poses)
    R: list[NDArray[np.float64]] = []
    t: list[NDArray[np.float64]] = []
    K: list[NDArray[np.float64]] = []
    masks, fill = [], []
    for transforms, rng in zip(bones, streams, strict=True):
        blended = (weights @ transforms.reshape(-1, 12)).reshape(-1, 3, 4)
        posed = np.einsum("vab,vb->va", blended, points)
        camera = CAMERAS.draw(rng, posed, (size, size))
        uvz = (posed @ camera[0].T + camera[1]) @ camera[2].T
        uv = uvz[:, :2] / uvz[:, 2:]
        for parts, part in zip((R, t, K), camera, strict=True):
            parts.append(part)
        masks.append(_blob(rng, uv[rng.integers(len(uv))], size))
        fill.append(float(np.ptp(uv[:, 1])) / size)
    sizes = np.full((num_images, 2), size, np.int32)
    cameras = Cameras(np.stack(R), np.stack(t), np.stack(K), sizes)
    batch = ImageBatch(masks, cameras, poses, keys=[f"bench-{seed}-{i:06d}" for i in range(num_images)])
    return VoteWorkload(batch, vote_images(batch), torch.from_numpy(azimuth_bin(cameras)), np.array(fill))


def _blob(rng: np.random.Generator, near: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    """A tilted ellipse with a wavy outline, moved as little as it takes to lie inside the image, (size, size) bool."""
    area = size**2 * AREA * math.exp(rng.normal(-(AREA_SPREAD**2) / 2, AREA_SPREAD))  # mean AREA
    ratio, tilt = rng.uniform(*AXIS_RATIO), rng.uniform(*TILT) * rng.choice([-1, 1])
    long = min(math.sqrt(area / (math.pi * ratio)), 0.45 * size)  # the few largest would not fit
    return draw_blob(rng, near, size, long, ratio, tilt)


def draw_blob(
    rng: np.random.Generator, near: NDArray[np.float64], size: int, long: float, ratio: float, tilt: float
) -> NDArray[np.bool_]:
    """The ellipse of half axes ``long`` and ``ratio long`` pixels turned by ``tilt``, its outline waved, (size, size) bool."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    reach = (1 + 4 * WAVES) * long * np.array([math.hypot(cos, ratio * sin), math.hypot(sin, ratio * cos)])
    x, y = np.clip(near, np.minimum(reach, size / 2), size - np.minimum(reach, size / 2))
    mask = np.zeros((size, size), np.bool_)
    middle = np.array([x, y])
    left, top = np.floor(np.maximum(middle - reach, 0)).astype(int)
    right, bottom = np.ceil(np.minimum(middle + reach, size)).astype(int)
    rows, columns = np.ogrid[top:bottom, left:right]
    down, across = rows + 0.5 - y, columns + 0.5 - x
    major, minor = (cos * across + sin * down) / long, (cos * down - sin * across) / (ratio * long)
    turn = np.arctan2(minor, major).astype(np.float32)
    outline = np.ones_like(turn)
    for harmonic in range(3, 7):
        outline += WAVES * rng.uniform(-1, 1) * np.cos(harmonic * turn + np.float32(rng.uniform(0, 2 * math.pi)))
    mask[top:bottom, left:right] = np.hypot(major, minor) < outline
    return mask
