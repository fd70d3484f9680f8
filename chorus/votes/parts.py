"""Body parts (Table 4) and the interaction regions around them in the canonical space (Eq. 7, 12).

A part is a set of mesh vertices. By default a vertex belongs to the part of its dominant joint (the one with the largest
skinning weight). A segmentation of one's own, such as the published one of SMPL, is read from a JSON file that lists vertices,
or joints by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from chorus.body.model import Body
from chorus.errors import InputError, check_array, check_number, check_path
from chorus.field import CanonicalField

EPSILON = 0.13
"""Radius of an interaction region around its part's vertices, in metres (Eq. 12)."""
MAX_REGIONS = 32
"""Most regions in one set: a voxel holds them as bits of an int32."""

SEGMENTS = {
    "rightHand": ("rightHand", "rightHandIndex1"),
    "leftHand": ("leftHand", "leftHandIndex1"),
    "rightArm": ("rightArm", "rightForeArm"),
    "leftArm": ("leftArm", "leftForeArm"),
    "rightLowerLeg": ("rightLeg",),
    "leftLowerLeg": ("leftLeg",),
    "rightUpperLeg": ("rightUpLeg",),
    "leftUpperLeg": ("leftUpLeg",),
    "rightFoot": ("rightFoot", "rightToeBase"),
    "leftFoot": ("leftFoot", "leftToeBase"),
    "torso": ("spine", "spine1", "spine2", "leftShoulder", "rightShoulder"),
    "face": ("head", "neck"),
}
"""Table 4: the labels of the SMPL vertex segmentation that each part merges. The label "hips" belongs to no part."""
PARTS = tuple(SEGMENTS)
"""The 12 parts, in the order of Table 4: part r is bit r."""

_PART_OF_JOINT: dict[str, str | None] = {
    "pelvis": None,
    **dict.fromkeys(("spine1", "spine2", "spine3", "left_collar", "right_collar"), "torso"),
    **dict.fromkeys(("neck", "head"), "face"),
    **{
        f"{side}_{joint}": side + part
        for side in ("left", "right")
        for joint, part in (
            ("hip", "UpperLeg"),
            ("knee", "LowerLeg"),
            ("ankle", "Foot"),
            ("foot", "Foot"),
            ("shoulder", "Arm"),
            ("elbow", "Arm"),
            ("wrist", "Hand"),
            ("hand", "Hand"),
        )
    },
}


def body_parts(body: Body) -> dict[str, NDArray[np.int64]]:
    """The parts of Table 4 by dominant joints: part -> indices of its vertices, (n,) int64, ascending.

    Joints are recognised by SMPL's names; one that Table 4 does not list (a finger, the jaw, an eye) belongs to the part of its
    parent. Vertices that the pelvis dominates belong to no part. Raises InputError where a part has no vertices, as for a body
    whose joints have other names.
    """
    part_of: list[str | None] = []
    for name, parent in zip(body.joint_names, body.parents.tolist(), strict=True):
        inherited = part_of[parent] if parent >= 0 else None
        part_of.append(_PART_OF_JOINT.get(name, inherited))
    order = {part: r for r, part in enumerate(PARTS)}
    part = np.array([-1 if p is None else order[p] for p in part_of])[body.dominant_joint]
    found = {name: np.flatnonzero(part == r).astype(np.int64) for name, r in order.items()}
    empty = [name for name, vertices in found.items() if not len(vertices)]
    if empty:
        raise InputError(
            f"body: expected joints with SMPL's names, so that every part has vertices; got none for {', '.join(empty)} with "
            f"the joints {', '.join(body.joint_names)}"
        )
    return found


def load_parts(path: str | os.PathLike[str], body: Body) -> dict[str, NDArray[np.int64]]:
    """Parts from a JSON file {part: [vertex or joint, ...]}: part -> its vertices, (n,) int64 ascending, in the file's order.

    A vertex is given by its index, a joint by its name, such as "left_knee", which stands for the vertices that it dominates.
    A vertex may lie in several parts or in none. A file that has every label of the published SMPL segmentation is merged into
    the 12 parts of Table 4; any other is used unchanged, up to 32 parts.

    Raises InputError for a file that is not such JSON, and as ``check_parts`` does.
    """
    path = check_path("parts", path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise InputError(f"parts: expected a file that can be read, got {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # InputError, JSONDecodeError, UnicodeDecodeError
        raise InputError(f"parts: expected JSON {{part: [vertex or joint, ...]}} in {path}, got {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"parts: expected JSON {{part: [vertex or joint, ...]}} in {path}, got {type(content).__name__}")
    parts = check_parts(content, body)
    if all(label in parts for labels in SEGMENTS.values() for label in labels):
        return {part: np.unique(np.concatenate([parts[label] for label in labels])) for part, labels in SEGMENTS.items()}
    if len(parts) > MAX_REGIONS:
        raise InputError(f"parts: expected at most {MAX_REGIONS} parts in {path}, got {len(parts)}")
    return parts


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"{next(n for n in names if names.count(n) > 1)!r} twice")
    return content


def check_parts(parts: Mapping[str, Any], body: Body) -> dict[str, NDArray[np.int64]]:
    """Parts with their vertices checked: (n,) int64, ascending, each once. A joint's name stands for the vertices it dominates.

    Raises InputError where there are no parts, a part has no vertices, an index is not an integer, or the body does not have
    a vertex or joint.
    """
    if not parts:
        raise InputError("parts: expected at least one part, got none")
    checked: dict[str, NDArray[np.int64]] = {}
    last = len(body.vertices) - 1
    for name, vertices in parts.items():
        if not isinstance(name, str):
            raise InputError(f"parts: expected names of parts, got {name!r}")
        what = f"parts[{name!r}]"
        if isinstance(vertices, str):
            raise InputError(f"{what}: expected a list of vertices or joints, got {vertices!r}")
        if isinstance(vertices, (list, tuple)) and any(isinstance(item, str) for item in vertices):
            vertices = _with_joints(what, vertices, body)
        try:
            given = np.asarray(vertices)
        except ValueError:  # lists of different lengths
            raise InputError(f"{what}: expected a list of vertices, got lists in it") from None
        if given.size == 0 or given.dtype.kind == "b":
            raise InputError(f"{what}: expected a list of vertices, got {vertices!r}")
        index = np.unique(check_array(what, given, ("n",), np.int64))
        if index[0] < 0 or index[-1] > last:
            wrong = index[0] if index[0] < 0 else index[-1]
            raise InputError(f"{what}: expected vertices 0..{last} of {body.name}, got {wrong}")
        checked[name] = index
    return checked


def _with_joints(what: str, given: Sequence[Any], body: Body) -> list[Any]:
    """A list of vertices and names of joints with each name replaced by the vertices that the joint dominates."""
    found: list[Any] = []
    for item in given:
        if not isinstance(item, str):
            found.append(item)
            continue
        if item not in body.joint_names:
            raise InputError(f"{what}: expected joints among {', '.join(body.joint_names)}; got {item!r}")
        dominated = np.flatnonzero(body.dominant_joint == body.joint_names.index(item)).tolist()
        if not dominated:
            raise InputError(f"{what}: expected joints that dominate a vertex of {body.name}, which {item!r} does not")
        found += dominated
    return found


@dataclass(frozen=True, eq=False)
class InteractionRegions:
    """The voxels of a field in the interaction region of each part (Eq. 12).

    names       of the parts; part r has bit r
    bits        (V,) int32, voxels in the field's order (x slowest): bit r set where the voxel's centre lies within epsilon
                of a rest-pose vertex of part r. Bit 31 is the sign; read-only.
    epsilon     metres
    field_hash  identity of the field that the voxels are of
    """

    names: tuple[str, ...]
    bits: NDArray[np.int32]
    epsilon: float
    field_hash: str

    def bit(self, part: str) -> int:
        """The bit of a part, 0 .. 31; InputError for a part that is not among them."""
        if part not in self.names:
            raise InputError(f"part: expected one of {', '.join(self.names)}; got {part!r}")
        return self.names.index(part)

    def voxels(self, part: str) -> NDArray[np.bool_]:
        """The voxels of a part's region, (V,) bool."""
        return self.has(self.bits, part)

    def has(self, bits: Any, part: str) -> NDArray[np.bool_]:
        """Where ``bits`` of voxels or contacts of images, int32 of any shape, have the part's bit: bool of that shape."""
        return (np.asarray(bits) >> self.bit(part) & 1).astype(np.bool_)


def interaction_regions(
    field: CanonicalField,
    parts: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    epsilon: float = EPSILON,
) -> InteractionRegions:
    """The interaction regions I_a of body parts on a field's voxels (Eq. 12): centres within epsilon of a vertex.

    parts    None for the 12 of Table 4 by dominant joints; {part: vertices and names of joints} of the field's body, at most
             32; or the path of a JSON file of that form (see ``load_parts``)
    epsilon  radius in metres, itself included

    Raises InputError for an epsilon that is not positive, for parts that cannot be used, and for a part whose region holds no
    voxel: no image could ever touch it.
    """
    body = field.body
    if not 0 < check_number("epsilon", epsilon, finite=False) < np.inf:
        raise InputError(f"epsilon: expected a positive number of metres, got {epsilon!r}")
    if parts is None:
        chosen = body_parts(body)
    elif isinstance(parts, Mapping):
        if len(parts) > MAX_REGIONS:
            raise InputError(f"parts: expected at most {MAX_REGIONS} parts, got {len(parts)}")
        chosen = check_parts(parts, body)
    else:
        chosen = load_parts(parts, body)
    N = field.resolution
    axis = (np.arange(N) + 0.5) * (field.extent / N) - field.extent / 2  # equals chorus.field.voxel_centres
    bits = np.zeros((N, N, N), np.int32)
    for r, (name, vertices) in enumerate(chosen.items()):
        points = body.rest_vertices[vertices]
        # Only voxels in the part's bounding box can be near it; one more on each side allows for rounding.
        low = np.searchsorted(axis, points.min(0) - epsilon)
        high = np.searchsorted(axis, points.max(0) + epsilon)
        box = tuple(slice(max(0, a - 1), min(N, b + 1)) for a, b in zip(low.tolist(), high.tolist(), strict=True))
        centres = np.stack(np.meshgrid(*(axis[s] for s in box), indexing="ij"), -1)
        if not centres.size:
            near = np.zeros(centres.shape[:3], np.bool_)
        else:
            distance, _ = KDTree(points).query(centres, distance_upper_bound=np.nextafter(epsilon, np.inf), workers=-1)
            near = np.asarray(distance) <= epsilon
        if not near.any():
            raise InputError(
                f"epsilon: expected a radius that reaches a voxel for every part, got {epsilon} m, with which {name!r} "
                f"has none of the {N}^3 voxels of {field.parameters.spacing:.3g} m"
            )
        bits[box] |= near * np.array(1 << r, np.int64).astype(np.int32)
    flat = bits.reshape(-1)
    flat.flags.writeable = False
    return InteractionRegions(tuple(chosen), flat, float(epsilon), field.hash)
