"""One reading of a hostile file, held to what a reader may do: its declared errors, bounded time and memory, its own folder."""

from __future__ import annotations

import os
import resource
import signal
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 2.0
"""Most time of a processor that reading a small file may take."""
MEMORY = 512 << 20
"""Most bytes by which reading a small file may raise the process's peak of memory."""
_HANGS_AFTER = 30


class Finding(Exception):
    """What a reader did that it must not do."""


class _Hang(BaseException):
    pass


_allowed = tuple(
    {
        str(Path(tempfile.gettempdir()).resolve() / "tmp"),  # folders of tempfile's own, which are removed again
        *(str(Path(path).resolve()) for path in sysconfig.get_paths().values()),
        *(str(Path(path).resolve()) for path in (sys.prefix, sys.base_prefix, Path(__file__).parents[2])),
        *("/proc/", "/dev/", "/sys/", "/etc/localtime", "/usr/lib", "/usr/share"),
    }
)
_watching: list[Path] = []
_outside: list[str] = []
_EVENTS = ("open", "os.remove", "os.rename", "os.mkdir", "os.rmdir")
_NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "ctypes.dlopen")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in _NEVER:
        _outside.append(f"{event} {arguments[:1]}")
    elif event in _EVENTS and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not path.startswith((str(_watching[-1]), *_allowed)):
            _outside.append(f"{event} {path}")


sys.addaudithook(_audit)


@contextmanager
def _alarm() -> Iterator[None]:
    def hang(*_: Any) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(_HANGS_AFTER)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def attempt(read: Callable[[Path], object], folder: Path, errors: tuple[type[Exception], ...]) -> bool:
    """Read a case; whether it was read without an error. Finding for anything but that and ``errors``.

    HDF5 opens its files without Python's knowledge: that it leaves the folder is found by the links of the mutations, which
    lead to a file whose content no reader may return.
    """
    folder = folder.resolve()
    before, began, passed = _peak(), time.process_time(), False
    _outside.clear()
    _watching.append(folder)
    try:
        with _alarm(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(folder)
            passed = True
    except errors as error:
        if not str(error):
            raise Finding(f"{type(error).__name__} without a word") from error
    except _Hang:
        raise Finding(f"no end after {_HANGS_AFTER} s") from None
    except Exception as error:
        raise Finding(f"{type(error).__name__}: {error}"[:300]) from error
    finally:
        _watching.clear()
    taken, grown = time.process_time() - began, _peak() - before
    if _outside:
        raise Finding(f"outside its folder: {_outside[0]}")
    if taken > SECONDS:
        raise Finding(f"took {taken:.1f} s")
    if grown > MEMORY:
        raise Finding(f"took {grown >> 20} MiB more")
    return passed
