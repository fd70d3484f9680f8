"""Pictures of the images behind a distribution: masks over the projected body, and the distribution projected onto them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.errors import MismatchError
from chorus.field import CanonicalField
from chorus.figures.saving import save_figure
from chorus.figures.three_sides import COLOURS
from chorus.images import ImageBatch
from chorus.occupancy.counts import Occupancy
from chorus.render.rasterize import face_normals, render_mesh, shade

OBJECT = np.array([0.86, 0.27, 0.12])
"""Colour of the object's mask, RGB in 0..1."""
FAINTEST = 0.05
"""Smallest phi that is drawn over an image."""


def body_on_mask(
    body: Body, pose: NDArray[np.floating[Any]], cameras: Cameras, row: int, mask: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """The posed body as the camera sees it, with the object's mask over it: (H, W, 3) uint8 RGB."""
    vertices = body.posed_vertices(np.asarray(pose)[None])[0]
    _, face = render_mesh(vertices, body.faces, cameras, row)
    normals = face_normals(vertices, body.faces) @ cameras.R[row].T * [1, -1, -1]
    image = shade(face, normals).astype(np.float64) / 255
    image[mask] = 0.35 * image[mask] + 0.65 * OBJECT
    return (image * 255).astype(np.uint8)


def save_masks(
    path: str | Path, images: ImageBatch, body: Body, titles: Sequence[str], columns: int = 4, note: str = ""
) -> None:
    """A PNG of images: the projected body with the object's mask over it, one title each; ``note`` stands above."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.75 * rows), layout="constrained", dpi=100)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for i, (ax, title) in enumerate(zip(axes, titles, strict=False)):
        ax.imshow(body_on_mask(body, images.poses[i], images.cameras, i, images.masks.unpack(i)))
        ax.set_title(textwrap.fill(title, 28), fontsize=8)
    title = "object masks (orange) over the posed body as each camera sees it"
    figure.suptitle(f"{title}\n{note}" if note else title, fontsize=11)
    save_figure(path, figure)


def project_occupancy(
    occupancy: Occupancy, field: CanonicalField, pose: NDArray[np.floating[Any]], cameras: Cameras, row: int
) -> NDArray[np.float32]:
    """The distribution warped into an image's pose and projected: the largest phi over each pixel, (H, W) float32.

    Voxels are warped by LBS (Eq. 5) and drawn as discs of their projected width. Raises MismatchError for another field than
    the one that the occupancy's votes were cast through.
    """
    if field.hash != occupancy.field_hash:
        raise MismatchError(f"field: expected the occupancy's, with hash {occupancy.field_hash[:12]}, got {field.hash[:12]}")
    height, width = (int(c) for c in cameras.image_size[row])
    phi = occupancy.probability.ravel()
    order = np.argsort(phi)
    order = order[phi[order] > 0]
    points = field.warp(pose).reshape(-1, 3)[order]
    uv, z = cameras[row : row + 1].project(points)
    uv, z = uv[0], z[0]
    radius = np.maximum(0.5, 0.6 * field.parameters.spacing * cameras.K[row, 0, 0] / np.maximum(z, 1e-6))
    drawn = np.zeros((height, width), np.float32)
    v_axis, u_axis = np.arange(height) + 0.5, np.arange(width) + 0.5
    for (u, v), depth, r, value in zip(uv, z, radius, phi[order], strict=True):
        if depth <= 0 or not (-r < u < width + r and -r < v < height + r):
            continue
        x0, x1 = max(0, int(u - r)), min(width, int(u + r) + 1)
        y0, y1 = max(0, int(v - r)), min(height, int(v + r) + 1)
        disc = (v_axis[y0:y1, None] - v) ** 2 + (u_axis[None, x0:x1] - u) ** 2 <= r * r
        patch = drawn[y0:y1, x0:x1]
        patch[disc] = value  # ascending phi: the last one drawn is the largest
    return drawn


def with_haze(image: NDArray[np.uint8], phi: NDArray[np.float32]) -> NDArray[np.float64]:
    """An image (H, W, 3) uint8 with phi (H, W) over it: (H, W, 3) in 0..1. The opacity rises with phi, from FAINTEST on.

    Most pixels around the person have a phi of a few percent, by chance votes; drawn at that opacity in the dark colours of a
    small phi they would be a veil over half of the picture.
    """
    shown = np.clip(phi.astype(np.float64), 0, 1)[..., None]
    opacity = 0.85 * np.clip((shown - FAINTEST) / (1 - FAINTEST), 0, 1)
    mixed: NDArray[np.float64] = (1 - opacity) * image / 255 + opacity * COLOURS(phi)[..., :3]
    return mixed


def save_posed_back(
    path: str | Path,
    occupancy: Occupancy,
    field: CanonicalField,
    images: ImageBatch,
    row: int,
    title: str,
    photo: NDArray[np.uint8] | None = None,
) -> float:
    """A PNG of one image: body and mask, and the distribution posed back over them. Returns the mean phi on the mask.

    photo  the picture that the image was made from, (H, W, 3) uint8 RGB of the image's size: it is drawn beside body and mask,
           and the distribution over it
    """
    mask = images.masks.unpack(row)
    drawn = project_occupancy(occupancy, field, images.poses[row], images.cameras, row)
    image = body_on_mask(field.body, images.poses[row], images.cameras, row, mask)
    figure = Figure(figsize=(8.4 if photo is None else 12.4, 4.6), layout="constrained", dpi=110)
    *first, left, right = figure.subplots(1, 2 if photo is None else 3)
    for ax in first:
        ax.imshow(photo)
        ax.set_title("the picture", fontsize=9)
    left.imshow(image)
    left.set_title("object mask over the projected body", fontsize=9)
    right.imshow(with_haze(image if photo is None else photo, drawn))
    right.contour(mask, [0.5], colors="deepskyblue", linewidths=1.2)
    right.set_title("occupancy posed back (outline: the mask)", fontsize=9)
    for ax in (*first, left, right):
        ax.set_axis_off()
    figure.suptitle(textwrap.fill(title, 90, max_lines=3, placeholder=" ..."), fontsize=10)
    save_figure(path, figure)
    return float(drawn[mask].mean()) if mask.any() else 0.0
