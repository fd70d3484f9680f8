"""Results kept one by one while a long job runs, so that it goes on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, ItemsView
from pathlib import Path
from typing import Any, Protocol, TypeVar

from chorus._version import __version__
from chorus.errors import InputError
from chorus.files import check_output_file, json_value, write_json


class HasJson(Protocol):
    """What can be written as JSON."""

    def to_json(self) -> dict[str, Any]: ...


T = TypeVar("T", bound=HasJson)
SUFFIX = ".unfinished"
"""Behind the name of the file that the whole job will write."""


class Unfinished:
    """Results by name, read from a file, where there is one, and written to it after each new one.

    path   the file; None: results are kept in memory alone

    Raises InputError for a file that is none of ``Unfinished``.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self._settings = path, None
        self._results: dict[str, Any] = {}
        if path is not None and path.is_file():
            try:
                content = json_value(path.read_bytes())
                self._settings, self._results = content["settings"], dict(content["results"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}: expected results of an interrupted job (remove the file), got {error}") from None

    @classmethod
    def beside(cls, output: Path | None) -> Unfinished:
        """That of a job whose results will be written to ``output``; in memory where there is none."""
        return cls(None if output is None else output.with_name(output.name + SUFFIX))

    def __len__(self) -> int:
        return len(self._results)

    def begin(self, settings: dict[str, Any]) -> None:
        """Say what the results depend on, before the first one.

        Raises InputError where those in the file were computed otherwise, and for settings that JSON cannot hold.
        """
        try:
            settings = json.loads(json.dumps({"chorus": __version__, **settings}))
        except (TypeError, ValueError) as error:
            raise InputError(f"settings: expected what JSON can hold, got {error}") from None
        if self._results and self._settings != settings:
            theirs = self._settings if isinstance(self._settings, dict) else {}
            differ = sorted(name for name in settings.keys() | theirs.keys() if settings.get(name) != theirs.get(name))
            raise InputError(
                f"{self.path}: expected results of an interrupted job with the same settings, got others for "
                f"{', '.join(differ)} (remove the file to begin anew)"
            )
        self._settings = settings

    def items(self) -> ItemsView[str, Any]:
        """Names and results, in the order in which they were kept."""
        return self._results.items()

    def get(self, name: str) -> Any:
        """A result, as JSON gives it back; None where it is not there."""
        return self._results.get(name)

    def keep(self, name: str, result: Any) -> None:
        """Add a result, which JSON must be able to hold, and write all to the file."""
        self._results[name] = json.loads(json.dumps(result))
        if self.path is not None:
            write_json(self.path, {"settings": self._settings, "results": self._results})

    def where(self) -> str:
        """What is kept and how to go on, in words, for the one who has interrupted the job."""
        if self.path is None:
            return "the table is of what was scored so far; it is not kept (with -o FILE it would be)"
        return (
            f"{len(self):,} results are kept in {self.path}; the same command goes on from them" if self else "nothing is kept"
        )

    def finish(self) -> None:
        """Remove the file, once the whole job's results are written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def run_to_end(make: Callable[[Unfinished], T], output: Path | None, unfinished: Unfinished | None) -> T:
    """What ``make`` makes, written as JSON (its ``to_json``) to ``output`` where given; then nothing is unfinished.

    unfinished  None: the file ``output`` + ".unfinished"

    Raises InputError, before any work, where ``output`` cannot be written.
    """
    if output is not None:
        check_output_file("output", output)
    if unfinished is None:
        unfinished = Unfinished.beside(output)
    made = make(unfinished)
    if output is not None:
        write_json(output, made.to_json())
        unfinished.finish()
    return made
