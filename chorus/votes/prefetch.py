"""Images from a store to a GPU: read, joined and copied to pinned memory by a thread, while the GPU works on those before."""

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
"""Images that are joined and sent together."""
WORDS = 1 << 28
"""Mask words that are joined at most, a gigabyte."""
_COPY_THREADS = 4
_PIECE = 1 << 20


@dataclass
class Timings:
    """Seconds that each stage of an aggregation took; the stages of a GPU overlap.

    read  reading and checking the small arrays, and grouping; copy  joining the masks in (pinned) memory
    wait_for_images  what the votes waited for the two;  wait_for_votes  what the images waited for the votes
    gpu   waiting for a batch's votes before the one after the next is sent
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
    """Images joined from several batches, on the CPU: as the kernels take them, their groups, weights and keys."""

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
    """Batches joined to at least ``size`` images where there are so many, made ready one ahead of the consumer.

    batches  with the group of each image, (I,) int64; drawn in a thread, what they raise is raised here
    device   the GPU that the thread works with, where it finds contacts
    pin      join them in page-locked memory, from which a GPU copies by itself
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
                torch.cuda.set_device(device)  # a thread starts with the first
            with ThreadPoolExecutor(min(_COPY_THREADS, default_threads())) as pool:
                parts: list[tuple[ImageBatch, NDArray[np.int64]]] = []
                held = words = 0
                began = time.perf_counter()
                for batch, group in batches:
                    parts.append((batch, group))
                    held += len(batch)
                    words += int(words_in_box(batch.masks.box).sum())
                    if held >= size or words >= WORDS:
                        timings.read += time.perf_counter() - began
                        offer(_join(parts, pin, pool, timings))
                        parts, held, words = [], 0, 0
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
        every = [np.ones(len(b), np.uint8) if b.weights is None else b.weights for b in batches]
        weight = joined(every, torch.uint8)
    result = PrefetchedBatch(images, joined([g for _, g in parts], torch.int64), weight, batches, [g for _, g in parts])
    timings.copy += time.perf_counter() - began
    return result


def _runs(masks: PackedMasks) -> tuple[NDArray[np.int64], list[tuple[int, int]], int]:
    """The words that masks use as runs first .. last - 1, where each mask starts in the runs joined, and their length."""
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
    """Concatenate into ``out``; numpy copies without Python's lock, so a few threads share the work."""
    tasks, at = [], 0
    for piece in pieces:
        for first in range(0, len(piece), _PIECE):
            some = piece[first : first + _PIECE]
            tasks.append((out[at : at + len(some)], some))
            at += len(some)
    list(pool.map(lambda task: np.copyto(*task), tasks))
