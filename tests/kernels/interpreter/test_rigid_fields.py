"""Triton's votes through rigid fields and through the field of the nearest vertices, in the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chorus.kernels.gpu import votes
from tests.kernels.contract import within_band
from tests.kernels.random_inputs import random_images
from tests.kernels.test_rigid_fields import KINDS, field_of


@pytest.mark.parametrize(("kind", "variant"), [*((kind, "lattice") for kind in KINDS), ("per-voxel", "tensor")])
def test_the_mannequin_meets_the_contract(kind: str, variant: str) -> None:
    field, rng = field_of(kind, 4), np.random.default_rng(5)
    images = random_images(rng, field, 5, distance=(2.0, 5.0), sizes=((64, 64), (33, 47)), kinds=("full", "noise"))
    group, weight = torch.arange(5) % 2, torch.tensor(rng.integers(1, 256, 5), dtype=torch.uint8)
    ours = votes.count_votes(field, images, group, weight, num_groups=2, variant=variant)
    assert int(ours[0].sum()) > 0
    assert within_band(ours, field, images, group, weight, 2)
