"""Batches through stages that work at the same time: a thread a stage, and bounded queues between them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

DEPTH = 2
"""Batches that may wait before a stage: enough to even out stages of uneven speed, few enough to hold in memory."""
_POLL = 0.1  # seconds after which a waiting thread checks whether the flow was abandoned


@dataclass
class StageTime:
    """Where the time of one stage went, in seconds: ``busy`` at work, ``starved`` of input, ``blocked`` by the next stage."""

    name: str
    batches: int = 0
    busy: float = 0.0
    starved: float = 0.0
    blocked: float = 0.0


class _End:
    """Follows the last batch through the queues; carries the error that ended the flow early, if one did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class Flow(Generic[T]):
    """Iterate to get the batches of ``source`` once every stage has had them, in order.

    stages  (name, function that works on a batch in place) of each
    stop    once set, no further batch is begun; those under way are finished and come out
    depth   how many batches may wait before each stage

    Attributes: ``times``, a StageTime for each stage, which grows as it works; ``cut_short``, whether ``stop`` kept a batch
    from being begun. An exception in the source or a stage is raised by the iteration, after the batches that were ahead of it.
    Closing the iterator ends each thread after the call that it is in; ``close`` also waits for that.
    """

    def __init__(
        self,
        source: Iterable[T],
        stages: Sequence[tuple[str, Callable[[T], None]]],
        *,
        stop: threading.Event | None = None,
        depth: int = DEPTH,
    ) -> None:
        self._source, self._stages = source, list(stages)
        self._stop = stop or threading.Event()
        self._abandoned = threading.Event()
        self._queues: list[queue.Queue[Any]] = [queue.Queue(depth) for _ in range(len(self._stages) + 1)]
        self._threads: list[threading.Thread] = []
        self.cut_short = False
        self.times = [StageTime(name) for name, _ in self._stages]

    def close(self) -> None:
        """End the threads, each after the call that it is in, and wait for them.

        A process that ends while one of them is inside a model's library is torn down under it, and crashes.
        """
        self._abandoned.set()
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[T]:
        self._threads = [threading.Thread(target=self._read_source, daemon=True)]
        self._threads += [threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(len(self._stages))]
        for thread in self._threads:
            thread.start()
        try:
            while True:
                item = self._queues[-1].get()
                if isinstance(item, _End):
                    if item.error is not None:
                        raise item.error
                    return
                yield item
        finally:
            self._abandoned.set()

    def _read_source(self) -> None:
        try:
            for batch in self._source:
                if self._stop.is_set():
                    self.cut_short = True
                    break
                if not self._put(0, batch):
                    break
            self._put(0, _End())
        except BaseException as error:  # handed to whoever iterates
            self._put(0, _End(error))

    def _work(self, i: int) -> None:
        (_, function), spent = self._stages[i], self.times[i]
        while True:
            began = time.perf_counter()
            item = self._get(i)
            got = time.perf_counter()
            spent.starved += got - began
            if item is None:
                return
            if not isinstance(item, _End):
                try:
                    function(item)
                except BaseException as error:
                    self._stop.set()
                    self._put(i + 1, _End(error))
                    return
                finally:
                    spent.batches += 1
                    spent.busy += time.perf_counter() - got
            done = time.perf_counter()
            if not self._put(i + 1, item) or isinstance(item, _End):
                return
            spent.blocked += time.perf_counter() - done

    def _get(self, i: int) -> Any:
        while not self._abandoned.is_set():
            try:
                return self._queues[i].get(timeout=_POLL)
            except queue.Empty:
                continue
        return None

    def _put(self, i: int, item: Any) -> bool:
        while not self._abandoned.is_set():
            try:
                self._queues[i].put(item, timeout=_POLL)
                return True
            except queue.Full:
                continue
        return False
