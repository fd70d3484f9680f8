"""A triangle rasteriser on the CPU: z-buffer, perspective or orthographic, watertight, deterministic.

It gives depth and the index of the visible face of each pixel, for the simulation and for pictures.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.errors import InputError, check_array
from chorus.kernels.jit import compiled

NEAR = 0.01
"""Distance in metres of the near plane: triangles with a vertex at z <= NEAR are dropped, not clipped."""

_STEPS = 4096.0  # vertices snap to 1/4096 px: edge functions of triangles up to 2^13 px across are exact in float64,
# so that the two triangles at an edge see the same number with opposite signs, and no pixel falls between them
_POSITIVE = 1e-30  # smaller than any edge function that is not zero, so that `w >= _POSITIVE` means `w > 0`
_SPAN = 12  # in triangles wider than this many pixels, each row is narrowed to its span before pixels are tested


@compiled()
def _project(vertices: Any, matrix: Any, near: float) -> Any:
    """Project points (V, 3) by K [R | t], (3, 4): u, v, z (V, 3); u and v are 0 where z <= near."""
    uvz = np.empty((len(vertices), 3))
    for i in range(len(vertices)):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        w = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        scale = 1.0 / w if w > near else 0.0
        uvz[i, 0] = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]) * scale
        uvz[i, 1] = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]) * scale
        uvz[i, 2] = w
    return uvz


@compiled()
def _narrow(lo: int, hi: int, u0: float, at_u0: float, slope: float) -> Any:
    """The columns within lo..hi where at_u0 + slope (column + 0.5 - u0) may be >= 0, with a margin of one on either side."""
    if slope > 0:
        lo = int(max(float(lo), min(np.floor(u0 - at_u0 / slope - 0.5) - 1.0, hi + 1.0)))
    elif slope < 0:
        hi = int(min(float(hi), max(np.ceil(u0 - at_u0 / slope - 0.5) + 1.0, lo - 1.0)))
    elif at_u0 < 0:
        hi = lo - 1
    return lo, hi


@compiled()
def _draw(uvz: Any, faces: Any, near: float, orthographic: bool, key: Any, face_index: Any) -> None:
    """Draw into ``key`` (H, W) float32, larger = nearer: 1/z, or -z if orthographic; and ``face_index`` unless it is empty.

    1/z, or -z, is linear in the image, so that it interpolates exactly. On equal keys the face drawn first stays.
    """
    height, width = key.shape
    with_faces = face_index.size > 0
    at = np.empty((len(uvz), 3))
    for i in range(len(uvz)):
        z = uvz[i, 2]
        at[i, 0] = np.rint(uvz[i, 0] * _STEPS) / _STEPS
        at[i, 1] = np.rint(uvz[i, 1] * _STEPS) / _STEPS
        at[i, 2] = -z if orthographic else (1.0 / z if z > near else -1.0)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ka, kb, kc = at[a, 2], at[b, 2], at[c, 2]
        if not orthographic and (ka < 0 or kb < 0 or kc < 0):
            continue
        ua, ub, uc = at[a, 0], at[b, 0], at[c, 0]
        va, vb, vc = at[a, 1], at[b, 1], at[c, 1]
        x0 = max(np.ceil(min(ua, ub, uc) - 0.5), 0.0)
        x1 = min(np.floor(max(ua, ub, uc) - 0.5), width - 1.0)
        y0 = max(np.ceil(min(va, vb, vc) - 0.5), 0.0)
        y1 = min(np.floor(max(va, vb, vc) - 0.5), height - 1.0)
        if x0 > x1 or y0 > y1:
            continue
        area = (ub - ua) * (vc - va) - (vb - va) * (uc - ua)
        if area == 0:
            continue
        # The edge function of the edge opposite a corner, du (v - v0) - dv (u - u0), is positive inside and has the
        # corner's barycentric weight for its share of the area. A centre on an edge (0) belongs to the triangle that
        # goes along it downwards, or rightwards if horizontal: to one of the two at the edge. That equals shifting all
        # centres by an infinitesimal step, so that a corner shared by many triangles is covered once, too.
        turn = 1.0 if area > 0 else -1.0
        adu, adv = turn * (uc - ub), turn * (vc - vb)
        bdu, bdv = turn * (ua - uc), turn * (va - vc)
        cdu, cdv = turn * (ub - ua), turn * (vb - va)
        a_least = 0.0 if (adv > 0) | ((adv == 0) & (adu > 0)) else _POSITIVE
        b_least = 0.0 if (bdv > 0) | ((bdv == 0) & (bdu > 0)) else _POSITIVE
        c_least = 0.0 if (cdv > 0) | ((cdv == 0) & (cdu > 0)) else _POSITIVE
        scale = turn / area
        first, last = int(x0), int(x1)
        for row in range(int(y0), int(y1) + 1):
            v = row + 0.5
            ra, rb, rc = adu * (v - vb), bdu * (v - vc), cdu * (v - va)
            lo, hi = first, last
            if hi - lo > _SPAN:
                lo, hi = _narrow(lo, hi, ub, ra, -adv)
                lo, hi = _narrow(lo, hi, uc, rb, -bdv)
                lo, hi = _narrow(lo, hi, ua, rc, -cdv)
            for column in range(lo, hi + 1):
                u = column + 0.5
                wa = ra - adv * (u - ub)
                wb = rb - bdv * (u - uc)
                wc = rc - cdv * (u - ua)
                if (wa >= a_least) & (wb >= b_least) & (wc >= c_least):
                    k = np.float32((wa * ka + wb * kb + wc * kc) * scale)
                    if k > key[row, column]:
                        key[row, column] = k
                        if with_faces:
                            face_index[row, column] = f


@compiled()
def skin(vertices: Any, weights: Any, transforms: Any) -> Any:
    """Linear blend skinning without the GIL: (V, 3) float64, (V, J) weights, (J, 3 or 4, 4) float64 -> (V, 3) metres.

    As ``kinematics.linear_blend_skinning``, but for use in threads, and skipping joints of weight 0. Simulated stores depend
    on the order of its sums bit by bit. Arguments are not checked.
    """
    posed = np.zeros((len(vertices), 3))
    for i in range(len(vertices)):
        x, y, z = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        for j in range(weights.shape[1]):
            w = np.float64(weights[i, j])
            if w != 0.0:
                m = transforms[j]
                posed[i, 0] += w * (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3])
                posed[i, 1] += w * (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3])
                posed[i, 2] += w * (m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3])
    return posed


@compiled()
def displace(mask: Any, steps: Any, cell: int) -> Any:
    """Warp a (H, W) mask: pixel p takes the value at p + d(p), rounded to the nearest pixel inside the image.

    steps (2, >= (H - 1) // cell + 2, >= (W - 1) // cell + 2) float64 pixels (down, right): d at every ``cell`` px,
    interpolated linearly. Arguments are not checked.
    """
    height, width = mask.shape
    moved = np.empty_like(mask)
    for row in range(height):
        i, y = row // cell, (row % cell) / cell
        for column in range(width):
            j, x = column // cell, (column % cell) / cell
            a, b, c, d = (1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x
            down = a * steps[0, i, j] + b * steps[0, i, j + 1] + c * steps[0, i + 1, j] + d * steps[0, i + 1, j + 1]
            right = a * steps[1, i, j] + b * steps[1, i, j + 1] + c * steps[1, i + 1, j] + d * steps[1, i + 1, j + 1]
            at_row = min(max(int(np.rint(row + down)), 0), height - 1)
            at_column = min(max(int(np.rint(column + right)), 0), width - 1)
            moved[row, column] = mask[at_row, at_column]
    return moved


def draw_inverse_depth(
    vertices: NDArray[np.float64], faces: NDArray[np.int32], matrix: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Inverse depth of a mesh, a fast path for silhouettes: (H, W) float32 1/z in 1/m, -inf for the background.

    vertices (V, 3) float64 metres; faces (F, 3) int32; matrix (3, 4) float64 = K [R | t]; size (H, W). Arguments are
    not checked; the GIL is released, so that threads can run it.
    """
    key = np.full(size, -np.inf, np.float32)
    _draw(_project(vertices, matrix, NEAR), faces, NEAR, False, key, np.empty((0, 0), np.int32))
    return key


def rasterize(
    vertices_uvz: Any, faces: Any, height: int, width: int, *, near: float = NEAR, orthographic: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Draw projected triangles: depth (H, W) float32 in metres and the visible face (H, W) int32.

    vertices_uvz  (V, 3): u, v in pixels (pixel (column, row) has its centre at (column + 0.5, row + 0.5)) and z in
                  metres, larger = farther
    faces         (F, 3) vertex indices; both sides are drawn, in any winding
    near          triangles with a vertex at z <= near metres are dropped; orthographic drawings have no near plane
    orthographic  depth is linear in the image; otherwise 1/z is (perspective-correct)

    Depth is +inf and the face -1 for the background. A pixel belongs to a triangle if its centre lies in it; a centre on
    a shared edge or corner belongs to exactly one of the triangles that share it. Where two faces are equally near, the lower
    index is kept. Vertices snap to 1/4096 px. Raises InputError for other shapes, indices out of range, numbers that
    are not finite (u, v of vertices at z <= near excepted) and sizes that are not positive.
    """
    uvz = check_array("vertices_uvz", vertices_uvz, ("V", 3), np.float64, finite=False)
    faces = _check_faces(faces, len(uvz))
    if height < 1 or width < 1:
        raise InputError(f"height, width: expected positive sizes in pixels, got {height}, {width}")
    if not np.isfinite(uvz).all():
        usable = np.isfinite(uvz).all(1)
        if not orthographic:
            usable |= uvz[:, 2] <= near
        if not usable.all():
            row = int(np.argmin(usable))
            raise InputError(f"vertices_uvz: expected finite u, v, z, got {uvz[row].tolist()} in row {row}")
        uvz = np.nan_to_num(uvz)
    key = np.full((height, width), -np.inf, np.float32)
    face_index = np.full((height, width), -1, np.int32)
    _draw(uvz, faces, float(near), bool(orthographic), key, face_index)
    if orthographic:
        return np.negative(key, out=key), face_index  # -(-inf) = inf for the background
    key[key < 0] = 0.0  # 1/0 = inf for the background
    with np.errstate(divide="ignore"):
        return np.reciprocal(key, out=key), face_index


def render_mesh(vertices: Any, faces: Any, cameras: Cameras, row: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Draw a mesh as camera ``row`` sees it: depth and visible face, as ``rasterize`` gives them.

    vertices (V, 3) metres in the person frame; faces (F, 3). Raises InputError as ``rasterize`` does.
    """
    vertices = check_array("vertices", vertices, ("V", 3), np.float64)
    height, width = (int(c) for c in cameras.image_size[row])
    matrix = cameras.K[row] @ np.column_stack([cameras.R[row], cameras.t[row]])
    return rasterize(_project(vertices, matrix, NEAR), faces, height, width)


def render_orthographic(
    vertices: Any, faces: Any, rotation: Any, height: int, width: int, metres_per_pixel: float, centre: Any = (0, 0, 0)
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Draw a mesh in orthographic projection: depth (H, W) float32 in metres relative to ``centre``, and the visible face.

    vertices (V, 3) metres; rotation (3, 3) from their frame to OpenCV axes (x right, y down, z away from the viewer);
    the point ``centre`` (3,) metres falls on the middle of the image. Raises InputError as ``rasterize`` does.
    """
    vertices = check_array("vertices", vertices, ("V", 3), np.float64)
    rotation = check_array("rotation", rotation, (3, 3), np.float64)
    centre = check_array("centre", centre, (3,), np.float64)
    if not metres_per_pixel > 0:
        raise InputError(f"metres_per_pixel: expected a positive number, got {metres_per_pixel}")
    uvz = (vertices - centre) @ rotation.T
    uvz[:, :2] = uvz[:, :2] / metres_per_pixel + [width / 2, height / 2]
    return rasterize(uvz, faces, height, width, orthographic=True)


def face_normals(vertices: Any, faces: Any) -> NDArray[np.float64]:
    """Unit normals (F, 3) of triangles, by the right-hand rule in the order of their corners; 0 for degenerate ones."""
    vertices = check_array("vertices", vertices, ("V", 3), np.float64)
    corners = vertices[_check_faces(faces, len(vertices))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    return unit


def shade(
    face_index: Any,
    normals: Any,
    *,
    light: Any = (0.3, 0.5, 1.0),
    colour: Any = (0.75, 0.75, 0.78),
    background: Any = (1.0, 1.0, 1.0),
    ambient: float = 0.35,
) -> NDArray[np.uint8]:
    """Lambert shading of a rendered mesh: (H, W, 3) uint8 RGB.

    face_index  (H, W) visible face, -1 for the background
    normals     (F, 3) of the faces, as ``face_normals`` gives them, outward
    light       (3,) direction towards the light in the frame of the normals, of any length
    colour      (3,) or (F, 3) RGB in 0..1; background (3,)
    ambient     share of ambient light, 0..1

    Raises InputError for other shapes, a face_index out of range, a light of no length, colours or ambient not in 0..1.
    """
    face_index = check_array("face_index", face_index, ("H", "W"), np.int64)
    normals = check_array("normals", normals, ("F", 3), np.float64)
    light = check_array("light", light, (3,), np.float64)
    if face_index.size and not -1 <= face_index.min() <= face_index.max() < len(normals):
        raise InputError(f"face_index: expected -1..{len(normals) - 1}, got {face_index.min()}..{face_index.max()}")
    if not light.any():
        raise InputError("light: expected a direction, got a vector of length 0")
    colours = check_array("colour", colour, (3,) if np.ndim(colour) == 1 else (len(normals), 3), np.float64)
    background = check_array("background", background, (3,), np.float64)
    for name, value in (("colour", colours), ("background", background), ("ambient", np.float64(ambient))):
        if np.size(value) and not (np.min(value) >= 0 and np.max(value) <= 1):
            raise InputError(f"{name}: expected numbers in 0..1, got {np.min(value)}..{np.max(value)}")
    lambert = np.maximum(normals @ (light / np.linalg.norm(light)), 0.0)
    lit = (ambient + (1 - ambient) * lambert)[:, None] * colours
    palette = np.vstack([lit, background])  # the last row, -1, is the background
    image: NDArray[np.uint8] = np.rint(255 * palette).astype(np.uint8)[face_index]
    return image


def _check_faces(value: Any, num_vertices: int) -> NDArray[np.int32]:
    faces: NDArray[np.int32] = check_array("faces", value, ("F", 3), np.int32)
    if faces.size and not 0 <= faces.min() <= faces.max() < num_vertices:
        raise InputError(f"faces: expected vertex indices 0..{num_vertices - 1}, got {faces.min()}..{faces.max()}")
    return faces
