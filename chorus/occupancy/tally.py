"""What an aggregation knows of its images besides their votes: how many are in which group, and which they are."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.camera.views import key_hash
from chorus.errors import InputError
from chorus.images import ImageBatch
from chorus.occupancy.counts import SKETCH_SIZE
from chorus.store import Store
from chorus.votes.counted import CountedImages
from chorus.votes.prefetch import PrefetchedBatch


class Tally:
    """Images by group, and which images these are. Batches are read ahead of their votes, but only those cast are counted.

    store   the store whose rows are counted; None for images in memory
    groups  number of groups G
    totals  whether group_totals are of the images "before" the condition on body parts, or "after" it; InputError for others
    """

    def __init__(self, store: Store | None, groups: int, totals: str) -> None:
        if not isinstance(totals, str) or totals not in ("before", "after"):
            raise InputError(f"totals: expected 'before' or 'after', got {totals!r}")
        self._before = totals == "before"
        self._groups = groups
        self._totals, self._images = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
        self._counted = CountedImages(store)
        self._sketch: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._ahead: deque[tuple[Any, ...]] = deque()
        self.num_selected = 0
        """Images counted so far, before the condition on body parts."""

    @property
    def num_voted(self) -> int:
        """Images that have voted so far."""
        return int(self._images.sum())

    def read(
        self, batch: ImageBatch, group: NDArray[np.int64], voting: NDArray[np.bool_], rows: NDArray[np.int64] | None
    ) -> None:
        """A batch that has been read, whose votes are cast later, in the order of reading.

        group, voting, rows  (I,) group of each image, whether it votes, its row in the store
        """
        self._ahead.append((len(batch), self._weight(group, batch.weights), rows, voting))

    def cast(self, joined: PrefetchedBatch) -> None:
        """The batches whose votes have been cast, without the images that do not vote."""
        for batch, group in zip(joined.batches, joined.groups, strict=True):
            number, selected, rows, voting = self._ahead.popleft()
            self.num_selected += number
            self._images += np.bincount(group, minlength=self._groups)
            self._totals += selected if self._before else self._weight(group, batch.weights)
            hashes = key_hash(batch.keys)
            self._sketch = np.unique(np.concatenate([self._sketch, hashes]))[:SKETCH_SIZE]
            self._counted.add(rows, voting, hashes)

    def _weight(self, group: NDArray[np.int64], weights: NDArray[np.uint8] | None) -> NDArray[np.int64]:
        """The sum of the integer weights in each group, (G,) int64 (1 each where not given)."""
        return np.bincount(group, weights, minlength=self._groups).astype(np.int64)

    def as_facts(self) -> dict[str, Any]:
        """What is known of the images cast so far, by the names that ``Occupancy`` has for it."""
        return {
            "group_totals": self._totals.copy(),
            "group_images": self._images.copy(),
            "sketch": self._sketch,
            "counted": self._counted.so_far(),
        }
