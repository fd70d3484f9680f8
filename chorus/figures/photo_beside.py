"""A photograph beside the distribution posed as its person is: by its camera and from the side, as the paper's figure 7."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.figures.overlays import OBJECT
from chorus.figures.rays import Layer, Scene, orthographic, over, perspective, turned_view
from chorus.figures.saving import save_figure
from chorus.figures.shells import (
    Posed,
    add_legend,
    body_layer,
    choose_thresholds,
    counted_calls,
    frame_of,
    plain,
    shell_layers,
)
from chorus.images import ImageBatch
from chorus.occupancy.distribution import Distribution

Array = NDArray[np.float64]

MOST_PIXELS = 512
"""Longer side of a picture that is drawn."""
VEIL = 0.35
"""How much white is laid over a photograph below the shells, so that they stand out."""
ASIDE = 75.0
"""Degrees by which the third picture is turned around the person."""


def scaled(cameras: Cameras, row: int, longest: int = MOST_PIXELS) -> tuple[Cameras, float]:
    """Camera ``row`` for a picture whose longer side has at most ``longest`` pixels, and the scale of pixels."""
    height, width = (int(c) for c in cameras.image_size[row])
    scale = min(1.0, longest / max(height, width))
    K = np.diag([scale, scale, 1.0]) @ cameras.K[row]
    size = [[max(1, round(height * scale)), max(1, round(width * scale))]]
    return Cameras(cameras.R[row][None], cameras.t[row][None], K[None], size), scale


def pose_distribution(occupancy: Distribution, pose: Any, body: Body, label: str = "") -> Posed:
    """A distribution around its body in a pose (J, 3), read between voxels."""
    return Posed(label, occupancy.posed(pose, body, interpolation="trilinear"), body.posed_vertices(np.asarray(pose)[None])[0])


def picture_layers(posed: Posed, body: Body, extent: float, thresholds: Sequence[float]) -> list[Layer]:
    """The body and the shells of a posed distribution."""
    return [body_layer(posed.vertices, body.faces), *shell_layers(posed.phi, extent, thresholds)]


def seen_by(scene: Scene, cameras: Cameras, row: int, photo: NDArray[np.uint8] | None, only_opaque: bool = False) -> Array:
    """A scene as a camera sees it, over the picture (H, W, 3) uint8 that it took, or white: (h, w, 3) in 0..1."""
    from PIL import Image

    small, _ = scaled(cameras, row)
    picture = scene.render(perspective(small), only_opaque=only_opaque)
    if photo is None:
        return over(picture, np.ones(3))
    height, width = picture.shape[:2]
    below = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.LANCZOS), np.float64) / 255
    return over(picture, (1 - VEIL) * below + VEIL)


def with_mask(scene: Scene, cameras: Cameras, row: int, mask: NDArray[np.bool_]) -> Array:
    """A scene's body as a camera sees it over white, and the object's mask (H, W) over it: (h, w, 3) in 0..1."""
    from PIL import Image

    picture = seen_by(scene, cameras, row, None, only_opaque=True)
    height, width = picture.shape[:2]
    small = Image.fromarray(np.uint8(255) * mask.astype(np.uint8)).resize((width, height), Image.Resampling.BOX)
    share = 0.65 * np.asarray(small, np.float64)[..., None] / 255
    mixed: Array = (1 - share) * picture + share * OBJECT
    return mixed


def from_aside(scene: Scene, cameras: Cameras, row: int, height: int) -> Array:
    """A scene turned by ASIDE degrees from where a camera stood, over white: (height, height, 3).

    To the side on which the innermost shell is nearer than the body.
    """
    centre = cameras.centres[row]
    azimuth = float(np.degrees(np.arctan2(centre[0], centre[2])))
    beside = scene.layers[-1].vertices.mean(0) - scene.layers[0].vertices.mean(0)
    axes = min((turned_view(azimuth + turn, 10) for turn in (ASIDE, -ASIDE)), key=lambda a: float(a[2] @ beside))
    middle, (down, across) = frame_of([scene]).seen(axes)
    side = max(down, across)  # square, as most pictures are
    return over(scene.render(orthographic(axes, middle, (side, side), height)), np.ones(3))


def save_photo_beside(
    path: str | Path,
    occupancy: Distribution,
    body: Body,
    images: ImageBatch,
    photos: Sequence[NDArray[np.uint8] | None],
    *,
    titles: Sequence[str] = (),
    title: str = "",
    thresholds: Sequence[float] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, ...]:
    """A sheet with a row for each image: the picture with the object's mask, its person with the distribution posed around
    them as the camera sees it, and the same turned to the side. Returns the thresholds of the shells.

    photos  for each image the picture (H, W, 3) uint8 RGB that it was made from, or None: the body stands for it

    Raises ImportError without the extra ``figures3d``.
    """
    extent = occupancy.parameters.extent
    thresholds = choose_thresholds(float(occupancy.probability.max()), thresholds)
    done = counted_calls(progress, len(images))
    figure = Figure(figsize=(7.6, 2.45 * len(images) + 0.95), dpi=200, layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    axes = figure.subplots(len(images), 3, squeeze=False)
    for row, (line, photo) in enumerate(zip(axes, photos, strict=True)):
        mask, cameras = images.masks.unpack(row), images.cameras
        scene = Scene(picture_layers(pose_distribution(occupancy, images.poses[row], body), body, extent, thresholds))
        posed = seen_by(scene, cameras, row, photo)
        given = with_mask(scene, cameras, row, mask) if photo is None else photo
        first = line[0].imshow(given)
        if photo is not None:
            line[0].contour(mask, levels=[0.5], colors=["white"], linewidths=1.6)
            line[0].contour(mask, levels=[0.5], colors=["black"], linewidths=0.6)
        first.set_interpolation("antialiased")
        line[1].imshow(posed, interpolation="antialiased")
        line[2].imshow(from_aside(scene, cameras, row, posed.shape[0]), interpolation="antialiased")
        for ax in line:
            plain(ax)
        if titles:
            line[0].set_ylabel(titles[row], fontsize=8)
        done()
    kept = any(photo is not None for photo in photos)
    names = (
        "picture, outline: the object's mask" if kept else "body and object's mask (orange)",
        "posed, by its camera",
        "from the side",
    )
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(name, fontsize=9)
    figure.suptitle(title, fontsize=12)
    add_legend(figure, thresholds)
    save_figure(path, figure)
    return thresholds
