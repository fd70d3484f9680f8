"""``python -m bench [--quick | --full | --gpu] [--only GROUP] [-o FILE]``: check, time, print ratios, keep a record."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bench.harness.report import append, default_path, load, main_line, make_run, tables

HERE = Path(__file__).parent
GROUPS = tuple(sorted((path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py")), key=lambda n: (n != "votes", n)))


class Outcomes:
    """A pytest plugin that remembers what failed and what was not begun, and why."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.skipped: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid.split("::")[-1]
        if report.failed:
            self.failed.append(name)
        elif report.skipped:
            self.skipped[name] = str(report.longrepr[2]).removeprefix("Skipped: ")


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; 0 only if every gate held, everything was timed and the record was written."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    profile = parser.add_mutually_exclusive_group()
    profile.add_argument("--quick", action="store_true", help="the smallest shapes and few rounds: a minute")
    profile.add_argument("--full", action="store_true", help="every resolution, number of images and size of mask")
    profile.add_argument("--gpu", action="store_true", help="everything, on the CUDA device")
    parser.add_argument("--only", choices=GROUPS, action="append", help="this part of the suite; may be repeated")
    parser.add_argument("--resolution", type=int, nargs="+", default=[], help="only votes at so many voxels along a side")
    parser.add_argument("--deadline", type=float, help="seconds after which no further benchmark is begun")
    parser.add_argument("--cell-seconds", type=float, help="timed seconds of a contender in a cell (2; quick 0.5; gpu 0.25)")
    parser.add_argument("--threads", type=int, help="threads of every contender (default: all cores)")
    parser.add_argument("-o", "--output", type=Path, help="results file to append to (default: bench/results/...)")
    options = parser.parse_args(arguments)
    for name in ("threads", "cell_seconds", "deadline"):
        value = getattr(options, name)
        if value is not None and not (value > 0 and (name != "threads" or value >= 1)):
            parser.error(f"--{name.replace('_', '-')}: expected a positive number, got {value}")
    chosen_profile = "quick" if options.quick else "full" if options.full else "gpu" if options.gpu else "default"
    if options.gpu:
        import torch

        if not torch.cuda.is_available():
            print("bench: --gpu needs a CUDA device, and torch sees none", file=sys.stderr)
            return 3
    path = options.output or default_path()
    if path.exists():
        try:
            json.loads(path.read_text())["runs"]
        except (ValueError, KeyError, TypeError, OSError):
            parser.error(f"--output: {path} is there and is no results file to append to")

    outcomes, load_before = Outcomes(), load()
    with tempfile.TemporaryDirectory() as folder:
        recorded = Path(folder) / "benchmarks.json"
        chosen = [str(HERE / f"bench_{group}.py") for group in options.only or GROUPS]
        cell_seconds = options.cell_seconds or {"gpu": 0.25, "quick": 0.5}.get(chosen_profile, 2.0)
        extra = ["--quick"] if options.quick else [f"--profile-of-cells={chosen_profile}"]
        extra += [f"--cell-seconds={cell_seconds}"]
        extra += [f"--threads={options.threads}"] if options.threads else []
        extra += [f"--resolutions={','.join(map(str, options.resolution))}"] if options.resolution else []
        extra += [f"--deadline={options.deadline}"] if options.deadline else []
        code = pytest.main(
            [
                *chosen,
                "-v",
                "-p",
                "no:cacheprovider",
                "-o",
                "python_functions=bench_*",
                f"--rootdir={HERE.parent}",
                "--benchmark-quiet",
                f"--benchmark-json={recorded}",
                "--benchmark-disable-gc",
                *extra,
            ],
            plugins=[outcomes],
        )
        text = recorded.read_text() if recorded.exists() else ""
    if not text:
        print("bench: nothing was timed; no record written", file=sys.stderr)
        return int(code) or 1
    run = make_run(json.loads(text), profile=chosen_profile, failed=outcomes.failed, load_before=load_before)
    run["not_run"] = outcomes.skipped
    print("\n\n".join(tables(run)))
    line = main_line(run)
    if line:
        print("\n" + line)
    if load_before is not None and load_before > 0.5:
        print(f"The machine was busy (load {load_before} before the start): no figures to quote.")
    for name in outcomes.failed:
        print(f"no figure: {name} failed")
    for name, why in outcomes.skipped.items():
        print(f"no figure: {name}: {why}")
    append(path, run)
    print(f"wrote {path}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
