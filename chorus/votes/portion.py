"""Portions of a selection's images: what one of several processes counts, and what was counted before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.votes.counted import Counted

if TYPE_CHECKING:
    from chorus.store import Store

SNAP = 0.02
"""A share ends with a shard where that changes no share by more than so much of it: shards are then read by one process."""


@dataclass(frozen=True)
class Share:
    """The ``number``-th of ``of`` shares of some work, from 1. InputError for a number that is not among them."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise InputError(f"share: expected i/n with i from 1 to n, got {self}")

    @classmethod
    def parse(cls, text: str) -> Share:
        """The share that "i/n" names. InputError for another text."""
        number, slash, of = text.partition("/")
        if not slash or not number.strip().isdecimal() or not of.strip().isdecimal():
            raise InputError(f"share: expected i/n, such as 1/4, got {text!r}")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def whole(self) -> bool:
        """Whether it is all of the work."""
        return self.of == 1


@dataclass(frozen=True)
class Portion:
    """Which of a selection's images are counted: those of ``share``, without those of ``skip``, and of the rest, ``rank``'s.

    share  of the whole selection, the same whatever was counted before
    skip   images that were counted before
    rank   the share of what then remains, for processes that work at the same time
    """

    share: Share = field(default_factory=Share)
    skip: Counted | None = None
    rank: Share = field(default_factory=Share)

    def to_json(self) -> dict[str, str]:
        """What the provenance says of the portion."""
        return {} if self.share.whole else {"share": str(self.share)}

    def of_rows(self, store: Store, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows (m,) int64, ascending, of a store the portion has, (m,) bool. Portions of one selection are
        disjoint, and together all of it."""
        chosen = np.zeros(len(rows), np.bool_)
        chosen[_slice(store, rows, self.share)] = True
        if self.skip is not None:
            chosen &= self.skip.rows_left(store, rows)
        if not self.rank.whole:
            left = np.flatnonzero(chosen)
            chosen[:] = False
            chosen[left[_slice(store, rows[left], self.rank)]] = True
        return chosen


def share_of_shards(sizes: list[int], share: Share) -> list[int]:
    """The numbers of the shards (with these bytes) that a share of whole shards has: neighbours, of about as many bytes."""
    ends = np.cumsum(np.asarray(sizes, np.float64))
    middles = ends - np.asarray(sizes, np.float64) / 2
    total = ends[-1] if len(ends) else 0.0
    low, high = total * (share.number - 1) / share.of, total * share.number / share.of
    return np.flatnonzero((middles >= low) & (middles < high)).tolist()


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
