"""Pieces of work on several threads: each once, errors raised, nothing begun after one."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from chorus.kernels.threads import each


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_every_item_is_worked_on_once(threads: int, count: int) -> None:
    done: Counter[int] = Counter()
    lock = threading.Lock()

    def work(item: int) -> None:
        with lock:
            done[item] += 1

    each(threads, work, range(count))
    assert done == Counter(range(count))


def test_the_caller_and_others_work_at_the_same_time() -> None:
    meeting = threading.Barrier(3)
    workers = set()

    def work(_item: int) -> None:
        meeting.wait(30)  # broken, an error, unless three threads are in it
        workers.add(threading.current_thread())

    each(3, work, range(3))
    assert len(workers) == 3
    assert threading.current_thread() in workers


@pytest.mark.parametrize("by_caller", [True, False])
def test_an_error_is_raised_and_nothing_is_begun_after_it(by_caller: bool) -> None:
    caller, meeting = threading.current_thread(), threading.Barrier(2)
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        meeting.wait(30)
        if (threading.current_thread() is caller) == by_caller:
            raise ValueError("this one")
        time.sleep(0.3)  # until the other has raised

    with pytest.raises(ValueError, match="this one"):
        each(2, work, range(50))
    assert sorted(begun) == [0, 1]


def test_work_may_give_out_work() -> None:
    done = []

    def inner(item: int) -> None:
        done.append(item)

    each(2, lambda outer: each(2, inner, [outer, outer + 10]), range(4))
    assert sorted(done) == [0, 1, 2, 3, 10, 11, 12, 13]
