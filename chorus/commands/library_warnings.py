"""Warnings of the library on the command line: one line each on standard error, without the place in the code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from chorus.commands.console import err


@contextmanager
def print_library_warnings() -> Iterator[None]:
    """A context in which warnings for people (``UserWarning``) that come from this package are printed as ``warning: ...``.

    Other packages' warnings, and those for programmers, are shown as Python does.
    """

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if _is_ours(filename) and issubclass(category, UserWarning):
            err.print(f"warning: {message}", markup=False)
        else:
            before(message, category, filename, lineno, file, line)

    before = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        if warnings.showwarning is show:
            warnings.showwarning = before


def _is_ours(filename: str) -> bool:
    from pathlib import Path

    return Path(__file__).resolve().parents[1] in Path(filename).resolve().parents
