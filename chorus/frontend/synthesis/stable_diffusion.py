"""Stable Diffusion as the paper uses it (A.2): v1.4, PLMS, 50 steps, guidance 7.5, 512 px."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.frontend.batching import BatchLimit, in_batches
from chorus.frontend.pretrained import dtype_of, local_config
from chorus.frontend.stages import ImageRequest, Picture, Refusal, Runtime
from chorus.frontend.synthesis import loading, perp_neg, views

STEPS = 50
GUIDANCE = 7.5
SIZE = 512
VIEW_WEIGHT = 1.0
"""Weight of every opposite view in Perp-Neg; this project's choice, the paper does not use Perp-Neg."""

VIEW_CONTROL = ("suffix", "negative", "perp-neg")

_BETAS = ("beta_start", "beta_end", "beta_schedule")


def make(model: str, runtime: Runtime) -> StableDiffusion:
    """The stage, its pipeline loaded from a hub id or a local folder in the same way.

    InputError for a model that cannot be loaded or is of another class, and for options that make no sense together.
    """
    diffusers = loading.import_diffusers()
    revision = runtime.options.get("revision")
    index = loading.index_of(model, revision)
    _check_class(index, model)
    # Without these keywords the model's own safety checker is loaded.
    without: dict[str, Any] = {}
    if loading.unchecked(index, runtime, model):
        without = {"safety_checker": None, "requires_safety_checker": False}
    with loading.quietly(model, revision) as place:
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            place, revision=revision, dtype=dtype_of(runtime), **without
        )
    return StableDiffusion(pipeline, runtime)


def check(model: str, runtime: Runtime, _category: str | None) -> None:
    """InputError for options out of bounds or that make no sense together, and for a folder with another pipeline."""
    Choices.of(runtime)
    runtime.one_of("safety", loading.SAFETY)
    index = local_config(model, loading.INDEX)
    if index:
        _check_class(index, model)
        loading.unchecked(index, runtime, model)


def _check_class(index: dict[str, Any], model: str) -> None:
    kind = index.get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise InputError(f"--images: expected a StableDiffusionPipeline, got {model!r}, a {kind}: try diffusers={model}")


@dataclass(frozen=True)
class Choices:
    """What the options say, as far as it can be judged without the model."""

    steps: int
    guidance: float
    size: int
    view_control: str
    view_weight: float
    negative: str

    @classmethod
    def of(cls, runtime: Runtime) -> Choices:
        """InputError for options out of bounds, and for those that make no sense together."""
        chosen = cls(
            runtime.whole("steps", STEPS, 1, 999),
            runtime.number("guidance", GUIDANCE, 0, 100),
            runtime.whole("size", SIZE, 8, 4096),
            runtime.one_of("view_control", VIEW_CONTROL),
            runtime.number("view_weight", VIEW_WEIGHT, 0, 100),
            runtime.options.get("negative", ""),
        )
        if chosen.guidance <= 1 and (chosen.negative or chosen.view_control != "suffix"):
            raise InputError(
                f"--set guidance: expected more than 1 for negative prompts to have an effect, got {chosen.guidance:g}"
            )
        if "view_weight" in runtime.options and chosen.view_control != "perp-neg":
            raise InputError(f"--set view_weight: expected only with view_control=perp-neg, got {chosen.view_control!r}")
        return chosen


def plms(scheduler: Any) -> Any:
    """PNDM without its Runge-Kutta steps, which is PLMS, with the noise schedule of the model's own scheduler."""
    from diffusers import PNDMScheduler

    config = scheduler.config
    if config.get("trained_betas") is None and any(config.get(name) is None for name in _BETAS):
        raise InputError(f"--images: expected a scheduler with betas, got {type(scheduler).__name__}, which has no {_BETAS}")
    return PNDMScheduler.from_config(
        config, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading"
    )


class StableDiffusion:
    """ImageSource on a StableDiffusionPipeline. Options: see the stage's entry in the registry."""

    def __init__(self, pipeline: Any, runtime: Runtime) -> None:
        chosen = Choices.of(runtime)
        self.steps, self.guidance, self.size = chosen.steps, chosen.guidance, chosen.size
        self.view_control, self.view_weight, self.negative = chosen.view_control, chosen.view_weight, chosen.negative
        self._check(pipeline)
        pipeline.scheduler = plms(pipeline.scheduler)
        self.pipeline = loading.settle(pipeline, runtime)
        most = max(len(names) for names in views.OPPOSITES.values())
        branches = 2 + (most if self.view_control == "perp-neg" else 0)
        self.limit = BatchLimit.of(runtime, loading.bytes_per_image(self.size, runtime, branches))

    def _check(self, pipeline: Any) -> None:
        """InputError for options that make no sense with this model."""
        if self.size % pipeline.vae_scale_factor:
            raise InputError(f"--set images.size: expected a multiple of {pipeline.vae_scale_factor}, got {self.size}")
        trained = int(pipeline.scheduler.config.get("num_train_timesteps", 0))
        if self.steps >= trained:
            raise InputError(f"--set images.steps: expected fewer than the {trained} of the model's training, got {self.steps}")
        if self.view_control == "perp-neg" and pipeline.unet.config.time_cond_proj_dim is not None:
            raise InputError("--set view_control: expected suffix for a model distilled to need no guidance, got perp-neg")

    def images(self, requests: Sequence[ImageRequest]) -> list[Picture | Refusal]:
        """(size, size) pictures, one for each request and in order; Refusal for those that the safety checker flags.

        An image depends on its request, the model, the options and the device's arithmetic. Its noise comes from a generator
        of its own, seeded with ``request.seed`` on the CPU, in float32; the other images of a batch change it by roundings at
        most.
        """
        return in_batches(requests, self._draw, self.limit)

    def _draw(self, requests: Sequence[ImageRequest]) -> list[Picture | Refusal]:
        latents = self._noise(requests)
        with loading.quiet():
            if self.view_control == "perp-neg":
                images, flagged = self._perp_neg(requests, latents)
            else:
                made = self.pipeline(
                    [request.text for request in requests],
                    height=self.size,
                    width=self.size,
                    num_inference_steps=self.steps,
                    guidance_scale=self.guidance,
                    negative_prompt=[self._negative_prompt(request) for request in requests],
                    latents=latents,
                    output_type="np",
                )
                images, flagged = made.images, made.nsfw_content_detected
        return loading.pictures(requests, images, flagged)

    def _noise(self, requests: Sequence[ImageRequest]) -> Any:
        """Unit noise (B, C, size/8, size/8) of the requests' seeds, drawn in float32 and then cast to the model's dtype."""
        import torch

        side = self.size // self.pipeline.vae_scale_factor
        shape = (self.pipeline.unet.config.in_channels, side, side)
        drawn = [torch.randn(shape, generator=loading.generator_of(r), dtype=torch.float32) for r in requests]
        return torch.stack(drawn).to(self.pipeline.unet.dtype)

    def _negative_prompt(self, request: ImageRequest) -> str:
        if self.view_control == "suffix":
            return self.negative
        return views.negative_prompt(request.view, self.negative)

    def _perp_neg(self, requests: Sequence[ImageRequest], latents: Any) -> tuple[NDArray[np.float32], list[bool] | None]:
        """Images (B, size, size, 3) in 0..1 and the safety flags, by ``perp_neg.denoise`` and the pipeline's own parts."""
        import torch

        pipeline = self.pipeline
        with torch.no_grad():
            latents = perp_neg.denoise(
                pipeline,
                prompts=[request.text for request in requests],
                general=self.negative,
                negatives=[[f"{request.prompt}, {view}" for view in views.opposites(request.view)] for request in requests],
                latents=latents,
                steps=self.steps,
                scale=self.guidance,
                weight=self.view_weight,
            )
            images = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)[0]
            images, flagged = pipeline.run_safety_checker(images, pipeline._execution_device, pipeline.unet.dtype)
            return pipeline.image_processor.postprocess(images, output_type="np"), flagged
