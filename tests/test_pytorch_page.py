"""The code of docs/pytorch.md: it runs as a reader would run it, and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from chorus.kernels.cpu.votes import count_votes

PAGE = Path(__file__).resolve().parent.parent / "docs" / "pytorch.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page's code defines, all of it run in order."""
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        for code in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S):
            exec(compile(code, PAGE.name, "exec"), names)
    return names


def test_phi_is_around_the_hands(made: dict[str, Any]) -> None:
    phi = made["phi"]
    assert phi.shape == (2, 1000)
    assert (phi.amax(1) > 0.5 * made["occ"].probability.max()).all()
    far = made["occ"].query(made["points"].flip(0), made["pose"])  # each asked where the other's hand is
    assert far.mean() < 0.2 * phi.mean()


def test_the_arm_finds_the_ball(made: dict[str, Any]) -> None:
    assert made["after"] > 1.02 * made["before"]
    assert not made["arm"][0].any()


def test_the_operator_counts(made: dict[str, Any]) -> None:
    num, den = count_votes(made["arrays"], made["images"], made["group"], num_groups=1)
    assert torch.equal(made["num"], num)
    assert torch.equal(made["den"], den)
    assert torch.equal(made["phi_of_all"].flatten(), (num / den.clamp(min=1))[0])


def test_from_scratch_it_is_the_same_and_slower(made: dict[str, Any]) -> None:
    num, den = (counts[0] for counts in count_votes(made["lbs"], made["images"], made["group"], num_groups=1))
    parts = [made["scratch"](slice(k, k + 8)) for k in range(0, 256, 8)]
    for have, want in ((sum(p[0] for p in parts), num), (sum(p[1] for p in parts), den)):
        off = (have - want).abs()  # float32 decides otherwise at edges of pixels
        assert off.sum() < 1e-3 * want.sum()
    assert made["operator"] < made["from_scratch"]
