"""Instances of the categories that a Mask2Former was trained on: the 80 of COCO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from chorus.boxes import boxes_of
from chorus.frontend.batching import BatchLimit
from chorus.frontend.detection import MASK2FORMER
from chorus.frontend.detection.boxes import (
    COCO_CATEGORIES,
    MOST_PICTURES,
    by_confidence,
    find_category,
    no_instances,
    of_one_size,
    refuse_person,
)
from chorus.frontend.pretrained import load_pretrained, local_config
from chorus.frontend.stages import PERSON, Instances, Picture, Runtime

_BYTES_PER_PICTURE = 1 << 30
"""A rough figure of the memory for one picture, beside the weights, with Swin-L. It only sets the first batch's size."""


def make(model: str, runtime: Runtime) -> Mask2Former:
    """The stage ``mask2former``; see docs/detection.md."""
    network, processor = load_pretrained(model, runtime, "Mask2FormerForUniversalSegmentation", "AutoImageProcessor")
    return Mask2Former(
        network, processor, runtime.number("threshold", 0.5), BatchLimit.of(runtime, _BYTES_PER_PICTURE, MOST_PICTURES)
    )


def check(model: str, runtime: Runtime, category: str | None) -> None:
    """InputError for a threshold out of bounds, and a category that the model lacks, as far as its names are at hand."""
    runtime.number("threshold", 0.5)
    if category is None:
        return
    refuse_person(category)
    if model == MASK2FORMER:
        find_category(category, COCO_CATEGORIES, "this model")
        return
    names = local_config(model).get("id2label")
    if isinstance(names, dict) and names:
        find_category(category, [str(name) for name in names.values()], "this model")


class Mask2Former:
    """Detector on a Mask2Former of transformers: masks at the resolution of the pictures, and the boxes of the masks.

    The score of an instance is the model's: the probability of its class times the mean probability of the pixels of its
    mask. Instances below ``threshold`` and instances without pixels are left out.
    """

    def __init__(self, network: Any, processor: Any, threshold: float, limit: BatchLimit) -> None:
        self._network, self._processor = network, processor
        self._threshold, self._limit = threshold, limit
        names: dict[int, str] = network.config.id2label
        self.names = [names[i] for i in range(len(names))]
        self._person = find_category(PERSON, self.names, "this model")

    def check(self, category: str) -> None:
        refuse_person(category)
        find_category(category, self.names, "this model")

    def detect(self, pictures: Sequence[Picture], category: str) -> Sequence[Instances]:
        number = find_category(category, self.names, "this model")
        return of_one_size(pictures, lambda batch: self._detect(batch, (self._person, number), (PERSON, category)), self._limit)

    def _detect(self, pictures: Sequence[Picture], classes: tuple[int, int], labels: tuple[str, str]) -> list[Instances]:
        """Instances of each picture; the pictures have one size."""
        import torch

        inputs = self._processor(
            images=[picture.pixels for picture in pictures], return_tensors="pt", input_data_format="channels_last"
        )
        weights = self._network.dtype
        with torch.inference_mode():
            outputs = self._network(pixel_values=inputs["pixel_values"].to(self._network.device, weights))
            probabilities = outputs.class_queries_logits.float().softmax(-1)[..., list(classes)]
            logits = _unpadded(outputs.masks_queries_logits.float(), inputs.get("pixel_mask"))
            return [self._instances(probabilities[i], logits[i], picture, labels) for i, picture in enumerate(pictures)]

    def _instances(self, probabilities: Any, logits: Any, picture: Picture, labels: tuple[str, str]) -> Instances:
        """One picture's instances, from the class probabilities (Q, 2) and mask logits (Q, h, w) of its Q queries.

        The library's post-processing makes binary masks of 384 x 384, resizes them to the picture by nearest neighbours, and
        counts padding as picture. Here the logits are resized to the picture and then cut at zero, as Mask2Former's authors
        do. A query's score is at most its class probability, so masks are made only for queries above the threshold.
        """
        import torch

        query, column = (probabilities >= self._threshold).nonzero(as_tuple=True)
        if len(query) == 0:
            return no_instances(picture)
        large = torch.nn.functional.interpolate(logits[query][None], picture.size, mode="bilinear", align_corners=False)[0]
        on = large > 0
        mean = (large.sigmoid() * on).sum((1, 2)) / on.sum((1, 2)).clamp(min=1)
        scores = probabilities[query, column] * mean
        kept = scores >= self._threshold
        found = on[kept].cpu().numpy()
        names = [labels[c] for c in column[kept].tolist()]
        return by_confidence(boxes_of(found).astype(np.float32), scores[kept].cpu().numpy(), names, found)


def _unpadded(logits: Any, pixel_mask: Any) -> Any:
    """Mask logits (B, Q, h, w) without padding, which is the same for all pictures of the batch, since they have one size."""
    if pixel_mask is None or bool(pixel_mask.all()):
        return logits
    full, size = pixel_mask.shape[1:], (int(pixel_mask[0, :, 0].sum()), int(pixel_mask[0, 0].sum()))
    height, width = (max(1, round(logits.shape[2 + i] * size[i] / full[i])) for i in range(2))
    return logits[:, :, :height, :width]
