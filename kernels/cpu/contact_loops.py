"""The compiled loops of the CPU contacts: vectors of 16 images x the bricks that hold region voxels.

Of each vector of images, all bricks are first judged by where they fall in the images (``bounds``): off the mask or outside,
they touch nothing; wholly on it, they touch all their regions at once. Then the voxels of the rest are projected
(``projection``), as far as a brick still has regions that the image is not known to touch.
"""

from __future__ import annotations

import numpy as np

from chorus.kernels.bricks import VOXELS
from chorus.kernels.cpu.bounds import bound, lies_on_full_blocks, project_centre
from chorus.kernels.cpu.layout import BOX_U0, BOX_U1, BOX_V0, BOX_V1, FRAME_ROWS, borrowing, jit, scratch_for
from chorus.kernels.cpu.projection import mask_address, mask_blocks, outside, project_brick
from chorus.kernels.cpu.simd import (
    LANES,
    bits,
    gather,
    iand,
    ikeep_positive,
    iload,
    ior,
    ishr,
    isplat,
    istore,
    isub,
    izero,
    sign_bits,
    splat_at,
    trailing_zeros,
)

ALL_LANES = (1 << LANES) - 1
ALL_REGIONS = np.int32(-1)
KNOWN, OFF, ON, PROJECTED, LOOKUPS = range(5)
"""What ``touch`` counts: pairs of image and brick left out as known, off the mask, on it, projected; and voxels looked up."""


@borrowing
def _count(images):  # type: ignore[no-untyped-def]
    """Bits set in 0 .. 2^16 - 1."""
    count = 0
    while images:
        images &= images - 1
        count += 1
    return count


@borrowing
def _without_news(missing, regions):  # type: ignore[no-untyped-def]
    """Images (bits) of a vector in which none of ``regions`` is missing."""
    return bits(izero(iand(isplat(regions), iload(missing, 0))))


@borrowing
def _judge(vector, valid, images, bricks, held, scratch, missing, pending, stats):  # type: ignore[no-untyped-def]
    """The bricks of one vector of images (bits ``valid``) by the bound alone.

    Clears in ``missing`` (16,) the regions of bricks that lie on the mask, and leaves in ``pending`` (R,) the images (bits) for
    which a brick's voxels have to be projected.
    """
    for r in range(len(held.brick)):
        wanted = valid & ~_without_news(missing, held.any[r])
        pending[r] = 0
        stats[KNOWN] += _count(valid & ~wanted)
        if not wanted:
            continue
        project_centre(images, vector, bricks, held.brick[r], scratch.centres)
        hidden, _, off_mask, in_box = bound(
            images, vector, bricks, held.brick[r], scratch.centres, scratch.corners, scratch.rectangle
        )
        met = wanted & ~(hidden | off_mask)
        stats[OFF] += _count(wanted & ~met)
        inner = met & in_box
        while inner:
            lane = trailing_zeros(inner)
            inner &= inner - 1
            if lies_on_full_blocks(images.full, scratch.corners, lane):
                met &= ~(1 << lane)
                missing[lane] &= ~held.any[r]
                stats[ON] += 1
        pending[r] = met


@borrowing
def _touched(images, first, lane, held, r, scratch, missing, found):  # type: ignore[no-untyped-def]
    """Regions of brick r, of those ``missing``, that its 64 projected voxels touch in image first + lane.

    And the vectors of voxels for which the mask was read; ``found`` (16,) int32 is memory.
    """
    at, frame = first * FRAME_ROWS + lane, images.frame
    x0, y0 = splat_at(frame, at + BOX_U0), splat_at(frame, at + BOX_V0)
    x1, y1 = splat_at(frame, at + BOX_U1), splat_at(frame, at + BOX_V1)
    grid = mask_blocks(images.blocks, first, lane)
    start, none = images.start[first + lane], isplat(0)
    touched, looked_up = none, 0
    for s in range(0, VOXELS, LANES):
        if held.slice[(r * VOXELS + s) // LANES] & missing == 0:
            continue
        out = outside(scratch, s, x0, y0, x1, y1)
        if sign_bits(out) == ALL_LANES:
            continue
        word, bit = mask_address(scratch, s, out, x0, y0, grid)
        on_mask = iand(ishr(gather(images.words, start, word), bit), isplat(1))
        hit = isub(none, on_mask)  # all bits set, or none
        touched = ior(touched, iand(ikeep_positive(out, hit), iload(held.voxel, r * VOXELS + s)))
        looked_up += 1
    regions = np.int32(0)
    if bits(izero(touched)) != ALL_LANES:
        istore(found, 0, touched)
        for k in range(LANES):
            regions |= found[k]
    return regions, looked_up


@borrowing
def _touch_vector(vector, valid, images, bricks, held, cull, scratch, missing, pending, found, stats):  # type: ignore[no-untyped-def]
    """Clear in ``missing`` (16,) what one vector of images (bits ``valid``) touches."""
    first = vector * LANES
    if cull:
        _judge(vector, valid, images, bricks, held, scratch, missing, pending, stats)
    else:
        pending[:] = valid
    for r in range(len(held.brick)):
        left = pending[r]
        if cull:
            left &= ~_without_news(missing, held.any[r])
            stats[KNOWN] += _count(pending[r] & ~left)
        if not left:
            continue
        project_centre(images, vector, bricks, held.brick[r], scratch.centres)
        while left:
            lane = trailing_zeros(left)
            left &= left - 1
            project_brick(images, first, lane, bricks, held.brick[r], scratch)
            wanted = missing[lane] if cull else ALL_REGIONS
            regions, looked_up = _touched(images, first, lane, held, r, scratch, wanted, found)
            missing[lane] &= ~regions
            stats[PROJECTED] += 1
            stats[LOOKUPS] += looked_up * LANES


@jit
def touch(begin, end, images, bricks, held, cull, out, stats):  # type: ignore[no-untyped-def]
    """Regions touched by the images of vectors begin .. end - 1 (of 16 images each), into out (n,) int32.

    held   the ``RegionBricks``
    stats  (5,) int64 gains what KNOWN .. LOOKUPS count
    """
    scratch = scratch_for(images.num_joints)
    missing, found, pending = np.empty(LANES, np.int32), np.empty(LANES, np.int32), np.empty(len(held.brick), np.int64)
    everything = np.int32(0)
    for r in range(len(held.brick)):
        everything |= held.any[r]
    for vector in range(begin, end):
        first, count = vector * LANES, min(LANES, len(out) - vector * LANES)
        missing[:] = everything
        _touch_vector(vector, (1 << count) - 1, images, bricks, held, cull, scratch, missing, pending, found, stats)
        for lane in range(count):
            out[first + lane] = everything & ~missing[lane]
