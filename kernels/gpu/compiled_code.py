"""Where Triton keeps compiled kernels: a folder that can be written to, if need be a temporary one."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

log = logging.getLogger(__name__)

VARIABLE = "TRITON_CACHE_DIR"
"""The environment variable that names Triton's folder."""
ROOM = 1 << 20
"""Bytes that must fit into it: more than a kernel with its intermediate forms takes."""


def folder() -> Path:
    """The folder that Triton is going to use."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("TRITON_HOME") or os.path.expanduser("~"), ".triton", "cache")


@lru_cache
def ensure_folder() -> None:
    """Have Triton use a temporary folder where its own cannot be written to (no home, no rights, a full disk), and say so.

    Done once in a process. Triton cannot compile without a folder; the temporary one is removed when the process ends. OSError
    where none can be made.
    """
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(ROOM))
            file.flush()
    except OSError as error:
        temporary = tempfile.mkdtemp(prefix="chorus-triton-")
        atexit.register(_remove, temporary, os.getpid())
        os.environ[VARIABLE] = temporary
        log.warning(
            "compiled GPU kernels are not cached: %s cannot be written to (%s). Every process compiles anew; "
            "%s names another folder",
            place,
            error,
            VARIABLE,
        )


def _remove(temporary: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked process shares it
        shutil.rmtree(temporary, ignore_errors=True)
