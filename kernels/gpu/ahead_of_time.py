"""Ahead-of-time compilation of the Triton kernels, for machines without a GPU: what is compiled, and for which devices.

Every ``triton_*.py`` lists its kernels by ``compilations()``; ``bench.static`` prints what the compiler made of them and the
tests assert that it stays within budget.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@dataclass(frozen=True)
class Target:
    """A kind of device.

    name    as its maker calls it: sm_90, gfx942
    shared  bytes of shared memory (LDS) that one program may use
    """

    name: str
    backend: str
    arch: int | str
    warp_size: int
    shared: int

    @property
    def is_nvidia(self) -> bool:
        """Whether the kernels may use PTX here."""
        return self.backend == "cuda"


TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", "cuda", 80, 32, 166_912),
        Target("sm_86", "cuda", 86, 32, 101_376),
        Target("sm_89", "cuda", 89, 32, 101_376),
        Target("sm_90", "cuda", 90, 32, 232_448),
        Target("sm_100", "cuda", 100, 32, 232_448),
        Target("sm_120", "cuda", 120, 32, 101_376),
        Target("gfx942", "hip", "gfx942", 64, 65_536),
    )
}

_CONSTANTS_ARE_SAID = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 7)
"""Whether the launcher lists constants among the arguments whose alignment it tells, with nothing to tell."""


@dataclass(frozen=True)
class Compilation:
    """One kernel with everything that its machine code depends on.

    name        of the kernel and its variant, unique
    fn          the ``triton.jit`` function
    signature   Triton's type of every argument that is no constant, in order: "*fp32", "i32", ...
    constants   its ``tl.constexpr`` arguments; ``PTX``, where it is one, is set to suit the target
    divisible   arguments that the launcher knows to be multiples of 16 (addresses of whole tensors are)
    votes       votes (or distances, or whatever a kernel is counted by) that one program decides in one turn of its inner
                loop: what instructions are counted by
    targets     names of the targets it is meant for; None for all
    fusion      whether the compiler may join multiplications and additions as it likes; no where two kernels must agree
    """

    name: str
    fn: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    divisible: frozenset[str] = field(default_factory=frozenset)
    votes: int = 0
    targets: frozenset[str] | None = None
    fusion: bool = True

    def source(self, target: Target) -> tuple[ASTSource, dict[str, Any]]:
        """What Triton is given to compile for a target, and its options: the same, to the key of its cache, as at a launch."""
        constants = dict(self.constants)
        if "PTX" in constants:
            constants["PTX"] = target.is_nvidia
        names = list(self.fn.arg_names)
        unknown = set(names) - set(self.signature) - set(constants)
        if unknown:
            raise ValueError(f"{self.name}: no type for {', '.join(sorted(unknown))}")
        signature = {name: "constexpr" if name in constants else self.signature[name] for name in names}
        # Of every pointer and integer that the launcher looks at it says whether it is a multiple of 16.
        attributes = {
            (place,): [["tt.divisibility", 16]] if name in self.divisible else []
            for place, name in enumerate(names)
            if (name in constants and _CONSTANTS_ARE_SAID)
            or (signature[name][0] in "*iu" and not self.fn.params[place].do_not_specialize)
        }
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": self.fusion}
        return ASTSource(fn=self.fn, signature=signature, constexprs=constants, attrs=attributes), options

    def compile(self, target: Target) -> Any:
        """Triton's CompiledKernel: ``.asm["ptx" | "cubin" | "amdgcn" | "hsaco"]``, ``.metadata.shared``. Needs no device."""
        source, options = self.source(target)
        return triton.compile(source, target=GPUTarget(target.backend, target.arch, target.warp_size), options=options)


def types_of(text: str) -> dict[str, str]:
    """Types of arguments from lines such as ``*fp32: poses lanes``."""
    lines = (line.split(":") for line in text.strip().splitlines())
    return {name: kind.strip() for kind, names in lines for name in names.split()}


KERNEL_MODULES = (
    "chorus.kernels.gpu.prepare",
    "chorus.kernels.gpu.culling",
    "chorus.kernels.gpu.vote_kernels",
    "chorus.kernels.gpu.contacts",
    "chorus.kernels.gpu.skinning",
)


def compilations() -> list[Compilation]:
    """Every kernel and variant of the project."""
    found: list[Compilation] = []
    for name in KERNEL_MODULES:
        found += importlib.import_module(name).compilations()
    return found
