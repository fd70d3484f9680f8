"""What the stages that make images with diffusers share: loading, options, seeds, pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.frontend import pretrained
from chorus.frontend.stage_info import FRONTEND_EXTRA
from chorus.frontend.stages import ImageRequest, Picture, Refusal, Runtime

if TYPE_CHECKING:
    import torch

UNSAFE = Refusal("unsafe image")
"""The safety checker flagged it."""

BROKEN = Refusal("broken image")
"""It holds numbers that are not finite, as half precision makes them when it overflows."""

whole = Runtime.whole

INDEX = "model_index.json"
"""The file that a pipeline's folder holds."""

SAFETY = ("on", "off")
"""Choices of the option "safety"."""

_BYTES_PER_PIXEL = 2500
"""Memory per pixel of an image with guidance in half precision, on the safe side: 0.6 GiB at 512 px, twice that in float32.

The U-Net of Stable Diffusion was measured to take 0.4 GiB in float32 on a CPU; a GPU's libraries need some more. It only
sets the first batch's size: a batch that does not fit is halved.
"""


def import_diffusers() -> Any:
    """The module ``diffusers``. ImportError, naming what to install, where it or transformers (text encoders) is missing."""
    try:
        import diffusers
        import transformers  # noqa: F401
    except ImportError as error:
        raise ImportError(f"images: {error}; diffusers and transformers come with {FRONTEND_EXTRA}") from error
    return diffusers


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Switches off progress bars and warnings of diffusers and transformers, which would mix with the project's; not errors."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    logs = (of_diffusers, of_transformers)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, bars) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


@contextlib.contextmanager
def quietly(model: str, revision: str | None) -> Iterator[str]:
    """Yields the model as diffusers takes it; errors become an InputError that names it, and nothing else is printed."""
    with pretrained.naming(model, "images"), quiet():
        yield pretrained.reach(model, "images", INDEX, revision)


def index_of(model: str, revision: str | None) -> dict[str, Any]:
    """The contents of a pipeline's model_index.json, from the hub or a folder. InputError where it cannot be read."""
    diffusers = import_diffusers()
    with quietly(model, revision) as place:
        return dict(diffusers.DiffusionPipeline.load_config(place, revision=revision))


def unchecked(index: dict[str, Any], runtime: Runtime, model: str) -> bool:
    """Whether the safety checker is to be left out, by the option "safety". InputError where it is wanted and there is none."""
    choice = runtime.one_of("safety", SAFETY)
    brings_one = bool((index.get("safety_checker") or [None])[0])
    if choice == "on" and not brings_one:
        raise InputError(
            f"--set images.safety: expected off for {model!r}, which brings no safety checker: nothing is checked then"
        )
    return choice == "off"


def settle(pipeline: Any, runtime: Runtime) -> Any:
    """The pipeline on ``runtime.device`` with its dtype, without progress bars, its autoencoder decoding image by image."""
    pipeline.set_progress_bar_config(disable=True)
    vae: Any = getattr(pipeline, "vae", None)
    if hasattr(vae, "enable_slicing"):
        # Decoding takes more memory an image than the U-Net does and is a small part of the time.
        vae.enable_slicing()
    try:
        with quiet():
            return pipeline.to(runtime.device, pretrained.dtype_of(runtime))
    except (RuntimeError, AssertionError) as error:  # AssertionError: "Torch not compiled with CUDA enabled"
        raise InputError(f"device: expected one that holds the model, got {runtime.device!r}: {error}") from error


def bytes_per_image(size: int, runtime: Runtime, branches: int = 2) -> int:
    """A rough figure of the memory for one more image in a batch; ``branches``: rows of the U-Net's batch for each image."""
    width = 4 if runtime.dtype == "float32" else 2
    return max(1, int(_BYTES_PER_PIXEL * size * size * (width / 2) * (branches / 2)))


def generator_of(request: ImageRequest) -> torch.Generator:
    """A generator on the CPU, of the request's seed: its numbers are the same whatever device the model is on."""
    import torch

    if not 0 <= request.seed < 2**63:
        raise InputError(f"seed: expected 0 .. 2^63 - 1 for an image that is generated, got {request.seed} for {request.key!r}")
    return torch.Generator("cpu").manual_seed(request.seed)


def pictures(
    requests: Sequence[ImageRequest], images: NDArray[np.floating[Any]], flagged: Sequence[bool] | None
) -> list[Picture | Refusal]:
    """Images (B, H, W, 3) in 0..1 as pictures; refusals for those that are flagged or not finite."""
    results: list[Picture | Refusal] = []
    for i, request in enumerate(requests):
        image = images[i]
        if flagged is not None and flagged[i]:
            results.append(UNSAFE)
        elif not np.isfinite(image).all():
            results.append(BROKEN)
        else:
            results.append(Picture(request, np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)))
    return results
