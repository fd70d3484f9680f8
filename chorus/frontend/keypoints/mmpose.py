"""The paper's keypoints: HRNet with DARK, by mmpose (A.3)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.frontend.keypoints.order import check_boxes, check_order, keypoints_of
from chorus.frontend.stages import COCO_KEYPOINTS, Picture, Runtime

CONFIG = "td-hm_hrnet-w48_dark-8xb32-210e_coco-384x288.py"
"""The paper's model, as mmpose ships it."""

_NEEDS = 'install it with pip install "mmpose>=1.3" "mmengine>=0.10" "mmcv>=2.0.1"'


def make(model: str, runtime: Runtime) -> MmPose:
    """The stage ``mmpose``; see docs/detection.md."""
    try:
        from mmpose.apis import init_model
    except ImportError as error:
        raise ImportError(f"{runtime.kind}: {error}; {_NEEDS}") from error
    first, _, second = (os.path.expanduser(part.strip()) for part in model.partition(","))
    config, checkpoint = (first, second) if second else (_shipped(), first)
    try:
        network = init_model(config, checkpoint, device=runtime.device)
    except (OSError, RuntimeError, KeyError, ValueError, AssertionError) as error:
        raise InputError(
            f"--{runtime.kind}: expected CHECKPOINT or CONFIG,CHECKPOINT of mmpose, got {model!r}: {error}"
        ) from error
    return MmPose(network)


class MmPose:
    """Keypoints by a top-down model of mmpose, one person at a time, as its API has it.

    It is given BGR, as its own reading of image files gives, and boxes x0, y0, x1, y1. Its plane has whole numbers at pixel
    centres, so half a pixel is added.
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
    """The paper's configuration, which mmpose brings along."""
    import mmpose

    path = os.path.join(os.path.dirname(mmpose.__file__), ".mim/configs/body_2d_keypoint/topdown_heatmap/coco", CONFIG)
    if not os.path.isfile(path):
        raise InputError(f"--keypoints mmpose: expected {CONFIG} beside mmpose, there is none: give CONFIG,CHECKPOINT")
    return path
