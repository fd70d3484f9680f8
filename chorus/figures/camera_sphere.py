"""Where cameras stood: on a sphere around the body, and on a map of that sphere with equal areas."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.camera.views import AZIMUTH_BINS, ELEVATION_BINS, azimuth_bin, elevation_bin
from chorus.errors import InputError
from chorus.figures.rays import Layer, Scene, orthographic, over_white, turned_view
from chorus.figures.saving import save_figure
from chorus.figures.shells import body_layer, plain
from chorus.texts import counted

Array = NDArray[np.float64]

SHARES = matplotlib.colormaps["cividis"]
DOTS = 2000
"""Cameras drawn as dots, at most."""
DRAWN = 160
"""Cameras drawn on the sphere, at most."""
RADIUS = 1.5
CAMERA = (0.16, 0.33, 0.62)
RING = (0.62, 0.62, 0.6)
SIZE = 0.042
FINE = 16
"""Pieces of a cell of the map along its lower edge."""
PLACES = {"right": (0.25, -0.03), "front": (0.5, -0.06), "left": (0.75, -0.03)}
"""Where the map's meridians are named, in its own width and height."""


def directions(cameras: Cameras) -> Array:
    """Unit vectors (I, 3) from the person's origin to the cameras. InputError where one stands in the origin."""
    centres = cameras.centres
    length = np.linalg.norm(centres, axis=1, keepdims=True)
    if not (length > 0).all():
        raise InputError("cameras: expected none in the person's origin, got one")
    unit: Array = centres / length
    return unit


def save_cameras(path: str | Path, cameras: Cameras, body: Body, title: str = "") -> None:
    """A figure of cameras around the person: as pyramids on a sphere, and their share in cells of equal area on a map.

    The map is Mollweide's, seen from outside: the front in the middle, the person's left on the right. Its cells are those of
    ``azimuth-elevation``. Raises InputError without a camera, ImportError without the extra ``figures3d``.
    """
    if not len(cameras):
        raise InputError("cameras: expected at least one, got none")
    unit = directions(cameras)
    figure = Figure(figsize=(9.2, 3.5), dpi=200, layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[1, 1.75])
    ax = figure.add_subplot(grid[0])
    ax.imshow(_sphere(unit, body), interpolation="antialiased")
    plain(ax)
    shown = min(len(unit), DRAWN)
    ax.set_title(f"{shown:,} of them, spread evenly" if shown < len(unit) else "all of them", fontsize=9)
    polar = figure.add_subplot(grid[1], projection="mollweide")
    counts = np.zeros((ELEVATION_BINS, AZIMUTH_BINS), np.int64)
    np.add.at(counts, (elevation_bin(cameras), azimuth_bin(cameras)), 1)
    # Azimuth bins begin at the person's left (+x) and turn to the front (+z); the map's longitude is 0 at the front and grows
    # to the left. Cells are drawn in small pieces, because their edges are curves on the map.
    longitude = np.linspace(-np.pi, np.pi, FINE * AZIMUTH_BINS + 1)
    sine = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 181))
    sine = np.unique(np.concatenate([sine, np.linspace(-1, 1, ELEVATION_BINS + 1)]).round(12))
    row = np.clip(((sine[1:] + sine[:-1]) / 2 + 1) * (ELEVATION_BINS / 2), 0, ELEVATION_BINS - 1).astype(int)
    azimuth = np.pi / 2 - (longitude[1:] + longitude[:-1]) / 2
    column = np.floor(azimuth / (2 * np.pi / AZIMUTH_BINS)).astype(int) % AZIMUTH_BINS
    share = 100 * counts / counts.sum()
    fine = share[row][:, column]
    drawn = polar.pcolormesh(longitude, np.arcsin(sine), fine, cmap=SHARES, vmin=0, vmax=share.max(), rasterized=True)
    dots = unit[_spread(len(unit), DOTS)]
    polar.plot(
        np.arctan2(dots[:, 0], dots[:, 2]), np.arcsin(dots[:, 1]), "o", ms=1.3, mfc="white", mec="black", mew=0.3, alpha=0.9
    )
    polar.set_xticks(np.radians([-90, 0, 90]), [])
    for name, (across, down) in PLACES.items():
        polar.annotate(name, (across, down), xycoords="axes fraction", ha="center", va="center", fontsize=8)
    polar.set_yticks(
        np.radians([-60, -30, 0, 30, 60]), ["60° below", "30° below", "level", "30° above", "60° above"], fontsize=7
    )
    polar.grid(color="white", linewidth=0.3, alpha=0.6)
    bar = figure.colorbar(drawn, ax=polar, shrink=0.75, pad=0.02)
    bar.set_label("% of the images in a cell of equal area", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    polar.set_title("the sphere as a map of equal areas; the back is at both ends", fontsize=9, pad=10)
    figure.suptitle(f"{title}: {counted(len(unit), 'camera')}" if title else counted(len(unit), "camera"), fontsize=11)
    save_figure(path, figure)


def _spread(number: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of the rows 0 .. number - 1, spread evenly."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).astype(np.int64))


def _sphere(unit: Array, body: Body) -> Array:
    """The body, rings of the sphere and cameras on it, (H, W, 3) in 0..1."""
    chosen = unit[_spread(len(unit), DRAWN)]
    angle = np.linspace(0, 2 * np.pi, 121)
    layers = [body_layer(body.rest_vertices, body.faces)]
    for height in (-0.5, 0.0, 0.5):
        r = RADIUS * np.sqrt(1 - height**2)
        circle = np.stack([r * np.cos(angle), np.full(len(angle), RADIUS * height), r * np.sin(angle)], 1)
        layers.append(_tube(circle))
    for turn in np.arange(0, np.pi, np.pi / 3):
        layers.append(_tube(RADIUS * np.stack([np.cos(angle) * np.cos(turn), np.sin(angle), np.cos(angle) * np.sin(turn)], 1)))
    vertices, faces = _pyramids(chosen)
    layers.append(Layer(vertices, faces, CAMERA))
    axes = turned_view(28, 16)
    width = 2 * (RADIUS + SIZE * 2.2)
    return over_white(Scene(layers).render(orthographic(axes, np.zeros(3), (width, width), 620)))


def _tube(points: Array, radius: float = 0.004, sides: int = 5) -> Layer:
    """A thin closed tube along points (P, 3), the last of which is the first."""
    along = np.gradient(points, axis=0)
    along[0] = along[-1] = points[1] - points[-2]
    normal = points / np.linalg.norm(points, axis=1, keepdims=True)
    other = np.cross(along, normal)
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    angle = np.arange(sides) * 2 * np.pi / sides
    ring = normal[:, None] * np.cos(angle)[:, None] + other[:, None] * np.sin(angle)[:, None]
    vertices = (points[:, None] + radius * ring).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(len(points) - 1), np.arange(sides), indexing="ij")
    a, b = i * sides + j, i * sides + (j + 1) % sides
    faces = np.concatenate([np.stack([a, a + sides, b], -1), np.stack([b, a + sides, b + sides], -1)]).reshape(-1, 3)
    return Layer(vertices, faces, RING, opacity=0.75)


def _pyramids(unit: Array) -> tuple[Array, NDArray[np.int64]]:
    """Small pyramids (vertices, faces) on the sphere that open towards the person, as cameras that look at them."""
    up = np.where(np.abs(unit[:, 1:2]) < 0.95, [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]])
    right = np.cross(up, unit)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    up = np.cross(unit, right)
    apex = RADIUS * unit + SIZE * 1.6 * unit
    corners = [RADIUS * unit + SIZE * (a * right + b * 0.75 * up) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    vertices = np.stack([apex, *corners], 1).reshape(-1, 3)
    one = np.array([(0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 4, 1), (1, 3, 2), (1, 4, 3)])
    return vertices, (one + 5 * np.arange(len(unit))[:, None, None]).reshape(-1, 3)
