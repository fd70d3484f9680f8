"""One category, met in two ways: by prompt and by body part the distributions differ, and each is near its own truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import KDTree

from chorus import aggregate
from chorus.body.model import Body, load_body
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.simulate.images import DEMO, simulate, true_occupancy

IMAGES = 250  # a world
THRESHOLDS = np.arange(2, 100, 2) / 100
PROMPTS = tuple(world.prompt for world in DEMO)
PARTS = ("rightHand and not leftFoot", "leftFoot and not rightHand")
"""What the ball of each world touches; both prompts are in the images they select from."""


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def field(body: Body) -> CanonicalField:
    return CanonicalField(body, 48)


@pytest.fixture(scope="module")
def images(body: Body) -> list[ImageBatch]:
    """Both worlds of the category, 256 px."""
    small = [replace(world, image_sizes=((256, 256),)) for world in DEMO]
    batches = [batch for world in small for batch in simulate(world, IMAGES, 0, body)]
    return [batch.images[batch.status == "complete"] for batch in batches]


@pytest.fixture(scope="module")
def truths(body: Body, field: CanonicalField) -> list[NDArray[np.bool_]]:
    """Voxels that at least half of a world's balls occupy."""
    return [true_occupancy(world, field.centres, body=body) >= 0.5 for world in DEMO]


def best_iou(phi: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    return max(float((truth & (phi >= t)).sum() / (truth | (phi >= t)).sum()) for t in THRESHOLDS)


@pytest.mark.parametrize("by", ["prompt", "part"])
def test_each_is_near_its_own_truth(
    by: str, images: list[ImageBatch], truths: list[NDArray[np.bool_]], field: CanonicalField, body: Body
) -> None:
    tree = KDTree(body.rest_vertices)
    chosen = PROMPTS if by == "prompt" else PARTS
    for number, which in enumerate(chosen):
        occupancy = aggregate(images, field, **{by: which})
        phi = occupancy.probability
        mine, other = best_iou(phi, truths[number]), best_iou(phi, truths[1 - number])
        assert occupancy.num_images > IMAGES / 2
        assert mine > 0.4
        assert mine > 2 * other
        core = field.centres[phi >= 0.7 * phi.max()]
        distance, _ = tree.query(core)
        assert distance.max() < 0.35  # the balls' far side is 26 cm from hand or foot
