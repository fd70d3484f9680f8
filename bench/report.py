"""From pytest-benchmark's record to ours: compact, with the machine and the versions; and its table."""

from __future__ import annotations

import json
import os
import re
from datetime import date
from pathlib import Path
from typing import Any

from rich.table import Table

from chorus.evaluate import machine, versions

RESULTS = Path(__file__).parent / "results"


def host_class(facts: dict[str, Any]) -> str:
    """A name for machines of this kind, fit for a file: processor and cores."""
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|processor|cpu\b|@.*", " ", facts["cpu"].lower()))
    return f"{words.strip('-')}-{facts['cores']}-cores"


def default_path() -> Path:
    """bench/results/<date>-<processor and cores>.json"""
    return RESULTS / f"{date.today().isoformat()}-{host_class(machine())}.json"


def load() -> float | None:
    """Processes that ran on average during the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def make_run(recorded: dict[str, Any], *, quick: bool, failed: list[str], load_before: float | None) -> dict[str, Any]:
    """One run of the suite: the benchmarks that passed their gate, and the names of those that did not."""
    return {
        "date": recorded["datetime"],
        "commit": (recorded.get("commit_info") or {}).get("id"),
        "quick": quick,
        "load_before": load_before,
        "machine": machine(),
        "versions": versions(),
        "failed": failed,
        "benchmarks": [
            {"name": b["name"], "group": b["group"], **b["extra_info"]} for b in recorded["benchmarks"] if b["extra_info"]
        ],
    }


def append(path: Path, run: dict[str, Any]) -> None:
    """Add a run to a results file, made where there is none; the file is whole at every moment."""
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({"runs": [*runs, run]}, indent=1) + "\n")
    part.replace(path)


def _seconds(value: float) -> str:
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _details(r: dict[str, Any]) -> str:
    if "votes_per_s" in r:
        return f"{_count(r['votes_per_s'] / 1e6)} M votes/s, {_count(r['cycles_per_vote'])} cycles each"
    return f"{r['mb_per_s']:,.0f} MB/s" if "mb_per_s" in r else ""


def tables(run: dict[str, Any]) -> list[Table]:
    """A table a group: contenders, medians, rates and ratios."""
    shown = []
    for group in dict.fromkeys(b["group"] for b in run["benchmarks"]):
        table = Table(title=group)
        for heading in ("what", "contender", "median", "IQR", "rate", "", "ratio"):
            table.add_column(heading, justify="left" if heading in ("what", "contender") else "right")
        for b in (b for b in run["benchmarks"] if b["group"] == group):
            for place, r in enumerate(b["contenders"]):
                ratio = "" if r.get("ratio") is None else f"{r['ratio']:.3g} x"
                table.add_row(
                    b["what"] if place == 0 else "", f"{r['name']} (on {r['items']:,})",
                    _seconds(r["median_s"]), _seconds(r["iqr_s"]), f"{_count(r['per_s'])} {r['unit']}/s", _details(r), ratio,
                    end_section=place == len(b["contenders"]) - 1,
                )  # fmt: skip
            if "compile_s" in b:
                table.add_row(b["what"], "numba", _seconds(b["compile_s"]))
            if "peak_mib" in b:
                peak = f"peak {b['peak_mib']:,} MiB"
                table.add_row(b["what"], "field", _seconds(b["build_s"]), "", peak, f"{b['before_mib']:,} MiB before")
        shown.append(table)
    return shown


def main_line(run: dict[str, Any]) -> str | None:
    """The figure the suite exists for, if this run has it."""
    for b in run["benchmarks"]:
        if b["what"] == "48^3 voxels, 1,024 images":
            numba, *references = b["contenders"]
            best = max(references, key=lambda r: float(r["per_s"]))
            work = b["workload"]
            return (
                f"numba is {numba['ratio']:.1f} times as fast as {best['name']} (by the least times "
                f"{numba['ratio_of_least']:.1f}): {_count(numba['per_s'])} "
                f"against {_count(best['per_s'])} images/s, {b['threads']} threads, 48^3 voxels, 512 x 512, "
                f"{_count(numba['items'])} images (the reference on {best['items']} of them); {b['culling']['culled']:.0%} of "
                f"brick-image pairs culled; masks {work['mean_mask_area']:.1%} of the image in boxes of "
                f"{work['mean_box_area']:.1%}."
            )
    return None
