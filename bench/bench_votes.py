"""Votes by backend, resolution, number of images and size of the masks: same images, same run, interleaved.

Each contender of a cell gets about as many images as it handles in the cell's seconds; where those are fewer than asked for,
the record says how many (``items``) of how many (``asked``). Rates are of what was really timed.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.harness.cells import (
    INTERPOLATED_FROM,
    LARGEST_COMPUTED,
    Cell,
    Votes,
    baselines,
    crowd_on,
    numba_votes,
    timed_contender,
    triton_votes,
    vote_field,
)
from bench.harness.crowds import Crowd
from bench.harness.gates import check_adds_up, check_votes
from bench.harness.measure import clock_hz, compile_seconds, interleaved, rounds_for
from chorus.body.model import Body
from chorus.kernels.arrays import VoxelField
from chorus.kernels.stats import CullingStats

CHECKED_IMAGES = {48: 12, 96: 4, 128: 4, 192: 3, 256: 3}


@pytest.mark.benchmark(group="votes")
def bench_votes(
    benchmark: Any, vote_cell: Cell, body: Body, crowd_size: int, device: str, threads: int, cell_seconds: float
) -> None:
    N = vote_cell.resolution
    field = vote_field(N)
    on_cpu = device == "cpu"
    work = crowd_on(body, vote_cell.box, crowd_size, device).rows(slice(0, vote_cell.images))
    kernel = numba_votes(field, threads) if on_cpu else triton_votes(field)
    contenders_here = [kernel, *baselines(vote_cell, field, device)]
    chosen, notes = with_right_counts(contenders_here, field.to(device), work, min(CHECKED_IMAGES[N], vote_cell.images))

    # Baselines are many, so each gets less time.
    timed = [timed_contender(votes, work, cell_seconds / (3 if votes is kernel else 4)) for votes in chosen]
    contenders, longest = [contender for contender, _ in timed], max(took for _, took in timed)
    check_adds_up(kernel.cast, work.rows(slice(0, contenders[0].items)), kernel.name)
    records = interleaved(benchmark, contenders, rounds_for(longest, cell_seconds))
    culling = CullingStats()  # counting it costs time: of the same images once more, untimed
    counting = numba_votes(field, threads, culling) if on_cpu else triton_votes(field, stats=culling)
    counting.cast(work.rows(slice(0, contenders[0].items)))
    add_vote_rates(records, field.num_voxels, threads if on_cpu else 0)
    benchmark.extra_info.update(
        what=vote_cell.what,
        resolution=N,
        images=vote_cell.images,
        box=vote_cell.box,
        device=device,
        threads=threads,
        workload=work.rows(slice(0, contenders[0].items)).facts(),
        culling=culling_facts(culling, contenders[0].items * field.num_voxels),
        field="its own" if N <= LARGEST_COMPUTED else f"interpolated from {INTERPOLATED_FROM}^3",
        notes=notes,
        ratio_to="the fastest of the references of the same run, by medians; by the least times: ratio_of_least",
    )


def with_right_counts(votes: list[Votes], field: VoxelField, work: Crowd, checked: int) -> tuple[list[Votes], list[str]]:
    """Contenders whose counts are right, and why others have no figure: only torch.compile may fail, with a note.

    Raises WrongResult where one that was not compiled by PyTorch is wrong.
    """
    plain = [v for v in votes if v.kind != "compiled"]
    check_votes({v.name: v.cast for v in plain}, field, work, checked)
    kept, notes = list(plain), []
    for contender in (v for v in votes if v.kind == "compiled"):
        try:
            check_votes({contender.name: contender.cast}, field, work, checked)
        except Exception as problem:  # whatever the compiler throws, or counts that are wrong: the note says it
            lines = str(problem).strip().splitlines() or [""]
            notes.append(f"{contender.name}: no figure: {type(problem).__name__}: {lines[0]}")
            continue
        kept.append(contender)
    return kept, notes


def culling_facts(stats: Any, votes: int) -> dict[str, float]:
    """What the culling did: shares of the pairs of brick and image, mask bits read a vote; empty where nobody counted."""
    if not getattr(stats, "pairs", 0):
        return {}
    return {
        "pairs": stats.pairs,
        "culled": round(stats.decided / stats.pairs, 4),
        "outside": round(stats.outside / stats.pairs, 4),
        "lookups_per_vote": round(stats.lookups / votes, 4),
    }


def add_vote_rates(records: list[dict[str, Any]], voxels: int, threads: int) -> None:
    """Votes/s, cycles a vote of so many threads (0: not on this machine's cores), and ratios to the fastest reference."""
    hz = clock_hz(threads) if threads else 0.0
    references = [r for r in records if r["kind"] == "reference"]
    for r in records:
        r["votes_per_s"] = r["per_s"] * voxels
        r["cycles_per_vote"] = threads * hz / r["votes_per_s"] if threads else None
        r["ratio"] = r["per_s"] / max(o["per_s"] for o in references) if references else None
        best = max((o["items"] / o["min_s"] for o in references), default=0.0)
        r["ratio_of_least"] = r["items"] / r["min_s"] / best if references else None


@pytest.mark.benchmark(group="votes")
def bench_compilation(benchmark: Any, device: str) -> None:
    if device != "cpu":
        pytest.skip("the Triton kernels are compiled ahead of time by python -m bench.static, which says how long each takes")
    seconds: list[float] = []
    benchmark.pedantic(lambda: seconds.append(compile_seconds()), rounds=1)
    benchmark.extra_info.update(
        what="compilation of the vote kernel",
        contenders=[],
        compile_s=round(seconds[0], 2),
        note="first vote less second vote, empty cache; once a machine, then kept on disk",
    )
