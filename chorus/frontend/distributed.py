"""Several processes on one run, started by ``torchrun``: who takes what, and what the first one found out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from chorus.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run: its number, how many there are, its number on this machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that decides and reports."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Every ``world``-th of the items, beginning with the ``rank``-th."""
        return list(items[self.rank :: self.world])

    def agree(self, find_out: Callable[[], T]) -> T:
        """What ``find_out`` gives in the first process, in all of them; an error of it is raised in all of them."""
        if self.world == 1:
            return find_out()
        import torch.distributed as dist

        told: list[Any] = [None]
        if self.first:
            try:
                told = [(find_out(), None)]
            except Exception as error:
                told = [(None, error)]
                dist.broadcast_object_list(told, src=0)
                raise
        dist.broadcast_object_list(told, src=0)
        value, failure = told[0]
        if failure is not None:
            raise failure
        return cast(T, value)


@contextmanager
def ranks() -> Iterator[Ranks]:
    """The processes that ``torchrun`` started, joined over gloo; one by itself where it was not used."""
    found: dict[str, int] = {}
    for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)):
        text = os.environ.get(name, str(default))
        if not text.isdecimal():
            raise InputError(f"{name}: expected a number, as torchrun sets it, got {text!r}")
        found[name] = int(text)
    joined = Ranks(found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"])
    if joined.world == 1:
        yield joined
        return
    import torch.distributed as dist

    # Only a few numbers are exchanged, once, before the work: gloo does, whatever the devices are.
    dist.init_process_group("gloo")
    try:
        yield joined
    finally:
        dist.destroy_process_group()
