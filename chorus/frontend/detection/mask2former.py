"""Instances of the categories that a Mask2Former was trained on: the 80 of COCO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chorus.frontend.batching import BatchLimit
from chorus.frontend.detection.boxes import (
    TO_DETECT,
    boxes_of,
    by_confidence,
    find_category,
    nothing,
    of_one_size,
    refuse_person,
)
from chorus.frontend.pretrained import load_pretrained
from chorus.frontend.stages import PERSON, Instances, Picture, Runtime

_BYTES_PER_PICTURE = 1 << 30
"""What a picture takes beside the weights, roughly, with the Swin-L of the default. Only where a first batch starts."""


def make(model: str, runtime: Runtime) -> Mask2Former:
    """The stage ``mask2former``; see docs/detection.md."""
    network, processor = load_pretrained(model, runtime, "Mask2FormerForUniversalSegmentation", "AutoImageProcessor")
    return Mask2Former(
        network, processor, runtime.number("threshold", 0.5), BatchLimit.of(runtime, _BYTES_PER_PICTURE, TO_DETECT)
    )


class Mask2Former:
    """Instances of people and a category, with masks at the pictures' own resolution and the boxes of the masks.

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
        """Of pictures of one size."""
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
        """From the probabilities of the classes (Q, 2) and the logits of the masks (Q, h, w) of the queries.

        The library's own post-processing brings masks to 384 x 384 and from there to the picture by nearest neighbours,
        binary, and counts padding as picture. Here the logits are brought to the picture's size and then cut at zero, as
        Mask2Former's authors do. A query's score is at most its class probability, so masks are made for few of them.
        """
        import torch

        query, column = (probabilities >= self._threshold).nonzero(as_tuple=True)
        if len(query) == 0:
            return nothing(picture)
        large = torch.nn.functional.interpolate(logits[query][None], picture.size, mode="bilinear", align_corners=False)[0]
        on = large > 0
        mean = (large.sigmoid() * on).sum((1, 2)) / on.sum((1, 2)).clamp(min=1)
        scores = probabilities[query, column] * mean
        kept = scores >= self._threshold
        found = on[kept].cpu().numpy()
        names = [labels[c] for c in column[kept].tolist()]
        return by_confidence(boxes_of(found), scores[kept].cpu().numpy(), names, found)


def _unpadded(logits: Any, pixel_mask: Any) -> Any:
    """Mask logits (B, Q, h, w) of the pictures alone: of one size, so padded alike where a processor pads to a fixed size."""
    if pixel_mask is None or bool(pixel_mask.all()):
        return logits
    full, size = pixel_mask.shape[1:], (int(pixel_mask[0, :, 0].sum()), int(pixel_mask[0, 0].sum()))
    height, width = (max(1, round(logits.shape[2 + i] * size[i] / full[i])) for i in range(2))
    return logits[:, :, :height, :width]
