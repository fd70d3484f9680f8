"""The object's surface in a posed distribution: its threshold, and the connected pieces that project onto the object."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chorus.field import voxel_centres
from chorus.occupancy import surfaces
from chorus.reconstruct.distributions import TIE, ComparedDistribution
from chorus.reconstruct.view import THRESHOLDS, View, mask_ious

if TYPE_CHECKING:
    from trimesh import Trimesh


SURFACE_STEPS = 16
"""Number of thresholds at which the silhouette of the surface is compared with the mask."""


def silhouette_iou(view: View, mesh: Trimesh) -> float | None:
    """IoU of a mesh's silhouette and the object's mask, pixels hidden by the person left out; None without a mask."""
    if view.mask is None:
        return None
    covered = view.silhouette(mesh.vertices, mesh.faces)
    return float(mask_ious(np.where(covered, len(THRESHOLDS), 0).astype(np.int32), view.mask, view.hidden)[0])


def pieces_on_object(view: View, phi: NDArray[np.float32], extent: float, threshold: float) -> tuple[NDArray[np.bool_], int]:
    """Voxels of {phi >= threshold} in the connected pieces that project onto the object, and the number of other pieces.

    phi (N, N, N) posed, on a cube of ``extent`` metres -> (N, N, N) bool. All voxels where no piece projects onto the object.
    """
    inside = phi >= np.float32(threshold)
    labels, count = ndimage.label(inside, np.ones((3, 3, 3)))
    if view.box is None:
        return inside, 0
    (uv,), (z,) = view.camera.project(voxel_centres(len(phi), extent)[inside])
    u0, v0, u1, v1 = view.box
    hits = (z > 0) & (uv >= [u0, v0]).all(1) & (uv < [u1, v1]).all(1)
    if view.mask is not None:
        column, row = uv[hits].astype(np.intp).T
        hits[hits] = view.mask[row, column]
    kept = np.unique(labels[inside][hits])
    if not kept.size:
        return inside, 0
    return np.isin(labels, kept), count - kept.size


def surface_of(phi: NDArray[np.float32], inside: NDArray[np.bool_], extent: float, threshold: float) -> Trimesh:
    """The surface of the pieces of {phi >= threshold} that are ``inside`` (N, N, N) bool, in metres in phi's frame."""
    return surfaces.surface(np.where(inside | (phi < np.float32(threshold)), phi, 0), extent, threshold)


def best_threshold(view: View, phi: NDArray[np.float32], extent: float, chosen: ComparedDistribution) -> tuple[float, str]:
    """The threshold of the surface, and the reason for it in words."""
    if view.box is None or chosen.box_threshold is None:
        return float(phi.max()) / 2, "half of the largest phi: no object mask or box is given"
    if view.mask is None:
        return chosen.box_threshold, "the projected box agrees best with the object's"
    ious = mask_ious(view.project(phi, extent), view.mask, view.hidden)
    near = THRESHOLDS[ious >= (1 - TIE) * ious.max()]
    # A projection shows whole voxels, but the surface passes between their centres: to be as large it needs a lower threshold.
    iou_at = {float(t): 0.0 for t in np.linspace(0.5 * near[0], near[-1], SURFACE_STEPS, dtype=np.float32)}
    for value in iou_at:
        inside, _ = pieces_on_object(view, phi, extent, value)
        iou_at[value] = silhouette_iou(view, surface_of(phi, inside, extent, value)) or 0.0
    best = max(iou_at, key=lambda value: (iou_at[value], value))
    return best, f"the surface's silhouette agrees best with the object's mask (IoU {iou_at[best]:.2f})"
