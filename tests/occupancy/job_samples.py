"""What tests of jobs share: a store, what equal occupancies are, and runs that end in the middle."""

from __future__ import annotations

from typing import Any

import pytest

from chorus.body.model import Body
from chorus.occupancy.counts import Occupancy
from chorus.store import Store, StoreWriter, open_store
from tests.occupancy.test_aggregation import body as body
from tests.occupancy.test_aggregation import field as field
from tests.occupancy.test_aggregation import make_images
from tests.occupancy.test_counts import same

PARTS = (None, "rightHand")
COUNTED = ("num_counts", "den_counts", "group_totals", "group_images", "sketch", "counted", "hidden_weight")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, body: Body) -> Store:
    """300 images in shards of 37, and one of them much larger than the rest."""
    path = tmp_path_factory.mktemp("store") / "cup.chorus"
    with StoreWriter(path, category="cup", shard_size=37, body_hash=body.hash) as writer:
        writer.append(make_images(180, seed=1, weights=True))
    with StoreWriter(path, category="cup", shard_size=200, body_hash=body.hash) as writer:
        writer.append(make_images(120, seed=2, weights=True))
    return open_store(path)


def equal(one: Occupancy, other: Occupancy) -> bool:
    """Everything that was counted, its types, and where it came from, but for command lines."""
    return all(
        getattr(one, name).dtype == getattr(other, name).dtype if name.endswith("counts") else True for name in COUNTED
    ) and same(one, other, but=("provenance",))


class Killed(BaseException):
    """Ends a run at a place of the test's choosing, as a signal would."""


def killed_after(batches: int) -> Any:
    seen = [0]

    def progress(done: int, total: int | None) -> None:
        seen[0] += 1
        if seen[0] > batches:
            raise Killed

    return progress
