"""Batches that shrink until they fit, and remember it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import pytest
import torch

from chorus.errors import InputError
from chorus.frontend.batching import BatchLimit, free_memory, in_batches, is_out_of_memory
from chorus.frontend.stages import Runtime


class Device:
    """Squares numbers, ``room`` of them at a time."""

    def __init__(self, room: int, error: BaseException | None = None) -> None:
        self.room = room
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.sizes: list[int] = []

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise self.error
        return [i * i for i in batch]


def test_halves_until_it_fits_and_remembers() -> None:
    device, limit = Device(3), BatchLimit(8)
    items = list(range(11))
    assert in_batches(items, device, limit) == [i * i for i in items]
    assert device.sizes == [8, 4, 2, 2, 2, 2, 2, 1]
    assert limit.most == 2
    device.sizes.clear()
    assert in_batches(items[:4], device, limit) == [0, 1, 4, 9]
    assert device.sizes == [2, 2]


def test_a_short_batch_that_fails_halves_what_was_tried() -> None:
    device, limit = Device(2), BatchLimit(64)
    assert in_batches([1, 2, 3], device, limit) == [1, 4, 9]
    assert device.sizes == [3, 1, 1, 1]
    assert limit.most == 1


def test_nothing_to_do() -> None:
    device = Device(1)
    assert in_batches([], device, BatchLimit(4)) == []
    assert device.sizes == []


def test_no_room_for_one() -> None:
    with pytest.raises(InputError, match="room for one item"):
        in_batches([1, 2], Device(0), BatchLimit(2))


def test_no_room_for_one_can_be_refused() -> None:
    def call(batch: Sequence[int]) -> list[int]:
        if 3 in batch:
            raise torch.OutOfMemoryError("out of memory")
        return [i * i for i in batch]

    limit = BatchLimit(4)
    assert in_batches([1, 2, 3, 4], call, limit, refuse=lambda item: -item) == [1, 4, -3, 16]
    assert limit.most == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Allocation on device"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_what_counts_as_out_of_memory(error: BaseException) -> None:
    assert is_out_of_memory(error)
    assert in_batches([1, 2], Device(1, error), BatchLimit(2)) == [1, 4]


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        in_batches([1, 2], Device(1, RuntimeError("mat1 and mat2 shapes cannot be multiplied")), BatchLimit(2))
    with pytest.raises(InputError, match="expected 2 results"):
        in_batches([1, 2], lambda batch: [0], BatchLimit(2))


def test_what_the_failed_attempt_held_is_let_go() -> None:
    """Otherwise the second attempt would find the memory of the first still taken."""
    held: list[weakref.ref[torch.Tensor]] = []

    def call(batch: Sequence[int]) -> list[int]:
        if held:
            assert held[0]() is None
            return list(batch)
        big = torch.zeros(1000)
        held.append(weakref.ref(big))
        raise torch.OutOfMemoryError(f"out of memory, holding {big.numel()} numbers")

    gc.disable()
    try:
        assert in_batches([1, 2], call, BatchLimit(2)) == [1, 2]
    finally:
        gc.enable()


def test_limits() -> None:
    assert BatchLimit.of(Runtime(batch_size=3), bytes_per_item=1 << 60).most == 3
    assert BatchLimit.of(Runtime()).most == 8
    assert BatchLimit.of(Runtime(), bytes_per_item=1 << 60).most == 1
    assert BatchLimit.of(Runtime(), bytes_per_item=1, most=5).most == 5
    assert free_memory("meta") is None
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(InputError, match="batch size: expected a whole number from 1"):
            BatchLimit(wrong)  # type: ignore[arg-type]
