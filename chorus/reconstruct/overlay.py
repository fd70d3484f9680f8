"""The picture of a reconstruction: the projected object and body over the photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from chorus.figures.overlays import OBJECT
from chorus.figures.saving import save_figure
from chorus.figures.three_sides import COLOURS
from chorus.reconstruct.result import Reconstruction
from chorus.reconstruct.view import THRESHOLDS, View
from chorus.render.rasterize import face_normals, render_mesh, shade

BODY_COLOUR, OBJECT_COLOUR, MASK_COLOUR, PERSON_COLOUR = "limegreen", "orangered", "deepskyblue", "slategray"
INCHES = 6.0
"""Width of one of the two pictures."""


def save_overlay(path: str | Path, reconstruction: Reconstruction) -> None:
    """A PNG of two pictures over the photograph, or over the rendered body where there is none.

    Left: the object's surface, translucent, and the outlines of surface, body and given masks (or box). Where the outline of
    the body departs from the person mask, pose or camera are wrong. Right: the largest phi over each pixel, and the outline
    of the object mask.
    """
    scene, camera = reconstruction.scene, reconstruction.scene.camera
    human, surface = reconstruction.human, reconstruction.object
    depth, face = render_mesh(human.vertices, human.faces, camera)
    object_depth, object_face = render_mesh(surface.vertices, surface.faces, camera)
    drawn = shade(face, face_normals(human.vertices, human.faces) @ camera.R[0].T * [1, -1, -1])
    background = drawn if scene.photo is None else scene.photo
    covered = object_face >= 0
    lit = shade(object_face, face_normals(surface.vertices, surface.faces) @ camera.R[0].T * [1, -1, -1], colour=OBJECT) / 255
    # The part of the object behind the body is drawn faintly.
    strength = np.where(covered, np.where(object_depth < depth, 0.6, 0.25), 0.0)[..., None]
    left_image = (1 - strength) * background / 255 + strength * lit
    phi = _projected(reconstruction)
    heat = 0.85 * np.clip(phi / max(float(phi.max()), 1e-6), 0, 1)[..., None]
    right_image = (1 - heat) * background / 255 + heat * COLOURS(phi / max(float(phi.max()), 1e-6))[..., :3]

    height, width = scene.image_size
    figure = Figure(figsize=(2 * INCHES + 0.9, INCHES * height / width + 1.2), layout="constrained", dpi=110)
    axes = figure.subplots(1, 2)
    for ax, image in zip(axes, (left_image, right_image), strict=True):
        ax.imshow(image, extent=(0, width, height, 0))
        _outline(ax, scene.object_mask, MASK_COLOUR)
        if scene.object_mask is None and scene.object_box is not None:
            x0, y0, x1, y1 = scene.object_box
            ax.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=MASK_COLOUR, linewidth=1.2)
        ax.set_xlim(0, width)
        ax.set_ylim(height, 0)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_color("0.7")  # the image's border, invisible around a rendered body
    _outline(axes[0], scene.person_mask, PERSON_COLOUR, "dashed")
    _outline(axes[0], face >= 0, BODY_COLOUR)
    _outline(axes[0], covered, OBJECT_COLOUR)
    given = "object mask" if scene.object_mask is not None else "object box" if scene.object_box is not None else ""
    lines = [("body", BODY_COLOUR), ("object's surface", OBJECT_COLOUR)] + ([(f"{given}, given", MASK_COLOUR)] if given else [])
    handles = [Line2D([], [], color=colour, label=label) for label, colour in lines]
    if scene.person_mask is not None:
        handles.append(Line2D([], [], color=PERSON_COLOUR, label="person mask, given", linestyle="dashed"))
    axes[0].legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=4, fontsize=8, frameon=False)
    axes[0].set_title(f"phi >= {reconstruction.threshold:.2f}", fontsize=9)
    axes[1].set_title("largest phi over each pixel", fontsize=9)
    figure.colorbar(ScalarMappable(Normalize(0, float(phi.max())), COLOURS), ax=axes[1], shrink=0.7)
    chosen, agreement = reconstruction.chosen, reconstruction.silhouette_iou
    title = f"{scene.name}: {chosen.category}; {chosen.prompt or 'any prompt'}; {chosen.part or 'any part'}"
    title += "" if agreement is None else f"; silhouette IoU {agreement:.2f}"
    figure.suptitle(title, fontsize=10)
    save_figure(path, figure)


def _projected(reconstruction: Reconstruction) -> NDArray[np.float64]:
    """Largest phi over each pixel of the photograph, rounded down to 0.01, (H, W) float64."""
    scene = reconstruction.scene
    view = View(scene, np.asarray(reconstruction.human.vertices), np.asarray(reconstruction.human.faces))
    levels = view.project(reconstruction.phi, reconstruction.parameters.extent)
    rows, columns = (
        ((np.arange(large) + 0.5) * small / large).astype(np.intp)
        for small, large in zip(view.size, scene.image_size, strict=True)
    )
    return levels[np.ix_(rows, columns)] / len(THRESHOLDS)


def _outline(ax: object, mask: NDArray[np.bool_] | None, colour: str, style: str = "solid") -> None:
    if mask is None or not mask.any():
        return
    height, width = mask.shape
    x, y = np.arange(-1, width + 1) + 0.5, np.arange(-1, height + 1) + 0.5
    ax.contour(x, y, np.pad(mask, 1), [0.5], colors=colour, linewidths=1.2, linestyles=style)  # type: ignore[attr-defined]
