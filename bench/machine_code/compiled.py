"""What the compiler made of a kernel, read from its machine code: one ``Row`` a kernel and target. Needs no device."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.machine_code.sass import Loop, loops, total

VARIANT = re.compile(r"^(?P<base>\w+)(?:\[(?P<options>[^\]]*)\])?$")
MAIN_LOOP_DEPTH: dict[str, int] = {}
"""Kernels whose ``votes`` are those of a turn of a loop inside another: base name -> depth. Others: outermost loops."""
MATRIX_OPCODES = ("HGMMA", "HMMA", "UTC", "v_mfma")


@dataclass(frozen=True)
class Name:
    """``vote_tensor[packs=2,border]``: base "vote_tensor", values {"packs": 2}, flags {"border"}; "one joint": "one_joint"."""

    base: str
    values: dict[str, int]
    flags: frozenset[str]


def parse_name(name: str) -> Name:
    """A compilation's name taken apart. ValueError where it is none."""
    found = VARIANT.match(name)
    if not found:
        raise ValueError(f"name: expected kernel[option,option=number], got {name!r}")
    values, flags = {}, set()
    for option in filter(None, (o.strip() for o in (found["options"] or "").split(","))):
        key, equals, value = option.partition("=")
        if equals and value.lstrip("-").isdigit():
            values[key] = int(value)
        else:
            flags.add(option.replace(" ", "_"))
    return Name(found["base"], values, frozenset(flags))


@dataclass(frozen=True)
class Row:
    """Static figures of one kernel on one target.

    registers  a thread (AMD: vector registers, accumulators among them)
    spills     bytes a thread that spilled registers take; stack: bytes a thread of its whole stack frame
    shared     bytes of shared memory (LDS) a program; limit: how many the target has
    tmem       columns of tensor memory, of 512
    votes      what one turn of the main loop decides, see ``Compilation``
    main       index in ``loops`` of the main loop: of the outermost ones that with most instructions; -1 where there is none
    error      what the compiler said where it failed; everything else is then 0
    """

    name: str
    target: str
    warps: int = 0
    warp_size: int = 32
    registers: int = 0
    spills: int = 0
    stack: int = 0
    shared: int = 0
    limit: int = 0
    tmem: int = 0
    votes: int = 0
    main: int = -1
    loops: tuple[Loop, ...] = ()
    seconds: float = 0.0
    error: str = ""

    @property
    def instructions(self) -> int:
        """Of one turn of the main loop, with one turn of each loop inside it."""
        return total(self.loops, self.main) if self.main >= 0 else 0

    def per_vote(self, instructions: float) -> float:
        """Instructions that a thread issues for each vote, where a warp issues so many a turn; nan without votes."""
        return instructions * self.warp_size * self.warps / self.votes if self.votes else float("nan")

    @property
    def instructions_per_vote(self) -> float:
        return self.per_vote(self.instructions) if self.main >= 0 else float("nan")

    def in_main_loop(self, *prefixes: str) -> int:
        """Instructions of the main loop and those inside it whose opcode begins so."""
        if self.main < 0:
            return 0
        inside = {self.main}
        for index, loop in enumerate(self.loops):  # outer loops come first
            if loop.parent in inside:
                inside.add(index)
        return sum(n for i in inside for opcode, n in self.loops[i].own.items() if opcode.startswith(prefixes))


@lru_cache
def nvidia_tool(name: str) -> str:
    """Path of cuobjdump or nvdisasm: the one that Triton brings, else the system's. FileNotFoundError without either."""
    import triton

    try:
        from triton import knobs

        path = str(getattr(knobs.nvidia, name).path)
    except (ImportError, AttributeError, RuntimeError):
        path = str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)
    if not Path(path).exists():
        found = shutil.which(name)
        if found is None:
            raise FileNotFoundError(f"{name}: neither in the installed triton package nor on the PATH")
        path = found
    return path


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main_loop(found: Sequence[Loop], depth: int = 0) -> int:
    """Index of the loop of that depth with the most instructions; -1 without one."""
    candidates = [i for i, loop in enumerate(found) if loop.depth == depth]
    return max(candidates, key=lambda i: total(found, i), default=-1)


def _nvidia(kernel: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _run(nvidia_tool("cuobjdump"), "-res-usage", file.name)
        code = _run(nvidia_tool("nvdisasm"), "-c", "-g", file.name)
    facts = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    stores = re.findall(r"\bSTL(?:\.(\d+))?\b", code)
    spills = sum(int(bits) // 8 if bits else 4 for bits in stores)
    return {
        "registers": facts["REG"],
        "stack": facts["STACK"] + facts["LOCAL"],
        "spills": spills,
        "shared": facts["SHARED"] + kernel.metadata.shared,
        "tmem": getattr(kernel.metadata, "tmem_size", 0) or 0,
        "loops": tuple(loops(code)),
    }


def _amd(kernel: Any) -> dict[str, Any]:
    code = kernel.asm["amdgcn"]
    facts = {key: int(value) for key, value in re.findall(r"\.(\w+):\s+(\d+)\s*$", code, re.MULTILINE)}
    return {
        "registers": facts["vgpr_count"] + facts.get("agpr_count", 0),
        "stack": facts["private_segment_fixed_size"],
        "spills": 4 * (facts["vgpr_spill_count"] + facts["sgpr_spill_count"]),
        "shared": max(kernel.metadata.shared, facts["group_segment_fixed_size"]),
        "loops": tuple(loops(code)),
    }


def analyse(compilation: Any, target: Any) -> Row:
    """Compile one kernel for one target and read it; a compiler that fails gives a row with ``error``."""
    began = time.perf_counter()
    known = {
        "name": compilation.name,
        "target": target.name,
        "warps": compilation.num_warps,
        "warp_size": target.warp_size,
        "votes": compilation.votes,
        "limit": target.shared,
    }
    try:
        kernel = compilation.compile(target)
    except Exception as problem:  # the compiler's own exceptions are many; the row says what it was
        lines = str(problem).strip().splitlines() or [""]
        return Row(**known, seconds=time.perf_counter() - began, error=f"{type(problem).__name__}: {lines[-1]}")
    facts = _nvidia(kernel) if target.is_nvidia else _amd(kernel)
    depth = MAIN_LOOP_DEPTH.get(parse_name(compilation.name).base, 0)
    return Row(**known, main=main_loop(facts["loops"], depth), seconds=time.perf_counter() - began, **facts)


def chosen(targets: Iterable[str] | None, kernel: str = "", modules: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(kernel name, target name) of everything to compile: kernels whose name holds ``kernel``, for these or all targets."""
    from chorus.kernels.gpu.ahead_of_time import TARGETS

    wanted = list(targets or TARGETS)
    unknown = [t for t in wanted if t not in TARGETS]
    if unknown:
        raise ValueError(f"target: expected {', '.join(TARGETS)}; got {', '.join(unknown)}")
    known = _compilations(tuple(modules))
    return [(name, t) for t in wanted for name, where in known if where == t and kernel in name]


@lru_cache
def _compilations(modules: tuple[str, ...]) -> dict[tuple[str, str], Any]:
    """Every compilation by its name and target; one name may stand for different shapes on different targets."""
    import importlib

    from chorus.kernels.gpu import ahead_of_time

    found = [c for m in modules for c in importlib.import_module(m).compilations()] if modules else ahead_of_time.compilations()
    known: dict[tuple[str, str], Any] = {}
    for compilation in found:
        parse_name(compilation.name)  # a name that says nothing is refused before the minutes of work
        for target in ahead_of_time.TARGETS:
            if compilation.targets is None or target in compilation.targets:
                if (compilation.name, target) in known:
                    raise ValueError(f"compilations: expected a name once a target, got {compilation.name} twice for {target}")
                known[compilation.name, target] = compilation
    return known


def _one(job: tuple[str, str], modules: tuple[str, ...]) -> Row:
    from chorus.kernels.gpu.ahead_of_time import TARGETS

    return analyse(_compilations(modules)[job], TARGETS[job[1]])


def compile_all(
    jobs: Sequence[tuple[str, str]], processes: int = 2, modules: Sequence[str] = (), progress: Any = None
) -> list[Row]:
    """The rows of these (kernel, target), in their order, compiled by so many processes."""
    if processes == 1 or len(jobs) < 2:
        return [_one(job, tuple(modules)) for job in jobs]
    # Not forked: a fork would inherit the locks of threads that torch has started.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        pending = {pool.submit(_one, job, tuple(modules)): i for i, job in enumerate(jobs)}
        rows: dict[int, Row] = {}
        for future in as_completed(pending):
            rows[pending[future]] = future.result()
            if progress is not None:
                progress(len(rows), len(jobs))
    return [rows[i] for i in range(len(jobs))]
