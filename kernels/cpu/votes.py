"""Votes on the CPU: numba with 16-lane vectors, sparse joints in bricks, masks read as stored, exact culling.

``prepare`` folds K [R | t] B_j into one 3 x 4 matrix per image and joint; ``vote_loops`` walks bricks x images; here they are
split over threads. Each thread owns its bricks, so the counts are the same bits however the work is split.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField, check_call, empty_counts
from chorus.kernels.bricks import TILE
from chorus.kernels.cpu.hidden import HidingBody, hiding_body
from chorus.kernels.cpu.layout import PreparedImages, brick_arrays
from chorus.kernels.cpu.prepare import prepare
from chorus.kernels.cpu.simd import LANES
from chorus.kernels.cpu.vote_loops import Ballot, vote
from chorus.kernels.depth import BodyDepth
from chorus.kernels.stats import CullingStats
from chorus.kernels.threads import default_threads, run_pieces, split

IMAGES_PER_PASS = 2048
"""Images prepared at a time: bounds the working memory (about 12 KB an image)."""
IMAGES_PER_SWEEP = 64
"""Images that a run of bricks sees before the next run: their matrices stay in the second-level cache. A multiple of 16."""
BRICKS_PER_TASK = TILE**3
"""Bricks that a thread takes at a time, for IMAGES_PER_SWEEP images or more; of fewer images it takes more bricks, up to its
share: to begin a task takes as long as a brick in some seventy images."""


def count_votes(
    field: VoxelField,
    images: VoteImages,
    group: Tensor,
    weight: Tensor | None = None,
    *,
    depth: BodyDepth | None = None,
    num_groups: int,
    out: tuple[Tensor, ...] | None = None,
    threads: int | None = None,
    cull: bool = True,
    stats: CullingStats | None = None,
) -> tuple[Tensor, ...]:
    """Votes by group: (num, den), int32 (G, V), and with ``depth`` which of them the body hides: (num_hidden, den_hidden) too.

    Arguments as in ``chorus.kernels.arrays``, on the CPU.

    threads  None for every processor this process may run on
    cull     False projects every voxel into every image; the counts are the same bits
    stats    filled with what the culling did
    """
    check_call(field, images, group, weight, num_groups, out, depth)
    threads = threads or default_threads()
    bricks = brick_arrays(field)
    out = out or empty_counts(field, num_groups, "cpu", hidden=depth is not None)
    # The loops add to counts that lie side by side; for others there is a place of their own.
    places = [counts.numpy() if counts.is_contiguous() else np.zeros(counts.shape, np.int32) for counts in out]
    num, den, *hidden = (place.reshape(-1) for place in places)
    groups = np.asarray(group).astype(np.int64)
    image_weight = np.ones(len(images), np.int32) if weight is None else np.asarray(weight).astype(np.int32)
    # Sorting by group lets a brick keep one group's 64 counts in registers' reach and add them up once.
    order = np.argsort(groups, kind="stable")
    count = len(bricks.first)
    fewer = min(IMAGES_PER_SWEEP // max(1, len(images)), -(-count // (BRICKS_PER_TASK * threads)))
    step = BRICKS_PER_TASK * max(1, fewer)
    pieces = split(count, step)
    totals = np.zeros((len(pieces), 4), np.int64)
    for begin, end in split(len(images), IMAGES_PER_PASS):
        rows = order[begin:end]
        ready = prepare(field, images, rows, threads)
        ballot = Ballot(groups[rows], np.pad(image_weight[rows], (0, -len(rows) % LANES)), num, den)
        body = None if depth is None else hiding_body(depth.to("cpu"), images, rows, tuple(hidden), threads)

        def work(
            first: int, last: int, ready: PreparedImages = ready, ballot: Ballot = ballot, body: HidingBody | None = body
        ) -> None:
            vote(first, last, ready, bricks, ballot, body, IMAGES_PER_SWEEP, cull, totals[first // step])

        run_pieces(threads, work, pieces)
    for counts, place in zip(out, places, strict=True):
        if not counts.is_contiguous():
            counts += torch.from_numpy(place)
    if stats is not None:
        stats.pairs, stats.decided, stats.outside, stats.lookups = (int(x) for x in totals.sum(0))
    return out
