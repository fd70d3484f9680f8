"""Keypoints by ViTPose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.frontend.batching import BatchLimit, in_batches
from chorus.frontend.keypoints.order import check_boxes, check_order, keypoints_of
from chorus.frontend.pretrained import load_pretrained
from chorus.frontend.stages import Picture, Runtime
from chorus.keypoints import COCO_KEYPOINTS

_BYTES_PER_PICTURE = 1 << 27
"""A rough figure of the memory for one person, beside the weights, with ViT-H. It only sets the first batch's size."""
_MOST_PEOPLE = 64
"""Most people of a first batch."""

_Item = tuple[Picture, NDArray[np.float32]]
_Found = tuple[NDArray[np.float32], NDArray[np.float32]]


def make(model: str, runtime: Runtime) -> VitPose:
    """The stage ``vitpose``; see docs/detection.md."""
    network, processor = load_pretrained(model, runtime, "VitPoseForPoseEstimation", "AutoImageProcessor")
    limit = BatchLimit.of(runtime, _BYTES_PER_PICTURE, _MOST_PEOPLE)
    return VitPose(network, processor, limit, _dataset(runtime))


def check(_model: str, runtime: Runtime, _category: str | None) -> None:
    """InputError for an option out of bounds."""
    _dataset(runtime)


def _dataset(runtime: Runtime) -> int:
    return runtime.whole("dataset", 0, 0, 1000)


class VitPose:
    """KeypointEstimator on a ViTPose of transformers.

    In the library's coordinates pixel centres are whole numbers: its crop puts pixel (0, 0) at (0, 0), and its decoder undoes
    that. Here they lie at + 0.5, so half a pixel is added. Boxes are given as in the training on COCO: x0, y0, width, height,
    where pixels begin at whole numbers. Half a pixel in where a crop is cut does not move what is found in it.
    """

    def __init__(self, network: Any, processor: Any, limit: BatchLimit, dataset: int = 0) -> None:
        self._network, self._processor, self._limit = network, processor, limit
        names: dict[int, str] = network.config.id2label
        check_order(names, "--keypoints")
        experts = network.config.backbone_config.num_experts
        if not 0 <= dataset < experts:
            raise InputError(
                f"--set keypoints.dataset: expected a number below {experts}, the experts of this model, got {dataset}"
            )
        self._dataset = dataset if experts > 1 else None

    def keypoints(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        checked = check_boxes(boxes, len(pictures))
        found = in_batches(list(zip(pictures, checked, strict=True)), self._find, self._limit)
        return keypoints_of([points for points, _ in found], [scores for _, scores in found])

    def _find(self, items: Sequence[_Item]) -> list[_Found]:
        """Points (17, 2) in the library's coordinates and scores (17,) of each person."""
        import torch

        boxes = [[[x0, y0, x1 - x0, y1 - y0]] for x0, y0, x1, y1 in (box.tolist() for _, box in items)]
        inputs = self._processor(
            images=[picture.pixels for picture, _ in items], boxes=boxes, return_tensors="pt", input_data_format="channels_last"
        )
        device = self._network.device
        experts: dict[str, Any] = {}
        if self._dataset is not None:
            experts["dataset_index"] = torch.full((len(items),), self._dataset, dtype=torch.long, device=device)
        with torch.inference_mode():
            outputs = self._network(inputs["pixel_values"].to(device, self._network.dtype), **experts)
        outputs.heatmaps = outputs.heatmaps.float()  # numpy knows no bfloat16
        results = self._processor.post_process_pose_estimation(outputs, boxes=boxes)
        shape = len(COCO_KEYPOINTS)
        return [
            (person["keypoints"].numpy().reshape(shape, 2), person["scores"].numpy().reshape(shape)) for (person,) in results
        ]
