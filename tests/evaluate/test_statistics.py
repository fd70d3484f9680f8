"""Statistics of stores: equal-area cells, camera entropy against closed forms, counts by reason, picture, command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from scipy.spatial import KDTree

from chorus import aggregate
from chorus.body.model import load_body
from chorus.camera.cameras import Cameras
from chorus.camera.views import azimuth_bin
from chorus.commands.store_stats import store_stats_command
from chorus.errors import InputError
from chorus.evaluate.statistics.entropy import (
    NSIDE,
    SIGMA,
    TRUNCATION,
    camera_directions,
    camera_entropy,
    cell_centres,
    direction_density,
    ring_layout,
)
from chorus.evaluate.statistics.stores import (
    ELEVATION_EDGES,
    elevation_degrees,
    reasons_table,
    statistics_table,
    store_statistics,
)
from chorus.evaluate.statistics.views import QUADRANTS, quadrant, view_statistics, views_table
from chorus.field import CanonicalField
from chorus.figures.azimuths import save_view_distribution
from chorus.figures.store_statistics import save_statistics, save_views
from chorus.simulate.images import WORLDS, write_world
from chorus.store import StoreWriter
from tests.store.samples import write

CELLS = 12 * NSIDE**2
ONE_CAMERA = math.log2(2 * math.pi * math.e * SIGMA**2 / (4 * math.pi / CELLS))
"""Entropy of a Gaussian in the plane, in bits, in cells of that area: 4.7399."""


def towards(directions: np.ndarray, distance: float = 3.0) -> Cameras:
    """Cameras with centres in these directions; with R = 1 the centre is -t."""
    n = len(directions)
    K = np.tile([[500.0, 0, 32], [0, 500, 32], [0, 0, 1]], (n, 1, 1))
    return Cameras(np.tile(np.eye(3), (n, 1, 1)), -distance * np.asarray(directions, float), K, np.full((n, 2), 64))


def random_directions(n: int, seed: int = 0) -> np.ndarray:
    v = np.random.default_rng(seed).normal(size=(n, 3))
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def spiral(n: int) -> np.ndarray:
    """Directions all around, as even as a Fibonacci spiral is."""
    i = np.arange(n) + 0.5
    z, a = 1 - 2 * i / n, math.pi * (1 + math.sqrt(5)) * i
    s = np.sqrt(1 - z * z)
    return np.stack([s * np.cos(a), s * np.sin(a), z], 1)


# --- cells -----------------------------------------------------------------------------------------------------------------


def test_cells_of_coarse_grids_by_hand() -> None:
    # nside 1: four cells around each pole, at z = 1 - 1/3, 45 degrees off the axes; four on the equator, on the axes.
    c = cell_centres(1)
    assert c.shape == (12, 3)
    assert np.allclose(c[:, 2], [2 / 3] * 4 + [0] * 4 + [-2 / 3] * 4)
    degrees = np.degrees(np.arctan2(c[:, 1], c[:, 0])) % 360
    assert np.allclose(degrees, [45, 135, 225, 315, 0, 90, 180, 270, 45, 135, 225, 315])
    # nside 2: rings of 4, 8, 8, 8, 8, 8, 4 cells at z = 11/12, 2/3, 1/3, 0 and mirrored; every other equatorial ring turned.
    z, count, first = ring_layout(2)
    assert count.tolist() == [4, 8, 8, 8, 8, 8, 4]
    assert np.allclose(z, [11 / 12, 2 / 3, 1 / 3, 0, -1 / 3, -2 / 3, -11 / 12])
    assert np.allclose(np.degrees(first), [45, 22.5, 0, 22.5, 0, 22.5, 45])
    for bad in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="nside: expected a positive integer"):
            ring_layout(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("nside", [1, 2, 3, 8, NSIDE])
def test_cells_have_equal_areas(nside: int) -> None:
    z, count, _ = ring_layout(nside)
    assert count.sum() == 12 * nside**2
    assert (np.diff(z) < 0).all()
    # A zone of the sphere between z = a and z = b has the area 2 pi (a - b). Cut so that each ring's zone has the area of its
    # cells: every ring lies in its zone; in the polar caps at its foot's radius i, between sqrt(i (i - 1)) and sqrt(i (i + 1)).
    below = 1 - 2 * np.cumsum(count) / count.sum()
    above = below + 2 * count / count.sum()
    assert ((z < above) & (z > below)).all()
    cap = np.arange(1, nside + 1)
    assert np.allclose(below[:nside], 1 - cap * (cap + 1) / (3 * nside**2))
    c = cell_centres(nside)
    assert np.allclose(np.linalg.norm(c, axis=1), 1)
    assert np.abs(c.mean(0)).max() < 1e-12
    # Second moments of even points: 1/3 each, none mixed; the quadrature's error falls with the square of the cell's size.
    assert np.abs(c.T @ c / len(c) - np.eye(3) / 3).max() < 0.05 / nside**2


def test_cells_are_uniform() -> None:
    # Random even points fall to the nearest centres in equal numbers, nearly: nearest is not quite the HEALPix cell.
    c = cell_centres(8)
    points = random_directions(400_000)
    _, nearest = KDTree(c).query(points)
    share = np.bincount(nearest, minlength=len(c)) / len(points) * len(c)
    assert share.min() > 0.80  # some 520 points each: 4 % of noise at one sigma
    assert share.max() < 1.25
    # No holes and no crowds at the resolution that is used: neighbours lie a cell apart.
    fine = cell_centres()
    distance = KDTree(fine).query(fine, k=2)[0][:, 1]
    cell = math.sqrt(4 * math.pi / CELLS)
    assert 0.65 * cell < distance.min()
    assert distance.max() < 1.1 * cell


# --- entropy ---------------------------------------------------------------------------------------------------------------


def test_one_camera_has_the_entropy_of_a_gaussian() -> None:
    assert pytest.approx(4.7399, abs=1e-4) == ONE_CAMERA
    poles = np.array([[0, 0, 1.0], [0, 0, -1], [1, 0, 0], [0, 1, 0]])
    for direction in np.concatenate([poles, random_directions(50)]):
        assert camera_entropy(towards(direction[None])) == pytest.approx(ONE_CAMERA, abs=0.005)
    assert camera_entropy(towards(poles[:1], distance=7.5)) == camera_entropy(towards(poles[:1]))  # distance says nothing
    wide = math.log2(2 * math.pi * math.e * 0.03**2 * CELLS / (4 * math.pi))
    assert camera_entropy(towards(poles[:1]), sigma=0.03) == pytest.approx(wide, abs=0.005)


def test_cameras_add_up() -> None:
    # The same camera many times is one; n cameras far apart add log2 n, whatever their number in a place adds to the others.
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    assert camera_entropy(towards(np.repeat(axes[:1], 5, 0))) == pytest.approx(camera_entropy(towards(axes[:1])), abs=1e-12)
    single = np.mean([camera_entropy(towards(a[None])) for a in axes])
    assert camera_entropy(towards(axes)) == pytest.approx(single + math.log2(6), abs=2e-3)
    # Three cameras here and one there: H(3/4, 1/4) = 0.8113 bits more than one.
    uneven = axes[[0, 0, 0, 3]]
    assert camera_entropy(towards(uneven)) == pytest.approx(camera_entropy(towards(axes[:1])) + 0.8113, abs=1e-3)


def test_cameras_all_around_approach_the_logarithm_of_the_cells() -> None:
    cameras = towards(spiral(20_000))
    camera_entropy(cameras[:1])
    entropy = camera_entropy(cameras)
    assert math.log2(CELLS) - 0.02 < entropy < math.log2(CELLS)
    # Random ones leave gaps and clumps: with n cameras the density varies by 1 / (n sigma^2) = 1/2 of its square, about.
    assert 17.1 < camera_entropy(towards(random_directions(20_000))) < 17.4


def test_the_density_is_the_definition() -> None:
    nside, sigma = 16, 0.08
    directions = random_directions(30, seed=1)
    directions[0], directions[1] = [0, 0, 1], [0, 0, -1]  # in the poles, where a ring is seen all around
    chord = np.linalg.norm(cell_centres(nside)[None] - directions[:, None], axis=-1)
    distance = 2 * np.arcsin(np.clip(chord / 2, 0, 1))
    for truncation in (3.0, TRUNCATION):
        plain = np.where(distance <= truncation * sigma, np.exp(-0.5 * (distance / sigma) ** 2), 0).sum(0)
        have = direction_density(directions, sigma, nside, truncation)
        assert np.allclose(have, plain / plain.sum(), rtol=1e-11, atol=1e-18)
    # A rotation about the poles' axis by a quarter turns the cells into each other.
    turned = directions @ np.array([[0, 1.0, 0], [-1, 0, 0], [0, 0, 1]])
    assert np.allclose(np.sort(direction_density(turned, sigma, nside)), np.sort(have), rtol=1e-9, atol=1e-18)


def test_truncation_and_resolution_have_converged() -> None:
    cameras = towards(random_directions(300, seed=2))
    entropy = camera_entropy(cameras)
    assert entropy == pytest.approx(camera_entropy(cameras, truncation=12), abs=1e-6)
    # In bits relative to the number of cells, a grid four times as fine says the same.
    assert entropy + 2 == pytest.approx(camera_entropy(cameras, nside=2 * NSIDE), abs=1e-3)


def test_bad_directions_are_named() -> None:
    with pytest.raises(InputError, match="directions: expected at least one, got none"):
        direction_density(np.zeros((0, 3)))
    with pytest.raises(InputError, match="directions: expected unit vectors, got one of length 2 in row 1"):
        direction_density([[1.0, 0, 0], [0, 2, 0]])
    for sigma in (0.0, 1e-3, 1.0, math.nan):
        with pytest.raises(InputError, match="sigma: expected"):
            direction_density([[1.0, 0, 0]], sigma=sigma)
    with pytest.raises(InputError, match=r"cameras: expected centres away from the person's origin, got .* in row 1"):
        camera_directions(towards(np.array([[0, 0, 1.0], [0, 0, 0]])))


# --- stores ----------------------------------------------------------------------------------------------------------------


def test_elevations_by_hand() -> None:
    half = math.sqrt(0.5)
    directions = np.array([[1.0, 0, 0], [0, 1, 0], [0, -1, 0], [half, half, 0], [0, -half, half], [0.6, 0.48, 0.64]])
    expected = [0, 90, -90, 45, -45, math.degrees(math.asin(0.48))]
    assert np.allclose(elevation_degrees(directions), expected)


def test_a_store_in_numbers(tmp_path: Path) -> None:
    write(tmp_path / "a", n=10)  # 12 rows: no person, no object, and one of the ten status "overlap"
    found = store_statistics(tmp_path / "a")
    assert (found.name, found.images, found.kept, found.prompts) == ("surfboard", 12, 9, 2)
    assert found.rejected == {"no person": 1, "no object": 1, "overlap": 1}
    assert found.rejection_rate == 0.25
    assert found.azimuths.sum() == found.elevations.sum() == len(found.directions) == 9
    assert found.entropy is not None
    assert ONE_CAMERA < found.entropy <= ONE_CAMERA + math.log2(9) + 0.01
    angle = np.degrees(np.arctan2(found.directions[:, 2], found.directions[:, 0])) % 360
    assert np.bincount((angle // 30).astype(int), minlength=12).tolist() == found.azimuths.tolist()
    assert (azimuth_bin(towards(found.directions)) == (angle // 30).astype(int)).all()
    high = np.degrees(np.arcsin(found.directions[:, 1]))
    assert ((high // 10).astype(int) + 9).tolist().count(12) == found.elevations[12]
    assert ELEVATION_EDGES[12] == 30

    # A filter over the stored columns turns complete images away; what was not complete stays what it was.
    even = store_statistics(tmp_path / "a", where=lambda rows: rows["seed"] % 2 == 0)
    assert (even.kept, even.rejected["filtered"]) == (5, 4)
    assert sum(even.rejected.values()) + even.kept == even.images
    with pytest.raises(InputError, match=r"where: expected an answer of bool and shape \(12,\)"):
        store_statistics(tmp_path / "a", where=lambda rows: rows["seed"])


def test_quadrants_by_hand() -> None:
    by_name = {"front": [0, 0, 1], "left": [1, 0, 0], "back": [0, 0, -1], "right": [-1, 0, 0]}
    assert [QUADRANTS[q] for q in quadrant(np.array(list(by_name.values()), float))] == list(by_name)
    degrees = np.array([-44.9, 44.9, 45.1, 134.9, 135.1, 224.9, 225.1, 314.9])
    around = np.stack([np.cos(np.radians(degrees)), np.zeros(8), np.sin(np.radians(degrees))], 1)
    names = ["left", "left", "front", "front", "right", "right", "back", "back"]
    assert [QUADRANTS[q] for q in quadrant(around)] == names
    # Height does not matter, but for straight above, which has no azimuth.
    tilted = around + np.array([0, 5, 0])
    assert [QUADRANTS[q] for q in quadrant(tilted / np.linalg.norm(tilted, axis=1, keepdims=True))] == names
    assert quadrant(np.zeros((0, 3))).shape == (0,)


def test_cameras_by_view(tmp_path: Path) -> None:
    half, low = math.sqrt(0.5), math.radians(29.9)
    directions = np.array([[0, 0, 1.0], [0, half, half], [1, 0, 0], [0, -half, -half], [0, math.sin(low), -math.cos(low)]])
    views = np.array(["front view", "front view", "front view", "", "back view", "back view", "gone"])
    kept = np.array([True, True, True, False, True, True, False])
    found = view_statistics(views, kept, towards(directions))
    assert [(v.view, v.images) for v in found] == [("front view", 3), ("back view", 2), ("", 1), ("gone", 1)]
    front, back, none, gone = found
    assert (front.images, front.kept, front.quadrants, front.above, front.below) == (3, 3, (2, 1, 0, 0), 1, 0)
    assert (back.images, back.kept, back.quadrants, back.above, back.below) == (2, 2, (0, 0, 2, 0), 0, 1)
    assert (gone.images, gone.kept, gone.quadrants, gone.entropy) == (1, 0, (0, 0, 0, 0), None)
    assert (none.images, none.kept) == (1, 0)
    assert front.entropy == camera_entropy(towards(directions[:3]))
    json.dumps([v.to_json() for v in (front, gone)], allow_nan=False)
    assert views_table("views", (front, back, gone, none)).row_count == 4

    write(tmp_path / "a", n=10)
    statistics = store_statistics(tmp_path / "a", by_view=True)
    assert {v.view: (v.images, v.kept) for v in statistics.views} == {"from the left": (10, 9), "": (2, 0)}
    assert np.sum([v.quadrants for v in statistics.views]) == 9
    save_views(tmp_path / "v.png", [statistics])
    assert (tmp_path / "v.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="stores: expected at least one with images, by view augmentation"):
        save_views(tmp_path / "v.png", [store_statistics(tmp_path / "a")])


def test_stores_of_nothing(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "none", category="hat"):
        pass
    with StoreWriter(tmp_path / "rejected", category="hat") as writer:
        writer.append_rejected(["a", "b", "c"], ["no person", "no object", "no object"])
    none, rejected = store_statistics(tmp_path / "none"), store_statistics(tmp_path / "rejected")
    assert (none.images, none.kept, none.entropy, none.rejection_rate) == (0, 0, None, None)
    assert (rejected.images, rejected.kept, rejected.entropy, rejected.rejection_rate) == (3, 0, None, 1.0)
    assert list(rejected.rejected.items()) == [("no object", 2), ("no person", 1)]
    json.dumps([none.to_json(), rejected.to_json()], allow_nan=False)
    assert statistics_table([none, rejected]).row_count == 3
    assert reasons_table([none, rejected]).row_count == 2
    save_statistics(tmp_path / "s.png", [none, rejected])
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="stores: expected at least one"):
        save_statistics(tmp_path / "s.png", [])


def test_the_command(tmp_path: Path) -> None:
    write(tmp_path / "a", n=10)
    files = [tmp_path / "s.json", tmp_path / "s.png"]
    done = CliRunner().invoke(store_stats_command, [str(tmp_path / "a"), "-o", str(files[0]), "--picture", str(files[1])])
    assert done.exit_code == 0, done.output
    assert "25.00" in done.output
    assert "overlap" in done.output
    assert done.output.count("wrote ") == 2
    assert files[1].stat().st_size > 10_000
    as_json = CliRunner().invoke(store_stats_command, [str(tmp_path / "a"), "--json"])
    assert as_json.exit_code == 0, as_json.output
    printed, written = json.loads(as_json.stdout), json.loads(files[0].read_text())
    assert printed["stores"] == written["stores"]
    assert printed["stores"][0]["camera_entropy_bits"] == store_statistics(tmp_path / "a").entropy
    assert printed["entropy"]["cells"] == 196_608


def test_from_above_the_persons_left_is_on_the_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody mirrors the person: with the front up, seen from above, azimuth 0 (+x, the person's left) is on the left."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure) or path.touch())
    path = tmp_path / "a.chorus"
    write_world(path, [WORLDS["hat"]], 12, 0)
    save_statistics(tmp_path / "s.png", [store_statistics(path)])
    save_view_distribution(tmp_path / "v.png", [("hat", aggregate(path, CanonicalField(load_body(), 8)))])
    polar = [ax for figure in drawn for ax in figure.axes if isinstance(ax, PolarAxes)]
    assert len(polar) == 2
    for ax in polar:
        left, front, right = (ax.transData.transform((angle, 1.0)) for angle in (0.0, np.pi / 2, np.pi))
        assert left[0] < front[0] < right[0]
        assert front[1] > left[1]
