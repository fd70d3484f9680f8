"""The camera step: perspective cameras in the person's frame from a 3D pose estimator's results (3.3, Eq. 8, A.4)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.camera.fit import LEAST_DEPTH, METHODS, check_budget, fit_cameras, weak_perspective_start
from chorus.errors import InputError, check_array
from chorus.frontend.stages import Human

STARTS = ("fitted", "paper")
FOCALS = ("auto", "fitted", "fixed")


@dataclass(frozen=True)
class FoundCameras:
    """I cameras, one a human.

    cameras      Cameras in the person's frame (metres, origin at the pelvis); a placeholder in rows with a reason
    residual_px  (I,) float64 mean distance in pixels between targets and projected joints; NaN where the camera was known, and
                 in rows with a reason
    reasons      (I,) why there is no camera; "" where there is one, whatever its residual, which filters judge later
    """

    cameras: Cameras
    residual_px: NDArray[np.float64]
    reasons: tuple[str, ...]


def calibrate(
    humans: Sequence[Human],
    sizes: Any,
    body: Body,
    *,
    method: str = "adam",
    iterations: int = 2400,
    stop_px: float = 0.7,
    start: str = "fitted",
    focal: str = "auto",
    fit_betas: bool = False,
) -> FoundCameras:
    """Cameras of I people, one in each image, by Eq. 8; cameras that are known already are passed on as they are.

    humans      I people with J joints each                        sizes  (I, 2) height, width of their images in pixels
    body        the body whose J posed joints are fitted to the humans' projected joints
    method      "adam" is the paper's, and the default, because of where it stops: projections of a weak-perspective camera are
                matched best from infinitely far away. Adam takes steps of about 0.01 and ends at the first camera below
                ``stop_px``, on exact weak-perspective targets some 20 m away; "levenberg-marquardt" goes straight to the
                minimum, hundreds of metres away, where perspective is gone. It is better where targets are perspective (joints
                found by a network with a perspective camera), and with a fixed focal length
    iterations, stop_px   as in ``fit_cameras``
    focal       "fitted" is the paper's; "fixed": the field of view is 46.4 degrees across the width, the paper's start;
                "auto": fixed for people that come with a weak-perspective camera (``crop_camera``), whose joints say nothing of
                perspective, so that fitting it puts the camera many times too far away; else fitted
    start       rotation from the human's orientation in any case; then "fitted": translation from the mean and spread of
                the targets; "paper": (tx, ty, 2 f / s) of the regressor's crop, as if the crop were the image (A.4), which is
                far off where it is not; the humans must have a ``crop_camera``
    fit_betas   False: joints of the template, as field and votes have them; True: of each human's shape (A.4's text), with
                the pelvis of that shape at the origin. The body must have shape directions

    Computed in float64; images do not influence each other. Raises InputError for unknown methods and starts, other shapes,
    humans of another number of joints, and known cameras of another image size. Numbers of one
    image that allow no camera are no error, but its reason.
    """
    check_budget(iterations, stop_px)
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    if start not in STARTS:
        raise InputError(f"start: expected one of {', '.join(STARTS)}; got {start!r}")
    if focal not in FOCALS:
        raise InputError(f"focal: expected one of {', '.join(FOCALS)}; got {focal!r}")
    if fit_betas and body.shapedirs is None:
        raise InputError(f"fit_betas: expected a body with shape directions, got {body!r}")
    n = len(humans)
    size = check_array("sizes", sizes, (n, 2), np.int32)
    for row, human in enumerate(humans):
        if len(human.pose) != body.num_joints:
            raise InputError(f"humans[{row}].pose: expected the body's {body.num_joints} joints, got {len(human.pose)}")
    K = np.tile(np.eye(3), (n, 1, 1))
    K[:, :2, 2] = size[:, ::-1] / 2
    R, t = np.tile(np.eye(3), (n, 1, 1)), np.tile([0.0, 0.0, 1.0], (n, 1))
    residual, reasons = np.full(n, np.nan), [""] * n
    unknown = []
    for row, human in enumerate(humans):
        if human.camera is None:
            unknown.append(row)
            continue
        given = human.camera
        if len(given) != 1 or (given.image_size[0] != size[row]).any():
            got = given.image_size.tolist()
            raise InputError(f"humans[{row}].camera: expected one of height, width {size[row].tolist()}, got {got}")
        R[row], t[row], K[row] = given.R[0], given.t[0], given.K[0]
    fixed = [row for row in unknown if focal == "fixed" or (focal == "auto" and humans[row].crop_camera is not None)]
    for rows, fit_focal in ((fixed, False), ([row for row in unknown if row not in set(fixed)], True)):
        if not rows:
            continue
        people = [humans[row] for row in rows]
        joints = _joints(people, body, fit_betas)
        targets = np.stack([_targets(human) for human in people])
        valid = np.isfinite(targets).all(2)
        rotations, translations, focal0 = _start(people, size[rows], start)
        fit = fit_cameras(
            joints,
            targets,
            valid,
            size[rows],
            R0=rotations,
            t0=translations,
            focal0=focal0,
            method=method,
            iterations=iterations,
            stop_px=stop_px,
            fit_focal=fit_focal,
            strict=False,
        )
        R[rows], t[rows], K[rows] = fit.cameras.R, fit.cameras.t, fit.cameras.K
        residual[rows] = fit.residual_px
        depth = np.einsum("ic,ijc->ij", fit.cameras.R[:, 2], joints) / fit.cameras.t[:, 2:] + 1
        behind = (valid & (depth <= LEAST_DEPTH)).any(1)
        for i, row in enumerate(rows):
            if behind[i] or np.isnan(fit.residual_px[i]):
                # fit_cameras counts rows within its own batch, which means nothing to whoever reads it in a store.
                reasons[row] = re.sub(r" in row \d+", "", fit.reasons[i])
                residual[row] = np.nan
    return FoundCameras(Cameras(R, t, K, size), residual, tuple(reasons))


def _joints(humans: Sequence[Human], body: Body, fit_betas: bool) -> NDArray[np.float64]:
    """Posed joints (I, J, 3) in metres in the person's frame, the pelvis at the origin."""
    poses = np.stack([human.pose for human in humans])
    if not fit_betas or body.shapedirs is None:
        return body.posed_joints(poses)
    betas = np.zeros((len(humans), body.shapedirs.shape[2]))
    for row, human in zip(betas, humans, strict=True):
        if human.betas is not None:
            shared = min(len(row), len(human.betas))
            row[:shared] = human.betas[:shared]
    joints = body.posed_joints(poses, betas)
    return np.asarray(joints - joints[:, :1])


def _targets(human: Human) -> NDArray[np.float64]:
    """The projected joints (J, 2) in pixels that a camera is fitted to."""
    if human.joints is None:
        raise InputError("human: expected projected joints or a camera, got neither")
    return human.joints


def _start(
    humans: Sequence[Human], size: NDArray[np.int32], start: str
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """R0 (I, 3, 3), t0 (I, 3) metres and focal0 (I,) pixels; None: ``fit_cameras`` finds its own."""
    orientations = np.stack([human.orientation for human in humans])
    if start == "fitted":
        return Rotation.from_rotvec(orientations).as_matrix(), None, None
    cameras = [human.crop_camera for human in humans if human.crop_camera is not None]
    if len(cameras) < len(humans):
        missing = f"{len(humans) - len(cameras)} of {len(humans)} people come without the camera of their crop"
        raise InputError(f'start: expected "fitted", because {missing}; got {start!r}')
    scale, tx, ty = np.stack(cameras, 1)
    return weak_perspective_start(scale, tx, ty, orientations, size)
