"""``python -m bench.memory [--images N] [--folder DIR] [--bytes] [--server]``: memory and rate of aggregating a big store.

From a disk; with ``--server`` also from an object server (moto's, in this process) with an empty cache, with a full one, and
with one that holds a third of the store.

The store repeats 2,000 images of the vote workload under new keys; what is measured is memory, which depends on their number
and sizes alone. Aggregation runs in a process of its own, whose peak is its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.crowds import shapes
from bench.harness.workloads import vote_workload
from chorus.body.model import load_body
from chorus.images import ImageBatch
from chorus.store import StoreWriter, open_store, store_info
from chorus.store.remote.index import write_index

DISTINCT = 2000

_AGGREGATE = """
import json, sys, time
import chorus
body = chorus.load_body()
field = chorus.CanonicalField(body)
sent = [0]
if "://" in sys.argv[1]:
    import s3fs
    call = s3fs.S3FileSystem._cat_file
    async def counted(self, path, *how, **more):
        data = await call(self, path, *how, **more)
        sent[0] += len(data)
        return data
    s3fs.S3FileSystem._cat_file = counted
start = time.perf_counter()
store = chorus.open_store(sys.argv[1])
opened = time.perf_counter() - start
start = time.perf_counter()
occupancy = chorus.aggregate(store, field)
seconds = time.perf_counter() - start
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
print(json.dumps({"images": occupancy.num_images, "seconds_to_open_and_verify": opened, "seconds_to_aggregate": seconds,
                  "images_per_second": occupancy.num_images / seconds, "peak_gib": int(peak) / 2**20,
                  "bytes_fetched": sent[0], "counts": hash(occupancy.num_counts.tobytes() + occupancy.den_counts.tobytes())}))
"""


def bytes_per_image(share: float, folder: Path, side: int = 512) -> tuple[float, float]:
    """Bytes of a store per image, and those of its masks: tilted blobs in boxes of this share of the image, 10 betas."""
    masks = shapes(f"{100 * share:.0f}", size=side)
    some = vote_workload(load_body(), len(masks), size=side).batch
    images = ImageBatch(masks, some.cameras, some.poses)
    path = folder / f"{share}.chorus"
    with StoreWriter(path, category="object") as writer:
        writer.append(images, betas=np.zeros((len(masks), 10), np.float32))
    total: float = store_info(path)["bytes"] / len(masks)
    words = sum(shard.arrays["mask/words"].nbytes for shard in open_store(path).shards)
    return total, words / len(masks)


def aggregate_big_store(images: int, folder: Path) -> dict[str, Any]:
    """Write a store of so many images, aggregate it in another process: seconds, bytes, images a second, peak in GiB."""
    body = load_body()
    distinct = vote_workload(body, min(DISTINCT, images)).batch
    start = time.perf_counter()
    with StoreWriter(folder / "big.chorus", category="object", body_hash=body.hash) as writer:
        for first in range(0, images, len(distinct)):
            some = distinct[: min(len(distinct), images - first)]
            keys = np.array([f"image-{first + i}" for i in range(len(some))], "S")
            writer.append(ImageBatch(some.masks, some.cameras, some.poses, keys))
    written = time.perf_counter() - start
    info = store_info(folder / "big.chorus")
    return {"seconds_to_write": written, "bytes_on_disk": info["bytes"], **_aggregated(str(folder / "big.chorus"))}


def _aggregated(source: str, **environment: str) -> dict[str, Any]:
    """What a process of its own measures of aggregating a store."""
    done = subprocess.run(
        [sys.executable, "-c", _AGGREGATE, source],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0", **environment},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def from_object_server(store: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What ``_AGGREGATE`` measures of a store on an object server: with an empty cache, a full one, and a small one."""
    import boto3
    from moto.server import ThreadedMotoServer

    size = store_info(store)["bytes"]
    write_index(store)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        there = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
        os.environ.update(there, AWS_DEFAULT_REGION="us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="bench")
        for path in store.rglob("*"):
            if path.is_file() and path.name != ".lock":
                client.upload_file(str(path), "bench", f"big/{path.relative_to(store).as_posix()}")
        large, small = {"CHORUS_CACHE": str(folder / "large")}, {"CHORUS_CACHE": str(folder / "small")}
        return {
            "empty cache": _aggregated("s3://bench/big", **large),
            "full cache": _aggregated("s3://bench/big", **large),
            "cache of a third": _aggregated("s3://bench/big", CHORUS_CACHE_LIMIT=str(size // 3), **small),
        }
    finally:
        server.stop()


def main(arguments: list[str] | None = None) -> int:
    """Print what was measured: JSON, or with ``--bytes`` a line for each size of box."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--images", type=int, default=100_000, help="images of the store (100,000)")
    parser.add_argument("--folder", type=Path, help="where to make the store (default: a new folder)")
    parser.add_argument("--bytes", action="store_true", help="bytes per image instead, for boxes of 10, 30, 60 %% of it")
    parser.add_argument("--server", action="store_true", help="also from an object server on this machine")
    options = parser.parse_args(arguments)
    if options.images < 1:
        parser.error(f"--images: expected at least 1, got {options.images}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if not options.bytes:
            found = aggregate_big_store(options.images, folder)
            if options.server:
                others = from_object_server(folder / "big.chorus", folder)
                if {other["counts"] for other in others.values()} != {found["counts"]}:
                    raise AssertionError("the counts from the object server differ from those of the folder")
                found |= others
            print(json.dumps(found, indent=1))
            return 0
        for share in (0.1, 0.3, 0.6):
            total, blocks = bytes_per_image(share, folder)
            rest = total - blocks
            print(f"box of {share:.0%}: {total:,.0f} bytes an image, {blocks:,.0f} of them the mask, {rest:.0f} others")
    return 0


if __name__ == "__main__":
    sys.exit(main())
