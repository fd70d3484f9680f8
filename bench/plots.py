"""``python -m bench.plots RESULTS.json``: images/s by resolution and contender, and the roofline, as PNGs beside the file.

Takes the last run of the file that has such figures. Needs matplotlib, which machines that only measure do not.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.harness.crowds import BOXES
from bench.harness.report import merged

SIZE = (7.2, 4.4)
DPI = 150


def short(name: str) -> str:
    """A contender's name without its batch size, which differs by resolution."""
    return name.replace("PyTorch float32, ", "PyTorch, ").partition(", batches of")[0].replace("PyTorch, batches", "PyTorch")


def _series(run: dict[str, Any]) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """By contender and mask: resolution -> the record with the most images (the fastest of those with as many)."""
    series: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    largest: dict[tuple[str, str, int], tuple[int, float]] = {}
    for b in run["benchmarks"]:
        if b["group"] != "votes" or "resolution" not in b or not b["contenders"]:
            continue
        for r in b["contenders"]:
            name = r["name"]
            if r.get("kind") == "reference":
                name = "PyTorch reference, image by image" if "image by image" in name else "PyTorch reference, batched"
            elif r.get("kind") in ("eager", "compiled"):
                name = short(name) + (", torch.compile" if r["kind"] == "compiled" else "")
            key = (name, b.get("box", "typical"))
            size = (r.get("asked", r["items"]), r["per_s"])
            if size > largest.get((*key, b["resolution"]), (0, 0.0)):
                largest[(*key, b["resolution"])] = size
                series.setdefault(key, {})[b["resolution"]] = r
    return series


def plot_votes(run: dict[str, Any], path: Path) -> bool:
    """Images/s over resolution, a line a contender; masks of other sizes dashed. False where the run has no votes."""
    from matplotlib.figure import Figure

    series = _series(run)
    if not series:
        return False
    figure = Figure(SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(name for name, _ in series))
    styles = dict(zip(BOXES, ("-", (0, (1, 1)), (0, (4, 1.5)), (0, (7, 1.5, 1, 1.5))), strict=True))
    for (name, box), points in series.items():
        at = sorted(points)
        rates = [points[n]["per_s"] for n in at]
        label = name + ("" if box == "typical" else f", boxes of {box} %")
        color = f"C{names.index(name)}"
        axes.plot(at, rates, marker="o", ms=4, lw=1.4, color=color, ls=styles[box], label=label)
        capped = [n for n in at if points[n].get("capped")]
        axes.plot(capped, [points[n]["per_s"] for n in capped], "o", ms=6.5, mfc="white", mec=color, mew=1.2, zorder=3)
    resolutions = sorted({n for points in series.values() for n in points})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(resolutions, [f"{n}³" for n in resolutions])
    axes.minorticks_off()
    axes.set_xlabel("voxels")
    axes.set_ylabel("images/s")
    device = (run.get("gpu") or {}).get("name") if run.get("profile") == "gpu" else run["machine"]["cpu"]
    figure.suptitle(f"Votes, 512 x 512 images: {device}, {run['date'][:10]}", fontsize=10)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(
        fontsize=7,
        title="open: on fewer images than asked for",
        title_fontsize=7,
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
    figure.savefig(path)
    return True


def plot_roofline(run: dict[str, Any], path: Path) -> bool:
    """Useful flops/s over flops a byte, below the measured roofs. False where the run measured none."""
    from matplotlib.figure import Figure

    roofline = run.get("roofline")
    if not roofline:
        return False
    roofs, passes = roofline["roofs"], roofline["passes"]
    figure = Figure(SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    intensities = [p["flops"] / p["bytes"] for p in passes]
    highest = max(r["per_s"] for name, r in roofs.items() if name in ("fp32", "tensor"))
    low, high = min(1.0, *intensities) / 3, 3 * max(highest / roofs["copy"]["per_s"], *intensities)
    for place, name in enumerate(n for n in ("fp32", "tensor") if n in roofs):
        roof, bandwidth = roofs[name]["per_s"], roofs["copy"]["per_s"]
        knee = roof / bandwidth
        axes.plot(
            [low, knee, high],
            [low * bandwidth, roof, roof],
            color=f"C{place}",
            lw=1.5,
            label=f"{name}: {roof / 1e12:.3g} Tflop/s, copying {bandwidth / 1e9:,.3g} GB/s",
        )
    for place, (p, x) in enumerate(zip(passes, intensities, strict=True)):
        issue = [f"{share:.0%} of issue ({k.removeprefix('issue, ')})" for k, share in p["shares"].items() if "issue" in k]
        label = ", ".join([f"{p['what']}: {p['shares']['fp32']:.0%} of fp32", *issue])
        axes.plot([x], [p["flops_per_s"]], "^s"[place % 2], color=f"C{place + 3}", ms=8, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("useful flops per byte that must move")
    axes.set_ylabel("useful flops/s")
    device = (run.get("gpu") or {}).get("name") if roofline["device"] == "cuda" else run["machine"]["cpu"]
    axes.set_title(f"Roofline: {device}, {run['date'][:10]}", fontsize=10)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    figure.savefig(path)
    return True


def main(arguments: list[str] | None = None) -> int:
    """Draw what the file has; 1 where it has nothing to draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.plots", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", type=Path, help="a file that python -m bench or bench.roofline wrote")
    options = parser.parse_args(arguments)
    try:
        runs = json.loads(options.results.read_text())["runs"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        parser.error(f"{options.results}: {problem}")
    made = []
    votes = merged(runs)
    for kind, plot, of in (("votes", plot_votes, [votes] if votes else []), ("roofline", plot_roofline, runs[::-1])):
        path = options.results.with_name(f"{options.results.stem}-{kind}.png")
        if any(plot(run, path) for run in of):
            made.append(path)
            print(f"wrote {path}")
    if not made:
        print(f"plots: {options.results} has neither votes nor a roofline", file=sys.stderr)
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main())
