"""Images like those of ``bench.harness.workloads``, by the ten thousand: poses, cameras and masks made for all at once.

Every image has its own pose and camera, drawn from the same distributions. Masks are copies of 256 shapes, each moved by whole
blocks of 16 pixels to near a random point of the person, so that their words stay the same; every image has its own copy of
them, and what the kernels read from memory is as much as with masks all different. Boxes: "typical" as in that module (8 % of
the image in a box of 18 %), or 10, 30 or 60 % of the image. Fewer images are a prefix of more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.harness.workloads import AREA, AREA_SPREAD, AXIS_RATIO, CAMERAS, POSE_NOISE, SIZE, TILT, draw_blob
from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.camera.views import AZIMUTH_BINS, azimuth_bin
from chorus.images import ImageBatch
from chorus.kernels.arrays import VoteImages
from chorus.kernels.depth import BodyDepth
from chorus.kernels.masks import BLOCK, PackedMasks, words_in_box
from chorus.render.body_depth import body_depth

SHAPES = 256
CHUNK = 1024
"""Images drawn from one random stream."""
VERTICES = 200
BOXES = ("typical", "10", "30", "60")


@dataclass(frozen=True)
class Crowd:
    """I images as the kernels take them, and the group of each, (I,) int64 in 0 .. 11, on one device.

    depth        of the posed body in the images; None: not drawn (``with_depth``)
    box          kind of mask, one of ``BOXES``
    mask_area    share of the image's pixels that are on the mask, (I,)
    person_fill  height of the projected person as a share of the image's, (I,)
    """

    images: VoteImages
    group: torch.Tensor
    box: str
    mask_area: NDArray[np.float64]
    person_fill: NDArray[np.float64]
    num_groups: int = AZIMUTH_BINS
    depth: BodyDepth | None = None

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, rows: slice | NDArray[np.intp]) -> Crowd:
        """A selection of the images; mask words are shared."""
        at = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self.group.device)
        return replace(
            self,
            images=self.images[at],
            group=self.group[at],
            depth=None if self.depth is None else self.depth[at],
            mask_area=self.mask_area[rows],
            person_fill=self.person_fill[rows],
        )

    def to(self, device: torch.device | str) -> Crowd:
        """The same images on a device."""
        depth = None if self.depth is None else self.depth.to(device)
        return replace(self, images=self.images.to(device), group=self.group.to(device), depth=depth)

    def cameras(self) -> Cameras:
        """The images' cameras."""
        R, t, K, size = (x.cpu().numpy() for x in (self.images.R, self.images.t, self.images.K, self.images.size))
        return Cameras(R, t, K, size)

    def with_depth(self, body: Body) -> Crowd:
        """The same images with the depth of the posed body, drawn on the CPU."""
        depth = body_depth(body, self.cameras(), self.images.poses.cpu().numpy())
        return replace(self, depth=depth.to(self.group.device))

    def facts(self) -> dict[str, Any]:
        """What the images are like, measured."""
        size, box = self.images.size.cpu().long(), self.images.box.cpu().long()
        words = words_in_box(self.images.box.cpu().numpy())
        return {
            "images": len(self),
            "size": [SIZE, SIZE],
            "mean_mask_area": round(float(self.mask_area.mean()), 4),
            "mean_box_area": round(float(((box[:, 2:] - box[:, :2]).prod(1) / size.prod(1)).mean()), 4),
            "person_height": [round(float(q), 3) for q in np.quantile(self.person_fill, (0, 0.5, 1))],
            "mask_bytes": round(4 * float(words.mean())),
            "mask_shapes": SHAPES,
            "groups": self.num_groups,
        }

    def batch(self, first: int, last: int) -> ImageBatch:
        """Images first .. last - 1 as the library takes them, for a store; on the CPU, words copied."""
        some = self.images[first:last].to("cpu")
        size, box, start = some.size.numpy(), some.box.numpy(), some.start.numpy()
        words = some.words.numpy().view(np.uint32)
        masks = PackedMasks.join(size, box, [words[s : s + n] for s, n in zip(start, words_in_box(box), strict=True)])
        cameras = Cameras(some.R.numpy(), some.t.numpy(), some.K.numpy(), size)
        return ImageBatch(masks, cameras, some.poses.numpy(), keys=[f"crowd-{i:08d}" for i in range(first, last)])


@dataclass(frozen=True)
class People:
    """Poses (I, J, 3) float32, cameras, a pixel on each person (I, 2) and the height of each (I,) as a share of the image."""

    poses: NDArray[np.float32]
    cameras: Cameras
    pixel: NDArray[np.float64]
    fill: NDArray[np.float64]


def people(body: Body, num_images: int, seed: int = 0, size: int = SIZE) -> People:
    """The first ``num_images`` people of a seed."""
    parts = [_some_people(body, np.random.default_rng([seed, c, 77]), size) for c in range(-(-num_images // CHUNK))]
    poses, R, t, K, pixel, fill = (np.concatenate(p)[:num_images] for p in zip(*parts, strict=True))
    return People(poses, Cameras(R, t, K, np.full((num_images, 2), size, np.int32)), pixel, fill)


def _some_people(body: Body, rng: np.random.Generator, size: int) -> tuple[NDArray[Any], ...]:
    """A chunk: poses, R, t, K, pixel, fill; the camera is ``CAMERAS.draw`` for all images at once."""
    n, c = CHUNK, CAMERAS
    poses = np.tile(body.rest_pose, (n, 1, 1))
    poses[:, 1:] += rng.normal(0, POSE_NOISE, (n, body.num_joints - 1, 3))
    poses = poses.astype(np.float32)
    some = np.linspace(0, len(body.vertices) - 1, VERTICES).astype(np.intp)
    points = np.c_[body.rest_vertices[some], np.ones(len(some))]
    bones = body.bone_transforms(poses).reshape(n, body.num_joints, 12).astype(np.float32)
    blended = np.matmul(body.weights[some].astype(np.float32), bones).reshape(n, VERTICES, 3, 4)
    posed = np.einsum("ivab,vb->iva", blended, points)

    azimuth = rng.uniform(0, 2 * math.pi, n)
    elevation = np.clip(rng.normal(*c.elevation, n), -c.elevation_limit, c.elevation_limit)
    away = np.stack([np.cos(elevation) * np.cos(azimuth), np.sin(elevation), np.cos(elevation) * np.sin(azimuth)], -1)
    focal = c.focal * size
    down = np.einsum("ivc,ic->iv", posed, _look_along(-away)[:, 1])
    middle = np.zeros((n, 3))
    middle[:, 1] = (posed[..., 1].min(1) + posed[..., 1].max(1)) / 2
    distance = np.maximum(focal * np.ptp(down, axis=1) / (rng.uniform(*c.fill, n) * size), c.closest)
    centre = middle + distance[:, None] * away
    R = _look_along(middle + rng.normal(0, c.look_at, (n, 3)) - centre)
    roll = rng.normal(0, c.roll, n)
    turn = np.zeros((n, 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(roll)
    turn[:, 1, 0], turn[:, 0, 1], turn[:, 2, 2] = np.sin(roll), -np.sin(roll), 1
    R = (turn @ R).astype(np.float32).astype(np.float64)
    t = -np.einsum("iab,ib->ia", R, centre).astype(np.float32).astype(np.float64)
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], np.float32)
    K = np.tile(K.astype(np.float64), (n, 1, 1))
    uvz = np.einsum("iab,ivb->iva", K @ R, posed) + np.einsum("iab,ib->ia", K, t)[:, None]
    uv = uvz[..., :2] / uvz[..., 2:]
    pixel = uv[np.arange(n), rng.integers(0, VERTICES, n)]
    return poses, R, t, K, pixel, np.ptp(uv[..., 1], axis=1) / size


def _look_along(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations (I, 3, 3) to OpenCV axes of upright cameras that look along directions (I, 3)."""
    forward = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return np.stack([right, np.cross(forward, right), forward], 1)


@lru_cache
def shapes(box: str, seed: int = 0, size: int = SIZE) -> PackedMasks:
    """The 256 masks of a kind, in the middle of the image."""
    if box not in BOXES:
        raise ValueError(f"box: expected {', '.join(BOXES)}; got {box!r}")
    rng = np.random.default_rng([seed, BOXES.index(box), 78])
    masks = []
    for _ in range(SHAPES):
        ratio, tilt = rng.uniform(*AXIS_RATIO), rng.uniform(*TILT) * rng.choice([-1, 1])
        if box == "typical":
            area = size**2 * AREA * math.exp(rng.normal(-(AREA_SPREAD**2) / 2, AREA_SPREAD))
            long = min(math.sqrt(area / (math.pi * ratio)), 0.45 * size)
        else:  # the ellipse's box is that share of the image; its waves and the image's border change it a little
            share = int(box) / 100
            cos, sin = math.cos(tilt), math.sin(tilt)
            long = size * math.sqrt(share / (4 * math.hypot(cos, ratio * sin) * math.hypot(sin, ratio * cos)))
        masks.append(draw_blob(rng, np.array([size / 2, size / 2]), size, long, ratio, tilt))
    return PackedMasks.pack(masks)


def crowd(persons: People, box: str, seed: int = 0) -> Crowd:
    """These people with masks of a kind near them, on the CPU."""
    n = len(persons.poses)
    size = int(persons.cameras.image_size[0, 0]) if n else SIZE
    pool = shapes(box, seed, size)
    which = np.random.default_rng([seed, BOXES.index(box), 79]).integers(0, SHAPES, n)
    box0 = pool.box[which].astype(np.int64)
    # Whole blocks, as many as lead nearest to the person and keep the box inside the image.
    middle = (box0[:, :2] + box0[:, 2:]) / 2
    moved = np.rint((persons.pixel - middle) / BLOCK).astype(np.int64)
    moved = np.clip(moved, -(box0[:, :2] // BLOCK), (size - box0[:, 2:]) // BLOCK) * BLOCK
    counts = words_in_box(pool.box)
    pieces = [pool.words[s : s + c].view(np.int32) for s, c in zip(pool.start, counts, strict=True)]
    length = counts[which]
    areas = pool.areas()[which] / size**2
    images = VoteImages(
        poses=torch.from_numpy(persons.poses),
        R=torch.from_numpy(persons.cameras.R),
        t=torch.from_numpy(persons.cameras.t),
        K=torch.from_numpy(persons.cameras.K),
        size=torch.from_numpy(persons.cameras.image_size.astype(np.int32)),
        box=torch.from_numpy((box0 + np.tile(moved, 2)).astype(np.int32)),
        start=torch.from_numpy(np.cumsum(length) - length),
        words=torch.from_numpy(np.concatenate([pieces[w] for w in which])) if n else torch.zeros(0, dtype=torch.int32),
    )
    return Crowd(images, torch.from_numpy(azimuth_bin(persons.cameras)), box, areas, persons.fill)
