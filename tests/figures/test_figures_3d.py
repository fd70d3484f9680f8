"""Figures of nested shells and what stands beside them: what they show, not only that they are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from chorus.body.model import Body, load_body
from chorus.camera.cameras import Cameras
from chorus.camera.views import azimuth_bin
from chorus.errors import InputError
from chorus.field import CanonicalField, voxel_centres
from chorus.figures import shells
from chorus.figures.camera_sphere import directions, save_cameras
from chorus.figures.shells import Posed, choose_thresholds, direction, save_grid, save_shells, seen_colours, shell_layers
from chorus.figures.skinning_slices import save_skinning_slices
from chorus.figures.turntable import save_turntable

BALL = np.array([-0.6, 0.3, 0.2])


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


def ball(sharpness: float = 1.0) -> NDArray[np.float32]:
    """phi that falls from 1 at BALL to 0 at 0.5 m from it."""
    distance = np.linalg.norm(voxel_centres(32, 3.0) - BALL, axis=-1)
    return np.clip(1 - distance / 0.5 * sharpness, 0, 1).astype(np.float32)


def pixels(path: Path) -> NDArray[np.float64]:
    return np.asarray(Image.open(path).convert("RGB"), np.float64) / 255


def test_thresholds() -> None:
    assert choose_thresholds(0.5) == (0.1, 0.2, 0.3, 0.4)
    assert choose_thresholds(0.123) == (0.025, 0.049, 0.074, 0.098)
    assert choose_thresholds(0.5, [0.3, 0.1, 0.3]) == (0.1, 0.3)
    with pytest.raises(InputError, match="got 0 everywhere"):
        choose_thresholds(0.0)
    with pytest.raises(InputError, match=r"threshold: expected numbers in 0..1, more than 0, got 0, 0.5"):
        choose_thresholds(0.5, [0, 0.5])


def test_views_by_name_and_by_angles() -> None:
    assert direction("left") == (90, 8)
    assert direction("-30,20.5") == (-30, 20.5)
    for wrong in ("leftish", "10", "10,95", "nan,0", "1,2,3"):
        with pytest.raises(InputError, match="view: expected front, front left, "):
            direction(wrong)


def test_shells_are_nested_and_where_phi_is() -> None:
    layers = shell_layers(ball(), 3.0, (0.2, 0.5, 0.8))
    radii = [np.linalg.norm(layer.vertices - BALL, axis=1) for layer in layers]
    for radius, threshold in zip(radii, (0.2, 0.5, 0.8), strict=True):
        assert radius.mean() == pytest.approx(0.5 * (1 - threshold), abs=0.02)
    assert [layer.opacity for layer in layers] == sorted(layer.opacity for layer in layers)
    lightness = seen_colours(4).mean(1)
    assert (np.diff(lightness) < -0.05).all()  # darker inside: told apart in print and by the colour-blind
    assert len(shell_layers(ball(), 3.0, (0.2, 0.99))) == 1  # what phi does not reach is not drawn


def test_a_sheet_shows_the_object_on_the_right_side(body: Body, tmp_path: Path) -> None:
    row = Posed("canonical", ball(), body.rest_vertices)
    told: list[tuple[int, int]] = []
    chosen = save_shells(
        tmp_path / "sheet.png", [row], body, 3.0, title="a ball", views=("front", "back"), pixels=120,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert chosen == pytest.approx(np.array((0.2, 0.4, 0.6, 0.8)) * ball().max(), abs=0.005)
    assert told == [(1, 2), (2, 2)]
    picture = pixels(tmp_path / "sheet.png")
    coloured = picture.max(2) - picture.min(2) > 0.25  # the body is grey
    height, width = coloured.shape
    columns = np.nonzero(coloured[: int(0.8 * height)].any(0))[0] / width  # above the legend
    first, second = columns[columns < 0.5], columns[columns >= 0.5]
    # The object is at their right: on the left of the picture from the front, on the right of it from the back.
    assert first.mean() < 0.25
    assert second.mean() > 0.75


@pytest.mark.parametrize("ending", [".svg", ".pdf"])
def test_sheets_in_vectors(body: Body, tmp_path: Path, ending: str) -> None:
    save_shells(tmp_path / f"s{ending}", [Posed("", ball(), body.rest_vertices)], body, 3.0, views=("front",), pixels=60)
    assert (tmp_path / f"s{ending}").stat().st_size > 5000


def test_a_grid_has_cells_and_reasons(body: Body, tmp_path: Path) -> None:
    cell = Posed("", ball(), body.rest_vertices)
    far = Posed("", 0.3 * ball(), body.rest_vertices)
    chosen = save_grid(
        tmp_path / "grid.png", [[cell, "only 3 images"], ["no images", far]], ["any", "a ball"], ["*", "rightHand"], body, 3.0,
        pixels=60,
    )  # fmt: skip
    assert chosen == pytest.approx(np.array((0.2, 0.4, 0.6, 0.8)) * ball().max(), abs=0.005)  # of all cells
    assert pixels(tmp_path / "grid.png").std() > 0.05
    with pytest.raises(InputError, match="grid: expected at least one distribution"):
        save_grid(tmp_path / "none.png", [["no images"]], ["a"], ["b"], body, 3.0)
    assert not (tmp_path / "none.png").exists()


def test_a_veil_does_not_make_the_body_small(body: Body) -> None:
    phi = np.maximum(ball(), 0.3 * (np.random.default_rng(0).random((32, 32, 32)) < 0.02)).astype(np.float32)
    tight = shells.frame_of([shells.make_scene(Posed("", ball(), body.rest_vertices), body, 3.0, (0.2,))])
    veiled = shells.frame_of([shells.make_scene(Posed("", phi, body.rest_vertices), body, 3.0, (0.2,))])
    axes = shells.turned_view(0, 0)
    assert veiled.seen(axes)[1][0] <= tight.seen(axes)[1][0] + 2 * shells.REACH
    assert np.ptp(body.rest_vertices[:, 1]) > 0.5 * veiled.seen(axes)[1][0]


def test_a_turntable_turns(body: Body, tmp_path: Path) -> None:
    posed = Posed("", ball(), body.rest_vertices)
    for name in ("turn.gif", "turn.webp"):
        save_turntable(tmp_path / name, posed, body, 3.0, frames=4, height=80)
        with Image.open(tmp_path / name) as film:
            assert film.n_frames == 4  # type: ignore[attr-defined]
            assert film.info.get("loop", 0) == 0
            frames = []
            for i in range(4):
                film.seek(i)
                frames.append(np.asarray(film.convert("RGB"), float)[:80])
        places = []
        for frame in frames:
            coloured = frame.max(2) - frame.min(2) > 60
            places.append(np.nonzero(coloured.any(0))[0].mean() / frame.shape[1])
        assert places[0] < 0.4 < 0.6 < places[2]  # from the front on the left, from the back on the right
    with pytest.raises(InputError, match=r"path: expected a name ending in \.gif or \.webp"):
        save_turntable(tmp_path / "turn.png", posed, body, 3.0)
    with pytest.raises(InputError, match="frames"):
        save_turntable(tmp_path / "turn.gif", posed, body, 3.0, frames=1)


def test_cameras_on_the_sphere(body: Body, tmp_path: Path) -> None:
    angle = np.radians([90.0, 90, 90, 0, -90])  # three in front, one at the left, one behind
    centres = 3 * np.stack([np.cos(angle), np.zeros(5), np.sin(angle)], 1)
    cameras = Cameras(np.tile(np.eye(3), (5, 1, 1)), -centres, np.tile(np.eye(3), (5, 1, 1)), np.tile([[10, 10]], (5, 1)))
    np.testing.assert_allclose(directions(cameras), centres / 3, atol=1e-6)
    assert azimuth_bin(cameras).tolist()[3:] == [0, 9]
    save_cameras(tmp_path / "cameras.png", cameras, body, "a ball")
    assert pixels(tmp_path / "cameras.png").std() > 0.1
    with pytest.raises(InputError, match="cameras: expected at least one"):
        save_cameras(tmp_path / "none.png", cameras[:0], body)


def test_skinning_slices(body: Body, tmp_path: Path) -> None:
    field = CanonicalField(body, 16)
    save_skinning_slices(tmp_path / "weights.png", field, joints=["left_hand", "right_hand"])
    picture = pixels(tmp_path / "weights.png")
    yellow = (picture[..., 0] > 0.6) & (picture[..., 2] < 0.45)  # the bright end of cividis
    height, width = yellow.shape
    panels = yellow[int(0.2 * height) :, : int(0.84 * width)]  # without the colour bar
    left = np.nonzero(panels[:, : panels.shape[1] // 2].any(0))[0] / (panels.shape[1] // 2)
    right = np.nonzero(panels[:, panels.shape[1] // 2 :].any(0))[0] / (panels.shape[1] // 2)
    assert left.min() > 0.5  # seen from the front, the person's left hand is on the right of its panel
    assert right.max() < 0.55
    for wrong, message in (
        ({"joints": ["tail"]}, "joint: expected one of pelvis"),
        ({"plane": "back"}, "plane: expected front or side or above"),
        ({"at": 2.0}, "at: expected metres within 1.5"),
    ):
        with pytest.raises(InputError, match=message):
            save_skinning_slices(tmp_path / "no.png", field, **wrong)  # type: ignore[arg-type]
