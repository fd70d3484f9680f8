"""Threads of the compiled kernels: how many, and pieces of work given to them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache, partial
from typing import Any

import torch
from numba.core.compiler_lock import global_compiler_lock


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
    """Call ``work`` with every item, on several threads, the caller's among them: waking another takes time, in which the
    caller gets on. Where a call raises, or the caller is interrupted, no further item is begun, and those begun are waited for.
    """
    waiting = deque(items)

    def drain() -> None:
        while True:
            try:
                item = waiting.popleft()
            except IndexError:
                return
            try:
                work(item)
            except BaseException:
                waiting.clear()
                raise

    helpers = min(threads, len(waiting)) - 1
    if helpers < 1:
        drain()
        return
    pool = _pool(helpers)
    others = [pool.submit(drain) for _ in range(helpers)]
    try:
        drain()
    finally:
        waiting.clear()  # for an interrupt between two items
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    for other in begun:
        other.result()


def run_pieces(threads: int, work: Callable[[int, int], Any], pieces: list[tuple[int, int]]) -> None:
    """Call ``work`` with begin and end of every piece, on several threads."""
    each(threads, lambda piece: work(*piece), pieces)


def split(total: int, step: int) -> list[tuple[int, int]]:
    """0 .. total in pieces of ``step``, the last one shorter: (begin, end) each."""
    return [(first, min(total, first + step)) for first in range(0, total, step)]


if hasattr(os, "register_at_fork"):
    # GNU's OpenMP, which PyTorch is built with, waits for ever for its parent's threads. One thread needs none of them; a
    # process that is sure that its parent had not computed yet may set more.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))
    # A fork waits for a compilation in another thread, which would leave the forked process a lock that nobody releases.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
