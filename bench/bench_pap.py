"""Projective average precision of images whose posed fields are given, against 100 renders an image in numpy."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bench.harness.gates import WrongResult
from bench.harness.measure import Contender, interleaved
from bench.harness.workloads import vote_workload
from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.evaluate.pap import (
    PapImage,
    PapProtocol,
    body_pixels,
    downscale_mask,
    downscaled_size,
    pap,
    render_levels,
    render_levels_on,
)
from chorus.field import FieldParameters
from chorus.kernels.masks import unpack_mask, words_in_box
from chorus.occupancy.posed import posed_occupancy

SCORES = ("vanilla", "strict", "aware_vanilla", "aware_strict")
"""What ``plain_scores`` computes."""
RESOLUTION = 48
IMAGES = 32
PLAIN_IMAGES = 2
"""The plain computation renders 100 times an image; so many are timed, and all are checked."""
POSED_IMAGES = 2
TOLERANCE = 1e-12
SINGLE_RENDERS = (0, 9, 49, 89)
"""Thresholds at which footprints are rendered alone, as a field of zeros and ones, and compared."""


def scored_images(body: Body) -> list[PapImage]:
    """Images of the vote workload (512 px, cameras and poses all around, masks of 8 %) with a smooth random field each, which
    reaches every threshold and fills much of the cube: more voxels to draw than a learned one has."""
    work = vote_workload(body, IMAGES).images
    rng = np.random.default_rng(0)
    made = []
    for i in range(IMAGES):
        phi = gaussian_filter(rng.random((RESOLUTION,) * 3), 2.0)
        phi = ((phi - phi.min()) / (phi.max() - phi.min())).astype(np.float32)
        box, height, width = work.box[i].numpy(), *work.size[i].tolist()
        first = int(work.start[i])
        words = work.words.numpy().view(np.uint32)[first : first + int(words_in_box(box))]
        camera = Cameras(work.R[i : i + 1], work.t[i : i + 1], work.K[i : i + 1], [[height, width]])
        pose = work.poses[i].numpy()
        vertices = body.posed_vertices(pose[None])[0]
        made.append(PapImage(phi, 3.0, camera, unpack_mask(box, words, (height, width)), vertices, f"image-{i}"))
    return made


def plain_scores(image: PapImage) -> tuple[float, float, float, float]:
    """The four scores as they are defined: centres projected once, drawn and compared threshold by threshold."""
    height, width = image.camera.image_size[0].tolist()
    size = image_size(image)
    K = image.camera.K * np.array([size[1] / width, size[0] / height, 1.0])[:, None]
    small = Cameras(image.camera.R, image.camera.t, K, [size])
    axis = (np.arange(RESOLUTION) + 0.5) * (image.extent / RESOLUTION) - image.extent / 2
    centres = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)

    def pixels(points: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        uv, z = small.project(points)
        seen = (z[0] > 0) & (uv[0] >= 0).all(1) & (uv[0] < size[::-1]).all(1)
        place = np.floor(np.where(seen[:, None], uv[0], 0)).astype(np.int64)
        return place[:, 1] * size[1] + place[:, 0], seen

    place, seen = pixels(centres)
    vertex, in_image = pixels(image.body_vertices)
    body = np.zeros(size[0] * size[1], bool)
    body[vertex[in_image]] = True
    target = downscale_mask(image.mask, size).ravel()
    kept = (np.ones_like(target), ~body)
    sums: list[list[tuple[float, float, bool]]] = [[], []]
    for i in range(1, 101):
        drawn = np.zeros(target.shape, bool)
        drawn[place[seen & (image.phi.ravel() >= np.float32(i / 100))]] = True
        for pair, keep in zip(sums, kept, strict=True):
            n, hits = int((drawn & keep).sum()), int((drawn & target & keep).sum())
            pair.append((hits / n if n else 0.0, hits / max(int((target & keep).sum()), 1), n > 0))
    scores = []
    for pair in sums:
        for strict in (False, True):
            total, best = 0.0, 0.0
            for (precision, recall, _), (_, after, drawn_after) in zip(pair, [*pair[1:], (0.0, 0.0, pair[-1][2])], strict=True):
                best = max(best, precision)
                total += (recall - after) * best * (drawn_after or not strict)
            # The last term stands for what is drawn at the last threshold; where nothing is, its recall is 0 as well.
            scores.append(total)
    return scores[0], scores[1], scores[2], scores[3]


def check_scores(images: list[PapImage]) -> None:
    """Centres against the plain computation, image by image and score by score; footprints, of which numpy has no short way,
    against renders of single thresholds, and they must hold the centres'."""
    footprint = PapProtocol(splat="footprint")
    results, wide = list(pap(images)), list(pap(images, footprint))
    for image, result, wider in zip(images, results, wide, strict=True):
        if result.vanilla is None or result.aware_vanilla is None or result.aware_counts is None:
            raise WrongResult(f"pap: {image.key} has no target, it checks nothing")
        if not 0 < result.vanilla < 1:
            raise WrongResult(f"pap: {image.key} scores {result.vanilla}, it checks nothing")
        for name, want in zip(SCORES, plain_scores(image), strict=True):
            if abs(getattr(result, name) - want) > TOLERANCE:
                raise WrongResult(f"pap: {name} of {image.key} is {getattr(result, name)}, by the plain computation {want}")
        size = image_size(image)
        if not body_pixels(image.body_vertices, image.camera, size).any():
            raise WrongResult(f"pap: no vertex of {image.key} falls on the image, it checks nothing")
        levels = render_levels(image.phi, image.extent, image.camera, size, footprint)
        if (levels < render_levels(image.phi, image.extent, image.camera, size)).any():
            raise WrongResult(f"pap: footprints of {image.key} do not hold its centres")
        for i in SINGLE_RENDERS:
            binary = image.phi >= footprint.thresholds[i]
            alone = render_levels(binary.astype(np.float32), image.extent, image.camera, size, footprint) > 0
            if (alone != (levels > i)).any() or wider.counts.predicted[i] != alone.sum():
                raise WrongResult(f"pap: footprints of {image.key} at threshold {i + 1} are not those of the render alone")


def check_device(images: list[PapImage], device: str) -> None:
    """Renders on a torch device, pixel by pixel those of the compiled loops."""
    for splat in ("centre", "footprint"):
        protocol = PapProtocol(splat=splat)
        for image, levels in zip(images, render_levels_on(device, images, protocol), strict=True):
            if (levels != render_levels(image.phi, image.extent, image.camera, image_size(image), protocol)).any():
                raise WrongResult(f"pap: {splat} of {image.key} on {device} is not what the CPU draws")


def image_size(image: PapImage) -> tuple[int, int]:
    """(h, w) that an image is scored at."""
    height, width = image.camera.image_size[0].tolist()
    return downscaled_size(height, width)


@pytest.mark.benchmark(group="pap")
def bench_pap(benchmark: Any, body: Body, threads: int, quick: bool) -> None:
    images = scored_images(body)
    check_scores(images)
    check_device(images[:4], "cuda" if torch.cuda.is_available() else "cpu")
    p = FieldParameters(resolution=RESOLUTION)
    poses = vote_workload(body, POSED_IMAGES).images.poses.numpy().astype(np.float64)

    def score(splat: str, device: str | None = None) -> Any:
        return list(pap(images, PapProtocol(splat=splat), threads, device))

    on_gpu = [
        Contender(f"{splat}, drawn on the GPU", partial(score, splat, "cuda"), IMAGES)
        for splat in ("centre", "footprint")
        if torch.cuda.is_available()
    ]

    def posed() -> Any:
        fields = [posed_occupancy(i.phi, pose, p, body.hash, body) for i, pose in zip(images, poses, strict=False)]
        made = [PapImage(f, i.extent, i.camera, i.mask, i.body_vertices, i.key) for f, i in zip(fields, images, strict=False)]
        return list(pap(made, threads=threads))

    def plain() -> Any:
        return [plain_scores(image) for image in images[:PLAIN_IMAGES]]

    records = interleaved(
        benchmark,
        [
            Contender("centre", partial(score, "centre"), IMAGES),
            Contender("footprint", partial(score, "footprint"), IMAGES),
            *on_gpu,
            Contender("centre, the posed field included", posed, POSED_IMAGES),
            Contender("plain numpy, 100 renders", plain, PLAIN_IMAGES),
        ],
        rounds=3 if quick else 10,
    )
    for r in records:
        r["ratio"] = r["per_s"] / records[-1]["per_s"]
        r["ms_per_image"] = 1e3 / r["per_s"]
    benchmark.extra_info.update(
        what=f"projective average precision, vanilla, strict and aware, {RESOLUTION}^3",
        resolution=RESOLUTION,
        threads=threads,
        images=IMAGES,
        ratio_to="the plain computation in numpy, without the posed field",
    )
