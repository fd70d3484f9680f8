"""``python -m bench.scale --images N [--shares n]``: a store of very many images from writing to an occupancy.

The store repeats 2,000 images of the vote workload under new keys. Timed are the commands as users run them, in processes of
their own, with the peak of memory of the largest of these: writing, ``open_store`` (every byte against its digest),
``aggregate`` in shares, one after the other, with ``merge``; with ``--whole`` also in one process and by torchrun; then 1 %
more images and ``aggregate --update``. Before each, the store's pages are dropped from the system's cache. Gates: every image
is counted, and counts of all ways are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.gates import WrongResult
from bench.harness.report import write_record
from bench.harness.workloads import vote_workload
from chorus.body.model import load_body
from chorus.evaluate import machine
from chorus.images import ImageBatch
from chorus.occupancy.counts import Occupancy, load_occupancy
from chorus.occupancy.merging import narrowed
from chorus.provenance import versions
from chorus.store import StoreWriter, store_info

DISTINCT = 2000
_OPEN = "import sys, chorus; chorus.open_store(sys.argv[1])"
_WATCH = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""A small process between ours and the command: what a process had in memory when it started another counts as the other's."""


def write(path: Path, first: int, images: int) -> float:
    """Append images number ``first`` and following to the store; seconds."""
    body = load_body()
    distinct = vote_workload(body, DISTINCT).batch
    start = time.perf_counter()
    with StoreWriter(path, category="object", body_hash=body.hash) as writer:
        for at in range(first, first + images, DISTINCT):
            some = distinct[: min(DISTINCT, first + images - at)]
            keys = np.array([f"image-{at + i}" for i in range(len(some))], "S")
            writer.append(ImageBatch(some.masks, some.cameras, some.poses, keys, warn=False))
    return time.perf_counter() - start


def forget(path: Path) -> None:
    """Have the system drop its cached pages of a store's files, as after a restart."""
    for file in path.rglob("*.h5"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(command: list[str]) -> dict[str, float]:
    """Seconds of a command and its peak of memory in GiB: of the largest of its processes."""
    done = subprocess.run([sys.executable, "-c", _WATCH, *command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise WrongResult(f"{' '.join(command)}: exit code {done.returncode}")
    seconds, kilobytes = done.stdout.split()
    return {"seconds": round(float(seconds), 2), "peak_gib": round(int(kilobytes) / 2**20, 3)}


def measure(path: Path, folder: Path, images: int, shares: int, whole: bool, resolution: int) -> dict[str, Any]:
    """Everything but writing; WrongResult where an image is missing or two ways do not agree."""
    chorus = [sys.executable, "-m", "chorus"]
    grid = ("--resolution", str(resolution), "--json")
    found: dict[str, Any] = {}

    def timed(name: str, *command: str) -> None:
        forget(path)
        found[name] = run(list(command))
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)

    timed("open and verify", sys.executable, "-c", _OPEN, str(path))
    parts = [folder / f"part-{i}.h5" for i in range(1, shares + 1)]
    for i, part in enumerate(parts, 1):
        timed(f"share {i}/{shares}", *chorus, "aggregate", str(path), "-o", str(part), "--share", f"{i}/{shares}", *grid)
    timed("merge", *chorus, "merge", *map(str, parts), "-o", str(folder / "merged.h5"), "--json")
    merged = load_occupancy(folder / "merged.h5")
    if merged.num_images != images:
        raise WrongResult(f"shares: expected {images} images, got {merged.num_images}")
    if whole:
        out = str(folder / "whole.h5")
        timed("one process", *chorus, "aggregate", str(path), "-o", out, *grid)
        check_equal("one process", load_occupancy(folder / "whole.h5"), merged)
        ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "chorus"]
        timed("two processes of torchrun", *ranks, "aggregate", str(path), "-o", str(folder / "ranks.h5"), *grid)
        check_equal("torchrun", load_occupancy(folder / "ranks.h5"), merged)
    more = images // 100
    write(path, images, more)
    timed("update by 1 %", *chorus, "aggregate", str(path), "--update", str(folder / "merged.h5"), "--json")
    updated = load_occupancy(folder / "merged.h5")
    if updated.num_images != images + more:
        raise WrongResult(f"update: expected {images + more} images, got {updated.num_images}")
    if whole:
        again = str(folder / "again.h5")
        timed("one process, the grown store", *chorus, "aggregate", str(path), "-o", again, *grid)
        check_equal("update", load_occupancy(folder / "again.h5"), updated)
    return found


def check_equal(name: str, one: Occupancy, other: Occupancy) -> None:
    """WrongResult where counts differ in a bit."""
    for counts in ("num_counts", "den_counts", "group_totals", "group_images"):
        if not np.array_equal(getattr(narrowed(one), counts), getattr(narrowed(other), counts)):
            raise WrongResult(f"{name}: expected the same {counts} as of the shares, got others")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the record, and with ``-o`` add it to a file."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--images", type=int, default=100_000, help="images of the store (100,000)")
    parser.add_argument("--shares", type=int, default=4, help="shares, counted one after the other (4)")
    parser.add_argument("--store", type=Path, help="a store that this command has written before, with so many images")
    parser.add_argument("--folder", type=Path, help="where to make store and results (default: a new folder)")
    parser.add_argument("--resolution", type=int, default=48, help="voxels along an edge (48)")
    parser.add_argument("--whole", action="store_true", help="also in one process, by torchrun, and all of the grown store")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file to which the run is added")
    options = parser.parse_args(arguments)
    if options.images < 100:
        parser.error(f"--images: expected at least 100, got {options.images}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        record: dict[str, Any] = {
            "images": options.images,
            "shares": options.shares,
            "resolution": options.resolution,
            "load_before": os.getloadavg()[0],
        }
        path = options.store or folder / "big.chorus"
        if options.store is None:
            record["seconds_to_write"] = round(write(path, 0, options.images), 1)
        record["bytes"] = store_info(path)["bytes"]
        record |= {"machine": machine(), "versions": versions()}
        record["commands"] = measure(path, folder, options.images, options.shares, options.whole, options.resolution)
    print(json.dumps(record, indent=1))
    if options.output is not None:
        stores = json.loads(options.output.read_text())["stores"] if options.output.exists() else []
        write_record(options.output, {"stores": [*stores, record]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
