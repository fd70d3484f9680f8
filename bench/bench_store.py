"""Writing and reading a store, against a plain file of as many bytes; read from the system's page cache, and from the disk."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.harness.gates import check_same_images
from bench.harness.measure import Contender, forget_files, interleaved
from bench.harness.workloads import VoteWorkload
from chorus.images import ImageBatch
from chorus.kernels.masks import PackedMasks, words_in_box
from chorus.store import StoreWriter, open_store

SHARD = 1024


def images_of(work: VoteWorkload, count: int) -> ImageBatch:
    """As many images, the workload's again and again under new keys."""
    batch = work.batch
    rows = np.arange(count) % len(batch)
    masks = [batch.masks.words[batch.masks.start[r] :][: words_in_box(batch.masks.box[r])] for r in rows]
    packed = PackedMasks.join(batch.masks.size[rows], batch.masks.box[rows], masks)
    return ImageBatch(packed, batch.cameras[rows], batch.poses[rows], keys=[f"bench-{i:07d}" for i in range(count)])


def write(path: Path, images: ImageBatch) -> int:
    """Write a store and return its bytes."""
    with StoreWriter(path, category="bench", shard_size=SHARD) as writer:
        for first in range(0, len(images), SHARD):
            writer.append(images[first : first + SHARD])
    return sum(shard.stat().st_size for shard in (path / "shards").glob("*.h5"))


def write_plain(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, verify: bool) -> int:
    """Open a store and touch every word of every mask."""
    return sum(int(batch.masks.words.sum(dtype=np.uint64)) for batch in open_store(path, verify=verify).batches(size=SHARD))


def with_bandwidth(records: list[dict[str, Any]], size: int) -> None:
    plain = next(r for r in records if r["name"] in ("plain file", "plain files"))
    for r in records:
        r["mb_per_s"] = round(size / r["median_s"] / 1e6, 1)
        r["ratio"] = r["per_s"] / plain["per_s"]


@pytest.mark.benchmark(group="store")
def bench_write(benchmark: Any, store_images: int, votes_of_1024: VoteWorkload, tmp_path: Path, quick: bool) -> None:
    images = images_of(votes_of_1024, store_images)
    size = write(tmp_path / "checked", images)
    check_same_images(list(open_store(tmp_path / "checked").batches(size=SHARD)), images)
    number = itertools.count()
    content = b"".join(shard.read_bytes() for shard in (tmp_path / "checked" / "shards").glob("*.h5"))
    records = interleaved(
        benchmark,
        [
            Contender("store", lambda: write(tmp_path / f"store-{next(number)}", images), store_images),
            Contender("plain file", lambda: write_plain(tmp_path / "plain", content), store_images),
        ],
        rounds=3 if quick else 7,
    )
    with_bandwidth(records, size)
    benchmark.extra_info.update(
        what=f"store, write {store_images:,} images",
        bytes=size,
        shard_size=SHARD,
        ratio_to="a plain file of as many bytes, fsynced as the store's shards are",
    )


@pytest.mark.benchmark(group="store")
def bench_read(benchmark: Any, store_images: int, votes_of_1024: VoteWorkload, tmp_path: Path, quick: bool) -> None:
    images = images_of(votes_of_1024, store_images)
    path = tmp_path / "store"
    size = write(path, images)
    check_same_images(list(open_store(path).batches(size=SHARD)), images)
    files = sorted((path / "shards").glob("*.h5"))
    ways: dict[str, Callable[[], Any]] = {
        "store": lambda: read(path, verify=False),
        "store, digests checked": lambda: read(path, verify=True),
        "plain files": lambda: [file.read_bytes() for file in files],
    }
    contenders = [
        Contender(name + where, call, store_images, before=before)
        for where, before in (("", lambda: None), (" from the disk", lambda: forget_files(path)))
        for name, call in ways.items()
    ]
    records = interleaved(benchmark, contenders, rounds=5 if quick else 15)
    with_bandwidth(records, size)
    benchmark.extra_info.update(
        what=f"store, read {store_images:,} images",
        bytes=size,
        shard_size=SHARD,
        ratio_to="reading the same files whole, from the page cache",
        note="from the page cache, or from the disk: each time after the system was told to drop its pages",
    )
