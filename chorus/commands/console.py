"""What the commands print: results, tables, progress and the names of written files, as plain text.

Prompts, keys, categories and file names come from data. They are never read as markup, and control characters in them are
shown as escapes. On a terminal tables are fitted to its width; into a pipe or file, nothing is folded, cut or coloured. A
character that the output's encoding lacks is written as an escape.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from chorus.texts import printable

ERROR_EXIT = 2
"""Exit code for wrong input, and for a job that could not be done with its input."""
INTERRUPTED = 130
"""Exit code of a command that was asked to stop, as shells have it for Ctrl-C."""
CLOSED_PIPE = 141
"""Exit code where the reader of standard output has gone (``| head``), as shells have it for SIGPIPE."""

_UNLIMITED = 10_000
"""Columns of a pipe or file: wider than any row."""


class PlainConsole(Console):
    """A console on standard output or error for which every text is data."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    @property
    def options(self) -> ConsoleOptions:
        """How things are drawn: as wide as the terminal; into a pipe or file as wide as they are."""
        found = super().options
        return found if self.is_terminal else found.update(width=_UNLIMITED)

    def render_str(self, text: str, **how: Any) -> Text:
        """A string as it is; control characters, and characters that the output's encoding lacks, as escapes."""
        plain = printable(text).encode(self.encoding, "backslashreplace").decode(self.encoding)
        return super().render_str(plain, **how)

    def on_broken_pipe(self) -> None:
        """The reader has gone. Without one for the results the command ends; without one for the progress it goes on."""
        self.quiet = True
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())  # what is still buffered must not fail again on exit
        if not self.stderr:
            raise SystemExit(CLOSED_PIPE)

    def has_reader(self) -> bool:
        """Whether what is written is read by someone: not where a pipe's other end is closed."""
        try:
            poll = select.poll()
            poll.register(self.file.fileno(), select.POLLOUT)
            return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
        except (AttributeError, OSError, ValueError):  # Windows has no poll; a stream in memory has no descriptor
            return True


def escape_what_cannot_be_encoded() -> None:
    """Make standard output and error write a character that their encoding lacks as an escape, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


out, err = PlainConsole(), PlainConsole(stderr=True)


_quiet = [False]


@contextmanager
def be_quiet() -> Iterator[None]:
    """A context in which no progress is shown, and no names of written files."""
    _quiet[0] = True
    try:
        yield
    finally:
        _quiet[0] = False


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


class _Lines:
    """Progress into a pipe or file: a line for a stage when it is done, and after every EVERY seconds before that."""

    EVERY = 30.0

    def __init__(self) -> None:
        self._stages: dict[str, dict[str, Any]] = {}

    def update(self, stage: str, done: int, total: int | None) -> None:
        """A stage has done so many items of so many."""
        now = time.monotonic()
        found = self._stages.setdefault(stage, {"began": now, "first": done, "told": now, "at": None, "complete": False})
        found |= {"done": done, "total": total}
        complete = total is not None and done >= total
        if now - found["told"] >= self.EVERY or (complete and not found["complete"]):
            self._tell(stage, now)
            found["complete"] = complete

    def finish(self) -> None:
        """How far each stage came, where its last line does not say it."""
        for stage, found in self._stages.items():
            if found["at"] != found["done"]:
                self._tell(stage, time.monotonic())

    def _tell(self, stage: str, now: float) -> None:
        found = self._stages[stage]
        found["told"], found["at"] = now, found["done"]
        seconds, items = now - found["began"], found["done"] - found["first"]
        rate = f"  {items / seconds:,.0f}/s" if seconds > 1 and items > seconds else ""
        total = "" if found["total"] is None else f"/{found['total']:,}"
        err.print(f"{stage}  {found['done']:,}{total}{rate}")


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int | None], None]]:
    """Progress bars on standard error, one for each stage; lines where that is a pipe or a file.

    Yields a function of the stage's name, how many items are done, and how many there are in all (None: not known).
    """
    if not err.is_terminal:
        lines = _Lines()
        try:
            yield lambda stage, done, total: None if _quiet[0] else lines.update(stage, done, total)
        finally:
            lines.finish()
        return
    description = TextColumn("{task.description}", markup=False)
    bars = Progress(description, BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(), console=err)
    tasks: dict[str, Any] = {}

    def update(stage: str, done: int, total: int | None) -> None:
        if _quiet[0]:
            return
        bars.start()  # not before: a command that fails until then prints its error alone
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        yield update
    finally:
        if tasks:
            bars.stop()


class _NotYetWritten(logging.Filter):
    """Passes records that no logger between theirs and the root has written already, as some libraries' loggers do."""

    def filter(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None and logger.parent is not None:
            if any(not isinstance(h, logging.NullHandler) and record.levelno >= h.level for h in logger.handlers):
                return False
            logger = logger.parent
        return True


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_stderr(level: int) -> None:
    """Have records from ``level`` on written to standard error, once each, as plain text; nothing where logging is set up."""
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter("%(name)s: %(message)s"))
    handler.addFilter(_NotYetWritten())
    logging.basicConfig(level=level, handlers=[handler])


def doubt_surface(pieces: int, volume_m3: float) -> None:
    """Warn on standard error of a surface that is hardly that of one object."""
    from chorus.occupancy.surfaces import doubts

    words = doubts(pieces, volume_m3)
    if words:
        err.print(f"chorus: warning: {words}")


@contextmanager
def kept_when_stopped(words: Callable[[], str]) -> Iterator[None]:
    """Where Ctrl-C stops the work inside, say on standard error what is kept of it and how to go on.

    words  called then; the command still ends as stopped, with the exit code INTERRUPTED
    """
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"chorus: {words()}")
        raise


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output, in ASCII."""
    out.file.write(json.dumps(value, indent=1, default=str) + "\n")
    out.file.flush()


def print_facts(facts: dict[str, Any]) -> None:
    """Print names and values, one pair a line; ``_`` in a name is printed as a space. Further lines of a value are indented."""
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
        shown = shown.replace("\n", "\n" + " " * (width + 2))
        out.print(f"{name.replace('_', ' '):<{width}}  {shown}")


def print_table(table: Table) -> None:
    """Print a table, its title above it and its caption below it as lines of their own, which are not folded."""
    title, caption, table.title, table.caption = table.title, table.caption, None, None
    if title:
        out.print(title, style="italic")
    out.print(table)
    if caption:
        out.print(caption, style="dim")


def wrote(*paths: Path) -> None:
    """Print which files were written, the last lines of a command's output, and which are not there."""
    for path in () if _quiet[0] else paths:
        out.print(f"wrote {path}" if os.path.lexists(path) else f"not written: {path}")
