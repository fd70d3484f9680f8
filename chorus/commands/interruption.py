"""Being asked to stop: Ctrl-C, and SIGTERM and SIGHUP, which schedulers, containers and closed terminals send.

Each of them unwinds a command as KeyboardInterrupt, so that what is written is complete or not there. Commands that can stop
between two images do so with ``stopping``: what they have is committed, and the same command goes on from there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from chorus.commands.console import INTERRUPTED

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """Asked to stop by a signal.

    number  of the signal
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(number: int) -> int:
    """The exit code of a process that a signal has ended, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number


@contextmanager
def signals_stop() -> Iterator[None]:
    """A context in which SIGTERM and SIGHUP unwind as Ctrl-C does; nothing changes outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(number: int, _: Any) -> None:
        raise Stopped(number)

    # A signal that is ignored stays so: nohup ignores SIGHUP.
    chosen = [n for n in _SIGNALS if n != signal.SIGINT and signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, unwind) for number in chosen}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopRequest(threading.Event):
    """An event that is set when the command is asked to stop.

    exit_code  for the command that has stopped then
    """

    exit_code = INTERRUPTED


@contextmanager
def stopping(what: str) -> Iterator[StopRequest]:
    """A StopRequest that the first signal sets; the second one ends the process at once.

    what  what is finished before the command stops, as in "the batches under way"
    """
    stop = StopRequest()

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise Stopped(number)
        stop.exit_code = exit_code(number)
        stop.set()
        # Not by print: a handler runs between any two instructions, be they of print itself or of an import.
        words = f"\nstopping: {what} are finished and committed (again: at once, and they are lost)\n"
        with suppress(OSError):  # a closed terminal
            os.write(2, words.encode())

    chosen = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in chosen}
    try:
        yield stop
    except KeyboardInterrupt:
        # Stages may be deep in a model's library, in threads of their own, and must not have Python torn down under them.
        sys.stdout.flush()
        os._exit(stop.exit_code)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
