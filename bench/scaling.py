"""``python -m bench.scaling [-o FILE.json] [--picture FILE.png]``: seconds of CPU votes against voxels and images.

At 48^3 to 256^3, 1,024 images; at 48^3, 1 to a million images, in calls of at most 4,096, whose counts add up. Least of some
rounds, which take turns over the shapes. Exponents are fitted to the logarithms: 3 is every voxel, 2 is the surface. Gates,
before anything is timed: the float64 reference's band at every resolution, and sums over pieces, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.cells import crowd_on, numba_votes, vote_field
from bench.harness.crowds import Crowd
from bench.harness.gates import check_adds_up, check_votes
from bench.harness.report import load, write_record
from chorus.body.model import Body, load_body
from chorus.evaluate import machine
from chorus.kernels.arrays import empty_counts
from chorus.kernels.cpu.votes import count_votes
from chorus.kernels.threads import default_threads

RESOLUTIONS = dict.fromkeys((48, 64, 96, 128, 192, 256), 1024)
"""Voxels along a side -> images that are timed: as many everywhere, for an image of few costs more."""
IMAGES = (*(4**k for k in range(10)), 1_000_000)
AT_ONCE = 4096
FITTED_FROM = 256
"""Images from which on the exponent is fitted: below, fixed costs rule."""
CHECKED = 16


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int, slow: float = 5.0) -> dict[str, list[float]]:
    """Seconds of each call, round by round; one that takes longer than ``slow`` seconds is made once."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if not taken[name] or taken[name][0] < slow:
                began = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - began)
    return taken


def exponent(x: Sequence[float], seconds: Sequence[float]) -> float:
    """Of the power law that fits best, by least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(seconds), 1)[0])


def by_resolution(body: Body, threads: int, rounds: int, resolutions: dict[int, int]) -> dict[str, Any]:
    """Rows of resolution, images, seconds and images/s, and the exponent of the seconds an image in N."""
    calls: dict[str, Callable[[], Any]] = {}
    for resolution, images in resolutions.items():
        field, work = vote_field(resolution), crowd_on(body, "typical", images, "cpu")
        cast = numba_votes(field, threads).cast
        check_votes({"numba": cast}, field, work, min(CHECKED, images))
        out = empty_counts(field, work.num_groups, "cpu")
        kept: dict[str, Any] = {"num_groups": work.num_groups, "out": out, "threads": threads}
        calls[str(resolution)] = partial(count_votes, field, work.images, work.group, **kept)
        calls[str(resolution)]()
    taken = in_turns(calls, rounds)
    rows = [
        {"resolution": n, "images": images, "seconds": min(taken[str(n)]), "images_per_s": images / min(taken[str(n)])}
        for n, images in resolutions.items()
    ]
    each = [row["seconds"] / row["images"] for row in rows]
    return {"rows": rows, "exponent": exponent([row["resolution"] for row in rows], each), "of_48": [e / each[0] for e in each]}


def by_images(body: Body, threads: int, rounds: int, counts: Sequence[int]) -> dict[str, Any]:
    """Rows of images, seconds and images/s at 48^3, and the exponent of the seconds in the number of images."""
    field, work = vote_field(48), crowd_on(body, "typical", AT_ONCE, "cpu")
    check_adds_up(numba_votes(field, threads).cast, work.rows(slice(0, 512)), "numba")
    parts: dict[int, Crowd] = {n: work.rows(slice(0, n)) for n in {min(n, AT_ONCE) for n in counts}}

    # Several calls of few images are timed as one, so that the clock's steps do not matter.
    repeats = {n: max(1, 256 // n) for n in counts}

    def vote(images: int) -> None:
        part = parts[min(images, AT_ONCE)]
        for _ in range(repeats[images]):
            out = empty_counts(field, part.num_groups, "cpu")
            for _ in range(-(-images // AT_ONCE)):
                count_votes(field, part.images, part.group, num_groups=part.num_groups, out=out, threads=threads)

    calls: dict[str, Callable[[], Any]] = {str(n): partial(vote, n) for n in counts}
    taken = in_turns(calls, rounds)
    rows = []
    for n in counts:
        done, seconds = -(-n // AT_ONCE) * AT_ONCE if n > AT_ONCE else n, min(taken[str(n)]) / repeats[n]
        rows.append({"images": done, "seconds": seconds, "images_per_s": done / seconds})
    many = [row for row in rows if row["images"] >= FITTED_FROM]
    return {"rows": rows, "exponent": exponent([r["images"] for r in many], [r["seconds"] for r in many])}


def draw(record: dict[str, Any], path: Path) -> None:
    """Both relations, with the fitted exponents, of this machine."""
    from matplotlib.figure import Figure

    figure = Figure((9.6, 4.2), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    found = record["by_resolution"]
    sides = np.array([row["resolution"] for row in found["rows"]])
    each = np.array([1e3 * row["seconds"] / row["images"] for row in found["rows"]])
    left.loglog(sides, each, "o-", label=f"measured: N^{found['exponent']:.2f}")
    for power, style in ((2, ":"), (3, "--")):
        left.loglog(sides, each[0] * (sides / sides[0]) ** power, style, color="0.5", label=f"N^{power}")
    left.set_xticks(sides, [f"{n}^3" for n in sides])
    left.minorticks_off()
    left.set_xlabel("voxels")
    left.set_ylabel("milliseconds an image")
    left.legend()
    found = record["by_images"]
    images = np.array([row["images"] for row in found["rows"]])
    seconds = np.array([row["seconds"] for row in found["rows"]])
    right.loglog(images, seconds, "o-", label=f"measured; n^{found['exponent']:.2f} from {FITTED_FROM:,} images on")
    right.loglog(images, seconds[-1] * images / images[-1], "--", color="0.5", label="n")
    right.set_xlabel("images, at 48^3 voxels")
    right.set_ylabel("seconds")
    right.legend()
    m = machine()
    figure.suptitle(f"CPU votes, {m['cores']} cores of {m['cpu']}", fontsize=10)
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and keep the record."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times each shape is timed, if it takes less than 5 s (5)")
    parser.add_argument("--threads", type=int, default=default_threads(), help="(all processors)")
    parser.add_argument("--quick", action="store_true", help="up to 64^3 voxels and 1,024 images")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write the record to")
    parser.add_argument("--picture", type=Path, help="PNG to draw it to; needs matplotlib")
    options = parser.parse_args(arguments)
    body = load_body()
    resolutions = {48: 64, 64: 32} if options.quick else RESOLUTIONS
    counts = tuple(n for n in IMAGES if n <= 1024) if options.quick else IMAGES
    found: dict[str, Any] = {
        "load_before": load(),
        "threads": options.threads,
        "by_resolution": by_resolution(body, options.threads, options.rounds, resolutions),
        "by_images": by_images(body, options.threads, options.rounds, counts),
    }
    print(json.dumps(found, indent=1))
    if options.output is not None:
        write_record(options.output, found, "python -m bench.scaling" + (" --quick" if options.quick else ""))
    if options.picture is not None:
        draw(found, options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
