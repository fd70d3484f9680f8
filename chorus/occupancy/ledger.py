"""What a long aggregation has counted so far, kept beside its output, so that the same command goes on after it was stopped.

A ledger is a folder: an occupancy of what earlier attempts counted, one for each process of the present attempt, each replaced
now and then, and ``ledger.json``, which says of which job they are and which of them count. It is never larger than one
occupancy for each process and one more, and is removed when the output is written.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from chorus.errors import InputError
from chorus.files import json_value, warn_once, write_json
from chorus.occupancy.counts import Occupancy, load_occupancy

log = logging.getLogger(__name__)

MANIFEST = "ledger.json"
FORMAT, VERSION = "chorus-ledger", 1
_NAME = re.compile(r"[0-9a-f]{1,16}(-\d{1,6})?\.h5")  # as ``Ledger`` names them: none leads out of the folder
SECONDS = 60.0
"""Between two entries, unless asked otherwise."""
SHARE_OF_TIME = 0.05
"""Entries are made rarer where writing them would take more than this share of the time."""


def ledger_of(output: Path) -> Path:
    """The folder of the ledger of an output."""
    return output.with_name(output.name + ".ledger")


class Ledger:
    """The ledger of one job in one folder.

    folder   where it is, or will be once there is something to keep
    job      what is counted, as JSON has it: a ledger of another job is not gone on with
    seconds  between two entries; infinite: none are made
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], seconds: float = SECONDS) -> None:
        self._folder, self._job, self._seconds = folder, json.loads(json.dumps(job)), seconds
        self._base: str | None = None
        self.attempt = secrets.token_hex(4)
        """Name of this attempt, which all its processes must have."""

    def begin(self, replace: bool = False) -> Occupancy | None:
        """What earlier attempts have counted, or None; done by one process before the others go on.

        replace  whether a ledger that is no use is removed instead

        InputError for a ledger of another job, and for one that cannot be read.
        """
        try:
            return self._found()
        except InputError:
            if not replace:
                raise
            log.warning("%s: what another aggregation kept is removed", self._folder)
            self.remove()
            return None

    def _found(self) -> Occupancy | None:
        manifest = self._folder / MANIFEST
        if not manifest.exists():
            return None
        instead = f"remove {self._folder}, or have it removed (--force)"
        try:
            found = json_value(manifest.read_bytes())
            job, files = found["job"], list(dict.fromkeys(str(name) for name in found["files"]))
            if (found["format"], found["version"]) != (FORMAT, VERSION) or not all(map(_NAME.fullmatch, files)):
                raise ValueError(f"expected {FORMAT} {VERSION}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{manifest}: expected what an aggregation kept, got {error}; {instead}") from None
        if job != self._job:
            differ = sorted(k for k in {*job, *self._job} if job.get(k) != self._job.get(k)) if isinstance(job, dict) else []
            raise InputError(
                f"{self._folder}: expected the kept counts of this aggregation, got those of one with another "
                f"{', '.join(differ)}; run that one again, or {instead}"
            )
        paths = [self._folder / name for name in files]
        try:
            parts = {path.name: load_occupancy(path) for path in paths if path.exists()}
            # Files of an attempt that are in no list do not count.
            if not parts:
                return None
            total = reduce(add, parts.values())
        except InputError as error:
            raise InputError(f"{self._folder}: {error}; {instead}") from None
        try:
            base = next(iter(parts))
            if len(parts) > 1 or "-" in base:  # a file of an attempt may yet change: its process may be alive
                base = f"{secrets.token_hex(4)}.h5"
                total.save(self._folder / base)
            self._base = base
            self._write_manifest()
            for path in self._folder.glob("*.h5"):
                if path.name != base:
                    path.unlink(missing_ok=True)
        except OSError as error:  # what was found is good all the same
            self._base = None
            warn_once(log, str(self._folder), f"what was counted so far is not kept in {self._folder} ({error})")
        return total

    def entries(self, rank: int, world: int) -> Callable[[Callable[[], Occupancy]], None]:
        """A function to be called between batches by one process of several, which makes an entry now and then."""
        due = time.monotonic() + self._seconds

        def maybe(so_far: Callable[[], Occupancy]) -> None:
            nonlocal due
            began = time.monotonic()
            if began < due:
                return
            try:
                self._folder.mkdir(exist_ok=True)
                if not (self._folder / MANIFEST).exists() or rank == 0:
                    self._write_manifest(world)
                so_far().save(self._folder / self._name(rank))
            except OSError as error:  # without a ledger the work goes on all the same
                warn_once(log, str(self._folder), f"what was counted so far is not kept in {self._folder} ({error})")
            now = time.monotonic()
            due = now + max(self._seconds, (now - began) / SHARE_OF_TIME)

        return maybe

    def remove(self) -> None:
        """Remove the ledger: the output is written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def joined(self, attempt: str, base: str | None) -> Ledger:
        """This ledger in another process of the attempt that one process has begun."""
        self.attempt, self._base = attempt, base
        return self

    @property
    def state(self) -> tuple[str, str | None]:
        """What ``joined`` needs."""
        return self.attempt, self._base

    def _name(self, rank: int) -> str:
        return f"{self.attempt}-{rank}.h5"

    def _write_manifest(self, world: int = 0) -> None:
        files = [*([] if self._base is None else [self._base]), *(self._name(rank) for rank in range(world))]
        write_json(self._folder / MANIFEST, {"format": FORMAT, "version": VERSION, "job": self._job, "files": files})
