"""The human body: template mesh, joints, skinning weights and blend shapes; posing it; reading and writing it."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.body.smpl_files import SMPL_JOINTS, SMPLH_JOINTS, SMPLX_JOINTS, body_arrays, is_smpl_key, read_smpl_pickle
from chorus.errors import InputError, check_array, check_path, to_numpy
from chorus.files import write_atomically
from chorus.kernels import kinematics
from chorus.npz import read_npz
from chorus.units import UnitCheck

__all__ = ["SMPLH_JOINTS", "SMPLX_JOINTS", "SMPL_JOINTS", "Body", "check_smpl_joints", "info", "load_body"]

FORMAT_VERSION = 1
"""Version of the .npz layout that ``Body.save`` writes."""

MOST_BYTES = 1 << 30
"""Of the arrays in a body's file, unpacked; SMPL-X with all its blend shapes has a third."""

WEIGHT_TOLERANCE = 1e-3
"""Tolerance on the sum 1 of a row of skinning weights (half-precision files need it); rows are rescaled to 1."""

_ROUNDED = 1e-6  # rows within float32 rounding of 1 are not rescaled, which would only change their last bits
_PUBLISHED_NAMES = re.compile(
    r"(SMPL[HX]?_(NEUTRAL|MALE|FEMALE)(\.v\d+|_v[\d.]+)?\.(pkl|npz)"
    r"|basicmodel_(neutral|male|female|f|m)_lbs_10_207_0_v[\d.]+\.(pkl|npz)"
    r"|model\.(pkl|npz))",
    re.IGNORECASE,
)


@dataclass(frozen=True, init=False, eq=False)
class Body:
    """A body for linear blend skinning. Arrays are read-only; V vertices, F faces, J joints, B shape coefficients.

    Everything is in the person's frame in the zero pose: metres, origin at the pelvis (joint 0; the arrays given are
    shifted to it), +x the person's left, +y up, +z forward.

    name             of the body; not part of its hash
    vertices         (V, 3) float64 template
    faces            (F, 3) int32 triangles
    joints           (J, 3) float64
    parents          (J,) int32; -1 for joint 0, else an earlier joint
    weights          (V, J) float32 skinning weights, not negative, rows sum to 1
    joint_names      J names; SMPL's for joints that SMPL has
    posedirs         (V, 3, 9 (J-1)) float32 pose blend shapes, metres per element of R_j - 1 (by rows, j >= 1), or None
    shapedirs        (V, 3, B) float32 shape blend shapes in metres per unit, or None
    joint_shapedirs  (J, 3, B) float64 displacements of the joints in metres per unit, or None; given with ``shapedirs``

    Raises InputError for other shapes, numbers that are not finite, faces that name no vertex, a parent after its
    child, negative weights, and rows of weights whose sum differs from 1 by more than WEIGHT_TOLERANCE.
    """

    name: str
    vertices: NDArray[np.float64]
    faces: NDArray[np.int32]
    joints: NDArray[np.float64]
    parents: NDArray[np.int32]
    weights: NDArray[np.float32]
    joint_names: tuple[str, ...]
    posedirs: NDArray[np.float32] | None
    shapedirs: NDArray[np.float32] | None
    joint_shapedirs: NDArray[np.float64] | None

    def __init__(
        self,
        name: str,
        vertices: Any,
        faces: Any,
        joints: Any,
        parents: Any,
        weights: Any,
        joint_names: Iterable[str],
        posedirs: Any = None,
        shapedirs: Any = None,
        joint_shapedirs: Any = None,
    ) -> None:
        vertices = check_array("body.vertices", vertices, ("V", 3), np.float64)
        joints = check_array("body.joints", joints, ("J", 3), np.float64)
        v, j = len(vertices), len(joints)
        if v == 0 or j == 0:
            raise InputError(f"body: expected vertices and joints, got {v} and {j}")
        faces = check_array("body.faces", faces, ("F", 3), np.int64)
        if faces.size and not 0 <= faces.min() <= faces.max() < v:
            raise InputError(f"body.faces: expected vertices 0..{v - 1}, got {faces.min()}..{faces.max()}")
        parents = check_array("body.parents", parents, (j,), np.int64)
        if parents[0] != -1:
            raise InputError(f"body.parents: expected -1 for joint 0, the root, got {parents[0]}")
        bad = np.flatnonzero((parents[1:] < 0) | (parents[1:] >= np.arange(1, j))) + 1
        if bad.size:
            raise InputError(f"body.parents: expected an earlier joint, got {parents[bad[0]]} for joint {bad[0]}")
        names = tuple(str(n) for n in joint_names)
        if len(names) != j or len(set(names)) != j:
            raise InputError(f"body.joint_names: expected {j} different names, got {list(names)}")
        if posedirs is not None:
            posedirs = _float32("body.posedirs", posedirs, (v, 3, 9 * (j - 1)))
        if (shapedirs is None) != (joint_shapedirs is None):
            raise InputError("body.shapedirs: expected shapedirs and joint_shapedirs together, got one of them")
        if shapedirs is not None:
            shapedirs = _float32("body.shapedirs", shapedirs, (v, 3, "B"))
            joint_shapedirs = check_array("body.joint_shapedirs", joint_shapedirs, (j, 3, shapedirs.shape[2]), np.float64)
        arrays = {
            "vertices": vertices - joints[0],
            "faces": faces.astype(np.int32),
            "joints": joints - joints[0],
            "parents": parents.astype(np.int32),
            "weights": _unit_rows(check_array("body.weights", weights, (v, j), np.float64)),
            "posedirs": posedirs,
            "shapedirs": shapedirs,
            "joint_shapedirs": joint_shapedirs,
        }
        object.__setattr__(self, "name", str(name))
        object.__setattr__(self, "joint_names", names)
        for key, array in arrays.items():
            if array is not None:
                array = array + array.dtype.type(0)  # a copy without -0, so that equal bodies have equal hashes
                array.flags.writeable = False
            object.__setattr__(self, key, array)

    def __repr__(self) -> str:
        return f"Body({self.name!r}, {len(self.vertices)} vertices, {self.num_joints} joints, hash {self.hash[:12]})"

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of everything that influences results; independent of the file format it was read from."""
        digest = hashlib.sha256(b"chorus-body-1")
        for key, array in self._arrays().items():
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            digest.update(f"{key} {little.dtype.str} {little.shape}\n".encode())
            digest.update(little.tobytes())
        digest.update("\n".join(self.joint_names).encode())
        return digest.hexdigest()

    def _arrays(self) -> dict[str, NDArray[Any]]:
        keys = ("vertices", "faces", "joints", "parents", "weights", "posedirs", "shapedirs", "joint_shapedirs")
        return {key: value for key in keys if (value := getattr(self, key)) is not None}

    @property
    def num_joints(self) -> int:
        """J, the number of joints."""
        return len(self.joints)

    @cached_property
    def rest_pose(self) -> NDArray[np.float64]:
        """The canonical pose, (J, 3) axis-angle in radians: zero except left_hip +pi/6 and right_hip -pi/6 about z.

        Raises InputError where no joints have these names.
        """
        missing = {"left_hip", "right_hip"} - set(self.joint_names)
        if missing:
            raise InputError(f"body.joint_names: expected left_hip and right_hip, got {list(self.joint_names)}")
        hips = (self.joint_names.index("left_hip"), self.joint_names.index("right_hip"))
        return _read_only(kinematics.rest_pose(self.num_joints, *hips).numpy())

    @cached_property
    def rest_vertices(self) -> NDArray[np.float64]:
        """Vertices in the rest pose, pose blend shapes included, (V, 3) metres."""
        return _read_only(self.posed_vertices(self.rest_pose[None])[0])

    @cached_property
    def rest_joints(self) -> NDArray[np.float64]:
        """Joints in the rest pose, (J, 3) metres."""
        return _read_only(self.posed_joints(self.rest_pose[None])[0])

    @cached_property
    def rest_inverse(self) -> NDArray[np.float64]:
        """A_j(zero -> rest)^-1: from the rest pose to the zero pose, (J, 4, 4)."""
        return _read_only(np.linalg.inv(self.relative_transforms(self.rest_pose[None])[0]))

    @cached_property
    def dominant_joint(self) -> NDArray[np.int32]:
        """The joint of largest skinning weight of each vertex, the first of equals, (V,) int32."""
        return _read_only(self.weights.argmax(1).astype(np.int32))

    def relative_transforms(self, poses: Any, betas: Any = None) -> NDArray[np.float64]:
        """Relative transforms A_j(zero -> theta) of linear blend skinning, (I, J, 4, 4).

        poses  (I, J, 3) axis-angle in radians, numpy or torch. A global orientation (row 0) is applied about the pelvis;
               give zeros where the camera contains it.
        betas  (I, b) or (b,) shape coefficients, b <= B, or None for the template

        Raises InputError for other shapes, numbers that are not finite, and betas where the body has no shapedirs.
        """
        poses = self._poses(poses)
        return self._transforms(poses, self._shaped_joints(self._betas(betas, len(poses)))).numpy()

    def bone_transforms(self, poses: Any) -> NDArray[np.float64]:
        """Bone transforms B_j(theta) = A_j(zero -> theta) A_j(zero -> rest)^-1 from the rest pose to the pose, (I, J, 3, 4).

        poses as in ``relative_transforms``; joints are the template's (betas are zero for field and votes). LBS (Eq. 5) takes
        a canonical voxel x with skinning weights w to sum_j w_j B_j [x; 1].
        """
        joints = torch.tensor(self.joints)
        rest = torch.tensor(self.rest_pose)
        moved = kinematics.bone_transforms(torch.tensor(self._poses(poses)), rest, joints, self.parents.tolist())
        return moved.contiguous().numpy()

    def posed_joints(self, poses: Any, betas: Any = None) -> NDArray[np.float64]:
        """Joints in the poses, (I, J, 3) metres; arguments as in ``relative_transforms``."""
        poses = self._poses(poses)
        joints = self._shaped_joints(self._betas(betas, len(poses)))
        transforms = self._transforms(poses, joints)
        return (transforms[..., :3, :3] @ torch.tensor(joints)[..., None] + transforms[..., :3, 3:])[..., 0].numpy()

    def posed_vertices(self, poses: Any, betas: Any = None) -> NDArray[np.float64]:
        """Vertices in the poses, pose blend shapes included, (I, V, 3) metres; arguments as in ``relative_transforms``.

        With betas the pelvis moves by joint_shapedirs[0] @ betas; the origin stays at the template's pelvis.
        """
        poses = self._poses(poses)
        shape = self._betas(betas, len(poses))
        transforms = self._transforms(poses, self._shaped_joints(shape)).numpy()
        identity = np.eye(3)
        feature = kinematics.rotation_matrices(torch.tensor(poses[:, 1:])).numpy() - identity
        posed = np.empty((len(poses), *self.vertices.shape))
        for i in range(len(poses)):  # one at a time: a batch of (V, 3, 4) transforms would fill the memory
            vertices = self.vertices
            if self.shapedirs is not None and shape is not None:
                vertices = vertices + self.shapedirs[..., : shape.shape[1]] @ shape[i]
            if self.posedirs is not None:
                vertices = vertices + self.posedirs @ feature[i].ravel()
            posed[i] = kinematics.linear_blend_skinning(vertices, self.weights, transforms[i])
        return posed

    def _poses(self, poses: Any) -> NDArray[np.float64]:
        return check_array("poses", poses, ("I", self.num_joints, 3), np.float64)

    def _betas(self, betas: Any, count: int) -> NDArray[np.float64] | None:
        """Shape coefficients of each image, (I, b), or None."""
        if betas is None:
            return None
        most = 0 if self.shapedirs is None else self.shapedirs.shape[2]
        betas = to_numpy(betas)
        shape = check_array("betas", betas, ("b",) if betas.ndim == 1 else (count, "b"), np.float64)
        if shape.shape[-1] > most:
            raise InputError(f"betas: expected at most the body's {most} shape coefficients, got {shape.shape[-1]}")
        return np.broadcast_to(shape, (count, shape.shape[-1]))

    def _shaped_joints(self, shape: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Joints in the zero pose, (J, 3), or (I, J, 3) with shape coefficients."""
        if shape is None or self.joint_shapedirs is None:
            return np.array(self.joints)
        moved: NDArray[np.float64] = self.joints + np.einsum("jcb,ib->ijc", self.joint_shapedirs[..., : shape.shape[1]], shape)
        return moved

    def _transforms(self, poses: NDArray[np.float64], joints: NDArray[np.float64]) -> torch.Tensor:
        return kinematics.relative_transforms(torch.tensor(poses), torch.tensor(joints), self.parents.tolist())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the body as .npz: plain arrays, no pickles, complete or not at all. Returns the path.

        Keys: ``chorus_body`` (the format's version), ``name``, ``joint_names`` and the arrays of this class by name.
        Raises InputError where the name does not end in .npz or the folder is missing.
        """
        path = Path(path)
        if path.suffix != ".npz" or not path.parent.is_dir():
            raise InputError(f"path: expected FILE.npz in a folder that exists, got {path}")
        meta = {"chorus_body": np.int32(FORMAT_VERSION), "name": np.str_(self.name)}
        arrays: dict[str, Any] = {**meta, "joint_names": np.array(self.joint_names), **self._arrays()}
        write_atomically(path, lambda part: np.savez_compressed(part, allow_pickle=False, **arrays))
        return path


def load_body(path: str | os.PathLike[str] | None = None) -> Body:
    """The built-in mannequin (None), or a body from a file.

    A file is what ``Body.save`` wrote, or SMPL, SMPL-H or SMPL-X as published: .npz, or .pkl (Python 2 or 3, chumpy or
    not; read without chumpy and without executing any code in it). A folder stands for the one file in it that has a
    published name (SMPL_NEUTRAL.pkl, basicModel_neutral_lbs_10_207_0_v1.0.0.pkl, SMPLX_MALE.npz, model.npz, ...).

    A body of another size than a person's is warned of (``chorus.units.UnitsWarning``): it may not be in metres.

    Raises InputError for a path without a body or with several, a damaged file, missing arrays, and as ``Body`` does.
    """
    if path is None:
        with importlib.resources.as_file(importlib.resources.files("chorus.data") / "mannequin.npz") as file:
            return _load_npz(file)
    path = check_path("path", path)
    if path.is_dir():
        path = _find_body(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(2)
    except OSError as error:
        raise InputError(f"body: expected a file or folder that can be read, got {path}: {error.strerror}") from None
    # .npz files are zip archives; everything else must be a pickle
    body = _load_npz(path) if start == b"PK" else _from_smpl(path, read_smpl_pickle(path))
    units = UnitCheck()
    units.body(str(path), body.vertices)
    units.warn()
    return body


def check_smpl_joints(body: Body) -> None:
    """InputError for a body that lacks SMPL's joints, or whose first is not the pelvis."""
    missing = set(SMPL_JOINTS[:22]) - set(body.joint_names)  # bodies with fingers have no joint "hand"
    if missing:
        raise InputError(f"body.joint_names: expected SMPL's, got none named {', '.join(sorted(missing))}")
    if body.joint_names[0] != SMPL_JOINTS[0]:
        raise InputError(f"body.joint_names: expected the pelvis first, got {body.joint_names[0]!r}")


def info(body: Body) -> dict[str, str | int | float | bool]:
    """Facts of a body for display: name, hash, counts, height of the template in metres, blend shapes."""
    return {
        "name": body.name,
        "hash": body.hash,
        "vertices": len(body.vertices),
        "faces": len(body.faces),
        "joints": body.num_joints,
        "height_m": round(float(np.ptp(body.vertices[:, 1])), 4),
        "pose_blend_shapes": body.posedirs is not None,
        "shape_coefficients": 0 if body.shapedirs is None else body.shapedirs.shape[2],
        "joints_per_vertex_max": int((body.weights > 0).sum(1).max()),
    }


def _find_body(folder: Path) -> Path:
    found = sorted(p for p in folder.iterdir() if p.is_file() and _PUBLISHED_NAMES.fullmatch(p.name))
    if len(found) == 1:
        return found[0]
    have = ", ".join(p.name for p in found) if found else "none"
    raise InputError(f"body: expected one body (such as SMPL_NEUTRAL.pkl) in {folder}, got {have}; name the file")


def _load_npz(path: Path) -> Body:
    def chosen(names: list[str]) -> list[str]:  # published files have more, also arrays of objects
        return names if "chorus_body" in names else [name for name in names if is_smpl_key(name)]

    content: dict[str, Any] = read_npz(path, chosen, most_bytes=MOST_BYTES)
    if "chorus_body" not in content:
        return _from_smpl(path, content)
    version = content.pop("chorus_body")
    if version.shape != () or version != FORMAT_VERSION:
        raise InputError(f"{path}: expected version {FORMAT_VERSION} of the body format")
    try:
        return Body(**content)
    except TypeError as error:
        raise InputError(f"{path}: expected the arrays of a body: {error}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _from_smpl(path: Path, content: dict[str, Any]) -> Body:
    try:
        return Body(path.stem, **body_arrays(content))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _float32(name: str, value: Any, shape: tuple[int | str, ...]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        array = check_array(name, value, shape, np.float32)
    return check_array(name, array, shape, np.float32)  # again, as numbers may overflow float32


def _unit_rows(weights: NDArray[np.float64]) -> NDArray[np.float32]:
    bad = np.flatnonzero((weights < 0).any(1))
    if bad.size:
        raise InputError(f"body.weights: expected no negative weights, got {weights[bad[0]].min():g} in row {bad[0]}")
    total = weights.sum(1)
    bad = np.flatnonzero(np.abs(total - 1) > WEIGHT_TOLERANCE)
    if bad.size:
        raise InputError(
            f"body.weights: expected rows that sum to 1 within {WEIGHT_TOLERANCE}, got {total[bad[0]]:g} in row {bad[0]}"
        )
    scale = np.where(np.abs(total - 1) > _ROUNDED, total, 1.0)
    return (weights / scale[:, None]).astype(np.float32)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
