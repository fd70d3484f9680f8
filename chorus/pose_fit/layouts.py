"""Where landmarks lie on a body, and the bones and limbs between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body, check_smpl_joints

HEAD = ("nose", "left_eye", "right_eye", "left_ear", "right_ear", "head_top")
"""Landmarks of the head, which differ most between a person and a template."""


def body_points(body: Body) -> dict[str, tuple[int, NDArray[np.float64]]]:
    """Where landmarks lie on a body: name -> the joint that carries it, and its place (3,) in the zero pose, metres.

    Landmarks of the surface (face, heels, toes) are found on the mesh among the vertices of a joint. Shoulders, ankles and
    ears are moved by the one or two centimetres by which BlazePose's lay off them on photographs. These lengths are of a
    person of 1.7 m and scale with the body's height. InputError for a body without SMPL's joints.
    """
    check_smpl_joints(body)
    names, joints = list(body.joint_names), body.joints
    unit = float(np.ptp(body.vertices[:, 1])) / 1.7
    found: dict[str, tuple[int, NDArray[np.float64]]] = {}

    def carried(landmark: str, joint: str, place: NDArray[np.float64]) -> None:
        found[landmark] = names.index(joint), np.asarray(place, np.float64)

    def surface(*carriers: str) -> NDArray[np.float64]:
        chosen = np.isin(body.dominant_joint, [names.index(name) for name in carriers if name in names])
        return body.vertices[chosen] if chosen.any() else joints[[names.index(carriers[0])]]

    head = surface("head", "jaw")
    nose = head[head[:, 2].argmax()]
    carried("nose", "head", nose)
    carried("head_top", "head", head[head[:, 1].argmax()])
    for side, sign in (("left", 1.0), ("right", -1.0)):
        carried(f"{side}_eye", "head", nose * [0, 1, 1] + unit * np.array([sign * 0.032, 0.035, -0.03]))
        ear = head[(sign * head[:, 0]).argmax()]
        carried(f"{side}_ear", "head", ear + unit * np.array([-sign * 0.025, -0.015, 0.02]))
        for name, up in (("shoulder", 0.015), ("elbow", 0.0), ("wrist", 0.0), ("knee", 0.0), ("ankle", 0.01)):
            carried(f"{side}_{name}", f"{side}_{name}", joints[names.index(f"{side}_{name}")] + [0, unit * up, 0])
        carried(f"{side}_hip", "pelvis", joints[names.index(f"{side}_hip")])
        wrist = joints[names.index(f"{side}_wrist")]
        knuckles = wrist + sign * unit * np.array([0.095, 0.0, 0.0])
        carried(f"{side}_index", f"{side}_wrist", knuckles + unit * np.array([0.0, 0.0, 0.03]))
        carried(f"{side}_pinky", f"{side}_wrist", knuckles - unit * np.array([0.0, 0.0, 0.03]))
        foot = surface(f"{side}_foot", f"{side}_ankle")
        foot = foot[foot[:, 1] < joints[names.index(f"{side}_ankle")][1]] if len(foot) > 1 else foot
        carried(f"{side}_heel", f"{side}_ankle", foot[foot[:, 2].argmin()])
        toe = foot[foot[:, 2].argmax()]
        carried(f"{side}_toe", f"{side}_foot", toe)
        front = foot[foot[:, 2] > toe[2] - 0.06 * unit]
        carried(f"{side}_big_toe", f"{side}_foot", front[(sign * front[:, 0]).argmin()])
        carried(f"{side}_small_toe", f"{side}_foot", front[(sign * front[:, 0]).argmax()])
    for name, joint, part in (("mid_hip", "pelvis", "hip"), ("mid_shoulder", "spine3", "shoulder")):
        carried(name, joint, (found[f"left_{part}"][1] + found[f"right_{part}"][1]) / 2)
    return found


BONES: tuple[tuple[tuple[str, ...], tuple[str, ...], float], ...] = (
    (("right_hip",), ("left_hip",), 1.0),
    (("right_shoulder",), ("left_shoulder",), 1.0),
    (("left_hip", "right_hip"), ("left_shoulder", "right_shoulder"), 1.0),
    (("right_ear",), ("left_ear",), 1.5),
    (("left_ear", "right_ear"), ("nose",), 2.0),
    *(
        bone
        for side in ("left", "right")
        for bone in (
            ((f"{side}_shoulder",), (f"{side}_elbow",), 1.0),
            ((f"{side}_elbow",), (f"{side}_wrist",), 1.0),
            ((f"{side}_wrist",), (f"{side}_index", f"{side}_pinky"), 2.0),
            ((f"{side}_pinky",), (f"{side}_index",), 3.0),
            ((f"{side}_hip",), (f"{side}_knee",), 1.0),
            ((f"{side}_knee",), (f"{side}_ankle",), 1.0),
            ((f"{side}_heel",), (f"{side}_toe",), 1.5),
        )
    ),
)
"""Bones whose directions are compared: from the mean of some landmarks to that of others, and how many times less certain
than a thigh's its direction is."""

MOVED_BY = {
    f"{side}_{joint}": (f"{side}_{seen}",)
    for side in ("left", "right")
    for joint, seen in (
        *(("hip", "knee"), ("knee", "ankle"), ("ankle", "heel"), ("foot", "toe")),
        *(("collar", "shoulder"), ("shoulder", "elbow"), ("elbow", "wrist"), ("wrist", "index")),
    )
} | {"neck": ("nose",), "head": ("nose",)}
"""Joint -> a landmark that must be seen for the joint's rotation to be; the pelvis and the spine need the torso."""

LIMBS = {
    f"{side}_{limb}": tuple(f"{side}_{name}" for name in parts)
    for side in ("left", "right")
    for limb, parts in (("arm", ("elbow", "wrist")), ("leg", ("knee", "ankle")))
}
"""Limb -> landmarks that must be seen for the limb to count as seen."""
