"""The paper's keypoints: HRNet with DARK, by mmpose (A.3)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.frontend.keypoints import MMPOSE_NEEDS
from chorus.frontend.keypoints.order import check_boxes, check_order, keypoints_of
from chorus.frontend.stages import Picture, Runtime
from chorus.keypoints import COCO_KEYPOINTS

CONFIG = "td-hm_hrnet-w48_dark-8xb32-210e_coco-384x288.py"
"""The paper's model, as mmpose ships it."""


def make(model: str, runtime: Runtime) -> MmPose:
    """The stage ``mmpose``; see docs/detection.md."""
    try:
        from mmpose.apis import init_model
    except ImportError as error:
        raise ImportError(f"{runtime.kind}: {error}; {MMPOSE_NEEDS}") from error
    first, _, second = (os.path.expanduser(part.strip()) for part in model.partition(","))
    config, checkpoint = (first, second) if second else (_shipped(), first)
    try:
        network = init_model(config, checkpoint, device=runtime.device)
    except (OSError, RuntimeError, KeyError, ValueError, AssertionError) as error:
        raise InputError(
            f"--{runtime.kind}: expected CHECKPOINT or CONFIG,CHECKPOINT of mmpose, got {model!r}: {error}"
        ) from error
    return MmPose(network)


def check(model: str, runtime: Runtime, _category: str | None) -> None:
    """InputError for files that are not there; addresses of the web are not looked up."""
    for path in (part.strip() for part in model.split(",")):
        if "://" not in path and not os.path.isfile(os.path.expanduser(path)):
            raise InputError(
                f"--{runtime.kind} mmpose: expected CHECKPOINT or CONFIG,CHECKPOINT, files that exist; got {path!r}"
            )


class MmPose:
    """KeypointEstimator on a top-down model of mmpose, which takes one person at a time.

    mmpose takes BGR and boxes x0, y0, x1, y1. In its coordinates pixel centres are whole numbers, so half a pixel is added.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        meta: dict[str, Any] = network.dataset_meta or {}
        names: dict[int, str] = meta.get("keypoint_id2name", {})
        check_order(names, "--keypoints mmpose")

    def keypoints(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        from mmpose.apis import inference_topdown

        points, scores = [], []
        for picture, box in zip(pictures, check_boxes(boxes, len(pictures)), strict=True):
            blue_first = np.ascontiguousarray(picture.pixels[:, :, ::-1])
            (found,) = inference_topdown(self._network, blue_first, box[None], bbox_format="xyxy")
            instances = found.pred_instances
            points.append(np.asarray(instances.keypoints, np.float32).reshape(len(COCO_KEYPOINTS), 2))
            scores.append(np.asarray(instances.keypoint_scores, np.float32).reshape(len(COCO_KEYPOINTS)))
        return keypoints_of(points, scores)


def _shipped() -> str:
    """The path of the paper's configuration in the installed mmpose. InputError where it is missing."""
    import mmpose

    path = os.path.join(os.path.dirname(mmpose.__file__), ".mim/configs/body_2d_keypoint/topdown_heatmap/coco", CONFIG)
    if not os.path.isfile(path):
        raise InputError(f"--keypoints mmpose: expected {CONFIG} beside mmpose, there is none: give CONFIG,CHECKPOINT")
    return path
