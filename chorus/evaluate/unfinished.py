"""Results kept one by one while a long job runs, so that it goes on where it was interrupted."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, ItemsView, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from chorus._version import __version__
from chorus.errors import InputError
from chorus.files import check_output_file, json_value, write_json, write_text
from chorus.ranks import Share


class HasJson(Protocol):
    """What can be written as JSON."""

    def to_json(self) -> dict[str, Any]: ...


T = TypeVar("T", bound=HasJson)
_Kept = tuple[Any, dict[str, Any]]
"""The settings and the results of a file."""
SUFFIX = ".unfinished"
"""Behind the name of the file that the whole job will write."""


class Unfinished:
    """Results by name, read from a file, where there is one, and written to it after each new one.

    path    the file; None: results are kept in memory alone
    others  files of other processes that do parts of the same job: their results are there, too, and stay in them. One that is
            gone by now is none

    Raises InputError for a file that is none of ``Unfinished``.
    """

    def __init__(self, path: Path | None = None, others: Sequence[Path] = ()) -> None:
        self.path, self._settings = path, None
        self._results: dict[str, Any] = {}
        self._written, self._took, self._all_written = -float("inf"), 0.0, True
        if path is not None and path.is_file():
            self._settings, self._results = _read(path)
        self._others: dict[Path, _Kept] = {}
        for other in others:
            with suppress(FileNotFoundError):  # the whole job has been finished meanwhile
                self._others[other] = _read(other)

    @classmethod
    def beside(cls, output: Path | None, share: Share | None = None) -> Unfinished:
        """That of a job, or of a share of it, whose results will be written to ``output``; in memory where there is none.

        A share has a file of its own, since processes on several machines must not write the same one. Each takes what the
        whole job's file and those of all shares have, and the whole job removes them in the end.
        """
        if output is None:
            return cls()
        whole = output.with_name(output.name + SUFFIX)
        of_shares = re.compile(re.escape(whole.name) + r"-\d+-of-\d+")
        files = sorted(p for p in whole.parent.iterdir() if of_shares.fullmatch(p.name)) if whole.parent.is_dir() else []
        if share is None or share.whole:
            return cls(whole, files)
        own = whole.with_name(f"{whole.name}-{share.number}-of-{share.of}")
        return cls(own, [p for p in (whole, *files) if p != own])

    def __len__(self) -> int:
        return len(dict(self.items()))

    def begin(self, settings: dict[str, Any]) -> None:
        """Say what the results depend on, before the first one.

        Raises InputError where those in a file were computed otherwise, and for settings that JSON cannot hold.
        """
        try:
            settings = json.loads(json.dumps({"chorus": __version__, **settings}))
        except (TypeError, ValueError) as error:
            raise InputError(f"settings: expected what JSON can hold, got {error}") from None
        for path, (theirs, results) in ((self.path, (self._settings, self._results)), *self._others.items()):
            if not results or theirs == settings:
                continue
            theirs = theirs if isinstance(theirs, dict) else {}
            differ = sorted(name for name in settings.keys() | theirs.keys() if settings.get(name) != theirs.get(name))
            raise InputError(
                f"{path}: expected results of an interrupted job with the same settings, got others for "
                f"{', '.join(differ)} (remove the file to begin anew)"
            )
        self._settings = settings

    def items(self) -> ItemsView[str, Any]:
        """Names and results: those of other files, then this one's, in the order in which they were kept."""
        found: dict[str, Any] = {}
        for _, results in self._others.values():
            found |= results
        return (found | self._results).items()

    @property
    def own(self) -> ItemsView[str, Any]:
        """Names and results of the file itself, without those of other files."""
        return self._results.items()

    @property
    def num_kept(self) -> int:
        """The number of results in the file itself."""
        return len(self._results)

    def get(self, name: str) -> Any:
        """A result, as JSON gives it back; None where it is not there."""
        for results in (self._results, *(results for _, results in self._others.values())):
            if name in results:
                return results[name]
        return None

    def keep(self, name: str, result: Any, spacing: float = 0.0) -> None:
        """Add a result, which JSON must be able to hold, and write all to the file.

        spacing  seconds, for results that come fast: the file is written where its last writing is as long ago, and 100
                 times as long as that took; until then, the result is in memory, for a later ``keep`` or ``write``
        """
        self._results[name], self._all_written = json.loads(json.dumps(result)), False
        if not spacing or time.monotonic() - self._written >= max(spacing, 100 * self._took):
            self.write()

    def write(self) -> None:
        """Write what is in memory alone to the file."""
        if self.path is None or self._all_written:
            return
        began = time.monotonic()
        write_text(self.path, json.dumps({"settings": self._settings, "results": self._results}, ensure_ascii=False) + "\n")
        self._written, self._all_written = time.monotonic(), True
        self._took = self._written - began

    def where(self, what: str = "results", size: Callable[[Any], int] = lambda result: 1) -> str:
        """What is kept and how to go on, in words, for the one who has interrupted the job.

        what, size  what results are counted in, and how many of it a result is
        """
        if self.path is None:
            return "the table is of what was scored so far; it is not kept (with -o FILE it would be)"
        if not self:
            return "nothing is kept"
        own, of_all = (sum(size(result) for _, result in results) for results in (self.own, self.items()))
        beside = f", {of_all - own:,} more in files of shares" if of_all > own else ""
        return f"{own:,} {what} are kept in {self.path}{beside}; the same command goes on from them"

    def finish(self) -> None:
        """Remove the files, once the whole job's results are written."""
        for path in (self.path, *self._others):
            if path is not None:
                path.unlink(missing_ok=True)


def _read(path: Path) -> _Kept:
    try:
        content = json_value(path.read_bytes())
        return content["settings"], dict(content["results"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected results of an interrupted job (remove the file), got {error}") from None


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
