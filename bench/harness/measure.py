"""Interleaved timing on a shared machine, the clock, and probes that need a process of their own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np


@dataclass(frozen=True)
class Contender:
    """Something to time: ``call()`` handles ``items`` of ``unit``; further facts go to the record as they are.

    ``before()``, if given, is called before each call, untimed.
    """

    name: str
    call: Callable[[], Any]
    items: int
    unit: str = "images"
    facts: dict[str, Any] | None = None
    before: Callable[[], Any] = lambda: None


def forget_files(folder: Path) -> None:
    """Let the system drop its cached pages of every file below a folder, so that the next to read them waits for the disk.

    Pages that a process has mapped stay. AttributeError on systems without ``posix_fadvise``.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # pages not yet written cannot be dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def interleaved(benchmark: Any, contenders: Sequence[Contender], rounds: int) -> list[dict[str, Any]]:
    """Time the first contender with pytest-benchmark and the others between its rounds; one record each.

    What else runs on the machine then slows all of them alike. Records go into ``benchmark.extra_info["contenders"]``:
    name, items, unit, the seconds of every round, median, interquartile range, least, and items per second by the median.
    Each is called once untimed first.
    """
    first, *others = contenders
    seconds: dict[str, list[float]] = {other.name: [] for other in others}

    def time_the_others() -> None:
        for other in others:
            other.before()
            began = time.perf_counter()
            other.call()
            seconds[other.name].append(time.perf_counter() - began)
        first.before()

    for contender in contenders:
        contender.call()
    benchmark.pedantic(first.call, setup=time_the_others, rounds=rounds)
    if benchmark.stats is None:  # pytest --benchmark-disable
        return []
    seconds[first.name] = list(benchmark.stats.stats.data)
    records = [record(contender, seconds[contender.name]) for contender in contenders]
    benchmark.extra_info["contenders"] = records
    return records


def affordable(call: Callable[[int], Any], asked: int, seconds: float, step: int = 1) -> tuple[int, float]:
    """How many of ``asked`` items ``call(items)`` handles in about ``seconds``, and in what time; in steps unless it is all.

    Found by trying with ever more, at most 8 times more at once; every try is one warm call.
    """
    items, before = min(step, asked), (0, 0.0)
    while True:
        call(items)  # compiles, fills caches
        began = time.perf_counter()
        call(items)
        took = time.perf_counter() - began
        if items == asked or took > seconds:
            return items, took
        # A call costs something whatever it is given, so what one more item costs is told by two calls; by one at first.
        each = (took - before[1]) / (items - before[0]) if before[0] else took / (4 * items)
        fits = items + (seconds - took) / max(each, 1e-9)
        if fits < 1.5 * items:
            return items, took
        before = items, took
        items = int(min(asked, 8 * items, fits))
        items = items if items == asked else max(items // step * step, before[0] + step)
        items = min(items, asked)


def rounds_for(longest: float, seconds: float, least: int = 3, most: int = 15) -> int:
    """Rounds of calls of that many seconds that take about ``seconds`` together."""
    return int(min(most, max(least, seconds / max(longest, 1e-9))))


def record(contender: Contender, seconds: Sequence[float]) -> dict[str, Any]:
    """The figures of one contender from the seconds of its rounds."""
    median = statistics.median(seconds)
    low, high = np.quantile(seconds, (0.25, 0.75))
    return {
        "name": contender.name,
        "items": contender.items,
        "unit": contender.unit,
        "rounds": len(seconds),
        "median_s": median,
        "iqr_s": float(high - low),
        "min_s": min(seconds),
        "per_s": contender.items / median,
        **(contender.facts or {}),
    }


@nb.njit(nogil=True)
def _chain(steps):  # type: ignore[no-untyped-def]
    """Six dependent one-cycle operations a step (three shifts, three exclusive ors), which no compiler can shorten."""
    x = np.uint64(88172645463325252)
    for _ in range(steps):
        x ^= x << np.uint64(13)
        x ^= x >> np.uint64(7)
        x ^= x << np.uint64(17)
    return x


def clock_hz(threads: int) -> float:
    """The clock of the cores when ``threads`` of them work, in Hz: six cycles a step of a chain of dependent operations.

    Virtual machines report the nominal clock in /proc/cpuinfo whatever the real one is. Of many short runs the fastest
    counts, as the others were interrupted; the median over threads. Meant for x86.
    """
    steps = 200_000
    _chain(1)

    def fastest() -> float:
        best = float("inf")
        for _ in range(300):
            began = time.perf_counter()
            _chain(steps)
            best = min(best, time.perf_counter() - began)
        return 6 * steps / best

    with ThreadPoolExecutor(threads) as pool:
        return statistics.median(f.result() for f in [pool.submit(fastest) for _ in range(threads)])


_FIELD_PROBE = """
import json, sys, time
from pathlib import Path
from chorus.body.model import load_body
from chorus.field import CanonicalField

def peak():
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

body = load_body()
CanonicalField(body, 8, cache=False)
before, began = peak(), time.perf_counter()
CanonicalField(body, int(sys.argv[1]), cache=False)
print(json.dumps({"seconds": time.perf_counter() - began, "peak_bytes": peak(), "before_bytes": before}))
"""

_COMPILE_PROBE = """
import json, time
from bench.harness.workloads import vote_workload
from chorus.body.model import load_body
from chorus.field import CanonicalField
from chorus.kernels.cpu.votes import count_votes

body = load_body()
field = CanonicalField(body, 8, canonicalize=False).arrays
work = vote_workload(body, 1)
seconds = []
for _ in range(2):
    began = time.perf_counter()
    count_votes(field, work.images, work.group, num_groups=work.num_groups)
    seconds.append(time.perf_counter() - began)
print(json.dumps({"seconds": seconds[0] - seconds[1]}))
"""


def field_probe(resolution: int) -> dict[str, float]:
    """Seconds to make a field without cache in a fresh process, and its peak of resident memory before and after.

    The peak is the process's own (VmHWM): ru_maxrss would start at that of the process that started it.
    """
    return _probe(_FIELD_PROBE, [str(resolution)])


def compile_seconds() -> float:
    """Seconds that the first vote takes longer than the second, in a process with an empty compilation cache."""
    with tempfile.TemporaryDirectory() as cache:
        return _probe(_COMPILE_PROBE, [], NUMBA_CACHE_DIR=cache)["seconds"]


def _probe(code: str, arguments: list[str], **environment: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the probe failed:\n{done.stderr}")
    facts: dict[str, float] = json.loads(done.stdout)
    return facts
