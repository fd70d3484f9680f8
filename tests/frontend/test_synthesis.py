"""Stable Diffusion on a tiny pipeline of the real classes: PLMS, seeds, batches, safety, memory (A.2)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from chorus.errors import InputError
from chorus.frontend.registry import make
from chorus.frontend.stages import ImageRequest, Picture, Refusal, Runtime
from chorus.frontend.synthesis.loading import generator_of
from chorus.frontend.synthesis.stable_diffusion import StableDiffusion
from tests.frontend import tiny_diffusion

pytest.importorskip("diffusers")

BASE = {"size": "64", "steps": "6", "safety": "off"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion.save(tmp_path_factory.mktemp("tiny") / "plain")


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Pipelines whose safety checker flags everything, and nothing."""
    place = tmp_path_factory.mktemp("checked")
    return {flags: tiny_diffusion.save(place / str(flags), flags) for flags in (True, False)}


def stage(folder: Path | str, kind: str = "stable-diffusion", batch_size: int | None = None, **options: str):
    return make("images", f"{kind}={folder}", Runtime(batch_size=batch_size, options={**BASE, **options}))


def request(seed: int, view: str = "", prompt: str = "A person rides a bicycle") -> ImageRequest:
    return ImageRequest(f"{seed:04d}", prompt, view, seed)


FOUR = [request(11, "side view"), request(12), request(13, "back view", "A person holds an umbrella"), request(14, "selfie")]


def pixels(made: Picture | Refusal) -> np.ndarray:
    assert isinstance(made, Picture)
    return made.pixels.astype(np.int64)


def difference(a: Picture | Refusal, b: Picture | Refusal) -> int:
    """Greatest, in grey levels."""
    return int(np.abs(pixels(a) - pixels(b)).max())


# PLMS


def plms(eps, x: torch.Tensor, alphas: np.ndarray, steps: int) -> tuple[torch.Tensor, list[int]]:
    """Liu et al. (2022): linear multistep of order 4, its first step by improved Euler; float64 but for the network.

    ``alphas``: cumulative products at every training step. Times are 1 + k * 1000 / steps; the last step ends at alphas[0].
    """
    delta = len(alphas) // steps
    called: list[int] = []

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        called.append(t)
        return eps(x.float(), t).double()

    def transfer(x: torch.Tensor, t: int, e: torch.Tensor) -> torch.Tensor:
        a, b = alphas[t], alphas[max(t - delta, 0)]
        # Equation 11 of the paper, in the form that follows from x0 = (x - sqrt(1 - a) e) / sqrt(a).
        return np.sqrt(b) * (x - np.sqrt(1 - a) * e) / np.sqrt(a) + np.sqrt(1 - b) * e

    x, history = x.double(), []
    for t in [1 + k * delta for k in reversed(range(steps))]:
        history.append(predict(x, t))
        h = history[::-1]
        if len(h) == 1:
            ahead = predict(transfer(x, t, h[0]), t - delta)
            e = (h[0] + ahead) / 2
        elif len(h) == 2:
            e = (3 * h[0] - h[1]) / 2
        elif len(h) == 3:
            e = (23 * h[0] - 16 * h[1] + 5 * h[2]) / 12
        else:
            e = (55 * h[0] - 59 * h[1] + 37 * h[2] - 9 * h[3]) / 24
        x = transfer(x, t, e)
    return x, called


def test_plms_of_fifty_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """51 calls of the U-Net for 50 steps, their times, and the latents of an implementation of our own."""
    source = make("images", f"stable-diffusion={folder}", Runtime(options={"size": "64", "safety": "off"}))
    pipeline = source.pipeline
    times: list[int] = []
    latents: list[torch.Tensor] = []
    pipeline.unet.register_forward_pre_hook(lambda module, args: times.append(int(args[1])))
    decode = pipeline.vae.decode
    monkeypatch.setattr(pipeline.vae, "decode", lambda z, **kwargs: (latents.append(z), decode(z, **kwargs))[1])
    [picture] = source.images([FOUR[0]])
    assert isinstance(picture, Picture)

    assert len(times) == 51
    assert times == [981, 961, *range(961, 0, -20)]

    text, empty = pipeline.encode_prompt(FOUR[0].text, "cpu", 1, True)
    seen = list(times)

    @torch.no_grad()
    def guided(x: torch.Tensor, t: int) -> torch.Tensor:
        without, given = (
            pipeline.unet(x, torch.tensor(t), encoder_hidden_states=words, return_dict=False)[0] for words in (empty, text)
        )
        return without + 7.5 * (given - without)

    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # Stable Diffusion's
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(FOUR[0].seed))
    expected, called = plms(guided, noise, np.cumprod(1 - betas), 50)
    assert called == seen
    found = latents[0].double() * pipeline.vae.config.scaling_factor
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_the_models_own_betas_and_settings_that_are_not(tmp_path: Path, folder: Path) -> None:
    """Whatever the scheduler a model comes with: PLMS, with the noise that the model was trained with."""
    from diffusers import DDIMScheduler

    pipeline = tiny_diffusion.pipeline(tmp_path)
    pipeline.scheduler = DDIMScheduler(beta_start=0.001, beta_end=0.02, beta_schedule="linear", timestep_spacing="trailing")
    config = StableDiffusion(pipeline, Runtime(options=BASE)).pipeline.scheduler.config
    assert type(pipeline.scheduler).__name__ == "PNDMScheduler"
    assert (config.skip_prk_steps, config.set_alpha_to_one, config.steps_offset) == (True, False, 1)
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.001, 0.02, "linear")
    assert config.timestep_spacing == "leading"


def test_defaults_are_the_papers(tmp_path: Path) -> None:
    source = StableDiffusion(tiny_diffusion.pipeline(tmp_path), Runtime())
    assert (source.steps, source.guidance, source.size, source.view_control) == (50, 7.5, 512, "suffix")


# Seeds, batches, places


def test_seeds(folder: Path) -> None:
    source = stage(folder)
    one, again, other = (source.images([request(seed)])[0] for seed in (1, 1, 2))
    assert difference(one, again) == 0
    assert difference(one, other) > 10
    assert difference(one, source.images([request(1, "side view")])[0]) > 10
    assert pixels(one).shape == (64, 64, 3)
    assert pixels(one).std() > 5


def test_alone_and_among_others(folder: Path) -> None:
    """Within one grey level: the sums of a batch of another size may be rounded in another order."""
    source = stage(folder)
    together = source.images(FOUR)
    assert [made.request for made in together] == FOUR
    for asked, made in zip(FOUR, together, strict=True):
        assert difference(source.images([asked])[0], made) <= 1
    turned = source.images(FOUR[::-1])[::-1]
    assert max(difference(a, b) for a, b in zip(together, turned, strict=True)) <= 1
    in_twos = stage(folder, batch_size=2)
    sizes: list[int] = []
    in_twos.pipeline.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    assert max(difference(a, b) for a, b in zip(together, in_twos.images(FOUR), strict=True)) <= 1
    assert set(sizes) == {4}  # two images, guided


def test_from_memory_and_from_a_folder(folder: Path, tmp_path: Path) -> None:
    in_memory = StableDiffusion(tiny_diffusion.pipeline(tmp_path), Runtime(options=BASE))
    assert [difference(a, b) for a, b in zip(in_memory.images(FOUR), stage(folder).images(FOUR), strict=True)] == [0] * 4


def test_from_the_hubs_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id gives the images that the folder gives; the hub's cache stands for the hub."""
    from huggingface_hub import constants

    cached = tmp_path / "models--someone--tiny"
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    by_id = stage("someone/tiny").images(FOUR[:1])
    assert difference(by_id[0], stage(folder).images(FOUR[:1])[0]) == 0
    with pytest.raises(
        InputError,
        match=r"--images: expected 'someone/else' from the Hugging Face hub, which cannot be reached .*name a folder",
    ):
        stage("someone/else")


def test_models_that_are_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds model_index\.json"):
        stage(tmp_path)
    for missing in ("./nowhere", str(tmp_path / "nowhere"), "~/nowhere", "a/b/c"):
        with pytest.raises(InputError, match="--images: expected a hub id, or a folder"):
            stage(missing)
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    (damaged / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x08" + bytes(7) + b"nonsense")
    with pytest.raises(InputError, match=r"--images: expected a model that can be loaded, got '.*damaged'"):
        stage(damaged)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    index = other / "model_index.json"
    index.write_text(index.read_text().replace('"StableDiffusionPipeline"', '"StableDiffusionXLPipeline"'))
    with pytest.raises(InputError, match="a StableDiffusionXLPipeline: try diffusers="):
        stage(other)


def test_seeds_that_are_none(folder: Path) -> None:
    with pytest.raises(InputError, match="seed: expected 0"):
        stage(folder).images([ImageRequest("a", "A person")])
    assert generator_of(request(2**63 - 1)).initial_seed() == 2**63 - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "60"}, "size: expected a multiple of 8"),
        ({"size": "big"}, "size: expected a number"),
        ({"steps": "2.5"}, "steps: expected a whole number"),
        ({"steps": "1000"}, "steps: expected a number from 1 to 999"),
        ({"guidance": "1", "negative": "text"}, "guidance: expected more than 1"),
        ({"guidance": "1", "view_control": "negative"}, "guidance: expected more than 1"),
        ({"view_control": "front"}, "view_control: expected suffix or negative or perp-neg"),
        ({"view_weight": "2"}, "view_weight: expected only with view_control=perp-neg"),
        ({"safety": "maybe"}, "safety: expected on or off"),
        ({"speed": "1"}, "speed: expected one of this stage's options"),
    ],
)
def test_options_that_cannot_be(folder: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        stage(folder, **options)


def test_types_and_devices(folder: Path) -> None:
    with pytest.raises(InputError, match="dtype: expected float32 or float16 or bfloat16"):
        make("images", f"stable-diffusion={folder}", Runtime(dtype="int8", options=BASE))
    with pytest.raises(InputError, match="device: expected one that holds the model"):
        make("images", f"stable-diffusion={folder}", Runtime(device="cuda:99", options=BASE))
    half = make("images", f"stable-diffusion={folder}", Runtime(dtype="bfloat16", options=BASE))
    assert {half.pipeline.unet.dtype, half.pipeline.vae.dtype, half.pipeline.text_encoder.dtype} == {torch.bfloat16}
    # The noise is that of float32, rounded: in bfloat16 the generator would give other numbers.
    drawn = half._noise([request(5)]).float()
    exact = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(5))
    assert float((drawn - exact).abs().max()) < 0.02
    assert isinstance(half.images([request(5)])[0], Picture)


# Safety


def test_flagged_images_are_refused(checked: dict[bool, Path], folder: Path) -> None:
    for options in ({"safety": "on"}, {"safety": "on", "view_control": "perp-neg"}):
        refused = stage(checked[True], **options).images(FOUR[:2])
        assert refused == [Refusal("unsafe image")] * 2
    passed = stage(checked[False], safety="on").images(FOUR[:2])
    plain = stage(folder).images(FOUR[:2])
    assert max(difference(a, b) for a, b in zip(passed, plain, strict=True)) <= 1


def test_the_checker_runs_unless_told_not_to(checked: dict[bool, Path]) -> None:
    options = {name: value for name, value in BASE.items() if name != "safety"}
    by_default = make("images", f"stable-diffusion={checked[True]}", Runtime(options=options))
    assert by_default.images(FOUR[:1]) == [Refusal("unsafe image")]
    off = stage(checked[True], safety="off")
    assert off.pipeline.safety_checker is None
    assert off.pipeline.config.requires_safety_checker is False
    assert isinstance(off.images(FOUR[:1])[0], Picture)


def test_no_checker_has_to_be_said(folder: Path) -> None:
    for kind in ("stable-diffusion", "diffusers"):
        with pytest.raises(InputError, match=r"safety: expected off for .* which brings no safety checker"):
            stage(folder, kind, safety="on")


# Memory and broken numbers


def test_batches_shrink_when_memory_runs_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stage(folder, batch_size=4)
    expected = source.images(FOUR)
    forward = source.pipeline.unet.forward
    rows: list[int] = []

    def small(sample: torch.Tensor, *args, **kwargs):
        rows.append(len(sample))
        if len(sample) > 2 and len(rows) % 3 == 0:  # in the midst of the steps, so that a half-done batch has to start again
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 GiB.")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(source.pipeline.unet, "forward", small)
    made = source.images(FOUR)
    assert source.limit.most == 1
    assert rows[:9] == [8, 8, 8, 4, 4, 4, 2, 2, 2]
    assert max(difference(a, b) for a, b in zip(made, expected, strict=True)) <= 1


def test_no_memory_for_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = stage(folder)

    def none(*args, **kwargs):
        raise RuntimeError("MPS backend out of memory")

    monkeypatch.setattr(source.pipeline.unet, "forward", none)
    with pytest.raises(InputError, match="memory: expected room for one"):
        source.images(FOUR)


def test_numbers_that_are_not_finite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As half precision gives them; what would become a black image is a refusal, and its neighbours stay."""
    source = stage(folder)
    decode = source.pipeline.vae.decode

    def overflow(latents: torch.Tensor, **kwargs):
        (image,) = decode(latents, **kwargs)
        image[1] = float("nan")
        return (image,)

    monkeypatch.setattr(source.pipeline.vae, "decode", overflow)
    made = source.images(FOUR)
    assert made[1] == Refusal("broken image")
    assert [isinstance(one, Picture) for one in made] == [True, False, True, True]
