"""Bake the built-in mannequin (chorus/data/mannequin.npz) from Anny: SMPL's 24 joints by name and order, in a T-pose.

    python -m pip install -r tools/requirements-bake.txt
    python tools/bake_mannequin.py [--output FILE.npz] [--compare FILE.npz]

Anny (Naver Labs Europe) has code under Apache-2.0; the MakeHuman / MPFB2 mesh and rig it ships are CC0. Only its own
topology is used: "smpl" and "smplx" would download a file for non-commercial use. The first run takes some minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import SMPL_JOINTS, Body, load_body

DEFAULT_OUTPUT = Path(__file__).resolve().parent.parent / "chorus" / "data" / "mannequin.npz"

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)

_SIDED = {
    "hip": "upperleg01",
    "knee": "lowerleg01",
    "ankle": "foot",
    "foot": "toe3-1",
    "collar": "clavicle",
    "shoulder": "upperarm01",
    "elbow": "lowerarm01",
    "wrist": "wrist",
    "hand": "finger3-1",
}
# The root bone's head lies behind the body; SMPL's pelvis is where spine and legs part.
HEADS = {
    "pelvis": "spine05",
    "spine1": "spine04",
    "spine2": "spine03",
    "spine3": "spine02",
    "neck": "neck01",
    "head": "head",
    **{f"left_{ours}": f"{bone}.L" for ours, bone in _SIDED.items()},
    **{f"right_{ours}": f"{bone}.R" for ours, bone in _SIDED.items()},
}
OWNERS = {**{bone: joint for joint, bone in HEADS.items()}, "root": "pelvis"}
"""The joint a bone belongs to; others go with their limb's end, or else with the nearest ancestor that is listed."""
ENDS = {"finger": "hand", "toe": "foot"}
"""All fingers move with the hand and all toes with the foot, though the joint is at one of them."""

# Where a joint's bone points in the T-pose (the left side; the right is its mirror image). Feet and trunk stay.
T_POSE = {
    "hip": (0.07, -1.0, 0.0),
    "knee": (0.07, -1.0, 0.0),
    "shoulder": (1.0, 0.0, 0.0),
    "elbow": (1.0, 0.0, 0.0),
    "wrist": (1.0, 0.0, 0.0),
}

WEIGHT_STEPS = 2048
"""Weights are multiples of 1 / WEIGHT_STEPS that sum to exactly 1: it keeps the file small."""
LENGTH_STEPS = 65536
"""Vertices and joints are multiples of 1 / LENGTH_STEPS metres (15 micrometres), for the same reason."""


def rotation_between(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest rotation that turns one direction into another (not its opposite), (3, 3)."""
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    x, y, z = np.cross(a, b)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + a @ b)


def t_pose(joints: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative transforms (24, 3, 4) that bring joints (24, 3) from Anny's A-pose into the T-pose."""
    moved = joints.copy()
    turn = np.repeat(np.eye(3)[None], len(joints), 0)
    for j, name in enumerate(SMPL_JOINTS):
        side, _, part = name.partition("_")
        parent = PARENTS[j]
        if parent >= 0:
            moved[j] = moved[parent] + turn[parent] @ (joints[j] - joints[parent])
        if part in T_POSE:
            end = np.array(T_POSE[part]) * ((1 if side == "left" else -1), 1, 1)
            turn[j] = rotation_between(joints[PARENTS.index(j)] - joints[j], end)
        elif part == "hand":
            turn[j] = turn[parent]
    return np.concatenate([turn, (moved - np.einsum("jab,jb->ja", turn, joints))[..., None]], -1)


def quantised(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows that sum to 1 as multiples of 1 / WEIGHT_STEPS that sum to 1 (largest remainders are rounded up)."""
    scaled = weights / weights.sum(1, keepdims=True) * WEIGHT_STEPS
    steps = np.floor(scaled)
    short = WEIGHT_STEPS - steps.sum(1, keepdims=True)
    rank = np.argsort(np.argsort(steps - scaled, axis=1, kind="stable"), axis=1, kind="stable")
    return (steps + (rank < short)) / WEIGHT_STEPS


def owner_of(bone: int, labels: list[str], bone_parents: list[int]) -> str:
    """The joint that a bone of Anny's belongs to."""
    for start, end in ENDS.items():
        if labels[bone].startswith(start):
            return f"{'left' if labels[bone].endswith('.L') else 'right'}_{end}"
    while labels[bone] not in OWNERS:
        bone = bone_parents[bone]
    return OWNERS[labels[bone]]


def bake() -> Body:
    """The mannequin: Anny's average adult, every phenotype parameter at its middle."""
    import anny

    model = anny.Anny(rig="makehuman", topology="anny")
    output: dict[str, Any] = model()
    labels, bone_parents = list(model.bone_labels), list(model.bone_parents)

    def upright(points: NDArray[np.float64]) -> NDArray[np.float64]:  # Anny: z up, facing -y
        return np.stack([points[:, 0], points[:, 2], -points[:, 1]], 1)

    vertices = upright(output["rest_vertices"][0].double().numpy())
    heads = upright(output["rest_bone_heads"][0].double().numpy())
    joints = heads[[labels.index(HEADS[name]) for name in SMPL_JOINTS]]

    owner = [SMPL_JOINTS.index(owner_of(bone, labels, bone_parents)) for bone in range(len(labels))]
    weights = np.zeros((len(vertices), len(SMPL_JOINTS)))
    bones = model.vertex_bone_indices.numpy()
    rows = np.broadcast_to(np.arange(len(vertices))[:, None], bones.shape)
    np.add.at(weights, (rows, np.array(owner)[bones]), model.vertex_bone_weights.double().numpy())
    weights = quantised(weights)

    transforms = t_pose(joints)
    blended = np.einsum("vj,jab->vab", weights, transforms)
    vertices = np.einsum("vab,vb->va", blended[..., :3], vertices) + blended[..., 3]
    joints = np.einsum("jab,jb->ja", transforms[..., :3], joints) + transforms[..., 3]
    vertices, joints = (np.round((p - joints[0]) * LENGTH_STEPS) / LENGTH_STEPS for p in (vertices, joints))
    faces = model.get_triangular_faces().numpy()
    return Body("mannequin", vertices, faces, joints, PARENTS, weights, SMPL_JOINTS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--compare", type=Path, help="another body: say how far apart they are")
    arguments = parser.parse_args()
    body = bake()
    print(f"wrote {body.save(arguments.output)}: {body}, {arguments.output.stat().st_size} bytes")
    if arguments.compare:
        other = load_body(arguments.compare)
        for key in ("vertices", "joints", "weights"):
            print(f"{key}: largest difference {np.abs(getattr(body, key) - getattr(other, key)).max():.3g}")
        print(f"same faces: {np.array_equal(body.faces, other.faces)}; same body: {body.hash == other.hash}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
