"""The canonical field without its cache, against the plain computation in numpy; and its memory."""

from __future__ import annotations

from typing import Any

import pytest

from bench.harness.gates import check_field, plain_weights
from bench.harness.measure import Contender, field_probe, interleaved
from chorus.body.model import Body
from chorus.field import CanonicalField


@pytest.mark.benchmark(group="field")
def bench_field(benchmark: Any, field_resolution: int, body: Body, quick: bool) -> None:
    N = field_resolution
    field = CanonicalField(body, N, cache=False)
    contenders = [Contender("field", lambda: CanonicalField(body, N, cache=False), N**3, "voxels")]
    if N <= 48:
        check_field(field, plain_weights(body, field.parameters))
        contenders.append(Contender("plain numpy", lambda: plain_weights(body, field.parameters), N**3, "voxels"))
    else:  # the plain computation would take minutes: all the steps are checked on a coarser grid, one on this
        coarse, once = CanonicalField(body, 32, cache=False), CanonicalField(body, N, cache=False, smoothing_steps=1)
        check_field(coarse, plain_weights(body, coarse.parameters))
        check_field(once, plain_weights(body, once.parameters))
        check_field(field)
    records = interleaved(benchmark, contenders, rounds=2 if quick else 5)
    for r in records:
        r["ratio"] = r["per_s"] / records[-1]["per_s"] if len(records) > 1 else None
    benchmark.extra_info.update(
        what=f"field {N}^3, no cache",
        resolution=N,
        smoothing_steps=field.parameters.smoothing_steps,
        ratio_to="the plain numpy computation",
    )


@pytest.mark.benchmark(group="field")
def bench_field_memory(benchmark: Any, memory_resolution: int, body: Body) -> None:
    check_field(CanonicalField(body, memory_resolution))
    facts: dict[str, float] = {}
    benchmark.pedantic(lambda: facts.update(field_probe(memory_resolution)), rounds=1)
    benchmark.extra_info.update(
        what=f"field {memory_resolution}^3, memory",
        contenders=[],
        resolution=memory_resolution,
        build_s=round(facts["seconds"], 3),
        peak_mib=round(facts["peak_bytes"] / 2**20),
        before_mib=round(facts["before_bytes"] / 2**20),
        note="peak resident memory of a fresh process, and before the field was made (interpreter, libraries, body)",
    )
