"""Scoring many distributions on the same test images: what depends only on image and field is computed once.

The canonical voxel that Eq. 11 assigns to a posed voxel depends only on pose and field. Posing voxel indices in place of phi
gives the table of them; then each distribution costs a table look-up, a small render and two histograms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.canonicalization import PER_VOXEL
from chorus.errors import InputError
from chorus.evaluate.ablation.rows import Where, cells
from chorus.evaluate.pap.metric import ImagePap
from chorus.evaluate.pap.pixels import (
    PAPER,
    PapProtocol,
    body_pixels,
    count_pixels,
    downscale_mask,
    downscaled_size,
    render_levels,
)
from chorus.field import CanonicalField, FieldParameters
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.posed import posed_occupancy
from chorus.store import Store

Key = TypeVar("Key")
MAX_RESOLUTION = 256
"""Voxel indices are posed as float32, which represents integers up to 2^24."""


@dataclass(frozen=True, eq=False)
class Target:
    """A test image prepared for scoring.

    key     name of the image         pose  (J, 3) float32 axis-angle in radians      camera  one camera
    size    (h, w) of the protocol    mask  (h, w) bool, pixels of the object         body    (h, w) bool, of the posed body
    """

    key: str
    pose: NDArray[np.float32]
    camera: Cameras
    size: tuple[int, int]
    mask: NDArray[np.bool_]
    body: NDArray[np.bool_]


def targets(store: Store, body: Body, protocol: PapProtocol = PAPER) -> list[Target]:
    """The complete images of a test store, in its order."""
    found = []
    for batch in store.batches(size=256):
        for i, key in enumerate(batch.keys):
            camera = batch.cameras[i : i + 1]
            height, width = (int(side) for side in camera.image_size[0])
            size = downscaled_size(height, width, protocol.shorter_side)
            mask = downscale_mask(batch.masks.unpack(i), size)
            vertices = body.posed_vertices(batch.poses[i][None])[0]
            found.append(Target(key.decode(), batch.poses[i], camera, size, mask, body_pixels(vertices, camera, size)))
    return found


def posed_voxels(target: Target, parameters: FieldParameters, body: Body, backend: str = "auto") -> NDArray[np.int32]:
    """The canonical voxel of each voxel around the posed person (Eq. 11, nearest), (N^3,) int32: its flat index + 1, or 0 for
    none. InputError above MAX_RESOLUTION."""
    N = parameters.resolution
    if N > MAX_RESOLUTION:
        raise InputError(f"resolution: expected at most {MAX_RESOLUTION}, got {N}")
    if parameters.canonicalization == PER_VOXEL:
        raise InputError(f"canonicalization: expected any but {PER_VOXEL}, with which a posed voxel's source depends on phi")
    numbers = np.arange(1, N**3 + 1, dtype=np.float32).reshape(N, N, N)
    return posed_occupancy(numbers, target.pose, parameters, body.hash, body, backend=backend).astype(np.int32).ravel()


def score(
    phi: NDArray[np.float32], target: Target, voxels: NDArray[np.int32], extent: float, protocol: PapProtocol = PAPER
) -> ImagePap:
    """The scores of ``evaluate_pap`` for an image and a canonical phi (N, N, N), from its table ``posed_voxels``."""
    posed = np.concatenate([np.zeros(1, np.float32), phi.ravel()])[voxels].reshape(phi.shape)
    levels = render_levels(posed, extent, target.camera, target.size, protocol)
    counts = count_pixels(levels, target.mask, protocol.num_thresholds)
    aware = count_pixels(levels, target.mask, protocol.num_thresholds, target.body)
    return ImagePap.from_counts(target.key, counts, aware, protocol)


def count_rows(
    store: Store, samples: Mapping[Key, NDArray[np.bool_]], field: CanonicalField, scheme: str, backend: str = "auto"
) -> dict[Key, Occupancy]:
    """Counts of each sample (name -> (n,) bool over the store's rows); every image votes once."""
    counted: dict[Key, Occupancy] = {}
    for members, holders in cells(list(samples.values())):
        cell = aggregate(store, field, scheme=scheme, backend=backend, where=exactly(members), filter="none")
        for name, held in zip(samples, holders, strict=True):
            if held:
                counted[name] = counted[name] + cell if name in counted else cell
    return counted


def exactly(members: NDArray[np.bool_]) -> Where:
    """A predicate that keeps these of a store's rows, (n,) bool."""
    return lambda _: members
