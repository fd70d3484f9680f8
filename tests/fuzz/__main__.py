"""``python -m tests.fuzz READER --seconds 600``: coverage-guided search for files that a reader does not survive (atheris).

Half of the cases change a valid file by its structure (``tests.fuzz.mutations``), half are libFuzzer's own bytes as the file.
Findings are kept in ``--findings`` and the search goes on; one of each kind is printed. ``--plain`` needs no atheris: the same
mutations by chance alone. Exit status 1 where something was found.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


def _compiled() -> list[str]:
    """Modules whose functions numba compiles, or may: their bytecode must stay as it is."""
    kernels = list((_ROOT / "kernels").rglob("*.py"))
    others = [p for p in (_ROOT / "chorus").rglob("*.py") if "kernels.jit" in p.read_text() or "kernels" in p.parts]
    paths = [("chorus", *p.relative_to(_ROOT).parts) for p in kernels] + [p.relative_to(_ROOT).parts for p in others]
    return sorted({".".join(parts).removesuffix(".py").removesuffix(".__init__") for parts in paths})


class _Random:
    """Choices by chance."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def data(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randint(0, most))


class _Provided:
    """Choices by libFuzzer."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def integer(self, low: int, high: int) -> int:
        return int(self._provider.ConsumeIntInRange(low, high))

    def data(self, most: int) -> bytes:
        return bytes(self._provider.ConsumeBytes(self.integer(0, most)))


class _Search:
    """Cases read one after the other, and what they found, by kind."""

    def __init__(self, name: str, findings: Path) -> None:
        self.name, self.findings = name, findings
        self.read = self.passed = 0
        self.kinds: Counter[str] = Counter()

    def one(self, place: Any, seed: Any, data: bytes) -> None:
        from tests.fuzz.cases import keep
        from tests.fuzz.guard import Finding

        self.read += 1
        try:
            self.passed += place.read(self.name, seed, data)
        except Finding as finding:
            kind = _kind(finding)
            self.kinds[kind] += 1
            if self.kinds[kind] <= 2:
                print(
                    f"finding: {finding}\n  {kind}\n  kept in {keep(self.name, seed, data, self.findings, finding)}", flush=True
                )

    def report(self, seconds: float) -> str:
        what = "".join(f"\n  {number} x {kind}" for kind, number in self.kinds.most_common())
        counts = f"{self.read} cases in {seconds:.0f} s, {self.passed} read without error"
        return f"{self.name}: {counts}, {len(self.kinds)} kinds of findings{what}"


def _kind(finding: Exception) -> str:
    """What a finding is and where it happened: the last line of the project's own code."""
    cause = finding.__cause__
    if cause is None:
        return str(finding)[:60]
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if "/chorus/" in f.filename or "/kernels/" in f.filename]
    where = f" in {'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno}" if frames else ""
    return f"{type(cause).__name__}{where}"


def _plain(search: _Search, seconds: float, seed: int) -> None:
    from tests.fuzz.cases import Place, changed
    from tests.fuzz.readers import seeds_of

    seeds_of(search.name)
    with Place() as place:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            search.one(place, *changed(search.name, _Random(seed + search.read)))
        print(search.report(time.monotonic() - began))


def _guided(search: _Search, seconds: float, seed: int, corpus: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["chorus"], exclude=_compiled()):
        from tests.fuzz.cases import Place, changed
        from tests.fuzz.readers import seeds_of

    seeds = seeds_of(search.name)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(seeds):  # the first byte says what the rest is: the file, or choices for mutations
        (corpus / f"seed-{number}").write_bytes(bytes([2 * number % 256]) + case.files[case.target])
        (corpus / f"choices-{number}").write_bytes(bytes([1]) + random.Random(number).randbytes(64))
    with Place() as place:

        def one(data: bytes) -> None:
            if not data:
                return
            if data[0] % 2 == 0:
                case = seeds[data[0] // 2 % len(seeds)]
                search.one(place, case, data[1:])
            else:
                search.one(place, *changed(search.name, _Provided(atheris.FuzzedDataProvider(data[1:]))))

        options = [f"-max_total_time={int(seconds)}", f"-seed={seed}", "-max_len=100000", "-rss_limit_mb=4096", "-timeout=60"]
        crashes = f"-artifact_prefix={search.findings}/{search.name}-crash-"
        atheris.Setup([sys.argv[0], *options, crashes, "-verbosity=0", "-print_final_stats=1", str(corpus)], one)
        atheris.Fuzz()  # which ends the process


def _in_a_child(search: _Search) -> int:
    """The guided search in a process of its own, which libFuzzer ends in its own way, or a crash does."""
    before = set(search.findings.glob("*"))
    done = subprocess.run([sys.executable, *sys.orig_argv[1:], "--child"])
    found = [p for p in search.findings.glob(f"{search.name}-*") if p not in before]
    print(f"{search.name}: {sum(p.is_dir() for p in found)} findings kept, exit status {done.returncode} of the search")
    return 1 if found or done.returncode else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("reader", help="a row of tests/fuzz/readers.py")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--corpus", type=Path, help="inputs kept between runs; default: in --findings")
    parser.add_argument("--plain", action="store_true", help="mutations by chance alone, without atheris")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=Path, help="read one kept case again, without a guard")
    given = parser.parse_args()
    if given.case is not None:
        from tests.fuzz.readers import READERS

        READERS[given.reader].read(given.case)
        return 0
    search = _Search(given.reader, given.findings)
    search.findings.mkdir(parents=True, exist_ok=True)
    if given.plain:
        _plain(search, given.seconds, given.seed)
    elif not given.child:
        return _in_a_child(search)
    else:
        _guided(search, given.seconds, given.seed, given.corpus or given.findings / "corpus" / given.reader)
    return 1 if search.kinds else 0


if __name__ == "__main__":
    sys.exit(main())
