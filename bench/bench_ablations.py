"""What each part is worth: votes without canonicalization, with dense joints, without culling; and every view weighting.

The same images for all. Weightings cost no pass over the images: what is timed is ``Occupancy.reweight`` on kept counts.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import chorus
from bench.bench_votes import add_vote_rates
from bench.harness.cells import Votes, crowd_on, numba_votes, reference_votes, timed_contender, triton_votes, vote_field
from bench.harness.crowds import Crowd
from bench.harness.gates import WrongResult, check_votes
from bench.harness.measure import Contender, interleaved, rounds_for
from chorus.body.model import Body
from chorus.camera.views import WEIGHTINGS, Scheme
from chorus.kernels.arrays import VoxelField

N = 48
CHECKED = 8
REFERENCE = "everything on"


def with_dense_joints(field: VoxelField) -> VoxelField:
    """The field with all J weights of every voxel listed, the zeros among them: what sparse joints save."""
    V, J = field.num_voxels, field.num_joints
    joint = torch.arange(J, dtype=torch.int32, device=field.joint.device).repeat(V)
    offset = torch.arange(0, V * J + 1, J, device=field.offset.device)
    return replace(field, offset=offset, joint=joint, weight=field.dense_weights(torch.float32).reshape(-1))


def check_same(name: str, have: tuple[Any, ...], want: tuple[Any, ...]) -> None:
    if not all(torch.equal(a, b) for a, b in zip(have, want, strict=True)):
        raise WrongResult(f"{name}: other counts than with everything on")


@pytest.mark.benchmark(group="ablations")
def bench_ablations(benchmark: Any, ablation_images: int, body: Body, device: str, threads: int, cell_seconds: float) -> None:
    work = crowd_on(body, "typical", ablation_images, device)
    field, rigid = vote_field(N), vote_field(N, canonicalize=False)
    dense = with_dense_joints(field)

    def votes(of: VoxelField, cull: bool = True) -> Votes:
        return numba_votes(of, threads, cull=cull) if device == "cpu" else triton_votes(of, cull=cull)

    chosen: dict[str, tuple[Votes, VoxelField]] = {
        REFERENCE: (votes(field), field),
        "canonicalize=False": (votes(rigid), rigid),
        "dense joints": (votes(dense), dense),
        "no culling": (votes(field, cull=False), field),
        "dense joints, no culling": (votes(dense, cull=False), dense),
    }
    if device != "cpu":
        for variant in ("lattice", "tensor"):
            chosen[f"{variant} kernel"] = (triton_votes(field, variant), field)
            chosen[f"{variant} kernel, no culling"] = (triton_votes(field, variant, cull=False), field)
    for name, (contender, of) in chosen.items():
        check_votes({name: contender.cast}, of.to(device), work, CHECKED)
    few = work.rows(slice(0, 64))
    check_same("no culling", chosen["no culling"][0].cast(few), chosen[REFERENCE][0].cast(few))

    timed = [
        timed_contender(contender, work, cell_seconds / 3, name=name, kind="reference" if name == REFERENCE else "ablation")
        for name, (contender, _) in chosen.items()
    ]
    rounds = rounds_for(max(took for _, took in timed), cell_seconds)
    records = interleaved(benchmark, [contender for contender, _ in timed], rounds)
    add_vote_rates(records, field.num_voxels, threads if device == "cpu" else 0)
    benchmark.extra_info.update(
        what=f"ablations, {N}^3 voxels, {ablation_images:,} images",
        device=device,
        workload=work.facts(),
        ratio_to=REFERENCE,
    )


@pytest.mark.benchmark(group="ablations")
def bench_weightings(benchmark: Any, body: Body, device: str, threads: int) -> None:
    """Every view weighting of counts that are kept by azimuth and elevation: 72 groups, 48^3."""
    work = crowd_on(body, "typical", 512, device)
    batch = work.to("cpu").batch(0, 512)
    field = chorus.CanonicalField(body, N)
    backend = "numba" if device == "cpu" else "triton"
    kept = chorus.aggregate(batch, field, scheme="azimuth-elevation", backend=backend)
    for weighting in WEIGHTINGS:
        again = chorus.aggregate(batch, field, weighting, scheme="azimuth-elevation", backend=backend)
        if not (again.probability == kept.reweight(weighting).probability).all():
            raise WrongResult(f"reweight({weighting!r}): another probability than from a pass over the images")

    def reweighted(weighting: str) -> Any:
        return kept.reweight(weighting).probability

    contenders = [Contender(f"reweight {w!r}", partial(reweighted, w), N**3, "voxels") for w in WEIGHTINGS]
    records = interleaved(benchmark, contenders, 9)
    for r in records:
        r["ratio"] = None
    benchmark.extra_info.update(
        what=f"view weightings, {N}^3 voxels, {Scheme('azimuth-elevation').num_groups} groups",
        device="cpu",
        note="no pass over the images",
    )


@pytest.mark.benchmark(group="ablations")
def bench_groups(benchmark: Any, ablation_images: int, body: Body, device: str, threads: int, cell_seconds: float) -> None:
    """What the number of groups costs: the same images in 1, 12, 72 and 720 groups."""
    whole = crowd_on(body, "typical", ablation_images, device)
    field = vote_field(N)
    kernel = numba_votes(field, threads) if device == "cpu" else triton_votes(field)
    works = {G: regrouped(whole, G) for G in (1, 12, 72, 720)}
    few = {G: kernel.cast(work.rows(slice(0, 256))) for G, work in works.items()}
    for G, counts in few.items():
        check_same(f"{G} groups", (counts[0].sum(0), counts[1].sum(0)), (few[1][0].sum(0), few[1][1].sum(0)))
    check_votes(
        {"reference, float32": reference_votes(field, device, 8).cast, "kernel": kernel.cast}, field.to(device), whole, CHECKED
    )
    timed = []
    for G, work in works.items():
        name, kind = f"{G} group{'s'[: G > 1]}", "reference" if G == 12 else "ablation"
        timed.append(timed_contender(kernel, work, cell_seconds / 3, name=name, kind=kind))
    rounds = rounds_for(max(took for _, took in timed), cell_seconds)
    records = interleaved(benchmark, [contender for contender, _ in timed], rounds)
    add_vote_rates(records, field.num_voxels, threads if device == "cpu" else 0)
    benchmark.extra_info.update(
        what=f"groups, {N}^3 voxels, {ablation_images:,} images",
        device=device,
        ratio_to="12 groups",
    )


def regrouped(work: Crowd, groups: int) -> Crowd:
    """The crowd with image i in group i mod ``groups`` (which splits every run of images as evenly as can be)."""
    group = torch.arange(len(work), device=work.group.device) % groups
    return replace(work, group=group, num_groups=groups)
