"""Layouts in which other software writes poses of SMPL, SMPL-H and SMPL-X, brought to ``chorus.ingest.poses.layout``.

All of them place the model by its own origin: a vertex of the model, posed and turned about its pelvis, is used as the model
gives it, so that the pelvis is at J0(betas), some 22 cm from the origin (35 cm in SMPL-X), plus a translation. Here the origin
is the pelvis; ``origin`` of the layout is the difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.body.model import SMPL_JOINTS, SMPLH_JOINTS, SMPLX_JOINTS, Body
from chorus.errors import InputError

PELVIS = {
    ("smpl", "neutral"): (-0.0018, -0.2233, 0.0282),
    ("smpl", "male"): (-0.00217368, -0.24078917, 0.02858379),
    ("smpl", "female"): (-0.00087631, -0.21141872, 0.02782112),
    ("smplx", "neutral"): (0.00312326, -0.35140744, 0.01203655),
}
"""Where the templates of SMPL and SMPL-H, and of SMPL-X, have their pelvis, metres from the models' origins."""

HMR_FOCAL = 5000 / 256
"""Focal length of HMR2's cameras for the whole image, in its longer sides: 5000 px in crops of 256 px."""
BEV_FOCAL = 443.4 / 512
"""Focal length of BEV's cameras, in longer sides of the image: a field of view of 60 degrees."""
KEYS = (
    *("keys", "key", "name", "names", "imgname", "img_name", "image_name", "image_names", "img_path", "image_path"),
    *("file_name", "file_names", "filename", "filenames"),
)
"""Names under which files have the names of the images."""
_OURS = ("R", "t", "K", "focal", "focal_unit", "image_size", "estimator", "prompt", "origin")
"""Names of our own layout that other files, or a file of cameras beside them, may have as well."""


def common(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of any layout may have by our names: the images' names, cameras, image sizes."""
    found = {name: content[name] for name in _OURS if name in content}
    keys = next((content[name] for name in KEYS if name in content), None)
    if keys is not None:
        found["keys"] = np.atleast_1d(keys) if not isinstance(keys, list) else keys
    return found


def seen_by_camera(content: Mapping[str, Any]) -> dict[str, Any]:
    """``common`` of a layout whose poses are in the camera's axes: it has no R and no t. InputError where one is given."""
    given = [name for name in ("R", "t") if name in content]
    if given:
        raise InputError(f"{given[0]}: expected none, as this software's poses are in the camera's axes already")
    return common(content)


def numbers(name: str, value: Any) -> NDArray[np.float64]:
    """An array of finite numbers as float64; InputError, naming it, for anything else."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise InputError(f"{name}: expected an array of numbers, got rows of different lengths") from None
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name}: expected numbers, got {array.dtype} of shape {array.shape}")
    found = array.astype(np.float64)
    if not np.isfinite(found).all():
        raise InputError(f"{name}: expected finite numbers, got others")
    return found


def rotations(name: str, value: Any) -> NDArray[np.float64]:
    """Rotations (n, j, 3) axis-angle, from (n, j, 3), (n, 3 j), or from matrices (n, ..., 3, 3)."""
    array = numbers(name, value)
    if array.ndim >= 3 and array.shape[-2:] == (3, 3):
        return from_matrices(name, array.reshape(len(array), -1, 3, 3))
    if array.ndim in (2, 3) and array.shape[-1] % 3 == 0:
        return array.reshape(len(array), -1, 3)
    if array.ndim == 1 and array.size % 3 == 0:  # one person
        return array.reshape(1, -1, 3)
    raise InputError(f"{name}: expected rotations as axis-angle or matrices, got shape {array.shape}")


def from_matrices(name: str, matrices: Any) -> NDArray[np.float64]:
    """Axis-angle (..., 3) float64 in radians of rotation matrices (..., 3, 3); InputError for what are none within 1e-2."""
    given = numbers(name, matrices)
    flat = given.reshape(-1, 3, 3)
    off = np.abs(flat @ flat.swapaxes(1, 2) - np.eye(3)).max((1, 2), initial=0)
    off = np.maximum(off, np.abs(np.linalg.det(flat) - 1))
    if len(flat) and off.max() > 1e-2:
        where = [int(i) for i in np.unravel_index(int(off.argmax()), given.shape[:-2])]
        raise InputError(f"{name}: expected rotation matrices (R R^T = 1, det R = 1), off by {off.max():.3g} at {where}")
    return Rotation.from_matrix(flat).as_rotvec().reshape(*given.shape[:-2], 3)


def onto_body(pose: NDArray[np.float64], names: Sequence[str], body: Body) -> NDArray[np.float64]:
    """Poses (n, j, 3) of joints ``names`` as poses (n, J, 3) of the body, joints of the same name alike; its others rest.

    The fingers of SMPL-H and SMPL-X have no joint in SMPL; SMPL's hands, which these do not have, stay straight.
    """
    found = np.zeros((len(pose), body.num_joints, 3))
    for joint, name in enumerate(names[: pose.shape[1]]):
        if name in body.joint_names:
            found[:, body.joint_names.index(name)] = pose[:, joint]
    return found


def pelvis(model: str, content: Mapping[str, Any], body: Body, n: int) -> NDArray[np.float64]:
    """J0(betas) (n, 3): the template's pelvis, moved by the shape as far as the body has shape directions.

    content  with ``gender`` and ``betas``, if known. InputError for a gender that is none.
    """
    gender = np.asarray(content.get("gender", "neutral")).ravel()
    word = gender[0].decode() if gender.size and isinstance(gender[0], bytes) else str(gender[0]) if gender.size else "neutral"
    word = {"m": "male", "f": "female", "n": "neutral"}.get(word.lower(), word.lower())
    if word not in ("neutral", "male", "female"):
        raise InputError(f"gender: expected neutral, male or female, got {word!r}")
    at = np.tile(np.array(PELVIS.get((model, word), PELVIS[model, "neutral"])), (n, 1))
    betas = content.get("betas")
    if betas is not None and body.joint_shapedirs is not None:
        shape = _betas(content, "betas", n)
        most = min(shape.shape[1], body.joint_shapedirs.shape[2])
        at = at + shape[:, :most] @ body.joint_shapedirs[0, :, :most].T
    return at


def each(name: str, value: Any, n: int, last: int) -> NDArray[np.float64]:
    """Numbers (n, last) from (n, last), or from (last,), the same for all."""
    array = numbers(name, value)
    if array.size == last:
        return np.tile(array.reshape(1, last), (n, 1))
    if array.size != n * last:
        raise InputError(f"{name}: expected shape ({n}, {last}), got {array.shape}")
    return array.reshape(n, last)


def _betas(content: Mapping[str, Any], name: str, n: int) -> NDArray[np.float64]:
    betas = numbers(name, content[name])
    one = betas.ndim == 1 or (betas.ndim > 1 and len(betas) == 1)
    if betas.ndim == 0 or not betas.size or not (one or len(betas) == n):
        raise InputError(f"{name}: expected shape ({n}, B), got {betas.shape}")
    return np.tile(betas.reshape(1, -1), (n, 1)) if one else betas.reshape(n, -1)


def _placed(found: dict[str, Any], content: Mapping[str, Any], model: str, body: Body, moved: Any = None) -> dict[str, Any]:
    """With ``origin``, the model's pelvis or what the file says; where the model is ``moved`` to (n, 3) goes into t."""
    n = len(found["pose"])
    at = each("origin", content["origin"], n, 3) if "origin" in content else pelvis(model, {**content, **found}, body, n)
    if moved is None:
        return {**found, "origin": at}
    R = each("R", found["R"], n, 9).reshape(n, 3, 3) if "R" in found else np.tile(np.eye(3), (n, 1, 1))
    return {**found, "origin": at, "t": each("t", found.get("t", np.zeros(3)), n, 3) + np.einsum("nij,nj->ni", R, moved)}


def hmr2(content: Mapping[str, Any], body: Body) -> dict[str, Any]:
    """4D-Humans (HMR2), TokenHMR: rotation matrices in the camera's axes, and a camera for the whole image.

    global_orient (n, 1, 3, 3), body_pose (n, 23, 3, 3), betas (n, 10), pred_cam_t_full (n, 3) metres, scaled_focal_length px;
    or pred_cam (n, 3) = s, tx, ty with box_center (n, 2), box_size (n) px and img_size (n, 2) = width, height.
    """
    turn, joints = rotations("global_orient", content["global_orient"]), rotations("body_pose", content["body_pose"])
    n = len(turn)
    if turn.shape[1] != 1 or len(joints) != n:
        raise InputError(f"body_pose: expected one global_orient for each, got shapes {turn.shape} and {joints.shape}")
    found = seen_by_camera(content) | {"pose": onto_body(np.concatenate([turn, joints], 1), SMPL_JOINTS, body)}
    found.setdefault("estimator", "hmr2")
    if "betas" in content:
        found["betas"] = _betas(content, "betas", n)
    moved = next((content[name] for name in ("pred_cam_t_full", "cam_t_full", "cam_t") if name in content), None)
    size = each("img_size", content["img_size"], n, 2) if "img_size" in content else None
    focal = next((content[name] for name in ("scaled_focal_length", "focal") if name in content), None)
    if "K" not in content:
        found |= {"focal": each("focal", HMR_FOCAL, n, 1)[:, 0], "focal_unit": "longer side"}
        if focal is not None:
            found |= {"focal": each("scaled_focal_length", focal, n, 1)[:, 0], "focal_unit": "pixels"}
    if size is not None:
        found["image_size"] = size[:, ::-1].astype(np.int64)
    if moved is None:
        moved = _full(content, n, size, found)
    return _placed(found, content, "smpl", body, each("pred_cam_t_full", moved, n, 3))


def _full(content: Mapping[str, Any], n: int, size: Any, found: Mapping[str, Any]) -> NDArray[np.float64]:
    """Translations (n, 3) for the whole image from those of the crops."""
    missing = [name for name in ("pred_cam", "box_center", "box_size", "img_size") if name not in content]
    if missing or "focal" not in found:
        raise InputError(
            f"pred_cam_t_full: expected it, or pred_cam, box_center, box_size and img_size; got no {missing or 'focal'}"
        )
    s, tx, ty = each("pred_cam", content["pred_cam"], n, 3).T
    side = each("box_size", content["box_size"], n, 1)[:, 0]
    if not (s * side > 0).all():
        raise InputError("pred_cam: expected a positive scale and box_size")
    focal = found["focal"] * (size.max(1) if found["focal_unit"] != "pixels" else 1)
    beside = 2 * (each("box_center", content["box_center"], n, 2) - size / 2) / (s * side)[:, None]
    return np.column_stack([tx + beside[:, 0], ty + beside[:, 1], 2 * focal / (s * side)])


def wham(content: Mapping[str, Any], body: Body) -> dict[str, Any]:
    """WHAM: axis-angle in the camera's axes, the camera's focal length being the image's diagonal.

    pose (n, 72), trans (n, 3) metres, in the camera's axes, betas (n, 10), frame_ids (n). Poses in the world are not read: the
    world's camera is not in the file.
    """
    pose = rotations("pose", content["pose"])
    found = seen_by_camera(content) | {"pose": onto_body(pose, SMPL_JOINTS, body)}
    found.setdefault("estimator", "wham")
    n = len(pose)
    if "betas" in content:
        found["betas"] = _betas(content, "betas", n)
    if "frame_ids" in content:
        found["frames"] = np.asarray(content["frame_ids"])
    if not {"K", "focal"} & set(content):
        found |= {"focal": np.ones(n), "focal_unit": "diagonal"}
    return _placed(found, content, "smpl", body, each("trans", content["trans"], n, 3))


def romp(content: Mapping[str, Any], body: Body) -> dict[str, Any]:
    """ROMP and BEV: axis-angle in the camera's axes; ROMP a weak-perspective camera, BEV one of 60 degrees.

    smpl_thetas (n, 72), smpl_betas (n, 10; BEV 11), cam (n, 3), joints (n, 71, 3); BEV's cam_trans (n, 3). ROMP: x = s X + t in
    -1..1 across the square about the image, cam = s, tx, ty. BEV puts the middle of the model's hips at cam_trans; where its
    pelvis is, ``joints`` say.
    """
    pose = rotations("smpl_thetas", content["smpl_thetas"])
    n = len(pose)
    found = seen_by_camera(content) | {"pose": onto_body(pose, SMPL_JOINTS, body), "betas": _betas(content, "smpl_betas", n)}
    bev = found["betas"].shape[1] == 11
    found["betas"] = found["betas"][:, :10]
    found.setdefault("estimator", "bev" if bev else "romp")
    joints = numbers("joints", content["joints"]) if "joints" in content else None
    if joints is not None and (joints.ndim != 3 or len(joints) != n or joints.shape[1] < 24 or joints.shape[2] != 3):
        raise InputError(f"joints: expected shape ({n}, 71, 3), got {joints.shape}")
    if bev:
        if joints is None or "cam_trans" not in content:
            raise InputError("joints, cam_trans: expected them in a file of BEV, got none: run it with --calc_smpl")
        moved = joints[:, 0] + each("cam_trans", content["cam_trans"], n, 3)
        return found | {"t": moved, "focal": np.full(n, BEV_FOCAL), "focal_unit": "longer side"}
    s, tx, ty = each("cam", content["cam"], n, 3).T
    if not (s > 0).all():
        raise InputError("cam: expected s > 0")
    weak = {"weak_camera": np.column_stack([s, tx / s, ty / s]), "square": True}
    if joints is not None:
        return found | weak | {"origin": joints[:, 0]}
    return _placed(found | weak, content, "smpl", body)


def smpl(content: Mapping[str, Any], body: Body) -> dict[str, Any]:
    """SMPL and SMPL-H as AMASS writes them: poses (n, 72), (n, 156) or (n, 66 and more), trans (n, 3) metres, betas, gender; or
    in parts, as ``smplx``.

    The frame is that of the data set (of AMASS, z up); the camera is R, t, K or focal by our names, from that frame, in the
    same file or in one of cameras.
    """
    if "global_orient" in content:
        return _in_world(content, body, "smpl", *_parts(content, SMPLH_JOINTS))
    name = "poses" if "poses" in content else "pose" if "pose" in content else "smpl_pose"
    pose = rotations(name, content[name])
    joints = pose.shape[1]
    names = SMPL_JOINTS if joints <= 24 else SMPLH_JOINTS if joints <= 52 else SMPLX_JOINTS
    return _in_world(content, body, "smplx" if joints == 55 else "smpl", pose, names)


def smplx(content: Mapping[str, Any], body: Body) -> dict[str, Any]:
    """SMPL-X as smplx and SMPLify-X write it: global_orient (n, 3), body_pose (n, 63), jaw, eyes, hands (n, 45), transl (n, 3).

    Hands in principal components (n, 6 or 12) stay straight. A body_pose of 23 joints (n, 69) is SMPL's. The camera is R, t, K
    or focal by our names, or SMPLify-X's camera_rotation and camera_translation.
    """
    pose, names = _parts(content, SMPLX_JOINTS)
    return _in_world(content, body, "smpl" if names == SMPL_JOINTS else "smplx", pose, names)


def _parts(content: Mapping[str, Any], names: tuple[str, ...]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Poses (n, j, 3) from global_orient, body_pose and what else there is, and the names of their joints: ``names``, or SMPL's
    where the body has 23."""
    turn, joints = rotations("global_orient", content["global_orient"]), rotations("body_pose", content["body_pose"])
    n = len(joints)
    if turn.shape[:2] != (n, 1) or joints.shape[1] not in (21, 23):
        raise InputError(f"body_pose: expected 21 or 23 joints for each global_orient, got {joints.shape} and {turn.shape}")
    if joints.shape[1] == 23:
        return np.concatenate([turn, joints], 1), SMPL_JOINTS
    pose = np.zeros((n, len(names), 3))
    pose[:, :1], pose[:, 1:22] = turn, joints
    first_of = {"jaw_pose": "jaw", "leye_pose": "left_eye", "reye_pose": "right_eye"}
    first_of |= {"left_hand_pose": "left_index1", "right_hand_pose": "right_index1"}
    for name, joint in first_of.items():
        if name in content and joint in names:
            value, parts = numbers(name, content[name]), 15 if "hand" in name else 1
            for shape in ((n, parts, 3), (n, parts, 3, 3)):
                if value.size == np.prod(shape):
                    pose[:, names.index(joint) : names.index(joint) + parts] = rotations(name, value.reshape(shape))
    return pose, names


def _in_world(
    content: Mapping[str, Any], body: Body, model: str, pose: NDArray[np.float64], names: Sequence[str]
) -> dict[str, Any]:
    """People in a world of the file's own, seen by cameras in it."""
    n = len(pose)
    found = common(content) | {"pose": onto_body(pose, names, body)}
    if "focal_length" in content and not {"K", "focal"} & set(found):
        found["focal"] = each("focal_length", content["focal_length"], n, 1)[:, 0]
    if "betas" in content:
        found["betas"] = _betas(content, "betas", n)
    if "camera_rotation" in content:
        found["R"] = each("camera_rotation", content["camera_rotation"], n, 9).reshape(n, 3, 3)
    if "camera_translation" in content:
        found["t"] = each("camera_translation", content["camera_translation"], n, 3)
    moved = next((content[key] for key in ("trans", "transl") if key in content), np.zeros(3))
    return _placed(_seen(found, n, content), content, model, body, each("trans", moved, n, 3))


def _seen(found: dict[str, Any], n: int, content: Mapping[str, Any]) -> dict[str, Any]:
    """With the camera's place, where it is the origin; InputError without a camera."""
    if not {"K", "focal"} & set(found):
        raise InputError(
            "K: expected cameras (K, or focal in pixels; R and t where they differ from the poses' own), in this file or with "
            f"--cameras, got arrays named {', '.join(sorted(content)[:20])}"
        )
    for name, shape in (("R", (3, 3)), ("K", (3, 3)), ("t", (3,))):
        value = np.asarray(found.get(name, np.zeros(3))) if name in found or name == "t" else None
        if value is not None and value.size == np.prod(shape):  # one camera for all
            found[name] = np.tile(value.reshape(1, *shape), (n, *(1,) * len(shape)))
    return found
