"""Cases on disk: a changed seed written to a folder of its own, read under guard, and kept where it finds something."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.fuzz.guard import Finding, attempt
from tests.fuzz.mutations import MUTATIONS, OUTSIDE, Choices, choose, outside_file
from tests.fuzz.readers import READERS, Seed, seeds_of


class Place:
    """A folder in memory, where there is one, for one case after another; a context manager."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(prefix="chorus-fuzz-", dir=memory if memory.is_dir() else None))
        outside_file(self._folder / OUTSIDE)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def read(self, name: str, seed: Seed, data: bytes) -> bool:
        """Read a seed with its target replaced; whether no error came. Finding where the reader did what it must not."""
        case = self._folder / "case"
        shutil.rmtree(case, ignore_errors=True)
        for path, content in {**seed.files, seed.target: data}.items():
            (case / path).parent.mkdir(parents=True, exist_ok=True)
            (case / path).write_bytes(content)
        reader = READERS[name]
        return attempt(reader.read, case, reader.errors)


def changed(name: str, choices: Choices) -> tuple[Seed, bytes]:
    """One of a reader's seeds and its target changed as such files are."""
    seed = choose(choices, seeds_of(name))
    return seed, MUTATIONS[seed.kind](seed.files[seed.target], choices)


def keep(name: str, seed: Seed, data: bytes, folder: Path, finding: Finding) -> Path:
    """Write a case that found something, to be read again by ``python -m tests.fuzz NAME --case FOLDER``."""
    number = len(list(folder.glob(f"{name}-*")))
    place = folder / f"{name}-{number:03d}"
    for path, content in {**seed.files, seed.target: data}.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    (folder / f"{name}-{number:03d}.txt").write_text(f"{seed.target}\n{finding}\n{finding.__cause__!r}\n")
    return place
