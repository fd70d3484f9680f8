"""Occupancy around a posed human (Eq. 11): weights around the posed mesh, smoothed, and phi looked up in the rest pose."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chorus.body import Body, load_body
from chorus.errors import InputError, MismatchError, check_array
from chorus.field import FieldParameters
from chorus.kernels import kinematics
from chorus.kernels.backends import BackendUnavailableError, why_not_triton
from chorus.kernels.neighbours import INVERSES, Lattice, cube

log = logging.getLogger(__name__)

BACKENDS = {
    "triton": "chorus.kernels.triton_neighbours",
    "numba": "chorus.kernels.cpu_neighbours",
    "reference": "chorus.kernels.neighbours",
}
"""Backends and the modules that hold their ``posed_phi``."""


class PosedPhi(Protocol):
    """The call that every backend answers; see ``chorus.kernels.neighbours``."""

    def __call__(
        self, lattice: Lattice, vertices: Tensor, vertex_weights: Tensor, bones: Tensor, phi: Tensor, grid: Lattice,
        *, k: int, tau: float, s: float, steps: int, inverse: str = ..., **facts: Any,
    ) -> Tensor: ...  # fmt: skip


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
            from chorus.kernels.triton_neighbours import tile_order

            facts["order"] = tile_order(vertices)
        kept[device] = _BodyOnDevice(
            vertices=vertices,
            weights=torch.tensor(body.weights, dtype=torch.float64, device=device),
            posedirs=None if body.posedirs is None else torch.tensor(body.posedirs, device=device).flatten(0, 1),
            rest_inverse=torch.tensor(np.linalg.inv(body.relative_transforms(body.rest_pose[None])[0])),
            facts=facts,
        )
    return kept[device]


def posed_mesh(
    vertices: Tensor, weights: Tensor, posedirs: Tensor | None, rotations: Tensor, transforms: Tensor
) -> Tensor:
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


def posed_occupancy(
    phi: Any,
    pose: Any,
    parameters: FieldParameters,
    body_hash: str,
    body: Body | None = None,
    *,
    inverse: str = "blend_of_inverses",
    backend: str = "auto",
) -> NDArray[np.float32]:
    """Occupancy around a posed human (Eq. 11), (N, N, N) float32 in the posed person's frame, on the field's grid.

    phi         (N, N, N) canonical occupancy, indexed [ix, iy, iz]
    pose        (J, 3) axis-angle in radians; row 0, the global orientation, zero
    parameters  of the field that phi was made with, for the weights around the posed mesh too
    body_hash   of the body that phi was made with
    body        that body; None for the built-in one
    inverse     "blend_of_inverses" (the paper's), "inverse_of_blend" (the published code's)
    backend     "auto", "triton", "numba", "reference"

    Without canonicalization every voxel is rigid with the pelvis, and the result is phi. Raises InputError for arguments that
    do not fit, MismatchError for another body.
    """
    p, N = parameters, parameters.resolution
    values = check_array("phi", phi, (N, N, N), np.float32)
    if inverse not in INVERSES:
        raise InputError(f"inverse: expected {' or '.join(INVERSES)}, got {inverse!r}")
    body = body_of(body_hash, body)
    axis_angle = check_array("pose", pose, (body.num_joints, 3), np.float64)
    if axis_angle[0].any():
        raise InputError(f"pose: expected a zero row 0 (the global orientation lives in the camera), got {axis_angle[0]}")
    if not p.canonicalize:
        return np.array(values)
    chosen, posed_phi = posed_backend(backend)
    device = torch.device("cuda", torch.cuda.current_device()) if chosen == "triton" else torch.device("cpu")
    kept = _body_on(device, body)
    # A few dozen matrices: quicker on the CPU than to start kernels for.
    transforms = torch.from_numpy(body.relative_transforms(axis_angle[None])[0])
    rotations = kinematics.rotation_matrices(torch.tensor(axis_angle))
    bones = (transforms @ kept.rest_inverse)[:, :3]
    mesh = posed_mesh(kept.vertices, kept.weights, kept.posedirs, rotations.to(device), transforms.to(device))
    lattice = cube(N, p.extent)
    posed = posed_phi(
        lattice, mesh, kept.weights, bones.to(device), torch.from_numpy(np.array(values)).to(device), lattice,
        k=p.k, tau=p.tau, s=p.s, steps=p.smoothing_steps, inverse=inverse, **kept.facts,
    )  # fmt: skip
    result: NDArray[np.float32] = posed.cpu().numpy()
    return result
