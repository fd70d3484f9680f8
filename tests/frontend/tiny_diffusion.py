"""Stable Diffusion of the real classes with random weights, small enough to draw a 64-px image in a second on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from chorus.frontend.synthesis.loading import quiet

SIZE = 64
"""Pixels a side that the tiny pipeline is made for; its latents are 8 x 8."""


def write_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer of single letters, without merges; 77 positions as in Stable Diffusion, so prompts of 75 letters fit."""
    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def safety_checker(flags: bool):
    """The real class with random weights. ``flags``: everything or nothing, by thresholds that no cosine misses or reaches."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
        "projection_dim": 8,
    }
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 32,
        "bos_token_id": 30,
        "eos_token_id": 31,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-2.0 if flags else 2.0)
        checker.special_care_embeds_weights.fill_(2.0)
    return checker.eval()


def pipeline(tokenizer_folder: Path, flags: bool | None = None):
    """The pipeline in memory; ``flags``: as ``safety_checker``, None for a pipeline without one."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_tokenizer(tokenizer_folder)
        tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_folder), model_max_length=77)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=37,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=77,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        ).eval()
        unet = UNet2DConditionModel(
            sample_size=SIZE // 8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        ).eval()
        # A random network hardly looks at the words; as it is trained it does. Louder cross-attention makes prompts matter.
        with torch.no_grad():
            for name, weight in unet.named_parameters():
                if "attn2.to_out" in name or "attn2.to_v" in name:
                    weight.mul_(4.0)
        vae = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            sample_size=SIZE,
        ).eval()
        checker = None if flags is None else safety_checker(flags)
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=checker,
        feature_extractor=None if checker is None else CLIPImageProcessor(size=32, crop_size=32),
        requires_safety_checker=checker is not None,
    )


def save(folder: Path, flags: bool | None = None) -> Path:
    """Save the tiny pipeline as a folder that loads as a model of the hub does. Returns the folder."""
    with quiet():
        pipeline(folder.with_name(folder.name + "-words"), flags).save_pretrained(str(folder), safe_serialization=True)
    return folder
