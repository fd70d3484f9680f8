"""``python -m bench.memory [--images N] [--folder DIR] [--bytes]``: peak memory and rate of aggregating a big store from disk.

The store repeats 2,000 images of the vote workload under new keys; what is measured is memory, which depends on their number
and sizes alone. Aggregation runs in a process of its own, whose peak is its own.
"""

from __future__ import annotations

import argparse
import json
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

DISTINCT = 2000

_AGGREGATE = """
import json, sys, time
import chorus
body = chorus.load_body()
field = chorus.CanonicalField(body)
start = time.perf_counter()
store = chorus.open_store(sys.argv[1])
opened = time.perf_counter() - start
start = time.perf_counter()
occupancy = chorus.aggregate(store, field)
seconds = time.perf_counter() - start
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
print(json.dumps({"images": occupancy.num_images, "seconds_to_open_and_verify": opened, "seconds_to_aggregate": seconds,
                  "images_per_second": occupancy.num_images / seconds, "peak_gib": int(peak) / 2**20}))
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
    done = subprocess.run(
        [sys.executable, "-c", _AGGREGATE, str(folder / "big.chorus")], check=True, capture_output=True, text=True
    )
    return {"seconds_to_write": written, "bytes_on_disk": info["bytes"], **json.loads(done.stdout)}


def main(arguments: list[str] | None = None) -> int:
    """Print what was measured: JSON, or with ``--bytes`` a line for each size of box."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--images", type=int, default=100_000, help="images of the store (100,000)")
    parser.add_argument("--folder", type=Path, help="where to make the store (default: a new folder)")
    parser.add_argument("--bytes", action="store_true", help="bytes per image instead, for boxes of 10, 30, 60 %% of it")
    options = parser.parse_args(arguments)
    if options.images < 1:
        parser.error(f"--images: expected at least 1, got {options.images}")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if not options.bytes:
            print(json.dumps(aggregate_big_store(options.images, folder), indent=1))
            return 0
        for share in (0.1, 0.3, 0.6):
            total, blocks = bytes_per_image(share, folder)
            rest = total - blocks
            print(f"box of {share:.0%}: {total:,.0f} bytes an image, {blocks:,.0f} of them the mask, {rest:.0f} others")
    return 0


if __name__ == "__main__":
    sys.exit(main())
