"""From instructions per vote to images per second: the mean over the mannequin's bricks and the bound of the issue rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.machine_code.compiled import Row, parse_name
from bench.machine_code.sass import Loop

JOINTS_PER_PACK = 4
RESOLUTION = 48
SPECIAL = frozenset({"border", "both", "hidden", "inside", "weighted"})
"""Variants that are not averaged: weighted images, and bricks that an image sees in part or that lie outside its mask's box."""


@dataclass(frozen=True)
class Device:
    """Where instructions are issued: one a cycle from each of four schedulers of a multiprocessor, 32 lanes each."""

    name: str
    processors: int
    hertz: float
    slots: int = 4
    lanes: int = 32

    def images_per_s(self, instructions_per_vote: float, voxels: int) -> float:
        """The most images/s at which so many instructions a vote can be issued: nothing else is counted, stalls least."""
        return self.processors * self.slots * self.lanes * self.hertz / (instructions_per_vote * voxels)


H200 = Device("H200 at its boost clock of 1.98 GHz", 132, 1.98e9)


@lru_cache
def mannequin_joints(resolution: int = RESOLUTION) -> tuple[int, ...]:
    """Number of joints of each brick of the mannequin's field."""
    from chorus import CanonicalField, load_body
    from chorus.kernels.bricks import cut_into_bricks

    return tuple(np.diff(cut_into_bricks(CanonicalField(load_body(), resolution).arrays).joint_offset).tolist())


def loop_cost(loops: Sequence[Loop], parent: int, turns: int) -> int:
    """Instructions of so many turns of the source's loop inside loop ``parent``: unrolled code first, its remainder then.

    Loops of another source line are other loops and take as many turns.
    """
    cost = 0
    inner = [(i, loop) for i, loop in enumerate(loops) if loop.parent == parent]
    for line in dict.fromkeys(loop.line for _, loop in inner):
        left = turns
        for i, loop in sorted(((i, lp) for i, lp in inner if lp.line == line), key=lambda pair: -pair[1].unroll):
            here, left = divmod(left, loop.unroll)
            cost += here * (loop.own.total() + loop_cost(loops, i, turns))
    return cost


@dataclass(frozen=True)
class Mean:
    """Instructions per vote of one kernel, averaged over bricks, and what share of the bricks takes which variant."""

    kernel: str
    target: str
    per_vote: float
    parts: tuple[str, ...]

    def images_per_s(self, device: Device = H200, voxels: int = RESOLUTION**3) -> float:
        return device.images_per_s(self.per_vote, voxels)


def mean_per_vote(rows: Sequence[Row], joints: Sequence[int] | None = None) -> list[Mean]:
    """The vote kernels among the rows (variants for bricks that lie inside the image and may meet the mask), over bricks.

    joints  number of joints of each brick; the mannequin's at 48^3 if not given

    A tensor kernel takes the variant with the fewest packs of four joints that hold a brick's joints. A lattice kernel takes
    the ``one_joint`` variant for bricks of one joint, where there is one, else its fixed cost and that of a turn per joint.
    """
    if joints is None:
        joints = mannequin_joints()
    per_brick = np.array(joints)
    found: list[Mean] = []
    for target in dict.fromkeys(r.target for r in rows):
        plain = [r for r in rows if r.target == target and not r.error and r.votes and r.main >= 0]
        plain = [r for r in plain if not parse_name(r.name).flags & SPECIAL]
        costs: dict[str, NDArray[np.float64]] = {}
        for base, cost in (("vote_tensor", _tensor), ("vote_lattice", _lattice)):
            variants = [r for r in plain if parse_name(r.name).base == base]
            if variants:
                costs[base], parts = cost(variants, per_brick)
                found.append(Mean(base, target, float(costs[base].mean()), tuple(parts)))
        if len(costs) == 2:
            both = np.where(per_brick == 1, costs["vote_lattice"], costs["vote_tensor"])
            found.append(Mean("auto", target, float(both.mean()), ("one joint: vote_lattice; more: vote_tensor",)))
    return found


_Costs = tuple[NDArray[np.float64], list[str]]


def _tensor(rows: Sequence[Row], joints: NDArray[np.int64]) -> _Costs:
    # packs=0 is the variant that loops over a number of packs known only when it runs.
    fixed: dict[int, Row] = {}
    for row in rows:
        packs = parse_name(row.name).values.get("packs", 0)
        if packs not in fixed or row.instructions_per_vote < fixed[packs].instructions_per_vote:
            fixed[packs] = row
    looped = fixed.pop(0, None)

    def cost(packs: int) -> tuple[str, float]:
        holds = [size for size in sorted(fixed) if size >= packs]
        if holds:
            return f"packs={holds[0]}", fixed[holds[0]].instructions_per_vote
        if looped is None:
            raise ValueError(f"vote_tensor: a brick needs {packs} packs, the variants have {sorted(fixed)}")
        turn = loop_cost(looped.loops, looped.main, packs)
        return "any packs", looped.per_vote(looped.loops[looped.main].own.total() + turn)

    needed = -(-joints // JOINTS_PER_PACK)
    table = {packs: cost(packs) for packs in sorted(set(needed.tolist()))}
    costs = np.array([table[packs][1] for packs in needed.tolist()])
    return costs, [f"{p} packs: {(needed == p).sum()} bricks, {c:.1f} ({how})" for p, (how, c) in table.items()]


def _lattice(rows: Sequence[Row], joints: NDArray[np.int64]) -> _Costs:
    one = next((r for r in rows if "one_joint" in parse_name(r.name).flags), None)
    many = next((r for r in rows if "one_joint" not in parse_name(r.name).flags), one)
    assert many is not None

    def cost(count: int) -> float:
        if count == 1 and one is not None:
            return one.instructions_per_vote
        return many.per_vote(many.loops[many.main].own.total() + loop_cost(many.loops, many.main, count))

    table = {j: cost(j) for j in sorted(set(joints.tolist()))}
    parts = [f"1 joint: {(joints == 1).sum()} bricks, {table[1]:.1f}"] if 1 in table else []
    if max(table) > 1:
        more = joints[joints > 1]
        turns = (table[max(table)] - table[min(set(table) - {1})]) / max(1, max(table) - min(set(table) - {1}))
        parts.append(f"more: {len(more)} bricks, {more.mean():.1f} joints on average, {turns:.1f} more for each joint")
    return np.array([table[j] for j in joints.tolist()]), parts
