"""Which images an occupancy has counted: exactly, so that none is counted twice, and compactly.

Images of stores are known by the digest of their shard and their row in it, two bits a row; all images by a hash of their keys,
8 bytes each, up to HASHES_KEPT of them. Beyond that only shards tell, and the smallest hashes (``Occupancy.sketch``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chorus.camera.views import fold_of_hash
from chorus.errors import InputError

if TYPE_CHECKING:
    from chorus.store import Store

HASHES_KEPT = 1 << 22
"""Images whose hashes are kept, 32 MiB; of more, none is."""


@dataclass(frozen=True, eq=False)
class ShardRows:
    """What of a shard was counted.

    images  rows of the shard
    read    (ceil(images / 8),) uint8, packed bits: the rows that the selection has taken; they are in the groups' totals
    voted   likewise: those of them that also voted (all, unless there is a condition on body parts)
    """

    images: int
    read: NDArray[np.uint8]
    voted: NDArray[np.uint8]

    def rows_read(self) -> NDArray[np.bool_]:
        """(images,) bool."""
        return np.unpackbits(self.read, count=self.images).astype(np.bool_)

    @property
    def num_read(self) -> int:
        return int(np.unpackbits(self.read, count=self.images).sum())


@dataclass(frozen=True, eq=False)
class Counted:
    """A set of images that were counted.

    num_images  that voted           hashes  (n,) uint64, ascending, of the keys of those that voted; None: too many were
    shards      digest of a shard -> which of its rows; the images in memory are in none
    """

    num_images: int = 0
    hashes: NDArray[np.uint64] | None = field(default_factory=lambda: np.zeros(0, np.uint64))
    shards: Mapping[str, ShardRows] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Whether the same images were counted, known in the same way."""
        if not isinstance(other, Counted) or self.shards.keys() != other.shards.keys():
            return False
        in_order = Counted(other.num_images, other.hashes, {digest: other.shards[digest] for digest in self.shards})
        mine, theirs = self.to_arrays(), in_order.to_arrays()
        return mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)

    def __or__(self, other: Counted) -> Counted:
        """The union of two disjoint sets."""
        shards = dict(self.shards)
        for digest, theirs in other.shards.items():
            mine = shards.get(digest)
            shards[digest] = (
                theirs
                if mine is None
                else ShardRows(_same_rows(digest, mine, theirs), mine.read | theirs.read, mine.voted | theirs.voted)
            )
        total = self.num_images + other.num_images
        hashes = None
        if self.hashes is not None and other.hashes is not None and total <= HASHES_KEPT:
            hashes = _ascending([self.hashes, other.hashes])
        return Counted(total, hashes, shards)

    def shared_with(self, other: Counted) -> int:
        """How many images are known to be in both sets; exact where both have hashes, or all images are in the same shards."""
        by_row = 0
        for digest in self.shards.keys() & other.shards.keys():
            mine, theirs = self.shards[digest], other.shards[digest]
            _same_rows(digest, mine, theirs)
            by_row += int(np.unpackbits(mine.voted & theirs.voted).sum())
        if self.hashes is None or other.hashes is None:
            return by_row
        return max(by_row, np.intersect1d(self.hashes, other.hashes, assume_unique=True).size)

    def of_folds(self, folds: list[int]) -> Counted | None:
        """Those of some folds; None where their hashes were not kept."""
        if self.hashes is None:
            return None
        hashes = self.hashes[np.isin(fold_of_hash(self.hashes), folds)]
        return Counted(len(hashes), hashes)

    def rows_left(self, store: Store, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows (m,) int64, ascending, of a store have not been read, (m,) bool."""
        left = np.ones(len(rows), np.bool_)
        first = 0
        for shard in store.shards:
            known = self.shards.get(shard.sha256)
            if known is not None:
                begin, end = np.searchsorted(rows, [first, first + len(shard)])
                left[begin:end] = ~known.rows_read()[rows[begin:end] - first]
            first += len(shard)
        return left

    # --- as arrays, for files and messages between processes ---------------------------------------------------------------

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What ``from_arrays`` makes the set of again: digests (S, 32) uint8, images (S,), bits, hashes where there are any."""
        digests = [np.frombuffer(bytes.fromhex(digest), np.uint8) for digest in self.shards]
        arrays: dict[str, NDArray[Any]] = {
            "num_images": np.array(self.num_images, np.int64),
            "digests": np.array(digests, np.uint8).reshape(-1, 32),
            "images": np.array([rows.images for rows in self.shards.values()], np.int64),
            "read": np.concatenate([np.zeros(0, np.uint8), *(rows.read for rows in self.shards.values())]),
            "voted": np.concatenate([np.zeros(0, np.uint8), *(rows.voted for rows in self.shards.values())]),
        }
        return arrays if self.hashes is None else {**arrays, "hashes": self.hashes}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Counted:
        """The set from the arrays of ``to_arrays``. InputError for arrays that do not fit together."""
        digests, images, num_images = (np.asarray(arrays[name]) for name in ("digests", "images", "num_images"))
        bits = {name: np.asarray(arrays[name]) for name in ("read", "voted")}
        if images.ndim != 1 or any(b.ndim != 1 for b in bits.values()):
            raise InputError("counted: expected lists of numbers of images and of bits, got arrays of other shapes")
        sizes = -(-images.astype(np.int64) // 8) if images.dtype.kind in "iu" else np.zeros(0, np.int64)
        ends = np.cumsum(sizes)
        if (
            digests.dtype != np.uint8
            or digests.shape != (len(images), 32)
            or images.dtype != np.int64
            or (images < 1).any()
            or (sizes > len(bits["read"])).any()  # before sums that could wrap
            or num_images.dtype != np.int64
            or num_images.shape != ()
            or num_images < 0
            or any(b.dtype != np.uint8 or b.shape != (int(sizes.sum()),) for b in bits.values())
        ):
            raise InputError("counted: expected digests, numbers of images and two bits for each, got arrays that do not fit")
        hashes = np.asarray(arrays["hashes"]) if "hashes" in arrays else None
        if hashes is not None and (hashes.dtype != np.uint64 or hashes.ndim != 1 or (hashes[1:] <= hashes[:-1]).any()):
            raise InputError("counted: expected ascending hashes of uint64, got others")
        shards = {
            digests[s].tobytes().hex(): ShardRows(
                int(images[s]), bits["read"][ends[s] - sizes[s] : ends[s]], bits["voted"][ends[s] - sizes[s] : ends[s]]
            )
            for s in range(len(images))
        }
        return cls(int(num_images), hashes, shards)


class CountedImages:
    """Makes a ``Counted`` while images are counted.

    store  the store whose rows are counted; None for images in memory
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._read, self._voted = (np.zeros(0 if store is None else len(store), np.bool_) for _ in range(2))
        self._hashes: list[NDArray[np.uint64]] | None = []
        self._images = 0

    def add(self, rows: NDArray[np.int64] | None, voted: NDArray[np.bool_], hashes: NDArray[np.uint64]) -> None:
        """Images that were counted: their rows in the store (n,), which of them voted (n,) bool, the hashes of these (v,)."""
        if rows is not None:
            self._read[rows] = True
            self._voted[rows[voted]] = True
        self._images += len(hashes)
        if self._images > HASHES_KEPT:
            self._hashes = None
        if self._hashes is not None:
            self._hashes.append(hashes)

    def so_far(self) -> Counted:
        """The images counted until now."""
        hashes = None if self._hashes is None else _ascending(self._hashes)
        shards = {}
        first = 0
        for shard in [] if self._store is None else self._store.shards:
            read, voted = (bits[first : first + len(shard)] for bits in (self._read, self._voted))
            if read.any():
                shards[shard.sha256] = ShardRows(len(shard), np.packbits(read), np.packbits(voted))
            first += len(shard)
        return Counted(self._images, hashes, shards)


def _ascending(parts: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """All hashes of some arrays, each once, ascending; by sorting, which is several times as fast as ``np.unique`` here."""
    hashes = np.concatenate([np.zeros(0, np.uint64), *parts])
    hashes.sort(kind="stable")
    return hashes[np.concatenate([[True], hashes[1:] != hashes[:-1]])] if len(hashes) else hashes


def _same_rows(digest: str, mine: ShardRows, theirs: ShardRows) -> int:
    if mine.images != theirs.images:
        raise InputError(f"counted: expected {mine.images} rows of shard {digest[:12]} as elsewhere, got {theirs.images}")
    return mine.images
