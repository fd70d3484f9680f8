"""Hidden votes against plain ones, and the depth of the posed body that they need: same images, same run, interleaved."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from bench.harness.cells import CELLS, crowd_on, synchronized, vote_field
from bench.harness.crowds import Crowd
from bench.harness.gates import Counts, WrongResult, check_adds_up, check_hidden, check_votes
from bench.harness.measure import Contender, interleaved
from chorus.body.model import Body
from chorus.field import CanonicalField
from chorus.kernels.cpu import votes as cpu_votes
from chorus.kernels.depth import BodyDepth, limits_of
from chorus.kernels.stats import CullingStats
from chorus.render.body_depth import MERGE, body_depth, coarse_body

RESOLUTION = 48
IMAGES = 1024
CHECKED_IMAGES = 24
FULL_MESH_IMAGES = 128
COVERED, NEAR = 0.9, 0.06
"""Of the full mesh's cells the coarse one must cover this share, and this share of those within so many metres."""


def numba_votes(work: Crowd, hidden: bool, threads: int, stats: CullingStats | None = None) -> Counts:
    return cpu_votes.count_votes(
        vote_field(RESOLUTION),
        work.images,
        work.group,
        num_groups=work.num_groups,
        depth=work.depth if hidden else None,
        threads=threads,
        stats=stats,
    )


def triton_votes(work: Crowd, hidden: bool) -> Counts:
    from chorus.kernels.gpu import votes as gpu_votes

    depth = work.depth if hidden else None
    return gpu_votes.count_votes(vote_field(RESOLUTION), work.images, work.group, num_groups=work.num_groups, depth=depth)


@pytest.mark.benchmark(group="hidden")
def bench_hidden_votes(benchmark: Any, body: Body, device: str, threads: int, quick: bool) -> None:
    field = vote_field(RESOLUTION)
    count = max(c.images for c in CELLS["gpu"]) if device == "cuda" else IMAGES
    work = crowd_on(body, "typical", count, "cpu").with_depth(body).to(device)
    name = "numba" if device == "cpu" else "Triton"
    votes = partial(numba_votes, threads=threads) if device == "cpu" else synchronized_triton
    check_hidden({name: partial(votes, hidden=True)}, field.to(device), work, CHECKED_IMAGES)
    counts = check_adds_up(partial(votes, hidden=True), work, name)
    plain = votes(work, hidden=False)
    if not all(torch.equal(a, b) for a, b in zip(plain, counts[:2], strict=True)):
        raise WrongResult(f"{name}: with depth the totals are not those without")
    contenders = [
        Contender(f"{name}, with depth", lambda: votes(work, hidden=True), count),
        Contender(name, lambda: votes(work, hidden=False), count),
    ]
    records = interleaved(benchmark, contenders, rounds=7 if quick else 15)
    for r in records:
        r["ratio"] = r["per_s"] / records[-1]["per_s"]
        r["ratio_of_least"] = records[-1]["min_s"] / r["min_s"]
    culling = {}
    if device == "cpu":
        for key, hidden in (("culled", False), ("culled_with_depth", True)):
            stats = CullingStats()
            numba_votes(work, hidden, threads, stats)
            culling[key] = round(stats.decided / stats.pairs, 4)
    benchmark.extra_info.update(
        what=f"votes and hidden votes, {RESOLUTION}^3 voxels, {count:,} images",
        resolution=RESOLUTION,
        threads=threads,
        workload=work.facts(),
        hidden_votes=round(float(counts[3].sum(dtype=torch.int64) / counts[1].sum(dtype=torch.int64)), 4),
        culling=culling,
        ratio_to="votes without depth; by the least times: ratio_of_least",
    )


def synchronized_triton(work: Crowd, hidden: bool) -> Counts:
    return synchronized(partial(triton_votes, hidden=hidden), "cuda")(work)


def check_depth(coarse: BodyDepth, full: BodyDepth, cells: int) -> dict[str, float]:
    """The coarse body's depths against the full mesh's: how much is covered by both, and how near they are."""
    covered, near = [], []
    for i in range(len(full)):
        have, want = (limits_of(d, i, cells, cells) for d in (coarse, full))
        seen = torch.isfinite(want)
        both = seen & torch.isfinite(have)
        covered.append(float(both.sum() / seen.sum()))
        near.append(float(((have - want)[both].abs() < NEAR).double().mean()))
    found = {"covered": sum(covered) / len(covered), "within_margin": sum(near) / len(near)}
    if min(found.values()) < COVERED:
        raise WrongResult(f"depth: of the full mesh {found}, expected {COVERED} of each at least")
    return {k: round(v, 4) for k, v in found.items()}


@pytest.mark.benchmark(group="hidden")
def bench_depth(benchmark: Any, body: Body, device: str, threads: int, quick: bool) -> None:
    work = crowd_on(body, "typical", IMAGES, "cpu")
    cameras, poses = work.cameras(), work.images.poses.numpy()
    size = int(cameras.image_size[0, 0])

    def drawn(count: int, merge: float = MERGE, where: str | None = None) -> BodyDepth:
        depth = body_depth(body, cameras[:count], poses[:count], merge=merge, threads=threads, device=where)
        if where == "cuda":
            torch.cuda.synchronize()
        return depth

    facts = check_depth(drawn(FULL_MESH_IMAGES), drawn(FULL_MESH_IMAGES, 0.0), size)
    contenders = [
        Contender("numba", lambda: drawn(IMAGES), IMAGES),
        *([Contender("PyTorch, on the device", lambda: drawn(IMAGES, where="cuda"), IMAGES)] if device == "cuda" else []),
        Contender("numba, the full mesh", lambda: drawn(FULL_MESH_IMAGES, 0.0), FULL_MESH_IMAGES),
    ]
    records = interleaved(benchmark, contenders, rounds=5 if quick else 15)
    for r in records:
        r["ratio"] = r["per_s"] / records[-1]["per_s"]
    mesh = coarse_body(body)
    benchmark.extra_info.update(
        what=f"depth of the posed body, {IMAGES:,} images of {size} px",
        threads=threads,
        vertices={"coarse": len(mesh.vertices), "full": len(body.vertices)},
        bytes_per_image=round(2 * len(drawn(IMAGES).values) / IMAGES),
        against_full_mesh=facts,
        ratio_to="the full mesh",
    )


@pytest.mark.benchmark(group="hidden")
def bench_anchored(benchmark: Any, body: Body, device: str, threads: int, quick: bool) -> None:
    work = crowd_on(body, "typical", IMAGES, "cpu")
    lbs = CanonicalField(body, RESOLUTION)
    fields = {name: lbs.with_canonicalization(name).arrays for name in ("joint:right_hand", "joint:pelvis")}
    fields["lbs"] = lbs.arrays

    def votes(on: Any, name: str) -> Counts:
        return cpu_votes.count_votes(fields[name], on.images, on.group, num_groups=12, threads=threads)

    for name, field in fields.items():
        cast = partial(votes, name=name)
        check_votes({name: cast}, field, work, CHECKED_IMAGES)
        check_adds_up(cast, work, name)
    contenders = [Contender(f"numba, {name}", partial(votes, work, name), IMAGES) for name in fields]
    records = interleaved(benchmark, contenders, rounds=7 if quick else 15)
    for r in records:
        r["ratio"] = r["per_s"] / records[-1]["per_s"]
        r["ratio_of_least"] = records[-1]["min_s"] / r["min_s"]
    benchmark.extra_info.update(
        what=f"votes in fields anchored to one joint, {RESOLUTION}^3 voxels, {IMAGES:,} images",
        resolution=RESOLUTION,
        threads=threads,
        workload=work.facts(),
        ratio_to="votes in the paper's field (lbs); by the least times: ratio_of_least",
    )
