"""Photographs under the bodies that were posed like the people in them, and where annotators saw their joints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from chorus.body.model import Body
from chorus.evaluate.photos import PhotoPerson
from chorus.figures.saving import save_figure
from chorus.pictures import read_picture
from chorus.render import face_normals, render_mesh, shade

BODY_SHARE = 0.7
"""How much of a pixel is the body's where it covers the photograph."""


def save_people(path: str | Path, folder: str | Path, people: Sequence[PhotoPerson], body: Body, columns: int = 4) -> None:
    """A PNG of people in a folder's photographs: the posed body over each, annotated joints as crosses joined to its own.

    people  with a pose and a camera; the title of each has the median error in percent of the person's height
    """
    rows = max(1, -(-len(people) // columns))
    figure = Figure(figsize=(3.2 * columns, 3.2 * rows), layout="constrained", dpi=110)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, person in zip(axes, people, strict=False):
        if person.pose is None or person.camera is None:
            continue
        pixels = read_picture(Path(folder) / person.file)
        vertices = body.posed_vertices(person.pose[None])[0]
        _, face = render_mesh(vertices, body.faces, person.camera)
        lit = shade(face, face_normals(vertices, body.faces) @ person.camera.R[0].T * [1, -1, -1])
        shown = np.where((face >= 0)[..., None], (1 - BODY_SHARE) * pixels + BODY_SHARE * lit, pixels).astype(np.uint8)
        ax.imshow(shown)
        for seen, placed in zip(person.annotated_px, person.joints_px, strict=True):
            if np.isfinite(seen).all():
                ax.plot(*zip(seen, placed, strict=True), color="#ffd000", lw=1.2)
                ax.plot(*seen, "x", color="#ff3b30", ms=4, mew=1.2)
        around = np.concatenate([person.annotated_px[np.isfinite(person.annotated_px).all(1)], person.joints_px])
        low, high = around.min(0), around.max(0)
        margin = 0.25 * (high - low).max()
        (left, top), (right, bottom) = np.maximum(low - margin, 0), np.minimum(high + margin, pixels.shape[1::-1])
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)
        ax.set_title(f"{person.file}\n{person.median_percent:.1f} % of {person.height_px:.0f} px", fontsize=7)
    figure.suptitle("posed bodies; crosses: annotated joints, joined to the body's", fontsize=10)
    save_figure(path, figure)
