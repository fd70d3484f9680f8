"""Hidden votes in an occupancy: what the body in front of a voxel makes its votes worth.

An image in which the body hides a voxel does not show whether the object is there: its mask has the pixel or not for other
reasons. Such votes are counted apart (``chorus.kernels.depth`` says which), and weigh l instead of 1::

    phi = sum r (num_visible + l num_hidden) / sum r (den_visible + l den_hidden)

l = 1 is Eq. 6, l = 0 leaves them out.
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.errors import InputError, MismatchError
from chorus.field import CanonicalField
from chorus.kernels.depth import MARGIN, BodyDepth
from chorus.render.body_depth import CELLS, MERGE, body_depth
from chorus.votes.hidden import check_backend as check_backend
from chorus.votes.hidden import checked_weight as checked_weight
from chorus.votes.prefetch import PrefetchedBatch

AUTO = "auto"
"""Asked for instead of a weight: what ``chorus.occupancy.hidden_choice`` finds."""
HIDDEN_WEIGHT = 0.1
"""What a hidden vote weighs where the rule is asked for."""
RULE = f"margin {MARGIN:g} m, about {CELLS} cells along an image, vertices merged within {MERGE:g} m"
"""How hidden votes are told: counts told otherwise do not add up."""


def check_counts(num_hidden: Any, den_hidden: Any, num: NDArray[Any], den: NDArray[Any], weight: float) -> None:
    """InputError for hidden counts that are no part of the counts, and for a weight without them."""
    if (num_hidden is None) != (den_hidden is None):
        raise InputError("num_hidden, den_hidden: expected both or neither")
    checked_weight(weight)
    if num_hidden is None:
        if weight != 1:
            raise InputError(
                f"hidden_weight: expected 1, for no hidden votes were counted (aggregate with hidden_weight); got {weight:g}"
            )
        return
    for name, hidden, total in (("num_hidden", num_hidden, num), ("den_hidden", den_hidden, den)):
        if hidden.shape != total.shape or hidden.dtype.kind != "i":
            raise InputError(f"{name}: expected integers of shape {total.shape}, got {hidden.dtype} of shape {hidden.shape}")


class HasHidden(Protocol):
    """The part of an ``Occupancy`` that is about hidden votes."""

    @property
    def num_hidden(self) -> NDArray[np.integer[Any]] | None: ...
    @property
    def den_hidden(self) -> NDArray[np.integer[Any]] | None: ...
    @property
    def hidden_weight(self) -> float: ...
    @property
    def hidden_rule(self) -> str: ...


def added(mine: HasHidden, theirs: HasHidden) -> dict[str, Any]:
    """The fields about hidden votes of the sum of two occupancies; MismatchError where they were told or weigh differently.

    Where one of the two has no counts of them, nor has the sum, in which all votes weigh 1: a warning says so.
    """
    if mine.num_hidden is not None and theirs.num_hidden is not None:
        for name in ("hidden_rule", "hidden_weight"):
            if getattr(mine, name) != getattr(theirs, name):
                raise MismatchError(
                    f"cannot add occupancies of different {name}: {getattr(mine, name)!r} and {getattr(theirs, name)!r}"
                )
        return {k: getattr(mine, k).astype(np.int64) + getattr(theirs, k) for k in ("num_hidden", "den_hidden")}
    if mine.num_hidden is not None or theirs.num_hidden is not None:
        which = "second" if theirs.num_hidden is None else "first"
        warnings.warn(
            f"the {which} of the occupancies added has no counts of hidden votes: the sum has none, and all its votes weigh 1",
            stacklevel=3,
        )
    return {"num_hidden": None, "den_hidden": None, "hidden_weight": 1.0, "hidden_rule": ""}


def depth_of(field: CanonicalField, batch: PrefetchedBatch, device: torch.device) -> BodyDepth:
    """The body's depth in the images of a batch: drawn by numba on a CPU, by PyTorch on another device."""
    where = None if device.type == "cpu" else device
    return BodyDepth.join([body_depth(field.body, images.cameras, images.poses, device=where) for images in batch.batches])
