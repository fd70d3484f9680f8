"""Machine code read back: loops of a kernel and how many instructions each turn of them takes.

Takes what ``nvdisasm -c -g`` prints of a cubin (NVIDIA) and what LLVM prints of an AMD kernel. Loops are natural loops of the
control flow graph, so that code which the assembler moved out of line belongs to the loop that runs it. Blocks only reached by
``BRA.DIV`` (a warp that has diverged before a shuffle) never run here and are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Instruction:
    """One machine instruction.

    opcode       with its modifiers: "LDG.E.64"
    target       label it may jump to
    conditional  whether what follows may run next
    line         source line of the ``for`` or statement it comes from, in the kernel's own file; 0 where nothing says
    """

    opcode: str
    target: str = ""
    conditional: bool = True
    line: int = 0


@dataclass
class Loop:
    """A natural loop. Instructions of loops inside it are theirs, not its own.

    label   of its header
    line    source line of the ``for`` (of the branch that closes the loop); 0 where nothing says
    depth   0 for outermost loops
    parent  index of the loop around it in the list of loops; -1 for outermost ones
    own     opcodes of one turn, without the loops inside; conditional code is counted as if it ran
    unroll  turns of the source's loop that one turn of it does, judged by its remainder loop: 1 where it has none
    """

    label: str
    line: int
    depth: int
    parent: int
    own: Counter[str] = field(default_factory=Counter)
    unroll: int = 1

    @property
    def instructions(self) -> int:
        """Instructions of one turn of the source's loop, those of inner loops excluded, rounded up."""
        return -(-self.own.total() // self.unroll)


_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(@!?U?P[T\d]+\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_LABEL = re.compile(r"(\.L_x_\d+|\.L_\d+|[.\w$]+):\s*$")
_LINE = re.compile(r'//## File "[^"]*", line (\d+)')
_TARGET = re.compile(r"`\((\.L[\w]*)\)")
_JUMPS = ("BRA", "JMP")
_ENDS = ("EXIT", "RET", "BRX", "JMX", "KILL", "BPT")


def read_sass(text: str) -> list[Instruction | str]:
    """Instructions and labels (plain strings) of the one kernel in ``nvdisasm -c`` text, in order; NOPs left out."""
    found: list[Instruction | str] = []
    line, inside = 0, False
    for row in text.splitlines():
        if row.startswith(".text."):
            inside = True
            continue
        if row.lstrip().startswith(".section") and inside:
            inside = ".text." in row
        if not inside:
            continue
        if place := _LINE.search(row):
            line = int(place[1])
        elif instruction := _INSTRUCTION.match(row):
            guard, opcode, operands = instruction[1], instruction[2], instruction[3].strip()
            base = opcode.split(".")[0]
            target = _TARGET.search(operands)
            if base == "NOP":
                continue
            if base in _JUMPS and target:
                guarded = guard is not None and "PT" not in guard
                conditional = guarded or not operands.startswith("`(")
                found.append(Instruction(opcode, "" if ".DIV" in opcode else target[1], conditional, line))
            elif base == "CALL" and target:
                # ptxas leaves far loops by a call that never returns; one that does goes on behind it.
                found.append(Instruction(opcode, target[1], True, line))
            else:
                ends = base in _ENDS and (guard is None or "PT" in guard)
                found.append(Instruction(opcode, "", not ends, line))
        elif label := _LABEL.match(row.strip()):
            found.append(label[1])
    return found


_AMD = re.compile(r"\s+([a-z]+_[a-z0-9_]+)\b\s*([^;]*)")
_AMD_LOCATION = re.compile(r"\s+\.loc\s+\d+\s+(\d+)")


def read_amdgcn(text: str) -> list[Instruction | str]:
    """Instructions and labels of the one kernel in LLVM's AMD assembly."""
    found: list[Instruction | str] = []
    line = 0
    for row in text.split(".end_amdhsa_kernel")[0].split("\t.section\t.rodata")[0].splitlines():
        if place := _AMD_LOCATION.match(row):
            line = int(place[1]) or line
        elif label := re.match(r"([.\w$]+):", row):
            found.append(label[1])
        elif instruction := _AMD.match(row):
            opcode, operands = instruction[1], instruction[2].strip()
            if opcode == "s_nop":
                continue
            jumps = opcode == "s_branch" or opcode.startswith("s_cbranch")
            ends = opcode in ("s_branch", "s_endpgm", "s_setpc_b64")
            found.append(Instruction(opcode, operands.split()[0] if jumps else "", not ends, line))
    return found


@dataclass
class _Block:
    label: str
    instructions: list[Instruction]
    after: list[int] = field(default_factory=list)


def _blocks(listing: Sequence[Instruction | str]) -> list[_Block]:
    """Basic blocks, the first one is the entry."""
    blocks = [_Block("", [])]
    names: dict[str, int] = {}
    for item in listing:
        if isinstance(item, str):
            if blocks[-1].instructions:
                blocks.append(_Block(item, []))
            names[item] = len(blocks) - 1
            blocks[-1].label = blocks[-1].label or item
        else:
            blocks[-1].instructions.append(item)
            if item.target or not item.conditional:
                blocks.append(_Block("", []))
    for index, block in enumerate(blocks):
        last = block.instructions[-1] if block.instructions else Instruction("")
        if last.target:
            if last.target not in names:
                raise ValueError(f"machine code: a jump to {last.target}, which is no label in it")
            block.after.append(names[last.target])
        if last.conditional and index + 1 < len(blocks):
            block.after.append(index + 1)
    return blocks


def _dominators(blocks: Sequence[_Block]) -> dict[int, set[int]]:
    """The blocks that every way from the entry to a block passes, itself among them; only blocks that can be reached."""
    order: list[int] = []
    seen, stack = {0}, [0]
    while stack:
        order.append(stack.pop())
        for target in blocks[order[-1]].after:
            if target not in seen:
                seen.add(target)
                stack.append(target)
    before: dict[int, list[int]] = {b: [] for b in order}
    for b in order:
        for target in blocks[b].after:
            before[target].append(b)
    dominators = {b: set(order) for b in order}
    dominators[0] = {0}
    changed = True
    while changed:
        changed = False
        for b in order[1:]:
            new = {b} | set.intersection(*(dominators[p] for p in before[b]))
            changed, dominators[b] = changed or new != dominators[b], new
    return dominators


def find_loops(listing: Sequence[Instruction | str]) -> list[Loop]:
    """The loops of one kernel, outer ones before those inside them, else in the order of their headers."""
    blocks = _blocks(listing)
    dominators = _dominators(blocks)
    before: dict[int, list[int]] = {}
    for b in dominators:
        for target in blocks[b].after:
            before.setdefault(target, []).append(b)
    bodies: dict[int, set[int]] = {}
    closing: dict[int, int] = {}
    for b in dominators:
        for header in blocks[b].after:
            if header in dominators[b]:
                body, stack = bodies.setdefault(header, {header}), [b]
                closing[header] = max(b, closing.get(header, b))
                while stack:
                    if (at := stack.pop()) not in body:
                        body.add(at)
                        stack += before[at]
    order = sorted(bodies, key=lambda h: _nesting(h, bodies))
    found: list[Loop] = []
    for header in order:
        around = [i for i, other in enumerate(order[: len(found)]) if header in bodies[other] and header != other]
        parent = max(around, key=lambda i: found[i].depth, default=-1)
        depth = found[parent].depth + 1 if around else 0
        branch = blocks[closing[header]].instructions[-1]
        found.append(Loop(blocks[header].label, branch.line, depth, parent))
    for index, header in enumerate(order):
        inner = set().union(*(bodies[order[i]] for i, loop in enumerate(found) if loop.parent == index))
        for b in bodies[header] - inner:
            found[index].own.update(i.opcode for i in blocks[b].instructions)
    _judge_unrolling(found)
    return found


def _nesting(header: int, bodies: dict[int, set[int]]) -> tuple[int, ...]:
    """Headers of the loops around a loop, outermost first, and its own: sorts inner loops behind their outer ones."""
    around = sorted((h for h in bodies if header in bodies[h]), key=lambda h: -len(bodies[h]))
    return tuple(around)


_WORK = (
    "FFMA",
    "FMUL",
    "FADD",
    "LDG",
    "LDS",
    "MUFU",
    "HMMA",
    "HGMMA",
    "IMMA",
    "ATOM",
    "RED",
    "STG",
    "v_fma",
    "v_mfma",
    "v_sqrt",
)


def _judge_unrolling(loops: Sequence[Loop]) -> None:
    """An unrolled loop leaves a remainder: a loop of the same source line and place that does a k-th of the work."""
    for loop in loops:
        if not loop.line:
            continue
        twins = [o for o in loops if o is not loop and (o.line, o.parent) == (loop.line, loop.parent)]
        shares = [mine / theirs for twin in twins if (mine := _work(loop)) and (theirs := _work(twin)) and mine > theirs]
        if shares:
            loop.unroll = max(1, round(max(shares)))


def _work(loop: Loop) -> int:
    return sum(n for opcode, n in loop.own.items() if opcode.startswith(_WORK))


def loops(text: str) -> list[Loop]:
    """The loops in the text of ``nvdisasm -c`` or of LLVM's AMD assembly."""
    return find_loops(read_amdgcn(text) if ".amdgcn_target" in text else read_sass(text))


def total(loops: Sequence[Loop], index: int) -> int:
    """Instructions of one turn of a loop with one turn of each loop inside it."""
    return loops[index].instructions + sum(total(loops, i) for i, inner in enumerate(loops) if inner.parent == index)
