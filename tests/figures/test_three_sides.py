"""Pictures from three sides: what they show of the cube, from where, and the colours of their scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chorus.body.model import load_body
from chorus.figures import shells
from chorus.figures.rays import turned_view
from chorus.figures.three_sides import EDGES, SIDES, cropped, opacity, render_side, save_three_sides, scale_colours

EXTENT, N = 3.0, 24


def spot(*voxel: int) -> NDArray[np.float32]:
    phi = np.zeros((N, N, N), np.float32)
    phi[voxel] = 0.9
    return phi


def test_pictures_are_cropped_to_the_body_and_what_is_probable() -> None:
    vertices = load_body().rest_vertices
    reach = np.abs(vertices).max()
    near, far = spot(6, 12, 12), spot(1, 12, 12)
    (grid,), extent = cropped([near], EXTENT, vertices)
    assert reach < extent / 2 < reach + 0.12 + EXTENT / N
    assert len(grid) * EXTENT / N == pytest.approx(extent)
    assert grid.sum() == near.sum()
    both, wide = cropped([near, far], EXTENT, vertices)  # rows of one picture have one scale
    assert [g.sum() for g in both] == [near.sum(), far.sum()]
    assert {g.shape for g in both} == {(len(both[0]),) * 3}
    assert extent < wide <= EXTENT
    veil = near + 0.05  # what is hardly seen does not count
    assert cropped([veil], EXTENT, vertices)[1] == extent
    assert cropped([near * 0], EXTENT, vertices)[1] == extent
    assert cropped([near, np.zeros((8, 8, 8), np.float32)], EXTENT, vertices)[1] == EXTENT


def test_the_edges_are_named_as_the_body_is_turned() -> None:
    """The right hand is where the picture says "right", in flat pictures and in sheets of shells."""
    hand = spot(3, 14, 12)  # -x: the person's right
    body = load_body()
    for side in ("from the front", "from above"):
        seen = render_side(hand, EXTENT, body, side, pixels=60).astype(int)
        empty = render_side(hand * 0, EXTENT, body, side, pixels=60).astype(int)
        columns = np.argwhere(np.abs(seen - empty).sum(2) > 20)[:, 1]
        assert EDGES[side][0 if columns.mean() < 30 else 1] == "right"
    for view, edges in shells.EDGES.items():
        across = turned_view(*shells.direction(view))[0]
        assert edges == (("right", "left") if across[0] > 0 else ("left", "right")), view
    up = SIDES["from above"][1] @ [0, 0, 1.0], turned_view(*shells.direction("above"))[1] @ [0, 0, 1.0]
    assert np.allclose(up, -1, atol=0.01)  # the front is up, in both


def test_the_scale_is_drawn_as_the_picture_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = scale_colours()
    assert np.allclose(colours(0.0)[:3], 1)  # where phi is 0, the picture is white
    assert np.ptp(colours(1.0)[:3]) > 0.7
    saturation = [np.ptp(colours(v)[:3]) for v in (0.1, 0.3, 0.5, 0.9)]
    assert saturation == sorted(saturation)
    assert opacity(np.float64(0.1), 0.25) < 0.01
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure) or path.touch())
    save_three_sides(tmp_path / "a.png", [("phi", spot(6, 12, 12))], EXTENT, load_body(), "a ball")
    *panels, bar = drawn[0].axes
    assert bar.get_ylabel() == "probability (phi)"  # in one line
    for ax, side in zip(panels, SIDES, strict=True):
        assert [text.get_text() for text in ax.texts][1:] == list(EDGES[side])
