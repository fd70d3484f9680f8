"""Contacts on the CPU: the votes' bricks and bounds, over the bricks that hold region voxels only.

Of each vector of 16 images, all bricks are first judged by where they fall in the images: off the mask or outside, they touch
nothing; wholly on it, they touch all their regions at once. Then the voxels of the rest are projected, as far as a brick still
has regions that the image is not known to touch. Threads own images, and a vector's 16 share no result, so the bits are the
same however the work is split.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.bricks import SIDE, VOXELS, bricks_of, region_bricks
from chorus.kernels.contacts import check_contacts
from chorus.kernels.cpu.prepare import BLOCK_ROWS, VIEW_ROWS, Prepared, prepare
from chorus.kernels.cpu.simd import (
    LANES,
    bits,
    gather,
    iadd,
    iand,
    ikeep_positive,
    iload,
    imul,
    ior,
    ishl,
    ishr,
    isplat,
    istore,
    isub,
    izero,
    load,
    sign_bits,
    splat_at,
    trailing_zeros,
    truncate,
    where_positive,
)
from chorus.kernels.cpu.vote_loops import ALL_LANES, _bound, _centres, _outside, _project, _warp_row, f4
from chorus.kernels.stats import ContactStats
from chorus.kernels.threads import default_threads, run_pieces, split

IMAGES_PER_PASS = 2048
"""Images prepared at a time: bounds the working memory (about 12 KB an image)."""
VECTORS_PER_TASK = 4

_jit = nb.njit(nogil=True, cache=True, error_model="numpy")


@_jit
def _count(images):  # type: ignore[no-untyped-def]
    """Bits set in 0 .. 2^16 - 1."""
    count = 0
    while images:
        images &= images - 1
        count += 1
    return count


@_jit
def _without_news(missing, regions):  # type: ignore[no-untyped-def]
    """Images (bits) of a vector in which none of ``regions`` is missing."""
    return bits(izero(iand(isplat(regions), iload(missing, 0))))


@_jit
def _judge(  # type: ignore[no-untyped-def]
    vector,
    valid,
    lanes,
    view,
    blocks,
    some,
    full,
    J,
    brick,
    any_region,
    centre,
    joint_offset,
    joint,
    mean,
    spread,
    variation,
    half,
    centres,
    corners,
    missing,
    pending,
    stats,
):
    """The bricks of one vector of images (bits ``valid``) by the bound alone.

    Clears in ``missing`` (16,) the regions of bricks that lie on the mask, and leaves in ``pending`` (R,) the images (bits) for
    which a brick's voxels have to be projected.
    """
    for r in range(len(brick)):
        b = brick[r]
        wanted = valid & ~_without_news(missing, any_region[r])
        pending[r] = 0
        stats[0] += _count(valid & ~wanted)
        if not wanted:
            continue
        e0, e1 = joint_offset[b], joint_offset[b + 1]
        _centres(lanes, vector, J, joint, e0, e1, centre[b, 0], centre[b, 1], centre[b, 2], centres)
        outside, _, off_mask, in_box = _bound(
            lanes, view, blocks, some, vector, J, joint, e0, e1, mean, spread, variation[b], half, centres, corners
        )
        met = wanted & ~(outside | off_mask)
        stats[1] += _count(wanted & ~met)
        inner = met & in_box
        while inner:
            lane = trailing_zeros(inner)
            inner &= inner - 1
            filled = full[corners[3 * LANES + lane]] - full[corners[2 * LANES + lane]]
            filled += full[corners[lane]] - full[corners[LANES + lane]]
            if filled == corners[4 * LANES + lane]:
                met &= ~(1 << lane)
                missing[lane] &= ~any_region[r]
                stats[2] += 1
        pending[r] = met


@_jit
def _touch(  # type: ignore[no-untyped-def]
    U, V, Z, view, blocks, lane_of_view, lane_of_blocks, words, start, missing, voxel, slice_region, r, found
):
    """Regions of brick r, of those ``missing``, that its 64 projected voxels touch in one image; and vectors looked up."""
    x0, y0 = splat_at(view, lane_of_view + 4 * LANES), splat_at(view, lane_of_view + 5 * LANES)
    x1, y1 = splat_at(view, lane_of_view + 6 * LANES), splat_at(view, lane_of_view + 7 * LANES)
    block_x, block_y = isplat(blocks[lane_of_blocks]), isplat(blocks[lane_of_blocks + LANES])
    across = isplat(blocks[lane_of_blocks + 2 * LANES])
    none, one, three, four, five = isplat(0), isplat(1), isplat(3), isplat(4), isplat(5)
    fifteen, thirty_one = isplat(15), isplat(31)
    touched, looked_up = none, 0
    for s in range(VOXELS // LANES):
        if slice_region[r * (VOXELS // LANES) + s] & missing == 0:
            continue
        out = _outside(U, V, Z, s * LANES, x0, y0, x1, y1)
        if sign_bits(out) == ALL_LANES:
            continue
        column = truncate(where_positive(out, load(U, s * LANES), x0))
        line = truncate(where_positive(out, load(V, s * LANES), y0))
        block = iadd(imul(isub(ishr(line, four), block_y), across), isub(ishr(column, four), block_x))
        pixel = ior(ishl(iand(line, fifteen), four), iand(column, fifteen))
        word = gather(words, start, ior(ishl(block, three), ishr(pixel, five)))
        hit = isub(none, iand(ishr(word, iand(pixel, thirty_one)), one))  # all bits set, or none
        touched = ior(touched, iand(ikeep_positive(out, hit), iload(voxel, r * VOXELS + s * LANES)))
        looked_up += 1
    regions = np.int32(0)
    if bits(izero(touched)) != ALL_LANES:
        istore(found, 0, touched)
        for lane in range(LANES):
            regions |= found[lane]
    return regions, looked_up


@_jit
def touch(  # type: ignore[no-untyped-def]
    begin,
    end,
    count,
    cull,
    matrix,
    lanes,
    view,
    blocks,
    start,
    some,
    full,
    words,
    brick,
    any_region,
    slice_region,
    voxel,
    centre,
    joint_offset,
    joint,
    mean,
    spread,
    variation,
    weight,
    spacing,
    lattice_y,
    lattice_z,
    out,
    stats,
):
    """Regions touched by the images of vectors begin .. end - 1 (of 16 images each; ``count`` images in all), into out (I,).

    stats (5,) int64 gains pairs of image and brick: known, off, on, projected; and voxels looked up.
    """
    J = len(matrix) // (12 * LANES) // (len(view) // (VIEW_ROWS * LANES))
    centres, corners = np.empty(3 * LANES * J, np.float32), np.zeros(6 * LANES, np.int32)
    U, V, Z = np.empty(VOXELS, np.float32), np.empty(VOXELS, np.float32), np.empty(VOXELS, np.float32)
    missing, found, pending = np.empty(LANES, np.int32), np.empty(LANES, np.int32), np.empty(len(brick), np.int64)
    dy, dz = load(lattice_y, 0), load(lattice_z, 0)
    half = f4(1.5) * spacing
    everything = np.int32(0)
    for r in range(len(brick)):
        everything |= any_region[r]
    for vector in range(begin, end):
        first = vector * LANES
        valid = (1 << min(LANES, count - first)) - 1
        missing[:] = everything
        if cull:
            _judge(
                vector,
                valid,
                lanes,
                view,
                blocks,
                some,
                full,
                J,
                brick,
                any_region,
                centre,
                joint_offset,
                joint,
                mean,
                spread,
                variation,
                half,
                centres,
                corners,
                missing,
                pending,
                stats,
            )
        else:
            pending[:] = valid
        for r in range(len(brick)):
            left = pending[r]
            if cull:
                left &= ~_without_news(missing, any_region[r])
                stats[0] += _count(pending[r] & ~left)
            if not left:
                continue
            b = brick[r]
            e0, e1 = joint_offset[b], joint_offset[b + 1]
            _centres(lanes, vector, J, joint, e0, e1, centre[b, 0], centre[b, 1], centre[b, 2], centres)
            while left:
                lane = trailing_zeros(left)
                left &= left - 1
                i = first + lane
                row = i * J * 12
                _warp_row(matrix, row, joint, e0, e1, weight, centres, lane, dy, dz, spacing, U)
                _warp_row(matrix, row + 4, joint, e0, e1, weight, centres, lane + LANES, dy, dz, spacing, V)
                _warp_row(matrix, row + 8, joint, e0, e1, weight, centres, lane + 2 * LANES, dy, dz, spacing, Z)
                at = first * VIEW_ROWS + lane
                _project(U, V, Z, splat_at(view, at), splat_at(view, at + LANES))
                wanted = missing[lane] if cull else everything
                regions, looked_up = _touch(
                    U, V, Z, view, blocks, at, first * BLOCK_ROWS + lane, words, start[i], wanted, voxel, slice_region, r, found
                )
                missing[lane] &= ~regions
                stats[3] += 1
                stats[4] += looked_up * LANES
        for lane in range(min(LANES, count - first)):
            out[first + lane] = everything & ~missing[lane]


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
    cut = bricks_of(field)
    held = region_bricks(field, regions, cut)
    out = np.zeros(len(images), np.int32)
    lane = np.arange(LANES)
    lattice_y = (((lane // SIDE) - 1.5) * field.spacing).astype(np.float32)
    lattice_z = (((lane % SIDE) - 1.5) * field.spacing).astype(np.float32)
    words = np.asarray(images.words)
    totals = []
    for begin, end in split(len(images), IMAGES_PER_PASS):
        ready = prepare(field, images, np.arange(begin, end), lambda work, count: run_pieces(threads, work, split(count, 64)))
        pieces = split(-(-(end - begin) // LANES), VECTORS_PER_TASK)
        counted = np.zeros((len(pieces), 5), np.int64)
        totals.append(counted)

        def work(
            first: int,
            last: int,
            ready: Prepared = ready,
            counted: NDArray[np.int64] = counted,
            found: NDArray[np.int32] = out[begin:end],
        ) -> None:
            touch(
                first,
                last,
                len(found),
                cull,
                ready.matrix,
                ready.lanes,
                ready.view,
                ready.blocks,
                ready.start,
                ready.some,
                ready.full,
                words,
                held.brick,
                held.any,
                held.slice,
                held.voxel,
                cut.centre,
                cut.joint_offset,
                cut.joint,
                cut.mean,
                cut.spread,
                cut.variation,
                cut.weight,
                np.float32(field.spacing),
                lattice_y,
                lattice_z,
                found,
                counted[first // VECTORS_PER_TASK],
            )

        run_pieces(threads, work, pieces)
    if stats is not None:
        known, off, on, projected, lookups = (int(n) for n in sum((c.sum(0) for c in totals), np.zeros(5, np.int64)))
        stats.pairs, stats.known, stats.off, stats.on = len(images) * len(held.brick), known, off, on
        stats.projected, stats.lookups = projected, lookups
    return torch.from_numpy(out)
