"""How a simulated person holds an object: the pose drawn, and the transform that carries the object into the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.simulate.objects import OBJECTS, ObjectClass, joint_index
from chorus.simulate.pose_errors import mirrored_pose, other_side

if TYPE_CHECKING:
    from chorus.body.model import Body
    from chorus.simulate.worlds import World


def draw_pose(world: World, body: Body, rng: np.random.Generator, mirrored: bool = False) -> NDArray[np.float32]:
    """A random pose of the world, (J, 3) axis-angle in radians, rounded to float32; the hands grip what is gripped."""
    pose: NDArray[np.float64] = body.rest_pose.astype(np.float64)
    for name, rotation in world.key_poses[rng.integers(len(world.key_poses))].items():
        pose[joint_index(body, name)] = rotation
    pose[1:] += rng.normal(0, world.pose_noise, (len(pose) - 1, 3))
    pose[0] = 0
    if OBJECTS[world.object_class].gripped:
        pose = _gripping(pose, body)
    if mirrored:
        pose = mirrored_pose(pose, body)
    return pose.astype(np.float32)


def posed(
    body: Body, pose: NDArray[np.floating[Any]], betas: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Relative transforms A_j(zero -> pose), (J, 4, 4), and the posed joints, (J, 3) metres, of one pose and build.

    One pose at a time: the last bits of a batched product could depend on the size of the batch.
    """
    transforms = body.relative_transforms(pose[None], betas)[0]
    joints = body.joints
    if betas is not None and body.joint_shapedirs is not None:
        joints = joints + body.joint_shapedirs[..., : len(betas)] @ betas
    return transforms, np.einsum("jab,jb->ja", transforms[:, :3, :3], joints) + transforms[:, :3, 3]


def _gripping(pose: NDArray[np.float64], body: Body) -> NDArray[np.float64]:
    """The pose with the wrists turned by the least angle so that a straight bar lies across both palms.

    In the rest pose the palms look down and what lies across them is along z; overhand, the thumbs (+z) look at each other.
    """
    pose = pose.copy()
    sides = [(side, joint_index(body, f"{side}_wrist"), joint_index(body, f"{side}_hand")) for side in ("right", "left")]
    for _, _, hand in sides:
        pose[hand] = 0  # the fingers close around it
    for _ in range(2):  # turning a wrist moves its hand, and so the bar
        transforms, joints = posed(body, pose)
        turns = transforms[:, :3, :3]
        bar = joints[sides[1][2]] - joints[sides[0][2]]
        bar /= np.linalg.norm(bar)
        for side, wrist, _ in sides:
            across, wanted = turns[wrist] @ [0.0, 0.0, 1.0], bar if side == "right" else -bar
            axis = np.cross(across, wanted)
            sine = float(np.linalg.norm(axis))
            if sine > 1e-9:
                turn = Rotation.from_rotvec(np.arctan2(sine, across @ wanted) / sine * axis).as_matrix() @ turns[wrist]
                pose[wrist] = Rotation.from_matrix(turns[int(body.parents[wrist])].T @ turn).as_rotvec()
    return pose


def carried_by(kind: ObjectClass, mirrored: bool) -> str:
    """The joint that carries the object: the other side's in a mirrored image."""
    return other_side(kind.joint) if mirrored else kind.joint


def carrier(
    kind: ObjectClass,
    body: Body,
    transforms: NDArray[np.float64],
    joints: NDArray[np.float64],
    *,
    mirrored: bool = False,
    template: bool = True,
) -> NDArray[np.float64]:
    """The rigid transform of an object's solids into the image's person frame, (4, 4).

    transforms  (J, 4, 4) relative transforms A_j(zero -> pose), of the person's own build
    joints      (J, 3) the posed joints, metres

    template    whether the person has the template's build

    What hangs on one joint keeps its place relative to that joint: for the template it moves by the bone transform. What is
    held in both hands is drawn in a frame of its own: origin halfway between the hands, x from right to left hand, y up.
    """
    if kind.other_joint is None:
        joint = joint_index(body, carried_by(kind, mirrored))
        moved: NDArray[np.float64] = transforms[joint] @ body.rest_inverse[joint]
        if not template:
            moved[:3, 3] = joints[joint] - moved[:3, :3] @ body.rest_joints[joint]
        return moved
    right, left = (joints[joint_index(body, name)] for name in (kind.joint, kind.other_joint))
    x = (left - right) / np.linalg.norm(left - right)
    up = np.array([0.0, 1.0, 0.0]) if abs(x[1]) < 0.95 else np.array([0.0, 0.0, -1.0])
    y = up - (up @ x) * x
    y /= np.linalg.norm(y)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.stack([x, y, np.cross(x, y)], 1), (left + right) / 2
    return matrix
