"""Prefetch for a GPU: a thread reads and joins the next images in pinned memory while the GPU counts the votes of the last."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.images import ImageBatch
from chorus.kernels.arrays import VoteImages
from chorus.kernels.masks import PackedMasks, words_in_box
from chorus.kernels.threads import default_threads

IMAGES = 1 << 16
"""Images in a prefetched batch."""
WORDS = 1 << 28
"""Mask words (32 bits) at which a batch with fewer images is closed: 1 GiB."""
_COPY_THREADS = 4
_CHUNK = 1 << 20  # mask words that a thread copies at a time


@dataclass
class Timings:
    """Seconds that each stage of an aggregation took; the stages of a GPU overlap.

    read             reading and checking poses and cameras, and grouping
    copy             joining arrays and masks in (pinned) memory
    wait_for_images  the consumer waited for a prefetched batch
    wait_for_votes   the prefetching thread waited for the consumer
    gpu              the consumer waited for the GPU to finish an earlier batch
    """

    read: float = 0.0
    copy: float = 0.0
    wait_for_images: float = 0.0
    wait_for_votes: float = 0.0
    gpu: float = 0.0

    def __str__(self) -> str:
        return (
            f"reading {self.read:.2f} s, copying {self.copy:.2f} s, votes waited {self.wait_for_images:.2f} s for images, "
            f"images {self.wait_for_votes:.2f} s for votes, both {self.gpu:.2f} s for the GPU"
        )


@dataclass(frozen=True)
class PrefetchedBatch:
    """Images joined from one or more batches, on the CPU.

    images   what the kernels take
    group    (I,) int64 group of each image        weight  (I,) uint8 integer weights, or None
    batches  the batches joined                    groups  the groups of each, (n,) int64
    """

    images: VoteImages
    group: torch.Tensor
    weight: torch.Tensor | None
    batches: list[ImageBatch]
    groups: list[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.images)


def prefetch(
    batches: Iterator[tuple[ImageBatch, NDArray[np.int64]]],
    *,
    pin: bool,
    device: torch.device | None = None,
    size: int = IMAGES,
    timings: Timings | None = None,
) -> Iterator[PrefetchedBatch]:
    """Join batches to at least ``size`` images (the last may be smaller), one joined batch ahead of the consumer.

    batches  batches with the group of each image, (I,) int64; iterated in a thread, whose errors are raised here
    pin      join in page-locked memory, from which a GPU copies asynchronously
    device   the current device of the thread, where iterating runs kernels (the contacts of Eq. 13); None for the CPU
    timings  gains the seconds of each stage
    """
    timings = timings if timings is not None else Timings()
    ready: queue.Queue[PrefetchedBatch | BaseException | None] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def offer(item: PrefetchedBatch | BaseException | None) -> None:
        began = time.perf_counter()
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                break
            except queue.Full:
                continue
        timings.wait_for_votes += time.perf_counter() - began

    def work() -> None:
        try:
            if device is not None and device.type == "cuda":
                torch.cuda.set_device(device)  # a new thread has device 0 as its current one
            with ThreadPoolExecutor(min(_COPY_THREADS, default_threads())) as pool:
                parts: list[tuple[ImageBatch, NDArray[np.int64]]] = []
                count = words = 0
                began = time.perf_counter()
                for batch, group in batches:
                    parts.append((batch, group))
                    count += len(batch)
                    words += int(words_in_box(batch.masks.box).sum())
                    if count >= size or words >= WORDS:
                        timings.read += time.perf_counter() - began
                        offer(_join(parts, pin, pool, timings))
                        parts, count, words = [], 0, 0
                        began = time.perf_counter()
                    if stop.is_set():
                        return
                timings.read += time.perf_counter() - began
                if parts:
                    offer(_join(parts, pin, pool, timings))
            offer(None)
        except BaseException as error:
            offer(error)

    thread = threading.Thread(target=work, name="chorus-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            began = time.perf_counter()
            item = ready.get()
            timings.wait_for_images += time.perf_counter() - began
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _join(
    parts: list[tuple[ImageBatch, NDArray[np.int64]]], pin: bool, pool: ThreadPoolExecutor, timings: Timings
) -> PrefetchedBatch:
    began = time.perf_counter()
    batches = [batch for batch, _ in parts]

    def joined(arrays: list[NDArray[Any]], dtype: torch.dtype) -> torch.Tensor:
        shape = (sum(len(a) for a in arrays), *arrays[0].shape[1:])
        out = torch.empty(shape, dtype=dtype, pin_memory=pin)
        np.concatenate(arrays, out=out.numpy())
        return out

    pieces: list[NDArray[np.int32]] = []
    starts, at = [], 0
    for batch in batches:
        start, runs, length = _runs(batch.masks)
        starts.append(start + at)
        pieces += [batch.masks.words[first:last].view(np.int32) for first, last in runs]
        at += length
    words = torch.empty(at, dtype=torch.int32, pin_memory=pin)
    _copy(pieces, words.numpy(), pool)
    images = VoteImages(
        poses=joined([b.poses for b in batches], torch.float32),
        R=joined([b.cameras.R for b in batches], torch.float64),
        t=joined([b.cameras.t for b in batches], torch.float64),
        K=joined([b.cameras.K for b in batches], torch.float64),
        size=joined([b.masks.size for b in batches], torch.int32),
        box=joined([b.masks.box for b in batches], torch.int32),
        start=joined(starts, torch.int64),
        words=words,
    )
    weight = None
    if any(b.weights is not None for b in batches):
        weights = [np.ones(len(b), np.uint8) if b.weights is None else b.weights for b in batches]
        weight = joined(weights, torch.uint8)
    result = PrefetchedBatch(images, joined([g for _, g in parts], torch.int64), weight, batches, [g for _, g in parts])
    timings.copy += time.perf_counter() - began
    return result


def _runs(masks: PackedMasks) -> tuple[NDArray[np.int64], list[tuple[int, int]], int]:
    """Where each mask starts once unused words are dropped, the runs (first, last) of words in use, and their total length."""
    length = words_in_box(masks.box)
    if len(length) == 0 or int(length.sum()) == 0:
        return np.zeros(len(length), np.int64), [], 0
    used = np.flatnonzero(length)
    order = used[np.argsort(masks.start[used], kind="stable")]
    begin = masks.start[order]
    end = begin + length[order]
    first_of_run = np.concatenate([[True], begin[1:] != end[:-1]])
    start = np.zeros(len(length), np.int64)
    start[order] = np.cumsum(length[order]) - length[order]
    firsts = np.flatnonzero(first_of_run)
    lasts = np.append(firsts[1:], len(order)) - 1
    return start, list(zip(begin[firsts].tolist(), end[lasts].tolist(), strict=True)), int(length.sum())


def _copy(pieces: list[NDArray[np.int32]], out: NDArray[np.int32], pool: ThreadPoolExecutor) -> None:
    """Concatenate ``pieces`` into ``out`` with a few threads; numpy copies without holding Python's lock."""
    tasks, at = [], 0
    for piece in pieces:
        for first in range(0, len(piece), _CHUNK):
            chunk = piece[first : first + _CHUNK]
            tasks.append((out[at : at + len(chunk)], chunk))
            at += len(chunk)
    list(pool.map(lambda task: np.copyto(*task), tasks))
