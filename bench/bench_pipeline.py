"""End to end: a store (in the system's page cache, or on the disk) to counts, beside each stage alone on the same images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import chorus
from bench.harness.cells import crowd_on, vote_field
from bench.harness.crowds import Crowd
from bench.harness.gates import WrongResult, check_within_band
from bench.harness.measure import Contender, forget_files, interleaved
from chorus.body.model import Body
from chorus.images import vote_images
from chorus.kernels.arrays import VoteImages, empty_counts
from chorus.kernels.cpu import votes as cpu_votes
from chorus.kernels.reference import votes as reference
from chorus.store import StoreWriter, open_store
from chorus.votes.prefetch import Timings

N = 48
BATCH = 4096
VOTE_BATCH = {"cpu": 4096, "cuda": 65536}
"""Images that the aggregation votes with at a time."""
SMALL_BATCH = 16384
SHARD = 8192
GROUPS = 12
CHECKED = 8


def write(path: Path, work: Crowd, body: Body) -> int:
    """A store of the images; its bytes."""
    with StoreWriter(path, category="bench", body_hash=body.hash, shard_size=SHARD) as writer:
        for first in range(0, len(work), SHARD):
            writer.append(work.batch(first, min(first + SHARD, len(work))))
    return sum(shard.stat().st_size for shard in (path / "shards").glob("*.h5"))


def batches(path: Path) -> Iterator[VoteImages]:
    for batch in open_store(path, verify=False).batches(size=BATCH):
        yield vote_images(batch)


def read(path: Path) -> int:
    """Read all images as the kernels take them, every word of every mask among them."""
    return sum(int(images.words.sum(dtype=torch.int64)) for images in batches(path))


def check_end_to_end(path: Path, field: chorus.CanonicalField, work: Crowd, backend: str, cast: Callable[..., Any]) -> None:
    """The store's counts are the kernel's own, bit for bit, and those of some images within the reference's band."""
    occupancy = chorus.aggregate(open_store(path), field, backend=backend)
    num, den = (c.cpu() for c in cast(work))
    for name, have, want in (("num", occupancy.num_counts, num), ("den", occupancy.den_counts, den)):
        if not np.array_equal(have.reshape(GROUPS, -1), want.numpy()):
            raise WrongResult(f"end to end: {name} of the store differs from the kernel's on the same images")
    some = work.rows(slice(0, CHECKED))
    on_device = field.arrays.to(some.group.device)
    expected = reference.count_votes(on_device, some.images, some.group, num_groups=GROUPS, batch=1)
    band = reference.vote_band(on_device, some.images, some.group, num_groups=GROUPS, batch=1)
    check_within_band(cast(some), expected, band, "end to end")


@pytest.mark.benchmark(group="end to end")
def bench_end_to_end(
    benchmark: Any, pipeline_images: int, body: Body, device: str, threads: int, tmp_path: Path, quick: bool
) -> None:
    work = crowd_on(body, "typical", pipeline_images, "cpu")
    vote_field(N)  # so that its cache file is there
    field = chorus.CanonicalField(body, N)
    path = tmp_path / "store"
    size = write(path, work, body)
    backend = "numba" if device == "cpu" else "triton"

    if device == "cpu":
        on_device, arrays = work, field.arrays

        def cast(on: Crowd, out: Any = None) -> Any:
            return cpu_votes.count_votes(arrays, on.images, on.group, num_groups=GROUPS, threads=threads, out=out)
    else:
        from chorus.kernels.gpu import votes as gpu_votes

        on_device, arrays = work.to(device), field.arrays

        def cast(on: Crowd, out: Any = None) -> Any:
            counts = gpu_votes.count_votes(arrays, on.images, on.group, num_groups=GROUPS, out=out)
            torch.cuda.synchronize()
            return counts

    check_end_to_end(path, field, on_device, backend, cast)

    def votes() -> Any:
        out = empty_counts(arrays, GROUPS, device)
        step = VOTE_BATCH[device]
        for first in range(0, len(on_device), step):
            cast(on_device.rows(slice(first, first + step)), out)
        return out

    stages: dict[str, Callable[[], Any]] = {"reading alone": lambda: read(path)}
    if device != "cpu":
        stages["copies to the device alone"] = copier(path)
    stages["votes alone"] = votes
    contenders = [
        Contender("end to end", lambda: chorus.aggregate(open_store(path, verify=False), field, backend=backend), len(work)),
        *(Contender(name, call, len(work)) for name, call in stages.items()),
        Contender(
            "end to end, digests checked first", lambda: chorus.aggregate(open_store(path), field, backend=backend), len(work)
        ),
    ]
    if device != "cpu":  # smaller batches overlap reading and voting more, and start kernels more often
        name = f"end to end, batches of {SMALL_BATCH:,}"
        contenders.append(
            Contender(
                name,
                lambda: chorus.aggregate(open_store(path, verify=False), field, backend=backend, batch_size=SMALL_BATCH),
                len(work),
            )
        )
    contenders += [
        Contender("digests checked alone", lambda: open_store(path), len(work)),
        Contender("end to end, digests checked meanwhile", lambda: chorus.aggregate(path, field, backend=backend), len(work)),
        Contender(
            "end to end from the disk, digests checked meanwhile",
            lambda: chorus.aggregate(path, field, backend=backend),
            len(work),
            before=lambda: forget_files(path),
        ),
    ]
    records = interleaved(benchmark, contenders, rounds=3 if quick else 5)
    slowest = min(records[1 : 1 + len(stages)], key=lambda r: float(r["per_s"]))
    for r in records:
        r["ratio"] = r["per_s"] / slowest["per_s"]
        r["mb_per_s"] = size / r["median_s"] / 1e6
    timings = Timings()
    chorus.aggregate(open_store(path, verify=False), field, backend=backend, timings=timings)
    total = records[0]["median_s"]
    parts = ", ".join(f"{r['name']} {r['median_s'] / total:.0%}" for r in records[1 : 1 + len(stages)])
    benchmark.extra_info.update(
        what=f"end to end, {N}^3 voxels, {pipeline_images:,} images",
        device=device,
        threads=threads,
        bytes=size,
        shard_size=SHARD,
        batch=BATCH,
        workload=work.facts(),
        slowest_stage=slowest["name"],
        share_of_slowest_stage=round(records[0]["ratio"], 4),
        ratio_to="the slowest stage alone",
        timings={name: round(value, 4) for name, value in vars(timings).items()},
        notes=[f"each stage alone, as a share of the time end to end: {parts}", *([str(timings)] if device != "cpu" else [])],
    )


def copier(path: Path) -> Callable[[], float]:
    """A call that copies the store's images from pinned memory to the device; seconds it took."""
    pinned = [[t.pin_memory() for t in vars(images).values()] for images in batches(path)]
    words = torch.empty(max(tensors[-1].numel() for tensors in pinned), dtype=torch.int32, device="cuda")

    def copy() -> float:
        began = time.perf_counter()
        for tensors in pinned:
            words[: tensors[-1].numel()].copy_(tensors[-1], non_blocking=True)
            for tensor in tensors[:-1]:
                tensor.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    return copy
