"""``python -m bench.first_contact [--images N] [--only-run] [-o FOLDER]``: the Triton votes' first minutes on a GPU.

In this order, each line printed as soon as it is known: every variant against the float64 definition (a gate: the exit code is
1 where one is off by more than its band), without the depth of the posed body and with it, images/s by the wall and by the
device's own events, the depth's among them, and the time of each kernel.
``--only-run`` casts the votes twice and marks the second time for a profiler (``ncu --profile-from-start off``). ``--stages``
tries another depth of the software pipeline for bricks of up to two packs. ``--device cpu`` is for the interpreter.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from bench.harness.crowds import Crowd, crowd, people
from chorus.body.model import Body, load_body
from chorus.field import CanonicalField
from chorus.kernels.arrays import VoxelField
from chorus.kernels.gpu import vote_kernels, votes
from chorus.kernels.gpu.field import Launch
from chorus.kernels.reference import votes as reference
from chorus.render.body_depth import body_depth

GROUPS = 12
GATE_IMAGES = 64
DEPTH_IMAGES = 1024
ROUNDS = 15
KERNELS = 14
"""The longest kernels that are printed."""


def main(arguments: list[str] | None = None) -> int:
    """Run what the options ask for; 0 only where every variant met the contract."""
    parser = argparse.ArgumentParser(prog="python -m bench.first_contact", description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=65536)
    parser.add_argument("--resolution", type=int, default=48)
    parser.add_argument("--stages", type=int, help="stages of the tensor kernels for up to two packs (default: as shipped)")
    parser.add_argument("--only-run", action="store_true", help="for a profiler: no gate, no timing")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("-o", "--output", type=Path, help="folder for a JSON file of every time measured")
    options = parser.parse_args(arguments)
    with stages_of_tensor_kernels(options.stages) if options.stages else nullcontext():
        return measure(options)


def measure(options: argparse.Namespace) -> int:
    """What ``main`` does once the kernels are as they are to be."""
    body = load_body()
    field = CanonicalField(body, options.resolution).arrays
    began = time.perf_counter()
    work = crowd(people(body, options.images), "typical").with_depth(body)
    print(f"{options.images:,} images made in {time.perf_counter() - began:.1f} s", flush=True)
    there = work.to(options.device)
    if options.only_run:
        run_for_profiler(field, there)
        return 0
    if not meets_contract(field, work, there):
        return 1
    if there.group.device.type != "cuda":
        print("no times: they are taken on a CUDA device alone")
        return 0
    results = rates(field, there)
    if options.output:
        name = f"rates-{options.resolution}-{options.stages or 'shipped'}-stages.json"
        (options.output / name).write_text(json.dumps(results))
    print_kernels(field, there)
    print_depth_rates(body, there)
    return 0


def stages_of_tensor_kernels(num_stages: int) -> AbstractContextManager[Any]:
    """Within it, the tensor kernels of up to two packs have so many loads under way."""
    launch_votes, shipped = votes.cast_votes, vote_kernels.tensor_shape

    def cast_votes(plan: Any, pass_: Any, launch: Launch, *arrays: Any, **options: Any) -> None:
        def tensor_shape(capability: tuple[int, int] | None) -> vote_kernels.TensorShape:
            shape = shipped(capability)
            return replace(shape, num_stages=num_stages) if launch.num_packs <= 2 else shape

        with mock.patch.object(vote_kernels, "tensor_shape", tensor_shape):
            launch_votes(plan, pass_, launch, *arrays, **options)

    return mock.patch.object(votes, "cast_votes", cast_votes)


def cast(field: VoxelField, work: Crowd, hidden: bool = False, **options: Any) -> tuple[Tensor, ...]:
    """The votes of a crowd; with ``hidden`` those that the body hides are counted too."""
    depth = work.depth if hidden else None
    return votes.count_votes(field, work.images, work.group, num_groups=GROUPS, depth=depth, **options)


def run_for_profiler(field: VoxelField, there: Crowd) -> None:
    """Cast the votes once to compile, and once between the marks that a profiler looks for."""
    cast(field, there, hidden=True)
    torch.cuda.synchronize()
    torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
    cast(field, there, hidden=True)
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]


def meets_contract(field: VoxelField, work: Crowd, there: Crowd) -> bool:
    """Every variant against the float64 definition on a few images, with culling and without."""
    few, few_there = (w.rows(slice(0, GATE_IMAGES)) for w in (work, there))
    assert few.depth is not None  # ``measure`` draws it
    band = reference.vote_band(field, few.images, few.group, num_groups=GROUPS)
    assert few.depth is not None  # every crowd here has one
    hidden_band = reference.hidden_band(field, few.images, few.group, depth=few.depth, num_groups=GROUPS)
    expected = reference.count_votes(field, few.images, few.group, depth=few.depth, num_groups=GROUPS)
    bands = (band, band, hidden_band, hidden_band)
    right = True
    for variant in ("lattice", "tensor", "auto"):
        for cull in (True, False):
            plain = cast(field, few_there, variant=variant, cull=cull)
            counts = cast(field, few_there, hidden=True, variant=variant, cull=cull)
            off = [(a.cpu() - b).abs() for a, b in zip(counts, expected, strict=True)]
            over = [int((o - most).max()) for o, most in zip(off, bands, strict=True)]
            same = all(torch.equal(a, b) for a, b in zip(plain, counts[:2], strict=True))
            right &= max(over) <= 0 and same
            differing = sum(int((o > 0).sum()) for o in off)
            told = f"at most {over} over the band, {differing} counts differ; without depth {'' if same else 'NOT '}the same"
            print(f"gate: {variant}, cull={cull}: {told}", flush=True)
    return right


def rates(field: VoxelField, there: Crowd) -> list[dict[str, Any]]:
    """Seconds by the wall and by the device's events, for growing numbers of images."""
    results = []
    n = len(there.images)
    for count in sorted({k for k in (64, 4096, 16384, n) if k <= n}):
        some = there.rows(slice(0, count))
        for options in ({}, {"cull": False}, {"hidden": True}):  # type: dict[str, Any]
            for _ in range(3):
                cast(field, some, **options)
            torch.cuda.synchronize()
            wall, events = [], []
            for _ in range(ROUNDS):
                first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                began = time.perf_counter()
                first.record()
                cast(field, some, **options)
                last.record()
                torch.cuda.synchronize()
                wall.append(time.perf_counter() - began)
                events.append(first.elapsed_time(last) / 1e3)
            results.append({"images": count, **options, "wall_s": wall, "event_s": events})
            by_wall, by_events = count / median(wall), count / median(events)
            print(f"{count:,} images {options}: {by_wall:,.0f} images/s by the wall, {by_events:,.0f} by events", flush=True)
    return results


def print_depth_rates(body: Body, there: Crowd) -> None:
    """Images/s at which the device draws the depth of the posed body, and how much of it differs from the CPU's."""
    some = there.rows(slice(0, DEPTH_IMAGES))
    cameras, poses, seconds = some.cameras(), some.images.poses.cpu().numpy(), []
    for _ in range(5):
        torch.cuda.synchronize()
        began = time.perf_counter()
        drawn = body_depth(body, cameras, poses, device=there.group.device)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    on_cpu = body_depth(body, cameras, poses)
    if torch.equal(drawn.box.cpu(), on_cpu.box):
        differs = f"{float((drawn.values.cpu() != on_cpu.values).double().mean()):.2%} of the cells differ from the CPU's"
    else:
        differs = "boxes differ from the CPU's"
    print(f"depth: {len(some) / min(seconds):,.0f} images/s, {differs}")


def print_kernels(field: VoxelField, there: Crowd) -> None:
    """Device time of the longest kernels of one pass with hidden votes, and the peak of memory."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        cast(field, there, hidden=True)
        torch.cuda.synchronize()
    kernels = [event for event in seen.key_averages() if event.device_type == DeviceType.CUDA]
    kernels.sort(key=lambda event: -event.self_device_time_total)
    for event in kernels[:KERNELS]:
        print(f"{event.self_device_time_total / 1e3:9.3f} ms {event.count:4d} x {event.key[:80]}")
    total = sum(event.self_device_time_total for event in kernels[:KERNELS]) / 1e3
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(f"{total:.2f} ms of the device in these; peak {peak:.2f} GiB; {torch.cuda.get_device_name()}")


if __name__ == "__main__":
    sys.exit(main())
