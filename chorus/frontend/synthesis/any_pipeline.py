"""Any text-to-image pipeline of diffusers, with its own scheduler and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from chorus.errors import InputError
from chorus.frontend.batching import BatchLimit, in_batches
from chorus.frontend.pretrained import dtype_of, local_config
from chorus.frontend.stages import ImageRequest, Picture, Refusal, Runtime
from chorus.frontend.synthesis import loading, views

VIEW_CONTROL = ("suffix", "negative")

_USUAL_SIZE = 1024
"""Pixels along a side that the estimate of memory assumes where the pipeline chooses the size."""


def make(model: str, runtime: Runtime) -> AnyPipeline:
    """The stage, its pipeline loaded from a hub id or a local folder.

    InputError for a model that cannot be loaded, that makes no images from text, or that lacks what an option asks for.
    """
    diffusers = loading.import_diffusers()
    revision = runtime.options.get("revision")
    index = loading.index_of(model, revision)
    without: dict[str, Any] = {}
    if loading.unchecked(index, runtime, model) and "safety_checker" in index:
        without["safety_checker"] = None
        if "requires_safety_checker" in index:
            without["requires_safety_checker"] = False
    settings = {"revision": revision, "dtype": dtype_of(runtime), **without}
    with loading.quietly(model, revision) as place:
        try:
            pipeline = diffusers.AutoPipelineForText2Image.from_pretrained(place, **settings)
        except ValueError:
            # The automatic class knows the common pipelines; others are loaded as their model_index.json says.
            pipeline = diffusers.DiffusionPipeline.from_pretrained(place, **settings)
    return AnyPipeline(pipeline, runtime)


def check(model: str, runtime: Runtime, _category: str | None) -> None:
    """InputError for options out of bounds, and for a folder with a pipeline that brings no wanted safety checker."""
    _chosen(runtime)
    runtime.one_of("safety", loading.SAFETY)
    index = local_config(model, loading.INDEX)
    if index:
        loading.unchecked(index, runtime, model)


def _chosen(runtime: Runtime) -> tuple[int, int, float | None, str]:
    """The options size and steps, 0 for the pipeline's own, guidance, None for the pipeline's own, and view_control."""
    guidance = runtime.number("guidance", 0, 0, 100) if "guidance" in runtime.options else None
    size, steps = runtime.whole("size", 0, 0, 4096), runtime.whole("steps", 0, 0, 1000)
    return size, steps, guidance, runtime.one_of("view_control", VIEW_CONTROL)


class AnyPipeline:
    """ImageSource on a pipeline of diffusers. Options: see the stage's entry in the registry."""

    def __init__(self, pipeline: Any, runtime: Runtime) -> None:
        self._takes = inspect.signature(pipeline.__call__).parameters
        if "prompt" not in self._takes:
            raise InputError(f"--images: expected a pipeline that makes images from text, got a {type(pipeline).__name__}")
        size, steps, guidance, self.view_control = _chosen(runtime)
        self.negative = runtime.options.get("negative", "")
        chosen: dict[str, Any] = {"height": size or None, "width": size or None, "num_inference_steps": steps or None}
        chosen["guidance_scale"] = guidance
        # An option that was set and that the pipeline lacks is an error; options not set keep the pipeline's defaults.
        self.arguments = {name: value for name, value in chosen.items() if value is not None}
        asked = {"height": "size", "width": "size", "num_inference_steps": "steps", "guidance_scale": "guidance"}
        for name in self.arguments:
            self._require(pipeline, name, asked[name])
        if self.negative:
            self._require(pipeline, "negative_prompt", "negative")
        if self.view_control == "negative":
            self._require(pipeline, "negative_prompt", "view_control")
        # Without a generator for each image none could be made again.
        self._require(pipeline, "generator", "seed")
        self.pipeline = loading.settle(pipeline, runtime)
        self.limit = BatchLimit.of(runtime, loading.bytes_per_image(size or _USUAL_SIZE, runtime))

    def _require(self, pipeline: Any, argument: str, option: str) -> None:
        if argument not in self._takes:
            raise InputError(
                f"--set {option}: expected a pipeline that takes {argument}, got {type(pipeline).__name__}, which does not"
            )

    def images(self, requests: Sequence[ImageRequest]) -> list[Picture | Refusal]:
        """Pictures of the pipeline's size, one for each request and in order; Refusal for those that a safety checker flags.

        Each image has a generator of its own, seeded with ``request.seed`` on the CPU.
        """
        return in_batches(requests, self._draw, self.limit)

    def _draw(self, requests: Sequence[ImageRequest]) -> list[Picture | Refusal]:
        arguments: dict[str, Any] = dict(self.arguments)
        if "negative_prompt" in self._takes and (self.negative or self.view_control == "negative"):
            of_view = self.view_control == "negative"
            arguments["negative_prompt"] = [
                views.negative_prompt(request.view if of_view else "", self.negative) for request in requests
            ]
        if "output_type" in self._takes:
            arguments["output_type"] = "np"
        with loading.quiet():
            made = self.pipeline(
                prompt=[request.text for request in requests],
                generator=[loading.generator_of(request) for request in requests],
                **arguments,
            )
        images, flagged = _read(made)
        return loading.pictures(requests, images, flagged)


def _read(made: Any) -> tuple[Any, Any]:
    """Images (B, H, W, 3) in 0..1 and the safety checker's flags (None: not checked), from any pipeline's output."""
    import numpy as np

    images = made["images"] if isinstance(made, Mapping) else made[0]
    flagged = made.get("nsfw_content_detected") if isinstance(made, Mapping) else None
    if not isinstance(images, np.ndarray):
        images = np.stack([np.asarray(image.convert("RGB")) / np.float32(255) for image in images])
    if images.ndim != 4 or images.shape[3] != 3:
        raise InputError(f"--images: expected a pipeline whose images are (B, H, W, 3), got {images.shape}")
    return images, flagged
