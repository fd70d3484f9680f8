"""Making images, or reading them from a folder (A.2, B.1).

``stable-diffusion`` is the paper's; ``diffusers`` is any other text-to-image pipeline of that library; ``folder`` is for
pictures that exist. What each guarantees about seeds and batches is in docs/synthesis.md.
"""

from __future__ import annotations

from chorus.frontend.stage_info import FRONTEND_EXTRA, REVISION, StageInfo
from chorus.frontend.stages import Runtime
from chorus.frontend.synthesis.folder import folder_requests

__all__ = ["STAGES", "folder_requests"]

_GUIDED = (
    ("guidance", "scale of the classifier-free guidance"),
    ("negative", "what no image should show, as a negative prompt"),
    (
        "safety",
        "on: images that the model's safety checker flags are refused; off: it is not run. Default: on, and an error "
        "where the model brings none",
    ),
    REVISION,
)


def check_folder(model: str, runtime: Runtime, _category: str | None) -> None:
    """InputError for a folder that is none, and options out of bounds; no picture is read."""
    from chorus.frontend.synthesis.folder import make

    make(model, runtime)


STAGES: tuple[StageInfo, ...] = (
    StageInfo(
        kind="images",
        name="stable-diffusion",
        made_by="chorus.frontend.synthesis.stable_diffusion:make",
        checked_by="chorus.frontend.synthesis.stable_diffusion:check",
        requires=("diffusers", "transformers"),
        hub=("model_index.json",),
        what="Stable Diffusion 1 and 2 with PLMS, by default as in A.2: v1.4, 50 steps, guidance 7.5, 512 px",
        model="CompVis/stable-diffusion-v1-4",
        licence="code: diffusers and transformers, Apache-2.0; weights: CreativeML OpenRAIL-M (uses are restricted), others as "
        "their model card says",
        weights="a hub id, or a folder that StableDiffusionPipeline.save_pretrained wrote; the default: the Hugging Face hub",
        needs=FRONTEND_EXTRA,
        options=(
            ("steps", "denoising steps (50)"),
            ("size", "height and width in pixels (512)"),
            *_GUIDED,
            (
                "view_control",
                "suffix (default): the view is named in the prompt alone, as in the paper; negative: opposite views "
                "also become a negative prompt; perp-neg: Perp-Neg steers away from them",
            ),
            ("view_weight", "weight of every opposite view in perp-neg (1)"),
        ),
    ),
    StageInfo(
        kind="images",
        name="diffusers",
        made_by="chorus.frontend.synthesis.any_pipeline:make",
        checked_by="chorus.frontend.synthesis.any_pipeline:check",
        requires=("diffusers", "transformers"),
        hub=("model_index.json",),
        what="any text-to-image pipeline of diffusers, with its own scheduler and its own defaults",
        model="",
        licence="code: diffusers and transformers, Apache-2.0; weights: as the model card says",
        weights="a hub id, or a folder that save_pretrained of a pipeline wrote",
        needs=FRONTEND_EXTRA,
        options=(
            ("steps", "denoising steps (the pipeline's)"),
            ("size", "height and width in pixels (the pipeline's)"),
            *_GUIDED,
            (
                "view_control",
                "suffix (default): the view is named in the prompt alone; negative: opposite views also become a "
                "negative prompt",
            ),
        ),
    ),
    StageInfo(
        kind="images",
        name="folder",
        made_by="chorus.frontend.synthesis.folder:make",
        checked_by="chorus.frontend.synthesis:check_folder",
        what="pictures of a folder (JPEG, PNG, WebP, BMP, GIF, TIFF), the shorter side resized to 512 px, centre crop",
        model="",
        local=True,
        licence="code: Pillow, MIT-CMU; the pictures: as whoever holds their rights says",
        weights="no weights; the folder of the pictures, their keys being their paths in it",
        options=(
            ("size", "height and width in pixels (512)"),
            ("least", "pixels of the shorter side below which a picture is refused (64)"),
            ("crop", "square (default): resized and cut; none: the picture as it is, for masks that are given"),
        ),
    ),
)
