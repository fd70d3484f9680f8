"""Any text-to-image pipeline of diffusers: only the arguments it takes, its own scheduler, our seeds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from chorus.errors import InputError
from chorus.frontend.registry import make, stages
from chorus.frontend.stages import ImageRequest, Picture, Refusal, Runtime
from chorus.frontend.synthesis.loading import quiet
from tests.frontend import tiny_diffusion

pytest.importorskip("diffusers")

BASE = {"size": "64", "steps": "4", "safety": "off"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion.save(tmp_path_factory.mktemp("tiny") / "plain")


@pytest.fixture(scope="module")
def consistency(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latent consistency model: another pipeline, noise in every step, no negative prompts."""
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel

    place = tmp_path_factory.mktemp("lcm")
    parts = dict(tiny_diffusion.pipeline(place / "words").components)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parts["unet"] = UNet2DConditionModel.from_config(parts["unet"].config, time_cond_proj_dim=16).eval()
    parts["scheduler"] = LCMScheduler(beta_start=0.00085, beta_end=0.012)
    with quiet():
        LatentConsistencyModelPipeline(**parts, requires_safety_checker=False).save_pretrained(str(place / "model"))
    return place / "model"


def stage(folder: Path, batch_size: int | None = None, **options: str):
    return make("images", f"diffusers={folder}", Runtime(batch_size=batch_size, options={**BASE, **options}))


def request(seed: int, view: str = "") -> ImageRequest:
    return ImageRequest(f"{seed}", "A person rides a bicycle", view, seed)


def difference(a: Picture | Refusal, b: Picture | Refusal) -> int:
    assert isinstance(a, Picture)
    assert isinstance(b, Picture)
    return int(np.abs(a.pixels.astype(np.int64) - b.pixels).max())


def test_stable_diffusion_through_the_general_door(folder: Path) -> None:
    """Its scheduler is PLMS already, so both stages draw the same."""
    asked = [request(1, "side view"), request(2)]
    for options in ({}, {"negative": "text"}, {"view_control": "negative"}, {"guidance": "3"}):
        own = make("images", f"stable-diffusion={folder}", Runtime(options={**BASE, **options})).images(asked)
        general = stage(folder, **options).images(asked)
        assert [difference(a, b) for a, b in zip(own, general, strict=True)] == [0, 0]


def test_another_pipeline_with_noise_in_every_step(consistency: Path) -> None:
    source = stage(consistency)
    assert type(source.pipeline).__name__ == "LatentConsistencyModelPipeline"
    assert type(source.pipeline.scheduler).__name__ == "LCMScheduler"
    calls: list[int] = []
    source.pipeline.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    asked = [request(1), request(2, "back view"), request(3), request(4)]
    together = source.images(asked)
    assert calls == [4] * 4
    for one, made in zip(asked, together, strict=True):
        assert difference(source.images([one])[0], made) <= 1
    assert difference(together[0], together[2]) > 5
    in_twos = stage(consistency, batch_size=2).images(asked)
    assert max(difference(a, b) for a, b in zip(together, in_twos, strict=True)) <= 1


def test_what_a_pipeline_does_not_take(consistency: Path) -> None:
    with pytest.raises(InputError, match="negative: expected a pipeline that takes negative_prompt, got LatentConsistency"):
        stage(consistency, negative="text")
    with pytest.raises(InputError, match="view_control: expected a pipeline that takes negative_prompt"):
        stage(consistency, view_control="negative")
    with pytest.raises(InputError, match="view_control: expected suffix or negative, got 'perp-neg'"):
        stage(consistency, view_control="perp-neg")


def test_a_pipeline_without_text(tmp_path: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    with quiet():
        DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(str(tmp_path / "ddpm"))
    with pytest.raises(InputError, match="expected a pipeline that makes images from text, got a DDPMPipeline"):
        stage(tmp_path / "ddpm")


def test_flags_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flagging = stage(tiny_diffusion.save(tmp_path / "flags", True), safety="on")
    assert flagging.images([request(1)]) == [Refusal("unsafe image")]
    source = stage(tmp_path / "flags", batch_size=2)
    assert source.pipeline.safety_checker is None
    forward = source.pipeline.unet.forward

    def small(sample: torch.Tensor, *args, **kwargs):
        if len(sample) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(sample, *args, **kwargs)

    expected = source.images([request(1), request(2)])
    monkeypatch.setattr(source.pipeline.unet, "forward", small)
    made = source.images([request(1), request(2)])
    assert source.limit.most == 1
    assert max(difference(a, b) for a, b in zip(made, expected, strict=True)) <= 1


def test_seeds_are_required(folder: Path) -> None:
    with pytest.raises(InputError, match="seed: expected 0"):
        stage(folder).images([ImageRequest("a", "A person")])


def test_the_catalogue_says_licences_and_needs_no_library() -> None:
    infos = stages("images")
    assert [info.name for info in infos][:3] == ["stable-diffusion", "diffusers", "folder"]
    assert infos[0].model == "CompVis/stable-diffusion-v1-4"
    assert "OpenRAIL-M" in infos[0].licence
    assert all(info.licence.startswith("code: ") and info.weights for info in infos[:3])
    code = "import chorus.frontend.synthesis, sys; sys.exit(any(m in sys.modules for m in ('diffusers', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in ("diffusers", "transformers"):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, missing, None)
            for kind in ("stable-diffusion", "diffusers"):
                with pytest.raises(ImportError, match=r"which is not installed: pip install '\.\[frontend\]' in a checkout"):
                    make("images", f"{kind}={folder}", Runtime(options=BASE))
