"""Contacts on the CPU: the votes' bricks and bounds, over the bricks that hold region voxels only.

Threads own images, and the 16 images of a vector share no result, so the bits are the same however the work is split.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.bricks import bricks_of, region_bricks
from chorus.kernels.contacts import check_contacts
from chorus.kernels.cpu.contact_loops import KNOWN, LOOKUPS, OFF, ON, PROJECTED, touch
from chorus.kernels.cpu.layout import PreparedImages, brick_arrays
from chorus.kernels.cpu.prepare import prepare
from chorus.kernels.cpu.simd import LANES
from chorus.kernels.stats import ContactStats
from chorus.kernels.threads import default_threads, run_pieces, split

IMAGES_PER_PASS = 2048
"""Images prepared at a time: bounds the working memory (about 12 KB an image)."""
VECTORS_PER_TASK = 8


def touched_regions(
    field: VoxelField,
    regions: Tensor,
    images: VoteImages,
    *,
    threads: int | None = None,
    cull: bool = True,
    stats: ContactStats | None = None,
) -> Tensor:
    """The regions that each image's mask touches: regions (V,) int32 bit sets -> (I,) int32 bit sets, on the CPU.

    The contract is that of ``chorus.kernels.contacts``. ValueError where the arguments do not fit together.

    threads  None for every processor this process may run on
    cull     False projects every brick that holds region voxels into every image; the bits are the same
    stats    filled with what was done for the bits
    """
    check_contacts(field, regions, images)
    threads = threads or default_threads()
    held = region_bricks(field, regions, bricks_of(field))
    bricks = brick_arrays(field)
    out = np.zeros(len(images), np.int32)
    totals = np.zeros(5, np.int64)
    for begin, end in split(len(images), IMAGES_PER_PASS):
        ready = prepare(field, images, np.arange(begin, end), threads)
        pieces = split(-(-(end - begin) // LANES), VECTORS_PER_TASK)
        counted = np.zeros((len(pieces), len(totals)), np.int64)

        def work(
            first: int,
            last: int,
            ready: PreparedImages = ready,
            found: NDArray[np.int32] = out[begin:end],
            counted: NDArray[np.int64] = counted,
        ) -> None:
            touch(first, last, ready, bricks, held, cull, found, counted[first // VECTORS_PER_TASK])

        run_pieces(threads, work, pieces)
        totals += counted.sum(0)
    if stats is not None:
        stats.pairs = len(images) * len(held.brick)
        stats.known, stats.off, stats.on = int(totals[KNOWN]), int(totals[OFF]), int(totals[ON])
        stats.projected, stats.lookups = int(totals[PROJECTED]), int(totals[LOOKUPS])
    return torch.from_numpy(out)
