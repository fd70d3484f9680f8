"""Occupancy around a posed human (Eq. 11): weights around the posed mesh, smoothed, and phi looked up in the rest pose."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor

from chorus.body.model import Body, load_body
from chorus.errors import InputError, MismatchError, check_array, to_numpy
from chorus.field import FieldParameters
from chorus.kernels import kinematics
from chorus.kernels.backends import BackendUnavailableError, why_not_triton
from chorus.kernels.reference import skinning as neighbours
from chorus.kernels.reference.skinning import INVERSES, PELVIS, Lattice, cube

log = logging.getLogger(__name__)

BACKENDS = {
    "triton": "chorus.kernels.gpu.skinning",
    "numba": "chorus.kernels.cpu.skinning",
    "reference": "chorus.kernels.reference.skinning",
}
"""Backends and the modules that hold their ``posed_phi``."""


INTERPOLATIONS = ("nearest", "trilinear")
"""How phi is read at a canonical point: the nearest voxel (the paper's), or linearly between the eight around it."""
_POINTS = 1 << 16
"""Points whose blended transforms are held at a time."""


class PosedPhi(Protocol):
    """The call that every backend answers; see ``chorus.kernels.reference.skinning``."""

    def __call__(
        self,
        lattice: Lattice,
        vertices: Tensor,
        vertex_weights: Tensor,
        bones: Tensor,
        phi: Tensor,
        grid: Lattice,
        *,
        k: int,
        tau: float,
        s: float,
        steps: int,
        inverse: str = ...,
        **facts: Any,
    ) -> Tensor: ...


@lru_cache
def posed_backend(name: str = "auto") -> tuple[str, PosedPhi]:
    """The backend's name and its ``posed_phi``. ``auto`` takes Triton where CUDA is present, else numba. Logged once.

    Raises InputError for a name that is not known, BackendUnavailableError for one that cannot run here.
    """
    if name != "auto" and name not in BACKENDS:
        raise InputError(f"backend: expected auto, {', '.join(BACKENDS)}; got {name!r}")
    declined = why_not_triton() if name in ("auto", "triton") else None
    if name == "triton" and declined:
        raise BackendUnavailableError(f"backend: triton cannot run here: {declined}. What can: numba (the fast one), reference")
    if name == "auto" and declined is None and torch.version.hip:
        declined = "it has not been run on AMD devices yet; ask for it by name"
    chosen = name if name != "auto" else "numba" if declined else "triton"
    posed_phi: PosedPhi = importlib.import_module(BACKENDS[chosen]).posed_phi
    reason = "asked for" if name == chosen else f"not triton: {declined}" if declined else "a GPU is there"
    log.info("posed backend: %s (%s)", chosen, reason)
    return chosen, posed_phi


@dataclass(frozen=True)
class _BodyOnDevice:
    """What posing a body takes, on one device."""

    vertices: Tensor
    """(V, 3) float64"""
    weights: Tensor
    """(V, J) float64"""
    posedirs: Tensor | None
    """(V * 3, 9 (J - 1)) float32"""
    rest_inverse: Tensor
    """(J, 4, 4) float64 A_j(zero -> rest)^-1, on the CPU"""
    facts: dict[str, Any]
    """What else the backend takes: the vertices' order, for Triton."""


_on_device: WeakKeyDictionary[Body, dict[torch.device, _BodyOnDevice]] = WeakKeyDictionary()


def _body_on(device: torch.device, body: Body) -> _BodyOnDevice:
    """The body's arrays on a device, copied once and kept as long as the body lives."""
    kept = _on_device.setdefault(body, {})
    if device not in kept:
        facts = {}
        vertices = torch.tensor(body.vertices, device=device)
        if device.type != "cpu":
            from chorus.kernels.gpu.skinning import tile_order

            facts["order"] = tile_order(vertices)
        kept[device] = _BodyOnDevice(
            vertices=vertices,
            weights=torch.tensor(body.weights, dtype=torch.float64, device=device),
            posedirs=None if body.posedirs is None else torch.tensor(body.posedirs, device=device).flatten(0, 1),
            rest_inverse=torch.tensor(np.linalg.inv(body.relative_transforms(body.rest_pose[None])[0])),
            facts=facts,
        )
    return kept[device]


def posed_mesh(vertices: Tensor, weights: Tensor, posedirs: Tensor | None, rotations: Tensor, transforms: Tensor) -> Tensor:
    """Linear blend skinning on the device of its arguments: the vertices in a pose, (V, 3) float64 metres.

    vertices    (V, 3) float64 template        weights     (V, J) float64
    posedirs    (V * 3, 9 (J - 1)) float32 pose blend shapes or None
    rotations   (J, 3, 3) of the joints        transforms  (J, 4, 4) A_j(zero -> theta), float64
    """
    if posedirs is not None:
        feature = (rotations[1:] - torch.eye(3).to(rotations)).flatten().to(posedirs.dtype)
        vertices = vertices + (posedirs @ feature).view(-1, 3)
    blended = (weights @ transforms[:, :3].flatten(1)).view(-1, 3, 4)
    moved: Tensor = (blended[..., :3] @ vertices[..., None])[..., 0] + blended[..., 3]
    return moved


@lru_cache
def _built_in() -> Body:
    return load_body()


def body_of(body_hash: str, body: Body | None = None) -> Body:
    """The body with this hash: the one given, or the built-in one. MismatchError where it is another."""
    given = _built_in() if body is None else body
    if given.hash != body_hash:
        what = f"{given.name} {given.hash[:12]}" + ("" if body is not None else ", the built-in one (give yours)")
        raise MismatchError(f"body: expected the one with hash {body_hash[:12]}, got {what}")
    return given


def posed_bones(body: Body, pose: NDArray[np.float64], betas: Any = None) -> NDArray[np.float64]:
    """B_j(theta) of Eq. 11, from the canonical body to the posed one, (J, 3, 4) float64.

    pose   (J, 3) axis-angle in radians
    betas  (b,) the posed person's shape coefficients, or None. The canonical body has none, so B_j then takes joint j from
           where the template has it to where the shaped body does.
    """
    transforms = body.relative_transforms(pose[None], betas)[0]
    if betas is not None and body.joint_shapedirs is not None:
        shape = np.asarray(betas, np.float64)
        shift = body.joint_shapedirs[..., : len(shape)] @ shape
        transforms[:, :3, 3] += (transforms[:, :3, :3] @ shift[..., None])[..., 0]
    rest = body.relative_transforms(body.rest_pose[None])[0]
    bones: NDArray[np.float64] = (transforms @ np.linalg.inv(rest))[:, :3]
    return bones


def to_canonical(
    points: NDArray[np.float64], weights: NDArray[Any], bones: NDArray[np.float64], inverse: str = INVERSES[0]
) -> NDArray[np.float64]:
    """Points of the posed frame back in the canonical one (Eq. 11), (P, 3) metres; not finite where a blend has no inverse.

    points   (P, 3) metres      weights  (P, J) around the posed mesh      bones  (J, 3, 4) B_j
    inverse  one of INVERSES; InputError for another
    """
    if inverse not in INVERSES:
        raise InputError(f"inverse: expected {' or '.join(INVERSES)}, got {inverse!r}")
    if inverse == "blend_of_inverses":
        bones = neighbours.invert_bones(torch.from_numpy(bones)).numpy()
    found = np.empty(points.shape)
    for first in range(0, len(points), _POINTS):
        rows = slice(first, first + _POINTS)
        x = points[rows]
        blend = (weights[rows].astype(np.float64) @ bones.reshape(-1, 12)).reshape(-1, 3, 4)
        A, t = blend[..., :3], blend[..., 3]
        if inverse == "blend_of_inverses":
            found[rows] = (A @ x[..., None])[..., 0] + t
        else:  # Cramer's rule: the columns of the inverse are cross products of the rows over the determinant
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


def _near(lattice: Lattice, mesh: NDArray[np.float64], body: Body, p: FieldParameters, chosen: str) -> tuple[Any, Any]:
    """The voxels near a posed mesh, (S,) flat indices, and their weights (S, J); every other voxel is the pelvis's."""
    if chosen == "numba":
        from chorus.kernels.cpu.skinning import near_weights

        found = near_weights(lattice, mesh, body.weights, k=p.k, tau=p.tau, s=p.s, steps=p.smoothing_steps)
        slots = np.flatnonzero(found.near)
        return found.voxel[slots], found.weight[:, slots].T
    table = torch.tensor(body.weights, dtype=torch.float64)
    weights, near = neighbours.neighbour_weights(lattice, torch.from_numpy(mesh), table, k=p.k, tau=p.tau, s=p.s)
    voxels = torch.nonzero(near)[:, 0]
    weights = neighbours.smooth(lattice, weights, near, steps=p.smoothing_steps)[voxels]
    return voxels.numpy(), weights.numpy()


def _posed_trilinear(
    phi: NDArray[np.float32], pose: NDArray[np.float64], betas: Any, body: Body, p: FieldParameters, inverse: str, chosen: str
) -> NDArray[np.float32]:
    lattice = cube(p.resolution, p.extent)
    bones = posed_bones(body, pose, betas)
    mesh = body.posed_vertices(pose[None], betas)[0]
    centres = lattice.centres().numpy()
    posed = phi.ravel().copy()
    if not np.array_equal(bones[PELVIS], np.eye(3, 4)):  # a shaped body's pelvis is elsewhere, and what is far goes with it
        ones = np.ones((len(centres), 1))
        posed = sample_trilinear(phi, to_canonical(centres, ones, bones[PELVIS : PELVIS + 1]), p.extent)
    voxels, weights = _near(lattice, mesh, body, p, chosen)
    posed[voxels] = sample_trilinear(phi, to_canonical(centres[voxels], weights, bones, inverse), p.extent)
    return posed.reshape(phi.shape)


def _posed_nearest(
    phi: NDArray[np.float32], pose: NDArray[np.float64], betas: Any, body: Body, p: FieldParameters, inverse: str, chosen: str
) -> NDArray[np.float32]:
    _, posed_phi = posed_backend(chosen)
    device = torch.device("cuda", torch.cuda.current_device()) if chosen == "triton" else torch.device("cpu")
    kept = _body_on(device, body)
    if betas is None:
        # A few dozen matrices: quicker on the CPU than to start kernels for.
        transforms = torch.from_numpy(body.relative_transforms(pose[None])[0])
        rotations = kinematics.rotation_matrices(torch.tensor(pose))
        bones = (transforms @ kept.rest_inverse)[:, :3]
        mesh = posed_mesh(kept.vertices, kept.weights, kept.posedirs, rotations.to(device), transforms.to(device))
    else:
        bones = torch.from_numpy(posed_bones(body, pose, betas))
        mesh = torch.from_numpy(body.posed_vertices(pose[None], betas)[0]).to(device)
    lattice = cube(p.resolution, p.extent)
    posed = posed_phi(
        lattice,
        mesh,
        kept.weights,
        bones.to(device),
        torch.from_numpy(np.array(phi)).to(device),
        lattice,
        k=p.k,
        tau=p.tau,
        s=p.s,
        steps=p.smoothing_steps,
        inverse=inverse,
        **kept.facts,
    )
    result: NDArray[np.float32] = posed.cpu().numpy()
    return result


def _chosen_backend(backend: str, interpolation: str) -> str:
    if interpolation == "nearest":
        return posed_backend(backend)[0]
    if backend == "triton":
        raise BackendUnavailableError(
            "backend: triton looks up the nearest voxel only. What can interpolate: numba (the fast one), reference"
        )
    return posed_backend("numba" if backend == "auto" else backend)[0]


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
    parameters     of the field that phi was made with, for the weights around the posed mesh too
    body_hash      of the body that phi was made with
    body           that body; None for the built-in one
    betas          the posed person's shape coefficients, (b,), or (n, b) for n poses; None for the template's shape
    inverse        "blend_of_inverses" (the paper's), "inverse_of_blend" (the published code's)
    interpolation  "nearest" voxel (the paper's), or "trilinear", with 0 outside the grid; the latter on the CPU
    backend        "auto", "triton", "numba", "reference"
    progress       told (done, total) after each pose

    Without canonicalization every voxel is rigid with the pelvis, and the result is phi. Raises InputError for arguments that
    do not fit, MismatchError for another body, BackendUnavailableError for a backend that cannot do it here.
    """
    p, N = parameters, parameters.resolution
    values = check_array("phi", phi, (N, N, N), np.float32)
    for name, value, known in (("inverse", inverse, INVERSES), ("interpolation", interpolation, INTERPOLATIONS)):
        if value not in known:
            raise InputError(f"{name}: expected {' or '.join(known)}, got {value!r}")
    body = body_of(body_hash, body)
    batch = to_numpy(pose).ndim == 3
    joints: tuple[int | str, ...] = (body.num_joints, 3)
    poses = check_array("pose", pose, ("n", *joints) if batch else joints, np.float64).reshape(-1, body.num_joints, 3)
    turned = np.flatnonzero(poses[:, 0].any(1))
    if turned.size:
        row, which = poses[turned[0], 0], f" in pose {turned[0]}" if batch else ""
        raise InputError(f"pose: expected a zero row 0 (the global orientation lives in the camera), got {row}{which}")
    shapes = [None] * len(poses) if betas is None else list(_shapes(betas, len(poses), body))
    chosen = _chosen_backend(backend, interpolation)
    pose_one = _posed_nearest if interpolation == "nearest" else _posed_trilinear
    posed = np.empty((len(poses), N, N, N), np.float32)
    for i, (one, shape) in enumerate(zip(poses, shapes, strict=True)):
        posed[i] = pose_one(values, one, shape, body, p, inverse, chosen) if p.canonicalize else values
        if progress is not None:
            progress(i + 1, len(poses))
    result: NDArray[np.float32] = posed if batch else posed[0]
    return result


def _shapes(betas: Any, count: int, body: Body) -> NDArray[np.float64]:
    """The shape coefficients of each pose, (n, b)."""
    given = to_numpy(betas)
    shape = check_array("betas", given, ("b",) if given.ndim == 1 else (count, "b"), np.float64)
    most = 0 if body.shapedirs is None else body.shapedirs.shape[2]
    if shape.shape[-1] > most:
        raise InputError(f"betas: expected at most the body's {most} shape coefficients, got {shape.shape[-1]}")
    return np.broadcast_to(shape, (count, shape.shape[-1]))
