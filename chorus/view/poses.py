"""The joints that a viewer turns, in groups, and poses to begin with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body

GROUPS: dict[str, tuple[str, ...]] = {
    "trunk": ("spine1", "spine2", "neck", "head"),
    "left arm": ("left_shoulder", "left_elbow", "left_wrist"),
    "right arm": ("right_shoulder", "right_elbow", "right_wrist"),
    "left leg": ("left_hip", "left_knee", "left_ankle"),
    "right leg": ("right_hip", "right_knee", "right_ankle"),
}
"""The main joints by what they move, SMPL's names."""

_Turns = dict[str, tuple[float, float, float]]
_PRESETS: dict[str, _Turns] = {
    "T": {},
    "arms down": {"left_shoulder": (0, 0, -75), "right_shoulder": (0, 0, 75)},
    "arms forward": {"left_shoulder": (0, -80, 0), "right_shoulder": (0, 80, 0)},
    "right arm raised": {"left_shoulder": (0, 0, -75), "right_shoulder": (0, 0, -70)},
    "sitting": {
        "left_hip": (-85, 0, 0),
        "right_hip": (-85, 0, 0),
        "left_knee": (85, 0, 0),
        "right_knee": (85, 0, 0),
        "left_shoulder": (0, -30, -60),
        "right_shoulder": (0, 30, 60),
    },
    "walking": {
        "left_hip": (-30, 0, 0),
        "right_hip": (25, 0, 0),
        "right_knee": (30, 0, 0),
        "left_shoulder": (25, 0, -70),
        "right_shoulder": (-25, 0, 70),
    },
}
"""Axis-angle by joint in degrees; every other joint is at zero."""
REST = "rest"
PRESETS = (REST, *_PRESETS)
"""Names of the poses that ``preset`` knows; the first is the canonical one."""


def groups_of(body: Body) -> dict[str, list[int]]:
    """The main joints that a body has, by group: indices of joints."""
    found = {name: [body.joint_names.index(j) for j in joints if j in body.joint_names] for name, joints in GROUPS.items()}
    return {name: joints for name, joints in found.items() if joints}


def preset(body: Body, name: str) -> NDArray[np.float64]:
    """A pose by name, (J, 3) axis-angle in radians with a zero row 0. KeyError for a name that is none of PRESETS."""
    if name == REST:
        return np.array(body.rest_pose)
    pose = np.zeros((body.num_joints, 3))
    for joint, turn in _PRESETS[name].items():
        if joint in body.joint_names:
            pose[body.joint_names.index(joint)] = np.radians(turn)
    return pose
