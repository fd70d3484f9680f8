"""What the host code launches on a GPU, caught before it reaches one: to the letter what was compiled ahead of time.

The host code runs on the CPU with Triton's own launcher, whose driver is replaced by one that claims to be a GPU; a hook takes
every kernel where Triton would compile it. Nothing is computed: a wrong type, a missing argument, an option that Triton does
not know, or a variant that ``python -m bench.static`` never compiled would otherwise show on a GPU alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from chorus.kernels.gpu.ahead_of_time import TARGETS, Compilation, compilations
from tests.kernels.random_inputs import random_depth, random_field, random_images

CAPABILITIES = {"sm_80": (8, 0), "sm_86": (8, 6), "sm_90": (9, 0), "sm_100": (10, 0), "sm_120": (12, 0), "gfx942": None}


@dataclass(frozen=True)
class Launch:
    """One kernel as Triton was asked for it; ``types`` by argument, "constexpr" where a value became part of the code.

    A group of arguments has a tuple of types; constants and attributes within it are named by their path.
    """

    fn: Any
    types: dict[str, Any]
    constants: dict[str, Any]
    attributes: dict[Any, Any]
    options: dict[str, Any]


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[Launch]]]:
    """``caught("sm_90")``: from here on every launch goes into the list that is returned, as for that device."""
    from chorus.kernels.gpu import contacts, skinning, votes

    def begin(name: str) -> list[Launch]:
        target, found = TARGETS[name], []
        there = GPUTarget(target.backend, target.arch, target.warp_size)
        number = 1000 + list(TARGETS).index(name)  # the launcher keeps its choices by device
        triton.runtime.driver.set_active(
            SimpleNamespace(
                get_current_target=lambda: there, get_current_device=lambda: number, get_current_stream=lambda device: 0
            )
        )

        def hook(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
            function, options = fn.jit_function, json.loads(compile["specialization_data"])["options"]
            # A constant within a group, that is an integer 1 there, has a path of two.
            constants = {
                function.arg_names[path[0]] if len(path) == 1 else path: value for path, value in compile["constants"].items()
            }
            found.append(Launch(function, dict(compile["signature"]), constants, compile["configs"][0], options))
            return True  # "I have it": neither compiled nor launched

        triton.knobs.runtime.jit_cache_hook = hook
        from_numpy = torch.from_numpy  # numpy's memory may begin anywhere; what is copied to a device never does
        monkeypatch.setattr(torch, "from_numpy", lambda array: from_numpy(array).clone())
        for module in (votes, contacts):
            monkeypatch.setattr(module, "working_device", lambda home, images: torch.device("cpu"))
            monkeypatch.setattr(module, "use_ptx", lambda device: target.is_nvidia)
        monkeypatch.setattr(votes, "capability", lambda device: CAPABILITIES[name])
        monkeypatch.setattr(skinning, "check_device", lambda **tensors: torch.device("cpu"))
        return found

    before = triton.runtime.driver._active, triton.knobs.runtime.jit_cache_hook
    try:
        yield begin
    finally:
        triton.runtime.driver._active, triton.knobs.runtime.jit_cache_hook = before


def proven(launch: Launch, target: str) -> list[Compilation]:
    """The compilations of ``bench.static`` that are this launch, to the letter of what Triton compiles and its options."""
    there = TARGETS[target]
    backend = triton.compiler.make_backend(GPUTarget(there.backend, there.arch, there.warp_size))
    found = []
    for c in compilations():
        if c.fn is not launch.fn or (c.targets is not None and target not in c.targets):
            continue
        source, options = c.source(there)
        every_option = json.loads(json.dumps(backend.parse_options(options).__dict__, default=str))
        attributes = launch.attributes
        if not there.is_nvidia:  # AMD's launcher also says which tensors are below 2 GB, which only helps
            attributes = {k: [a for a in v if a[0] == "tt.divisibility"] for k, v in attributes.items()}
        same = ASTSource(launch.fn, launch.types, launch.constants, attributes).hash() == source.hash()
        if same and launch.options == every_option:
            found.append(c)
    return found


def launch_everything(J: int, shape: tuple[int, int, int], seed: int = 0, cull: bool = True) -> None:
    """Votes by every variant, with and without weights and depth; contacts; skinning weights, smoothing and sampling."""
    from chorus.kernels.arrays import Lattice
    from chorus.kernels.gpu import contacts, skinning, votes
    from chorus.kernels.skinning import INVERSES

    rng = np.random.default_rng(seed)
    field = random_field(rng, shape, J)
    images = random_images(rng, field, 40)
    group = torch.tensor(rng.integers(0, 3, 40))
    weight = torch.tensor(rng.integers(0, 256, 40), dtype=torch.uint8)
    depth = random_depth(rng, field, images)
    for variant in ("lattice", "tensor", "auto"):
        for times in (None, weight):
            for body in (None, depth):
                options: dict[str, Any] = {"depth": body, "variant": variant, "cull": cull}
                votes.count_votes(field, images, group, times, num_groups=3, **options)
    regions = torch.ones(field.num_voxels, dtype=torch.int32)
    contacts.touched_regions(field, regions, images, cull=cull)
    lattice = Lattice(field.shape, field.origin, field.spacing)
    points = torch.from_numpy(rng.normal(0, 0.3, (70, 3)).astype(np.float32))
    table = torch.from_numpy(rng.dirichlet([0.2] * J, 70).astype(np.float32))
    bones = torch.eye(3, 4).repeat(J, 1, 1).double()
    phi = torch.zeros(field.shape)
    for inverse in INVERSES:
        for steps in (3, 60):  # steps one by one, and by their series
            skinning.posed_phi(lattice, points, table, bones, phi, lattice, k=6, tau=0.5, s=0.25, steps=steps, inverse=inverse)


@pytest.mark.parametrize("target", CAPABILITIES)
def test_what_is_launched_is_what_was_compiled_ahead_of_time(caught: Any, target: str) -> None:
    found = caught(target)
    # Among them sizes that Triton would make code of their own for where it was not told not to: 1 and multiples of 16.
    for J, shape, cull in ((24, (9, 8, 7), True), (3, (16, 4, 4), False), (1, (1, 1, 1), True)):
        launch_everything(J, shape, cull=cull)
    names = {launch.fn.__name__ for launch in found}
    assert names == {c.fn.__name__ for c in compilations()}  # every kernel of the project was launched
    for launch in found:
        if launch.fn.__name__ == "sum_blocks":  # cut to the widest mask; compiled ahead of time for one of the sizes
            launch.constants["COLUMNS"] = 32
        assert proven(launch, target), (launch.fn.__name__, launch.types, launch.constants, launch.options)


def test_every_variant_of_the_votes_can_be_launched(caught: Any) -> None:
    """Of what is compiled ahead of time for sm_90 nothing is for show."""
    found = caught("sm_90")
    for J, seed in ((24, 0), (3, 0), (7, 1), (9, 2)):
        launch_everything(J, (9, 8, 7), seed)
    launched = {c.name for launch in found for c in proven(launch, "sm_90")}
    votes = {c.name for c in compilations() if c.name.startswith("vote_") and (c.targets is None or "sm_90" in c.targets)}
    assert votes <= launched
