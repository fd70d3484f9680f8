"""The result of a reconstruction, and its report as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chorus.field import FieldParameters
from chorus.occupancy import surfaces
from chorus.provenance import provenance
from chorus.reconstruct.distributions import ComparedDistribution
from chorus.reconstruct.scene import Scene

if TYPE_CHECKING:
    from trimesh import Trimesh


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Human and object in 3D from one photograph, in the posed person's frame (metres, y up).

    scene            the photograph                  candidates      all stored distributions, compared with it
    chosen           the distribution chosen         threshold       on phi, of the surface
    category_from, cluster_from, threshold_from      the reasons for category, distribution and threshold, in words
    phi              (N, N, N) float32, posed, on the grid of ``parameters``
    inside           (N, N, N) bool, voxels of the object: phi >= threshold, without the pieces that do not project onto the
                     object's mask or box; ``left_out`` is the number of those
    human, object    meshes                          silhouette_iou  of the object's surface and its mask; None without mask
    body_hash        of the body                     parameters      of the field
    """

    scene: Scene
    candidates: tuple[ComparedDistribution, ...]
    chosen: ComparedDistribution
    category_from: str
    cluster_from: str
    threshold: float
    threshold_from: str
    phi: NDArray[np.float32]
    inside: NDArray[np.bool_]
    left_out: int
    parameters: FieldParameters
    body_hash: str
    human: Trimesh
    object: Trimesh
    silhouette_iou: float | None

    def to_json(self) -> dict[str, Any]:
        """All but the arrays, as JSON can hold it; lengths in metres in the person's frame."""
        camera, residual = self.scene.camera, self.scene.residual_px
        return {
            "record": self.scene.name,
            "estimators": dict(self.scene.estimators),
            "chosen": {**_row(self.chosen), "category_from": self.category_from, "cluster_from": self.cluster_from},
            "threshold": {"value": self.threshold, "from": self.threshold_from},
            "object": {
                **asdict(surfaces.describe(self.object)),
                "centre": _centre(self.phi, self.inside, self.parameters.extent),
                "pieces_left_out": self.left_out,
                "largest_phi": float(self.phi.max()),
                "silhouette_iou": self.silhouette_iou,
            },
            "camera": {
                "from": self.scene.camera_from,
                "residual_px": None if math.isnan(residual) else residual,
                "R": camera.R[0].tolist(),
                "t": camera.t[0].tolist(),
                "K": camera.K[0].tolist(),
                "image_size": list(self.scene.image_size),
            },
            "candidates": [_row(c) for c in self.candidates],
            "body_hash": self.body_hash,
            "field": self.parameters.to_json(),
            "provenance": provenance(),
        }


def _row(candidate: ComparedDistribution) -> dict[str, Any]:
    return {**asdict(candidate), "file": str(candidate.file)}


def _centre(phi: NDArray[np.float32], inside: NDArray[np.bool_], extent: float) -> list[float]:
    """Mean of the centres of the voxels inside, weighted by phi: x, y, z in metres."""
    weight = np.where(inside, phi, 0).astype(np.float64)
    axis = (np.arange(len(phi)) + 0.5) * (extent / len(phi)) - extent / 2
    total = weight.sum()
    return [float((weight.sum(tuple({0, 1, 2} - {a})) * axis).sum() / total) for a in range(3)]
