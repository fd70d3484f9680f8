"""``python -m bench.table [RESULTS.json] [--readme README.md] [--check]``: the README's table of votes, from a recorded run.

Without a file it takes the newest record of ``bench/results`` that has votes.

Rewrites what stands between ``<!-- bench:votes -->`` and ``<!-- /bench:votes -->`` in the README, from the last votes of the
results file (and those of other parts of the suite run that day); prints it where no README is given. ``--check`` changes
nothing, and fails where the README is not up to date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.harness.report import RESULTS, merged
from bench.harness.text import number

BEGIN, END = "<!-- bench:votes -->", "<!-- /bench:votes -->"
_BATCH = re.compile(r"batches of (\d+)")
_CELL = re.compile(r"^(\d+)\^3 voxels, ([\d,]+) images$")


def _rows(run: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """(resolution, benchmark) of the votes with the typical masks: the largest number of images with a reference each."""
    best: dict[int, tuple[int, dict[str, Any]]] = {}
    for b in run["benchmarks"]:
        cell = _CELL.match(b["what"])
        if b["group"] != "votes" or not cell:
            continue
        resolution, images = int(cell[1]), int(cell[2].replace(",", ""))
        has_reference = any(r.get("kind", "reference") == "reference" for r in b["contenders"][1:])
        if has_reference and images > best.get(resolution, (0, {}))[0]:
            best[resolution] = images, b
    return [(resolution, best[resolution][1]) for resolution in sorted(best)]


def _figure(r: dict[str, Any]) -> str:
    return number(r["per_s"]) + (f" (on {r['items']:,})" if r.get("capped") else "")


def _fastest(contenders: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return max(contenders, key=lambda r: float(r["per_s"]))


def _batch(r: dict[str, Any]) -> str:
    found = _BATCH.search(r["name"])
    return f"batches of {found[1]}" if found and found[1] != "1" else "image by image"


def _how(r: dict[str, Any]) -> str:
    """How a PyTorch contender counts, short: the reference, or which of the stronger baselines of ``bench.harness.eager``."""
    if r.get("kind", "reference") == "reference":
        return f"the reference, {_batch(r)}"
    form = "one GEMM" if "one GEMM" in r["name"] else "as the reference"
    return f"{form}, {'torch.compile' if r['kind'] == 'compiled' else 'eager'}, {_batch(r)}"


def votes_table(results: dict[str, Any], source: str) -> str:
    """The table and a sentence on what it was measured on, Markdown; ``source`` is the results file's name."""
    run = merged(results["runs"])
    rows = _rows(run) if run else []
    if run is None or not rows:
        raise ValueError("results: no run with votes of the typical masks and a reference in it")
    kernel = rows[0][1]["contenders"][0]["name"]
    lines = [
        f"| voxels | images | {kernel}, images/s | votes/s | PyTorch eager reference, images/s | ratio "
        "| fastest PyTorch, images/s | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for resolution, b in rows:
        ours, *others = b["contenders"]
        reference = _fastest(r for r in others if r.get("kind", "reference") == "reference")
        stronger = len({r.get("kind", "reference") for r in others}) > 1
        fastest = _fastest(others)
        images = int(_CELL.match(b["what"])[2].replace(",", ""))  # type: ignore[index]
        lines.append(
            f"| {resolution}^3 | {images:,} | {_figure(ours)} | {number(ours['votes_per_s'] / 1e6)} M | "
            f"{number(reference['per_s'])} ({_batch(reference)}) | {ours['per_s'] / reference['per_s']:.1f} | "
            + (
                f"{number(fastest['per_s'])} ({_how(fastest)}) | {ours['per_s'] / fastest['per_s']:.1f} |"
                if stronger
                else "not timed | |"
            )
        )
    gpu = run.get("gpu") if rows[0][1].get("device") == "cuda" else None
    m, work = run["machine"], rows[0][1]["workload"]
    where = f"{gpu['name']} (driver {gpu.get('driver_version', 'unknown')})" if gpu else f"{m['cores']} cores of {m['cpu']}"
    packages = [p for p in ("torch", "triton" if gpu else "numba") if p in run["versions"]]
    versions = ", ".join(f"{p} {run['versions'][p]}" for p in packages)
    lines += [
        "",
        f"{where}, {versions}, {run['date'][:10]}; 512 x 512 images with masks of {work['mean_mask_area']:.0%} in boxes of "
        f'{work["mean_box_area"]:.0%}; medians of the same run (`{source}`). "(on n)": timed on so many of the images. '
        "Of PyTorch's ways, the reference reads masks as they are stored; the others have them unpacked beforehand, untimed.",
    ]
    return "\n".join(lines)


def newest_record(folder: Path = RESULTS) -> Path:
    """The record with votes whose last run is the latest. ValueError where there is none."""
    dated = []
    for path in folder.glob("*.json"):
        runs = json.loads(path.read_text()).get("runs")
        run = merged(runs) if runs else None
        if run is not None and _rows(run):
            dated.append((run["date"], path))
    if not dated:
        raise ValueError(f"results: expected a record with votes in {folder}, got none; python -m bench writes one")
    return max(dated)[1]


def replaced(text: str, table: str) -> str:
    """The README with the table between the markers. ValueError where they are not there once each, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"readme: expected {BEGIN} and after it {END}, once each")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


def main(arguments: list[str] | None = None) -> int:
    """Print the table, or put it into the README; 1 where ``--check`` finds another one there."""
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", type=Path, nargs="?", help="a file that python -m bench wrote (default: the newest)")
    parser.add_argument("--readme", type=Path, help="the file to put the table into (default: print it)")
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the README is not up to date")
    options = parser.parse_args(arguments)
    if options.check and options.readme is None:
        parser.error("--check: expected --readme with it")
    try:
        options.results = options.results or newest_record()
        table = votes_table(json.loads(options.results.read_text()), options.results.name)
        if options.readme is None:
            print(table)
            return 0
        text = options.readme.read_text()
        new = replaced(text, table)
    except (OSError, ValueError, KeyError) as problem:
        parser.error(str(problem))
    if options.check:
        if new != text:
            again = f"python -m bench.table {options.results} --readme {options.readme}"
            print(f"{options.readme} is not what {options.results} says; run {again}", file=sys.stderr)
        return int(new != text)
    options.readme.write_text(new)
    print(f"wrote {options.readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
