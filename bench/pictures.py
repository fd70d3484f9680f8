"""``python -m bench.pictures [--images N] [--size PIXELS] [--rounds N] [-o FILE]``: pictures in a store's files or as files.

The same N pictures are encoded as JPEG, written and flushed to the disk, and read at random: as a file each, as earlier stores
had them, and as a file of pictures beside each shard, by the writer and the reader that stores use. Bytes are what the file
system has allocated. Files are in the system's page cache when read. The rounds take turns; times are the least of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from bench.harness.report import write_record
from chorus.pictures import read_picture
from chorus.store import StoreWriter, encode_picture, open_store
from chorus.store.picture_folder import write_picture

SHARD = 500
DIFFERENT = 100  # pictures, again and again: all of them would fill the memory


def picture(seed: int, size: int) -> NDArray[np.uint8]:
    """Smooth colours with some grain: a JPEG of 512 pixels takes about what one of a photograph does, 90 KB."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    smooth = np.asarray(coarse.filter(ImageFilter.GaussianBlur(1)), np.float32)
    return np.clip(smooth + rng.normal(0, 6, (size, size, 1)), 0, 255).astype(np.uint8)


def allocated(folder: Path) -> int:
    """Bytes of the disk that a folder takes, with its sub-folders."""
    return sum(512 * path.lstat().st_blocks for path in [folder, *folder.rglob("*")])


def write_files(folder: Path, pictures: dict[str, NDArray[np.uint8]]) -> None:
    """A file each, flushed and renamed."""
    for key, pixels in pictures.items():
        write_picture(folder, key, ".jpg", encode_picture(pixels))


def write_store(path: Path, pictures: dict[str, NDArray[np.uint8]] | None, keys: list[str], size: int) -> None:
    """Rows with the least in them, and their pictures."""
    with StoreWriter(path, category="bench", shard_size=SHARD) as writer:
        given = None if pictures is None else list(pictures.values())
        writer.append_rejected(keys, "no person", sizes=[(size, size)] * len(keys), pictures=given)


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(images: int, size: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Bytes and least seconds of both ways, and of a store's writer without pictures, which is part of writing with them."""
    different = [picture(i, size) for i in range(min(images, DIFFERENT))]
    made = {f"image-{i:06d}": different[i % len(different)] for i in range(images)}
    encoded = {key: encode_picture(pixels) for key, pixels in made.items()}
    keys = np.random.default_rng(0).permutation(list(encoded)).tolist()
    times: dict[str, list[float]] = {}

    def note(name: str, call: Callable[[], Any]) -> None:
        times.setdefault(name, []).append(timed(call))

    for number in range(rounds):
        files, path = folder / f"files-{number}", folder / f"{number}.chorus"
        files.mkdir()
        note("encoded alone", lambda: [encode_picture(pixels) for pixels in made.values()])
        os.sync()
        note("files, encoded, written", partial(write_files, files, made))
        os.sync()
        note("store, encoded, written", partial(write_store, path, made, list(made), size))
        note("rows alone, written", partial(write_store, folder / f"rows-{number}.chorus", None, list(made), size))
        pictures = open_store(path).pictures
        got = [pictures.encoded(key).data for key in keys]
        if got != [encoded[key] for key in keys] or got != [(files / f"{key}.jpg").read_bytes() for key in keys]:
            raise SystemExit("expected the same pictures from both")
        note("files, read", partial(read_files, files, keys))
        note("store, opened, read", partial(read_store, path, keys))
        note("files, read, decoded", partial(decode_files, files, keys))
        note("store, read, decoded", partial(decode_store, path, keys))
    return {
        "images": images,
        "size": size,
        "jpeg_bytes": sum(map(len, encoded.values())),
        "files_bytes": allocated(folder / "files-0"),
        "files": images,
        "store_bytes": allocated(folder / "0.chorus" / "pictures"),
        "store_files": len(list((folder / "0.chorus" / "pictures").iterdir())),
        "seconds": {name: round(min(of), 4) for name, of in times.items()},
    }


def read_files(folder: Path, keys: list[str]) -> list[bytes]:
    return [(folder / f"{key}.jpg").read_bytes() for key in keys]


def decode_files(folder: Path, keys: list[str]) -> int:
    return sum(read_picture(folder / f"{key}.jpg").shape[0] for key in keys)


def decode_store(path: Path, keys: list[str]) -> int:
    pictures = open_store(path, verify=False).pictures
    return sum(pictures[key].shape[0] for key in keys)


def read_store(path: Path, keys: list[str]) -> list[bytes]:
    """Open a store anew, without reading its shards' arrays, and read pictures as they are stored, their digests checked."""
    pictures = open_store(path, verify=False).pictures
    return [pictures.encoded(key).data for key in keys]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="pictures (1000)")
    parser.add_argument("--size", type=int, default=512, help="pixels along a side (512)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is done; the least time counts (3)")
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's folder for temporary files")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write the record to")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(options.images, options.size, options.rounds, Path(folder))
    print(f"{found['images']:,} JPEGs of {found['size']} pixels, {found['jpeg_bytes'] / 1e6:.1f} MB")
    print(f"as files: {found['files_bytes'] / 1e6:.1f} MB in {found['files']:,} files")
    print(f"in a store: {found['store_bytes'] / 1e6:.1f} MB in {found['store_files']} files")
    for name, seconds in found["seconds"].items():
        print(f"{name:<24} {seconds:.3f} s, {1000 * seconds / found['images']:.3f} ms a picture")
    if options.output is not None:
        write_record(options.output, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
