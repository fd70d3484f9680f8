"""``python -m bench [--quick] [--only votes|field|store] [-o FILE]``: check, time, print ratios, keep a record."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.report import append, default_path, load, main_line, make_run, tables

HERE = Path(__file__).parent
GROUPS = ("votes", "field", "store")


class Failures:
    """A pytest plugin that remembers what failed."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.names.append(report.nodeid.split("::")[-1])


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; 0 only if every gate held, everything was timed and the record was written."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest shapes and few rounds: a minute")
    parser.add_argument("--only", choices=GROUPS, action="append", help="this part of the suite; may be repeated")
    parser.add_argument("--threads", type=int, help="threads of every contender (default: all cores)")
    parser.add_argument("-o", "--output", type=Path, help="results file to append to (default: bench/results/...)")
    options = parser.parse_args(arguments)
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads: expected at least 1, got {options.threads}")
    path = options.output or default_path()
    if path.exists():
        try:
            json.loads(path.read_text())["runs"]
        except (ValueError, KeyError, TypeError, OSError):
            parser.error(f"--output: {path} is there and is no results file to append to")

    failures, load_before = Failures(), load()
    with tempfile.TemporaryDirectory() as folder:
        recorded = Path(folder) / "benchmarks.json"
        chosen = [str(HERE / f"bench_{group}.py") for group in options.only or GROUPS]
        extra = ["--quick"] if options.quick else []
        extra += [f"--threads={options.threads}"] if options.threads else []
        code = pytest.main(
            [
                *chosen, "-v", "-p", "no:cacheprovider", "-o", "python_functions=bench_*", f"--rootdir={HERE.parent}",
                "--benchmark-quiet", f"--benchmark-json={recorded}", "--benchmark-disable-gc", *extra,
            ],
            plugins=[failures],
        )  # fmt: skip
        text = recorded.read_text() if recorded.exists() else ""
    if not text:
        print("bench: nothing was timed; no record written", file=sys.stderr)
        return int(code) or 1
    run = make_run(json.loads(text), quick=options.quick, failed=failures.names, load_before=load_before)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in tables(run):
        console.print(table)
    line = main_line(run)
    if line:
        console.print(line)
    if load_before is not None and load_before > 0.5:
        console.print(f"The machine was busy (load {load_before} before the start): no figures to quote.", style="yellow")
    for name in failures.names:
        console.print(f"no figure: {name} failed", style="bold red", markup=False)
    append(path, run)
    console.print(f"wrote {path}", markup=False)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
