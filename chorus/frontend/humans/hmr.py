"""3D pose by HMR's iterative regressor, with a checkpoint of SPIN, FrankMocap or EFT (Eq. 3, A.4).

What these checkpoints have in common, and what this module relies on:

- input: a square crop of 224 px, RGB, normalised by ImageNet's mean and deviation, 1.2 times the longer side of the box;
- output: 24 rotations in SMPL's joint order, the first of them global, so that a model point X turned by it is in the camera's
  axes, x right, y down, z forward. SMPL's axes being x left, y up, z forward, a person who stands upright and faces the camera
  is turned by pi about x;
- the turn is about the pelvis, which stays where SMPL has it, 22 cm from SMPL's origin (``SMPL_PELVIS``);
- a camera s, tx, ty in the crop, whose edges are at -1 and 1, y down. ``frankmocap`` (and EFT): x = s X + tx. ``spin``: a
  perspective camera of focal length 5000 px at z = 2 * 5000 / (224 s), which is nearly x = s (X + tx).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.body.model import SMPL_JOINTS, Body, check_smpl_joints
from chorus.errors import InputError, check_array
from chorus.frontend.batching import BatchLimit, in_batches
from chorus.frontend.humans.crop import RESOLUTION, Crop
from chorus.frontend.humans.regressor import Regressor, load_regressor, rotations_from_6d
from chorus.frontend.stages import Human, Picture, Refusal, Runtime

PROJECTIONS = ("frankmocap", "spin")

SMPL_PELVIS = (-0.0018, -0.2233, 0.0282)
"""Where the neutral SMPL template has its pelvis, metres from its origin: what cameras of these regressors are relative to."""

SPIN_FOCAL = 5000.0
"""Focal length of SPIN's cameras, pixels of the crop."""

MIN_SIDE = 20.0
"""Least side of a crop in pixels of the image. FrankMocap gives no prediction below it, which A.3 uses as a filter."""

CROP_SCALE = 1.2
"""Side of the crop over the longer side of the person's box: what the checkpoints are trained with."""

TOO_SMALL, NO_POSE = "person too small", "no 3D pose"

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in 0..1
_MOST_CROPS = 64  # at a time; more are no faster
_BYTES_PER_CROP = 60 << 20  # activations of a ResNet-50 in float32, with what convolutions borrow


def make(model: str, runtime: Runtime) -> HmrEstimator:
    """The stage, from a checkpoint's path. Errors of ``load_regressor``; InputError without a body with SMPL's joints."""
    settings = _settings(runtime)
    if runtime.body is None:
        raise InputError("body: expected the body that poses belong to, got none")
    check_smpl_joints(runtime.body)
    regressor = load_regressor(model)
    regressor.backbone.to(dtype=getattr(torch, runtime.dtype))
    regressor.to(runtime.device)
    limit = BatchLimit.of(runtime, _BYTES_PER_CROP, _MOST_CROPS)
    name = f"hmr {settings['projection']} {Path(model).name}"
    return HmrEstimator(regressor, runtime.body, limit, **settings, name=name)


def check(model: str, runtime: Runtime, _category: str | None) -> None:
    """InputError for options out of bounds, a path that is no file, and a body without SMPL's joints."""
    _settings(runtime)
    if not Path(model).is_file():
        raise InputError(f"--{runtime.kind} hmr: expected a checkpoint, a file, got {model!r}")
    if runtime.body is not None:
        check_smpl_joints(runtime.body)


def _settings(runtime: Runtime) -> dict[str, Any]:
    """The arguments of ``HmrEstimator`` that are options."""
    return {
        "projection": runtime.one_of("projection", PROJECTIONS),
        "crop_scale": runtime.number("crop_scale", CROP_SCALE, 0.5, 4.0),
        "min_side": runtime.number("min_side", MIN_SIDE, 0.0, 1e4),
    }


class HmrEstimator:
    """HumanEstimator on a ``Regressor``.

    The 24 predicted joints are matched with the body's by name; joints that only the body has (fingers, jaw) stay at rest.
    Shape coefficients move the projected joints as far as the body has shape directions.
    """

    def __init__(
        self,
        regressor: Regressor,
        body: Body,
        limit: BatchLimit,
        *,
        projection: str = PROJECTIONS[0],
        crop_scale: float = CROP_SCALE,
        min_side: float = MIN_SIDE,
        name: str = "hmr",
    ) -> None:
        joints = regressor.head.decpose.out_features // 6
        if joints != len(SMPL_JOINTS):
            raise InputError(f"decpose.weight: expected 6 numbers for {len(SMPL_JOINTS)} joints, got {joints} joints")
        if regressor.head.deccam.out_features != 3:
            raise InputError(f"deccam.weight: expected a camera of 3 numbers, got {regressor.head.deccam.out_features}")
        check_smpl_joints(body)
        self.regressor, self.body, self.limit, self.name = regressor, body, limit, name
        self.projection, self.crop_scale, self.min_side = projection, crop_scale, min_side
        shared = [joint for joint in SMPL_JOINTS if joint in body.joint_names]
        self._from = [SMPL_JOINTS.index(joint) for joint in shared]
        self._to = [body.joint_names.index(joint) for joint in shared]

    def humans(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> Sequence[Human | Refusal]:
        """The person of each picture; Refusal "person too small", or "no 3D pose" where the network gives no usable numbers."""
        boxes = check_array("boxes", boxes, (len(pictures), 4), np.float32)
        found: list[Human | Refusal] = [Refusal(TOO_SMALL)] * len(pictures)
        crops: dict[int, Crop] = {}
        for row, box in enumerate(boxes.astype(np.float64)):
            side = self.crop_scale * float((box[2:] - box[:2]).max())
            if (box[2:] > box[:2]).all() and side >= self.min_side:
                crops[row] = Crop.around(box, self.crop_scale)
        rows = list(crops)
        raw = in_batches(rows, lambda batch: self._regress([crops[row].cut(pictures[row].pixels) for row in batch]), self.limit)
        for row, (pose6d, betas, camera) in zip(rows, raw, strict=True):
            found[row] = self._human(crops[row], pose6d, betas, camera)
        return found

    @torch.inference_mode()
    def _regress(self, crops: Sequence[NDArray[np.uint8]]) -> list[tuple[NDArray[np.float64], ...]]:
        """6D rotations (144,), shape coefficients (B,), camera (3,) of each crop."""
        weight = next(self.regressor.backbone.parameters())
        pixels = torch.from_numpy(np.stack(crops)).to(weight.device).permute(0, 3, 1, 2).float() / 255
        mean, deviation = (torch.tensor(v, device=weight.device).view(3, 1, 1) for v in (_MEAN, _DEVIATION))
        outputs = self.regressor(((pixels - mean) / deviation).to(weight.dtype))
        arrays = [output.cpu().numpy().astype(np.float64) for output in outputs]
        return list(zip(*arrays, strict=True))

    def _human(
        self, crop: Crop, pose6d: NDArray[np.float64], betas: NDArray[np.float64], camera: NDArray[np.float64]
    ) -> Human | Refusal:
        rotations = rotations_from_6d(pose6d.reshape(-1, 6))
        if not all(np.isfinite(values).all() for values in (rotations, betas, camera)) or camera[0] <= 0:
            return Refusal(NO_POSE)
        axis_angle = Rotation.from_matrix(rotations).as_rotvec()
        pose = np.zeros((self.body.num_joints, 3))
        pose[self._to] = axis_angle[self._from]
        pose[0] = 0
        points = turned_joints(self.body, pose, betas, rotations[0])
        joints = crop.from_normalised(self.project(points, camera))
        if not np.abs(joints).max() < 1e6:  # beyond what a camera fit accepts: not a person
            return Refusal(NO_POSE)
        return Human(pose, axis_angle[0], joints, betas, estimator=self.name, crop_camera=self._about_pelvis(camera))

    def project(self, points: NDArray[np.float64], camera: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (..., 3) in metres from the pelvis, in the camera's axes -> (..., 2) float64 in -1..1 across the crop.

        camera  (3,) s, tx, ty as the checkpoint gives them
        """
        placed = points + SMPL_PELVIS
        if self.projection == "frankmocap":
            return np.asarray(camera[0] * placed[..., :2] + camera[1:])
        distance = 2 * SPIN_FOCAL / (RESOLUTION * camera[0])
        return np.asarray(camera[0] * (placed[..., :2] + camera[1:]) / (1 + placed[..., 2:] / distance))

    def _about_pelvis(self, camera: NDArray[np.float64]) -> NDArray[np.float64]:
        """The checkpoint's camera (3,) as s, tx, ty with x = s (X + tx), X in metres from the pelvis."""
        shift = camera[1:] / camera[0] if self.projection == "frankmocap" else camera[1:]
        return np.array([camera[0], *(shift + SMPL_PELVIS[:2])])


def turned_joints(
    body: Body, pose: NDArray[np.float64], betas: NDArray[np.float64] | None, orientation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Joints (J, 3) in metres of a pose (J, 3) turned by ``orientation`` (3, 3) about the pelvis, from the template's pelvis.

    Shape moves the pelvis, too, and the turn does not move it back: that is how SMPL places its model.
    """
    most = 0 if body.shapedirs is None else body.shapedirs.shape[2]
    shape = None if betas is None or most == 0 else betas[:most]
    joints = body.posed_joints(pose[None], shape)[0]
    return np.asarray((joints - joints[0]) @ orientation.T + joints[0])
