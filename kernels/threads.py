"""Threads of the compiled kernels: how many, and pieces of work given to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any


def default_threads() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="chorus-kernels")


if hasattr(os, "register_at_fork"):
    # A forked process has the pools of its parent, but not their threads: work given to them would wait for ever.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def each(threads: int, work: Callable[..., Any], items: Iterable[Any]) -> None:
    """Call ``work`` with every item, on several threads."""
    if threads == 1:
        for item in items:
            work(item)
    else:
        list(_pool(threads).map(work, items))


def run_pieces(threads: int, work: Callable[[int, int], Any], pieces: list[tuple[int, int]]) -> None:
    """Call ``work`` with begin and end of every piece, on several threads."""
    each(threads, lambda piece: work(*piece), pieces)


def split(total: int, step: int) -> list[tuple[int, int]]:
    """0 .. total in pieces of ``step``, the last one shorter: (begin, end) each."""
    return [(first, min(total, first + step)) for first in range(0, total, step)]
