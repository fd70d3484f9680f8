"""Occupancy around a posed human by inverse LBS (Eq. 11): weights around the posed mesh, then phi sampled in the rest pose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor

from chorus.body.model import Body, load_body
from chorus.canonicalization import NONE
from chorus.errors import InputError, MismatchError, check_array, check_kind, to_numpy
from chorus.field import FieldParameters
from chorus.kernels import kinematics
from chorus.kernels.arrays import Lattice, cube
from chorus.kernels.backends import Backend, BackendUnavailableError, choose_backend
from chorus.kernels.skinning import INVERSES, PELVIS
from chorus.occupancy.posed_rigid import posed_rigid

INTERPOLATIONS = ("nearest", "trilinear")
"""How phi is read at a canonical point: the nearest voxel (the paper's), or linearly between the eight around it."""
_POINTS = 1 << 16
"""Points in a chunk of ``to_canonical``, which bounds the memory for their blended transforms."""


@dataclass(frozen=True)
class _BodyOnDevice:
    """The arrays of a body that posing needs, on one device."""

    vertices: Tensor
    """(V, 3) float64"""
    weights: Tensor
    """(V, J) float64"""
    posedirs: Tensor | None
    """(V * 3, 9 (J - 1)) float32"""
    rest_inverse: Tensor
    """(J, 4, 4) float64 A_j(zero -> rest)^-1, on the CPU"""
    vertex_order: dict[str, Tensor]
    """Argument ``order`` of the backend's ``posed_phi``, for a backend that sorts the vertices; else empty"""


_bodies_on_devices: WeakKeyDictionary[Body, dict[tuple[str, torch.device], _BodyOnDevice]] = WeakKeyDictionary()


def _body_on_device(backend: Backend, body: Body) -> _BodyOnDevice:
    """The body's arrays on the backend's device, copied once and cached for the lifetime of the body."""
    known, device = _bodies_on_devices.setdefault(body, {}), backend.device
    if (backend.name, device) not in known:
        vertices = torch.tensor(body.vertices, device=device)
        tile_order = getattr(backend.skinning, "tile_order", None)
        known[backend.name, device] = _BodyOnDevice(
            vertices=vertices,
            weights=torch.tensor(body.weights, dtype=torch.float64, device=device),
            posedirs=None if body.posedirs is None else torch.tensor(body.posedirs, device=device).flatten(0, 1),
            rest_inverse=torch.tensor(body.rest_inverse),
            vertex_order={} if tile_order is None else {"order": tile_order(vertices)},
        )
    return known[backend.name, device]


def posed_mesh(vertices: Tensor, weights: Tensor, posedirs: Tensor | None, rotations: Tensor, transforms: Tensor) -> Tensor:
    """Vertices in a pose, (V, 3) float64 metres: ``Body.posed_vertices``, but on the device of the arguments.

    vertices    (V, 3) float64 template        weights     (V, J) float64 skinning weights
    posedirs    (V * 3, 9 (J - 1)) float32 pose blend shapes or None
    rotations   (J, 3, 3) float64 of the joints  transforms  (J, 4, 4) float64 A_j(zero -> theta)
    """
    if posedirs is not None:
        feature = (rotations[1:] - torch.eye(3).to(rotations)).flatten().to(posedirs.dtype)
        vertices = vertices + (posedirs @ feature).view(-1, 3)
    return kinematics.linear_blend_skinning(vertices, weights, transforms)


@lru_cache
def _built_in() -> Body:
    return load_body()


def body_of(body_hash: str, body: Body | None = None) -> Body:
    """The body given (None: the built-in one), checked to have this hash. MismatchError where it has another."""
    given = _built_in() if body is None else body
    check_kind("body", given, Body)
    if given.hash != body_hash:
        what = f"{given.name} {given.hash[:12]}" + ("" if body is not None else ", the built-in one (give yours)")
        raise MismatchError(f"body: expected the one with hash {body_hash[:12]}, got {what}")
    return given


def posed_bones(body: Body, pose: NDArray[np.float64], betas: Any = None) -> NDArray[np.float64]:
    """Bone transforms B_j(theta) of Eq. 11, from the rest pose to the pose, (J, 3, 4) float64, metres.

    pose   (J, 3) axis-angle in radians
    betas  (b,) shape coefficients of the posed person, or None. The canonical body is the template, so with betas B_j moves
           joint j from its place in the template to its place in the shaped body.
    """
    transforms = body.relative_transforms(pose[None], betas)[0]
    if betas is not None and body.joint_shapedirs is not None:
        shape = np.asarray(betas, np.float64)
        shift = body.joint_shapedirs[..., : len(shape)] @ shape
        transforms[:, :3, 3] += (transforms[:, :3, :3] @ shift[..., None])[..., 0]
    bones: NDArray[np.float64] = (transforms @ body.rest_inverse)[:, :3]
    return bones


def to_canonical(
    points: NDArray[np.float64], weights: NDArray[Any], bones: NDArray[np.float64], inverse: str = INVERSES[0]
) -> NDArray[np.float64]:
    """Inverse LBS (Eq. 11): points from the posed to the canonical frame, (P, 3) float64 metres.

    points   (P, 3) metres, posed person frame      weights  (P, J) skinning weights of the points, around the posed mesh
    bones    (J, 3, 4) bone transforms B_j
    inverse  "blend_of_inverses": sum_j w_j B_j^-1 x;  "inverse_of_blend": (sum_j w_j B_j)^-1 x, not finite where singular.
             InputError for another
    """
    if inverse not in INVERSES:
        raise InputError(f"inverse: expected {' or '.join(INVERSES)}, got {inverse!r}")
    if inverse == "blend_of_inverses":
        bones = kinematics.inverse_rigid(torch.from_numpy(bones)).numpy()
    found = np.empty(points.shape)
    for first in range(0, len(points), _POINTS):
        rows = slice(first, first + _POINTS)
        x, w = points[rows], weights[rows].astype(np.float64)
        if inverse == "blend_of_inverses":
            found[rows] = kinematics.linear_blend_skinning(x, w, bones)
        else:  # Cramer's rule: the columns of the inverse are cross products of the rows over the determinant
            blend = kinematics.blend_transforms(w, bones)
            A, t = blend[..., :3], blend[..., 3]
            columns = np.stack([np.cross(A[:, (i + 1) % 3], A[:, (i + 2) % 3]) for i in range(3)], -1)
            with np.errstate(divide="ignore", invalid="ignore"):
                determinant = np.einsum("pa,pa->p", A[:, 0], columns[..., 0])
                found[rows] = (columns @ (x - t)[..., None])[..., 0] / determinant[:, None]
    return found


def sample_trilinear(phi: NDArray[np.float32], points: NDArray[np.float64], extent: float) -> NDArray[np.float32]:
    """phi, (N, N, N) on a cube of ``extent`` metres around the origin, at points (P, 3) metres: (P,) float32.

    Linear between the eight voxel centres around a point, those outside the grid counting as 0; 0 where a point is not finite.
    """
    N = len(phi)
    cell = (points + extent / 2) * (N / extent) - 0.5
    cell = np.where(np.isfinite(points).all(1, keepdims=True), np.clip(cell, -2, N + 1), -2)
    values: NDArray[np.float32] = map_coordinates(phi, cell.T, order=1, mode="grid-constant", cval=0.0, output=np.float32)
    return values


def _near_weights(
    lattice: Lattice, mesh: NDArray[np.float64], body: Body, p: FieldParameters, backend: Backend
) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Voxels near a posed mesh, (S,) flat indices, and their skinning weights (S, J); others are rigid with the pelvis."""
    if backend.name == "numba":  # sparse: the voxels that are far take no memory
        from chorus.kernels.cpu.skinning import near_weights

        found = near_weights(lattice, mesh, body.weights, k=p.k, tau=p.tau, s=p.s, steps=p.smoothing_steps)
        slots = np.flatnonzero(found.near)
        return found.voxel[slots], found.weight[:, slots].T
    vertices = torch.from_numpy(mesh).to(backend.device)
    table = torch.tensor(body.weights, dtype=torch.float64, device=backend.device)
    weights, near = backend.skinning.skinning_weights(lattice, vertices, table, k=p.k, tau=p.tau, s=p.s)
    voxels = torch.nonzero(near)[:, 0]
    weights = backend.skinning.smooth(lattice, weights, near, steps=p.smoothing_steps)[voxels]
    return voxels.cpu().numpy(), weights.cpu().numpy()


def _posed_trilinear(
    phi: NDArray[np.float32],
    pose: NDArray[np.float64],
    betas: Any,
    body: Body,
    p: FieldParameters,
    inverse: str,
    backend: Backend,
) -> NDArray[np.float32]:
    lattice = cube(p.resolution, p.extent)
    bones = posed_bones(body, pose, betas)
    mesh = body.posed_vertices(pose[None], betas)[0]
    centres = lattice.centres().numpy()
    posed = phi.ravel().copy()
    if not np.array_equal(bones[PELVIS], np.eye(3, 4)):  # with betas the pelvis moves, and the far voxels with it
        ones = np.ones((len(centres), 1))
        posed = sample_trilinear(phi, to_canonical(centres, ones, bones[PELVIS : PELVIS + 1]), p.extent)
    voxels, weights = _near_weights(lattice, mesh, body, p, backend)
    posed[voxels] = sample_trilinear(phi, to_canonical(centres[voxels], weights, bones, inverse), p.extent)
    return posed.reshape(phi.shape)


def _posed_nearest(
    phi: NDArray[np.float32],
    pose: NDArray[np.float64],
    betas: Any,
    body: Body,
    p: FieldParameters,
    inverse: str,
    backend: Backend,
) -> NDArray[np.float32]:
    device, arrays = backend.device, _body_on_device(backend, body)
    if betas is None:
        # A few dozen matrices: quicker on the CPU than launching kernels for them.
        transforms = torch.from_numpy(body.relative_transforms(pose[None])[0])
        rotations = kinematics.rotation_matrices(torch.tensor(pose))
        bones = (transforms @ arrays.rest_inverse)[:, :3]
        mesh = posed_mesh(arrays.vertices, arrays.weights, arrays.posedirs, rotations.to(device), transforms.to(device))
    else:
        bones = torch.from_numpy(posed_bones(body, pose, betas))
        mesh = torch.from_numpy(body.posed_vertices(pose[None], betas)[0]).to(device)
    lattice = cube(p.resolution, p.extent)
    posed = backend.skinning.posed_phi(
        lattice,
        mesh,
        arrays.weights,
        bones.to(device),
        torch.from_numpy(np.array(phi)).to(device),
        lattice,
        k=p.k,
        tau=p.tau,
        s=p.s,
        steps=p.smoothing_steps,
        inverse=inverse,
        **arrays.vertex_order,
    )
    result: NDArray[np.float32] = posed.cpu().numpy()
    return result


def _posed_rigid(
    phi: NDArray[np.float32],
    joints: NDArray[np.int32],
    pose: NDArray[np.float64],
    betas: Any,
    body: Body,
    p: FieldParameters,
    interpolation: str,
) -> NDArray[np.float32]:
    def trilinear(points: NDArray[np.float64]) -> NDArray[np.float32]:
        return sample_trilinear(phi, points, p.extent)

    sample = trilinear if interpolation == "trilinear" else None
    return posed_rigid(phi, joints, posed_bones(body, pose, betas), cube(p.resolution, p.extent), to_canonical, sample)


def _chosen_backend(name: str, interpolation: str) -> Backend:
    if interpolation == "trilinear":
        if name == "triton":
            raise BackendUnavailableError(
                "backend: expected numba (the faster one) or reference for trilinear interpolation, got triton, "
                "which samples the nearest voxel only"
            )
        name = "numba" if name == "auto" else name
    return choose_backend(name)


def posed_occupancy(
    phi: Any,
    pose: Any,
    parameters: FieldParameters,
    body_hash: str,
    body: Body | None = None,
    *,
    betas: Any = None,
    inverse: str = "blend_of_inverses",
    interpolation: str = "nearest",
    backend: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Occupancy around a posed human (Eq. 11), (N, N, N) float32 in the posed person's frame, on the field's grid.

    phi            (N, N, N) canonical occupancy, indexed [ix, iy, iz]
    pose           (J, 3) axis-angle in radians; row 0, the global orientation, zero. Or (n, J, 3), for (n, N, N, N)
    parameters     of the field that phi was made with; the skinning weights around the posed mesh use the same
    body_hash      of the body that phi was made with
    body           that body; None for the built-in one
    betas          the posed person's shape coefficients, (b,), or (n, b) for n poses; None for the template's shape
    inverse        "blend_of_inverses" (the paper's), "inverse_of_blend" (the published code's)
    interpolation  "nearest" voxel (the paper's), or "trilinear", with 0 outside the grid, on the CPU only
    backend        "auto", "triton", "numba", "reference"
    progress       called with (done, total) after each pose

    Without canonicalization (``none``) every voxel is rigid with the pelvis, and the result is phi. Where each voxel is rigid
    with one joint (``joint:NAME``, ``per-voxel``) points are taken back by that joint's B^-1 instead of Eq. 11, on the CPU,
    whatever ``inverse`` and ``backend`` (``chorus.occupancy.posed_rigid``). Raises InputError for arguments that cannot be
    used, MismatchError for another body, BackendUnavailableError for a backend that cannot run here.
    """
    p, N = parameters, parameters.resolution
    values = check_array("phi", phi, (N, N, N), np.float32)
    for name, value, known in (("inverse", inverse, INVERSES), ("interpolation", interpolation, INTERPOLATIONS)):
        if not isinstance(value, str) or value not in known:
            raise InputError(f"{name}: expected {' or '.join(known)}, got {value!r}")
    body = body_of(body_hash, body)
    batch = to_numpy(pose).ndim == 3
    joints: tuple[int | str, ...] = (body.num_joints, 3)
    poses = check_array("pose", pose, ("n", *joints) if batch else joints, np.float64).reshape(-1, body.num_joints, 3)
    turned = np.flatnonzero(poses[:, 0].any(1))
    if turned.size:
        row, which = poses[turned[0], 0], f" in pose {turned[0]}" if batch else ""
        raise InputError(f"pose: expected a zero row 0 (the global orientation lives in the camera), got {row}{which}")
    shapes = [None] * len(poses) if betas is None else list(shapes_of(betas, len(poses), body))
    chosen = _chosen_backend(backend, interpolation)
    pose_one = _posed_nearest if interpolation == "nearest" else _posed_trilinear
    rigid = p.rule.rigid_joints(body, N)
    posed = np.empty((len(poses), N, N, N), np.float32)
    for i, (one, shape) in enumerate(zip(poses, shapes, strict=True)):
        if p.canonicalization == NONE:
            posed[i] = values
        elif rigid is not None:
            posed[i] = _posed_rigid(values, rigid, one, shape, body, p, interpolation)
        else:
            posed[i] = pose_one(values, one, shape, body, p, inverse, chosen)
        if progress is not None:
            progress(i + 1, len(poses))
    result: NDArray[np.float32] = posed if batch else posed[0]
    return result


def shapes_of(betas: Any, count: int, body: Body) -> NDArray[np.float64]:
    """The shape coefficients of each of ``count`` poses, (n, b)."""
    given = to_numpy(betas)
    shape = check_array("betas", given, ("b",) if given.ndim == 1 else (count, "b"), np.float64)
    most = 0 if body.shapedirs is None else body.shapedirs.shape[2]
    if shape.shape[-1] > most:
        raise InputError(f"betas: expected at most the body's {most} shape coefficients, got {shape.shape[-1]}")
    return np.broadcast_to(shape, (count, shape.shape[-1]))
