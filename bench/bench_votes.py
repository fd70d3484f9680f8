"""Votes: numba against the PyTorch reference in float32, the same threads, the same images, interleaved."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from bench.gates import Counts, check_adds_up, check_votes
from bench.measure import Contender, clock_hz, compile_seconds, interleaved
from bench.workloads import VoteWorkload
from chorus.body import Body
from chorus.field import CanonicalField
from chorus.kernels import cpu, reference

REFERENCE_IMAGES = {48: 64, 96: 16, 128: 8}
"""The reference is timed on the first of the images: all of them would take minutes."""
REFERENCE_BATCHES = {48: (8, 16), 96: (8, 16), 128: (8,)}
"""Sixteen images at 128^3 would take several gigabytes."""
CHECKED_IMAGES = {48: 24, 96: 6, 128: 3}


@pytest.mark.benchmark(group="votes")
def bench_votes(
    benchmark: Any, vote_shape: tuple[int, int], body: Body, votes_of_1024: VoteWorkload, threads: int, quick: bool
) -> None:
    resolution, num_images = vote_shape
    field = CanonicalField(body, resolution).arrays
    work = votes_of_1024.rows(slice(0, num_images))
    few = work.rows(slice(0, REFERENCE_IMAGES[resolution]))
    culling = cpu.CullingStats()

    def numba(on: VoteWorkload) -> Counts:
        return cpu.count_votes(field, on.images, on.group, num_groups=on.num_groups, threads=threads, stats=culling)

    def eager(on: VoteWorkload, batch: int) -> Counts:
        return reference.count_votes(
            field, on.images, on.group, num_groups=on.num_groups, dtype=torch.float32, batch=batch
        )

    batches = {f"PyTorch float32, batches of {b}": b for b in REFERENCE_BATCHES[resolution] if b == 8 or b <= num_images}
    check_votes(
        {"numba": numba, **{name: partial(eager, batch=b) for name, b in batches.items()}},
        field, work, CHECKED_IMAGES[resolution],
    )  # fmt: skip
    check_adds_up(numba, work, "numba")

    records = interleaved(
        benchmark,
        [
            Contender("numba", partial(numba, work), len(work)),
            *(Contender(name, partial(eager, few, b), len(few)) for name, b in batches.items()),
        ],
        rounds=(5 if quick else 15) if resolution == 48 else 5,
    )
    hz = clock_hz(threads)
    for r in records:
        r["votes_per_s"] = r["per_s"] * field.num_voxels
        r["cycles_per_vote"] = threads * hz / r["votes_per_s"]
        r["ratio"] = r["per_s"] / max(other["per_s"] for other in records[1:])
        r["ratio_of_least"] = (r["items"] / r["min_s"]) / max(other["items"] / other["min_s"] for other in records[1:])
    benchmark.extra_info.update(
        what=f"{resolution}^3 voxels, {num_images:,} image{'s'[: num_images > 1]}",
        resolution=resolution,
        threads=threads,
        clock_ghz=round(hz / 1e9, 3),
        workload=work.facts(),
        culling={
            "pairs": culling.pairs,
            "culled": round(culling.decided / culling.pairs, 4),
            "outside": round(culling.outside / culling.pairs, 4),
            "lookups_per_vote": round(culling.lookups / (num_images * field.num_voxels), 4),
        },
        ratio_to="the faster reference of the same run, by medians; by the least times: ratio_of_least",
    )


@pytest.mark.benchmark(group="votes")
def bench_compilation(benchmark: Any) -> None:
    seconds: list[float] = []
    benchmark.pedantic(lambda: seconds.append(compile_seconds()), rounds=1)
    benchmark.extra_info.update(
        what="compilation of the vote kernel", contenders=[],
        compile_s=round(seconds[0], 2), note="first vote less second vote, empty cache; once a machine, then kept on disk",
    )  # fmt: skip
