"""The built-in body with fingers, made by adding joints: SMPL-H's 52 and SMPL-X's 55 are tested without their files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import SMPL_JOINTS, SMPLH_JOINTS, SMPLX_JOINTS, Body, load_body

_FINGERS = ("index", "middle", "pinky", "ring", "thumb")


def fingered(joints: int, *, spread: bool) -> Body:
    """The mannequin with 52 or 55 joints: hands of 15 joints each, and jaw and eyes on the head.

    spread  True: the vertices of a hand, and some of the face, hang on the nearest of the new joints; False: on the middle
            finger's first joint, which has the place of SMPL's hand, and all other new joints move nothing
    """
    body = load_body()
    names = {52: SMPLH_JOINTS, 55: SMPLX_JOINTS}[joints]
    old = list(body.joint_names)
    at, parents = np.zeros((joints, 3)), np.full(joints, -1)
    weights = np.zeros((len(body.vertices), joints))
    for j, name in enumerate(names):
        if name in old:
            at[j] = body.joints[old.index(name)]
            parents[j] = names.index(old[body.parents[old.index(name)]]) if j else -1
            weights[:, j] = body.weights[:, old.index(name)]
        elif name in ("jaw", "left_eye", "right_eye"):
            parents[j] = names.index("head")
            at[j] = at[parents[j]] + {"jaw": (0, 0.02, 0.03), "left_eye": (0.03, 0.09, 0.08)}.get(name, (-0.03, 0.09, 0.08))
        else:
            side, finger, n = name.split("_")[0], name.split("_")[1][:-1], int(name[-1])
            parents[j] = names.index(f"{side}_wrist") if n == 1 else j - 1
            hand = body.joints[old.index(f"{side}_hand")]
            along = hand - body.joints[old.index(f"{side}_wrist")]
            across = np.array([0, 0, 0.02]) * (_FINGERS.index(finger) - 1)
            at[j] = hand + across + along * 0.35 * (n - 1)
    for side in ("left", "right"):
        _share(weights, body, old.index(f"{side}_hand"), f"{side}_middle1", side, at, names, spread)
    if spread and joints == 55:
        head = names.index("head")
        near = (body.weights[:, old.index("head")] > 0.9) & (
            np.linalg.norm(body.vertices - at[names.index("jaw")], axis=1) < 0.12
        )
        weights[near, names.index("jaw")], weights[near, head] = weights[near, head], 0
    return Body(f"fingered {joints}", body.vertices, body.faces, at, parents, weights, names)


def _share(
    weights: NDArray[np.float64],
    body: Body,
    hand: int,
    middle: str,
    side: str,
    at: NDArray[np.float64],
    names: tuple[str, ...],
    spread: bool,
) -> None:
    """Give the weight of a hand to the joints of its fingers."""
    fingers = [j for j, name in enumerate(names) if name.startswith(tuple(f"{side}_{f}" for f in _FINGERS))]
    if spread:
        nearest = np.array(fingers)[np.linalg.norm(body.vertices[:, None] - at[fingers], axis=2).argmin(1)]
    else:
        nearest = np.full(len(body.vertices), names.index(middle))
    np.add.at(weights, (np.arange(len(weights)), nearest), body.weights[:, hand])


def with_fingers(poses: NDArray[np.float32], body: Body) -> NDArray[np.float32]:
    """Poses (I, 24, 3) of the mannequin as those of a body with fingers, (I, J, 3): fingers and face as in the zero pose."""
    wide = np.zeros((len(poses), body.num_joints, 3), np.float32)
    for j, name in enumerate(SMPL_JOINTS):
        if name in body.joint_names:
            wide[:, body.joint_names.index(name)] = poses[:, j]
    return wide
