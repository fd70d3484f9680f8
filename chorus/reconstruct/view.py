"""A photograph scaled for comparison with projections, and the IoUs of the two."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus import boxes
from chorus.camera.cameras import Cameras
from chorus.reconstruct.scene import Scene
from chorus.render.rasterize import render_mesh
from chorus.render.splat import splat_footprints

THRESHOLDS: NDArray[np.float32] = (np.arange(1, 101) / 100).astype(np.float32)
"""Thresholds on phi at which projections are compared with the object: 0.01, 0.02, ... 1, as in the evaluation."""
COMPARED_SIDE = 256
"""Shorter side in pixels at which masks and projections are compared; larger where the object would be too small."""
COMPARED_OBJECT = 20
"""Least size of the object at that scale, as the square root of its area in pixels, unless the photograph is smaller."""


class View:
    """A scene scaled for comparison with projections.

    size    (h, w) in pixels        camera  the scene's, for this size
    box     (4,) float64 x0, y0, x1, y1 of the object in pixels of this size, or None
    mask    (h, w) bool of the object, or None
    hidden  (h, w) bool: pixels of the person where the mask cannot tell whether the object is behind
    """

    def __init__(self, scene: Scene, vertices: NDArray[np.float64], faces: NDArray[np.int32]) -> None:
        height, width = scene.image_size
        mask, box = scene.object_mask, scene.object_box
        area = float(mask.sum()) if mask is not None else 0.0 if box is None else float(boxes.area(box))
        scale = min(1.0, max(COMPARED_SIDE / min(height, width), COMPARED_OBJECT / math.sqrt(area) if area else 0.0))
        h, w = (max(1, round(scale * side)) for side in scene.image_size)
        shrink = np.diag([w / width, h / height, 1.0])
        self.size = (h, w)
        self.camera = Cameras(scene.camera.R, scene.camera.t, shrink @ scene.camera.K, [self.size])
        self.box = None if box is None else box * [w / width, h / height, w / width, h / height]
        at = np.ix_(((np.arange(h) + 0.5) * height / h).astype(np.intp), ((np.arange(w) + 0.5) * width / w).astype(np.intp))
        self.mask = None if mask is None else mask[at]
        # The object may continue behind the person; a mask does not show it.
        person = self.silhouette(vertices, faces) if scene.person_mask is None else scene.person_mask[at]
        self.hidden = person if self.mask is None else person & ~self.mask

    def silhouette(self, vertices: Any, faces: Any) -> NDArray[np.bool_]:
        """The pixels that a mesh covers, (h, w) bool."""
        return np.asarray(render_mesh(vertices, faces, self.camera)[1] >= 0)

    def project(self, phi: NDArray[np.float32], extent: float) -> NDArray[np.int32]:
        """How many of THRESHOLDS the largest phi over each pixel reaches, (h, w) int32; phi (N, N, N) in the posed frame."""
        levels = np.zeros(self.size, np.int32)
        matrix = self.camera.K[0] @ np.column_stack([self.camera.R[0], self.camera.t[0]])
        splat_footprints(np.ascontiguousarray(phi), extent, matrix, THRESHOLDS, levels)
        return levels


def mask_ious(levels: NDArray[np.int32], mask: NDArray[np.bool_], hidden: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of the pixels {levels >= t}, t = 1 .. T, and a non-empty mask, (T,); hidden pixels are left out."""
    inside, outside = (
        np.bincount(levels[where], minlength=len(THRESHOLDS) + 1)[::-1].cumsum()[-2::-1] for where in (mask, ~mask & ~hidden)
    )
    return np.asarray(inside / (np.count_nonzero(mask) + outside))


def box_ious(levels: NDArray[np.int32], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of the boxes around {levels >= t}, t = 1 .. T, and a box x0, y0, x1, y1 in pixels, (T,); 0 where there is none."""
    t = np.arange(1, len(THRESHOLDS) + 1)[:, None]
    return boxes.iou(boxes.boxes_of_profiles(levels.max(1) >= t, levels.max(0) >= t), box)
