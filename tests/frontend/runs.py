"""Runs of the simulated front end that tests start in other processes, and the comparison of what they made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chorus.body.model import load_body
from chorus.frontend.plan import Description
from chorus.frontend.run import Settings, fill_store
from chorus.frontend.stages import ImageRequest
from chorus.simulate.worlds import WORLDS
from chorus.store import open_store

STAGES = dict.fromkeys(("images", "detector", "keypoints", "humans"), "simulated")
OPTIONS = {"images.size": "64"}


def wanted(count: int) -> list[ImageRequest]:
    names = ("ball-held", "ball-kicked")
    return [ImageRequest(f"{names[i % 2]}-{i:04d}", WORLDS[names[i % 2]].prompt, "", i) for i in range(count)]


def run(path: Path, count: int, batch: int = 4, keep_images: str = "none", **options: Any) -> Any:
    """Make a store, or go on with it; every batch is committed."""
    description = Description("sports ball", STAGES, OPTIONS)
    settings = Settings(device="cpu", batch=batch, keep_images=keep_images, commit_seconds=0.0)
    return fill_store(path, wanted(count), description, load_body(), settings, **options)


def same_rows(a: Path, b: Path) -> None:
    """Assert that two stores have the same rows, in whatever order."""
    stores = open_store(a), open_store(b)
    columns = list(stores[0].rows)
    assert set(columns) == set(stores[1].rows)
    order = [np.argsort(store.rows["key"]) for store in stores]
    for column in columns:
        left, right = (store.rows[column][rows] for store, rows in zip(stores, order, strict=True))
        assert np.array_equal(left, right, equal_nan=left.dtype.kind == "f"), column
    left_rows, right_rows = (rows[store.rows["has_camera"][rows]] for store, rows in zip(stores, order, strict=True))
    left_masks, right_masks = stores[0].batch(left_rows).masks, stores[1].batch(right_rows).masks
    assert all(np.array_equal(left_masks.unpack(i), right_masks.unpack(i)) for i in range(len(left_rows)))


def main(arguments: Sequence[str]) -> int:
    """``python -m tests.frontend.runs STORE COUNT``, under torchrun or not."""
    from chorus.ranks import ranks

    with ranks() as own:
        report = run(Path(arguments[0]), int(arguments[1]), ranks=own)
        print(f"rank {own.rank} of {own.world}: {report.images} images", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
