"""Ahead-of-time compilation of the Triton kernels, for machines without a GPU: what is compiled, and for which devices.

Every module of kernels lists them by ``compilations()``; ``bench.static`` prints what the compiler made of them and the tests
assert that it stays within budget.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

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


Types = Mapping[str, str | type]
"""Of arguments, by name: Triton's type, or the group of ``arguments`` that is passed."""


@dataclass(frozen=True)
class Compilation:
    """One kernel with everything that its machine code depends on.

    name       of the kernel and its variant, unique
    fn         the ``triton.jit`` function
    signature  of every argument that is no constant its type: Triton's ("*fp32", "i32", "i32:16" for an integer that is always
               a multiple of 16), or the group of ``arguments`` that is passed. Tensors begin at multiples of 16 bytes.
    constants  its ``tl.constexpr`` arguments; ``PTX``, where it is one, is set to suit the target
    votes      votes (or distances, or whatever a kernel is counted by) that one program decides in one turn of its inner loop:
               what instructions are counted by
    targets    names of the targets it is meant for; None for all
    fusion     whether the compiler may join multiplications and additions as it likes; no where two kernels must agree
    """

    name: str
    fn: Any
    signature: Types
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 2
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
        types = {name: "constexpr" if name in constants else triton_type(self.signature[name]) for name in names}
        attributes: dict[tuple[int, ...], list[list[Any]]] = {}
        for place, name in enumerate(names):
            for path, kind in _leaves(types[name], (place,)):
                # Of every pointer and integer that the launcher looks at it says whether it is a multiple of 16.
                is_said = kind[0] in "*iu" and not self.fn.params[place].do_not_specialize
                if is_said or (name in constants and _CONSTANTS_ARE_SAID):
                    is_multiple = kind[0] == "*" or kind.endswith(":16")
                    attributes[path] = [["tt.divisibility", 16]] if is_multiple else []
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": self.fusion}
        signature = {name: _map_leaves(kind, lambda leaf: leaf.removesuffix(":16")) for name, kind in types.items()}
        return ASTSource(fn=self.fn, signature=signature, constexprs=constants, attrs=attributes), options

    def compile(self, target: Target) -> Any:
        """Triton's CompiledKernel: ``.asm["ptx" | "cubin" | "amdgcn" | "hsaco"]``, ``.metadata.shared``. Needs no device."""
        source, options = self.source(target)
        return triton.compile(source, target=GPUTarget(target.backend, target.arch, target.warp_size), options=options)


def triton_type(kind: str | type) -> Any:
    """Triton's type of an argument: of a group, the group with the types of its fields in their place."""
    if isinstance(kind, str):
        return kind
    if hasattr(kind, "__metadata__"):  # Annotated[Tensor, "*fp32"]
        return kind.__metadata__[0]
    fields = get_type_hints(kind, include_extras=True)
    return kind(*map(triton_type, fields.values()))


def _leaves(kind: Any, path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
    """The types in a possibly nested argument, each with where it is."""
    if isinstance(kind, str):
        yield path, kind
    else:
        for place, inner in enumerate(kind):
            yield from _leaves(inner, (*path, place))


def _map_leaves(kind: Any, change: Any) -> Any:
    return change(kind) if isinstance(kind, str) else type(kind)(*(_map_leaves(inner, change) for inner in kind))


KERNEL_MODULES = (
    "chorus.kernels.gpu.prepare",
    "chorus.kernels.gpu.culling",
    "chorus.kernels.gpu.hidden",
    "chorus.kernels.gpu.vote_kernels",
    "chorus.kernels.gpu.contacts",
    "chorus.kernels.gpu.skinning_kernels",
)


def compilations() -> list[Compilation]:
    """Every kernel and variant of the project."""
    found: list[Compilation] = []
    for name in KERNEL_MODULES:
        found += importlib.import_module(name).compilations()
    return found
