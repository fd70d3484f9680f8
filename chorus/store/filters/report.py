"""What a filter does to a store, in numbers: images by status, and for each rule how many it turns away."""

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
    """One rule that is on, among the ``images`` of a store, those rejected by a stage included.

    needs    what an image must have, as in "overlap >= 0.1"
    fails    images that it turns away, whatever the others say, those whose score is not known among them
    fails_complete  the same of the complete images alone     unknown  complete images whose score is not known (NaN)
    first    complete images that it turns away and no rule before it: these are its part of the images rejected
    skipped  the column that the store lacks, so that the rule is not judged, or ""
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
    """``images`` rows, of which stages gave up on ``by_status``, and a filter's rules turn away what ``rules`` say; the rest is
    ``kept``: images = sum of by_status + sum of the rules' ``first`` + kept."""

    filter: Filter
    images: int
    by_status: dict[str, int]
    rules: tuple[RuleCount, ...]
    kept: int
    weight: int
    """of a soft filter: the sum of the weights, 255 for an image beyond doubt; of another: ``kept``"""

    @property
    def complete(self) -> int:
        """Images with mask, pose and camera, which is what the rules choose from."""
        return self.images - sum(self.by_status.values())

    @property
    def reasons(self) -> dict[str, int]:
        """Images not kept by reason: statuses, then rules in the order of the cascade; they add up."""
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
    """Judge all rows of a store, given as its columns. Raises InputError where a required score is missing."""
    status = np.asarray(rows["status"])
    complete = status == COMPLETE
    skipped, failures, reasons = chosen.skipped(rows), chosen.failures(rows), Counter(chosen.reasons(rows).tolist())
    counts = []
    for name, threshold in chosen.thresholds.items():
        if threshold is None:
            continue
        rule = RULES[name]
        needs = rule.needed(threshold, chosen.torso_mode)
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
    """For a terminal: the images made, what became of them stage by stage and rule by rule, and what is kept."""
    table = Table(caption=_caption(report), caption_justify="left")
    table.add_column("")
    for heading in ("fail it, of all", "of complete", "not kept for it", "left"):
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
    """What a reader may stumble over."""
    lines = [f"{r.name}: not judged, the store has no {r.skipped!r}" for r in report.rules if r.skipped]
    lines += [f"{r.name}: of {r.unknown:,} complete images the score is not known" for r in report.rules if r.unknown]
    if report.filter.soft:
        lines.append(
            f"soft: a rule fails an image only where it gives no confidence at all; the images kept count as "
            f"{report.weight / 255:,.1f} beyond doubt"
        )
    return "\n".join(lines) or None
