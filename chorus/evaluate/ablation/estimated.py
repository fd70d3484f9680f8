"""Rows of an ablation whose estimator is found from the training images: the field chosen, hidden votes told apart.

Every seed and category may choose another field. Votes are counted once for each canonicalization asked for, and the tables of
posed voxels are kept by field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.evaluate.ablation.rows import Setting
from chorus.evaluate.ablation.scores import Target, exactly, posed_voxels, score
from chorus.evaluate.pap.categories import CategoryPap
from chorus.evaluate.pap.metric import METRICS
from chorus.evaluate.pap.pixels import PapProtocol
from chorus.field import CanonicalField, FieldParameters
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.hidden_choice import weigh_hidden
from chorus.store import Store

Scored = dict[str, tuple[int, dict[str, float | None]]]
"""Row -> number of images that voted, and its scores by metric."""


@dataclass(frozen=True)
class EstimatedRows:
    """Counts and scores such rows on the test images of each category."""

    body: Body
    images: Mapping[str, Sequence[Target]]
    backend: str
    protocol: PapProtocol
    _posed: dict[tuple[str, FieldParameters], list[NDArray[np.int32]]] = field(default_factory=dict)

    def score_seed(
        self,
        category: str,
        store: Store,
        chosen: NDArray[np.bool_],
        settings: Sequence[Setting],
        pool: ThreadPoolExecutor,
    ) -> Scored:
        """The rows of one seed; ``chosen`` (n,) bool are the store's images that vote. All of one grid."""
        found: Scored = {}
        asked = dict.fromkeys(s.estimator.canonicalization for s in settings if s.estimator is not None)
        for canonicalization in asked:
            base = CanonicalField(self.body, **settings[0].field)
            counted = aggregate(
                store,
                base,
                backend=self.backend,
                where=exactly(chosen),
                filter="none",
                canonicalization=canonicalization,
                hidden_weight=1.0,
            )
            voxels = self._voxels(category, counted.parameters)
            for setting in settings:
                if setting.estimator is None or setting.estimator.canonicalization != canonicalization:
                    continue
                phi = weigh_hidden(counted, setting.estimator.hidden_weight).probability
                target_score = partial(score, phi, extent=counted.parameters.extent, protocol=self.protocol)
                results = tuple(pool.map(target_score, self.images[category], voxels))
                scored = CategoryPap(category, results)
                found[setting.name] = counted.num_images, {which: scored.mean(which) for which in METRICS}
        return found

    def _voxels(self, category: str, parameters: FieldParameters) -> list[NDArray[np.int32]]:
        key = category, parameters
        if key not in self._posed:
            self._posed[key] = [posed_voxels(t, parameters, self.body, self.backend) for t in self.images[category]]
        return self._posed[key]
