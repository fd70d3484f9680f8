"""Portions of a selection's images: what one of several processes counts, and what was counted before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from chorus.errors import StoreError
from chorus.ranks import Share, share_by_size
from chorus.votes.counted import Counted

if TYPE_CHECKING:
    from chorus.store import Store

SNAP = 0.02
"""A share ends with a shard where that changes no share by more than so much of it: shards are then read by one process."""


@dataclass(frozen=True)
class Portion:
    """Which of a selection's images are counted: those of ``share``, without those of ``skip``, and of the rest, ``rank``'s.

    share  of the whole selection, the same whatever was counted before
    skip   images that were counted before
    rank   the share of what then remains, for processes that work at the same time
    shards  digests of the shards that the selection is of: what was committed since they were looked up is left out, so that
            processes that open a growing store one after the other share the same images; None: all
    """

    share: Share = field(default_factory=Share)
    skip: Counted | None = None
    rank: Share = field(default_factory=Share)
    shards: frozenset[str] | None = None

    def to_json(self) -> dict[str, str]:
        """What the provenance says of the portion."""
        return {} if self.share.whole else {"share": str(self.share)}

    def of_rows(self, store: Store, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows (m,) int64, ascending, of a store the portion has, (m,) bool. Portions of one selection are
        disjoint, and together all of it. StoreError where shards of the selection are gone."""
        chosen = np.ones(len(rows), np.bool_) if self.shards is None else self._of_shards(store)[rows]
        if not self.share.whole:
            there = np.flatnonzero(chosen)
            chosen[:] = False
            chosen[there[_slice(store, rows[there], self.share)]] = True
        if self.skip is not None:
            chosen &= self.skip.rows_left(store, rows)
        if not self.rank.whole:
            left = np.flatnonzero(chosen)
            chosen[:] = False
            chosen[left[_slice(store, rows[left], self.rank)]] = True
        return chosen

    def _of_shards(self, store: Store) -> NDArray[np.bool_]:
        """Which rows of a store are in the portion's shards, (n,) bool."""
        digests = [shard.sha256 for shard in store.shards]
        if self.shards is None or not self.shards <= set(digests):
            raise StoreError(f"{store.path}: expected the shards that this work began with, but some are gone; begin it again")
        return np.repeat([digest in self.shards for digest in digests], [len(shard) for shard in store.shards]).astype(np.bool_)


def whole_shards(store: Store, rows: NDArray[np.int64], share: Share) -> NDArray[np.int64]:
    """Those of the rows (m,) int64, ascending, of a store whose shards a share of whole shards has."""
    mine = np.zeros(len(store), np.bool_)
    first = np.concatenate([[0], np.cumsum([len(shard) for shard in store.shards])])
    for number in share_by_size([shard.nbytes for shard in store.shards], share):
        mine[first[number] : first[number + 1]] = True
    chosen: NDArray[np.int64] = rows[mine[rows]]
    return chosen


def _slice(store: Store, rows: NDArray[np.int64], share: Share) -> slice:
    """The share of the rows, neighbours of about as many bytes; ends are those of shards where that is nearly as fair."""
    if share.whole or not len(rows):
        return slice(0, len(rows)) if share.number == 1 else slice(0, 0)
    first = np.concatenate([[0], np.cumsum([len(shard) for shard in store.shards])])
    bounds = np.searchsorted(rows, first)  # positions in rows where shards begin and end
    a_row = np.array([shard.nbytes / len(shard) for shard in store.shards])
    at_bounds = np.concatenate([[0.0], np.cumsum(np.diff(bounds) * a_row)])  # bytes before each shard
    fair = at_bounds[-1] / share.of

    def cut(number: int) -> int:
        target = fair * number
        near = int(np.abs(at_bounds - target).argmin())
        if abs(at_bounds[near] - target) <= SNAP * fair or number in (0, share.of):
            return int(bounds[near])
        shard = int(np.searchsorted(at_bounds, target, "right")) - 1
        return int(bounds[shard] + round((target - at_bounds[shard]) / a_row[shard]))

    return slice(cut(share.number - 1), cut(share.number))
