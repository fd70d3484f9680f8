"""``python -m bench.static [--target sm_90 ...] [--kernel SUBSTRING] [--json | -o FILE]``: what the compilers made of it all.

Compiles ahead of time, without a device, and reads the machine code: registers, spills, stack, shared and tensor memory,
instructions of the main loop and per vote; and the images/s at which an H200 could issue those. Exit code 1 where a budget is
exceeded or a kernel does not compile. A record of it is kept in ``bench/results/static-<date>.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from bench.harness.report import package_versions
from bench.harness.text import aligned
from bench.machine_code.compiled import MATRIX_OPCODES, Row, chosen, compile_all
from bench.machine_code.issue_rate import H200, RESOLUTION, Mean, mean_per_vote

TMEM_COLUMNS = 512
REGISTER_FILE = 65536
"""Registers of a multiprocessor: a program that needs more cannot start."""


@dataclass(frozen=True)
class Budget:
    """Limits on the kernels whose name matches, on the targets whose name matches; None: no limit.

    per_vote  instructions per vote of the main loop, with one turn of each loop inside it
    """

    kernel: str
    target: str = "sm_90"
    per_vote: float | None = None
    registers: int | None = None


BUDGETS = (
    Budget(r"vote_tensor\[packs=[12]\]", per_vote=28.0),
    Budget(r"vote_tensor\[.*\bborder\b.*\]", per_vote=48.0),
    Budget(r"vote_.*", registers=255),
)
MEAN_BUDGETS = {("vote_tensor", "sm_90"): 30.0, ("vote_lattice", "sm_90"): 85.0, ("auto", "sm_90"): 30.0}
"""Mean instructions per vote over the bricks of the mannequin's field at 48^3."""


def check_budgets(rows: Sequence[Row], means: Sequence[Mean] = ()) -> list[str]:
    """What exceeds its budget, a line each; an empty list where everything holds.

    Everywhere: compiles, shared memory within the target's, tensor memory within 512 columns. On NVIDIA: no spills, no stack,
    registers of a program within the register file. Then ``BUDGETS`` and ``MEAN_BUDGETS``.
    """
    wrong: list[str] = []
    for row in rows:
        where = f"{row.name} on {row.target}"
        if row.error:
            wrong.append(f"{where}: does not compile: {row.error}")
            continue
        limits: list[tuple[str, float, float]] = [
            ("bytes of shared memory", row.shared, row.limit),
            ("columns of tensor memory", row.tmem, TMEM_COLUMNS),
        ]
        if row.target.startswith("sm_"):
            limits += [("bytes of spills", row.spills, 0), ("bytes of stack", row.stack, 0)]
            # Registers are handed to a warp in units of 8 a thread.
            limits.append(("registers a program", -(-row.registers // 8) * 8 * 32 * row.warps, REGISTER_FILE))
        for budget in BUDGETS:
            if re.fullmatch(budget.kernel, row.name) and re.fullmatch(budget.target, row.target):
                if budget.per_vote is not None:
                    limits.append(("instructions per vote", row.instructions_per_vote, budget.per_vote))
                if budget.registers is not None:
                    limits.append(("registers", row.registers, budget.registers))
        # A figure that is none (no loop was found) is no figure within budget.
        wrong += [f"{where}: {have:,.4g} {what}, at most {most:,.4g}" for what, have, most in limits if not have <= most]
    for mean in means:
        most = MEAN_BUDGETS.get((mean.kernel, mean.target))
        if most is not None and not mean.per_vote <= most:
            wrong.append(
                f"{mean.kernel} on {mean.target}: {mean.per_vote:.4g} instructions per vote over the bricks, at most {most:g}"
            )
    return wrong


def table(rows: Sequence[Row]) -> str:
    """The rows as text; loops inside the main one on lines of their own."""
    lines: list[Sequence[object]] = [
        ("kernel", "target", "regs", "spill B", "stack B", "shared B", "tmem", "loop", "per vote", "matrix", "MUFU", "LDG", "s")
    ]
    for row in rows:
        if row.error:
            lines.append((row.name, row.target, f"does not compile: {row.error}", *[""] * 10))
            continue
        per_vote = row.instructions_per_vote
        matrix = [f"{n} {kind.removeprefix('v_')}" for kind in MATRIX_OPCODES if (n := row.in_main_loop(kind))]
        lines.append(
            (
                row.name,
                row.target,
                row.registers,
                row.spills,
                row.stack,
                row.shared,
                row.tmem,
                row.instructions or "",
                "" if math.isnan(per_vote) else f"{per_vote:.1f}",
                " ".join(matrix).replace("UTC", "UTCMMA"),
                row.in_main_loop("MUFU", "v_rcp") or "",
                row.in_main_loop("LDG", "global_load", "buffer_load") or "",
                f"{row.seconds:.1f}",
            )
        )
        for index, loop in enumerate(row.loops):
            if len(row.loops) > 1:
                what = f"  {'  ' * loop.depth}loop at line {loop.line}{', main' if index == row.main else ''}"
                unrolled = f"x{loop.unroll}" if loop.unroll > 1 else ""
                each = row.per_vote(loop.instructions)
                lines.append(
                    (what, "", *[""] * 5, loop.instructions, "" if math.isnan(each) else f"{each:.1f}", unrolled, "", "", "")
                )
    return aligned(lines, left=(0, 1))


def bound_table(means: Sequence[Mean]) -> str:
    """Means over the bricks and the images/s at which an H200 issues them; empty without any."""
    if not means:
        return ""
    lines: list[Sequence[object]] = [("kernel", "target", "instructions/vote", f"issue bound at {RESOLUTION}^3, images/s")]
    lines += [
        (m.kernel, m.target, f"{m.per_vote:.1f}", f"{m.images_per_s():,.0f}" if m.target == "sm_90" else "") for m in means
    ]
    parts = [f"  {m.kernel}, {m.target}: {'; '.join(m.parts)}" for m in means]
    heading = (
        f"Mean over the bricks of the mannequin's field, {RESOLUTION}^3, every brick projected (no culling, no image border). "
        f"Bound: {H200.processors} multiprocessors x {H200.slots} issue slots x {H200.lanes} lanes, {H200.name}."
    )
    return "\n".join([heading, aligned(lines, left=(0, 1)), *parts])


def as_json(rows: Sequence[Row], means: Sequence[Mean], wrong: Sequence[str]) -> dict[str, Any]:
    """Everything the tables say, for scripts and records."""

    def finite(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 3)

    return {
        "rows": [
            {
                "kernel": r.name,
                "target": r.target,
                "error": r.error,
                "registers": r.registers,
                "spills": r.spills,
                "stack": r.stack,
                "shared": r.shared,
                "shared_limit": r.limit,
                "tmem": r.tmem,
                "warps": r.warps,
                "votes": r.votes,
                "instructions": r.instructions,
                "instructions_per_vote": finite(r.instructions_per_vote),
                "matrix": {k: n for k in MATRIX_OPCODES if (n := r.in_main_loop(k))},
                "mufu": r.in_main_loop("MUFU", "v_rcp"),
                "ldg": r.in_main_loop("LDG", "global_load", "buffer_load"),
                "loops": [
                    {
                        "line": p.line,
                        "depth": p.depth,
                        "parent": p.parent,
                        "main": i == r.main,
                        "instructions": p.instructions,
                        "unroll": p.unroll,
                    }
                    for i, p in enumerate(r.loops)
                ],
            }
            for r in rows
        ],
        "means": [
            {
                "kernel": m.kernel,
                "target": m.target,
                "instructions_per_vote": round(m.per_vote, 3),
                "issue_bound_images_per_s": round(m.images_per_s()) if m.target == "sm_90" else None,
                "device": H200.name,
                "parts": list(m.parts),
            }
            for m in means
        ],
        "exceeded": list(wrong),
    }


def write_record(path: Path, rows: Sequence[Row], means: Sequence[Mean], wrong: Sequence[str]) -> None:
    """The figures without the loops, a kernel and target a line, with the date and the versions that they depend on."""
    found = as_json(rows, means, wrong)
    lines = [json.dumps({k: v for k, v in row.items() if k != "loops"}) for row in found.pop("rows")]
    head = {"date": date.today().isoformat(), "versions": package_versions(), **found}
    text = json.dumps(head, indent=1).removesuffix("\n}") + ',\n "rows": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.static", description=__doc__)
    parser.add_argument("--target", action="append", nargs="+", metavar="TARGET", help="sm_90, gfx942, ...; default: all")
    parser.add_argument("--kernel", default="", help="only kernels whose name holds this")
    parser.add_argument("--module", action="append", default=[], help="compilations() of this module instead of the project's")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("-o", "--output", type=Path, help="write a record of the figures, JSON")
    options = parser.parse_args(arguments)
    if options.processes < 1:
        parser.error(f"--processes: expected at least 1, got {options.processes}")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        parser.error("TRITON_INTERPRET is set: nothing compiles in the interpreter's process; unset it")
    try:
        jobs = chosen([t for some in options.target or () for t in some] or None, options.kernel, options.module)
    except ValueError as problem:
        parser.error(str(problem))
    if not jobs:
        parser.error(f"--kernel: no kernel's name holds {options.kernel!r}")
    shown = sys.stderr.isatty()

    def progress(done: int, count: int) -> None:
        print(f"\r{done} of {count} compiled", end="" if done < count else "\n", file=sys.stderr, flush=True)

    rows = compile_all(jobs, options.processes, options.module, progress if shown else None)
    means = [] if options.kernel else mean_per_vote(rows)
    wrong = check_budgets(rows, means)
    if options.output:
        write_record(options.output, rows, means, wrong)
    if options.json:
        print(json.dumps(as_json(rows, means, wrong), indent=1))
    else:
        print("\n\n".join(filter(None, (table(rows), bound_table(means), "\n".join(wrong)))))
        print(f"\n{len(rows)} compiled, {len(wrong)} over budget")
        if options.output:
            print(f"wrote {options.output}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
