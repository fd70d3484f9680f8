"""Work that several processes share: shares of it by number, and the processes that ``torchrun`` started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from chorus.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """The ``number``-th of ``of`` shares of some work, from 1. InputError for a number that is not among them."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise InputError(f"share: expected i/n with i from 1 to n, got {self}")

    @classmethod
    def parse(cls, text: str) -> Share:
        """The share that "i/n" names. InputError for another text."""
        number, slash, of = text.partition("/")
        if not slash or not number.strip().isdecimal() or not of.strip().isdecimal():
            raise InputError(f"share: expected i/n, such as 1/4, got {text!r}")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def whole(self) -> bool:
        """Whether it is all of the work."""
        return self.of == 1


def share_by_size(sizes: Sequence[int], share: Share) -> list[int]:
    """The positions of the items of these sizes that a share has: neighbours, of about as large a sum as every share's."""
    total, before, found = sum(sizes), 0, []
    for position, size in enumerate(sizes):
        # The share that has the item's middle; in whole numbers, and in the last one where that is the very end.
        owner = min((2 * before + size) * share.of // max(2 * total, 1), share.of - 1)
        if owner == share.number - 1:
            found.append(position)
        before += size
    return found


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run.

    rank     its number, from 0      world  how many processes there are      local_rank  its number on this machine
    on_gpus  whether each has a GPU of its own, over which tensors are exchanged (NCCL)
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    on_gpus: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the process that decides and reports."""
        return self.rank == 0

    @property
    def as_share(self) -> Share:
        """This process's share of work that all of them do."""
        return Share(self.rank + 1, self.world)

    def share(self, items: Sequence[T]) -> list[T]:
        """Every ``world``-th of the items, beginning with the ``rank``-th."""
        return list(items[self.rank :: self.world])

    def sums(self, numbers: Sequence[int]) -> list[int]:
        """Whole numbers added up over all processes, in all of them, each as it has them."""
        if self.world == 1:
            return list(numbers)
        import torch
        import torch.distributed as dist

        total = torch.tensor(list(numbers), dtype=torch.int64)
        dist.all_reduce(total)
        found: list[int] = total.tolist()
        return found

    def agree(self, find_out: Callable[[], T]) -> T:
        """The result of ``find_out``, which only the first process calls, in all processes; its error is raised in all."""
        if self.world == 1:
            return find_out()
        import torch.distributed as dist

        shared: list[Any] = [None]
        if self.first:
            try:
                shared = [(find_out(), None)]
            except Exception as error:
                shared = [(None, error)]
                dist.broadcast_object_list(shared, src=0)
                raise
        dist.broadcast_object_list(shared, src=0)
        value, failure = shared[0]
        if failure is not None:
            raise failure
        return cast(T, value)


def several_processes() -> bool:
    """Whether torchrun has started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


@contextmanager
def ranks(*, gpus: bool = False) -> Iterator[Ranks]:
    """The processes that ``torchrun`` started, joined over gloo; a single process where it was not used.

    gpus  give each process the GPU of its local rank, and exchange tensors on GPUs over NCCL, where there are enough of them

    Raises InputError for environment variables that torchrun would not set.
    """
    if "WORLD_SIZE" not in os.environ:  # a RANK alone is somebody else's
        yield Ranks()
        return
    found: dict[str, int] = {}
    for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)):
        text = os.environ.get(name, str(default))
        if not text.isdecimal():
            raise InputError(f"{name}: expected a number, as torchrun sets it, got {text!r}")
        found[name] = int(text)
    world, local = found["WORLD_SIZE"], found["LOCAL_RANK"]
    if found["RANK"] >= world:
        raise InputError(f"RANK: expected a number below WORLD_SIZE, {world}, as torchrun sets it, got {found['RANK']}")
    if world == 1:
        yield Ranks(found["RANK"], world, local)
        return
    import torch
    import torch.distributed as dist

    on_gpus = gpus and torch.cuda.is_available() and torch.cuda.device_count() >= found["LOCAL_WORLD_SIZE"]
    if on_gpus:
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", **_meeting_place(found["RANK"], world))
    try:
        yield Ranks(found["RANK"], world, local, on_gpus)
    finally:
        dist.destroy_process_group()


def _meeting_place(rank: int, world: int) -> dict[str, Any]:
    """Where the processes find each other, as ``init_process_group`` takes it.

    A group that torchrun starts again is given the store of the one before, in which it would find the addresses of dead
    processes, and wait for them: each attempt gets a part of the store of its own.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    import torch.distributed as dist

    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world, False)  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {"store": dist.PrefixStore(f"/chorus/attempt-{attempt}", store), "rank": rank, "world_size": world}  # type: ignore[attr-defined]
