"""Numbers of a distribution for people: how large its shells are, where they lie around the body, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.spatial import cKDTree

from chorus.body.model import Body
from chorus.camera.views import AZIMUTH_BINS, FOLDS

if TYPE_CHECKING:
    from chorus.occupancy.counts import Occupancy
    from chorus.occupancy.distribution import Distribution


@dataclass(frozen=True)
class ShellRow:
    """The voxels where phi is at least a threshold.

    litres   their volume          pieces  number of them that do not touch          centre  mean of their centres, metres
    nearest  joint of the body's vertex nearest to the centre, and its distance in metres
    support  images that saw them (weights summed), least and median; None for distributions without counts
    error    standard error of the volume by leaving out one fold of images at a time, litres; None without folds
    """

    threshold: float
    litres: float
    pieces: int
    centre: tuple[float, float, float]
    nearest: tuple[str, float]
    support: tuple[int, int] | None
    error: float | None


def counts_of(occupancy: Distribution) -> Occupancy | None:
    """The occupancy itself where it has counts; None for a distribution without."""
    from chorus.occupancy.counts import Occupancy

    return occupancy if isinstance(occupancy, Occupancy) else None


def images_by_azimuth(occupancy: Occupancy) -> NDArray[np.int64]:
    """Images in each azimuth bin, (12,) int64."""
    counts: NDArray[np.int64] = occupancy.group_images.reshape(occupancy.scheme.shape).sum((0, 2))
    return counts if len(counts) == AZIMUTH_BINS else np.zeros(AZIMUTH_BINS, np.int64)


def shell_rows(occupancy: Distribution, body: Body, thresholds: Sequence[float]) -> list[ShellRow]:
    """A row for each threshold that some voxel reaches, the lowest first."""
    phi, centres = occupancy.probability, occupancy.centres
    cell = 1000 * occupancy.parameters.spacing**3
    tree, owner = cKDTree(body.rest_vertices), body.dominant_joint
    counts = counts_of(occupancy)
    support = None if counts is None else counts.support
    volumes = None if counts is None or not counts.scheme.has_folds else _left_out_voxels(counts, thresholds)
    rows = []
    for i, threshold in enumerate(thresholds):
        inside = phi >= threshold
        if not inside.any():
            continue
        centre = centres[inside].astype(np.float64).mean(0)
        distance, vertex = tree.query(centre)
        seen = None if support is None else (int(support[inside].min()), int(np.median(support[inside])))
        error = None
        if volumes is not None:
            error = cell * float(np.sqrt((FOLDS - 1) * volumes[:, i].var()))
        x, y, z = (float(c) for c in centre)
        pieces = int(label(inside, np.ones((3, 3, 3)))[1])
        near = (body.joint_names[int(owner[vertex])], float(distance))
        rows.append(ShellRow(threshold, cell * int(inside.sum()), pieces, (x, y, z), near, seen, error))
    return rows


def _left_out_voxels(occupancy: Occupancy, thresholds: Sequence[float]) -> NDArray[np.float64]:
    """Voxels at each threshold without the images of each fold, (10, T)."""
    found = np.zeros((FOLDS, len(thresholds)))
    for fold in range(FOLDS):
        phi = occupancy.of_folds([f for f in range(FOLDS) if f != fold]).probability
        found[fold] = [(phi >= threshold).sum() for threshold in thresholds]
    return found
