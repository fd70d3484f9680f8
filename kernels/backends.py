"""Which code does the work: one table of backends for votes, contacts and skinning, and the one choice from it.

A backend is up to three modules (``Modules``) whose functions keep the contracts of ``chorus.kernels.arrays`` (votes),
``chorus.kernels.contacts`` and ``chorus.kernels.skinning``. Another one is added by a call::

    register_backend("mine", Modules(votes="my_package.votes"))

or, for whoever has its package installed, by an entry point of the group ``chorus.backends`` that names such a ``Modules``::

    [project.entry-points."chorus.backends"]
    mine = "my_package:MODULES"

It is then chosen by its name wherever a backend is asked for; ``auto`` chooses among our own. What a backend lacks raises
BackendUnavailableError when it is asked for. Nothing here imports a backend, or touches a GPU, before it is chosen.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from chorus.errors import InputError
from chorus.kernels.arrays import Lattice, VoteImages, VoxelField
from chorus.kernels.depth import BodyDepth

log = logging.getLogger(__name__)

ENTRY_POINTS = "chorus.backends"
"""The group of entry points by which installed packages add backends."""


class BackendUnavailableError(InputError):
    """The backend asked for cannot run here, or cannot do what is asked of it; the message says why, and what can."""


class CountVotes(Protocol):
    """The votes' call; see ``chorus.kernels.arrays``."""

    def __call__(
        self,
        field: VoxelField,
        images: VoteImages,
        group: Tensor,
        weight: Tensor | None = None,
        *,
        depth: BodyDepth | None = None,
        num_groups: int,
        out: tuple[Tensor, ...] | None = None,
    ) -> tuple[Tensor, ...]: ...


class TouchedRegions(Protocol):
    """The contacts' call; see ``chorus.kernels.contacts``."""

    def __call__(self, field: VoxelField, regions: Tensor, images: VoteImages) -> Tensor: ...


class Skinning(Protocol):
    """The functions of a skinning module; see ``chorus.kernels.skinning``."""

    def skinning_weights(
        self, lattice: Lattice, vertices: Tensor, vertex_weights: Tensor, *, k: int, tau: float, s: float
    ) -> tuple[Tensor, Tensor]: ...

    def smooth(self, lattice: Lattice, weights: Tensor, near: Tensor, *, steps: int) -> Tensor: ...

    def sample_canonical(
        self, lattice: Lattice, weights: Tensor, bones: Tensor, phi: Tensor, grid: Lattice, *, inverse: str = ...
    ) -> Tensor: ...

    def posed_phi(
        self,
        lattice: Lattice,
        vertices: Tensor,
        vertex_weights: Tensor,
        bones: Tensor,
        phi: Tensor,
        grid: Lattice,
        *,
        k: int,
        tau: float,
        s: float,
        steps: int,
        inverse: str = ...,
        **kept: Tensor,
    ) -> Tensor: ...


def why_not_triton() -> str | None:
    """Why the Triton kernels cannot run here, or None."""
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda or torch.version.hip else f" (this PyTorch, {torch.__version__}, is built without one)"
        return f"PyTorch sees no GPU{built}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (pip install '.[triton]' in a checkout of the project)"
    if torch.version.cuda and torch.cuda.get_device_capability() < (8, 0):
        major, minor = torch.cuda.get_device_capability()
        return f"its kernels need compute capability 8.0 or more, and {torch.cuda.get_device_name()} has {major}.{minor}"
    return None


def _current_gpu() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def _cpu() -> torch.device:
    return torch.device("cpu")


def _nothing_is_missing() -> str | None:
    return None


@dataclass(frozen=True)
class Modules:
    """A row of the table: where a backend's functions are. Modules, or their names, which are imported when they are needed.

    votes     has ``count_votes``; None where the backend counts no votes
    contacts  has ``touched_regions``; None where it finds no contacts
    skinning  has ``skinning_weights``, ``smooth``, ``sample_canonical``, ``posed_phi``; None where it does no skinning
    device    says where it leaves its results; images may be there or on the CPU
    why_not   says why it cannot run here, in words that complete "cannot run here: ..."; None where it can
    """

    votes: str | ModuleType | None = None
    contacts: str | ModuleType | None = None
    skinning: str | ModuleType | None = None
    device: Callable[[], torch.device] = _cpu
    why_not: Callable[[], str | None] = _nothing_is_missing


BACKENDS: dict[str, Modules] = {
    "triton": Modules(
        votes="chorus.kernels.gpu.votes",
        contacts="chorus.kernels.gpu.contacts",
        skinning="chorus.kernels.gpu.skinning",
        device=_current_gpu,
        why_not=why_not_triton,
    ),
    "numba": Modules(
        votes="chorus.kernels.cpu.votes", contacts="chorus.kernels.cpu.contacts", skinning="chorus.kernels.cpu.skinning"
    ),
    "reference": Modules(
        votes="chorus.kernels.reference.votes",
        contacts="chorus.kernels.reference.contacts",
        skinning="chorus.kernels.reference.skinning",
    ),
}
"""The table: backends by name, fastest first. ``register_backend`` adds to it."""


@dataclass(frozen=True)
class Backend:
    """What does the work, and where.

    name     of the table
    device   where it leaves its results; images may be there or on the CPU
    modules  its row of the table

    Raises BackendUnavailableError where it lacks what is asked for.
    """

    name: str
    device: torch.device
    modules: Modules

    @property
    def count_votes(self) -> CountVotes:
        """Votes of images on voxels, (num, den), and with ``depth`` the hidden ones of both; see ``chorus.kernels.arrays``."""
        return cast(CountVotes, self._module("votes", "counts no votes").count_votes)

    @property
    def counts_hidden(self) -> bool:
        """Whether ``count_votes`` takes ``depth``: backends of others may not."""
        parameters = inspect.signature(self.count_votes).parameters.values()
        return any(p.name == "depth" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)

    @property
    def touched_regions(self) -> TouchedRegions:
        """Regions that each image's mask touches; see ``chorus.kernels.contacts``."""
        return cast(TouchedRegions, self._module("contacts", "finds no contacts").touched_regions)

    @property
    def skinning(self) -> Skinning:
        """Skinning weights around a mesh, their smoothing, and inverse LBS; see ``chorus.kernels.skinning``."""
        return cast(Skinning, self._module("skinning", "does no skinning"))

    def _module(self, kind: str, lack: str) -> Any:
        module = getattr(self.modules, kind)
        if module is None:
            able = ", ".join(name for name, modules in _known().items() if getattr(modules, kind) is not None)
            raise BackendUnavailableError(f"backend: {self.name} {lack}. What does: {able}")
        return importlib.import_module(module) if isinstance(module, str) else module


def register_backend(name: str, modules: Modules) -> None:
    """Add a backend to the table, for this process. InputError for a name that is taken."""
    if name == "auto" or BACKENDS.get(name, modules) != modules:
        raise InputError(f"backend: expected a name other than auto, {', '.join(BACKENDS)}; got {name!r}")
    BACKENDS[name] = modules


def choose_backend(name: str = "auto") -> Backend:
    """The backend of a name. ``auto`` takes triton where an NVIDIA GPU can run it, else numba. The choice is logged once.

    Its device is the current one. Raises InputError for a name that is not known, BackendUnavailableError where what was asked
    for cannot run here.
    """
    if not isinstance(name, str):
        raise InputError(f"backend: expected auto, {', '.join(_known())}; got a {type(name).__name__}")
    # PyTorch has no public name for it. `auto` does not turn to the CPU: that a hundred workers are slow is noticed too late.
    if name in ("auto", "triton") and torch.cuda._is_in_bad_fork():
        raise BackendUnavailableError(
            f"backend: {name} cannot run here: this process was forked from one that had used the GPU. Start it by "
            "multiprocessing's spawn or forkserver, or ask for numba"
        )
    chosen = _choose(name)
    modules = BACKENDS[chosen] if chosen in BACKENDS else _installed()[chosen]
    return Backend(chosen, modules.device(), modules)


vote_backend = choose_backend
"""What ``choose_backend`` was called when only the votes had backends to choose from."""


@lru_cache
def _choose(name: str) -> str:
    if name != "auto":
        modules = BACKENDS.get(name) or _installed().get(name)
        if modules is None:
            raise InputError(f"backend: expected auto, {', '.join(_known())}; got {name!r}")
        declined = modules.why_not()
        if declined:
            raise BackendUnavailableError(
                f"backend: {name} cannot run here: {declined}. What can: numba (the fast one), reference"
            )
        if name == "triton":
            _prepare_triton()
        log.info("backend: %s (asked for)", name)
        return name
    declined = why_not_triton()
    if declined is None and torch.version.hip:
        declined = "it has not been run on AMD devices yet; ask for it by name"
    chosen = "triton" if declined is None else "numba"
    if chosen == "triton":
        _prepare_triton()
    reason = "a GPU is there" if declined is None else f"the fastest on a CPU; not triton: {declined}"
    log.info("backend: %s (%s)", chosen, reason)
    return chosen


def _prepare_triton() -> None:
    importlib.import_module("chorus.kernels.gpu.compiled_code").ensure_folder()


def _known() -> dict[str, Modules]:
    """The table with what installed packages add; theirs replaces no name that is in it."""
    return BACKENDS | {name: modules for name, modules in _installed().items() if name not in BACKENDS}


@lru_cache
def _installed() -> dict[str, Modules]:
    """Backends of installed packages; looked for only when a name is not in the table."""
    found: dict[str, Modules] = {}
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            modules = point.load()
        except Exception as error:  # somebody else's package, whose faults must not keep ours from running
            log.warning("backend %s (%s) could not be loaded: %s", point.name, point.value, error)
            continue
        if isinstance(modules, Modules):
            found[point.name] = modules
        else:
            log.warning("backend %s (%s): expected chorus.kernels.backends.Modules, got %r", point.name, point.value, modules)
    return found
