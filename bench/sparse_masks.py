"""``python -m bench.sparse_masks [--coco FOLDER] [-o FILE]``: stores of version 2 against version 1, with the same images.

Bytes a mask on disk, for simulated worlds and for COCO's annotations; time to expand masks into memory; reading a store, and
aggregating it end to end, with the files in the system's page cache. The two versions take turns; least times are compared.
Gates, before anything is timed: the masks of both versions are those that were written, and their counts are equal bits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import chorus
from bench.harness.cells import crowd_on
from bench.harness.gates import WrongResult, check_same_images
from bench.harness.old_stores import to_version_1
from bench.harness.report import load, write_record
from chorus.body.model import Body, load_body
from chorus.errors import InputError
from chorus.images import ImageBatch
from chorus.ingest.coco_masks import decode_mask
from chorus.kernels.masks import PackedMasks
from chorus.simulate.images import simulate
from chorus.simulate.worlds import WORLDS
from chorus.store import StoreWriter, open_store, sparse, store_info
from chorus.store.schema import class_words

WORLD_NAMES = ("ball", "backpack", "board", "surfboard-carried")
LARGE = 8192
"""Bytes above which a mask of version 1 counts as large."""
SHARD = 4096
RESOLUTION = 48


def coco_masks(folder: Path) -> PackedMasks:
    """The masks of all annotations in COCO's ``instances_*.json``, those that cannot be drawn left out."""
    masks = []
    for path in sorted(folder.glob("instances_*.json")):
        told = json.loads(path.read_text())
        size = {image["id"]: (image["height"], image["width"]) for image in told["images"]}
        for annotation in told["annotations"]:
            try:
                mask = decode_mask(annotation["segmentation"], size[annotation["image_id"]], [])
            except InputError:
                continue
            if mask.any():
                masks.append(mask)
    return PackedMasks.pack(masks)


def bytes_of(masks: PackedMasks) -> dict[str, Any]:
    """Bytes a mask takes as words in either version, of all masks and of large ones; the gate: what comes back is the same."""
    offset, words = sparse.encode(masks)
    back, wrong = sparse.decode(masks.size, masks.box, offset[:-1], offset[1:], words)
    if wrong >= 0 or not np.array_equal(back.words, masks.words) or not np.array_equal(back.start, masks.start):
        raise WrongResult("sparse masks: what was read is not what was written")
    before = 4 * np.diff(np.append(masks.start, len(masks.words)))
    after = 4 * np.diff(offset)
    large = before > LARGE
    found = {"masks": len(masks), "version_1": round(before.mean(), 1), "version_2": round(after.mean(), 1)}
    if large.any():
        means = {"version_1": round(before[large].mean(), 1), "version_2": round(after[large].mean(), 1)}
        found["large"] = {"masks": int(large.sum()), **means}
    mixed_words = len(words) - int(class_words(masks.box).sum())
    found["share_of_uniform_blocks"] = round(1 - mixed_words / max(len(masks.words), 1), 3)
    found["decode"] = _decode_times(masks, offset, words)
    return found


def _decode_times(masks: PackedMasks, offset: Any, words: Any) -> dict[str, float]:
    """Least time to expand at least 4,096 masks at once, on all threads, in microseconds a mask, and GB/s of words made."""
    rows = np.arange(max(len(masks), SHARD)) % len(masks)
    size, box, first, end = masks.size[rows], masks.box[rows], offset[rows], offset[rows + 1]
    least = min(_seconds(lambda: sparse.decode(size, box, first, end, words)) for _ in range(9))
    made = sparse.decode(size, box, first, end, words)[0].words.nbytes
    return {"us_a_mask": round(1e6 * least / len(rows), 3), "gb_per_s": round(made / least / 1e9, 2)}


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def simulated(name: str, count: int, body: Body) -> PackedMasks:
    """The object's masks in images of a world, 512 pixels."""
    batches = [b.images.masks for b in simulate(WORLDS[name], count, body=body)]
    return PackedMasks.pack(m.unpack(row) for m in batches for row in range(len(m)) if m.box[row].any())


def write_both(folder: Path, images: ImageBatch, body: Body) -> tuple[Path, Path]:
    """Two stores of the same images, of version 1 and 2; the gate: both give back what was written."""
    paths = folder / "version-1.chorus", folder / "version-2.chorus"
    for path in paths:
        with StoreWriter(path, category="bench", body_hash=body.hash, shard_size=SHARD) as writer:
            writer.append(images)
    to_version_1(paths[0])
    for path in paths:
        check_same_images(list(open_store(path).batches(size=SHARD)), images)
    return paths


def read(path: Path) -> int:
    """Open a store and touch every word of every mask."""
    return sum(int(batch.masks.words.sum(dtype=np.uint64)) for batch in open_store(path, verify=False).batches(size=SHARD))


def batches(path: Path) -> int:
    """Open a store and go through its batches, of which version 1 leaves the masks on disk."""
    return sum(len(batch) for batch in open_store(path, verify=False).batches(size=SHARD))


def alternated(calls: dict[str, Callable[[], Any]], count: int, rounds: int) -> dict[str, Any]:
    """Wall and processor time of calls that take turns: least and median, and the ratios of version 2 to 1."""
    wall: dict[str, list[float]] = {name: [] for name in calls}
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in range(rounds):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            cpu = time.process_time()
            wall[name].append(_seconds(calls[name]))
            spent[name].append(time.process_time() - cpu)
    found: dict[str, Any] = {"images": count, "rounds": rounds}
    for name in calls:
        found[name] = {
            "wall_least_s": round(min(wall[name]), 4),
            "wall_median_s": round(statistics.median(wall[name]), 4),
            "processor_least_s": round(min(spent[name]), 4),
            "processor_median_s": round(statistics.median(spent[name]), 4),
            "images_per_s": round(count / min(wall[name])),
        }
    first, last = (found[name] for name in ("version_1", "version_2"))
    found["ratio"] = {key: round(last[key] / first[key], 3) for key in first if key != "images_per_s"}
    for name, seconds in (("wall", wall), ("processor", spent)):  # a turn's two calls have seen about the same machine
        pairs = zip(seconds["version_1"], seconds["version_2"], strict=True)
        found["ratio"][f"{name}_median_of_turns"] = round(statistics.median(new / old for old, new in pairs), 3)
    return found


def measure(images: int, rounds: int, coco: Path | None, folder: Path) -> dict[str, Any]:
    """All that the module says, as a record."""
    body = load_body()
    sets = {name: simulated(name, min(images, 512), body) for name in WORLD_NAMES}
    if coco is not None:
        sets["coco"] = coco_masks(coco)
    found: dict[str, Any] = {"masks": {name: bytes_of(masks) for name, masks in sets.items()}}
    work = crowd_on(body, "typical", images, "cpu")
    old, new = write_both(folder, work.batch(0, images), body)
    field = chorus.CanonicalField(body, RESOLUTION)
    counts = [chorus.aggregate(open_store(path), field) for path in (old, new)]
    for name in ("num_counts", "den_counts"):
        if not np.array_equal(getattr(counts[0], name), getattr(counts[1], name)):
            raise WrongResult(f"sparse masks: {name} of the two versions differ")
    sizes = {"version_1": store_info(old)["bytes_per_image"], "version_2": store_info(new)["bytes_per_image"]}
    shape = {"images": images, "shard_size": SHARD, "resolution": RESOLUTION}
    found["store"] = {**shape, "workload": work.facts(), "bytes_an_image": sizes}
    steps: tuple[tuple[str, Callable[[Path], Any]], ...] = (
        ("open", lambda path: open_store(path, verify=False)),
        ("open_and_verify", open_store),
        ("batches", batches),
        ("read", read),
        ("end_to_end", lambda path: chorus.aggregate(open_store(path, verify=False), field)),
    )
    for name, call in steps:
        calls: dict[str, Callable[[], Any]] = {"version_1": partial(call, old), "version_2": partial(call, new)}
        found[name] = alternated(calls, images, rounds if name == "end_to_end" else 3 * rounds)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the record."""
    parser = argparse.ArgumentParser(prog="python -m bench.sparse_masks", description=__doc__)
    parser.add_argument("--images", type=int, default=8192, help="images of the stores (8,192)")
    parser.add_argument("--rounds", type=int, default=7, help="times each version is aggregated; three times as often read (7)")
    parser.add_argument("--coco", type=Path, help="folder with COCO's instances_*.json, whose masks are measured too")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write the record to")
    options = parser.parse_args(arguments)
    for name in ("images", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    command = "python -m bench.sparse_masks" + (" --coco FOLDER" if options.coco else "")
    found: dict[str, Any] = {"load_before": load()}
    with tempfile.TemporaryDirectory() as folder:
        found |= measure(options.images, options.rounds, options.coco, Path(folder))
    print(json.dumps(found, indent=1))
    if options.output is not None:
        write_record(options.output, found, f"{command} --images {options.images} --rounds {options.rounds}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
