"""The skinning field: skinning weights of every voxel around the rest-pose body (Eq. 4, 9, 10 and A.5)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.canonicalization import (
    ANCHORED,
    LBS,
    LBS_NEAREST,
    NONE,
    PER_VOXEL,
    UNLIMITED,
    Canonicalization,
    JointMap,
    canonicalization_of,
    resolve,
)
from chorus.errors import InputError, MismatchError, check_kind, check_number
from chorus.files import cache_folder, warn_once, write_atomically
from chorus.kernels.arrays import VoxelField, cube
from chorus.kernels.cpu.skinning import NearWeights, near_weights
from chorus.kernels.kinematics import linear_blend_skinning
from chorus.kernels.skinning import PELVIS
from chorus.npz import read_npz

log = logging.getLogger(__name__)

ALGORITHM = 2
"""Part of a field's hash: incremented when the same parameters give other weights, even in the last bits only.

2: smoothing joint by joint, from 45 steps on by a Chebyshev series (weights within 1e-6 of those of 1).
"""
SMOOTHING_STEPS = 30
"""Jacobi steps at the paper's voxel size (A.5); see ``default_smoothing_steps`` for other sizes."""
PAPER_SPACING = 3.0 / 48
"""The paper's voxel size in metres."""
SPARSIFY_BELOW = 1e-6
"""Skinning weights of voxels below this are dropped, and the rest is renormalised."""


@dataclass(frozen=True)
class FieldParameters:
    """What determines a field, apart from the body. Lengths in metres.

    resolution       N; the grid has N^3 voxels
    extent           side of the cube, centred at the pelvis
    canonicalize     False: every voxel moves rigidly with the pelvis (the paper's ablation), canonicalization "none"
    k                number of nearest vertices in Eq. 4
    tau, s           de-weighting of Eq. 10: alpha = max((tau - d) / (tau + d), 0)^s
    smoothing_steps  Jacobi steps of the Laplace smoothing (A.5); 0 for none
    canonicalization a name of ``chorus.canonicalization.NAMES``; None: lbs, or none where ``canonicalize`` is False.
                     ``lbs-nearest`` sets tau to UNLIMITED and smoothing_steps to 0; rigid ones use none of k, tau, s, steps
    joint_map        of ``per-voxel``: the joint of each voxel

    Raises InputError for numbers out of range, an unknown name, and one that contradicts ``canonicalize``.
    """

    resolution: int = 48
    extent: float = 3.0
    canonicalize: bool | None = None
    k: int = 30
    tau: float = 0.8
    s: float = 0.25
    smoothing_steps: int = SMOOTHING_STEPS
    canonicalization: str = None  # type: ignore[assignment]  # a name after __post_init__
    joint_map: JointMap | None = None

    def __post_init__(self) -> None:
        name = resolve(self.canonicalize, self.canonicalization)
        canonicalization_of(name, self.joint_map)
        object.__setattr__(self, "canonicalization", name)
        object.__setattr__(self, "canonicalize", name != NONE)
        if name == LBS_NEAREST:
            object.__setattr__(self, "tau", UNLIMITED)
            object.__setattr__(self, "smoothing_steps", 0)
        for name, low in (("resolution", 1), ("k", 1), ("smoothing_steps", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
                raise InputError(f"{name}: expected an integer >= {low}, got {value!r}")
            object.__setattr__(self, name, int(value))  # plain numbers: equal parameters have equal hashes
        for name in ("extent", "tau", "s"):
            value = getattr(self, name)
            if not 0 < check_number(name, value, finite=False) < np.inf:
                raise InputError(f"{name}: expected a positive number, got {value!r}")
            object.__setattr__(self, name, float(value))

    @property
    def spacing(self) -> float:
        """Distance between adjacent voxel centres in metres."""
        return self.extent / self.resolution

    @property
    def rule(self) -> Canonicalization:
        """What carries the voxels: the canonicalization itself."""
        return canonicalization_of(self.canonicalization, self.joint_map)

    def to_json(self) -> dict[str, Any]:
        """The parameters as a dictionary for JSON, the joint map by its digest; names beyond lbs and none where they matter."""
        facts = {f.name: getattr(self, f.name) for f in fields(self)[:_FIRST_PARAMETERS]}
        if self.canonicalization not in (LBS, NONE):
            facts["canonicalization"] = self.canonicalization
        if self.joint_map is not None:
            facts["joint_map"] = self.joint_map.digest
        return facts

    @classmethod
    def from_json(cls, facts: dict[str, Any], joints: Any = None) -> FieldParameters:
        """The parameters that ``to_json`` wrote, and the joints (N, N, N) of their map. InputError where the map is another."""
        if not isinstance(facts, dict):
            raise InputError(f"parameters: expected an object, got a {type(facts).__name__}")
        digest = facts.get("joint_map")
        joint_map = None if joints is None else JointMap(joints)
        if digest != (joint_map and joint_map.digest):
            raise InputError(f"joint_map: expected the one with digest {digest}, got {joint_map}")
        return cls(**{**facts, "joint_map": joint_map})

    def hash(self, body_hash: str) -> str:
        """Identity of the field with these parameters around a body, sha256 in hexadecimal."""
        facts = self.to_json()
        if self.canonicalization not in (LBS, NONE):  # those two have the hashes that they had before there were others
            unused = (
                {"tau", "s", "smoothing_steps"}
                if self.canonicalization == LBS_NEAREST
                else {"k", "tau", "s", "smoothing_steps"}
            )
            facts = {name: value for name, value in facts.items() if name not in unused}
        facts = {"algorithm": ALGORITHM, "body": body_hash, **facts}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


_FIRST_PARAMETERS = 7
"""The parameters that a field's hash has always been made of: resolution to smoothing_steps."""


def default_smoothing_steps(spacing: float) -> int:
    """Jacobi steps with the diffusion length, in metres, of the paper's 30 at 48^3: 30 (0.0625 m / spacing)^2."""
    return max(1, round(SMOOTHING_STEPS * (PAPER_SPACING / spacing) ** 2))


class CanonicalField:
    """The skinning field: skinning weights on a voxel grid around a body in its rest pose (Eq. 4, 9, 10, A.5).

    With it, voxels are warped into the pose of each image (Eq. 5) before they are projected.

    body             chorus.Body
    resolution       N; centre of voxel (i, j, k) at ((i, j, k) + 0.5) extent / N - extent / 2, metres, person frame
    extent           side of the cube in metres
    canonicalize     True: the paper's, "lbs"; False: all voxels move rigidly with the pelvis, "none"
    k, tau, s        of Eq. 4 and 10, see ``FieldParameters``
    smoothing_steps  None: as many as give the paper's diffusion length at this voxel size
    cache            whether to cache the weights on disk, see ``cache_folder``
    canonicalization what carries a voxel, by name, such as "joint:right_hand" (``chorus.canonicalization.NAMES``); None: as
                     ``canonicalize`` says. "joint:" and the name of joint 0 is "none"
    joint_map        of "per-voxel": (N, N, N) joints or a ``JointMap``; ``chorus.per_voxel_field`` makes one from images

    Raises InputError for parameters out of range, a body with fewer than k vertices or without the joint asked for, and for
    ``canonicalize`` and ``canonicalization`` that contradict each other.
    """

    def __init__(
        self,
        body: Body,
        resolution: int = 48,
        extent: float = 3.0,
        canonicalize: bool | None = None,
        *,
        k: int = 30,
        tau: float = 0.8,
        s: float = 0.25,
        smoothing_steps: int | None = None,
        cache: bool = True,
        canonicalization: str | None = None,
        joint_map: Any = None,
    ) -> None:
        check_kind("body", body, Body)
        if smoothing_steps is None:
            smoothing_steps = default_smoothing_steps(FieldParameters(resolution, extent).spacing)
        name = resolve(canonicalize, canonicalization)
        if name == f"{ANCHORED}{body.joint_names[PELVIS]}":
            name = NONE  # one field, one name, one hash
        if joint_map is not None and not isinstance(joint_map, JointMap):
            joint_map = JointMap(joint_map)
        self.body, self._cache = body, cache
        p = self.parameters = FieldParameters(resolution, extent, name != NONE, k, tau, s, smoothing_steps, name, joint_map)
        blended = p.rule.rigid_joints(body, p.resolution) is None
        if blended and k > len(body.vertices):
            raise InputError(f"k: expected at most the body's {len(body.vertices)} vertices, got {k}")
        self.hash = p.hash(body.hash)
        offset, joint, weight = _cached(
            self.hash, cache and blended, lambda: _sparse_weights(body, p), (p.resolution**3, body.num_joints)
        )
        lattice = cube(p.resolution, p.extent)
        self.arrays = VoxelField(
            shape=lattice.shape,
            origin=lattice.origin,
            spacing=lattice.spacing,
            offset=torch.from_numpy(offset),
            joint=torch.from_numpy(joint),
            weight=torch.from_numpy(weight),
            rest_joints=torch.tensor(body.joints, dtype=torch.float64),
            parents=torch.tensor(body.parents, dtype=torch.int32),
            rest_inverse=torch.tensor(body.rest_inverse, dtype=torch.float64),
        )

    @classmethod
    def from_parameters(cls, body: Body, parameters: FieldParameters, body_hash: str | None = None) -> CanonicalField:
        """The field of these parameters; MismatchError where ``body_hash`` is given and is not this body's."""
        if body_hash is not None and body_hash != body.hash:
            raise MismatchError(f"body: expected the one with hash {body_hash[:12]}, got {body.name} {body.hash[:12]}")
        return cls(body, **{f.name: getattr(parameters, f.name) for f in fields(parameters)})

    def with_canonicalization(self, name: str, joint_map: Any = None) -> CanonicalField:
        """The field on the same grid around the same body with another canonicalization (itself where it has this one).

        k, tau, s and smoothing_steps stay as they are where the other one uses them. Raises InputError as the constructor.
        """
        if name == self.canonicalization and joint_map is None:
            return self
        p = self.parameters
        kept: dict[str, Any] = {"k": p.k, "s": p.s}
        if self.canonicalization != LBS_NEAREST:  # which keeps no tau and no steps of its own
            kept |= {"tau": p.tau, "smoothing_steps": p.smoothing_steps}
        return CanonicalField(
            self.body, p.resolution, p.extent, cache=self._cache, canonicalization=name, joint_map=joint_map, **kept
        )

    @property
    def canonicalization(self) -> str:
        """What carries a voxel, a name of ``chorus.canonicalization.NAMES``."""
        return self.parameters.canonicalization

    @property
    def around_body(self) -> CanonicalField:
        """The field in which voxels near a body part move with it: itself, or its ``lbs`` twin where one joint moves them all.

        Contacts with body parts (Eq. 13) are found through it.
        """
        if self.canonicalization == PER_VOXEL or self.canonicalization.startswith(ANCHORED):
            return self.with_canonicalization(LBS)
        return self

    def __repr__(self) -> str:
        p = self.parameters
        kind = "" if p.canonicalization == LBS else f", canonicalization={p.canonicalization!r}"
        return f"CanonicalField({self.body.name!r}, resolution={p.resolution}, extent={p.extent}{kind})"

    @property
    def resolution(self) -> int:
        """N, the number of voxels along a side."""
        return self.parameters.resolution

    @property
    def extent(self) -> float:
        """Side of the cube in metres."""
        return self.parameters.extent

    @cached_property
    def centres(self) -> NDArray[np.float32]:
        """Voxel centres, (N, N, N, 3) float32 metres in the person frame, indexed [ix, iy, iz]."""
        return voxel_centres(self.resolution, self.extent).astype(np.float32)

    @property
    def weights(self) -> NDArray[np.float32]:
        """Skinning weights, (N, N, N, J) float32, zeros included; rows sum to 1. Computed at each access."""
        N = self.resolution
        dense: NDArray[np.float32] = self.arrays.dense_weights(torch.float32).numpy().reshape(N, N, N, -1)
        return dense

    def warp(self, pose: Any) -> NDArray[np.float64]:
        """Voxel centres warped into a pose (J, 3) axis-angle by LBS (Eq. 5): (N, N, N, 3) float64 m, person frame."""
        bones = self.body.bone_transforms(np.asarray(pose)[None])[0]
        weights = self.weights.reshape(-1, self.body.num_joints)
        moved: NDArray[np.float64] = linear_blend_skinning(self.centres.reshape(-1, 3), weights, bones)
        return moved.reshape(self.centres.shape)


def voxel_centres(resolution: int, extent: float) -> NDArray[np.float64]:
    """Centres of N^3 voxels in a cube centred at the origin, (N, N, N, 3) metres, indexed [ix, iy, iz]."""
    axis = (np.arange(resolution) + 0.5) * (extent / resolution) - extent / 2
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)


def extend_weights(
    vertices: NDArray[np.float64], vertex_weights: NDArray[np.float32], parameters: FieldParameters
) -> NDArray[np.float32]:
    """Skinning weights around a mesh: Eq. 4, de-weighting (Eq. 9, 10) and smoothing, (N, N, N, J) float32.

    vertices        (V, 3) metres, the mesh in the rest pose, or posed for Eq. 11
    vertex_weights  (V, J) skinning weights of the vertices
    """
    N = parameters.resolution
    weights, _ = _near_weights(vertices, vertex_weights, parameters).dense()
    dense: NDArray[np.float32] = weights.numpy().reshape(N, N, N, -1)
    return dense


def _near_weights(
    vertices: NDArray[np.float64], vertex_weights: NDArray[np.float32], parameters: FieldParameters
) -> NearWeights:
    p = parameters
    return near_weights(
        cube(p.resolution, p.extent), vertices, vertex_weights, k=p.k, tau=p.tau, s=p.s, steps=p.smoothing_steps
    )


def _sparse_weights(body: Body, p: FieldParameters) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """offset, joint, weight of ``VoxelField``: weights below 1e-6 dropped, rows renormalised."""
    rigid = p.rule.rigid_joints(body, p.resolution)
    if rigid is not None:
        return np.arange(len(rigid) + 1), rigid, np.ones(len(rigid), np.float32)
    return _near_weights(body.rest_vertices, body.weights, p).sparse(SPARSIFY_BELOW)


_FieldArrays = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
_CACHE_HELP = "fields are computed anew; the environment variable CHORUS_CACHE names another folder for them"


def _cached(name: str, use_cache: bool, make: Callable[[], _FieldArrays], size: tuple[int, int]) -> _FieldArrays:
    """The arrays cached under ``name``, or else those of ``make``, which are then cached. Safe with several processes.

    size  voxels and joints of the field

    The cache is never needed: whatever is wrong with its place or its files is logged once, and the arrays are computed.
    """
    if not use_cache:
        return make()
    try:
        path = cache_folder() / "fields" / f"{name}.npz"
    except Exception as error:  # platformdirs is not installed, or knows no folder for this user
        warn_once(log, "place", f"no folder for cached fields is known ({error}): {_CACHE_HELP}")
        return make()
    try:
        cached = read_npz(path)
        return _checked(cached["offset"], cached["joint"], cached["weight"], size)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except Exception as error:  # whatever is wrong with a cached file, its content can be computed again
        warn_once(log, f"read {path.parent}", f"the cached field {path} could not be read ({error}): {_CACHE_HELP}")
    arrays = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda part: np.savez(part, offset=arrays[0], joint=arrays[1], weight=arrays[2]))
    except Exception as error:  # a full disk makes zipfile raise more than OSError
        warn_once(log, f"write {path.parent}", f"the field is not cached in {path.parent} ({error}): {_CACHE_HELP}")
    return arrays


def _checked(offset: NDArray[Any], joint: NDArray[Any], weight: NDArray[Any], size: tuple[int, int]) -> _FieldArrays:
    """The arrays of a cached field; ValueError where kernels that go by them would leave the arrays."""
    fits = offset.dtype == np.int64 and joint.dtype == np.int32 and weight.dtype == np.float32
    fits = fits and all(a.ndim == 1 for a in (offset, joint, weight)) and len(offset) == size[0] + 1
    fits = fits and 0 < len(joint) == len(weight) and offset[0] == 0 and offset[-1] == len(joint)
    # Kernels go by the rows, at least one joint in each, without another look.
    fits = fits and bool((offset[1:] > offset[:-1]).all()) and 0 <= joint.min() <= joint.max() < size[1]
    if fits:  # a joint is once in a row: they ascend, but where a row begins
        within = np.ones(len(joint), np.bool_)
        within[offset[:-1]] = False
        fits = bool((np.diff(joint, prepend=-1) > 0)[within].all())
    fits = fits and bool((np.abs(np.add.reduceat(weight, offset[:-1]) - 1) < 1e-3).all()) and weight.min() >= 0
    if not fits:
        raise ValueError("expected rows of joints and weights, got other arrays")
    return offset, joint, weight
