"""Votes on the CPU: numba with 16-lane vectors, sparse joints in bricks, masks read as stored, exact culling.

``cpu_prepare`` folds K [R | t] B_j into one 3 x 4 matrix per image and joint; ``cpu_vote`` walks bricks x images; here they are
split over threads. Each thread owns its bricks, so the counts are the same bits however the work is split.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField, check_call, empty_counts
from chorus.kernels.bricks import SIDE, TILE, Bricks, cut_into_bricks
from chorus.kernels.cpu.prepare import Prepared, prepare
from chorus.kernels.cpu.simd import LANES
from chorus.kernels.cpu.vote_loops import vote

IMAGES_PER_PASS = 2048
"""Images prepared at a time: bounds the working memory (about 12 KB an image)."""
IMAGES_PER_SWEEP = 64
"""Images that a run of bricks sees before the next run: their matrices stay in the second-level cache."""
BRICKS_PER_TASK = TILE**3


@dataclass
class CullingStats:
    """What ``count_votes`` did with its brick-image pairs."""

    pairs: int = 0
    decided: int = 0
    """without projecting a voxel: all inside or outside the image and all off or on the mask"""
    outside: int = 0
    """of those, outside the image or behind the camera"""
    lookups: int = 0
    """voxels whose mask bit was read"""


_bricks_of: WeakKeyDictionary[VoxelField, Bricks] = WeakKeyDictionary()


def bricks(field: VoxelField) -> Bricks:
    """The bricks of a field, cut once and kept as long as the field lives."""
    found = _bricks_of.get(field)
    if found is None:
        found = _bricks_of[field] = cut_into_bricks(field)
    return found


def default_threads() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="chorus-votes")


def _run(threads: int, work: Any, pieces: list[tuple[int, int]]) -> None:
    if threads == 1:
        for piece in pieces:
            work(*piece)
    else:
        list(_pool(threads).map(lambda piece: work(*piece), pieces))


def _split(total: int, step: int) -> list[tuple[int, int]]:
    return [(first, min(total, first + step)) for first in range(0, total, step)]


def count_votes(
    field: VoxelField,
    images: VoteImages,
    group: Tensor,
    weight: Tensor | None = None,
    *,
    num_groups: int,
    out: tuple[Tensor, Tensor] | None = None,
    threads: int | None = None,
    cull: bool = True,
    stats: CullingStats | None = None,
) -> tuple[Tensor, Tensor]:
    """Votes by group: (num, den), int32 (G, V). Arguments as in ``chorus.kernels.arrays``, on the CPU.

    threads  None for every processor this process may run on
    cull     False projects every voxel into every image; the counts are the same bits
    stats    filled with what the culling did
    """
    check_call(field, images, group, weight, num_groups, out)
    threads = threads or default_threads()
    cut = bricks(field)
    out = out or empty_counts(field, num_groups, "cpu")
    num, den = out[0].numpy(), out[1].numpy()
    groups = np.asarray(group).astype(np.int64)
    times = np.ones(len(images), np.int32) if weight is None else np.asarray(weight).astype(np.int32)
    # Sorting by group lets a brick keep one group's 64 counts in registers' reach and add them up once.
    order = np.argsort(groups, kind="stable")
    lane = np.arange(LANES)
    lattice_y = (((lane // SIDE) - 1.5) * field.spacing).astype(np.float32)
    lattice_z = (((lane % SIDE) - 1.5) * field.spacing).astype(np.float32)
    pieces = _split(len(cut), BRICKS_PER_TASK)
    totals = np.zeros((len(pieces), 4), np.int64)
    words = np.asarray(images.words)
    for begin, end in _split(len(images), IMAGES_PER_PASS):
        rows = order[begin:end]
        ready = prepare(field, images, rows, lambda work, count: _run(threads, work, _split(count, 64)))
        row_groups, row_times = groups[rows], times[rows]

        def work(first: int, last: int, ready: Prepared = ready, g: Any = row_groups, w: Any = row_times) -> None:
            vote(
                first,
                last,
                len(g),
                IMAGES_PER_SWEEP,
                cull,
                ready.matrix,
                ready.lanes,
                ready.view,
                ready.blocks,
                ready.start,
                ready.some,
                ready.full,
                words,
                g,
                w,
                cut.first,
                cut.centre,
                cut.joint_offset,
                cut.joint,
                cut.mean,
                cut.spread,
                cut.variation,
                cut.weight,
                np.float32(field.spacing),
                field.shape,
                lattice_y,
                lattice_z,
                num,
                den,
                totals[first // BRICKS_PER_TASK],
            )

        _run(threads, work, pieces)
    if stats is not None:
        pairs, decided, outside, lookups = (int(x) for x in totals.sum(0))
        stats.pairs, stats.decided, stats.outside, stats.lookups = pairs, decided, outside, lookups
    return out
