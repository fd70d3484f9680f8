"""Perp-Neg (Armandpour et al., 2023): steering away from other views without steering away from the scene.

A negative prompt such as "A person rides a bicycle, front view" shares most of its meaning with the prompt it is set
against. Only the part of its direction that is perpendicular to the prompt's own is subtracted, so that what both agree on,
the person and the bicycle, stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def perpendicular(direction: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """The part of one image's ``direction`` (any shape, as ``to``) at right angles to ``to``: d - (d . t) / |t|^2 t.

    All of it where ``to`` is zero. The dot products are summed in float32 at least: half precision would overflow.
    """
    import torch

    wide = torch.promote_types(direction.dtype, torch.float32)
    d, t = direction.to(wide), to.to(wide)
    length = (t * t).sum()
    along = torch.where(length > 0, (d * t).sum() / length.clamp_min(torch.finfo(wide).tiny), torch.zeros_like(length))
    return (d - along * t).to(direction.dtype)


def guided(
    unconditional: torch.Tensor, text: torch.Tensor, negatives: Sequence[Sequence[torch.Tensor]], scale: float, weight: float
) -> torch.Tensor:
    """The noise (B, C, h, w) that a batch is denoised by.

    ``unconditional + scale * (d - weight * sum_i perp(d_i, d))`` for each image, where d = text - unconditional and d_i is the
    same of the image's i-th negative; ``negatives``: for each image its own, (C, h, w) each, any number of them. Without
    negatives, or with weight 0, it is classifier-free guidance.
    """
    import torch

    directions = text - unconditional
    steered = []
    for one, base, others in zip(directions, unconditional, negatives, strict=True):
        away = one
        for other in others:
            away = away - weight * perpendicular(other - base, one)
        steered.append(away)
    return unconditional + scale * torch.stack(steered)


def denoise(
    pipeline: Any,
    prompts: Sequence[str],
    general: str,
    negatives: Sequence[Sequence[str]],
    latents: torch.Tensor,
    steps: int,
    scale: float,
    weight: float,
) -> torch.Tensor:
    """The latents (B, C, h, w) of a batch, denoised by a StableDiffusionPipeline's own parts.

    ``general``   the negative prompt of all images, "" for none: it stands in place of the unconditional prompt
    ``negatives`` for each image the prompts to steer away from
    ``latents``   (B, C, h, w) unit noise
    """
    import torch

    device = pipeline._execution_device
    scheduler = pipeline.scheduler
    count = len(prompts)
    # The U-Net is called once a step, on rows: unconditional, prompt, then every negative of every image. An image without
    # opposites takes no row for them.
    owners = [i for i, of_one in enumerate(negatives) for _ in of_one]
    text, unconditional = pipeline.encode_prompt(list(prompts), device, 1, True, [general] * count)
    rows = [unconditional, text]
    if owners:
        rows.append(pipeline.encode_prompt([n for of_one in negatives for n in of_one], device, 1, False)[0])
    embeddings = torch.cat(rows)
    scheduler.set_timesteps(steps, device=device)
    latents = latents.to(device, embeddings.dtype) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        inputs = torch.cat([latents, latents, latents[owners]]) if owners else torch.cat([latents, latents])
        inputs = scheduler.scale_model_input(inputs, t)
        noise = pipeline.unet(inputs, t, encoder_hidden_states=embeddings, return_dict=False)[0]
        of_negatives: list[list[torch.Tensor]] = [[] for _ in range(count)]
        for row, owner in enumerate(owners):
            of_negatives[owner].append(noise[2 * count + row])
        noise = guided(noise[:count], noise[count : 2 * count], of_negatives, scale, weight)
        latents = scheduler.step(noise, t, latents, return_dict=False)[0]
    return latents
