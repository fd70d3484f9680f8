"""Stages at work at the same time: order, bounds, errors, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from chorus.frontend.flow import DEPTH, Flow


def named(name: str) -> tuple[str, Callable[[list[str]], None]]:
    return name, lambda batch: batch.append(name)


def test_batches_pass_every_stage_in_order() -> None:
    flow = Flow(([str(i)] for i in range(20)), [named("a"), named("b"), named("c")])
    assert list(flow) == [[str(i), "a", "b", "c"] for i in range(20)]
    assert [t.batches for t in flow.times] == [20, 20, 20]
    assert all(t.busy >= 0 and t.starved >= 0 and t.blocked >= 0 for t in flow.times)


def test_no_stages_and_no_batches() -> None:
    assert list(Flow(iter([[1]]), [])) == [[1]]
    assert list(Flow(iter([]), [("a", lambda batch: None)])) == []


def test_stages_work_at_the_same_time() -> None:
    """Two stages that each wait for the other: they would never end if one ran after the other."""
    meet = threading.Barrier(2, timeout=20)

    def first(batch: list[int]) -> None:
        if batch[0] > 0:
            meet.wait()

    def second(batch: list[int]) -> None:
        if batch[0] < 3:
            meet.wait()

    flow = Flow(([i] for i in range(4)), [("a", first), ("b", second)])
    assert list(flow) == [[0], [1], [2], [3]]


def test_a_fast_stage_waits_for_a_slow_one() -> None:
    begun: list[int] = []
    go = threading.Event()

    def source() -> Iterator[list[int]]:
        for i in range(100):
            begun.append(i)
            yield [i]

    flow = Flow(source(), [("fast", lambda batch: None), ("slow", lambda batch: go.wait() and None)])
    batches = iter(flow)
    timer = threading.Timer(0.5, go.set)
    timer.start()
    next(batches)
    # one in the slow stage, one in the hands of each thread before it, the queues full
    assert len(begun) <= 3 * DEPTH + 4 + 2 * DEPTH
    assert len(list(batches)) == 99


def test_an_error_comes_after_the_batches_before_it_and_ends_the_run() -> None:
    begun: list[int] = []

    def source() -> Iterator[list[int]]:
        for i in range(1000):
            begun.append(i)
            yield [i]

    def fails(batch: list[int]) -> None:
        if batch[0] == 5:
            raise RuntimeError("the sixth")

    seen: list[list[int]] = []
    with pytest.raises(RuntimeError, match="the sixth"):
        seen.extend(Flow(source(), [("ok", lambda b: None), ("fails", fails), ("after", lambda b: None)]))
    assert seen == [[0], [1], [2], [3], [4]]
    assert len(begun) < 50
    before = len(begun)
    time.sleep(0.3)
    assert len(begun) <= before + 1


def test_an_error_of_the_source_is_raised() -> None:
    def source() -> Iterator[list[int]]:
        yield [1]
        raise OSError("no more")

    seen: list[list[int]] = []
    with pytest.raises(OSError, match="no more"):
        seen.extend(Flow(source(), [("a", lambda b: None)]))
    assert seen == [[1]]


def test_stopping_finishes_what_was_begun() -> None:
    stop, begun = threading.Event(), []

    def work(batch: list[int]) -> None:
        begun.append(batch[0])

    seen = []
    for batch in Flow(([i] for i in range(10_000)), [("a", work), ("b", lambda b: None)], stop=stop):
        seen.append(batch[0])
        if len(seen) == 3:
            stop.set()
    assert seen == begun
    assert 3 <= len(seen) < 30


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    for batch in Flow(([i] for i in range(10_000)), [("a", lambda b: None), ("b", lambda b: None)]):
        if batch[0] == 3:
            break
    for _ in range(100):
        if threading.active_count() <= before:
            break
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_closing_waits_for_the_calls_that_the_threads_are_in() -> None:
    inside, done = threading.Event(), threading.Event()

    def slow(batch: list[int]) -> None:
        if batch[0] == 1:
            inside.set()
            time.sleep(0.3)
            done.set()

    flow = Flow(([i] for i in range(100)), [("slow", slow), ("after", lambda b: None)])
    batches = iter(flow)
    assert next(batches) == [0]
    assert inside.wait(20)
    assert not done.is_set()
    before = threading.active_count()
    flow.close()
    assert done.is_set()
    assert threading.active_count() == before - 3


def test_only_what_was_not_begun_is_cut_short() -> None:
    stop = threading.Event()
    flow = Flow(([i] for i in range(2)), [("a", lambda b: None)], stop=stop)
    assert len(list(flow)) == 2
    stop.set()
    assert not flow.cut_short
    flow = Flow(([i] for i in range(2)), [("a", lambda b: None)], stop=stop)
    assert list(flow) == []
    assert flow.cut_short
