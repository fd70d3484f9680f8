"""Canonicalizations: which joints carry a voxel of the rest pose into the pose of an image.

A field has exactly one, by name (NAMES). They are of two kinds. Where a voxel is *blended*, its skinning weights are those of
the vertices around it, and it moves by linear blend skinning (Eq. 5); posed inference is Eq. 11. Where it is *rigid*, it moves
with one joint a by B_a, as an object does that is attached there; posed inference is B_a^-1. docs/canonicalization.md compares
them.

``auto`` is none of them but a choice among them, made from images (``chorus.occupancy.choice``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.errors import InputError, check_array
from chorus.kernels.skinning import PELVIS

LBS, LBS_NEAREST, NONE, PER_VOXEL, AUTO = "lbs", "lbs-nearest", "none", "per-voxel", "auto"
ANCHORED = "joint:"
"""What the names of anchored canonicalizations begin with; the name of the joint follows."""
NAMES: dict[str, str] = {
    LBS: "blended: nearest vertices, de-weighted by distance and smoothed (Eq. 4, 9, 10, A.5: the paper)",
    LBS_NEAREST: "blended: nearest vertices alone, at any distance (Eq. 4)",
    NONE: "every voxel rigid with the pelvis (the paper's ablation)",
    f"{ANCHORED}NAME": "every voxel rigid with the joint NAME",
    PER_VOXEL: "each voxel rigid with one joint, chosen from images and kept as a map",
}
"""The canonicalizations: name -> what carries a voxel."""
UNLIMITED = 1e30
"""Metres, the tau of ``lbs-nearest``: de-weighting (Eq. 10) then gives alpha = 1 exactly at every distance in a grid."""


class Canonicalization(Protocol):
    """What a field asks of its canonicalization."""

    def rigid_joints(self, body: Body, resolution: int) -> NDArray[np.int32] | None:
        """The joint that each voxel is rigid with, (N^3,) int32; None where voxels are blended.

        Raises InputError for a body or a resolution that it does not fit.
        """


@dataclass(frozen=True)
class Blended:
    """Voxels follow the mesh around them by linear blend skinning."""

    def rigid_joints(self, body: Body, resolution: int) -> None:
        """None: no voxel is rigid with one joint."""


@dataclass(frozen=True)
class Anchored:
    """Every voxel is rigid with one joint; ``joint`` is its name, "" for the pelvis (joint 0) whatever it is called."""

    joint: str = ""

    def rigid_joints(self, body: Body, resolution: int) -> NDArray[np.int32]:
        """The one joint, (N^3,) int32. InputError where the body has none of this name."""
        if self.joint and self.joint not in body.joint_names:
            raise InputError(
                f"canonicalization: expected {ANCHORED} and one of {', '.join(body.joint_names)}; got {ANCHORED + self.joint!r}"
            )
        return np.full(resolution**3, body.joint_names.index(self.joint) if self.joint else PELVIS, np.int32)


class JointMap:
    """One joint a voxel, read-only: equal, and hashed, by its content.

    joints  (N, N, N) int16, indexed [ix, iy, iz]           digest  sha256 in hexadecimal

    Raises InputError for anything but a cube of joints.
    """

    def __init__(self, joints: Any) -> None:
        found = check_array("joint_map", joints, ("N", "N", "N"), np.int16)
        if not found.size or found.min() < 0:
            raise InputError(
                f"joint_map: expected joints 0 or more in each voxel, got {found.min() if found.size else 'no voxel'}"
            )
        self.joints: NDArray[np.int16] = found.copy()
        self.joints.flags.writeable = False
        self.digest = hashlib.sha256(f"{found.shape} ".encode() + found.astype("<i2").tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JointMap) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"JointMap({len(self.joints)}^3 voxels, {len(np.unique(self.joints))} joints, {self.digest[:12]})"

    def __deepcopy__(self, memo: Any) -> JointMap:
        return self  # nothing in it can change

    def rigid_joints(self, body: Body, resolution: int) -> NDArray[np.int32]:
        """The joint of each voxel, (N^3,) int32."""
        if len(self.joints) != resolution:
            raise InputError(f"joint_map: expected {resolution}^3 voxels as the field has, got {len(self.joints)}^3")
        if self.joints.max() >= body.num_joints:
            raise InputError(f"joint_map: expected joints 0 .. {body.num_joints - 1} of the body, got {self.joints.max()}")
        return self.joints.ravel().astype(np.int32)


def canonicalization_of(name: str, joint_map: JointMap | None = None) -> Canonicalization:
    """The canonicalization of a name. InputError for one that is none of NAMES, and for a map missing or not wanted."""
    check_name(name)
    if (name == PER_VOXEL) != (joint_map is not None):
        raise InputError(
            f"joint_map: expected one with canonicalization {PER_VOXEL!r}, and with no other (chorus.per_voxel_field makes one "
            f"from images); got {name!r} {'without' if joint_map is None else 'with'} a map"
        )
    if joint_map is not None:
        return joint_map
    if name in (LBS, LBS_NEAREST):
        return Blended()
    return Anchored("" if name == NONE else name.removeprefix(ANCHORED))


def check_name(name: Any, also: tuple[str, ...] = ()) -> str:
    """``name`` where it is one of NAMES (or ``also``), the joint not looked up; InputError for anything else."""
    if isinstance(name, str) and (
        name in (LBS, LBS_NEAREST, NONE, PER_VOXEL, *also) or (name[len(ANCHORED) :] and name.startswith(ANCHORED))
    ):
        return name
    hint = "; auto is a choice from images, made by chorus.aggregate" if name == AUTO else ""
    raise InputError(f"canonicalization: expected {', '.join([*NAMES, *also])}; got {name!r}{hint}")


def resolve(canonicalize: bool | None, canonicalization: str | None) -> str:
    """One name from the two ways to say it: ``canonicalize`` True stands for lbs where no name is given, False for none.

    Raises InputError where both are given and contradict each other.
    """
    if canonicalization is None:
        return LBS if canonicalize in (None, True) else NONE
    if canonicalize is not None and bool(canonicalize) != (canonicalization != NONE):
        raise InputError(
            f"canonicalize, canonicalization: expected one of them, or two that agree (canonicalize=False is {NONE!r}); "
            f"got {canonicalize} and {canonicalization!r}"
        )
    return canonicalization
