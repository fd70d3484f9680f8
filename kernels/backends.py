"""Which code counts the votes: by name, or the best that can run here."""

from __future__ import annotations

import importlib
import logging
from functools import lru_cache
from typing import Protocol

from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField

log = logging.getLogger(__name__)

BACKENDS = {"numba": "chorus.kernels.cpu", "reference": "chorus.kernels.reference"}
"""Backends and the modules that hold their ``count_votes``, best first."""


class CountVotes(Protocol):
    """The call that every backend answers; see ``chorus.kernels.arrays``."""

    def __call__(
        self,
        field: VoxelField,
        images: VoteImages,
        group: Tensor,
        weight: Tensor | None = None,
        *,
        num_groups: int,
        out: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]: ...


@lru_cache
def vote_backend(name: str = "auto") -> tuple[str, CountVotes]:
    """The backend's name and its ``count_votes``. ``auto`` takes numba. The choice is logged once.

    Raises ValueError for a name that is not known, ImportError where what was asked for cannot run here.
    """
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"backend: expected auto, {', '.join(BACKENDS)}; got {name!r}")
    chosen = "numba" if name == "auto" else name
    count_votes: CountVotes = importlib.import_module(BACKENDS[chosen]).count_votes
    log.info("vote backend: %s (%s)", chosen, "asked for" if name == chosen else "the fastest on a CPU")
    return chosen, count_votes
