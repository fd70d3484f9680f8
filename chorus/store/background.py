"""The contents of a store checked in threads while somebody else reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from chorus.store.reader import Store
from chorus.store.schema import Problem
from chorus.store.shard import Shard
from chorus.store.verify import content_problems, duplicate_keys, raise_first

_THREADS = 4  # sha256 goes at 1 to 2 GB/s a thread: these keep up with any disk


class BackgroundCheck:
    """What ``open_store(verify=True)`` checks beyond the structure, in threads of its own, shards in their order.

    Shards at URLs are checked as they arrive, by whoever reads them.

    A store opened with ``verify=False`` can be read meanwhile: structure and masks are sound enough for the kernels, but
    nothing made of it may be kept or shown before ``finish`` has returned. A context manager; leaving it stops the check.

    rows  (m,) int64 the rows that are read: shards without any are left out, but for their keys; None: all
    """

    def __init__(self, store: Store, rows: NDArray[np.int64] | None = None) -> None:
        self._store = store
        self._read = store.shards if rows is None else store.shards_of(rows)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="chorus-check")
        self._found: list[Future[list[Problem]]] = []
        self._looked_at = 0

    def __enter__(self) -> BackgroundCheck:
        self._found = [self._pool.submit(_content, shard) for shard in self._read]
        self._found.append(self._pool.submit(_listed, duplicate_keys, self._store.shards))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def raise_found(self) -> None:
        """StoreError with the first problem of the shards looked at so far, if there is one; does not wait."""
        while self._looked_at < len(self._found) and self._found[self._looked_at].done():
            self._raise_next()

    def finish(self) -> None:
        """Wait for the whole check. StoreError that names the shard and the array of the first problem."""
        while self._looked_at < len(self._found):
            self._raise_next()

    def finish_through(self, shard: Shard) -> None:
        """Wait for the check of the shards up to this one, from any thread. StoreError with the first problem."""
        for of, found in zip(self._read, self._found, strict=False):
            raise_first(found.result(), self._store.path)
            if of is shard:
                return

    def _raise_next(self) -> None:
        problems = self._found[self._looked_at].result()
        raise_first(problems, self._store.path)
        self._looked_at += 1


def _content(shard: Shard) -> list[Problem]:
    return [] if shard.at_url else list(content_problems(shard))


def _listed(problems: Callable[..., Iterable[Problem]], of: Shard | Sequence[Shard]) -> list[Problem]:
    return list(problems(of))
