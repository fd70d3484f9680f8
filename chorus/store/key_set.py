"""The keys of millions of images in memory: sorted arrays, a tenth of what a set of Python takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray


class KeySet(Set[bytes]):
    """A set of keys to which more are added, a shard's at a time.

    A few sorted arrays, each at least twice as long as the next: adding merges those that are not, so that n keys are moved
    log n times at most, and a key is looked for in log n arrays.
    """

    def __init__(self) -> None:
        self._sorted: list[NDArray[np.bytes_]] = []

    def add_all(self, keys: NDArray[np.bytes_]) -> None:
        """Add keys (n,); those that are in the set already are left out."""
        new = np.unique(keys)
        again = self.shared_with(new)
        if again:
            new = new[~np.isin(new, np.array(sorted(again)))]
        if not len(new):
            return
        some = list(self._sorted)
        while some and len(some[-1]) < 2 * len(new):
            new = np.concatenate([some.pop(), new])
            new.sort(kind="stable")  # of two sorted runs: a merge
        self._sorted = [*some, new]  # at once: an interrupted writer may go on

    @classmethod
    def _from_iterable(cls, keys: Iterable[Any]) -> Any:
        """What ``-``, ``&`` and ``|`` give: a set of Python."""
        return set(keys)

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, bytes):
            return False
        for some in self._sorted:
            at = int(np.searchsorted(some, np.bytes_(key)))
            if at < len(some) and some[at] == key:
                return True
        return False

    def __iter__(self) -> Iterator[bytes]:
        for some in self._sorted:
            yield from some.tolist()

    def __len__(self) -> int:
        return sum(map(len, self._sorted))

    def shared_with(self, keys: NDArray[np.bytes_]) -> set[bytes]:
        """Those of the keys (n,) that are in the set."""
        found: set[bytes] = set()
        for some in self._sorted:
            at = np.minimum(np.searchsorted(some, keys), len(some) - 1)
            found.update(keys[some[at] == keys].tolist())
        return found
