"""The compiled loops of the CPU votes: bricks x images, with exact culling.

A run of bricks sees some images, then the next run does: matrices and masks stay in the cache. Of each brick and 16 images a
bound (``bounds``) decides most pairs; the voxels of the rest are projected one image at a time (``projection``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chorus.kernels.bricks import SIDE, VOXELS
from chorus.kernels.cpu.bounds import bound, lies_on_full_blocks, project_centre
from chorus.kernels.cpu.hidden import bound_hidden, find_hidden
from chorus.kernels.cpu.layout import (
    BOX_U0,
    BOX_U1,
    BOX_V0,
    BOX_V1,
    FIRST_BLOCK,
    FRAME_ROWS,
    LAST_U,
    LAST_V,
    LEAST,
    MATRIX,
    borrowing,
    inlined,
    jit,
    scratch_for,
)
from chorus.kernels.cpu.projection import f4, mask_address, mask_blocks, outside, project_brick, project_rigid_brick
from chorus.kernels.cpu.simd import (
    LANES,
    add_four,
    count_bits,
    gather,
    iadd,
    iand,
    ikeep,
    ikeep_positive,
    iload,
    imul,
    ishr,
    isplat,
    istore,
    isum,
    lanes_of,
    load,
    prefetch,
    sign_bits,
    splat,
    splat_at,
    store,
    trailing_zeros,
)

ALL_LANES = (1 << LANES) - 1


class Ballot(NamedTuple):
    """What the images count as, and where.

    group         (n,) int64  sorted
    image_weight  (I,) int32  0 for what pads n to whole vectors of 16
    num, den      (G * V,) int32  the counts, added to
    """

    group: NDArray[np.int64]
    image_weight: NDArray[np.int32]
    num: NDArray[np.int32]
    den: NDArray[np.int32]


class BrickCounts(NamedTuple):
    """Counts of one brick's voxels for one group until they are added to the outputs, and memory for reading a mask.

    num, den  (64,) int32
    num_hidden, den_hidden  (64,) int32
    visible   (64,) float32  negative where a voxel is not hidden
    out       (64,) float32  negative where a voxel is not in the mask's box
    word, bit (64,) int32    where the mask has a voxel's pixel
    queue     (5,) int64     first voxels of the vectors that the mask is read for
    """

    num: NDArray[np.int32]
    den: NDArray[np.int32]
    num_hidden: NDArray[np.int32]
    den_hidden: NDArray[np.int32]
    visible: NDArray[np.float32]
    out: NDArray[np.float32]
    word: NDArray[np.int32]
    bit: NDArray[np.int32]
    queue: NDArray[np.int64]


@jit
def _empty_counts():  # type: ignore[no-untyped-def]
    num, den = np.zeros(VOXELS, np.int32), np.zeros(VOXELS, np.int32)
    num_hidden, den_hidden = np.zeros(VOXELS, np.int32), np.zeros(VOXELS, np.int32)
    visible, out = np.empty(VOXELS, np.float32), np.empty(VOXELS, np.float32)
    word, bit, queue = np.empty(VOXELS, np.int32), np.empty(VOXELS, np.int32), np.empty(VOXELS // LANES + 1, np.int64)
    return BrickCounts(num, den, num_hidden, den_hidden, visible, out, word, bit, queue)


@borrowing
def _add(num, den, num_all, den_all, bricks, b, group, num_out, den_out):  # type: ignore[no-untyped-def]
    """Add a brick's counts (64,), and what all its voxels have, to the outputs of a group, and clear them."""
    nx, ny, nz = bricks.shape
    x0, y0, z0 = np.int64(bricks.first[b, 0]), np.int64(bricks.first[b, 1]), np.int64(bricks.first[b, 2])
    before, whole = np.int64(group) * (nx * ny * nz), z0 + SIDE <= nz
    for x in range(min(SIDE, nx - x0)):
        for y in range(min(SIDE, ny - y0)):
            at, lane = before + ((x0 + x) * ny + y0 + y) * nz + z0, (x * SIDE + y) * SIDE
            if whole:
                add_four(num_out, at, num, lane, num_all)
                add_four(den_out, at, den, lane, den_all)
            else:
                for z in range(nz - z0):
                    num_out[at + z] += num[lane + z] + num_all
                    den_out[at + z] += den[lane + z] + den_all
    for lane in range(0, VOXELS, LANES):
        istore(num, lane, isplat(0))
        istore(den, lane, isplat(0))


@borrowing
def _flush(counts, num_all, den_all, bricks, b, group, ballot, body):  # type: ignore[no-untyped-def]
    """Add a brick's counts, and what all its voxels have, to the outputs of a group."""
    _add(counts.num, counts.den, num_all, den_all, bricks, b, group, ballot.num, ballot.den)
    if body is not None:
        none = np.int32(0)
        _add(counts.num_hidden, counts.den_hidden, none, none, bricks, b, group, body.num, body.den)


@inlined
def _prefetch(images, first, wanted, corners, joint):  # type: ignore[no-untyped-def]
    """Ask for what the images ``wanted`` (bits) of a vector will read first: masks at the brick, and the matrix of a joint."""
    while wanted:
        lane = trailing_zeros(wanted)
        wanted &= wanted - 1
        prefetch(images.words, images.start[first + lane] + 8 * np.int64(corners[FIRST_BLOCK + lane]))
        prefetch(images.matrix, (np.int64(first + lane) * images.num_joints + joint) * MATRIX)


@inlined
def _count_inside(images, first, lane, image_weight, scratch, den):  # type: ignore[no-untyped-def]
    """den gains the image's weight where a voxel is inside image first + lane."""
    at = first * FRAME_ROWS + lane
    zero, width, height = splat(f4(0.0)), splat_at(images.frame, at + LAST_U), splat_at(images.frame, at + LAST_V)
    for s in range(0, VOXELS, LANES):
        out = outside(scratch, s, zero, zero, width, height)
        istore(den, s, iadd(iload(den, s), ikeep_positive(out, isplat(image_weight))))


@inlined
def _count_on_mask(images, first, lane, image_weight, scratch, counts, hidden):  # type: ignore[no-untyped-def]
    """num gains the image's weight where a voxel is on the mask of image first + lane, num_hidden where ``hidden`` asks for it.

    Returns the number of vectors of voxels for which the mask was read.
    In three steps, so that the long chains of the four vectors overlap: pixels, addresses, mask bits.
    """
    at, frame = first * FRAME_ROWS + lane, images.frame
    x0, y0 = splat_at(frame, at + BOX_U0), splat_at(frame, at + BOX_V0)
    x1, y1 = splat_at(frame, at + BOX_U1), splat_at(frame, at + BOX_V1)
    grid = mask_blocks(images.blocks, first, lane)
    start = images.start[first + lane]
    chosen = 0
    for s in range(0, VOXELS, LANES):
        out = outside(scratch, s, x0, y0, x1, y1)
        store(counts.out, s, out)
        # Kept where the next vector overwrites it, unless some voxel is in the box: no branch to mispredict.
        counts.queue[chosen] = s
        chosen += sign_bits(out) != ALL_LANES
    for k in range(chosen):
        s = counts.queue[k]
        word, bit = mask_address(scratch, s, load(counts.out, s), x0, y0, grid)
        istore(counts.word, s, word)
        istore(counts.bit, s, bit)
    for k in range(chosen):
        s = counts.queue[k]
        word = gather(images.words, start, iload(counts.word, s))
        hits = imul(iand(ishr(word, iload(counts.bit, s)), isplat(1)), isplat(image_weight))
        hits = ikeep_positive(load(counts.out, s), hits)
        istore(counts.num, s, iadd(iload(counts.num, s), hits))
        if hidden:
            hits = ikeep_positive(load(counts.visible, s), hits)
            istore(counts.num_hidden, s, iadd(iload(counts.num_hidden, s), hits))
    return chosen


@inlined
def _add_hidden(image_weight, visible, hidden):  # type: ignore[no-untyped-def]
    """hidden (64,) gains the image's weight where a voxel is hidden."""
    for s in range(0, VOXELS, LANES):
        istore(hidden, s, iadd(iload(hidden, s), ikeep_positive(load(visible, s), isplat(image_weight))))


@inlined
def _on_full_blocks(full, corners, images):  # type: ignore[no-untyped-def]
    """In which of the ``images`` (bits) of a vector the rectangle of blocks has full blocks alone, as bits."""
    found = np.int32(0)
    while images:
        lane = trailing_zeros(images)
        images &= images - 1
        found |= np.int32(lies_on_full_blocks(full, corners, lane)) << lane
    return found


@inlined
def _first_group(group, first, images, last):  # type: ignore[no-untyped-def]
    """The group of the first of the ``images`` (bits) of a vector, and those of them that have it, as bits.

    Images are sorted by group, ``last`` is the vector's last one: nearly always all are of one group.
    """
    found = group[first + trailing_zeros(images)]
    if group[last] == found:
        return found, images
    same = np.int32(0)
    for lane in range(last + 1 - first):
        same |= np.int32(group[first + lane] == found) << np.int32(lane)
    return found, same & images


@inlined
def _vote_brick(b, begin, end, images, bricks, ballot, body, cull, scratch, counts, stats):  # type: ignore[no-untyped-def]
    """Votes of brick b for images begin .. end - 1, begin a multiple of 16. ``body`` hides some, or is None.

    What a bound settles is counted 16 images at a time, without a branch for each: only the others are looked at one by one.
    """
    current = ballot.group[begin]
    num_all, den_all = isplat(0), isplat(0)  # of all the brick's voxels, in 16 parts
    settled_pairs, unseen_pairs, looked_up = 0, 0, 0
    rigid = bricks.joint_offset[b + 1] - bricks.joint_offset[b] == 1
    for first in range(begin, end, LANES):
        last = min(first + LANES, end) - 1
        everyone = np.int32((2 << (last - first)) - 1)
        project_centre(images, first // LANES, bricks, b, scratch.centres)
        unseen = inside = off_mask = on_mask = unhidden = np.int32(0)
        if cull:
            unseen, inside, off_mask, in_box = bound(
                images, first // LANES, bricks, b, scratch.centres, scratch.corners, scratch.rectangle
            )
            unseen, inside = unseen & everyone, inside & everyone & ~unseen
            on_mask = _on_full_blocks(images.full, scratch.corners, inside & in_box & ~off_mask)
        settled = inside & (off_mask | on_mask)
        if body is not None:
            if cull:
                unhidden = bound_hidden(body, images, first // LANES, scratch.rectangle, unseen)
            settled &= unhidden
        unsettled = everyone & ~(unseen | settled)
        _prefetch(images, first, unsettled, scratch.corners, bricks.joint[bricks.joint_offset[b]])
        unseen_pairs += count_bits(unseen)
        settled_pairs += count_bits(settled)
        weights = iload(ballot.image_weight, first)
        remaining = everyone
        while remaining:
            group, these = _first_group(ballot.group, first, remaining, last)
            remaining &= ~these
            if group != current:
                _flush(counts, isum(num_all), isum(den_all), bricks, b, current, ballot, body)
                current = group
                num_all, den_all = isplat(0), isplat(0)
            num_all = iadd(num_all, ikeep(lanes_of(on_mask & these), weights))
            den_all = iadd(den_all, ikeep(lanes_of(inside & these), weights))
            these &= unsettled
            while these:
                lane = trailing_zeros(these)
                these &= these - 1
                hides = body is not None and not unhidden >> lane & 1
                if rigid:
                    project_rigid_brick(images, first, lane, bricks, b, scratch)
                else:
                    project_brick(images, first, lane, bricks, b, scratch)
                image_weight = ballot.image_weight[first + lane]
                if body is not None and hides:
                    least = scratch.rectangle[LEAST + lane] if cull else f4(0.0)
                    find_hidden(body, first, lane, scratch, counts, least, image_weight)
                    if on_mask >> lane & 1:
                        _add_hidden(image_weight, counts.visible, counts.num_hidden)
                if not inside >> lane & 1:
                    _count_inside(images, first, lane, image_weight, scratch, counts.den)
                if not (off_mask | on_mask) >> lane & 1:
                    looked_up += _count_on_mask(images, first, lane, image_weight, scratch, counts, hides)
    _flush(counts, isum(num_all), isum(den_all), bricks, b, current, ballot, body)
    stats[0] += end - begin
    stats[1] += settled_pairs + unseen_pairs
    stats[2] += unseen_pairs
    stats[3] += looked_up * LANES


@jit
def vote(begin, end, images, bricks, ballot, body, sweep, cull, stats):  # type: ignore[no-untyped-def]
    """Votes of bricks begin .. end - 1 for all images, ``sweep`` (a multiple of 16) at a time, added to the ballot's counts.

    ``body`` is a ``hidden.HidingBody``, whose counts gain the hidden votes; or None.
    stats (4,) int64 gains brick-image pairs: all, decided without projecting voxels, outside the image; and voxels looked up.
    """
    count = len(images.start)
    scratch, counts = scratch_for(images.num_joints), _empty_counts()
    for first in range(0, count, sweep):
        for b in range(begin, end):
            _vote_brick(b, first, min(count, first + sweep), images, bricks, ballot, body, cull, scratch, counts, stats)
