"""From pytest-benchmark's record to ours: compact, with the machine and the versions; and its table."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bench.harness.text import aligned, number, seconds
from chorus.evaluate import machine, versions
from chorus.files import write_atomically, write_json

RESULTS = Path(__file__).parents[1] / "results"


def slug(name: str) -> str:
    """A name fit for a file."""
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)|processor|cpu\b|@.*", " ", name.lower()))
    return words.strip("-")


def host_class(facts: dict[str, Any]) -> str:
    """A name for machines of this kind, fit for a file: processor and cores."""
    return f"{slug(facts['cpu'])}-{facts['cores']}-cores"


def default_path() -> Path:
    """bench/results/<date>-<processor and cores>.json"""
    return RESULTS / f"{date.today().isoformat()}-{host_class(machine())}.json"


def load() -> float | None:
    """Processes that ran on average during the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def devices() -> dict[str, Any] | None:
    """The CUDA device that torch sees first and its driver; None without one."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    facts: dict[str, Any] = {
        "name": properties.name,
        "processors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(0))),
        "cuda": torch.version.cuda,
    }
    if shutil.which("nvidia-smi"):
        wanted = "driver_version,clocks.max.sm,clocks.max.mem,power.limit"
        asked = subprocess.run(
            ["nvidia-smi", f"--query-gpu={wanted}", "--format=csv,noheader", "--id=0"], capture_output=True, text=True
        )
        if asked.returncode == 0:
            facts |= dict(zip(wanted.split(","), (part.strip() for part in asked.stdout.split(",")), strict=False))
    return facts


def package_versions() -> dict[str, str]:
    """Versions of the project and of what figures depend on, Triton's where it is installed."""
    found = versions()
    if importlib.util.find_spec("triton"):
        found["triton"] = metadata.version("triton")
    return found


def write_record(path: Path, found: dict[str, Any], command: str | None = None) -> None:
    """Write what a command other than the suite measured, with the day, the machine, versions and, where told, the command."""
    told = {} if command is None else {"command": command}
    record = {"date": date.today().isoformat(), **told, "machine": machine(), "versions": package_versions(), **found}
    write_json(path, record)
    print(f"wrote {path}")


def make_run(recorded: dict[str, Any], *, profile: str, failed: list[str], load_before: float | None) -> dict[str, Any]:
    """One run of the suite: the benchmarks that passed their gate, and the names of those that did not."""
    return {
        "date": recorded["datetime"],
        "commit": (recorded.get("commit_info") or {}).get("id"),
        "profile": profile,
        "load_before": load_before,
        "machine": machine(),
        "gpu": devices(),
        "versions": package_versions(),
        "failed": failed,
        "benchmarks": [
            {"name": b["name"], "group": b["group"], **b["extra_info"]} for b in recorded["benchmarks"] if b["extra_info"]
        ],
    }


def merged(runs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The last run with votes, and what earlier runs of the same day, profile and machine have that it has not.

    The suite may be run in parts, each a run of its own; of a benchmark that was run twice the last counts. None without votes.
    """
    found: dict[str, Any] | None = None
    kept: dict[str, dict[str, Any]] = {}
    for run in reversed(runs):
        if found is None and any(b["group"] == "votes" for b in run["benchmarks"]):
            found = run
        if found is not None and _origin(run) == _origin(found):
            kept = {b["name"]: b for b in run["benchmarks"]} | kept
    return None if found is None else {**found, "benchmarks": list(kept.values())}


def _origin(run: dict[str, Any]) -> tuple[Any, ...]:
    return run["date"][:10], run.get("profile"), run.get("commit"), run["machine"]["cpu"], (run.get("gpu") or {}).get("name")


def append(path: Path, run: dict[str, Any]) -> None:
    """Add a run to a results file, made where there is none; the file is whole at every moment."""
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"runs": [*runs, run]}, indent=1) + "\n"
    write_atomically(path, lambda part: part.write_text(text))


def _details(r: dict[str, Any]) -> str:
    if "votes_per_s" in r:
        cycles = f", {number(r['cycles_per_vote'])} cycles each" if r.get("cycles_per_vote") else ""
        return f"{number(r['votes_per_s'] / 1e6)} M votes/s{cycles}"
    return f"{r['mb_per_s']:,.0f} MB/s" if "mb_per_s" in r else ""


def tables(run: dict[str, Any]) -> list[str]:
    """A table a group: contenders, medians, rates and ratios; then the notes."""
    shown = []
    for group in dict.fromkeys(b["group"] for b in run["benchmarks"]):
        rows: list[Sequence[object]] = [("what", "contender", "median", "IQR", "rate", "", "ratio")]
        notes: list[str] = []
        for b in (b for b in run["benchmarks"] if b["group"] == group):
            notes += [f"{b['what']}: {note}" for note in b.get("notes", ())]
            for place, r in enumerate(b["contenders"]):
                ratio = "" if r.get("ratio") is None else f"{r['ratio']:.3g} x"
                of = f" of {r['asked']:,}" if r.get("capped") else ""
                rows.append(
                    (
                        b["what"] if place == 0 else "",
                        f"{r['name']} (on {r['items']:,}{of})",
                        seconds(r["median_s"]),
                        seconds(r["iqr_s"]),
                        f"{number(r['per_s'])} {r['unit']}/s",
                        _details(r),
                        ratio,
                    )
                )
            if "compile_s" in b:
                rows.append((b["what"], "numba", seconds(b["compile_s"]), "", "", "", ""))
            if "peak_mib" in b:
                peak = f"peak {b['peak_mib']:,} MiB"
                rows.append((b["what"], "field", seconds(b["build_s"]), "", peak, f"{b['before_mib']:,} MiB before", ""))
        shown.append("\n".join([str(group), aligned(rows, left=(0, 1)), *notes]))
    return shown


def main_line(run: dict[str, Any]) -> str | None:
    """The figure the suite exists for, if this run has it: the kernel against the fastest PyTorch reference."""
    for what in ("48^3 voxels, 65,536 images", "48^3 voxels, 1,024 images"):
        for b in run["benchmarks"]:
            if b["what"] != what or b["contenders"][0].get("ratio") is None:
                continue
            kernel, *others = b["contenders"]
            best = max((r for r in others if r.get("kind", "reference") == "reference"), key=lambda r: float(r["per_s"]))
            work, where = b["workload"], f"{b['threads']} threads" if b.get("device", "cpu") == "cpu" else run["gpu"]["name"]
            culling = f"{b['culling']['culled']:.0%} of brick-image pairs culled; " if b.get("culling") else ""
            return (
                f"{kernel['name']} is {kernel['ratio']:.1f} times as fast as {best['name']} (by the least times "
                f"{kernel['ratio_of_least']:.1f}): {number(kernel['per_s'])} against {number(best['per_s'])} images/s, "
                f"{where}, 48^3 voxels, 512 x 512, {number(kernel['items'])} images (the reference on {best['items']} of "
                f"them); {culling}masks {work['mean_mask_area']:.1%} of the image in boxes of {work['mean_box_area']:.1%}."
            )
    return None
