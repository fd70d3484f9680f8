"""Docstrings on the site as they stand in the code: Markdown would fold their tables of arguments, aligned by spaces."""

from __future__ import annotations

from typing import Any

import griffe


class PlainDocstrings(griffe.Extension):
    """Shows a docstring's first paragraph as text and what follows as it is written."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is None:
            return
        first, blank, rest = obj.docstring.value.partition("\n\n")
        if blank:
            obj.docstring.value = f"{first}\n\n```text\n{rest.rstrip()}\n```"
