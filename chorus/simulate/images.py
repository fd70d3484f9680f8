"""Simulated images with known truth: posed people, objects rigid to a body part, cameras and masks, all drawn at random.

Masks, poses and cameras are stored and aggregated like real ones, and the result is compared with ``true_occupancy``, which
is computed without images. Objects are moved by one bone, without the skinning field, so that the comparison tests the method
and not only the code.

Every image has a separate random stream, seeded by the seed, its index and the world's object and prompt. Images therefore do
not depend on batch size or number of threads, and worlds that differ only in cameras, noise or occlusion have the same objects
and poses image by image. Poses and cameras are rounded to float32 before anything is drawn, so that a
store keeps exactly what was rendered.
"""

from __future__ import annotations

import math
import os
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.errors import InputError, StoreError, check_kind, check_path, check_whole
from chorus.images import ImageBatch
from chorus.kernels.masks import PackedMasks, pack_mask
from chorus.render.rasterize import draw_inverse_depth, skin
from chorus.simulate.objects import OBJECTS, ObjectClass, Shape, joint_index
from chorus.simulate.pose_errors import PoseError, with_pose_errors
from chorus.simulate.scene import carrier, draw_pose, posed
from chorus.simulate.shapes import draw_shape, with_shapes
from chorus.simulate.truth import true_occupancy
from chorus.simulate.worlds import DEMO, WORLDS, CameraDistribution, MaskNoise, Pose, PoseEstimation, World, check_made_alike

if TYPE_CHECKING:
    from chorus.body.model import Body
from chorus.boxes import overlap_of_first

__all__ = [
    "DEMO",
    "OBJECTS",
    "WORLDS",
    "CameraDistribution",
    "MaskNoise",
    "ObjectClass",
    "Pose",
    "PoseError",
    "PoseEstimation",
    "Shape",
    "SimulatedBatch",
    "World",
    "image_key",
    "simulate",
    "true_occupancy",
    "with_pose_errors",
    "write_world",
]

VIEWS = ("front view", "left side view", "back view", "right side view")
KEYPOINTS = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")


@dataclass(frozen=True)
class SimulatedBatch:
    """I simulated images, with all that a store keeps of them.

    images        ImageBatch; the masks are the object's
    person_masks  PackedMasks of the visible person
    views         (I,) str, one of VIEWS, by the camera's azimuth
    seeds         (I,) int64, the seed of the simulation
    scores        (I,) float32 each: person_count, object_count; person_confidence, object_confidence; overlap (of the
                  boxes, over the object's); object_visible (share of the object's pixels that the body does not hide);
                  keypoint_<name> for KEYPOINTS (confidence; below 0.3 outside the image)
    status        (I,) str: "complete", or "no object" or "no person" where it is not visible in the image
    """

    images: ImageBatch
    person_masks: PackedMasks
    views: NDArray[np.str_]
    seeds: NDArray[np.int64]
    scores: dict[str, NDArray[np.float32]]
    status: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.images)


class _Image(NamedTuple):
    size: tuple[int, int]
    pose: NDArray[np.float32]
    camera: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    object_mask: tuple[NDArray[np.int32], NDArray[np.uint32]]
    person_mask: tuple[NDArray[np.int32], NDArray[np.uint32]]
    scores: dict[str, float]


def _entropy(world: World, seed: int, index: int) -> list[int]:
    """Seed of an image's random streams; worlds that differ only in cameras or noise share it."""
    return [seed, zlib.crc32(f"{world.object_class}|{world.prompt}".encode()), index]


def _streams(world: World, seed: int, index: int) -> list[np.random.Generator]:
    """Independent random streams of one image for object, pose, camera, masks and scores."""
    return [np.random.default_rng(s) for s in np.random.SeedSequence(_entropy(world, seed, index)).spawn(5)]


def _estimation_stream(world: World, seed: int, index: int) -> np.random.Generator:
    """The image's random stream for bad estimates of its pose: a sixth one, independent of those of ``_streams``."""
    return np.random.default_rng(np.random.SeedSequence(_entropy(world, seed, index), spawn_key=(5,)))


def _further_stream(world: World, seed: int, index: int) -> np.random.Generator:
    """A seventh one, for what not every world has: the other hand, and the person's build."""
    return np.random.default_rng(np.random.SeedSequence(_entropy(world, seed, index), spawn_key=(6,)))


class _DrawnBody:
    """A body for drawing many images: precomputed arrays, and skinning that releases the GIL."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.shaped = with_shapes(body)
        self.keypoints = [joint_index(body, name) for name in KEYPOINTS]

    def pose(
        self, pose: NDArray[np.float32], betas: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Vertices (V, 3), relative transforms A_j (J, 4, 4) and joints (J, 3) of one pose, of the template or of a build."""
        poses = pose[None].astype(np.float64)
        body = self.body if betas is None else self.shaped
        transforms, joints = posed(body, poses[0], betas)
        if body.posedirs is not None:
            return np.ascontiguousarray(body.posed_vertices(poses, betas)[0]), transforms, joints
        template = body.vertices
        if betas is not None and body.shapedirs is not None:
            template = template + body.shapedirs[..., : len(betas)] @ betas
        return skin(template, body.weights, transforms), transforms, joints


def _draw_image(world: World, seed: int, drawn_body: _DrawnBody, index: int) -> _Image:
    body = drawn_body.body
    object_rng, pose_rng, camera_rng, mask_rng, score_rng = _streams(world, seed, index)
    further_rng = _further_stream(world, seed, index)
    mirrored = further_rng.random() < world.mirrored
    betas = draw_shape(drawn_body.shaped, world.shape_spread, further_rng) if world.shape_spread else None
    kind = OBJECTS[world.object_class]
    shapes = kind.draw(object_rng, body)
    if mirrored:
        shapes = tuple(shape.mirrored() for shape in shapes)
    pose = draw_pose(world, body, pose_rng, mirrored)
    vertices, transforms, joints = drawn_body.pose(pose, betas)
    size = world.image_sizes[camera_rng.integers(len(world.image_sizes))]
    R, t, K = world.cameras.draw(camera_rng, vertices, size)
    matrix = K @ np.column_stack([R, t])

    body_inverse_depth = draw_inverse_depth(vertices, body.faces, matrix, size)
    carried = carrier(kind, body, transforms, joints, mirrored=mirrored, template=betas is None)
    object_inverse_depth = np.full(size, -np.inf, np.float32)
    for shape in shapes:
        corners, faces = shape.mesh()
        drawn = draw_inverse_depth(corners @ carried[:3, :3].T + carried[:3, 3], faces, matrix, size)
        np.maximum(object_inverse_depth, drawn, out=object_inverse_depth)
    object_mask, person_mask = object_inverse_depth > 0, body_inverse_depth > 0
    num_unoccluded = np.count_nonzero(object_mask)
    if world.occlusion:
        object_mask, person_mask = (
            object_mask & (object_inverse_depth > body_inverse_depth),
            person_mask & (body_inverse_depth >= object_inverse_depth),
        )
    num_visible = np.count_nonzero(object_mask)
    object_packed = pack_mask(world.mask_noise.apply(object_mask, mask_rng))
    person_packed = pack_mask(person_mask)

    scores = {
        "person_count": float(len(person_packed[1]) > 0),
        "object_count": float(len(object_packed[1]) > 0),
        "person_confidence": score_rng.uniform(0.85, 1.0),
        "object_confidence": score_rng.uniform(0.8, 1.0),
        "overlap": float(overlap_of_first(object_packed[0], person_packed[0])),
        "object_visible": num_visible / num_unoccluded if num_unoccluded else 0.0,
    }
    uvz = joints[drawn_body.keypoints] @ matrix[:, :3].T + matrix[:, 3]
    confidence: dict[str, float] = {}
    for name, (u, v, z) in zip(KEYPOINTS, uvz, strict=True):
        seen = z > 0 and 0 <= u / z < size[1] and 0 <= v / z < size[0]
        confidence[f"keypoint_{name}"] = score_rng.uniform(*((0.75, 1.0) if seen else (0.0, 0.3)))
    pose, confidence = world.estimation.apply(pose, confidence, _estimation_stream(world, seed, index))
    scores |= confidence
    return _Image(size, pose, (R, t, K), object_packed, person_packed, scores)


def _collect(world: World, seed: int, body: Body, indices: Sequence[int], drawn: Iterable[_Image]) -> SimulatedBatch:
    images = list(drawn)
    sizes = np.array([i.size for i in images], np.int32)
    objects, persons = (
        PackedMasks.join(sizes, np.stack([box for box, _ in masks]), [words for _, words in masks])
        for masks in ([i.object_mask for i in images], [i.person_mask for i in images])
    )
    R, t, K = (np.stack([i.camera[part] for i in images]) for part in range(3))
    cameras = Cameras(R, t, K, sizes)
    centres = cameras.centres
    quarter_turns = (math.pi / 2 - np.arctan2(centres[:, 2], centres[:, 0])) / (math.pi / 2)  # 0 in front, 1 at the left
    scores = {name: np.array([i.scores[name] for i in images], np.float32) for name in images[0].scores}
    missing = [scores["person_count"] == 0, scores["object_count"] == 0]
    status = np.select(missing, ["no person", "no object"], "complete")
    keys, prompts = [image_key(world, seed, index) for index in indices], [world.prompt] * len(images)
    true = ImageBatch(objects, cameras, np.stack([i.pose for i in images]), keys, prompts=prompts)
    return SimulatedBatch(
        images=with_pose_errors(true, world.pose_errors, body),
        person_masks=persons,
        views=np.array(VIEWS)[np.rint(quarter_turns).astype(np.intp) % 4],
        seeds=np.full(len(images), seed, np.int64),
        scores=scores,
        status=status,
    )


def image_key(world: World, seed: int, index: int) -> str:
    """The unique name of an image: ``<world>-<seed>-<index>``."""
    return f"{world.name}-{seed}-{index:07d}"


def _simulate(
    world: World, seed: int, body: Body, indices: Sequence[int], batch_size: int, workers: int
) -> Iterator[SimulatedBatch]:
    draw = partial(_draw_image, world, seed, _DrawnBody(body))
    pool = ThreadPoolExecutor(workers)
    try:
        ahead: deque[tuple[Sequence[int], Iterable[_Image]]] = deque()
        for first in range(0, len(indices), batch_size):
            rows = indices[first : first + batch_size]
            ahead.append((rows, pool.map(draw, rows)))
            if len(ahead) > 1:  # the next batch is drawn while the caller works on this one
                yield _collect(world, seed, body, *ahead.popleft())
        while ahead:
            yield _collect(world, seed, body, *ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def simulate(
    world: World,
    num_images: int,
    seed: int = 0,
    body: Body | None = None,
    *,
    start: int = 0,
    batch_size: int = 128,
    workers: int | None = None,
) -> Iterator[SimulatedBatch]:
    """Draw images ``start`` to ``start + num_images`` of a world, in batches.

    The images depend only on the world, the seed (>= 0), their index and the body (default: the built-in one), not on
    ``batch_size`` or ``workers`` (threads; default: one per core). Images in which the object is not visible are kept, with
    a status that says so. Raises InputError for negative numbers and for bodies without the joints needed.
    """
    for name, value in (("num_images", num_images), ("start", start)):
        check_whole(name, value, 0)
    return _checked_batches(world, range(start, start + num_images), seed, _or_default(body), batch_size, workers)


def _checked_batches(
    world: World, indices: Sequence[int], seed: int, body: Body, batch_size: int, workers: int | None
) -> Iterator[SimulatedBatch]:
    """The batches of ``simulate``; arguments are checked at the call, not at the first batch."""
    workers = (os.cpu_count() or 1) if workers is None else workers
    for name, value, least in (("seed", seed, 0), ("batch_size", batch_size, 1), ("workers", workers, 1)):
        check_whole(name, value, least)
    check_kind("world", world, World)
    for joint in (*KEYPOINTS, OBJECTS[world.object_class].joint, *(name for pose in world.key_poses for name in pose)):
        joint_index(body, joint)
    return _simulate(world, seed, body, indices, batch_size, workers)


def _or_default(body: Body | None) -> Body:
    from chorus.body.model import Body, load_body

    if body is not None:
        check_kind("body", body, Body)
        return body
    return load_body()


def write_world(
    path: str | Path,
    worlds: Sequence[World],
    num_images: int,
    seed: int = 0,
    body: Body | None = None,
    *,
    batch_size: int = 128,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write images of worlds of one category into a store; returns the number of images drawn, by status, and the number that
    the store had already, as "already there".

    ``num_images`` in all are divided evenly over the worlds (the first ones get one more). Keys are ``image_key``; images
    that the store has already are not drawn again, so that an interrupted call can be repeated: on KeyboardInterrupt the
    images drawn so far are committed.
    ``progress(done, num_images)`` is called after each batch. Raises InputError for no worlds, worlds of differing
    category, the same name twice, and as ``simulate`` and the store's writer do, MismatchError for a store that was made with
    another seed, with other worlds or by other means.
    """
    from chorus.store import StoreWriter

    check_kind("worlds", worlds, Sequence)
    for world in worlds:
        check_kind("worlds", world, World)
    if not worlds:
        raise InputError("worlds: expected at least one, got none")
    path = check_path("path", path)
    num_images, seed = check_whole("num_images", num_images, 0), check_whole("seed", seed, 0)
    if len({w.category for w in worlds}) > 1 or len({w.name for w in worlds}) < len(worlds):
        listed = ", ".join(f"{w.name} ({w.category})" for w in worlds)
        raise InputError(f"worlds: expected differing names and one category, got {listed}")
    body = _or_default(body)
    done, counts = 0, Counter[str]()
    made = {"seed": seed, "worlds": [asdict(w) for w in worlds]}
    check_made_alike(path, made)
    with StoreWriter(
        path,
        category=worlds[0].category,
        num_joints=body.num_joints,
        body_hash=body.hash,
        provenance={"simulated": made},
        person_masks=True,
    ) as writer:
        try:
            for number, world in enumerate(worlds):
                share = num_images // len(worlds) + (number < num_images % len(worlds))
                missing = [i for i in range(share) if image_key(world, seed, i) not in writer]
                done += share - len(missing)
                counts["already there"] += share - len(missing)
                for batch in _checked_batches(world, missing, seed, body, batch_size, workers):
                    writer.append(
                        batch.images,
                        views=batch.views,
                        seeds=batch.seeds,
                        scores=batch.scores,
                        status=batch.status,
                        person_masks=batch.person_masks,
                    )
                    counts.update(batch.status.tolist())
                    done += len(batch)
                    if progress is not None:
                        progress(done, num_images)
        except KeyboardInterrupt:
            with suppress(StoreError):  # it struck within a commit that was as good as done
                writer.flush()
            raise
    return {status: count for status, count in counts.items() if count}
