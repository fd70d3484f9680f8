"""numba's compiler, with a cache on disk that notices a change in any file that code comes from, and that is never needed.

numba keeps machine code under the time and size of the file in which a function stands. But the code of a function holds that
of all functions it calls, also of those in other files, whose changes numba does not see: it would go on running the old
code. Here the cache goes by a digest of all files that compiled code may come from instead.

Where nothing can be cached (a read-only installation and no home, a full disk, a damaged file), functions are compiled anew in
each process; this is said once.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba as nb
from numba.core import config
from numba.core.caching import FunctionCache

log = logging.getLogger(__name__)

if config.DISABLE_JIT:  # type: ignore[attr-defined]  # made by numba as it is imported
    # Not a slow path: the kernels use vector instructions that Python does not have.
    raise ImportError("NUMBA_DISABLE_JIT: expected it to be unset, for kernels that run only when compiled; got it set")


class _Cache(FunctionCache):
    """numba's cache of a function's machine code, whose failures cost a compilation instead of the run."""

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The cached code for a signature; None where there is none or it cannot be read."""
        try:
            return super().load_overload(signature, target)  # type: ignore[no-untyped-call]
        except Exception as error:  # a damaged file makes pickle and numba raise nearly anything
            self._failed(f"{self.cache_path} could not be read", error)
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        """Keep compiled code; where that fails, it is in memory alone."""
        try:
            super().save_overload(signature, data)  # type: ignore[no-untyped-call]
        except Exception as error:
            self._failed(f"{self.cache_path} could not be written", error)

    def _failed(self, what: str, error: Exception) -> None:
        _say_once(f"{what} ({type(error).__name__}: {error})")
        try:
            self.flush()  # type: ignore[no-untyped-call]  # an index that cannot be read is begun anew
        except Exception:
            self.disable()  # type: ignore[no-untyped-call]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: ``numba.njit(nogil=True, **options)``, cached where that can be done, and valid for these very sources."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = nb.njit(nogil=True, **options)(function)
        # What follows is private to numba, which has no other way to say what code depends on, or to do without a cache.
        try:
            cache = _Cache(function)  # type: ignore[no-untyped-call]
            cache._cache_file._source_stamp = sources_digest(Path(function.__code__.co_filename).parent)
        except Exception as error:  # numba finds no folder to write to, or is another version
            _say_once(f"no folder for it can be written to ({error})")
        else:
            dispatcher._cache = cache
        return dispatcher

    return decorate


_said: set[str] = set()


def _say_once(what: str) -> None:
    if _said:
        return
    _said.add(what)
    log.warning("compiled code is not cached: %s. Every process compiles anew; NUMBA_CACHE_DIR names another folder", what)


@lru_cache
def sources_digest(folder: Path | None = None) -> str:
    """SHA-256 of the files that compiled code may come from: this folder's, those of ``cpu``, and those of ``folder``."""
    here = Path(__file__).parent
    paths = [*here.glob("*.py"), *here.glob("cpu/*.py"), *(folder.glob("*.py") if folder is not None else ())]
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
