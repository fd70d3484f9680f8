"""Sheets of nested translucent shells of phi around the body, as in the paper's figures 7 to 11."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy.ndimage import zoom

from chorus.body.model import Body
from chorus.errors import InputError, check_array
from chorus.figures.rays import Layer, Scene, orthographic, over_white, turned_view
from chorus.figures.saving import save_figure
from chorus.occupancy.surfaces import surface

Array = NDArray[np.float64]

SHELL_COLOURS = matplotlib.colormaps["inferno_r"]
"""Perceptually even and safe for the colour-blind; pale outside, dark inside, on white paper too."""
SHARES = (0.2, 0.4, 0.6, 0.8)
"""Default thresholds, as shares of the largest phi that is shown."""
FINE = 96
"""Voxels along an edge to which phi is interpolated before its surfaces are found."""
SKIN = (0.71, 0.73, 0.76)
PIXELS = 460
MARGIN = 0.08
REACH = 0.5
"""Metres around the body within which shells are surely in the picture."""

VIEWS: dict[str, tuple[float, float]] = {
    "front": (0, 8),
    "front left": (35, 18),
    "left": (90, 8),
    "back": (180, 8),
    "right": (270, 8),
    "above": (180, 89.9),  # with the front up, as maps of cameras have it
}
"""Name -> (azimuth, elevation) in degrees of where the viewer stands: 0 the person's front, 90 their left."""
DEFAULT_VIEWS = ("front", "left", "back", "above")
EDGES = {"front": ("right", "left"), "back": ("left", "right"), "above": ("left", "right")}
"""Which of the person's sides is at a picture's left and right, for views in which both are seen."""


@dataclass(frozen=True, eq=False)
class Posed:
    """A distribution around a body, canonical or posed.

    label  of its row       phi  (N, N, N) in [0, 1], indexed [ix, iy, iz]       vertices  (V, 3) metres, of the body as posed
    """

    label: str
    phi: NDArray[np.floating[Any]]
    vertices: Array


def check_views(names: Sequence[str]) -> tuple[str, ...]:
    """Names of VIEWS, or ``AZIMUTH,ELEVATION`` in degrees. InputError for another, and for none."""
    if not names:
        raise InputError("views: expected at least one, got none")
    for name in names:
        direction(name)
    return tuple(names)


def direction(name: str) -> tuple[float, float]:
    """(azimuth, elevation) in degrees of a view: a name of VIEWS or ``AZIMUTH,ELEVATION``."""
    if name in VIEWS:
        return VIEWS[name]
    try:
        azimuth, elevation = (float(part) for part in name.split(","))
        if not (np.isfinite(azimuth) and abs(elevation) <= 90):
            raise ValueError
    except ValueError:
        raise InputError(f"view: expected {', '.join(VIEWS)} or AZIMUTH,ELEVATION in degrees, got {name!r}") from None
    return azimuth, float(np.clip(elevation, -89.9, 89.9))


def choose_thresholds(largest: float, given: Sequence[float] = ()) -> tuple[float, ...]:
    """Rising thresholds: those given, or SHARES of the largest phi, to two digits.

    Raises InputError where one is not in (0, 1], and where phi is 0 everywhere.
    """
    if not largest > 0:
        raise InputError("phi: expected some of it to be positive, got 0 everywhere")
    if given:
        if any(not 0 < t <= 1 for t in given):
            raise InputError(f"threshold: expected numbers in 0..1, more than 0, got {', '.join(f'{t:g}' for t in given)}")
        return tuple(sorted({float(t) for t in given}))
    return tuple(float(f"{share * largest:.2g}") for share in SHARES)


def shell_colours(number: int) -> list[tuple[float, float, float]]:
    """RGB of ``number`` shells, from the outermost to the innermost."""
    places = np.linspace(0.16, 0.86, number) if number > 1 else np.array([0.5])
    return [tuple(float(c) for c in SHELL_COLOURS(p)[:3]) for p in places]  # type: ignore[misc]


def shell_opacities(number: int) -> Array:
    """Opacity of ``number`` shells seen face on, from the outermost to the innermost."""
    return 0.13 + 0.82 * np.linspace(0, 1, number) ** 2.4 if number > 1 else np.array([0.6])


def seen_colours(number: int) -> Array:
    """What the shells look like where they are seen face on through those around them, over white: (number, 3)."""
    colours, opacities = np.asarray(shell_colours(number)), shell_opacities(number)
    found = []
    for inner in range(number):
        seen, light = np.zeros(3), 1.0
        for shell in (*range(inner + 1), *range(inner, -1, -1)):  # in by its front, out by its back
            seen, light = seen + light * opacities[shell] * colours[shell], light * (1 - opacities[shell])
        found.append(seen + light)
    return np.asarray(found)


def smooth(phi: NDArray[np.floating[Any]], fine: int = FINE) -> NDArray[np.float32]:
    """phi (N, N, N) interpolated by cubic splines to at least ``fine`` voxels along an edge, within its own range."""
    values = check_array("phi", phi, ("N", "N", "N"), np.float32)
    if len(values) >= fine:
        return values
    factor = -(-fine // len(values))
    found: NDArray[np.float32] = zoom(values, factor, order=3, grid_mode=True, mode="nearest")
    return np.clip(found, values.min(), values.max())


def shell_layers(phi: NDArray[np.floating[Any]], extent: float, thresholds: Sequence[float]) -> list[Layer]:
    """The surfaces of phi >= threshold as translucent layers, for those thresholds that phi reaches. phi (N, N, N)."""
    fine, number = smooth(phi), len(thresholds)
    layers = []
    for t, colour, opacity in zip(sorted(thresholds), shell_colours(number), shell_opacities(number), strict=True):
        if fine.max() > t:
            found = surface(fine, extent, t)
            layers.append(Layer(np.asarray(found.vertices), np.asarray(found.faces), colour, float(opacity), rim=0.45))
    return layers


def body_layer(vertices: Array, faces: NDArray[np.integer[Any]]) -> Layer:
    """The body as an opaque layer: vertices (V, 3) metres."""
    return Layer(np.asarray(vertices, np.float64), np.asarray(faces), SKIN)


@dataclass(frozen=True, eq=False)
class Frame:
    """What a sheet's pictures show: all meshes, so that pictures from one side have one scale and can be compared.

    points  (P, 3) metres, vertices of all meshes
    """

    points: Array

    def seen(self, axes: Array) -> tuple[Array, tuple[float, float]]:
        """The point in the middle of a picture with these axes, (3,), and how many metres it shows, (up and down, across)."""
        seen = self.points @ axes.T
        low, high = seen.min(0), seen.max(0)
        across, down, _ = high - low
        middle: Array = (low + high) / 2 @ axes
        return middle, (float(down) + 2 * MARGIN, float(across) + 2 * MARGIN)


def frame_of(scenes: Sequence[Scene]) -> Frame:
    """The frame of scenes: opaque meshes, and of shells what is within REACH of their boxes, so that a veil of small
    probabilities does not make everything else small."""
    points = []
    for scene in scenes:
        opaque = np.concatenate([layer.vertices for layer in scene.layers if layer.opaque])
        low, high = opaque.min(0) - REACH, opaque.max(0) + REACH
        points += [opaque, *(np.clip(layer.vertices, low, high) for layer in scene.layers if not layer.opaque)]
    return Frame(np.concatenate(points))


def render_line(
    scenes: Sequence[Scene], frame: Frame, views: Sequence[str], pixels: int, done: Callable[[], None]
) -> list[Array]:
    """Scenes, each seen from its view, over white, all of one height: (H, W, 3) each. pixels: those of a metre and a half."""
    axes = [turned_view(*direction(view)) for view in views]
    height = max(frame.seen(a)[1][0] for a in axes)
    pictures = []
    for scene, a in zip(scenes, axes, strict=True):
        middle, (_, across) = frame.seen(a)
        rays = orthographic(a, middle, (height, across), max(8, round(pixels * height / 1.5)))
        pictures.append(over_white(scene.render(rays)))
        done()
    return pictures


def make_scene(posed: Posed, body: Body, extent: float, thresholds: Sequence[float]) -> Scene:
    """Body and shells, on a floor at the feet."""
    layers = [body_layer(posed.vertices, body.faces), *shell_layers(posed.phi, extent, thresholds)]
    return Scene(layers, floor=float(np.min(posed.vertices[:, 1])))


def save_shells(
    path: str | Path,
    rows: Sequence[Posed],
    body: Body,
    extent: float,
    *,
    title: str = "",
    thresholds: Sequence[float] = (),
    views: Sequence[str] = DEFAULT_VIEWS,
    pixels: int = PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, ...]:
    """A sheet with a row for each distribution and a column for each view; returns the thresholds of the shells.

    extent      side of phi's cube, metres              views   names of VIEWS, or "AZIMUTH,ELEVATION" in degrees
    thresholds  of all rows; none given: ``choose_thresholds`` of the largest phi in any row
    pixels      those of a metre and a half             progress  called with (done, total) pictures

    Raises InputError for views and thresholds that are none, ImportError without the extra ``figures3d``.
    """
    views = check_views(views)
    thresholds = choose_thresholds(max(float(np.max(row.phi)) for row in rows), thresholds)
    scenes = [make_scene(row, body, extent, thresholds) for row in rows]
    frame, done = frame_of(scenes), counted_calls(progress, len(rows) * len(views))
    pictures = [render_line([scene] * len(views), frame, views, pixels, done) for scene in scenes]
    figure = sheet(pictures, [row.label for row in rows], [heading(view) for view in views], pixels)
    for ax, view in zip(figure.axes, views, strict=False):  # the first row
        for align, edge in zip(("left", "right"), EDGES.get(view, ()), strict=False):
            place = 0.05 if align == "left" else 0.95
            ax.text(place, 1, edge, transform=ax.transAxes, ha=align, va="top", fontsize=6, color="0.4")
    figure.suptitle(title, fontsize=12)
    add_legend(figure, thresholds)
    save_figure(path, figure)
    return thresholds


def save_grid(
    path: str | Path,
    grid: Sequence[Sequence[Posed | str]],
    rows: Sequence[str],
    columns: Sequence[str],
    body: Body,
    extent: float,
    *,
    title: str = "",
    thresholds: Sequence[float] = (),
    legend: str = "shells: phi",
    view: str = "front left",
    pixels: int = PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, ...]:
    """A grid of distributions from one view, such as prompts by body parts; returns the thresholds of the shells.

    grid  a distribution for each row and column, or a text that says why there is none       rows, columns  their names
    legend  what phi is, where it is not the probability itself

    Everything else is as for ``save_shells``. Raises InputError where there is no distribution at all.
    """
    check_views([view])
    cells = [cell for line in grid for cell in line if isinstance(cell, Posed)]
    if not cells:
        raise InputError("grid: expected at least one distribution, got none")
    thresholds = choose_thresholds(max(float(np.max(cell.phi)) for cell in cells), thresholds)
    scenes = {cell: make_scene(cell, body, extent, thresholds) for cell in cells}
    frame, done = frame_of(list(scenes.values())), counted_calls(progress, len(cells))
    pictures: list[list[Array | str]] = []
    for line in grid:
        drawn = iter(
            render_line(
                [s for c, s in scenes.items() if c in line], frame, [view] * sum(c in scenes for c in line), pixels, done
            )
        )
        pictures.append([cell if isinstance(cell, str) else next(drawn) for cell in line])
    figure = sheet(pictures, rows, columns, pixels)
    figure.suptitle(title, fontsize=12)
    add_legend(figure, thresholds, legend)
    save_figure(path, figure)
    return thresholds


def counted_calls(progress: Callable[[int, int], None] | None, total: int) -> Callable[[], None]:
    """A function that tells ``progress`` (done, total) whenever it is called."""
    calls = count(1)

    def done() -> None:
        if progress is not None:
            progress(next(calls), total)

    return done


def heading(view: str) -> str:
    """What stands over a view's column."""
    if view not in VIEWS:
        azimuth, elevation = direction(view)
        return f"{azimuth:g}° around, {elevation:g}° up"
    return "from above" if view == "above" else f"from the {view}"


def sheet(
    pictures: Sequence[Sequence[Array | str]], rows: Sequence[str], columns: Sequence[str], pixels: int = PIXELS
) -> Figure:
    """A figure of pictures of one scale, (H, W, 3) each, or texts instead, with names of rows and columns and a scale bar.

    pixels  those of a metre and a half
    """
    sizes = [[p.shape[:2] if isinstance(p, np.ndarray) else (1, 1) for p in line] for line in pictures]
    heights = [max(height for height, _ in line) for line in sizes]
    widths = [max(line[c][1] for line in sizes) for c in range(len(columns))]
    inch = 1.75 / pixels
    width = max(sum(widths) * inch + 0.4, 4.2)
    figure = Figure(figsize=(width, sum(heights) * inch + 1.05), dpi=200 * pixels / PIXELS, layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes = figure.subplots(
        len(rows), len(columns), squeeze=False, gridspec_kw={"width_ratios": widths, "height_ratios": heights}
    )
    for r, line in enumerate(pictures):
        for c, picture in enumerate(line):
            ax = axes[r, c]
            plain(ax)
            if isinstance(picture, str):
                ax.text(0.5, 0.5, textwrap.fill(picture, 18), ha="center", va="center", fontsize=8, color="0.4")
            else:
                ax.imshow(picture, interpolation="antialiased")
            if r == 0:
                ax.set_title(columns[c], fontsize=9)
        if any(rows):
            axes[r, 0].set_ylabel(rows[r], fontsize=9)
    first = next(ax for ax in [*axes[::-1, 0], *axes.ravel()] if ax.images)
    scale_bar(first, pixels / 1.5)
    return figure


def plain(ax: Axes) -> None:
    """Axes without ticks and lines, whose label still shows."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def scale_bar(ax: Axes, per_metre: float, length: float = 0.5) -> None:
    """A bar of ``length`` metres in the lower left corner of a picture."""
    bottom = max(ax.get_ylim())
    ax.plot([6, 6 + length * per_metre], [bottom - 8] * 2, color="0.25", linewidth=1.6, solid_capstyle="butt")
    ax.text(6 + length * per_metre / 2, bottom - 14, f"{length:g} m", ha="center", va="bottom", fontsize=7, color="0.25")


def add_legend(figure: Figure, thresholds: Sequence[float], label: str = "shells: phi") -> None:
    """A legend of the shells below a figure."""
    colours = seen_colours(len(thresholds))
    patches = [
        Patch(facecolor=c, edgecolor="0.3", linewidth=0.4, label=f"{t:g}") for t, c in zip(thresholds, colours, strict=True)
    ]
    legend = figure.legend(
        handles=patches,
        loc="outside lower center",
        ncols=len(patches),
        fontsize=8,
        title=f"{label} at least",
        title_fontsize=8,
        frameon=False,
        handlelength=1.4,
        columnspacing=1.4,
    )
    legend.set_in_layout(True)
