"""Varied builds of simulated people: shape coefficients of a body, or stature, girth and limbs where it has none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body

MOST = 10
"""Coefficients used of a body that has its own."""
STATURE, GIRTH, LIMBS = 0.04, 0.1, 0.05
"""One unit of a coefficient: a share of all lengths, of the distance from the bones, of the length of arms or legs."""


def with_shapes(body: Body) -> Body:
    """The body itself where it has shape coefficients; otherwise with four: stature, girth, length of arms, length of legs.

    For drawing alone: it has another hash, and fields and votes take the template.
    """
    if body.shapedirs is not None:
        return body
    vertices, joints = body.vertices.astype(np.float64), body.joints
    dirs, joint_dirs = np.zeros((4, *vertices.shape)), np.zeros((4, *joints.shape))
    dirs[0], joint_dirs[0] = STATURE * vertices, STATURE * joints
    dirs[1] = GIRTH * _from_bones(body)
    for number, (first, last) in ((2, ("shoulder", "wrist")), (3, ("hip", "ankle"))):
        for side in ("left", "right"):
            top, end = (body.joint_names.index(f"{side}_{part}") for part in (first, last))
            below = np.zeros(len(joints), bool)
            below[top] = True
            for joint in range(top + 1, len(joints)):
                below[joint] |= below[body.parents[joint]]
            along = (joints[end] - joints[top]) / np.linalg.norm(joints[end] - joints[top])
            for moved, points, share in (
                (dirs[number], vertices, body.weights[:, below].sum(1)),
                (joint_dirs[number], joints, below.astype(np.float64)),
            ):
                reach = np.maximum((points - joints[top]) @ along, 0) * share
                moved += LIMBS * reach[:, None] * along
    return Body(
        body.name,
        body.vertices,
        body.faces,
        body.joints,
        body.parents,
        body.weights,
        body.joint_names,
        body.posedirs,
        np.moveaxis(dirs, 0, -1),
        np.moveaxis(joint_dirs, 0, -1),
    )


def _from_bones(body: Body) -> NDArray[np.float64]:
    """Vectors from the nearest points of the bones that move a vertex to it, weighted, (V, 3); 0 for ends of chains."""
    away = np.zeros((len(body.vertices), 3))
    for joint, start in enumerate(body.joints):
        children = np.flatnonzero(np.asarray(body.parents) == joint)
        if not len(children):
            continue
        end = body.joints[children].mean(0)
        bone = end - start
        share = np.clip((body.vertices - start) @ bone / max(bone @ bone, 1e-12), 0, 1)
        away += body.weights[:, joint, None] * (body.vertices - start - share[:, None] * bone)
    return away


def draw_shape(shaped: Body, spread: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Random coefficients (b,) of a body of ``with_shapes``, normal with sigma ``spread``."""
    assert shaped.shapedirs is not None
    betas: NDArray[np.float64] = rng.normal(0, spread, min(MOST, shaped.shapedirs.shape[2]))
    return betas
