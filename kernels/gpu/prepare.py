"""What the Triton votes need of images: a matrix per image and joint, and the masks' blocks summed.

``prepare_images`` folds pose and camera into K [R | t] B_j in float64, a lane an image; ``split_matrices`` rewrites the
float32 matrices as pairs of float16; ``sum_blocks`` makes the summed-area tables that culling reads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from chorus.kernels.gpu.ahead_of_time import Compilation, Types
from chorus.kernels.gpu.arguments import CullingTables, Images, Scratch, Skeleton, SourceImages
from chorus.kernels.gpu.pixels import VIEW

IMAGES = 64
"""Images a program prepares."""
SPLIT_IMAGES = 64
BOUND_TERMS = 16
"""Rows of ``CullingTables.bound_terms``: integer centre x, y; the image's width, height; the mask's box x0, y0, x1, y1; what
float32 may be off in U or V, and in Z; the largest |row U|^2, |row V|^2, |row Z|^2, |row U . row Z|, |row V . row Z| of any
joint; and one that is not used."""
BLOCK_ROWS = 5
"""Rows of ``CullingTables.blocks``: the mask's first block column and row, blocks across, entries a row of its table, the
first."""
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


class Camera(NamedTuple):
    """An image's camera, float64: rows u, v, z of K' [R | t], four entries each; and the principal point.

    K' has the fraction of the principal point only; ``whole_x`` and ``whole_y`` are the rest of it.
    """

    u: Any
    v: Any
    z: Any
    centre_x: Any
    centre_y: Any
    whole_x: Any
    whole_y: Any


class Extremes(NamedTuple):
    """The largest of any joint of an image, float64.

    pixel, depth  |U| or |V|, and |Z|, of a voxel
    entry         entry of a matrix (at least that)
    square_u, square_v, square_z, cross_u, cross_v  as in BOUND_TERMS
    """

    pixel: Any
    depth: Any
    entry: Any
    square_u: Any
    square_v: Any
    square_z: Any
    cross_u: Any
    cross_v: Any


@triton.jit(do_not_specialize=["count", "J"])
def prepare_images(
    source: SourceImages,
    skeleton: Skeleton,
    images: Images,
    tables: CullingTables,
    scratch: Scratch,
    count,
    J,
    IMAGES: tl.constexpr,
):
    """Images ``images.rows[0 .. count - 1]``: their matrices (``images.lanes``), views, bound terms and blocks.

    Grid (images / IMAGES,), a lane an image. Fills ``scratch.chain`` and ``scratch.scale``.
    """
    image = tl.program_id(0) * IMAGES + tl.arange(0, IMAGES)
    valid = image < count
    row = tl.load(images.rows + image, mask=valid, other=0)
    out = image.to(tl.int64)
    capacity = images.capacity
    camera = _camera(source, row)
    zero = tl.zeros([IMAGES], tl.float64)
    extremes = Extremes(zero, zero, zero, zero, zero, zero, zero, zero)
    for j in range(J):
        rotation = _rotation(source.poses + (row * J + j) * 3)
        u, v, z = _project_bone(skeleton, camera, rotation, scratch.chain + out, j, capacity, valid)
        to = images.lanes + j * 12 * capacity + out
        _store_row(to, u, capacity, valid)
        _store_row(to + 4 * capacity, v, capacity, valid)
        _store_row(to + 8 * capacity, z, capacity, valid)
        extremes = _widen(extremes, u, v, z, skeleton.reach)
        tl.debug_barrier()  # a child may be computed by other threads than wrote its parent's frame
    tl.store(scratch.scale + out, _power_of_two(extremes.entry.to(tl.float32)), mask=valid)
    table = scratch.table_start + image
    _store_view_and_tables(source, images, tables, table, camera, extremes, row, out, valid)


@triton.jit
def _camera(source: SourceImages, row):
    """The ``Camera`` of each image."""
    k = source.K + row * 9
    f00, f01, f11 = tl.load(k), tl.load(k + 1), tl.load(k + 4)
    centre_x, centre_y = tl.load(k + 2), tl.load(k + 5)
    whole_x = tl.minimum(tl.maximum(tl.floor(centre_x), -_MOST_CENTRE), _MOST_CENTRE)
    whole_y = tl.minimum(tl.maximum(tl.floor(centre_y), -_MOST_CENTRE), _MOST_CENTRE)
    f02, f12 = centre_x - whole_x, centre_y - whole_y
    r, t = source.R + row * 9, source.t + row * 3
    r20, r21, r22, t2 = tl.load(r + 6), tl.load(r + 7), tl.load(r + 8), tl.load(t + 2)
    a0, a1, a2, a3 = tl.load(r + 3), tl.load(r + 4), tl.load(r + 5), tl.load(t + 1)
    p00 = f00 * tl.load(r) + f01 * a0 + f02 * r20
    p01 = f00 * tl.load(r + 1) + f01 * a1 + f02 * r21
    p02 = f00 * tl.load(r + 2) + f01 * a2 + f02 * r22
    p03 = f00 * tl.load(t) + f01 * a3 + f02 * t2
    p10, p11, p12, p13 = f11 * a0 + f12 * r20, f11 * a1 + f12 * r21, f11 * a2 + f12 * r22, f11 * a3 + f12 * t2
    u, v, z = (p00, p01, p02, p03), (p10, p11, p12, p13), (r20, r21, r22, t2)
    return Camera(u, v, z, centre_x, centre_y, whole_x, whole_y)


@triton.jit
def _rotation(pose):
    """Three rows of the rotation matrix of an axis-angle vector, by Rodrigues' formula, float64."""
    x = tl.load(pose).to(tl.float64)
    y = tl.load(pose + 1).to(tl.float64)
    z = tl.load(pose + 2).to(tl.float64)
    a, b = _rotation_factors(x * x + y * y + z * z)
    l00, l01, l02 = 1.0 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y
    l10, l11, l12 = b * x * y + a * z, 1.0 - b * (x * x + z * z), b * y * z - a * x
    l20, l21, l22 = b * x * z - a * y, b * y * z + a * x, 1.0 - b * (x * x + y * y)
    return (l00, l01, l02), (l10, l11, l12), (l20, l21, l22)


@triton.jit
def _project_bone(skeleton: Skeleton, camera: Camera, rotation, chain, j, capacity, valid):
    """Rows U, V, Z of K' [R | t] B_j; the frame of joint j is added to ``chain``, where its parent's must be."""
    joints = skeleton.joints
    jx, jy, jz = tl.load(joints + j * 3), tl.load(joints + j * 3 + 1), tl.load(joints + j * 3 + 2)
    parent = tl.load(skeleton.parents + j)
    inverse = skeleton.rest_inverse + j * 16
    frame = chain + j * 12 * capacity
    px, py, pz = 0.0 * jx, 0.0 * jx, 0.0 * jx
    if parent >= 0:
        px = tl.load(joints + parent * 3)
        py = tl.load(joints + parent * 3 + 1)
        pz = tl.load(joints + parent * 3 + 2)
    # Rows of A_j = G_j(theta) G_j(zero)^-1, then of B_j = A_j A_j(zero -> rest)^-1; their projections are summed.
    zero = tl.zeros_like(camera.u[3])
    u = (zero, zero, zero, camera.u[3])
    v = (zero, zero, zero, camera.v[3])
    z = (zero, zero, zero, camera.z[3])
    l0, l1, l2 = rotation
    for i in tl.static_range(3):
        g0 = zero + (1.0 if i == 0 else 0.0)
        g1 = zero + (1.0 if i == 1 else 0.0)
        g2 = zero + (1.0 if i == 2 else 0.0)
        g3 = zero
        if parent >= 0:
            above = chain + parent.to(tl.int64) * 12 * capacity + 4 * i * capacity
            g0 = tl.load(above, mask=valid, other=0.0)
            g1 = tl.load(above + capacity, mask=valid, other=0.0)
            g2 = tl.load(above + 2 * capacity, mask=valid, other=0.0)
            g3 = tl.load(above + 3 * capacity, mask=valid, other=0.0)
        g3 += g0 * (jx - px) + g1 * (jy - py) + g2 * (jz - pz)
        h0 = g0 * l0[0] + g1 * l1[0] + g2 * l2[0]
        h1 = g0 * l0[1] + g1 * l1[1] + g2 * l2[1]
        h2 = g0 * l0[2] + g1 * l1[2] + g2 * l2[2]
        here = frame + 4 * i * capacity
        tl.store(here, h0, mask=valid)
        tl.store(here + capacity, h1, mask=valid)
        tl.store(here + 2 * capacity, h2, mask=valid)
        tl.store(here + 3 * capacity, g3, mask=valid)
        h3 = g3 - (h0 * jx + h1 * jy + h2 * jz)
        c0 = h0 * tl.load(inverse) + h1 * tl.load(inverse + 4) + h2 * tl.load(inverse + 8)
        c1 = h0 * tl.load(inverse + 1) + h1 * tl.load(inverse + 5) + h2 * tl.load(inverse + 9)
        c2 = h0 * tl.load(inverse + 2) + h1 * tl.load(inverse + 6) + h2 * tl.load(inverse + 10)
        c3 = h0 * tl.load(inverse + 3) + h1 * tl.load(inverse + 7) + h2 * tl.load(inverse + 11) + h3
        u = _add_times(u, camera.u[i], c0, c1, c2, c3)
        v = _add_times(v, camera.v[i], c0, c1, c2, c3)
        z = _add_times(z, camera.z[i], c0, c1, c2, c3)
    return u, v, z


@triton.jit
def _add_times(row, factor, c0, c1, c2, c3):
    """row + factor (c0, c1, c2, c3)."""
    return row[0] + factor * c0, row[1] + factor * c1, row[2] + factor * c2, row[3] + factor * c3


@triton.jit
def _store_row(to, row, capacity, valid):
    tl.store(to, row[0].to(tl.float32), mask=valid)
    tl.store(to + capacity, row[1].to(tl.float32), mask=valid)
    tl.store(to + 2 * capacity, row[2].to(tl.float32), mask=valid)
    tl.store(to + 3 * capacity, row[3].to(tl.float32), mask=valid)


@triton.jit
def _widen(extremes: Extremes, u, v, z, reach):
    """The ``Extremes`` with one more joint."""
    u0, u1, u2, u3 = u
    v0, v1, v2, v3 = v
    w0, w1, w2, w3 = z
    sum_u, sum_v, sum_z = _abs3(u0, u1, u2), _abs3(v0, v1, v2), _abs3(w0, w1, w2)
    pixel = tl.maximum(extremes.pixel, tl.maximum(sum_u * reach + tl.abs(u3), sum_v * reach + tl.abs(v3)))
    depth = tl.maximum(extremes.depth, sum_z * reach + tl.abs(w3))
    square_u = tl.maximum(extremes.square_u, u0 * u0 + u1 * u1 + u2 * u2)
    square_v = tl.maximum(extremes.square_v, v0 * v0 + v1 * v1 + v2 * v2)
    square_z = tl.maximum(extremes.square_z, w0 * w0 + w1 * w1 + w2 * w2)
    cross_u = tl.maximum(extremes.cross_u, tl.abs(u0 * w0 + u1 * w1 + u2 * w2))
    cross_v = tl.maximum(extremes.cross_v, tl.abs(v0 * w0 + v1 * w1 + v2 * w2))
    most = tl.maximum(tl.maximum(sum_u, sum_v), tl.maximum(sum_z, tl.abs(w3)))
    entry = tl.maximum(extremes.entry, tl.maximum(most, tl.maximum(tl.abs(u3), tl.abs(v3))))
    return Extremes(pixel, depth, entry, square_u, square_v, square_z, cross_u, cross_v)


@triton.jit
def _store_view_and_tables(
    source: SourceImages,
    images: Images,
    tables: CullingTables,
    table_start,
    camera: Camera,
    extremes: Extremes,
    row,
    out,
    valid,
):
    """``images.view``, ``tables.bound_terms`` and ``tables.blocks`` of each image."""
    capacity = images.capacity
    height, width = tl.load(source.size + row * 2), tl.load(source.size + row * 2 + 1)
    x0, y0 = tl.load(source.box + row * 4), tl.load(source.box + row * 4 + 1)
    x1, y1 = tl.load(source.box + row * 4 + 2), tl.load(source.box + row * 4 + 3)
    empty = (x1 <= x0) | (y1 <= y0)
    column, line = x0 >> 4, y0 >> 4
    across = tl.where(empty, 0, ((x1 + 15) >> 4) - column)
    down = tl.where(empty, 0, ((y1 + 15) >> 4) - line)
    corner_x, corner_y = column * 16, line * 16
    cx, cy = camera.whole_x.to(tl.int32), camera.whole_y.to(tl.int32)
    view = images.view + out * VIEW
    tl.store(view, _pair(cx - corner_x, cy - corner_y), mask=valid)
    tl.store(view + 1, _pair(across * 16, down * 16), mask=valid)
    tl.store(view + 2, tl.load(source.start + row), mask=valid)
    tl.store(view + 3, _pair(corner_x, corner_y), mask=valid)
    tl.store(view + 4, _pair(width, height), mask=valid)

    terms = tables.bound_terms + out
    pixels = tl.maximum(width, height) + tl.abs(camera.centre_x) + tl.abs(camera.centre_y)
    tl.store(terms, camera.whole_x.to(tl.float32), mask=valid)
    tl.store(terms + capacity, camera.whole_y.to(tl.float32), mask=valid)
    tl.store(terms + 2 * capacity, width.to(tl.float32), mask=valid)
    tl.store(terms + 3 * capacity, height.to(tl.float32), mask=valid)
    # An empty mask gets a box that no pixel is in and every rectangle misses.
    tl.store(terms + 4 * capacity, tl.where(empty, _FAR, x0.to(tl.float32)), mask=valid)
    tl.store(terms + 5 * capacity, tl.where(empty, _FAR, y0.to(tl.float32)), mask=valid)
    tl.store(terms + 6 * capacity, tl.where(empty, -_FAR, x1.to(tl.float32)), mask=valid)
    tl.store(terms + 7 * capacity, tl.where(empty, -_FAR, y1.to(tl.float32)), mask=valid)
    # u = U / Z + cx: an error of U, or of Z where it stands for as many pixels as the image and its centre are wide.
    error = (extremes.pixel + pixels * extremes.depth) * FLOAT_ERROR
    tl.store(terms + 8 * capacity, error.to(tl.float32), mask=valid)
    tl.store(terms + 9 * capacity, (extremes.depth * FLOAT_ERROR).to(tl.float32), mask=valid)
    tl.store(terms + 10 * capacity, extremes.square_u.to(tl.float32), mask=valid)
    tl.store(terms + 11 * capacity, extremes.square_v.to(tl.float32), mask=valid)
    tl.store(terms + 12 * capacity, extremes.square_z.to(tl.float32), mask=valid)
    tl.store(terms + 13 * capacity, extremes.cross_u.to(tl.float32), mask=valid)
    tl.store(terms + 14 * capacity, extremes.cross_v.to(tl.float32), mask=valid)
    cell = tables.blocks + out
    tl.store(cell, column, mask=valid)
    tl.store(cell + capacity, line, mask=valid)
    tl.store(cell + 2 * capacity, across, mask=valid)
    tl.store(cell + 3 * capacity, across + 1, mask=valid)
    tl.store(cell + 4 * capacity, tl.load(table_start, mask=valid, other=0).to(tl.int32), mask=valid)


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
def split_matrices(images: Images, scale, count, J, IMAGES: tl.constexpr):
    """``images.split`` from ``images.lanes``: per row four high parts, then what they leave. Grid (images / IMAGES, J)."""
    image = tl.program_id(0) * IMAGES + tl.arange(0, IMAGES)
    joint = tl.program_id(1).to(tl.int64)
    e = tl.arange(0, 32)
    entry = (joint * 12 + (e // 8 * 4 + e % 4))[None, :]
    valid = (image < count)[:, None] & (e < 24)[None, :]
    value = tl.load(images.lanes + entry * images.capacity + image.to(tl.int64)[:, None], mask=valid, other=0.0)
    value *= tl.load(scale + image, mask=image < count, other=1.0)[:, None]
    high = value.to(tl.float16)
    part = tl.where((e % 8 >= 4)[None, :], (value - high.to(tl.float32)).to(tl.float16), high)
    tl.store(images.split + (image.to(tl.int64)[:, None] * J + joint) * 24 + e[None, :], part, mask=valid)


@triton.jit
def sum_blocks(source: SourceImages, images: Images, tables: CullingTables, COLUMNS: tl.constexpr):
    """The summed-area tables of a mask's blocks. Grid (images,); COLUMNS is no less than the blocks across."""
    image = tl.program_id(0)
    row = tl.load(images.rows + image)
    across = tl.load(tables.blocks + 2 * images.capacity + image)
    y0, y1 = tl.load(source.box + row * 4 + 1), tl.load(source.box + row * 4 + 3)
    down = tl.where(across > 0, ((y1 + 15) >> 4) - (y0 >> 4), 0)
    table = tl.load(tables.blocks + 4 * images.capacity + image)
    any_sums, full_sums = tables.any_sums + table, tables.full_sums + table
    first = images.words + tl.load(source.start + row)
    column = tl.arange(0, COLUMNS)
    word = tl.arange(0, 8)
    mine = column < across
    zero = tl.zeros([COLUMNS], tl.int32)
    above_any, above_full = zero, zero
    tl.store(any_sums + column, zero, mask=column <= across)
    tl.store(full_sums + column, zero, mask=column <= across)
    if across == COLUMNS:
        tl.store(any_sums + across, 0)
        tl.store(full_sums + across, 0)
    for line in range(down):
        at = first + (line * across + column[:, None]) * 8 + word[None, :]
        bits = tl.load(at, mask=mine[:, None], other=0)
        above_any += tl.cumsum(tl.max((bits != 0).to(tl.int32), 1), 0)
        above_full += tl.cumsum(tl.min((bits == -1).to(tl.int32), 1), 0)
        to = (line + 1) * (across + 1)
        tl.store(any_sums + to, 0)
        tl.store(full_sums + to, 0)
        tl.store(any_sums + to + 1 + column, above_any, mask=mine)
        tl.store(full_sums + to + 1 + column, above_full, mask=mine)


def compilations() -> list[Compilation]:
    """The three kernels."""
    made: Types = {"images": Images, "tables": CullingTables}
    groups: Types = {"source": SourceImages, "skeleton": Skeleton, "scratch": Scratch, **made}
    numbers: Types = {"count": "i32", "J": "i32"}
    return [
        Compilation("prepare_images", prepare_images, {**groups, **numbers}, {"IMAGES": IMAGES}, num_warps=2, num_stages=1),
        Compilation(
            "split_matrices",
            split_matrices,
            {"images": Images, "scale": "*fp32", **numbers},
            {"IMAGES": SPLIT_IMAGES},
            num_warps=4,
            num_stages=1,
        ),
        Compilation("sum_blocks", sum_blocks, groups, {"COLUMNS": 32}, num_warps=1, num_stages=1),
    ]
