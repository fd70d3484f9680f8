"""The votes as an operator of PyTorch, ``torch.ops.chorus.count_votes``: importing this module registers it.

It runs numba where the tensors are on the CPU and Triton where they are on a GPU (PyTorch's dispatcher decides), and has a
fake kernel, so that it traces under ``torch.compile``. An operator takes tensors and plain numbers, so the dataclasses of the
contract (``chorus.kernels.arrays``) come in pieces, their tensors as lists in the order of their fields::

    count_votes(Tensor[] field, Tensor[] images, Tensor group, Tensor? weight=None, Tensor[]? depth=None, *,
                int[] shape, float[] origin, float spacing, float margin=0.06, SymInt num_groups) -> Tensor[]
    count_votes_(Tensor(a!)[] out, ... the same ...) -> ()         adds to counts that are there

    field   offset, joint, weight, rest_joints, parents, rest_inverse      of ``VoxelField``, whose lattice is
    shape, origin, spacing
    images  poses, R, t, K, size, box, start, words                        of ``VoteImages``
    depth   shift, box, near, start, values                                of ``BodyDepth``; margin is its margin, metres

``count_votes`` of this module is the contract's call: it takes the dataclasses and calls the operator. Counts are integers and
have no gradient. All tensors of a call are on one device.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, library

from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.backends import choose_backend
from chorus.kernels.depth import MARGIN, BodyDepth

BACKEND_OF_DEVICE = {"cpu": "numba", "cuda": "triton"}
"""The backend that an operator runs, by the kind of device that its tensors are on (PyTorch calls AMD's "cuda", too)."""
FIELD = ("offset", "joint", "weight", "rest_joints", "parents", "rest_inverse")
IMAGES = ("poses", "R", "t", "K", "size", "box", "start", "words")
DEPTH = ("shift", "box", "near", "start", "values")
_ARGUMENTS = (
    "Tensor[] field, Tensor[] images, Tensor group, Tensor? weight=None, Tensor[]? depth=None, *, "
    f"int[] shape, float[] origin, float spacing, float margin={MARGIN}, SymInt num_groups"
)
_KEPT_FIELDS = 2
_fields: OrderedDict[tuple[object, ...], VoxelField] = OrderedDict()
"""Fields put together from the last tensors that came: what backends cut them into is kept as long as they live."""


def count_votes(
    field: VoxelField,
    images: VoteImages,
    group: Tensor,
    weight: Tensor | None = None,
    *,
    depth: BodyDepth | None = None,
    num_groups: int,
    out: tuple[Tensor, ...] | None = None,
) -> tuple[Tensor, ...]:
    """Votes by group, as ``chorus.kernels.arrays`` says, through ``torch.ops.chorus.count_votes``: for compiled functions too.

    Everything is on one device, where the counts are left: (num, den), int32 (G, V), and with ``depth`` (num_hidden,
    den_hidden) as well. Raises ValueError where arguments do not fit, BackendUnavailableError for a GPU that cannot run Triton.
    """
    arguments = (
        [getattr(field, name) for name in FIELD],
        [getattr(images, name) for name in IMAGES],
        group,
        weight,
        None if depth is None else [getattr(depth, name) for name in DEPTH],
    )
    options = {
        "shape": list(field.shape),
        "origin": list(field.origin),
        "spacing": field.spacing,
        "margin": MARGIN if depth is None else depth.margin,
        "num_groups": num_groups,
    }
    if out is None:
        return tuple(torch.ops.chorus.count_votes(*arguments, **options))
    torch.ops.chorus.count_votes_(list(out), *arguments, **options)
    return out


def _run(
    backend: str,
    out: Sequence[Tensor] | None,
    field: Sequence[Tensor],
    images: Sequence[Tensor],
    group: Tensor,
    weight: Tensor | None = None,
    depth: Sequence[Tensor] | None = None,
    *,
    shape: Sequence[int],
    origin: Sequence[float],
    spacing: float,
    margin: float = MARGIN,
    num_groups: int,
) -> list[Tensor]:
    for name, tensors, names in (("field", field, FIELD), ("images", images, IMAGES), ("depth", depth, DEPTH)):
        if tensors is not None and len(tensors) != len(names):
            raise ValueError(f"{name}: expected {len(names)} tensors, {', '.join(names)}; got {len(tensors)}")
    if not len(shape) == len(origin) == 3:
        raise ValueError(f"shape, origin: expected three numbers each, got {list(shape)} and {list(origin)}")
    counted = choose_backend(backend).count_votes(
        _field(field, (shape[0], shape[1], shape[2]), (origin[0], origin[1], origin[2]), spacing),
        VoteImages(*images),
        group,
        weight,
        depth=None if depth is None else BodyDepth(depth[0], depth[1], depth[2], depth[3], depth[4], margin),
        num_groups=num_groups,
        out=None if out is None else tuple(out),
    )
    return list(counted)


def _field(
    tensors: Sequence[Tensor], shape: tuple[int, int, int], origin: tuple[float, float, float], spacing: float
) -> VoxelField:
    """The field of these tensors: the one of an earlier call where they are the same, and have not been written to since."""
    if any(tensor.is_inference() for tensor in tensors):  # they do not say whether they were written to
        return VoxelField(shape, origin, spacing, *tensors)
    of = tuple((t.data_ptr(), t._version, t.shape, t.stride(), t.dtype, t.device) for t in tensors)
    key = (of, shape, origin, spacing)
    found = _fields.pop(key, None) or VoxelField(shape, origin, spacing, *tensors)
    _fields[key] = found
    while len(_fields) > _KEPT_FIELDS:
        _fields.popitem(last=False)
    return found


def _fake(
    field: Sequence[Tensor],
    images: Sequence[Tensor],
    group: Tensor,
    weight: Tensor | None = None,
    depth: Sequence[Tensor] | None = None,
    *,
    shape: Sequence[int],
    num_groups: int,
    **_: Any,
) -> list[Tensor]:
    """What ``count_votes`` returns, without its values."""
    size = (num_groups, prod(shape))
    return [images[0].new_empty(size, dtype=torch.int32) for _ in range(2 if depth is None else 4)]


def _fake_adding(*_: Any, **__: Any) -> None:
    """What ``count_votes_`` returns."""


def _kernel(device: str, adds: bool) -> Callable[..., list[Tensor] | None]:
    """What an operator does with tensors on a kind of device."""

    def count(*arguments: Any, **options: Any) -> list[Tensor]:
        return _run(BACKEND_OF_DEVICE[device], None, *arguments, **options)

    def add(*arguments: Any, **options: Any) -> None:
        _run(BACKEND_OF_DEVICE[device], *arguments, **options)

    return add if adds else count


def _register() -> None:
    """Both operators, with a kernel for each kind of device."""
    counting = library.custom_op(
        "chorus::count_votes", _kernel("cpu", False), mutates_args=(), device_types="cpu", schema=f"({_ARGUMENTS}) -> Tensor[]"
    )
    counting.register_kernel("cuda", _kernel("cuda", False))
    counting.register_fake(_fake)
    adding = library.custom_op(
        "chorus::count_votes_",
        _kernel("cpu", True),
        mutates_args={"out"},
        device_types="cpu",
        schema=f"(Tensor(a!)[] out, {_ARGUMENTS}) -> ()",
    )
    adding.register_kernel("cuda", _kernel("cuda", True))
    adding.register_fake(_fake_adding)


_register()
