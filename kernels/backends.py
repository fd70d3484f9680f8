"""Which code counts the votes: by name, or the best that can run here. Nothing here touches a GPU before it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField

log = logging.getLogger(__name__)

BACKENDS = {
    "triton": "chorus.kernels.gpu.votes",
    "numba": "chorus.kernels.cpu.votes",
    "reference": "chorus.kernels.reference.votes",
}
"""Backends and the modules that hold their ``count_votes``, fastest first."""


CONTACTS = {
    "triton": "chorus.kernels.gpu.contacts",
    "numba": "chorus.kernels.cpu.contacts",
    "reference": "chorus.kernels.reference.contacts",
}
"""Modules that hold their ``touched_regions``."""


class BackendUnavailableError(ValueError):
    """The backend asked for cannot run here; the message says why, and what can."""


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


@dataclass(frozen=True)
class Backend:
    """What counts the votes, and where.

    device  where it leaves its counts; images may be there or on the CPU
    """

    name: str
    count_votes: CountVotes
    device: torch.device

    def touched_regions(self, field: VoxelField, regions: Tensor, images: VoteImages) -> Tensor:
        """The contacts of ``chorus.kernels.reference.contacts``: regions (V,) int32 -> (I,) int32, where the images are."""
        touched: Tensor = importlib.import_module(CONTACTS[self.name]).touched_regions(field, regions, images)
        return touched


def why_not_triton() -> str | None:
    """Why the Triton kernels cannot run here, or None."""
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda or torch.version.hip else f" (this PyTorch, {torch.__version__}, is built without one)"
        return f"PyTorch sees no GPU{built}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (pip install 'chorus-hoi[triton]')"
    if torch.version.cuda and torch.cuda.get_device_capability() < (8, 0):
        major, minor = torch.cuda.get_device_capability()
        return f"its kernels need compute capability 8.0 or more, and {torch.cuda.get_device_name()} has {major}.{minor}"
    return None


def vote_backend(name: str = "auto") -> Backend:
    """The backend of a name. ``auto`` takes triton where an NVIDIA GPU can run it, else numba. The choice is logged once.

    Its device is the current one. Raises ValueError for a name that is not known, BackendUnavailableError where what was asked
    for cannot run here.
    """
    chosen = _choose(name)
    count_votes: CountVotes = importlib.import_module(BACKENDS[chosen]).count_votes
    device = torch.device("cuda", torch.cuda.current_device()) if chosen == "triton" else torch.device("cpu")
    return Backend(chosen, count_votes, device)


@lru_cache
def _choose(name: str) -> str:
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"backend: expected auto, {', '.join(BACKENDS)}; got {name!r}")
    reason = "asked for"
    chosen = name
    declined = why_not_triton() if name in ("auto", "triton") else None
    if name == "triton" and declined:
        raise BackendUnavailableError(f"backend: triton cannot run here: {declined}. What can: numba (the fast one), reference")
    if name == "auto":
        if declined is None and torch.version.hip:
            declined = "it has not been run on AMD devices yet; ask for it by name"
        chosen = "triton" if declined is None else "numba"
        reason = "a GPU is there" if declined is None else f"the fastest on a CPU; not triton: {declined}"
    log.info("vote backend: %s (%s)", chosen, reason)
    return chosen
