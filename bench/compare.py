"""``python -m bench.compare OTHER_CHECKOUT [--only GROUP] [--rounds N]``: is this checkout as fast as another?

Times the CPU kernels (no baselines) of both checkouts on the same images: numba votes, contacts with the 12 body parts, and the
skinning field without its cache. Each checkout has a process of its own, a new one every round; their calls take turns, so that
what else runs on the machine slows both alike. Least times are compared: what the code takes where nothing disturbs it;
medians are printed beside them. OTHER_CHECKOUT may be of another version and need not be installed; this Python runs it.

Exit code 0: all results are equal bit for bit, and no least times differ by more than the tolerance, one way or the other; 1:
some do; 2: nothing could be compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from subprocess import PIPE
from typing import Any

import numpy as np

from bench.harness.crowds import crowd, people
from bench.harness.report import load
from bench.harness.text import aligned, seconds
from bench.harness.time_checkout import IMAGE_ARRAYS, NUM_GROUPS
from chorus.body.model import load_body
from chorus.field import CanonicalField
from chorus.kernels.threads import default_threads
from chorus.votes.parts import interaction_regions

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "bench" / "harness" / "time_checkout.py"
GROUPS = ("votes", "field", "contacts")
CONTACT_IMAGES = 1024
LEAST_CALLS = 3


@dataclass
class Times:
    """Of one contender in one checkout: seconds of every call of all rounds, and the digests of its results."""

    seconds: list[float] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)


Measured = dict[str, Times]


class TimingFailed(RuntimeError):
    """The process that times a checkout did not end well."""


def save_inputs(path: Path, images: int, resolution: int, contacts: bool) -> None:
    """The images that both checkouts are given, as .npz: arrays of ``VoteImages``, ``group``, and ``regions`` for contacts."""
    body = load_body()
    work = crowd(people(body, images), "typical")
    assert work.num_groups == NUM_GROUPS
    arrays = {name: getattr(work.images, name).numpy() for name in IMAGE_ARRAYS}
    if contacts:
        arrays["regions"] = interaction_regions(CanonicalField(body, resolution, cache=False)).bits
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, group=work.group.numpy(), **arrays)


class TimedProcess:
    """A process that times one checkout when it is told to; see ``bench.harness.time_checkout``."""

    def __init__(self, checkout: Path, inputs: Path, request: dict[str, Any]) -> None:
        command = [sys.executable, str(SCRIPT), str(checkout), str(inputs), json.dumps(request)]
        self.checkout = checkout
        self.process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True)

    def __enter__(self) -> TimedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def digests(self) -> dict[str, str]:
        """Name of each contender -> digest of its result; the first thing to ask for."""
        found: dict[str, str] = json.loads(self._answer())
        return found

    def seconds(self, contender: str) -> float:
        """Seconds of one call."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # where it has ended there is no answer
            print(contender, file=self.process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise TimingFailed(f"the process that timed {self.checkout} ended, exit code {self.process.wait()}")
        return line


def measure(
    checkouts: tuple[Path, Path], inputs: Path, request: dict[str, Any], rounds: int, at_least: float
) -> tuple[Measured, Measured]:
    """The times of both checkouts, call by call in turn; calls of a contender take ``at_least`` seconds a round."""
    this: Measured = defaultdict(Times)
    other: Measured = defaultdict(Times)
    for number in range(rounds):
        with TimedProcess(checkouts[0], inputs, request) as a, TimedProcess(checkouts[1], inputs, request) as b:
            for process, times in ((a, this), (b, other)):
                for name, digest in process.digests().items():
                    times[name].digests.add(digest)
            for name in this:
                calls, spent = 0, 0.0
                while calls < LEAST_CALLS or spent < at_least:
                    pair = a.seconds(name), b.seconds(name)
                    this[name].seconds.append(pair[0])
                    other[name].seconds.append(pair[1])
                    calls, spent = calls + 1, spent + pair[0]
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return this, other


def table(this: Measured, other: Measured) -> str:
    """Least and median seconds in both checkouts, and the ratio of the least."""
    rows: list[tuple[object, ...]] = [("", "least: this", "other", "this / other", "median: this", "other", "calls")]
    for name, a in this.items():
        b = other[name]
        least = min(a.seconds), min(b.seconds)
        medians = median(a.seconds), median(b.seconds)
        rows.append((name, *map(seconds, least), f"{least[0] / least[1]:.3f}", *map(seconds, medians), len(a.seconds)))
    return aligned(rows)


def differences(this: Measured, other: Measured, tolerance: float) -> list[str]:
    """Sentences about contenders whose results are not equal bits, or whose least times differ by more than the tolerance."""
    found = []
    for name, a in this.items():
        b = other[name]
        if len(a.digests | b.digests) > 1:
            found.append(f"{name}: the results are not equal")
        ratio = min(a.seconds) / min(b.seconds)
        if max(ratio, 1 / ratio) > 1 + tolerance:
            slower = "this checkout" if ratio > 1 else "the other"
            found.append(f"{name}: {slower} takes {max(ratio, 1 / ratio) - 1:.1%} longer, more than {tolerance:.1%}")
    return found


def described(checkout: Path) -> str:
    """The folder and its commit, where git knows one; "+" where files differ from it."""
    git = ["git", "-C", str(checkout), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(git, capture_output=True, text=True)
    except FileNotFoundError:
        return str(checkout)
    return f"{checkout} ({done.stdout.strip()})" if done.returncode == 0 else str(checkout)


def main(arguments: list[str] | None = None) -> int:
    """Compare, print the table; 0 where results are equal and least times within the tolerance."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.split("\n\n")[0])
    parser.add_argument("other", type=Path, metavar="OTHER_CHECKOUT", help="folder of another version of the project")
    parser.add_argument("--only", choices=GROUPS, action="append", help="these alone; may be repeated (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of processes (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="timed seconds of a contender in a round, about (1)")
    parser.add_argument("--tolerance", type=float, default=0.03, help="by how much least times may differ (0.03: 3 %%)")
    parser.add_argument("--resolution", type=int, default=48, help="voxels along a side (48)")
    parser.add_argument("--images", type=int, nargs="+", default=[1024, 4096], help="images of the votes (1024 4096)")
    parser.add_argument("--threads", type=int, default=default_threads(), help="of both (default: all cores)")
    options = parser.parse_args(arguments)
    for name in ("rounds", "seconds", "tolerance", "resolution", "threads"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name}: expected a positive number, got {getattr(options, name)}")
    if min(options.images) < 1:
        parser.error(f"--images: expected numbers of at least 1, got {min(options.images)}")
    other = options.other.resolve()
    if not (other / "chorus" / "__init__.py").is_file():
        parser.error(f"OTHER_CHECKOUT: expected a folder with chorus/__init__.py in it, got {options.other}")
    before = load()
    request = {
        "groups": list(options.only or GROUPS),
        "resolution": options.resolution,
        "images": options.images,
        "contact_images": min(CONTACT_IMAGES, max(options.images)),
        "threads": options.threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        save_inputs(inputs, max(options.images), options.resolution, "contacts" in request["groups"])
        try:
            this, that = measure((ROOT, other), inputs, request, options.rounds, options.seconds)
        except TimingFailed as problem:
            print(f"compare: {problem}", file=sys.stderr)
            return 2
    print(f"this:  {described(ROOT)}\nother: {described(other)}")
    print(
        f"{options.resolution}^3 voxels, {options.threads} threads, {options.rounds} rounds, load {before} before the start\n"
    )
    print(table(this, that))
    found = differences(this, that, options.tolerance)
    print("\n" + "\n".join(found or [f"equal results; least times within {options.tolerance:.1%}"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
