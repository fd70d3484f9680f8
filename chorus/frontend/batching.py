"""Batches as large as the memory allows: a batch that does not fit is halved and tried again, and the size remembered."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from chorus.errors import InputError
from chorus.frontend.stages import Runtime

START = 8
"""Items of a first batch where it is not known how much memory an item takes."""

_SPARE = 0.8
"""The share of the free memory that an estimate plans with; the rest is for growth and fragmentation."""

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
"""Words in allocators' messages: CUDA, HIP and MPS; torch's own for the CPU, in two wordings; cuBLAS and cuDNN."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class BatchLimit:
    """The most items that a model is given at a time. It only ever shrinks, and is kept from one call to the next.

    One for each model: how much room one model needs says nothing about another.
    """

    most: int

    def __post_init__(self) -> None:
        if isinstance(self.most, bool) or not isinstance(self.most, int) or self.most < 1:
            raise InputError(f"batch size: expected a whole number from 1, got {self.most!r}")

    @classmethod
    def of(cls, runtime: Runtime, bytes_per_item: int | None = None, most: int = START) -> BatchLimit:
        """``runtime.batch_size``, or else what fits the free memory of the device, ``most`` at most.

        ``bytes_per_item`` is a rough figure of what a model takes for one item beside its weights, which are to be loaded
        before this is called; without it the limit is ``most`` until memory runs out.
        """
        if runtime.batch_size is not None:
            return cls(runtime.batch_size)
        free = free_memory(runtime.device) if bytes_per_item else None
        if bytes_per_item is None or free is None:
            return cls(most)
        return cls(max(1, min(most, int(free * _SPARE) // bytes_per_item)))


def free_memory(device: str) -> int | None:
    """Free bytes of a torch device, of the machine's memory for "cpu"; None where it cannot be told."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Memory that torch holds and does not use counts as taken to the driver, but is free to us.
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if kind == "cpu" and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on whatever device. Some backends raise a plain RuntimeError."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def in_batches(
    items: Sequence[Item],
    call: Callable[[Sequence[Item]], Sequence[Result]],
    limit: BatchLimit,
    refuse: Callable[[Item], Result] | None = None,
) -> list[Result]:
    """``call`` on all items, at most ``limit.most`` at a time; one result for each, in order.

    Where memory runs out, the limit becomes half of the batch that failed and the same items are tried again. An item that
    does not fit even alone gets ``refuse(item)`` as its result; without ``refuse`` that is an InputError, which is right where
    all items have one size, so that none would ever fit. Other exceptions pass through.
    """
    results: list[Result] = []
    while len(results) < len(items):
        batch = items[len(results) : len(results) + limit.most]
        made = _attempt(call, batch)
        if made is None:
            _release()
            if len(batch) > 1:
                limit.most = len(batch) // 2
            elif refuse is not None:
                results.append(refuse(batch[0]))
            else:
                raise InputError("memory: expected room for one item at a time on this device, got none")
            continue
        if len(made) != len(batch):
            raise InputError(f"expected {len(batch)} results of a batch of as many, got {len(made)}")
        results.extend(made)
    return results


def _attempt(call: Callable[[Sequence[Item]], Sequence[Result]], batch: Sequence[Item]) -> Sequence[Result] | None:
    """The results, None where memory ran out. The exception, whose frames hold the tensors, is gone once this returns."""
    try:
        return call(batch)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _release() -> None:
    """Free the memory that a failed attempt has left behind."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
