"""What a filter rejects of a store: images by status, and by rule, in numbers and as a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from chorus.store.filters.filtering import Filter
from chorus.store.filters.rules import RULES, Columns
from chorus.store.schema import COMPLETE


@dataclass(frozen=True)
class RuleCount:
    """One rule that is on: how many images of a store it rejects.

    needs           the condition, such as "overlap >= 0.1"
    fails           images of any status that fail it, whether or not other rules reject them too; unknown scores (NaN) fail
    fails_complete  the same among complete images
    unknown         complete images whose score is unknown (NaN)
    first           complete images that fail it and no rule before it; these add up over the rules
    skipped         the column that the store lacks, so that the rule is not applied, or ""
    """

    name: str
    needs: str
    threshold: float
    fails: int = 0
    fails_complete: int = 0
    unknown: int = 0
    first: int = 0
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), **({} if self.skipped else {"skipped": None})}


@dataclass(frozen=True)
class FilterReport:
    """What a filter keeps of a store: images = sum of by_status + sum of the rules' ``first`` + kept.

    images     rows in all                       by_status  status other than "complete" -> images, rejected by a stage
    rules      the rules that are on             kept       images that pass all of them
    weight     soft filter: sum of the integer weights, 255 for an image of confidence 1; hard filter: ``kept``
    """

    filter: Filter
    images: int
    by_status: dict[str, int]
    rules: tuple[RuleCount, ...]
    kept: int
    weight: int

    @property
    def complete(self) -> int:
        """Number of complete images (with mask, pose and camera), to which the rules apply."""
        return self.images - sum(self.by_status.values())

    @property
    def reasons(self) -> dict[str, int]:
        """Rejected images by reason: statuses, then rules in the order of RULES, each image counted once."""
        return self.by_status | {r.name: r.first for r in self.rules if r.first}

    def to_json(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "by_status": self.by_status,
            "complete": self.complete,
            "rules": [r.to_json() for r in self.rules],
            "kept": self.kept,
            **({"weight": self.weight} if self.filter.soft else {}),
            "filter": self.filter.to_json(),
        }


def filter_report(chosen: Filter, rows: Columns) -> FilterReport:
    """Apply a filter to all rows of a store, given as columns. Raises InputError where a required score is missing."""
    status = np.asarray(rows["status"])
    complete = status == COMPLETE
    skipped, failures, reasons = chosen.skipped(rows), chosen.failures(rows), Counter(chosen.reasons(rows).tolist())
    counts = []
    for name, threshold in chosen.thresholds.items():
        if threshold is None:
            continue
        rule = RULES[name]
        needs = rule.requirement(threshold, chosen.torso_mode)
        if name in skipped:
            counts.append(RuleCount(name, needs, threshold, skipped=skipped[name]))
            continue
        failed = failures[name]
        unknown = np.isnan(rule.score(rows, chosen.torso_mode)[complete]).sum() if len(status) else 0
        counts.append(
            RuleCount(name, needs, threshold, int(failed.sum()), int(failed[complete].sum()), int(unknown), reasons[name])
        )
    by_status = dict(Counter(status[~complete].tolist()).most_common())
    kept = reasons[""]
    weight = int(chosen.weights(rows).sum(dtype=np.int64)) if chosen.soft else kept
    return FilterReport(chosen, len(status), by_status, tuple(counts), kept, weight)


def report_table(report: FilterReport) -> Table:
    """For a terminal: the images, how many each stage and each rule rejects, how many remain, and how many are kept."""
    table = Table(caption=_caption(report), caption_justify="left")
    table.add_column("")
    for heading in ("fail it, of all", "of complete", "not kept for it", "remaining"):
        table.add_column(heading, justify="right")
    left = report.images
    table.add_row("images", "", "", "", f"{left:,}")
    for status, number in report.by_status.items():
        left -= number
        table.add_row(status, "", "", f"{number:,}", f"{left:,}")
    table.add_section()
    for r in report.rules:
        left -= r.first
        if r.skipped:
            table.add_row(r.needs, "no score", "", "", f"{left:,}")
        else:
            table.add_row(r.needs, f"{r.fails:,}", f"{r.fails_complete:,}", f"{r.first:,}", f"{left:,}")
    table.add_section()
    share = f" ({100 * report.kept / report.images:.1f} %)" if report.images else ""
    table.add_row("kept" + share, "", "", "", f"{report.kept:,}")
    return table


def _caption(report: FilterReport) -> str | None:
    """Notes below the table: rules that were skipped, unknown scores, and what a soft filter's numbers mean."""
    lines = [f"{r.name}: not judged, the store has no {r.skipped!r}" for r in report.rules if r.skipped]
    lines += [f"{r.name}: of {r.unknown:,} complete images the score is not known" for r in report.rules if r.unknown]
    if report.filter.soft:
        lines.append(
            f"soft: a rule fails an image only where it gives no confidence at all; the images kept count as "
            f"{report.weight / 255:,.1f} beyond doubt"
        )
    return "\n".join(lines) or None
