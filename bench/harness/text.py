"""Plain tables: the suite prints them also where no library for tables is installed."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[object]], left: Sequence[int] = (0,), indent: str = "") -> str:
    """Rows of cells in columns, the first row underlined as a heading; columns in ``left`` are flush left, the others right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[c]) for row in cells) for c in range(len(cells[0]))]

    def line(row: Sequence[str]) -> str:
        parts = [cell.ljust(w) if c in left else cell.rjust(w) for c, (cell, w) in enumerate(zip(row, widths, strict=True))]
        return (indent + "  ".join(parts)).rstrip()

    return "\n".join([line(cells[0]), indent + "  ".join("-" * w for w in widths), *(line(row) for row in cells[1:])])


def seconds(value: float) -> str:
    """A duration in s, ms or us."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def number(value: float) -> str:
    """With separators from 100 on, else with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
