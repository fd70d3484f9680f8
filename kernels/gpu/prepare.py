"""What the Triton votes need of images: a matrix per image and joint, and the masks' blocks summed.

``prepare_images`` folds pose and camera into K [R | t] B_j in float64, a lane an image; ``split_matrices`` rewrites the
float32 matrices as pairs of float16; ``sum_blocks`` makes the summed-area tables that culling reads.
"""

from __future__ import annotations

import triton
import triton.language as tl

from chorus.kernels.gpu.ahead_of_time import Compilation, types_of

IMAGES = 64
"""Images a program prepares."""
SPLIT_IMAGES = 64
CULL_ROWS = 16
"""float32 rows of ``cull``: integer centre x, y; the image's width, height; the mask's box x0, y0, x1, y1; what float32 may be
off in U or V, and in Z; the largest |row U|^2, |row V|^2, |row Z|^2, |row U . row Z|, |row V . row Z| of any joint; and one
that is not used."""
BLOCK_ROWS = 5
"""int32 rows of ``blocks``: the mask's first block column and row, blocks across, entries a row of its table, the first."""
FLOAT_ERROR = tl.constexpr(1e-5)
"""Relative error granted to the arithmetic of the bound and of the votes: sums of up to 14 packs by matrix units, too."""
_FAR = tl.constexpr(1e9)
_MOST_CENTRE = tl.constexpr(1 << 20)
_TURN = tl.constexpr(6.283185307179586)
_TURN_LOW = tl.constexpr(2.4492935982947064e-16)
_PER_TURN = tl.constexpr(0.15915494309189535)


@triton.jit
def _rotation_factors(square):
    """sin a / a and (1 - cos a) / a^2 for a^2, float64: Taylor series at an eighth of the angle, then doubled three times.

    The library's sine would need a stack for its rare large arguments.
    """
    angle = tl.sqrt(square)
    turns = tl.floor(angle * _PER_TURN + 0.5)
    x = ((angle - turns * _TURN) - turns * _TURN_LOW) * 0.125
    y = x * x
    s = 1.0 - y * (1.0 / 156.0)
    s = 1.0 - y * (1.0 / 110.0) * s
    s = 1.0 - y * (1.0 / 72.0) * s
    s = 1.0 - y * (1.0 / 42.0) * s
    s = 1.0 - y * (1.0 / 20.0) * s
    sine = x * (1.0 - y * (1.0 / 6.0) * s)
    c = 1.0 - y * (1.0 / 182.0)
    c = 1.0 - y * (1.0 / 132.0) * c
    c = 1.0 - y * (1.0 / 90.0) * c
    c = 1.0 - y * (1.0 / 56.0) * c
    c = 1.0 - y * (1.0 / 30.0) * c
    versine = 0.5 * y * (1.0 - y * (1.0 / 12.0) * c)  # 1 - cos
    for _ in tl.static_range(3):
        sine, versine = 2.0 * sine * (1.0 - versine), 2.0 * sine * sine
    small = square < 1e-8
    safe = tl.where(small, 1.0, square)
    first = tl.where(small, 1.0 - square * (1.0 / 6.0), sine / tl.sqrt(safe))
    second = tl.where(small, 0.5 - square * (1.0 / 24.0), versine / safe)
    return first, second


@triton.jit
def _pair(low, high):
    """Two int32 in an int64, the first in the low bits."""
    return (high.to(tl.int64) << 32) | (low.to(tl.int64) & 0xFFFFFFFF)


@triton.jit(do_not_specialize=["count", "J"])
def prepare_images(
    order,
    poses,
    R,
    t,
    K,
    size,
    box,
    start,
    joints,
    parents,
    rest_inverse,
    tables,
    chain,
    lanes,
    scale,
    view,
    cull,
    blocks,
    count,
    capacity,
    J,
    reach,
    IMAGES: tl.constexpr,
):
    """Images order[0 .. count - 1]: their matrices, and what kernels ask about them.

    order     (count,) int64  rows of poses, R, t, K, size, box, start (as in ``VoteImages``)
    joints    (J, 3) float64, parents (J,) int32, rest_inverse (J, 4, 4) float64
    tables    (count,) int64  first entry of each mask's table
    chain     (J, 12, C) float64  scratch: the joints' frames
    lanes     (J, 12, C) float32  rows U, V, Z of K' [R | t] B_j, K' with the fraction of its principal point only
    scale     (C,) float32  a power of two that brings the largest entry of an image's matrices into [2^12, 2^13)
    view      (C, 8) int64  see ``triton_vote``;  cull (CULL_ROWS, C) float32;  blocks (BLOCK_ROWS, C) int32
    reach     no voxel has a coordinate beyond it, metres
    """
    image = tl.program_id(0) * IMAGES + tl.arange(0, IMAGES)
    valid = image < count
    row = tl.load(order + image, mask=valid, other=0)
    out = image.to(tl.int64)

    k = K + row * 9
    f00, f01, f11 = tl.load(k), tl.load(k + 1), tl.load(k + 4)
    centre_x, centre_y = tl.load(k + 2), tl.load(k + 5)
    whole_x = tl.minimum(tl.maximum(tl.floor(centre_x), -_MOST_CENTRE), _MOST_CENTRE)
    whole_y = tl.minimum(tl.maximum(tl.floor(centre_y), -_MOST_CENTRE), _MOST_CENTRE)
    f02, f12 = centre_x - whole_x, centre_y - whole_y
    r = R + row * 9
    r20, r21, r22, t2 = tl.load(r + 6), tl.load(r + 7), tl.load(r + 8), tl.load(t + row * 3 + 2)
    a0, a1, a2, a3 = tl.load(r + 3), tl.load(r + 4), tl.load(r + 5), tl.load(t + row * 3 + 1)
    p00 = f00 * tl.load(r) + f01 * a0 + f02 * r20
    p01 = f00 * tl.load(r + 1) + f01 * a1 + f02 * r21
    p02 = f00 * tl.load(r + 2) + f01 * a2 + f02 * r22
    p03 = f00 * tl.load(t + row * 3) + f01 * a3 + f02 * t2
    p10, p11, p12, p13 = f11 * a0 + f12 * r20, f11 * a1 + f12 * r21, f11 * a2 + f12 * r22, f11 * a3 + f12 * t2

    zero = tl.zeros([IMAGES], tl.float64)
    scale_u, scale_z, largest = zero, zero, zero
    square_u, square_v, square_z, cross_u, cross_v = zero, zero, zero, zero, zero
    for j in range(J):
        pose = poses + (row * J + j) * 3
        x = tl.load(pose).to(tl.float64)
        y = tl.load(pose + 1).to(tl.float64)
        z = tl.load(pose + 2).to(tl.float64)
        a, b = _rotation_factors(x * x + y * y + z * z)
        l00, l01, l02 = 1.0 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y
        l10, l11, l12 = b * x * y + a * z, 1.0 - b * (x * x + z * z), b * y * z - a * x
        l20, l21, l22 = b * x * z - a * y, b * y * z + a * x, 1.0 - b * (x * x + y * y)
        jx, jy, jz = tl.load(joints + j * 3), tl.load(joints + j * 3 + 1), tl.load(joints + j * 3 + 2)
        parent = tl.load(parents + j)
        inverse = rest_inverse + j * 16
        chain_j = chain + j * 12 * capacity + out
        px, py, pz = 0.0 * jx, 0.0 * jx, 0.0 * jx
        if parent >= 0:
            px = tl.load(joints + parent * 3)
            py = tl.load(joints + parent * 3 + 1)
            pz = tl.load(joints + parent * 3 + 2)
        # Rows of A_j = G_j(theta) G_j(zero)^-1, then of B_j = A_j A_j(zero -> rest)^-1; their projections are summed.
        u0, u1, u2, u3 = zero, zero, zero, p03
        v0, v1, v2, v3 = zero, zero, zero, p13
        w0, w1, w2, w3 = zero, zero, zero, t2 + zero
        for i in tl.static_range(3):
            g0 = zero + (1.0 if i == 0 else 0.0)
            g1 = zero + (1.0 if i == 1 else 0.0)
            g2 = zero + (1.0 if i == 2 else 0.0)
            g3 = zero
            if parent >= 0:
                above = chain + parent.to(tl.int64) * 12 * capacity + 4 * i * capacity + out
                g0 = tl.load(above, mask=valid, other=0.0)
                g1 = tl.load(above + capacity, mask=valid, other=0.0)
                g2 = tl.load(above + 2 * capacity, mask=valid, other=0.0)
                g3 = tl.load(above + 3 * capacity, mask=valid, other=0.0)
            g3 += g0 * (jx - px) + g1 * (jy - py) + g2 * (jz - pz)
            h0 = g0 * l00 + g1 * l10 + g2 * l20
            h1 = g0 * l01 + g1 * l11 + g2 * l21
            h2 = g0 * l02 + g1 * l12 + g2 * l22
            here = chain_j + 4 * i * capacity
            tl.store(here, h0, mask=valid)
            tl.store(here + capacity, h1, mask=valid)
            tl.store(here + 2 * capacity, h2, mask=valid)
            tl.store(here + 3 * capacity, g3, mask=valid)
            h3 = g3 - (h0 * jx + h1 * jy + h2 * jz)
            c0 = h0 * tl.load(inverse) + h1 * tl.load(inverse + 4) + h2 * tl.load(inverse + 8)
            c1 = h0 * tl.load(inverse + 1) + h1 * tl.load(inverse + 5) + h2 * tl.load(inverse + 9)
            c2 = h0 * tl.load(inverse + 2) + h1 * tl.load(inverse + 6) + h2 * tl.load(inverse + 10)
            c3 = h0 * tl.load(inverse + 3) + h1 * tl.load(inverse + 7) + h2 * tl.load(inverse + 11) + h3
            q0 = p00 if i == 0 else (p01 if i == 1 else p02)
            q1 = p10 if i == 0 else (p11 if i == 1 else p12)
            q2 = r20 if i == 0 else (r21 if i == 1 else r22)
            u0, u1, u2, u3 = u0 + q0 * c0, u1 + q0 * c1, u2 + q0 * c2, u3 + q0 * c3
            v0, v1, v2, v3 = v0 + q1 * c0, v1 + q1 * c1, v2 + q1 * c2, v3 + q1 * c3
            w0, w1, w2, w3 = w0 + q2 * c0, w1 + q2 * c1, w2 + q2 * c2, w3 + q2 * c3
        to = lanes + j * 12 * capacity + out
        tl.store(to, u0.to(tl.float32), mask=valid)
        tl.store(to + capacity, u1.to(tl.float32), mask=valid)
        tl.store(to + 2 * capacity, u2.to(tl.float32), mask=valid)
        tl.store(to + 3 * capacity, u3.to(tl.float32), mask=valid)
        tl.store(to + 4 * capacity, v0.to(tl.float32), mask=valid)
        tl.store(to + 5 * capacity, v1.to(tl.float32), mask=valid)
        tl.store(to + 6 * capacity, v2.to(tl.float32), mask=valid)
        tl.store(to + 7 * capacity, v3.to(tl.float32), mask=valid)
        tl.store(to + 8 * capacity, w0.to(tl.float32), mask=valid)
        tl.store(to + 9 * capacity, w1.to(tl.float32), mask=valid)
        tl.store(to + 10 * capacity, w2.to(tl.float32), mask=valid)
        tl.store(to + 11 * capacity, w3.to(tl.float32), mask=valid)
        sum_u, sum_v, sum_z = _abs3(u0, u1, u2), _abs3(v0, v1, v2), _abs3(w0, w1, w2)
        scale_u = tl.maximum(scale_u, tl.maximum(sum_u * reach + tl.abs(u3), sum_v * reach + tl.abs(v3)))
        scale_z = tl.maximum(scale_z, sum_z * reach + tl.abs(w3))
        square_u = tl.maximum(square_u, u0 * u0 + u1 * u1 + u2 * u2)
        square_v = tl.maximum(square_v, v0 * v0 + v1 * v1 + v2 * v2)
        square_z = tl.maximum(square_z, w0 * w0 + w1 * w1 + w2 * w2)
        cross_u = tl.maximum(cross_u, tl.abs(u0 * w0 + u1 * w1 + u2 * w2))
        cross_v = tl.maximum(cross_v, tl.abs(v0 * w0 + v1 * w1 + v2 * w2))
        most = tl.maximum(tl.maximum(sum_u, sum_v), tl.maximum(sum_z, tl.abs(w3)))
        largest = tl.maximum(largest, tl.maximum(most, tl.maximum(tl.abs(u3), tl.abs(v3))))
        tl.debug_barrier()  # a child may be computed by other threads than wrote its parent's frame
    tl.store(scale + out, _power_of_two(largest.to(tl.float32)), mask=valid)

    height, width = tl.load(size + row * 2), tl.load(size + row * 2 + 1)
    x0, y0 = tl.load(box + row * 4), tl.load(box + row * 4 + 1)
    x1, y1 = tl.load(box + row * 4 + 2), tl.load(box + row * 4 + 3)
    empty = (x1 <= x0) | (y1 <= y0)
    column, line = x0 >> 4, y0 >> 4
    across = tl.where(empty, 0, ((x1 + 15) >> 4) - column)
    down = tl.where(empty, 0, ((y1 + 15) >> 4) - line)
    corner_x, corner_y = column * 16, line * 16
    cx, cy = whole_x.to(tl.int32), whole_y.to(tl.int32)
    see = view + out * 8
    tl.store(see, _pair(cx - corner_x, cy - corner_y), mask=valid)
    tl.store(see + 1, _pair(across * 16, down * 16), mask=valid)
    tl.store(see + 2, tl.load(start + row), mask=valid)
    tl.store(see + 3, _pair(corner_x, corner_y), mask=valid)
    tl.store(see + 4, _pair(width, height), mask=valid)

    ask = cull + out
    pixels = tl.maximum(width, height) + tl.abs(centre_x) + tl.abs(centre_y)
    tl.store(ask, whole_x.to(tl.float32), mask=valid)
    tl.store(ask + capacity, whole_y.to(tl.float32), mask=valid)
    tl.store(ask + 2 * capacity, width.to(tl.float32), mask=valid)
    tl.store(ask + 3 * capacity, height.to(tl.float32), mask=valid)
    # An empty mask gets a box that no pixel is in and every rectangle misses.
    tl.store(ask + 4 * capacity, tl.where(empty, _FAR, x0.to(tl.float32)), mask=valid)
    tl.store(ask + 5 * capacity, tl.where(empty, _FAR, y0.to(tl.float32)), mask=valid)
    tl.store(ask + 6 * capacity, tl.where(empty, -_FAR, x1.to(tl.float32)), mask=valid)
    tl.store(ask + 7 * capacity, tl.where(empty, -_FAR, y1.to(tl.float32)), mask=valid)
    # u = U / Z + cx: an error of U, or of Z where it stands for as many pixels as the image and its centre are wide.
    tl.store(ask + 8 * capacity, ((scale_u + pixels * scale_z) * FLOAT_ERROR).to(tl.float32), mask=valid)
    tl.store(ask + 9 * capacity, (scale_z * FLOAT_ERROR).to(tl.float32), mask=valid)
    tl.store(ask + 10 * capacity, square_u.to(tl.float32), mask=valid)
    tl.store(ask + 11 * capacity, square_v.to(tl.float32), mask=valid)
    tl.store(ask + 12 * capacity, square_z.to(tl.float32), mask=valid)
    tl.store(ask + 13 * capacity, cross_u.to(tl.float32), mask=valid)
    tl.store(ask + 14 * capacity, cross_v.to(tl.float32), mask=valid)
    cell = blocks + out
    tl.store(cell, column, mask=valid)
    tl.store(cell + capacity, line, mask=valid)
    tl.store(cell + 2 * capacity, across, mask=valid)
    tl.store(cell + 3 * capacity, across + 1, mask=valid)
    tl.store(cell + 4 * capacity, tl.load(tables + image, mask=valid, other=0).to(tl.int32), mask=valid)


@triton.jit
def _abs3(x, y, z):
    return tl.abs(x) + tl.abs(y) + tl.abs(z)


@triton.jit
def _power_of_two(largest):
    """2^k with largest 2^k in [2^12, 2^13), from the exponent bits; k within +-100."""
    exponent = ((largest.to(tl.int32, bitcast=True) >> 23) & 0xFF) - 127
    k = tl.minimum(tl.maximum(12 - exponent, -100), 100)
    return ((k + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["count", "J"])
def split_matrices(lanes, scale, split, count, capacity, J, IMAGES: tl.constexpr):
    """(J, 12, C) float32 to (C, J, 3, 8) float16: per row four high parts, then what they leave. Grid (images, J)."""
    image = tl.program_id(0) * IMAGES + tl.arange(0, IMAGES)
    joint = tl.program_id(1).to(tl.int64)
    e = tl.arange(0, 32)
    entry = e // 8 * 4 + e % 4
    valid = (image < count)[:, None] & (e < 24)[None, :]
    value = tl.load(lanes + (joint * 12 + entry)[None, :] * capacity + image.to(tl.int64)[:, None], mask=valid, other=0.0)
    value *= tl.load(scale + image, mask=image < count, other=1.0)[:, None]
    high = value.to(tl.float16)
    part = tl.where((e % 8 >= 4)[None, :], (value - high.to(tl.float32)).to(tl.float16), high)
    tl.store(split + (image.to(tl.int64)[:, None] * J + joint) * 24 + e[None, :], part, mask=valid)


@triton.jit
def sum_blocks(words, start, blocks, box, order, some, full, capacity, COLUMNS: tl.constexpr):
    """Summed-area tables (down + 1, across + 1) of a mask's blocks that are not empty, and of its full ones. Grid (images,)."""
    image = tl.program_id(0)
    row = tl.load(order + image)
    across = tl.load(blocks + 2 * capacity + image)
    y0, y1 = tl.load(box + row * 4 + 1), tl.load(box + row * 4 + 3)
    down = tl.where(across > 0, ((y1 + 15) >> 4) - (y0 >> 4), 0)
    table = tl.load(blocks + 4 * capacity + image)
    first = words + tl.load(start + row)
    column = tl.arange(0, COLUMNS)
    word = tl.arange(0, 8)
    mine = column < across
    zero = tl.zeros([COLUMNS], tl.int32)
    above_some, above_full = zero, zero
    tl.store(some + table + column, zero, mask=column <= across)
    tl.store(full + table + column, zero, mask=column <= across)
    if across == COLUMNS:
        tl.store(some + table + across, 0)
        tl.store(full + table + across, 0)
    for line in range(down):
        at = first + (line * across + column[:, None]) * 8 + word[None, :]
        bits = tl.load(at, mask=mine[:, None], other=0)
        above_some += tl.cumsum(tl.max((bits != 0).to(tl.int32), 1), 0)
        above_full += tl.cumsum(tl.min((bits == -1).to(tl.int32), 1), 0)
        to = table + (line + 1) * (across + 1)
        tl.store(some + to, 0)
        tl.store(full + to, 0)
        tl.store(some + to + 1 + column, above_some, mask=mine)
        tl.store(full + to + 1 + column, above_full, mask=mine)


def compilations() -> list[Compilation]:
    """The three kernels."""
    images = types_of(
        """
        *i64: order start tables view
        *fp32: poses lanes scale cull
        *fp64: R t K joints rest_inverse chain
        *i32: size box parents blocks
        """
    )
    split = types_of(
        """
        *fp32: lanes scale
        *fp16: split
        """
    )
    tables = types_of(
        """
        *i32: words blocks box some full
        *i64: start order
        """
    )
    return [
        Compilation(
            "prepare_images",
            prepare_images,
            dict(images, count="i32", capacity="i32", J="i32", reach="fp32"),
            {"IMAGES": IMAGES},
            2,
            1,
            frozenset(images) | {"capacity"},
        ),
        Compilation(
            "split_matrices",
            split_matrices,
            dict(split, count="i32", capacity="i32", J="i32"),
            {"IMAGES": SPLIT_IMAGES},
            4,
            1,
            frozenset(split) | {"capacity"},
        ),
        Compilation(
            "sum_blocks", sum_blocks, dict(tables, capacity="i32"), {"COLUMNS": 32}, 1, 1, frozenset(tables) | {"capacity"}
        ),
    ]
