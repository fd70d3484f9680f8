"""``torch.ops.chorus.count_votes``: the contract as PyTorch calls it, traced, compiled, and sent to the right backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import library
from torch._library.custom_ops import _maybe_get_opdef

from chorus.kernels import ops
from chorus.kernels.arrays import VoteImages, VoxelField, empty_counts
from chorus.kernels.backends import BackendUnavailableError
from chorus.kernels.cpu import votes as numba_votes
from chorus.kernels.ops import count_votes
from tests.kernels.contract import check_votes, equal, several_groups
from tests.kernels.random_inputs import random_depth

World = tuple[VoxelField, VoteImages, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def world() -> World:
    return several_groups(20, (3, 5, 4))


def arguments(world: World, depth: Any = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the operator is given for a world."""
    field, images, group, weight = world
    lists = [getattr(field, name) for name in ops.FIELD], [getattr(images, name) for name in ops.IMAGES]
    options = {"shape": list(field.shape), "origin": list(field.origin), "spacing": field.spacing, "num_groups": 4}
    if depth is None:
        return (*lists, group, weight), options
    return (*lists, group, weight, [getattr(depth, name) for name in ops.DEPTH]), {**options, "margin": depth.margin}


def test_the_contract_of_votes_is_kept() -> None:
    check_votes(count_votes)


def test_counts_are_those_of_the_backend_with_and_without_depth(world: World) -> None:
    field, images, group, weight = world
    depth = random_depth(np.random.default_rng(0), field, images)
    for hidden in (None, depth):
        want = numba_votes.count_votes(field, images, group, weight, depth=hidden, num_groups=4)
        have = count_votes(field, images, group, weight, depth=hidden, num_groups=4)
        assert len(have) == (2 if hidden is None else 4)
        assert equal(have, want)
        out = empty_counts(field, 4, "cpu", hidden=hidden is not None)
        assert count_votes(field, images, group, weight, depth=hidden, num_groups=4, out=out) is out
        assert equal(out, want)
    assert want[2].sum() > 0


@pytest.mark.parametrize("hidden", [False, True])
def test_opcheck(world: World, hidden: bool) -> None:
    depth = random_depth(np.random.default_rng(0), *world[:2]) if hidden else None
    given, options = arguments(world, depth)
    done = library.opcheck(torch.ops.chorus.count_votes, given, options)
    assert set(done.values()) == {"SUCCESS"}
    out = list(empty_counts(world[0], 4, "cpu", hidden=hidden))
    done = library.opcheck(torch.ops.chorus.count_votes_, (out, *given), options)
    assert set(done.values()) == {"SUCCESS"}


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_it_is_compiled_whole(world: World, backend: str) -> None:
    """A graph without a break, for one number of images and then another, gives the counts that are had without it."""
    torch.compiler.reset()

    def seen_share(field: VoxelField, images: VoteImages, group: torch.Tensor, out: tuple[torch.Tensor, ...]) -> torch.Tensor:
        num, den = count_votes(field, images, group, num_groups=4)
        count_votes(field, images, group, num_groups=4, out=out)
        return num.sum(0) / den.sum(0).clamp(min=1)

    compiled = torch.compile(seen_share, fullgraph=True, backend=backend)
    field, images, group, _ = world
    for rows in (slice(None), slice(0, 13)):
        num, den = numba_votes.count_votes(field, images[rows], group[rows], num_groups=4)
        out = empty_counts(field, 4, "cpu")
        phi = compiled(field, images[rows], group[rows], out)
        assert torch.equal(phi, num.sum(0) / den.sum(0).clamp(min=1))
        assert equal(out, (num, den))
    assert phi.max() > 0


def test_the_device_of_the_tensors_chooses_the_backend(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def choose(name: str) -> Any:
        asked.append(name)
        raise BackendUnavailableError("none here")

    monkeypatch.setattr(ops, "choose_backend", choose)
    given, options = arguments(world)
    with pytest.raises(BackendUnavailableError):
        torch.ops.chorus.count_votes(*given, **options)
    assert asked == ["numba"]
    # What PyTorch's dispatcher would call for CUDA tensors, of which there need be none here.
    for name in ("count_votes", "count_votes_"):
        kernels = _maybe_get_opdef(f"chorus::{name}")._backend_fns
        assert kernels.keys() == {"cpu", "cuda"}
    with pytest.raises(BackendUnavailableError):
        kernels["cuda"](list(empty_counts(world[0], 4, "cpu")), *given, **options)
    assert asked == ["numba", "triton"]


def test_what_is_no_call_is_refused(world: World) -> None:
    (field, images, group, weight), options = arguments(world)
    with pytest.raises(ValueError, match=r"images: expected 8 tensors, poses, R, .*; got 7"):
        torch.ops.chorus.count_votes(field, images[:-1], group, weight, **options)
    with pytest.raises(ValueError, match="shape, origin: expected three numbers each"):
        torch.ops.chorus.count_votes(field, images, group, weight, **{**options, "shape": [3, 5]})
    with pytest.raises(ValueError, match=r"group: expected indices 0 .. 2, got"):
        torch.ops.chorus.count_votes(field, images, group, weight, **{**options, "num_groups": 3})


def test_a_field_is_cut_into_bricks_once(world: World) -> None:
    given, options = arguments(world)
    tensors, rest = given[0], given[1:]
    shape, origin, spacing = tuple(options["shape"]), tuple(options["origin"]), options["spacing"]
    first = ops._field(tensors, shape, origin, spacing)
    torch.ops.chorus.count_votes([t.view_as(t) for t in tensors], *rest, **options)  # other objects, the same memory
    assert ops._field(tensors, shape, origin, spacing) is first
    changed = [t.clone() for t in tensors]
    second = ops._field(changed, shape, origin, spacing)
    assert second is not first
    changed[2].mul_(1)  # written to: it may be another field now
    assert ops._field(changed, shape, origin, spacing) is not second
    assert len(ops._fields) == ops._KEPT_FIELDS
