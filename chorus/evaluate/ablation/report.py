"""Tables of ablations: for a terminal, as Markdown, and as JSON, which is reproducible for the same seeds."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from itertools import groupby
from typing import Any

import numpy as np
from rich.table import Table

from chorus.errors import InputError
from chorus.evaluate.ablation.rows import FULL, Sample, Setting
from chorus.evaluate.ablation.run import AblationRow, AblationTable
from chorus.evaluate.ablation.simulated_stores import Mechanism
from chorus.evaluate.intervals import CONFIDENCE
from chorus.evaluate.pap.categories import mean_headings, percent
from chorus.evaluate.pap.metric import METRICS
from chorus.evaluate.unfinished import Unfinished
from chorus.provenance import machine, versions

VOLATILE = ("date", "seconds", "machine")
"""Fields of the JSON that differ from run to run."""


def to_json(table: AblationTable, mechanisms: list[Mechanism] | None = None) -> dict[str, Any]:
    """The table as a dictionary for JSON: scores 0 to 1, null for missing ones; equal in every run except for VOLATILE."""
    return {
        "table": "ablations",
        "date": date.today().isoformat(),
        "seeds": list(table.seeds),
        "replicated": table.replicated,
        "interval": f"{CONFIDENCE:.0%} t-interval over seeds: mean and half width",
        "categories": table.categories,
        **table.facts,
        "rows": [_row(table, row) for row in table.rows],
        "mechanisms": [{**asdict(m), "holds": m.holds, "clear": m.clear} for m in mechanisms or ()],
        "seconds": round(table.seconds, 1),
        "machine": machine(),
        "versions": versions(),
    }


def from_json(facts: dict[str, Any]) -> AblationTable:
    """The table that ``to_json`` wrote, to print or draw again. Raises InputError for JSON of another kind."""
    if not isinstance(facts, dict) or facts.get("table") != "ablations":
        raise InputError("facts: expected the JSON of a table of ablations, got other JSON")
    rows = tuple(
        AblationRow(
            Setting(
                row["name"],
                row["section"],
                Sample(**row["sample"]),
                row["other_source"],
                row["field"],
                row["weighting"],
                row["splat"],
                row["reference"],
            ),
            row["images"],
            row["by_seed"],
        )
        for row in facts["rows"]
    )
    other = {
        "table",
        "date",
        "seeds",
        "replicated",
        "interval",
        "categories",
        "rows",
        "mechanisms",
        "seconds",
        "machine",
        "versions",
    }
    return AblationTable(
        rows,
        facts["categories"],
        tuple(facts["seeds"]),
        facts["replicated"],
        {name: value for name, value in facts.items() if name not in other},
        facts["seconds"],
    )


def section_title(table: AblationTable, row: AblationRow) -> str:
    """The section of a row, with the category where the row has only one of several."""
    alone = len(row.scores) == 1 < len(table.categories)
    return f"{row.setting.section} ({next(iter(row.scores))})" if alone else row.setting.section


def _row(table: AblationTable, row: AblationRow) -> dict[str, Any]:
    reference = row.setting.reference
    return {
        "name": row.name,
        "section": row.setting.section,
        "sample": asdict(row.setting.sample),
        "other_source": row.setting.from_other,
        "field": dict(row.setting.field),
        "weighting": row.setting.weighting,
        "splat": row.setting.splat,
        "images": row.images,
        "mpap": {which: _pair(row.mean(which)) for which in METRICS},
        "reference": reference,
        "minus_reference": {
            which: {
                "mean over categories": _pair(table.difference(row.name, reference, which)),
                **{c: _pair(table.difference(row.name, reference, which, c)) for c in row.scores},
            }
            for which in METRICS
        },
        "by_seed": row.scores,
    }


def _pair(value: tuple[float, float]) -> list[float] | None:
    return None if np.isnan(value[0]) else list(value)


def _percent(value: tuple[float, float], signed: bool = False) -> str:
    mean, half = (100 * v for v in value)
    return "-" if np.isnan(mean) else f"{mean:{'+' if signed else ''}.2f} ± {half:.2f}"


def _compared(table: AblationTable, row: AblationRow, category: str | None = None) -> str:
    if row.setting.reference == row.name or (category is not None and category not in row.scores):
        return ""
    return _percent(table.difference(row.name, row.setting.reference, category=category), signed=True)


def _votes(row: AblationRow) -> str:
    """Number of images that voted in a category, mean over categories and seeds."""
    return f"{np.mean([n for numbers in row.images.values() for n in numbers]):,.0f}"


def _caption(table: AblationTable) -> str:
    images = [n for numbers in table.facts["training_images"].values() for n in numbers]
    number = f"{images[0]:,}" if len(set(images)) == 1 else f"{min(images):,} to {max(images):,}"
    what = "each with training images of its own" if table.replicated else "which differ in the draws alone"
    tested = ", ".join(f"{n} {category}" for category, n in table.categories.items())
    base = f"{table.facts['resolution']}^3"
    return (
        f"In percent, mean and 95 % t-interval over {len(table.seeds)} seeds, {what}: {number} of each category before "
        f"filtering. The same test images for all rows and seeds ({tested}), so intervals do not cover the choice of test "
        f"images. Differences are of vanilla mPAP, seed by seed, to the row {FULL}; resolutions to {base}, the other source to "
        "the first at the same size. Resolutions are scored by footprint, the other rows by voxel centres."
    )


def as_rich(table: AblationTable) -> Table:
    """The table for a terminal."""
    rich_table = Table(title="ablations", title_justify="left", caption=_caption(table), caption_justify="left")
    for heading in ("method", "images", *mean_headings(), "difference"):
        rich_table.add_column(heading, justify="left" if heading == "method" else "right")
    for section, rows in groupby(table.rows, lambda row: section_title(table, row)):
        rich_table.add_section()
        rich_table.add_row(section, style="bold")
        for row in rows:
            rich_table.add_row(row.name, _votes(row), *(_percent(row.mean(which)) for which in METRICS), _compared(table, row))
    return rich_table


def as_markdown(table: AblationTable, mechanisms: list[Mechanism] | None = None) -> str:
    """The table for a README: rows with their scores, then the differences by category."""
    lines = [f"| method | images | {' | '.join(mean_headings())} | difference |", "|---" + "|---:" * (len(METRICS) + 2) + "|"]
    for section, rows in groupby(table.rows, lambda row: section_title(table, row)):
        lines.append(f"| **{section}** |" + " |" * (len(METRICS) + 2))
        lines += [
            f"| {row.name} | {_votes(row)} | "
            + " | ".join(_percent(row.mean(which)) for which in METRICS)
            + f" | {_compared(table, row)} |"
            for row in rows
        ]
    lines += ["", _caption(table), "", "Differences by category, vanilla PAP:", ""]
    lines += [f"| method | {' | '.join(table.categories)} |", "|---" + "|---:" * len(table.categories) + "|"]
    lines += [
        f"| {row.name} | " + " | ".join(_compared(table, row, c) for c in table.categories) + " |"
        for row in table.rows
        if row.name != row.setting.reference
    ]
    if mechanisms:
        lines += ["", *(f"- {line}" for line in mechanism_lines(mechanisms))]
    return "\n".join(lines) + "\n"


def mechanism_lines(mechanisms: list[Mechanism]) -> list[str]:
    """One line for each claim: whether it holds, and the difference measured."""
    return [
        f"{m.claim}: {_verdict(m)} ({m.better} minus {m.worse}, "
        f"{m.category or 'mean over categories'}: {_percent((m.difference, m.half_width), signed=True)})"
        for m in mechanisms
    ]


def _verdict(mechanism: Mechanism) -> str:
    if not mechanism.holds:
        return "DOES NOT HOLD"
    return "holds" if mechanism.clear else "holds, though the interval reaches zero"


def partial_table(unfinished: Unfinished) -> Table:
    """What an interrupted ``ablate`` has scored, for a terminal: mean vanilla PAP of each row over what is there so far."""
    by_row: dict[str, list[float | None]] = {}
    for _, found in unfinished.items():
        for row, (_, scores) in found.items():
            by_row.setdefault(row, []).append(scores["vanilla"])
    table = Table(
        title="partial: stopped before all was scored",
        title_justify="left",
        caption="Rows of differing numbers of categories and seeds are not to be compared.",
        caption_justify="left",
    )
    for heading in ("row", "categories x seeds", "PAP so far"):
        table.add_column(heading, justify="left" if heading == "row" else "right")
    for row, values in by_row.items():
        scored = [value for value in values if value is not None]
        table.add_row(row, str(len(values)), percent(sum(scored) / len(scored) if scored else None))
    return table
