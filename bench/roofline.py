"""``python -m bench.roofline [--device cuda|cpu] [-o RESULTS.json]``: what the device reaches, and the votes' share of it.

Roofs, measured: copying memory, fp32 multiply-adds (a Triton loop of nothing else; on a CPU the fp32 matrix product), fp16
matrix products with fp32 sums (tensor cores; CUDA only), and the clock while it multiplies. Then the vote pass at 48^3 and
128^3, kernel by kernel as the profiler sees them, and its shares:

- of copying: the bytes that any vote pass must move (mask words, matrices, counts), not the ones a cache let through again;
- of fp32 and of tensor rate: the useful operations, 24 flops a joint for every vote left by the culling (sum_j w_j M_j [x; 1]
  over the brick's joints); what padding to packs of four joints and split operands add is not counted;
- of the issue rate: instructions per vote of the main loop (``bench.static``) times the votes that were left.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.harness.cells import crowd_on, numba_votes, triton_votes, vote_field
from bench.harness.report import append, default_path, devices, load, make_run
from bench.harness.text import aligned, number, seconds
from chorus.body.model import load_body
from chorus.kernels.bricks import VOXELS, cut_into_bricks
from chorus.kernels.stats import CullingStats
from chorus.kernels.threads import default_threads

FLOPS_PER_JOINT = 24
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 28}
ROUNDS = 15


def timed(call: Callable[[], Any], device: str, rounds: int = ROUNDS) -> dict[str, float]:
    """Median, interquartile range and least seconds of a call after two that warm up; on CUDA between events."""
    call()
    call()
    taken = []
    for _ in range(rounds):
        if device == "cuda":
            begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            begin.record()
            call()
            end.record()
            end.synchronize()
            taken.append(begin.elapsed_time(end) / 1e3)
        else:
            began = time.perf_counter()
            call()
            taken.append(time.perf_counter() - began)
    low, high = np.quantile(taken, (0.25, 0.75))
    return {"median_s": median(taken), "iqr_s": float(high - low), "min_s": min(taken), "rounds": rounds}


def copy_rate(device: str) -> dict[str, float]:
    """Bytes/s of copying memory, read and written bytes together."""
    source = torch.ones(COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = timed(lambda: target.copy_(source), device)
    return {"per_s": 2 * source.numel() / took["median_s"], **took}


def fp32_rate(device: str) -> dict[str, float]:
    """fp32 flops/s, a multiply-add as two."""
    if device == "cpu":
        n = 1536
        a, b = torch.rand(n, n), torch.rand(n, n)
        took = timed(lambda: a @ b, device)
        return {"per_s": 2 * n**3 / took["median_s"], **took}
    from bench.harness.fma import CHAINS, UNROLLED, multiply_add

    processors = torch.cuda.get_device_properties(0).multi_processor_count
    programs, lanes, turns = processors * 16, 256, 512
    out = torch.empty(programs * lanes, dtype=torch.float32, device=device)
    took = timed(lambda: multiply_add[(programs,)](out, turns, LANES=lanes, UNROLLED=UNROLLED, num_warps=8), device)
    return {"per_s": 2 * CHAINS * UNROLLED * turns * programs * lanes / took["median_s"], **took}


def tensor_rate() -> dict[str, float]:
    """fp16 flops/s of a matrix product of 8192^3 by tensor cores, sums in fp32."""
    n = 8192
    a, b = (torch.randn(n, n, dtype=torch.float16, device="cuda") for _ in range(2))
    took = timed(lambda: a @ b, "cuda")
    return {"per_s": 2 * n**3 / took["median_s"], **took}


def measure_roofs(device: str) -> dict[str, Any]:
    """All roofs of a device: ``copy`` in bytes/s, ``fp32`` and ``tensor`` in flops/s."""
    roofs: dict[str, Any] = {"copy": copy_rate(device), "fp32": fp32_rate(device)}
    if device == "cuda":
        roofs["tensor"] = tensor_rate()
        # Every multiprocessor does 128 multiply-adds a cycle: the clock follows from the rate, where that was reached.
        lanes = 128 * torch.cuda.get_device_properties(0).multi_processor_count
        roofs["issue"] = {"per_s": roofs["fp32"]["per_s"] / 2, "of": f"{lanes} lanes, as fast as multiply-adds were issued"}
    return roofs


def by_kernel(call: Callable[[], Any]) -> list[dict[str, Any]]:
    """Device time of each kernel of a call, from PyTorch's profiler, longest first; empty where it cannot see the device."""
    from torch.autograd import DeviceType  # type: ignore[attr-defined]
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        call()
        torch.cuda.synchronize()
    found = [
        {"name": e.key, "calls": e.count, "seconds": e.self_device_time_total / 1e6}
        for e in seen.key_averages()
        if e.device_type == DeviceType.CUDA and e.self_device_time_total > 0  # not what started it on the CPU as well
    ]
    return sorted(found, key=lambda k: -float(k["seconds"]))


def vote_pass(resolution: int, images: int, device: str, roofs: dict[str, Any], per_vote: dict[str, float]) -> dict[str, Any]:
    """One vote pass against the roofs: rates, shares, kernels."""
    field = vote_field(resolution)
    work = crowd_on(load_body(), "typical", images, device)
    stats = CullingStats()
    kernel = numba_votes(field, default_threads(), stats) if device == "cpu" else triton_votes(field, stats=stats)
    kernel.cast(work)
    left = 1 - stats.decided / stats.pairs if stats.pairs else 1.0
    # Timed without the statistics, which may cost a pass of their own.
    kernel = numba_votes(field, default_threads()) if device == "cpu" else triton_votes(field)
    took = timed(lambda: kernel.cast(work), device, 5)
    joints = float(np.diff(cut_into_bricks(field).joint_offset).mean())
    counts = 2 * 4 * work.num_groups * field.num_voxels
    moved = 4 * work.images.words.numel() + images * field.num_joints * 12 * 4 + counts
    bricks = int(np.prod([-(-n // 4) for n in field.shape]))
    votes = images * bricks * VOXELS
    # The bricks that are left have more joints than the mean: the useful operations are a lower bound.
    flops = FLOPS_PER_JOINT * joints * votes * left
    per_s = {"bytes": moved / took["median_s"], "flops": flops / took["median_s"]}
    shares = {"copy": per_s["bytes"] / roofs["copy"]["per_s"], "fp32": per_s["flops"] / roofs["fp32"]["per_s"]}
    if "tensor" in roofs:
        shares["tensor"] = per_s["flops"] / roofs["tensor"]["per_s"]
    if "issue" in roofs:
        issued = {name: votes * left * count / took["median_s"] / roofs["issue"]["per_s"] for name, count in per_vote.items()}
        shares |= {f"issue, {name}": share for name, share in issued.items()}
    return {
        "what": f"votes, {resolution}^3 voxels, {images:,} images",
        "images": images,
        "resolution": resolution,
        "kernel": kernel.name,
        **took,
        "images_per_s": images / took["median_s"],
        "left_by_culling": left,
        "mean_joints": joints,
        "bytes": moved,
        "flops": flops,
        "bytes_per_s": per_s["bytes"],
        "flops_per_s": per_s["flops"],
        "shares": shares,
        "kernels": by_kernel(lambda: kernel.cast(work)) if device == "cuda" else [],
    }


def instructions_per_vote() -> dict[str, float]:
    """Mean instructions per vote of the vote kernels on sm_90, from their machine code; empty off sm_90."""
    if torch.cuda.get_device_capability(0) != (9, 0):
        return {}
    from bench.machine_code.compiled import chosen, compile_all, parse_name
    from bench.machine_code.issue_rate import SPECIAL, mean_per_vote

    plain = [job for job in chosen(["sm_90"], "vote_") if not parse_name(job[0]).flags & SPECIAL]
    return {m.kernel: m.per_vote for m in mean_per_vote(compile_all(plain, min(8, os.cpu_count() or 1)))}


def report(result: dict[str, Any]) -> str:
    """The roofs and the passes as text."""
    units = {"copy": "B/s", "fp32": "flop/s", "tensor": "flop/s", "issue": " lane instructions/s"}
    parts = [
        aligned(
            [
                ("roof", "measured", "median", "IQR"),
                *(
                    (
                        name,
                        f"{number(r['per_s'] / 1e9)} G{units[name]}",
                        seconds(r["median_s"]) if "median_s" in r else "",
                        seconds(r["iqr_s"]) if "iqr_s" in r else "",
                    )
                    for name, r in result["roofs"].items()
                ),
            ],
            left=(0,),
        )
    ]
    for p in result["passes"]:
        shares = ", ".join(f"{share:.1%} of {name}" for name, share in p["shares"].items())
        head = f"{p['what']}, {p['kernel']}: {seconds(p['median_s'])}, {number(p['images_per_s'])} images/s; {shares}"
        total = sum(k["seconds"] for k in p["kernels"])
        lines = [(k["name"], k["calls"], seconds(k["seconds"]), f"{k['seconds'] / total:.1%}") for k in p["kernels"][:10]]
        parts.append("\n".join([head, *([aligned([("kernel", "calls", "time", "share"), *lines])] if lines else [])]))
    return "\n\n".join(parts + result["notes"])


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and append to the record; 3 where there is no such device."""
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what to measure (cuda)")
    parser.add_argument("--images", type=int, help="images of a pass (65,536; on a CPU 2,048)")
    parser.add_argument("-o", "--output", type=Path, help="results file to append to (default: bench/results/...)")
    options = parser.parse_args(arguments)
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        print("roofline: --device cuda needs a CUDA device, and torch sees none", file=sys.stderr)
        return 3
    images = options.images or (65536 if device == "cuda" else 2048)
    if images < 1:
        parser.error(f"--images: expected at least 1, got {images}")
    before, notes, per_vote = load(), [], {}
    roofs = measure_roofs(device)
    if device == "cuda":
        try:
            per_vote = instructions_per_vote()
        except Exception as problem:  # the shares of the other roofs stand without it
            notes.append(f"no share of the issue rate: {type(problem).__name__}: {problem}")
    passes = [vote_pass(N, images if N == 48 else images // 4, device, roofs, per_vote) for N in (48, 128)]
    result = {"device": device, "roofs": roofs, "instructions_per_vote": per_vote, "passes": passes, "notes": notes}
    print(report(result))
    path = options.output or default_path()
    date = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    run = make_run({"datetime": date, "benchmarks": []}, profile="roofline", failed=[], load_before=before)
    append(path, {**run, "gpu": devices(), "roofline": result})
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
