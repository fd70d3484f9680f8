"""The rasteriser against closed forms: silhouettes, depth, exact coverage, order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chorus.camera.cameras import Cameras
from chorus.errors import InputError
from chorus.render.rasterize import (
    displace,
    draw_inverse_depth,
    face_normals,
    rasterize,
    render_mesh,
    render_orthographic,
    shade,
    skin,
)
from chorus.simulate.objects import Shape

FLIP = np.diag([1.0, -1.0, -1.0])
K = np.array([[300.0, 0, 128], [0, 300, 96], [0, 0, 1]])


def camera(t: Any = (0.1, -0.05, 2.0)) -> Cameras:
    return Cameras(FLIP[None], [t], K[None], [[192, 256]])


def rays(cameras: Cameras) -> np.ndarray:
    """Directions with z = 1 through the pixel centres, (H, W, 3), in camera axes."""
    height, width = cameras.image_size[0]
    v, u = np.mgrid[:height, :width] + 0.5
    return np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(cameras.K[0]).T


def sphere(radius: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    return Shape("ellipsoid", np.full(3, radius), np.zeros(3), np.eye(3)).mesh()


def test_sphere_against_ray_casting() -> None:
    cameras = camera()
    depth, face = render_mesh(*sphere(), cameras)
    d, c = rays(cameras), cameras.t[0]
    a, b, rest = (d**2).sum(-1), d @ c, c @ c - 0.4**2
    inside = b**2 - a * rest
    # The mesh lies up to 0.5 % inside the sphere: pixels within 1 px of the outline may differ, others may not.
    slope = np.linalg.norm(np.gradient(inside), axis=0)
    clear = np.abs(inside) > 1.2 * slope
    assert clear.mean() > 0.95
    np.testing.assert_array_equal((face >= 0)[clear], (inside > 0)[clear])
    assert (face >= 0).sum() == pytest.approx((inside > 0).sum(), rel=0.01)
    deep = (inside > 0) & clear
    exact = ((b - np.sqrt(np.where(inside > 0, inside, 0))) / a)[deep]
    np.testing.assert_allclose(depth[deep], exact, atol=6e-3)
    assert np.isinf(depth[face < 0]).all()
    assert np.isfinite(depth[face >= 0]).all()


def test_slanted_plane_is_perspective_correct() -> None:
    corners = np.array([[-1, -1, -1.0], [1, -1, 0.6], [1, 1, 0.9], [-1, 1, -0.7]])
    normal = np.cross(corners[1] - corners[0], corners[3] - corners[0])
    corners[2] -= normal * (normal @ (corners[2] - corners[0])) / (normal @ normal)  # into one plane
    cameras = camera((0.0, 0.0, 3.0))
    depth, face = render_mesh(corners, [[0, 1, 2], [0, 2, 3]], cameras)
    n = FLIP @ normal
    exact = n @ (FLIP @ corners[0] + cameras.t[0]) / (rays(cameras) @ n)
    hit = face >= 0
    assert hit.sum() > 20_000
    np.testing.assert_allclose(depth[hit], exact[hit], rtol=1e-6)


def test_box_silhouette_is_exact() -> None:
    vertices, faces = Shape("box", np.array([0.5, 0.25, 0.1]), np.zeros(3), np.eye(3)).mesh()
    depth, face = render_mesh(vertices, faces, camera((0.0, 0.0, 2.1)))  # the near side is at z = 2
    drawn = np.zeros((192, 256), bool)
    drawn[96 - 37 : 96 + 38, 128 - 75 : 128 + 75] = True  # u = 53 .. 203; v = 58.5 .. 133.5, its rows on pixel centres
    drawn[133] = (face >= 0)[133]
    np.testing.assert_array_equal(face >= 0, drawn | ((face >= 0) & (np.arange(192) == 58)[:, None]))
    assert (face[58, 53:203] >= 0).all() != (face[133, 53:203] >= 0).all()  # of the two edges on centres, one counts
    np.testing.assert_allclose(depth[face >= 0], 2.0, rtol=1e-6)


@pytest.mark.parametrize("snapped", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_pixel_of_a_tessellated_quad_is_covered_once(seed: int, snapped: bool) -> None:
    rng = np.random.default_rng(seed)
    n, size = 13, 48
    v, u = np.meshgrid(np.linspace(3, size - 3, n), np.linspace(3, size - 3, n), indexing="ij")
    inner = np.zeros((n, n, 1))
    inner[1:-1, 1:-1] = 1
    points = np.stack([u, v], -1) + inner * rng.uniform(-1.2, 1.2, (n, n, 2))
    if snapped:  # corners and edges on pixel centres: the hard case
        points = np.rint(points) + 0.5
    at = np.arange(n * n).reshape(n, n)
    a, b, c, d = (x.ravel() for x in (at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, d, c], 1)])  # of both windings
    uvz = np.concatenate([points.reshape(-1, 2), np.ones((n * n, 1))], 1)
    counts = np.zeros((size, size), int)
    for face in faces:
        counts += rasterize(uvz, face[None], size, size)[1] >= 0
    inside = np.zeros((size, size), bool)
    inside[3 : size - 3, 3 : size - 3] = True
    if snapped:
        assert counts.max() == 1
        assert (counts[4 : size - 4, 4 : size - 4] == 1).all()
        assert counts.sum() == (size - 6) ** 2
    else:
        np.testing.assert_array_equal(counts, inside.astype(int))


@pytest.mark.parametrize("seed", range(5))
def test_wide_triangles_as_by_testing_every_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    uv = rng.uniform(-80, 200, (3, 2))
    _, face = rasterize(np.column_stack([uv, [1.0, 2.0, 3.0]]), [[0, 1, 2]], 96, 128)
    v, u = np.mgrid[:96, :128] + 0.5
    signs = []
    for i in range(3):
        (ua, va), (ub, vb) = uv[i], uv[(i + 1) % 3]
        signs.append(((ub - ua) * (v - va) - (vb - va) * (u - ua)) / np.hypot(ub - ua, vb - va))
    distance = np.maximum(np.min(signs, 0), np.min(np.negative(signs), 0))  # > 0 inside, in px
    clear = np.abs(distance) > 1e-3  # corners snap to 1/4096 px
    np.testing.assert_array_equal((face >= 0)[clear], (distance > 0)[clear])


def test_the_nearer_face_wins_in_any_order() -> None:
    triangle = np.array([[2, 2], [30, 2], [2, 30.0]])
    uvz = np.concatenate([np.column_stack([triangle, [z] * 3]) for z in (3.0, 1.5, 2.0)])
    faces = np.arange(9).reshape(3, 3)
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        depth, face = rasterize(uvz, faces[order], 32, 32)
        hit = face >= 0
        assert hit.sum() > 300
        assert (face[hit] == order.index(1)).all()
        np.testing.assert_allclose(depth[hit], 1.5, rtol=1e-6)
    _, tied = rasterize(uvz, faces[[1, 1]], 32, 32)
    assert set(np.unique(tied)) == {-1, 0}


def test_crossing_faces_share_pixels_by_depth() -> None:
    square = np.array([[0, 0], [32, 0], [32, 32], [0, 32.0]])
    uvz = np.concatenate([np.column_stack([square, [1, 3, 3, 1]]), np.column_stack([square, [3, 1, 1, 3]])])
    _, face = rasterize(uvz, [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], 32, 32)
    assert (face[:, :16] < 2).all()
    assert (face[:, 16:] >= 2).all()


def test_triangles_that_reach_behind_the_near_plane_are_dropped() -> None:
    uvz = np.array([[2, 2, 1.0], [30, 2, 1.0], [2, 30, 0.005], [np.nan, np.inf, -1.0]])
    _, face = rasterize(uvz, [[0, 1, 2], [0, 1, 3]], 32, 32)
    assert (face == -1).all()
    _, face = rasterize(uvz, [[0, 1, 2]], 32, 32, near=0.001)
    assert (face == 0).any()


def test_orthographic_depth_is_linear_and_may_be_negative() -> None:
    corners = np.array([[-0.5, -0.5, -1.0], [0.5, -0.5, 1.0], [0.5, 0.5, 1.0], [-0.5, 0.5, -1.0]])
    depth, face = render_orthographic(corners, [[0, 1, 2], [0, 2, 3]], FLIP, 40, 60, 0.02)
    u = np.arange(60) + 0.5
    hit = (u > 5) & (u < 55)
    inside = np.zeros((40, 60), bool)
    inside[:, 5:55] = True
    np.testing.assert_array_equal(face >= 0, inside)
    np.testing.assert_allclose(depth[20, hit], -2 * (u[hit] - 30) * 0.02, atol=1e-6)
    assert np.isposinf(depth[~inside]).all()


def test_draw_inverse_depth_is_the_inverse_of_the_depth() -> None:
    cameras = camera()
    vertices, faces = sphere()
    depth, face = render_mesh(vertices, faces, cameras)
    key = draw_inverse_depth(vertices, faces, K @ np.column_stack([FLIP, cameras.t[0]]), (192, 256))
    np.testing.assert_array_equal(key > 0, face >= 0)
    np.testing.assert_allclose(1 / key[face >= 0], depth[face >= 0], rtol=1e-6)


def test_shading_follows_the_normals() -> None:
    vertices, faces = sphere()
    normals = face_normals(vertices, faces)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    assert (np.einsum("fi,fi->f", normals, vertices[faces[:, 0]]) > 0).all()  # outward
    _, face = render_mesh(vertices, faces, camera((0.0, 0.0, 2.0)))
    image = shade(face, normals, light=(1, 0, 1), background=(0, 0, 1))
    assert image.shape == (192, 256, 3)
    assert image.dtype == np.uint8
    assert (image[0, 0] == [0, 0, 255]).all()
    assert image[96, 160, 0] > image[96, 96, 0] + 50  # the person's left is on the right of the image
    bright = normals @ np.array([1, 0, 1]) / np.sqrt(2)
    expected = np.rint(255 * 0.75 * (0.35 + 0.65 * np.maximum(bright[face[96, 140]], 0)))
    assert image[96, 140, 0] == expected
    with pytest.raises(InputError, match="face_index"):
        shade(face, normals[:5])


def test_skinning_is_a_weighted_sum_of_transforms() -> None:
    rng = np.random.default_rng(0)
    vertices, weights, transforms = rng.normal(size=(50, 3)), rng.random((50, 4)), rng.normal(size=(4, 3, 4))
    weights[weights < 0.4] = 0
    blended = np.einsum("vj,jab->vab", weights, transforms)
    expected = np.einsum("vab,vb->va", blended[..., :3], vertices) + blended[..., 3]
    np.testing.assert_allclose(skin(vertices, weights, transforms), expected, atol=1e-12)


def test_displacement_moves_a_mask() -> None:
    mask = np.zeros((40, 50), bool)
    mask[10:20, 15:30] = True
    steps = np.zeros((2, 4, 5))
    np.testing.assert_array_equal(displace(mask, steps, 16), mask)
    steps[0], steps[1] = 3, -4  # takes values from 3 px below and 4 px to the left
    np.testing.assert_array_equal(displace(mask, steps, 16), np.roll(mask, (-3, 4), (0, 1)))
    ramp = np.broadcast_to(np.arange(5) * 16.0, (4, 5))  # d = the column: column c shows column 2c
    moved = displace(mask, np.stack([np.zeros((4, 5)), ramp]), 16)
    np.testing.assert_array_equal(moved[:, :25], mask[:, ::2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"faces": [[0, 1, 3]]}, "faces: expected vertex indices 0..2"),
        ({"faces": [[0, 1]]}, "faces: expected shape"),
        ({"height": 0}, "height, width"),
        ({"uvz": [[0, 0, 1], [9, np.nan, 1], [0, 9, 1]]}, "row 1"),
        ({"uvz": [[0, 0, 1], [9, 0, np.nan], [0, 9, 1]]}, "row 1"),
        ({"uvz": [[0, 0], [9, 0], [0, 9]]}, "vertices_uvz: expected shape"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], words: str) -> None:
    given = {"uvz": [[0, 0, 1], [9, 0, 1], [0, 9, 1]], "faces": [[0, 1, 2]], "height": 8} | change
    with pytest.raises(InputError, match=words):
        rasterize(given["uvz"], given["faces"], given["height"], 8)
