"""The most memory that a piece of work takes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_EVERY = 0.01  # seconds between two looks
_STATM = Path("/proc/self/statm")


@dataclass
class Peak:
    """Bytes, set once the work is over; None where this machine does not tell.

    rss     the most memory that the process held during the work (resident set size), with what it held before
    before  what it held when the work began
    gpu     the most that torch held on the GPU during the work, None without one
    """

    rss: int | None = None
    before: int | None = None
    gpu: int | None = None


@contextmanager
def peak_memory(device: str) -> Iterator[Peak]:
    """Yields a Peak of the work inside, whose ``device`` is torch's name of where models are."""
    found = Peak(before=_rss())
    on_gpu = device.startswith("cuda")
    if on_gpu:
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    highest_before, over = _highest(), threading.Event()
    seen = [found.before or 0]

    def look() -> None:
        while not over.wait(_EVERY):
            seen[0] = max(seen[0], _rss() or 0)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
        highest = _highest()
        if highest is not None and highest_before is not None and highest > highest_before:
            found.rss = highest  # the work set the process's record, which the system keeps to the byte
        elif found.before is not None:
            found.rss = max(seen[0], _rss() or 0)
        if on_gpu:
            found.gpu = torch.cuda.max_memory_allocated(device)


def _rss() -> int | None:
    """Bytes of memory that the process holds now; None where the system does not tell."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _highest() -> int | None:
    """The most bytes of memory that the process ever held; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
