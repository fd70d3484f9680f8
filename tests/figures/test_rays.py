"""Ray-cast pictures against what can be said of them by hand."""

from __future__ import annotations

import numpy as np
import pytest

from chorus.camera.cameras import Cameras
from chorus.errors import InputError
from chorus.figures.rays import LIGHT, Layer, Scene, orthographic, over_white, perspective, turned_view

FACES = np.array([(0, 1, 2), (0, 2, 3)])


def square(z: float, half: float = 0.5, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A square that faces +z: its corners (4, 3)."""
    return np.array([(centre[0] + a * half, centre[1] + b * half, z) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])


def front(metres: float = 2.0, height: int = 40):  # type: ignore[no-untyped-def]
    return orthographic(turned_view(0, 0), np.zeros(3), (metres, metres), height, 2)


def test_views_turn_around_the_person() -> None:
    for azimuth, elevation, towards in ((0, 0, (0, 0, 1)), (90, 0, (1, 0, 0)), (180, 0, (0, 0, -1)), (0, 90, (0, 1, 0))):
        axes = turned_view(azimuth, elevation)
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(axes) == pytest.approx(1)
        np.testing.assert_allclose(-axes[2], towards, atol=1e-12)  # the viewer stands there
    np.testing.assert_allclose(turned_view(0, 0)[0], [1, 0, 0], atol=1e-12)  # face to face, their left is on the right
    np.testing.assert_allclose(turned_view(0, 0)[1], [0, -1, 0], atol=1e-12)


def test_an_opaque_square_covers_what_it_should() -> None:
    picture = Scene([Layer(square(0.0, 0.5, (0.25, 0.25)), FACES, (0.2, 0.4, 0.6))]).render(front())
    rows, columns = np.nonzero(picture[..., 3] > 0.5)
    assert (rows.min(), rows.max()) == (5, 24)  # y from -0.25 to 0.75 m of 2 m in 40 pixels, up is first
    assert (columns.min(), columns.max()) == (15, 34)
    assert picture[..., 3].sum() == pytest.approx(400, abs=4)
    inside = picture[10:20, 20:30, :3]
    lit = 0.42 + 0.62 * (0.5 + 0.5 * -LIGHT[2] / np.linalg.norm(LIGHT)) + 0.04  # seen face on, nothing shades it
    np.testing.assert_allclose(inside, np.broadcast_to([0.2 * lit, 0.4 * lit, 0.6 * lit], inside.shape), atol=1e-5)
    assert (over_white(picture)[0, 0] == 1).all()


def test_translucent_layers_are_laid_over_each_other_in_their_order() -> None:
    near, far = Layer(square(0.2), FACES, (1.0, 0, 0), 0.25), Layer(square(-0.2), FACES, (0, 0, 1.0), 0.5)
    for layers in ([near, far], [far, near]):
        r, g, b, alpha = Scene(layers).render(front())[20, 20]
        assert alpha == pytest.approx(1 - 0.75 * 0.5, abs=1e-5)
        assert g == pytest.approx(r * 0.0, abs=0.3)
        assert r * alpha == pytest.approx(0.25, abs=0.05)  # of the near one
        assert b * alpha == pytest.approx(0.75 * 0.5, abs=0.05)  # what of the far one comes through
    behind = Scene([near, far]).render(orthographic(turned_view(180, 0), np.zeros(3), (2.0, 2.0), 40))[20, 20]
    assert behind[2] * behind[3] == pytest.approx(0.5, abs=0.05)  # from the back the blue one is in front
    opaque = Layer(square(0.0), FACES, (0.5, 0.5, 0.5))
    assert Scene([near, far, opaque]).render(front())[20, 20, 2] < 0.6  # the far one is hidden
    assert Scene([near, far, opaque]).render(front(), only_opaque=True)[20, 20, 3] == 1


def test_a_camera_sees_points_where_it_projects_them() -> None:
    R = np.diag([1.0, -1, -1])  # looks along -z
    cameras = Cameras(R[None], np.array([[0.1, 0.0, 3.0]]), np.array([[[50.0, 0, 20], [0, 50, 15], [0, 0, 1]]]), [[30, 40]])
    corners = square(0.4, 0.3, (0.2, -0.1))
    picture = Scene([Layer(corners, FACES, (0.5, 0.5, 0.5))]).render(perspective(cameras, 0, 4))
    assert picture.shape == (30, 40, 4)
    uv = cameras.project(corners)[0][0]
    area = np.ptp(uv[:, 0]) * np.ptp(uv[:, 1])
    assert picture[..., 3].sum() == pytest.approx(area, rel=0.03)
    v, u = (np.arange(n) + 0.5 for n in (30, 40))
    weight = picture[..., 3] / picture[..., 3].sum()
    np.testing.assert_allclose([(weight * u).sum(), (weight * v[:, None]).sum()], uv.mean(0), atol=0.1)


def test_bodies_shade_the_floor_and_themselves() -> None:
    plate = np.array([(-0.5, 0.1, -0.5), (0.5, 0.1, -0.5), (0.5, 0.1, 0.5), (-0.5, 0.1, 0.5)])
    scene = Scene([Layer(plate, FACES, (0.5, 0.5, 0.5))], floor=0.0)
    above = orthographic(turned_view(0, 89.9), np.zeros(3), (3.0, 3.0), 60)
    alpha = scene.render(above)[..., 3]
    assert alpha[30, 30] == 1
    beside = alpha[30, 41:]  # to the right of the plate's edge
    assert beside[0] > 0.05
    assert (np.diff(beside) <= 0.02).all()  # it fades
    assert beside[-1] == 0
    assert not Scene([Layer(plate, FACES, (0.5, 0.5, 0.5), 0.5)], floor=0.0).render(above)[2, 2].any()  # shells cast none
    box = np.concatenate([square(0.0), square(0.1)])
    shade = Scene([Layer(box, np.concatenate([FACES, FACES[:, ::-1] + 4]), (0.5, 0.5, 0.5))]).vertex_shade(0)
    assert shade.shape == (8,)
    assert (shade[:4] > 0.1).all()  # the two squares face each other
    assert shade.max() <= 1


def test_meshes_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match=r"faces: expected at least one, of vertices 0\.\.3, got 1 of 0\.\.4"):
        Scene([Layer(square(0.0), np.array([(0, 1, 4)]), (0.5, 0.5, 0.5))])
    assert not Scene([]).render(front()).any()
