"""View control beyond the prompt's suffix: negative prompts of the opposite views, and Perp-Neg."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chorus.frontend.prompting import VIEWS
from chorus.frontend.stages import ImageRequest, Picture, Refusal, Runtime
from chorus.frontend.synthesis.perp_neg import guided, perpendicular
from chorus.frontend.synthesis.stable_diffusion import StableDiffusion
from chorus.frontend.synthesis.views import OPPOSITES, negative_prompt, opposites
from tests.frontend import tiny_diffusion

pytest.importorskip("diffusers")

A1 = """/side view/back view/front view/top view/bottom view/realistic photo/seen from side/seen from back/seen from various
views/seen from close view/seen from far away/scenic view/full body photo/hand photo/face photo/photo taken close to hand/photo
taken close to face/selfie/close-up photo/hand only/face only""".replace("\n", " ").split("/")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory):
    return tiny_diffusion.pipeline(tmp_path_factory.mktemp("tiny"))


def stage(pipeline, **options: str) -> StableDiffusion:
    return StableDiffusion(pipeline, Runtime(options={"size": "64", "steps": "6", **options}))


def request(view: str, seed: int = 3) -> ImageRequest:
    return ImageRequest(f"{view}/{seed}", "A person rides a bicycle", view, seed)


def difference(a: Picture | Refusal, b: Picture | Refusal) -> int:
    assert isinstance(a, Picture)
    assert isinstance(b, Picture)
    return int(np.abs(a.pixels.astype(np.int64) - b.pixels).max())


def test_every_view_of_the_paper_has_its_opposites() -> None:
    assert len(A1) == 22
    assert sorted(OPPOSITES) == sorted(A1) == sorted(VIEWS)
    for view, others in OPPOSITES.items():
        assert view not in others
        assert len(set(others)) == len(others)
    assert {view for view, others in OPPOSITES.items() if not others} == {"", "realistic photo", "seen from various views"}
    assert "front view" in opposites("back view")
    assert "back view" in opposites("front view")
    assert set(opposites("side view")) == {"front view", "back view"}
    assert opposites("through a keyhole") == ()


def test_negative_prompts() -> None:
    assert negative_prompt("side view") == "front view, back view"
    assert negative_prompt("side view", "blurry, text") == "blurry, text, front view, back view"
    assert negative_prompt("", "blurry") == "blurry"
    assert negative_prompt("") == ""


def test_perpendicular_by_hand() -> None:
    assert perpendicular(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0])).tolist() == [0.0, 1.0]
    # d . t = 3 + 8 = 11, |t|^2 = 25: d - 11/25 t
    assert torch.allclose(perpendicular(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])), torch.tensor([-0.32, 0.24]))
    assert perpendicular(torch.tensor([1.0, 2.0]), torch.zeros(2)).tolist() == [1.0, 2.0]
    a, b = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert abs(float((perpendicular(a, b) * b).sum())) < 1e-4
    assert torch.allclose(perpendicular(3 * b, b), torch.zeros_like(b), atol=1e-5)


def test_perpendicular_in_half_precision() -> None:
    """|t|^2 is 4e8 here, far beyond the 65504 of float16."""
    d, t = torch.full((100, 100), 100.0, dtype=torch.float16), torch.full((100, 100), 200.0, dtype=torch.float16)
    d[0] = -100.0
    found = perpendicular(d, t)
    assert found.dtype == torch.float16
    assert torch.allclose(found.float(), perpendicular(d.float(), t.float()), atol=0.1)


def test_guidance_by_hand() -> None:
    base = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    text = torch.tensor([[3.0, 1.0], [0.0, 1.0]])
    # First image: d = (2, 0); its negatives' directions (1, 1) and (0, -3) have the parts (0, 1) and (0, -3) across it.
    # Second image: d = (0, 1), no negatives.
    negatives = [[torch.tensor([2.0, 2.0]), torch.tensor([1.0, -2.0])], []]
    found = guided(base, text, negatives, scale=3.0, weight=0.5)
    assert torch.allclose(found, torch.tensor([[1.0 + 3 * 2, 1.0 + 3 * (-0.5 * (1 - 3))], [0.0, 3.0]]))
    assert torch.allclose(guided(base, text, negatives, 3.0, 0.0), base + 3.0 * (text - base))


def test_negative_is_a_negative_prompt(pipeline) -> None:
    controlled = stage(pipeline, view_control="negative", negative="text").images([request("side view"), request("")])
    for made, view, words in zip(controlled, ("side view", ""), ("text, front view, back view", "text"), strict=True):
        by_hand = pipeline(
            request(view).text,
            negative_prompt=words,
            num_inference_steps=6,
            guidance_scale=7.5,
            height=64,
            width=64,
            generator=torch.Generator().manual_seed(3),
            output_type="np",
        ).images[0]
        assert np.abs(np.rint(by_hand * 255) - made.pixels).max() <= 1
    plain = stage(pipeline).images([request("side view")])
    assert difference(plain[0], controlled[0]) > 5


@pytest.mark.parametrize("general", ["", "text"])
def test_perp_neg_without_weight_is_plain_guidance(pipeline, general: str) -> None:
    asked = [request("side view"), request("", 4), request("back view", 5)]
    plain = stage(pipeline, negative=general).images(asked)
    weightless = stage(pipeline, negative=general, view_control="perp-neg", view_weight="0").images(asked)
    assert max(difference(a, b) for a, b in zip(plain, weightless, strict=True)) <= 1
    steered = stage(pipeline, negative=general, view_control="perp-neg").images(asked)
    assert difference(plain[0], steered[0]) > 5
    assert difference(plain[1], steered[1]) <= 1  # no view, nothing to steer away from
    assert difference(plain[2], steered[2]) > 5


def test_perp_neg_alone_and_among_others(pipeline) -> None:
    source = stage(pipeline, view_control="perp-neg")
    asked = [request("side view"), request("", 4), request("seen from close view", 5), request("back view", 6)]
    rows: list[int] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    together = source.images(asked)
    hook.remove()
    assert set(rows) == {4 * 2 + 2 + 0 + 1 + 2}
    assert len(rows) == 7  # PLMS: one more than steps
    for one, made in zip(asked, together, strict=True):
        assert difference(source.images([one])[0], made) <= 1


def test_perp_neg_steers_away_from_what_it_is_given(pipeline) -> None:
    """One step of a linear world: the noise across the prompt's direction that the negative adds is taken off, times weight."""
    generator = torch.Generator().manual_seed(1)
    base, text, other = torch.randn(3, 1, 4, 8, 8, generator=generator)
    towards = text - base
    away = other - base
    across = perpendicular(away[0], towards[0])
    plain, steered = guided(base, text, [[]], 7.5, 1.0), guided(base, text, [[other[0]]], 7.5, 1.0)
    # Along the prompt nothing changes; along the opposite's own direction the noise moves back by scale x its length.
    assert abs(float(((steered - plain) * towards).sum())) < 1e-3
    assert float(((steered - plain) * across).sum()) == pytest.approx(-7.5 * float((across * across).sum()), rel=1e-4)
