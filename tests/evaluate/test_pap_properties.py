"""Projective average precision: the definition written out plainly, and properties."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from chorus.camera.cameras import Cameras
from chorus.errors import InputError
from chorus.evaluate.pap import (
    METRICS,
    PapImage,
    PapProtocol,
    PixelCounts,
    average_precision,
    body_pixels,
    count_pixels,
    interpolated_precision,
    pap,
    render_levels,
    render_levels_on,
    score_image,
)
from tests.evaluate.test_pap_metric import FOOTPRINT, looking_along_z, mask_of
from tests.kernels.random_inputs import random_rotation


def random_camera(rng: np.random.Generator, size: tuple[int, int], distance: float = 4.0) -> Cameras:
    height, width = size
    focal = max(size) * rng.uniform(0.8, 1.6)
    K = [[[focal, rng.normal(0, 1), width * 0.5], [0, focal * rng.uniform(0.9, 1.1), height * 0.5], [0, 0, 1]]]
    return Cameras(random_rotation(rng)[None], [[*rng.normal(0, 0.2, 2), distance]], K, [size])


@pytest.mark.parametrize("splat", ["centre", "footprint"])
@pytest.mark.parametrize("size", [(32, 32), (32, 47), (70, 32)])
def test_a_binary_field_against_its_own_render_gives_one(splat: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    protocol = PapProtocol(splat=splat)
    for _ in range(5):
        phi = (rng.random((9, 9, 9)) < 0.05).astype(np.float32)
        camera = random_camera(rng, size)
        mask = render_levels(phi, 2.0, camera, size, protocol) > 0
        assert mask.any()
        result = score_image(PapImage(phi, 2.0, camera, mask, body_vertices=rng.normal(0, 0.1, (5, 3))), protocol)
        assert [result.scores[s] for s in METRICS] == [1.0] * 4
        # The same from an image 16 times as large, brought down again.
        K = camera.K * np.array([16, 16, 1])[:, None]
        large = Cameras(camera.R, camera.t, K, camera.image_size * 16)
        result = score_image(PapImage(phi, 2.0, large, np.repeat(np.repeat(mask, 16, 0), 16, 1)), protocol)
        assert result.vanilla == result.strict == 1.0


def plain_counts(phi: np.ndarray, extent: float, camera: Cameras, target: np.ndarray, removed: np.ndarray) -> PixelCounts:
    """The definition, threshold by threshold, for an image that keeps its size."""
    N = len(phi)
    axis = (np.arange(N) + 0.5) * (extent / N) - extent / 2
    uv, z = camera.project(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3))
    column, row = np.floor(uv[0]).astype(int).T
    seen = (z[0] > 0) & (column >= 0) & (row >= 0) & (column < target.shape[1]) & (row < target.shape[0])
    predicted, hits = [], []
    for i in range(1, 101):
        drawn = np.zeros(target.shape, bool)
        chosen = seen & (phi.ravel() >= np.float32(i / 100))
        drawn[row[chosen], column[chosen]] = True
        predicted.append(int((drawn & ~removed).sum()))
        hits.append(int((drawn & target & ~removed).sum()))
    return PixelCounts(np.array(predicted), np.array(hits), int((target & ~removed).sum()))


def plain_average_precision(c: PixelCounts, strict: bool) -> float:
    P = [h / p if p else 0.0 for h, p in zip(c.hits, c.predicted, strict=True)]
    R = [h / c.target for h in c.hits]
    total = 0.0
    for i in range(1, len(P)):
        if not (strict and c.predicted[i] == 0):
            total += (R[i - 1] - R[i]) * max(P[:i])
    return total + (R[-1] * max(P) if c.predicted[-1] else 0.0)


def test_counts_and_scores_are_the_definition() -> None:
    rng = np.random.default_rng(2)
    for trial in range(20):
        size = ((32, 32), (32, 40), (51, 32))[trial % 3]
        camera = random_camera(rng, size, distance=rng.choice([0.3, 2.0, 5.0]))  # from inside the cube too
        phi = (rng.integers(0, 101, (12, 12, 12)) / 100 * (rng.random((12, 12, 12)) < 0.3)).astype(np.float32)
        target = rng.random(size) < 0.2
        vertices = rng.normal(0, 0.5, (60, 3))
        result = score_image(PapImage(phi, 3.0, camera, target, vertices))
        removed = body_pixels(vertices, camera, size)
        for have, hidden, prefix in ((result.counts, np.zeros(size, bool), ""), (result.aware_counts, removed, "aware_")):
            want = plain_counts(phi, 3.0, camera, target, hidden)
            assert have is not None
            assert (have.predicted == want.predicted).all()
            assert (have.hits == want.hits).all()
            assert have.target == want.target
            for rule in ("vanilla", "strict"):
                score = plain_average_precision(want, rule == "strict")
                assert getattr(result, prefix + rule) == pytest.approx(score, abs=1e-12)


def test_interpolated_precision_integrates_to_the_average_precision() -> None:
    rng = np.random.default_rng(3)
    levels = (np.arange(40_000) + 0.5) / 40_000
    for _ in range(10):
        hits = np.sort(rng.integers(0, 50, 20))[::-1] * (np.arange(20) < 17)
        predicted = hits + np.sort(rng.integers(0, 80, 20))[::-1] * (np.arange(20) < 17)
        c = PixelCounts(predicted, hits, 60)
        for strict in (False, True):
            assert interpolated_precision(c, levels, strict).mean() == pytest.approx(average_precision(c, strict), abs=1e-3)


def overlapped(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels that share area with the convex hull of points (8, 2): no axis parts them."""
    result = np.ones(size, bool)
    v, u = np.mgrid[: size[0], : size[1]]
    square = np.stack([np.stack([u + a, v + b], -1) for a in (0, 1) for b in (0, 1)])  # (4, H, W, 2)
    pairs = [corners[b] - corners[a] for a in range(8) for b in range(a)]
    for axis in ([1.0, 0.0], [0.0, 1.0], *([-d[1], d[0]] for d in pairs)):
        hull, pixel = corners @ axis, square @ np.array(axis)
        result &= (pixel.max(0) > hull.min()) & (pixel.min(0) < hull.max())
    return result


def test_a_footprint_is_the_hull_of_the_corners() -> None:
    rng = np.random.default_rng(4)
    cube = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    for trial in range(40):
        size = ((32, 32), (32, 47))[trial % 2]
        camera = random_camera(rng, size, distance=rng.uniform(1.0, 12.0))
        uv, z = camera.project(cube)
        assert (z > 0).all()
        drawn = render_levels(np.ones((1, 1, 1)), 1.0, camera, size, FOOTPRINT) > 0
        assert (drawn == overlapped(uv[0], size)).all()
        assert (drawn | ~(render_levels(np.ones((1, 1, 1)), 1.0, camera, size) > 0)).all()  # the centre is in the footprint


def test_footprints_do_not_depend_on_the_resolution() -> None:
    rng = np.random.default_rng(6)
    for _ in range(5):
        phi = (rng.random((5, 5, 5)) * (rng.random((5, 5, 5)) < 0.2)).astype(np.float32)
        fine = phi.repeat(3, 0).repeat(3, 1).repeat(3, 2)
        camera = random_camera(rng, (32, 40))
        renders = [render_levels(f, 2.0, camera, (32, 40), FOOTPRINT) for f in (phi, fine)]
        assert renders[0].any()
        assert (renders[0] == renders[1]).all()


@pytest.mark.parametrize("splat", ["centre", "footprint"])
def test_batches_in_torch_draw_the_same_pixels(splat: str) -> None:
    rng = np.random.default_rng(8)
    protocol = PapProtocol(splat=splat)
    images = []
    for i in range(40):  # several sizes and resolutions, more of one than a batch holds, cameras inside the cube too
        size, N = (((64, 64), 8), ((53, 80), 5), ((64, 64), 8), ((64, 64), 8))[i % 4]
        phi = (rng.random((N, N, N)) * (rng.random((N, N, N)) < 0.3)).astype(np.float32)
        camera = random_camera(rng, size, distance=rng.choice([0.3, 1.0, 4.0]))
        images.append(PapImage(phi, 3.0, camera, rng.random(size) < 0.3, rng.normal(0, 0.3, (9, 3)), f"i{i}"))
    drawn = render_levels_on("cpu", images, protocol)
    assert sum(levels.any() for levels in drawn) > 30  # some look past the few voxels there are
    for image, levels in zip(images, drawn, strict=True):
        want = render_levels(image.phi, image.extent, image.camera, levels.shape, protocol)
        assert levels.dtype == want.dtype
        assert (levels == want).all()
    for a, b in zip(pap(images, protocol, device="cpu"), pap(images, protocol), strict=True):
        assert [a.scores[s] for s in METRICS] == [b.scores[s] for s in METRICS]
    with pytest.raises(InputError, match=r"image 'i0': phi: expected shape \(N, N, N\)"):
        render_levels_on("cpu", [replace(images[0], phi=np.zeros((2, 2)))])


def test_order_and_threads_change_nothing() -> None:
    rng = np.random.default_rng(7)
    images = []
    for i in range(20):
        size = (32 + i, 40)
        phi = rng.random((6, 6, 6)).astype(np.float32)
        images.append(PapImage(phi, 2.0, random_camera(rng, size), rng.random(size) < 0.3, rng.normal(0, 0.3, (9, 3)), f"i{i}"))
    asked: list[str] = []

    def source() -> Iterator[PapImage]:
        for image in images:
            asked.append(image.key)
            yield image

    stream = pap(source(), threads=1)
    first = next(stream)
    assert len(asked) == 8  # a batch ahead, not all
    serial = [first, *stream]
    parallel = list(pap(images, threads=3))
    assert [r.key for r in serial] == [r.key for r in parallel] == [i.key for i in images]
    for a, b in zip(serial, parallel, strict=True):
        assert [a.scores[s] for s in METRICS] == [b.scores[s] for s in METRICS]


def test_bad_input_is_named() -> None:
    image = PapImage(np.zeros((2, 2, 2)), 2.0, looking_along_z(8), mask_of([]), key="photo")
    for change, words in (
        ({"phi": np.zeros((2, 2, 3))}, r"image 'photo': phi: expected shape \(N, N, N\)"),
        ({"phi": np.full((2, 2, 2), np.nan)}, "phi: expected finite numbers"),
        ({"mask": mask_of([], (32, 33))}, r"mask: expected shape \(32, 32\), got \(32, 33\)"),
        ({"extent": 0.0}, "extent: expected a positive number of metres, got 0.0"),
        ({"body_vertices": np.zeros((4, 2))}, r"body_vertices: expected shape \(V, 3\)"),
        (
            {"camera": Cameras(*(np.repeat(getattr(image.camera, n), 2, 0) for n in ("R", "t", "K", "image_size")))},
            "one camera",
        ),
    ):
        with pytest.raises(InputError, match=words):
            score_image(replace(image, **change))
    for bad, words in (
        ({"splat": "disc"}, "splat: expected centre or footprint, got 'disc'"),
        ({"interpolation": "7-point"}, "interpolation: expected all-point or 11-point"),
        ({"shorter_side": 0}, "shorter_side: expected a positive integer, got 0"),
    ):
        with pytest.raises(InputError, match=words):
            PapProtocol(**bad)
    with pytest.raises(InputError, match="threads: expected at least 1"):
        next(pap([image], threads=0))
    assert count_pixels(np.zeros((3, 3), np.int32), np.ones((3, 3), bool), 5).target == 9
