"""Posing many distributions like the person of one photograph (Eq. 11)."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.canonicalization import NONE, PER_VOXEL
from chorus.errors import InputError
from chorus.field import CanonicalField, FieldParameters
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.posed import posed_occupancy


class Posing:
    """Poses many distributions like one person; the canonical voxel of each posed voxel is computed once for each field.

    pose         (J, 3) axis-angle in radians, row 0 zero
    min_support  least number of images that must have seen a canonical voxel, else it is empty
    round_trip   metres, or inf: see below

    Eq. 11 is not an inverse of Eq. 5: space far from the posed limbs follows the trunk, so that an object in a raised hand
    appears again where the hand is in the rest pose. Therefore a posed voxel is empty if Eq. 5 carries its canonical voxel
    farther than ``round_trip`` metres from it. Where every voxel is rigid with one joint, posing is an exact inverse, and
    nothing is tested; where joints differ from voxel to voxel, what a posed voxel shows depends on phi, and each distribution
    is posed itself.
    """

    def __init__(
        self, pose: NDArray[np.float64], body: Body, inverse: str, backend: str, min_support: int, round_trip: float
    ) -> None:
        self.body, self._pose, self._round_trip, self._min_support = body, pose, round_trip, min_support
        self._posed = partial(posed_occupancy, pose=pose, body_hash=body.hash, body=body, inverse=inverse, backend=backend)
        self._canonical_voxels: dict[FieldParameters, NDArray[np.int64]] = {}

    def __call__(self, occupancy: Occupancy) -> tuple[NDArray[np.float32], FieldParameters]:
        """phi around the posed person, (N, N, N) float32 in the posed person frame, and the parameters of its grid."""
        p = occupancy.parameters
        if p.canonicalization == PER_VOXEL:
            return self._posed(occupancy.probability_with(self._min_support), parameters=p), p
        if p not in self._canonical_voxels:
            self._canonical_voxels[p] = self._canonical_voxel_of_each(p)
        phi = occupancy.probability_with(self._min_support)
        return np.concatenate([np.zeros(1, np.float32), phi.ravel()])[self._canonical_voxels[p]], p

    def _canonical_voxel_of_each(self, p: FieldParameters) -> NDArray[np.int64]:
        """1 + flat index of the canonical voxel of each posed voxel (Eq. 11), 0 for none: (N, N, N) int64."""
        N = p.resolution
        if N**3 >= 1 << 24:
            raise InputError(
                f"occupancies: expected at most 255 voxels a side, got {N}"
            )  # float32 cannot represent larger indices
        numbers = np.arange(1, N**3 + 1, dtype=np.float32).reshape(N, N, N)
        source = self._posed(numbers, parameters=p).astype(np.int64)
        blended = p.rule.rigid_joints(self.body, N) is None
        if np.isfinite(self._round_trip) and (blended or p.canonicalization == NONE):
            field = CanonicalField.from_parameters(self.body, p)
            back = field.warp(self._pose).reshape(-1, 3)[source - 1] - field.centres
            source[(back**2).sum(-1) > self._round_trip**2] = 0
        return source
