"""numba's compiler as the CPU kernels use it, with a cache on disk that notices a change in any of their files.

numba keeps machine code under the time and size of the file in which a function stands. But the code of a function holds that
of all functions it calls, also of those in other files, whose changes numba does not see: it would go on running the old
code. Here the cache goes by a digest of all files of the CPU kernels instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba as nb


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: ``numba.njit(nogil=True, cache=True, **options)``, its cache valid for these very sources."""

    def decorate(function: Callable[..., Any]) -> Any:
        every: dict[str, Any] = {"nogil": True, "cache": True, **options}
        dispatcher = nb.njit(**every)(function)
        # Private to numba, which has no other way to say what the code depends on. None where there is no cache.
        cache_file: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
        if hasattr(cache_file, "_source_stamp"):
            cache_file._source_stamp = sources_digest()
        return dispatcher

    return decorate


@lru_cache
def sources_digest() -> str:
    """SHA-256 of the files that compiled CPU code may come from: this folder's and those of ``cpu``."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*here.glob("*.py"), *here.glob("cpu/*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
