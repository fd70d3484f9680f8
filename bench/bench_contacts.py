"""Contacts with the 12 body parts: numba against a full pass of the numba votes, and the PyTorch reference in float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.harness.gates import WrongResult
from bench.harness.measure import Contender, interleaved
from bench.harness.workloads import VoteWorkload
from chorus.body.model import Body
from chorus.field import CanonicalField
from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.cpu import contacts as cpu_contacts
from chorus.kernels.cpu import votes as cpu_votes
from chorus.kernels.reference import contacts as reference
from chorus.kernels.stats import ContactStats
from chorus.votes.parts import interaction_regions

RESOLUTION = 48
CHECKED_IMAGES = 64
REFERENCE_IMAGES = 64
"""The reference is timed on the first of the images: all of them would take minutes."""
REFERENCE_BATCH = 16

Touch = Callable[[VoteImages], Tensor]


def check_contacts(
    contenders: dict[str, Touch], field: VoxelField, regions: Tensor, workload: VoteWorkload, subset: int
) -> None:
    """Every contender between the bounds of the float64 definition on ``subset`` images, spread evenly over the workload."""
    rows = np.unique(np.linspace(0, len(workload) - 1, subset).astype(np.intp))
    images = workload.rows(rows).images
    certain, possible = reference.touched_bounds(field, regions, images)
    if not certain.any():
        raise WrongResult("contacts: no mask touches a region; the workload checks nothing")
    for name, touch in contenders.items():
        bits = touch(images)
        wrong = (certain & ~bits) | (bits & ~possible)
        if wrong.any():
            raise WrongResult(
                f"{name}: regions differ from the float64 reference by more than the contract allows in "
                f"{int((wrong != 0).sum()):,} of {len(bits):,} images"
            )


def check_pieces(touch: Touch, workload: VoteWorkload, name: str) -> Tensor:
    """The bits of the whole workload, those of two pieces of it; returned."""
    whole = touch(workload.images)
    split = len(workload) // 3
    pieces = [touch(workload.rows(rows).images) for rows in (slice(0, split), slice(split, None))]
    if not torch.equal(whole, torch.cat(pieces)):
        raise WrongResult(f"{name}: the regions of all images are not those of two pieces of them")
    return whole


def _triton_contenders(field: VoxelField, regions: Tensor, work: VoteWorkload) -> tuple[list[Contender], Touch]:
    """On the device: contacts and all votes of the images repeated to 65,536, and the call itself for the gate."""
    from chorus.kernels.gpu.contacts import touched_regions
    from chorus.kernels.gpu.votes import count_votes

    rows = torch.arange(1 << 16) % len(work)
    images, group, bits = work.images[rows].to("cuda"), work.group[rows].cuda(), regions.cuda()

    def finished(result: Any) -> Any:
        torch.cuda.synchronize()
        return result

    def touch_all() -> Any:
        return finished(touched_regions(field, bits, images))

    def vote_all() -> Any:
        return finished(count_votes(field, images, group, num_groups=work.num_groups))

    contenders = [
        Contender("triton", touch_all, len(rows)),
        Contender("triton, all votes", vote_all, len(rows)),
    ]
    return contenders, lambda some: touched_regions(field, bits, some.to("cuda")).cpu()


@pytest.mark.benchmark(group="contacts")
def bench_contacts(benchmark: Any, body: Body, votes_of_1024: VoteWorkload, threads: int, quick: bool) -> None:
    canonical = CanonicalField(body, RESOLUTION)
    field, work = canonical.arrays, votes_of_1024
    found = interaction_regions(canonical)
    regions = torch.tensor(found.bits)
    few = work.rows(slice(0, REFERENCE_IMAGES))
    stats = ContactStats()

    def numba(images: VoteImages) -> Tensor:
        return cpu_contacts.touched_regions(field, regions, images, threads=threads, stats=stats)

    def eager(images: VoteImages) -> Tensor:
        return reference.touched_regions(field, regions, images, dtype=torch.float32, batch=REFERENCE_BATCH)

    def votes() -> Any:
        return cpu_votes.count_votes(field, work.images, work.group, num_groups=work.num_groups, threads=threads)

    on_gpu: list[Contender] = []
    checked: dict[str, Touch] = {"numba": numba, "PyTorch float32": eager}
    if torch.cuda.is_available():
        on_gpu, touch = _triton_contenders(field, regions, work)
        checked["triton"] = touch
    check_contacts(checked, field, regions, work, CHECKED_IMAGES)
    bits = check_pieces(numba, work, "numba")

    records = interleaved(
        benchmark,
        [
            Contender("numba", partial(numba, work.images), len(work)),
            Contender("numba, all votes", votes, len(work)),
            Contender(f"PyTorch float32, batches of {REFERENCE_BATCH}", partial(eager, few.images), len(few)),
            *on_gpu,
        ],
        rounds=7 if quick else 15,
    )
    for r in records:
        votes_of = records[-1] if r["name"].startswith("triton") else records[1]
        r["ratio"] = r["per_s"] / votes_of["per_s"]
        r["ratio_of_least"] = (r["items"] / r["min_s"]) / (votes_of["items"] / votes_of["min_s"])
    numba(work.images)  # statistics of all the images, whatever was timed last
    benchmark.extra_info.update(
        what=f"{len(found.names)} regions, {RESOLUTION}^3 voxels, {len(work):,} images",
        resolution=RESOLUTION,
        threads=threads,
        workload=work.facts(),
        regions={
            "names": list(found.names),
            "epsilon_m": found.epsilon,
            "voxels": int(np.count_nonzero(found.bits)),
            "bricks": stats.pairs // len(work),
            "touched_per_image": round(float(np.bitwise_count(bits.numpy().view(np.uint32)).mean()), 3),
        },
        culling={
            "pairs": stats.pairs,
            "known": round(stats.known / stats.pairs, 4),
            "off": round(stats.off / stats.pairs, 4),
            "on": round(stats.on / stats.pairs, 4),
            "lookups_per_image": round(stats.lookups / len(work), 1),
        },
        ratio_to="all votes in the same run, Triton's to Triton's, others' to numba's; by the least times: ratio_of_least",
    )
