"""Prompts that need no model: built-in lists, and files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from chorus.errors import InputError
from chorus.frontend.prompting.lists import PROMPTS
from chorus.frontend.prompting.parsing import Dropped, same_words
from chorus.frontend.prompting.table3 import category_name
from chorus.frontend.stages import Runtime


class Builtin:
    """The project's own lists. A PromptSource."""

    def __init__(self) -> None:
        self.dropped: list[Dropped] = []

    def prompts(self, category: str, count: int) -> list[str]:
        """The first ``count`` of the category's list. InputError for categories that have none."""
        name = category_name(category)
        check_count(count)
        if name not in PROMPTS:
            raise InputError(
                f"category: expected one with a list of its own ({', '.join(PROMPTS)}), got {name!r}; for others ask a model: "
                "--prompts openai=MODEL or local=DIR"
            )
        return list(PROMPTS[name][:count])

    def provenance(self) -> dict[str, Any]:
        return {"stage": "builtin"}


class FromFile:
    """Prompts of a file, taken as they are, without the spaces around them. A PromptSource.

    A ``.json`` file holds a list of texts, or an object with "prompts" and, if it names one, the "category"; every other file
    holds a prompt on each line; lines that are empty or begin with # are skipped. InputError for files that are neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped: list[Dropped] = []
        try:
            content = path.read_bytes()
            text = content.decode("utf-8-sig")
        except OSError as error:
            raise InputError(f"{path}: expected a file with prompts, got {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise InputError(f"{path}: expected text in UTF-8, got other bytes") from None
        self._sha256 = hashlib.sha256(content).hexdigest()
        self._category: str | None = None
        self._source: Any = None
        self._lines = self._from_json(text) if path.suffix.lower() == ".json" else self._from_text(text)
        for line in self._lines:
            if not line.isprintable():
                raise InputError(f"{path}: expected prompts without control characters, got {line!r}")
        if not self._lines:
            raise InputError(f"{path}: expected at least one prompt, got none")

    def prompts(self, category: str, count: int) -> list[str]:
        """The first ``count`` different prompts of the file. InputError where the file names another category."""
        check_count(count)
        name = category_name(category)
        if self._category is not None and self._category != name:
            raise InputError(f"{self.path}: expected prompts for {name!r}, got those for {self._category!r}")
        found: dict[str, str] = {}
        self.dropped = []
        for line in self._lines:
            if same_words(line) in found:
                self.dropped.append(Dropped(line, "said already"))
            else:
                found[same_words(line)] = line
        return list(found.values())[:count]

    def provenance(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"stage": "file", "file": self.path.name, "sha256": self._sha256}
        return facts if self._source is None else {**facts, "source": self._source}

    @staticmethod
    def _from_text(text: str) -> list[str]:
        lines = [line.strip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]

    def _from_json(self, text: str) -> list[str]:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}: expected JSON, got {error}") from None
        if isinstance(value, dict):
            self._source = value.get("source")
            if value.get("category") is not None:
                self._category = category_name(str(value["category"]))
            value = value.get("prompts")
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise InputError(f'{self.path}: expected a list of texts, or an object with one as "prompts"; got another shape')
        return [item.strip() for item in value]


def check_count(count: int) -> None:
    """InputError unless ``count`` is at least 1."""
    if count < 1:
        raise InputError(f"count: expected at least 1, got {count}")


def builtin(_model: None, _runtime: Runtime) -> Builtin:
    """The stage ``builtin``."""
    return Builtin()


def check_builtin(_model: None, _runtime: Runtime, category: str | None) -> None:
    """InputError for a category without a list."""
    if category is not None:
        Builtin().prompts(category, 1)


def file(path: str, _runtime: Runtime) -> FromFile:
    """The stage ``file=PATH``."""
    return FromFile(Path(path))


def check_file(path: str, runtime: Runtime, category: str | None) -> None:
    """InputError for a file that holds no prompts, or those of another category."""
    source = file(path, runtime)
    if category is not None:
        source.prompts(category, 1)
