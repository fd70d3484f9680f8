"""phi at points around posed people, in PyTorch: batched, on the tensors' device, differentiable in points and poses.

Posed inference as ``chorus.occupancy.posed`` has it (Eq. 11, trilinear), at any point x instead of at the voxels of a grid::

    phi_posed(x; theta) = phi(x_c)       x_c = sum_j w_j(x) B_j^-1 x     or   (sum_j w_j(x) B_j)^-1 x

The weights around the posed mesh are Eq. 4 and 9 at the voxel centres of the posed frame, smoothed there as the field's are,
and linear between the centres; where the field has no smoothing they are Eq. 4 and 9 at x itself. At voxel centres phi is
``posed(..., interpolation="trilinear")``, up to rounding. What is smoothed here are not weights but the transforms that they
blend: blending is linear, and a transform has 12 numbers where a voxel has J weights.

Gradients are those of this function, the mesh's motion under the weights included, with the set of the k nearest vertices held:
where a vertex takes another's place among the k, the function jumps (by what the k-th has of Eq. 4). They are piecewise smooth:
phi and the weights have kinks at voxel centres, and de-weighting is steep at tau.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from chorus.body.model import Body
from chorus.canonicalization import NONE
from chorus.errors import InputError, check_array
from chorus.field import FieldParameters
from chorus.kernels import kinematics
from chorus.kernels.arrays import cube
from chorus.kernels.cpu.skinning import near_weights
from chorus.kernels.skinning import INVERSES, PELVIS, RELAXATION
from chorus.kernels.threads import default_threads
from chorus.occupancy.posed import body_of, posed_mesh, shapes_of

_ROWS = 2048
"""Points whose distances to all vertices are held at a time, on a GPU."""


@dataclass(frozen=True)
class _BodyTensors:
    """A body's arrays on one device, float64: the blend shapes, too, or small changes of a pose would be lost in them."""

    vertices: Tensor
    weights: Tensor
    posedirs: Tensor | None
    joints: Tensor
    rest_inverse: Tensor


_bodies: WeakKeyDictionary[Body, dict[torch.device, _BodyTensors]] = WeakKeyDictionary()


def _tensors_of(body: Body, device: torch.device) -> _BodyTensors:
    known = _bodies.setdefault(body, {})
    if device not in known:
        posedirs = (
            None if body.posedirs is None else torch.tensor(body.posedirs, dtype=torch.float64, device=device).flatten(0, 1)
        )
        vertices, weights, joints, rest_inverse = (
            torch.tensor(array, dtype=torch.float64, device=device)
            for array in (body.vertices, body.weights, body.joints, body.rest_inverse)
        )
        known[device] = _BodyTensors(vertices, weights, posedirs, joints, rest_inverse)
    return known[device]


class _Smooth(torch.autograd.Function):
    """The Jacobi steps of ``chorus.kernels.skinning`` on any number of scalar fields; their transpose backwards."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor, free: Tensor, steps: int) -> Tensor:
        """grid (C, X, Y, Z), and free (X - 2, Y - 2, Z - 2), RELAXATION where an inner voxel is stepped, else 0."""
        ctx.save_for_backward(free)
        ctx.steps = steps
        grid = grid.clone()
        inner, *around = _neighbours(grid)
        for _ in range(steps):
            step = around[0] + around[1]
            for shifted in around[2:]:
                step += shifted
            inner += step.div_(6).sub_(inner).mul_(free)
        return grid

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        """The adjoint: a stepped voxel gives a share of its gradient to those that it took the mean of."""
        (free,) = ctx.saved_tensors
        gradient = gradients[0].clone()
        inner, *around = _neighbours(gradient)
        for _ in range(ctx.steps):
            given = inner * free
            inner -= given
            given /= 6
            for shifted in around:
                shifted += given
        return gradient, None, None


def _neighbours(grid: Tensor) -> list[Tensor]:
    """Views of the inner voxels of (C, X, Y, Z), and of those before and after them on each axis."""
    views = [grid[:, 1:-1, 1:-1, 1:-1]]
    for axis in range(3):
        for shift in (slice(0, -2), slice(2, None)):
            views.append(grid[(slice(None), *(shift if a == axis else slice(1, -1) for a in range(3)))])
    return views


def _nearest(points: Tensor, vertices: Tensor, k: int, tau: float) -> tuple[Tensor, Tensor]:
    """Points (Q, 3) within tau of a vertex, (S,) rows, and their k nearest vertices, (S, k), the nearest first."""
    if points.device.type != "cpu":
        return _nearest_of_all(points, vertices, k, tau)
    tree, centres = cKDTree(vertices.double().numpy()), points.double().numpy()
    bound, workers = np.nextafter(tau, np.inf), default_threads()
    inside = np.isfinite(tree.query(centres, 1, distance_upper_bound=bound, workers=workers)[0])
    found = tree.query(centres[inside], list(range(1, k + 1)), workers=workers)[1]
    return torch.from_numpy(np.flatnonzero(inside)), torch.from_numpy(found.astype(np.int64)).reshape(-1, k)


def _nearest_of_all(points: Tensor, vertices: Tensor, k: int, tau: float) -> tuple[Tensor, Tensor]:
    """``_nearest`` from the distances of all points to all vertices, some points at a time: for a GPU."""
    near_rows, nearest = [], []
    for first in range(0, len(points), _ROWS):
        x = points[first : first + _ROWS].to(vertices.dtype)
        distance, index = torch.cdist(x, vertices, compute_mode="donot_use_mm_for_euclid_dist").topk(k, largest=False)
        rows = torch.nonzero(distance[:, 0] <= tau)[:, 0]
        near_rows.append(rows + first)
        nearest.append(index[rows])
    return torch.cat(near_rows), torch.cat(nearest)


def _blend_near(points: Tensor, vertices: Tensor, values: Tensor, p: FieldParameters) -> tuple[Tensor, Tensor]:
    """Eq. 4 and 9 for values of vertices (P, C) instead of weights: rows (S,) of the points that are near, and (S, C).

    The pelvis's value is 0, and so is that of points that are not near.
    """
    rows, index = _nearest(points.detach(), vertices.detach(), p.k, p.tau)
    corners = vertices.index_select(0, index.flatten()).view(*index.shape, 3)
    square = (points[rows, None] - corners).square().sum(-1)
    touching = square[:, :1] == 0
    distance = torch.where(square == 0, 1, square).sqrt()
    one = functional.one_hot(torch.zeros_like(index[:, 0]), p.k).to(distance)
    share = torch.where(touching, one, 1 / distance)
    share = share / share.sum(1, keepdim=True)
    ratio = (p.tau - distance[:, 0]) / (p.tau + distance[:, 0])
    alpha = torch.where(touching[:, 0], 1, torch.where(ratio > 0, ratio, 1) ** p.s * (ratio > 0))
    blended = functional.embedding_bag(index, values, per_sample_weights=share, mode="sum")
    return rows, alpha[:, None] * blended


def _around_mesh(points: Tensor, vertices: Tensor, values: Tensor, p: FieldParameters) -> Tensor:
    """What ``_blend_near`` gives, at all of the points (Q, 3) and smoothed as the field is: (Q, C)."""
    N = p.resolution
    if p.smoothing_steps == 0:
        rows, near = _blend_near(points, vertices, values, p)
        return torch.zeros(len(points), values.shape[1]).to(near).index_copy(0, rows, near)
    lattice = cube(N, p.extent).centres(points.dtype, points.device)
    rows, near = _blend_near(lattice, vertices, values, p)
    grid = torch.zeros(N**3, values.shape[1]).to(near).index_copy(0, rows, near).T.reshape(-1, N, N, N)
    free = torch.zeros(N**3).to(near).index_fill(0, rows, RELAXATION).view(N, N, N)
    if len(rows) and N > 2:
        grid = _Smooth.apply(grid.contiguous(), free[1:-1, 1:-1, 1:-1].contiguous(), p.smoothing_steps)  # type: ignore[no-untyped-call]
    return _interpolated(grid, points, p.extent, "border").T


def _around_mesh_numba(points: Tensor, mesh: Tensor, matrices: Tensor, body: Body, p: FieldParameters) -> Tensor:
    """``_around_mesh`` of values of joints (J, C) that need no gradient: the CPU's kernel is several times faster."""
    found = near_weights(
        cube(p.resolution, p.extent), mesh.numpy(), body.weights, k=p.k, tau=p.tau, s=p.s, steps=p.smoothing_steps
    )
    slots = torch.from_numpy(np.flatnonzero(found.near))
    near = torch.from_numpy(found.weight)[:, slots].T.to(points) @ matrices.to(points)
    grid = points.new_zeros(found.lattice.num_voxels, near.shape[1])
    grid[torch.from_numpy(found.voxel)[slots]] = near
    return _interpolated(grid.T.reshape(-1, *found.lattice.shape), points, p.extent, "border").T


def _interpolated(grid: Tensor, points: Tensor, extent: float, outside: str) -> Tensor:
    """Fields (C, N, N, N) on a cube around the origin, linear between voxel centres, at points (P, 3): (C, P)."""
    place = points.flip(-1) * (2 / extent)  # grid_sample names the last axis first
    found = functional.grid_sample(grid[None], place[None, None, None], padding_mode=outside, align_corners=False)
    return found[0, :, 0, 0]


def _phi_at(phi: Tensor, points: Tensor, extent: float) -> Tensor:
    """phi (N, N, N) at points (P, 3): (P,); 0 outside the grid, and where a point is not finite."""
    finite = torch.isfinite(points).all(-1)
    found = _interpolated(phi[None], torch.where(finite[:, None], points, 2 * extent), extent, "zeros")[0]
    return torch.where(finite, found, 0)


def _inverted(transforms: Tensor, points: Tensor) -> Tensor:
    """The points that transforms (P, 3, 4) take to these (P, 3); not finite where there is none."""
    a, x = transforms[..., :3], points - transforms[..., 3]
    columns = torch.stack([torch.linalg.cross(a[:, (i + 1) % 3], a[:, (i + 2) % 3]) for i in range(3)], -1)
    return (columns @ x[..., None])[..., 0] / (a[:, 0] * columns[..., 0]).sum(-1, keepdim=True)


def _posed(body: Body, pose: Tensor, betas: Tensor | None) -> tuple[Tensor, Tensor]:
    """Posed vertices (V, 3) and bones (J, 3, 4), float64: ``posed_bones`` and ``Body.posed_vertices`` with gradients."""
    arrays = _tensors_of(body, pose.device)
    vertices, joints, shift = arrays.vertices, arrays.joints, None
    if betas is not None and body.shapedirs is not None and body.joint_shapedirs is not None:
        b = len(betas)
        vertices = vertices + torch.tensor(body.shapedirs[..., :b], dtype=torch.float64, device=pose.device) @ betas
        shift = torch.tensor(body.joint_shapedirs[..., :b], device=pose.device) @ betas
        joints = joints + shift
    transforms = kinematics.relative_transforms(pose[None], joints, body.parents.tolist())[0]
    mesh = posed_mesh(vertices, arrays.weights, arrays.posedirs, kinematics.rotation_matrices(pose), transforms)
    top = transforms[:, :3]
    if shift is not None:
        moved = top[..., 3] + (top[..., :3] @ shift[..., None])[..., 0]
        top = torch.cat([top[..., :3], moved[..., None]], -1)
    lowest = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64, device=pose.device).expand(len(top), 1, 4)
    return mesh, (torch.cat([top, lowest], -2) @ arrays.rest_inverse)[:, :3]


def _blended(points: Tensor, mesh: Tensor, bones: Tensor, body: Body, p: FieldParameters, inverse: str) -> Tensor:
    """Canonical points (Q, 3) of posed ones (Eq. 11)."""
    inverts = inverse == "blend_of_inverses"
    matrices = (kinematics.inverse_rigid(bones) if inverts else bones).flatten(1)
    if points.device.type == "cpu" and p.smoothing_steps and not bones.requires_grad:
        away = _around_mesh_numba(points, mesh, matrices - matrices[PELVIS], body, p)
    else:
        beyond = _tensors_of(body, points.device).weights @ (matrices - matrices[PELVIS])
        away = _around_mesh(points, mesh.to(points), beyond.to(points), p)
    blend = (matrices[PELVIS].to(points) + away).view(-1, 3, 4)
    if inverts:
        return (blend[..., :3] @ points[..., None])[..., 0] + blend[..., 3]
    return _inverted(blend, points)


def _rigid(phi: Tensor, points: Tensor, bones: Tensor, joints: Tensor, extent: float) -> Tensor:
    """``posed_rigid`` at points (P, 3): the largest phi of those that joints carry there."""
    inverses, N = kinematics.inverse_rigid(bones).to(points), len(phi)
    present = torch.unique(joints[phi.flatten() != 0]).tolist()
    several = len(torch.unique(joints)) > 1
    best = 0 * (points.sum(-1) + inverses.sum())  # zeros of the graph, for where nothing is
    for joint in present:
        x = points @ inverses[joint, :, :3].mT + inverses[joint, :, 3]
        found = _phi_at(phi, x, extent)
        if several:
            cell = torch.floor((x.detach() + extent / 2) * (N / extent))
            inside = ((cell >= 0) & (cell < N)).all(-1)
            i, j, k = torch.where(inside[:, None], cell, 0).long().unbind(-1)
            found = torch.where(inside & (joints[(i * N + j) * N + k] == joint), found, 0)
        best = torch.maximum(best, found)
    return best


def query(
    phi: Any,
    points: Any,
    poses: Any,
    parameters: FieldParameters,
    body_hash: str,
    body: Body | None = None,
    *,
    betas: Any = None,
    inverse: str = INVERSES[0],
) -> Tensor:
    """phi at points around posed people, (B, P) on the device and of the dtype of ``points``; see the module.

    phi         (N, N, N) canonical occupancy          parameters, body_hash  of the field that it was made with
    points      (B, P, 3) float32 or float64 tensor, metres in each posed person's frame; or (P, 3), with poses (J, 3), for (P,)
    poses       (B, J, 3) tensor on the same device, axis-angle in radians; row 0 zero, and its gradient too
    body        the field's; None for the built-in one. MismatchError for another
    betas       shape coefficients, (b,) or (B, b); None for the template's shape. No gradient
    inverse     "blend_of_inverses" (the paper's), "inverse_of_blend" (the published code's)

    0 outside the canonical grid. Raises InputError for arguments that cannot be used.
    """
    body = body_of(body_hash, body)
    if not isinstance(inverse, str) or inverse not in INVERSES:
        raise InputError(f"inverse: expected {' or '.join(INVERSES)}, got {inverse!r}")
    p, N = parameters, parameters.resolution
    points, poses = torch.as_tensor(points), torch.as_tensor(poses)
    single = points.ndim == 2
    points, poses = (points[None], poses[None]) if single else (points, poses)
    _check(points, poses, body)
    shapes = None if betas is None else torch.tensor(shapes_of(betas, len(poses), body), device=points.device)
    values = torch.tensor(check_array("phi", phi, (N, N, N), np.float32), dtype=points.dtype, device=points.device)
    rigid = p.rule.rigid_joints(body, N)
    joints = None if rigid is None else torch.from_numpy(rigid).to(points.device)
    kept = torch.ones(body.num_joints, 1, dtype=torch.float64, device=points.device)
    kept[0] = 0  # the global orientation stays zero under whatever follows the gradient
    found = []
    for i in range(len(points)):
        shape = None if shapes is None or p.canonicalization == NONE else shapes[i]
        mesh, bones = _posed(body, poses[i].double() * kept, shape)
        if joints is not None:
            found.append(_rigid(values, points[i], bones, joints, p.extent))
        else:
            found.append(_phi_at(values, _blended(points[i], mesh, bones, body, p, inverse), p.extent))
    if not found:
        return torch.zeros(points.shape[:2], dtype=points.dtype, device=points.device)
    return found[0] if single else torch.stack(found)


def _check(points: Tensor, poses: Tensor, body: Body) -> None:
    if points.ndim != 3 or points.shape[-1] != 3 or points.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"points: expected float32 or float64 of shape (B, P, 3), or (P, 3) of one person; got {points.dtype} of shape "
            f"{tuple(points.shape)}"
        )
    wanted = (len(points), body.num_joints, 3)
    if poses.shape != wanted or not poses.is_floating_point():
        raise InputError(f"poses: expected floating point of shape {wanted}, got {poses.dtype} of shape {tuple(poses.shape)}")
    if poses.device != points.device:
        raise InputError(f"poses: expected a tensor on {points.device}, as the points are; got {poses.device}")
    for name, tensor in (("points", points), ("poses", poses)):
        if not torch.isfinite(tensor).all():
            raise InputError(f"{name}: expected finite numbers, got some that are not")
    if poses[:, 0].any():
        raise InputError("poses: expected a zero row 0 (the global orientation lives in the camera), got others")


def canonical_point(phi: Any, point: Any, pose: Any, parameters: FieldParameters, body: Body) -> Tensor:
    """Where in the rest pose's person frame a point (3,) around a posed person comes from (Eq. 11), (3,) float64 metres.

    phi (N, N, N) decides between joints where these differ from voxel to voxel; pose (J, 3).
    """
    p, N = parameters, parameters.resolution
    x = torch.as_tensor(point, dtype=torch.float64).reshape(1, 3)
    if p.canonicalization == NONE:
        return x[0]
    mesh, bones = _posed(body, torch.as_tensor(pose, dtype=torch.float64), None)
    rigid = p.rule.rigid_joints(body, N)
    if rigid is None:
        return _blended(x, mesh, bones, body, p, INVERSES[0])[0]
    inverses, values, joints = kinematics.inverse_rigid(bones), torch.as_tensor(phi).double(), torch.from_numpy(rigid)
    found = [
        (float(_rigid(values, x, bones, torch.where(joints == joint, joints, -1), p.extent)), int(joint))
        for joint in torch.unique(joints)
    ]
    best = max(found)[1]
    moved: Tensor = inverses[best, :, :3] @ x[0] + inverses[best, :, 3]
    return moved
