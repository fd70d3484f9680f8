"""The 64 voxels of a brick in one image: blended, projected, and their bits of the mask found; 16 voxels at a time."""

from __future__ import annotations

import numpy as np

from chorus.kernels.bricks import VOXELS
from chorus.kernels.cpu.layout import (
    ACROSS,
    BLOCKS_ROWS,
    CX,
    CY,
    FIRST_COLUMN,
    FIRST_ROW,
    FRAME_ROWS,
    MATRIX,
    borrowing,
    inlined,
)
from chorus.kernels.cpu.simd import (
    LANES,
    add,
    div,
    fma,
    iadd,
    iand,
    imul,
    ior,
    ishl,
    ishr,
    isplat,
    isub,
    load,
    mul,
    sign_or,
    splat,
    splat_at,
    store,
    sub,
    truncate,
    where_positive,
)

f4 = np.float32
TINY = f4(1.2e-38)
"""z > 0 is z - TINY >= 0 for every normal float32."""


@inlined
def _affine_row(matrix, m, steps, centre):  # type: ignore[no-untyped-def]
    """A homogeneous row of a brick's 64 voxels under one matrix: at x = 0 of its lattice, and half and one and a half steps."""
    dy, dz, one_half, three_halves = steps
    base = fma(splat_at(matrix, m + 1), dy, fma(splat_at(matrix, m + 2), dz, centre))
    return base, mul(splat_at(matrix, m), one_half), mul(splat_at(matrix, m), three_halves)


@inlined
def _store_pixels(scratch, at, U, V, Z, cx, cy):  # type: ignore[no-untyped-def]
    """Pixels and depths of 16 voxels from their homogeneous pixels, at ``at`` of ``scratch``."""
    inverse = div(splat(f4(1.0)), Z)
    store(scratch.u, at, fma(U, inverse, cx))
    store(scratch.v, at, fma(V, inverse, cy))
    store(scratch.z, at, Z)


@borrowing
def project_rigid_brick(images, first, lane, bricks, b, scratch):  # type: ignore[no-untyped-def]
    """``project_brick`` for a brick of one joint, the same bits: one matrix an image, nothing to blend."""
    matrix, centres, at = images.matrix, scratch.centres, first * FRAME_ROWS + lane
    m = ((first + lane) * images.num_joints + np.int64(bricks.joint[bricks.joint_offset[b]])) * MATRIX
    steps = load(bricks.y, 0), load(bricks.z, 0), splat(f4(0.5) * bricks.spacing), splat(f4(1.5) * bricks.spacing)
    U, u_near, u_far = _affine_row(matrix, m, steps, splat_at(centres, lane))
    V, v_near, v_far = _affine_row(matrix, m + 4, steps, splat_at(centres, lane + LANES))
    Z, z_near, z_far = _affine_row(matrix, m + 8, steps, splat_at(centres, lane + 2 * LANES))
    cx, cy = splat_at(images.frame, at + CX), splat_at(images.frame, at + CY)
    _store_pixels(scratch, 0, sub(U, u_far), sub(V, v_far), sub(Z, z_far), cx, cy)
    _store_pixels(scratch, 16, sub(U, u_near), sub(V, v_near), sub(Z, z_near), cx, cy)
    _store_pixels(scratch, 32, add(U, u_near), add(V, v_near), add(Z, z_near), cx, cy)
    _store_pixels(scratch, 48, add(U, u_far), add(V, v_far), add(Z, z_far), cx, cy)


@inlined
def _blend(weights, row, sums):  # type: ignore[no-untyped-def]
    """What one joint adds to a homogeneous row of the brick's 64 voxels, ``sums``: its weights times its affine values."""
    (w0, w1, w2, w3), (base, near, far), (a0, a1, a2, a3) = weights, row, sums
    a0 = fma(w0, sub(base, far), a0)
    a1 = fma(w1, sub(base, near), a1)
    a2 = fma(w2, add(base, near), a2)
    a3 = fma(w3, add(base, far), a3)
    return a0, a1, a2, a3


@borrowing
def project_brick(images, first, lane, bricks, b, scratch):  # type: ignore[no-untyped-def]
    """Pixels and depths of a brick's voxels in image first + lane, into u, v, z of ``scratch``.

    Its ``centres`` are those of the brick in the vector of images that begins at ``first``. Lattice form: a joint's affine
    value is computed once on the 16 (y, z) and stepped in x, then weighted: (U, V, Z) = sum_j w_j (M_j [x; 1]).
    """
    matrix, centres, at = images.matrix, scratch.centres, first * FRAME_ROWS + lane
    row, joint, weight = (first + lane) * images.num_joints * MATRIX, bricks.joint, bricks.weight
    e0, e1 = bricks.joint_offset[b], bricks.joint_offset[b + 1]
    # The steps are -3, -1, 1, 3 half spacings: sums and differences, which many processors do beside the multiplications.
    steps = load(bricks.y, 0), load(bricks.z, 0), splat(f4(0.5) * bricks.spacing), splat(f4(1.5) * bricks.spacing)
    zero = splat(f4(0.0))
    U = V = Z = (zero, zero, zero, zero)
    centre = np.int64(lane)
    for e in range(e0, e1):
        m, w = row + np.int64(joint[e]) * MATRIX, e * VOXELS
        weights = load(weight, w), load(weight, w + 16), load(weight, w + 32), load(weight, w + 48)
        U = _blend(weights, _affine_row(matrix, m, steps, splat_at(centres, centre)), U)
        V = _blend(weights, _affine_row(matrix, m + 4, steps, splat_at(centres, centre + LANES)), V)
        Z = _blend(weights, _affine_row(matrix, m + 8, steps, splat_at(centres, centre + 2 * LANES)), Z)
        centre += 3 * LANES
    cx, cy = splat_at(images.frame, at + CX), splat_at(images.frame, at + CY)
    _store_pixels(scratch, 0, U[0], V[0], Z[0], cx, cy)
    _store_pixels(scratch, 16, U[1], V[1], Z[1], cx, cy)
    _store_pixels(scratch, 32, U[2], V[2], Z[2], cx, cy)
    _store_pixels(scratch, 48, U[3], V[3], Z[3], cx, cy)


@inlined
def outside(scratch, s, x0, y0, x1, y1):  # type: ignore[no-untyped-def]
    """Negative where a voxel of s .. s + 15 is behind the camera or its pixel outside x0 <= u <= x1, y0 <= v <= y1."""
    u, v = load(scratch.u, s), load(scratch.v, s)
    out = sign_or(sub(load(scratch.z, s), splat(TINY)), sign_or(sub(u, x0), sub(x1, u)))
    return sign_or(out, sign_or(sub(v, y0), sub(y1, v)))


@inlined
def mask_blocks(blocks, first, lane):  # type: ignore[no-untyped-def]
    """First block column and row and blocks per row of the mask of image first + lane, each in 16 lanes."""
    at = first * BLOCKS_ROWS + lane
    return isplat(blocks[at + FIRST_COLUMN]), isplat(blocks[at + FIRST_ROW]), isplat(blocks[at + ACROSS])


@inlined
def mask_address(scratch, s, out, x0, y0, grid):  # type: ignore[no-untyped-def]
    """Index of the mask's word, and of the bit in it, of voxels s .. s + 15; where ``out`` is negative those of pixel (x0, y0).

    grid  as ``mask_blocks`` gives it; words of a mask are in blocks of 16 x 16 pixels, two rows of a block a word
    """
    block_x, block_y, across = grid
    three, four, five, fifteen = isplat(3), isplat(4), isplat(5), isplat(15)
    column = truncate(where_positive(out, load(scratch.u, s), x0))
    line = truncate(where_positive(out, load(scratch.v, s), y0))
    block = iadd(imul(isub(ishr(line, four), block_y), across), isub(ishr(column, four), block_x))
    pixel = ior(ishl(iand(line, fifteen), four), iand(column, fifteen))
    return ior(ishl(block, three), ishr(pixel, five)), iand(pixel, isplat(31))
