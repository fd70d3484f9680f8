"""The posed body's depth in many images, for hidden votes: a coarse mesh of the body, drawn at reduced resolution.

Hidden votes grant a margin of 6 cm (``chorus.kernels.depth``), so that neither every vertex of the body nor every pixel of the
image is needed. Vertices are merged in cubes of ``MERGE`` metres, joint by joint, so that no two limbs grow together; and an
image is drawn at about ``CELLS`` cells along its longer side. Pose blend shapes, which move the skin by a centimetre, are
left out, and betas are zero, as in the votes. Of a mesh without holes whose faces run all one way round, only those that face
the camera are drawn: the others lie behind them. Numba draws where the images are on a CPU, PyTorch on any device: a z-buffer
of the same triangles, edge by edge the same rule. The same input gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.errors import InputError, check_array
from chorus.kernels.cpu.prepare import image_matrices, skeleton_with
from chorus.kernels.depth import MARGIN, MOST_SHIFT, NO_BODY, SIDE, STEP, BodyDepth
from chorus.kernels.jit import compiled
from chorus.kernels.kinematics import relative_transforms
from chorus.kernels.threads import default_threads, run_pieces, split
from chorus.render.rasterize import NEAR, _draw
from chorus.render.triangles import draw_many

CELLS = 128
"""Cells along the longer side of an image, to within a factor sqrt(2): a quarter of the resolution of 512 px."""
MERGE = 0.045
"""Edge of the cubes in which vertices are merged, metres; 0 keeps the whole mesh."""
PER_METRE, FARTHEST, NOWHERE = np.float32(1.0 / STEP), np.float32(NO_BODY - 1), np.float32(NO_BODY)
IMAGES_PER_TASK = 32
IMAGES_PER_PASS = 1024
TORCH_IMAGES = 256


@dataclass(frozen=True, eq=False)
class CoarseBody:
    """A body's mesh with fewer vertices, V of them.

    vertices (V, 3) float64 metres in the zero pose; faces (F, 3) int32
    weights  (V, J) float64; joint (V, W) int32, weight (V, W) float64: the same without zeros, W being the most of a vertex
    outside  1 where faces run clockwise seen from outside, -1 where counterclockwise; 0 where they have no side: the mesh has
             holes, or its faces no common sense
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int32]
    weights: NDArray[np.float64]
    joint: NDArray[np.int32]
    weight: NDArray[np.float64]
    outside: int


_coarse: WeakKeyDictionary[Body, dict[float, CoarseBody]] = WeakKeyDictionary()


def coarse_body(body: Body, merge: float = MERGE) -> CoarseBody:
    """The body with the vertices of every cube of ``merge`` metres and dominant joint put at their mean, faces between them."""
    kept = _coarse.setdefault(body, {})
    if merge in kept:
        return kept[merge]
    vertices, faces, weights = body.vertices, body.faces, body.weights.astype(np.float64)
    if merge > 0:
        cube = np.floor(vertices / merge).astype(np.int64)
        key = np.column_stack([body.dominant_joint, cube])
        _, cluster = np.unique(key, axis=0, return_inverse=True)
        cluster = cluster.reshape(-1)
        count = np.bincount(cluster)[:, None]
        vertices = np.stack([np.bincount(cluster, column) for column in vertices.T], 1) / count
        weights = np.stack([np.bincount(cluster, column) for column in weights.T], 1) / count
        faces = cluster[faces].astype(np.int32)
        different = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
        faces = _once(faces[different])
    # Weights too small to move the surface by a millimetre cost as much as others.
    weights = np.where(weights < 1e-3, 0.0, weights)
    weights /= weights.sum(1, keepdims=True)
    most = int((weights > 0).sum(1).max())
    joint = np.argsort(-weights, axis=1, kind="stable")[:, :most]
    weight = np.take_along_axis(weights, joint, 1)
    faces = np.ascontiguousarray(faces, np.int32)
    made = CoarseBody(vertices, faces, weights, joint.astype(np.int32), weight, _outside(vertices, faces))
    kept[merge] = made
    return made


def _once(faces: NDArray[Any]) -> NDArray[Any]:
    """Every face once; two of the same corners with opposite sides are none: what lay between them is gone."""
    first = faces.argmin(1)
    turned = np.take_along_axis(faces, (first[:, None] + np.arange(3)) % 3, 1)  # the same side, its least corner first
    corners, which = np.unique(np.sort(turned, 1), axis=0, return_inverse=True)
    side = np.where(turned[:, 1] < turned[:, 2], 1, -1)
    total = np.bincount(which.reshape(-1), side, len(corners)).astype(np.int64)
    kept: NDArray[Any] = corners[total != 0]
    backwards = total[total != 0] < 0
    kept[backwards] = kept[backwards][:, [0, 2, 1]]
    return kept


def _outside(vertices: NDArray[np.float64], faces: NDArray[np.int32]) -> int:
    """``CoarseBody.outside``: every edge must be run along as often in one direction as in the other."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    along = edges[:, 0] < edges[:, 1]
    _, which = np.unique(np.sort(edges, 1), axis=0, return_inverse=True)
    if np.bincount(which.reshape(-1), np.where(along, 1, -1)).any():
        return 0
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    volume = float(np.einsum("fi,fi->", a, np.cross(b, c)))
    # Counterclockwise seen from outside is the side of a positive volume.
    return -1 if volume > 0 else int(volume < 0)


def shifts_of(sizes: Any, cells: int = CELLS) -> NDArray[np.int32]:
    """log2 of the pixels along a cell, (I,) int32, by which images of sizes (I, 2) have about ``cells`` on the longer side."""
    longest = np.asarray(sizes).reshape(-1, 2).max(1).astype(np.float64)
    shifts: NDArray[np.int32] = np.clip(np.rint(np.log2(longest / cells)), 0, MOST_SHIFT).astype(np.int32)
    return shifts


def body_depth(
    body: Body,
    cameras: Cameras,
    poses: Any,
    *,
    cells: int = CELLS,
    merge: float = MERGE,
    margin: float = MARGIN,
    device: torch.device | str | None = None,
    threads: int | None = None,
) -> BodyDepth:
    """The depth of the posed body in I images, as ``count_votes`` takes it.

    body     any; betas are zero             cameras  I of them, in the person's frame
    poses    (I, J, 3) axis-angle in radians, row 0 zero
    cells    along the longer side of an image, about (the nearest power of two of pixels a cell)
    merge    edge of the cubes in which vertices are merged, metres; 0 for the whole mesh
    margin   metres that a voxel must lie behind the surface to be hidden
    device   None: drawn by numba on the CPU; else by PyTorch on this device, where the result is then
    threads  of numba; None for every processor this process may run on

    Raises InputError for poses of another shape and numbers out of range.
    """
    poses = check_array("poses", poses, (len(cameras), body.num_joints, 3), np.float32)
    if not 1 <= cells <= 4096:
        raise InputError(f"cells: expected a number 1 .. 4096, got {cells}")
    if not (np.isfinite(merge) and merge >= 0):
        raise InputError(f"merge: expected a length in metres, got {merge}")
    if not (np.isfinite(margin) and margin >= 0):
        raise InputError(f"margin: expected a length in metres, got {margin}")
    coarse, sizes = coarse_body(body, merge), np.asarray(cameras.image_size)
    shift = shifts_of(sizes, cells)
    grids = (((sizes - 1) >> shift[:, None]) + 1).astype(np.int64)
    parts = []
    step = IMAGES_PER_PASS if device is None else TORCH_IMAGES
    for begin, end in split(len(cameras), step):
        rows = slice(begin, end)
        views = _views(cameras, poses, rows, shift[rows])
        if device is None:
            parts.append(_drawn_by_numba(body, coarse, views, grids[rows], threads or default_threads()))
        else:
            parts.append(_drawn_by_torch(body, coarse, views, grids[rows], torch.device(device)))
    counts = [len(part[2]) for part in parts]
    empty = (
        torch.zeros(0, 4, dtype=torch.int32),
        torch.zeros(0),
        torch.zeros(0, dtype=torch.int16),
        torch.zeros(0, dtype=torch.int64),
    )
    box, near, values, start = (torch.cat(p) for p in zip(*parts, strict=True)) if parts else empty
    first = np.repeat(np.cumsum(counts) - counts, [len(part[0]) for part in parts]) if parts else np.zeros(0)
    start = start + torch.from_numpy(first.astype(np.int64)).to(start.device)
    return BodyDepth(torch.from_numpy(shift).to(box.device), box, near, start, values, float(margin))


class _Views(NamedTuple):
    """Poses (I, J, 3) float32, R (I, 3, 3), t (I, 3) and K (I, 3, 3) in cells, float64."""

    poses: NDArray[np.float32]
    R: NDArray[np.float64]
    t: NDArray[np.float64]
    K: NDArray[np.float64]


def _views(cameras: Cameras, poses: NDArray[np.float32], rows: slice, shift: NDArray[np.int32]) -> _Views:
    K = cameras.K[rows].copy()
    K[:, :2] *= 0.5 ** shift[:, None, None]
    return _Views(np.ascontiguousarray(poses[rows]), cameras.R[rows], cameras.t[rows], K)


@compiled()
def _project(coarse_vertices: Any, joint: Any, weight: Any, matrices: Any, K: Any, uvz: Any) -> None:
    """uvz (V, 3) <- vertices under matrices (J, 12) without the principal point: cells, metres; u = v = 0 if z <= NEAR."""
    for i in range(len(uvz)):
        x, y, z = coarse_vertices[i, 0], coarse_vertices[i, 1], coarse_vertices[i, 2]
        u, v, w = 0.0, 0.0, 0.0
        for k in range(joint.shape[1]):
            a = weight[i, k]
            if a == 0.0:  # by falling weight
                break
            m = matrices[joint[i, k]]
            u += a * (m[0] * x + m[1] * y + m[2] * z + m[3])
            v += a * (m[4] * x + m[5] * y + m[6] * z + m[7])
            w += a * (m[8] * x + m[9] * y + m[10] * z + m[11])
        if w > NEAR:
            uvz[i, 0], uvz[i, 1], uvz[i, 2] = u / w + K[0, 2], v / w + K[1, 2], w
        else:
            uvz[i, 0], uvz[i, 1], uvz[i, 2] = 0.0, 0.0, w


@compiled()
def _facing(uvz: Any, faces: Any, outside: int, found: Any) -> int:
    """``found`` (F, 3) gets the faces that face the camera, all where ``outside`` is 0; returns how many."""
    n = 0
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        area = (uvz[b, 0] - uvz[a, 0]) * (uvz[c, 1] - uvz[a, 1]) - (uvz[b, 1] - uvz[a, 1]) * (uvz[c, 0] - uvz[a, 0])
        # Kept where the next one overwrites it, unless it faces the camera: no branch to mispredict.
        found[n, 0], found[n, 1], found[n, 2] = a, b, c
        n += outside == 0 or area * outside > 0
    return n


@compiled(fastmath={"nnan", "nsz"})
def _most_of_rows_and_columns(key: Any, rows: Any, columns: Any) -> None:
    """The greatest key of each row and column, 0 at least."""
    columns[:] = 0.0
    for row in range(len(key)):
        most = np.float32(0.0)
        line = key[row]
        for column in range(len(line)):
            most = max(most, line[column])
            columns[column] = max(columns[column], line[column])
        rows[row] = most


@compiled(fastmath={"nnan"}, error_model="numpy")
def _millimetres(key: Any, near: Any, beyond: Any) -> None:
    """Values of a row of cells, of 1/z float32, 0 without body; of z a float32 keeps a thousandth of a step."""
    for column in range(len(key)):
        k = key[column]
        q = np.rint((np.float32(1.0) / k - near) * PER_METRE)
        q = np.float32(0.0) if q < np.float32(0.0) else q
        q = FARTHEST if q > FARTHEST else q
        beyond[column] = q if k > np.float32(0.0) else NOWHERE


@compiled()
def _pack(key: Any, line: Any, box: Any, values: Any, at: int) -> Any:
    """Pack the blocks of a drawn z-buffer (H, W) float32 1/z into ``values`` from ``at`` on: (nearest z, values written).

    line  (2, >= W rounded up to a block) float32: working memory
    """
    height, width = key.shape
    columns = line[1, :width]
    rows = np.empty(height, np.float32)
    _most_of_rows_and_columns(key, rows, columns)
    y0, y1, x0, x1 = 0, height - 1, 0, width - 1
    while y0 < height and rows[y0] == 0:
        y0 += 1
    if y0 == height:
        return np.float32(0.0), 0
    while rows[y1] == 0:
        y1 -= 1
    while columns[x0] == 0:
        x0 += 1
    while columns[x1] == 0:
        x1 -= 1
    most = np.float32(0.0)
    for row in range(y0, y1 + 1):
        most = max(most, rows[row])
    near = np.float32(1.0) / most
    box[0], box[1], box[2], box[3] = x0 // SIDE, y0 // SIDE, x1 // SIDE + 1, y1 // SIDE + 1
    first, across = int(box[0]) * SIDE, int(box[2] - box[0]) * SIDE
    beyond = line[0, : across + 1]
    inside = min(across, width - first)
    for row in range(box[1] * SIDE, box[3] * SIDE):
        beyond[:] = NO_BODY
        if row < height:
            _millimetres(key[row, first : first + inside], near, beyond)
        to = at + ((row // SIDE - box[1]) * across + row % SIDE) * SIDE
        for block in range(across // SIDE):
            for k in range(SIDE):
                values[to + block * SIDE * SIDE + k] = np.uint16(np.int32(beyond[block * SIDE + k]))
    return near, (box[3] - box[1]) * SIDE * across


@compiled()
def _draw_images(begin: int, end: int, views: Any, skeleton: Any, mesh: Any, grids: Any, start: Any, packed: Any) -> Any:
    """Draw images begin .. end - 1 into values from start[begin] on, and say how many were written.

    mesh  vertices, faces, joint, weight, outside of a ``CoarseBody``      packed  box, near, values, to fill
    """
    vertices, faces, joint, weight, outside = mesh
    box, near, values = packed
    uvz, no_faces, facing = np.empty((len(vertices), 3)), np.empty((0, 0), np.int32), np.empty((len(faces) + 1, 3), np.int32)
    matrices = np.empty((len(skeleton.parents), 12))
    most, widest = 0, 0
    for i in range(begin, end):
        most, widest = max(most, grids[i, 0] * grids[i, 1]), max(widest, grids[i, 1])
    line = np.empty((2, widest + SIDE), np.float32)
    room = np.empty(most, np.float32)  # the z-buffer of each image in turn
    at = start[begin]
    for i in range(begin, end):
        start[i] = at
        image_matrices(views.poses[i], views.R[i], views.t[i], views.K[i], skeleton, matrices)
        _project(vertices, joint, weight, matrices, views.K[i], uvz)
        key = room[: grids[i, 0] * grids[i, 1]].reshape((grids[i, 0], grids[i, 1]))
        key[:] = 0.0
        _draw(uvz, facing[: _facing(uvz, faces, outside, facing)], NEAR, False, key, no_faces)
        near[i], written = _pack(key, line, box[i], values, at)
        at += written
    return at - start[begin]


def _drawn_by_numba(
    body: Body, coarse: CoarseBody, views: _Views, grids: NDArray[np.int64], threads: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """box (I, 4) int32, near (I,) float32, values (T,) int16, start (I,) int64 of the images."""
    n = len(grids)
    room = ((grids + SIDE - 1) // SIDE * SIDE).prod(1)
    start = np.cumsum(room) - room
    values = np.empty(int(room.sum()), np.uint16)  # most of it is never touched
    box, near, written = np.zeros((n, 4), np.int32), np.zeros(n, np.float32), np.zeros(n, np.int64)
    pieces = split(n, IMAGES_PER_TASK)
    # The transforms from the zero pose, where the mesh is: A_j(zero -> rest) is none.
    still = np.tile(np.eye(4), (body.num_joints, 1, 1))
    skeleton = skeleton_with(body.joints, body.parents, still, np.arange(body.num_joints))
    mesh = coarse.vertices, coarse.faces, coarse.joint, coarse.weight, coarse.outside
    first = start[[begin for begin, _ in pieces]].copy()

    def work(begin: int, end: int) -> None:
        written[begin] = _draw_images(begin, end, views, skeleton, mesh, grids, start, (box, near, values))

    run_pieces(threads, work, pieces)
    lengths = written[[begin for begin, _ in pieces]]
    packed = np.concatenate([values[a : a + length] for a, length in zip(first, lengths, strict=True)])
    moved = first - (np.cumsum(lengths) - lengths)
    start -= np.repeat(moved, [end - begin for begin, end in pieces])
    return torch.from_numpy(box), torch.from_numpy(near), torch.from_numpy(packed.view(np.int16)), torch.from_numpy(start)


def _drawn_by_torch(
    body: Body, coarse: CoarseBody, views: _Views, grids: NDArray[np.int64], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """As ``_drawn_by_numba``, on a device."""
    poses, R, t, K = (torch.from_numpy(a).to(device).double() for a in views)
    camera = K @ torch.cat([R, t[..., None]], -1)
    joints = torch.tensor(body.joints, device=device)
    matrices = camera[:, None] @ relative_transforms(poses, joints, body.parents.tolist())
    weights, vertices = (torch.from_numpy(a).to(device) for a in (coarse.weights, coarse.vertices))
    homogeneous = torch.nn.functional.pad(vertices, (0, 1), value=1.0)
    blended = (weights @ matrices.reshape(len(matrices), -1, 12)).reshape(len(matrices), -1, 3, 4)
    uvz = torch.einsum("ivab,vb->iva", blended, homogeneous)
    shape = tuple(int(n) for n in -(-grids.max(0) // SIDE) * SIDE)
    grid = torch.from_numpy(grids).to(device)
    key = draw_many(uvz, torch.from_numpy(coarse.faces).to(device).long(), grid, (shape[0], shape[1]), NEAR, coarse.outside)
    blocks = key.reshape(len(key), shape[0] // SIDE, SIDE, shape[1] // SIDE, SIDE).transpose(2, 3).flatten(3)
    seen = (blocks > 0).any(-1)
    first, last = [], []
    for across in (1, 2):
        line = seen.any(across)
        number = torch.arange(line.shape[1], device=device)
        first.append(torch.where(line, number, line.shape[1]).amin(1))
        last.append(torch.where(line, number, -1).amax(1) + 1)
    box = torch.stack([*first, *last], 1)
    box = torch.where(seen.any(2).any(1)[:, None], box, 0)
    row, column = (torch.arange(n, device=device) for n in seen.shape[1:])
    in_box = ((row >= box[:, 1:2]) & (row < box[:, 3:]))[:, :, None] & ((column >= box[:, :1]) & (column < box[:, 2:3]))[
        :, None
    ]
    most = blocks.flatten(1).amax(1).clamp(min=0)
    near = torch.where(most > 0, 1.0 / most, 0.0)
    beyond = torch.round((1.0 / blocks - near[:, None, None, None]) * (1.0 / STEP)).clamp(0, NO_BODY - 1)
    values = torch.where(blocks > 0, beyond, NO_BODY)[in_box].int().flatten()
    count = (box[:, 2:] - box[:, :2]).prod(1) * SIDE * SIDE
    return box.int(), near, values.to(torch.int16), torch.cumsum(count, 0) - count
