"""Keypoints and landmarks of people by name, in the orders that estimators and annotations give them in."""

from __future__ import annotations

import numpy as np

BLAZEPOSE_33 = (
    *("nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer"),
    *("left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    *("left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb", "right_thumb"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel", "right_heel"),
    *("left_toe", "right_toe"),
)
"""BlazePose's 33 landmarks, in its order."""

COCO_KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)
"""COCO's 17 keypoints, in its order."""

BODY_25 = (
    *("nose", "mid_shoulder", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist"),
    *("mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye"),
    *("right_ear", "left_ear", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel"),
)
"""OpenPose's 25 keypoints, in its order."""

HALPE_26 = (
    *COCO_KEYPOINTS,
    *("head_top", "mid_shoulder", "mid_hip", "left_big_toe", "right_big_toe", "left_small_toe", "right_small_toe"),
    *("left_heel", "right_heel"),
)
"""The 26 keypoints of Halpe (AlphaPose), in its order."""

LAYOUTS: dict[str, tuple[str, ...]] = {
    "blazepose-33": BLAZEPOSE_33,
    "coco-17": COCO_KEYPOINTS,
    "body-25": BODY_25,
    "halpe-26": HALPE_26,
}
"""Layouts of landmarks by name."""

COCO_OF_BLAZEPOSE = np.array([BLAZEPOSE_33.index(name) for name in COCO_KEYPOINTS])
"""(17,) int64 indices of COCO's keypoints among BlazePose's landmarks."""
