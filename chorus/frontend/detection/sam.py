"""Masks for boxes, by SAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.frontend.batching import BatchLimit, in_batches
from chorus.frontend.pretrained import dtype_of, load_pretrained
from chorus.frontend.stages import Picture, Runtime

_BYTES_PER_PICTURE = 3 << 30
"""A rough figure of the memory for one picture, beside the weights, with ViT-H. It only sets the first batch's size."""

_Item = tuple[Picture, NDArray[np.float32]]


class Sam:
    """A mask for each box, from SAM's single-mask output, which is meant for unambiguous prompts such as boxes."""

    def __init__(self, model: str, runtime: Runtime) -> None:
        # Boxes are prompts in pixels of 1024: in half precision they would be off by up to 4. Only the image encoder uses it.
        exact = replace(runtime, dtype="float32")
        self._network, self._processor = load_pretrained(model, exact, "SamModel", "SamProcessor")
        self._network.vision_encoder.to(dtype_of(runtime))
        self._dtype = dtype_of(runtime)
        self._limit = BatchLimit.of(runtime, _BYTES_PER_PICTURE)

    def masks(self, pictures: Sequence[Picture], boxes: Sequence[NDArray[np.float32]]) -> list[NDArray[np.bool_]]:
        """Masks (N, H, W) of each picture for its boxes (N, 4) x0, y0, x1, y1 pixels; a mask may reach beyond its box."""
        items = [(picture, found) for picture, found in zip(pictures, boxes, strict=True) if len(found)]
        masks = iter(in_batches(items, self._masks, self._limit))
        return [
            next(masks) if len(found) else np.zeros((0, *picture.size), np.bool_)
            for picture, found in zip(pictures, boxes, strict=True)
        ]

    def _masks(self, items: Sequence[_Item]) -> list[NDArray[np.bool_]]:
        import torch

        # All pictures need the same number of boxes. Each box is decoded alone, so repeating the last one is harmless.
        most = max(len(boxes) for _, boxes in items)
        padded = [np.concatenate([boxes, np.repeat(boxes[-1:], most - len(boxes), 0)]).tolist() for _, boxes in items]
        inputs = self._processor(
            images=[picture.pixels for picture, _ in items],
            input_boxes=padded,
            input_data_format="channels_last",
            return_tensors="pt",
        )
        device = self._network.device
        with torch.inference_mode():
            seen: Any = self._network.vision_encoder(inputs["pixel_values"].to(device, self._dtype)).last_hidden_state
            logits = self._network(
                image_embeddings=seen.float(),
                input_boxes=inputs["input_boxes"].to(device, torch.float32),
                multimask_output=False,
            ).pred_masks
            masks = self._processor.image_processor.post_process_masks(
                [logits[i, : len(boxes)] for i, (_, boxes) in enumerate(items)],
                inputs["original_sizes"].tolist(),
                inputs["reshaped_input_sizes"].tolist(),
            )
        return [mask[:, 0].cpu().numpy() for mask in masks]
