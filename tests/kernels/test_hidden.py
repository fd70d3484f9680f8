"""The numba votes with the depth of the body, on larger and nastier worlds: culling changes no count, and settles some."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from chorus.kernels.cpu import votes as cpu_votes
from chorus.kernels.depth import limits_of, pack_depth
from chorus.kernels.reference import votes as reference_votes
from chorus.kernels.stats import CullingStats
from tests.kernels.contract import equal, several_groups
from tests.kernels.hidden_contract import hidden_within_band
from tests.kernels.random_inputs import adversarial_world, random_depth, random_field, random_images


@pytest.mark.parametrize("seed", range(24))
def test_culling_never_changes_a_hidden_count(seed: int) -> None:
    rng = np.random.default_rng([seed, 3])
    field, images = adversarial_world(rng)
    depth = random_depth(rng, field, images, margin=float(rng.choice([0.0, 0.06])))
    group = torch.tensor(rng.integers(0, 2, len(images)))
    ours = cpu_votes.count_votes(field, images, group, depth=depth, num_groups=2)
    assert hidden_within_band(ours, field, images, group, None, depth, 2)
    assert equal(ours, cpu_votes.count_votes(field, images, group, depth=depth, num_groups=2, cull=False))


def test_bricks_wholly_in_front_and_wholly_behind_are_settled() -> None:
    """Large images and small bricks, so that windows of blocks are smaller than the body; every branch of the bound."""
    met: Counter[str] = Counter()
    for seed in range(6):
        rng = np.random.default_rng([seed, 5])
        field = random_field(rng, (8, 12, 8), 5, extent=1.0)
        images = random_images(rng, field, 40, sizes=((512, 512),), kinds=("empty", "full", "blob"), zoom=(1.0, 1.5))
        depth = random_depth(rng, field, images)
        group = torch.zeros(40, dtype=torch.int64)
        plain, hiding, whole = CullingStats(), CullingStats(), CullingStats()
        without = cpu_votes.count_votes(field, images, group, num_groups=1, stats=plain)
        ours = cpu_votes.count_votes(field, images, group, depth=depth, num_groups=1, stats=hiding)
        unculled = cpu_votes.count_votes(field, images, group, depth=depth, num_groups=1, stats=whole, cull=False)
        assert equal(ours[:2], without)
        assert equal(ours, unculled)
        assert hidden_within_band(ours, field, images, group, None, depth, 1)
        assert plain.outside == hiding.outside
        met["settled without depth"] += plain.decided
        met["settled with depth"] += hiding.decided
        met["hidden"] += int(ours[3].sum())
    assert met["hidden"] > 1000
    assert met["settled without depth"] >= met["settled with depth"] > 0.3 * met["settled without depth"]


def test_threads_and_passes_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    field, images, group, weight = several_groups()
    depth = random_depth(np.random.default_rng(2), field, images)
    whole = cpu_votes.count_votes(field, images, group, weight, depth=depth, num_groups=4, threads=1)
    monkeypatch.setattr(cpu_votes, "IMAGES_PER_PASS", 37)
    monkeypatch.setattr(cpu_votes, "IMAGES_PER_SWEEP", 16)
    assert equal(whole, cpu_votes.count_votes(field, images, group, weight, depth=depth, num_groups=4, threads=2))


def test_packed_depths_are_those_given_to_a_millimetre() -> None:
    rng = np.random.default_rng(4)
    maps = [rng.uniform(2, 4, shape) for shape in ((1, 1), (7, 13), (30, 21), (4, 8))]
    for cells in maps[1:]:
        cells[rng.random(cells.shape) < 0.4] = np.inf
    maps.append(np.full((5, 6), np.nan))
    shifts = [0, 1, 2, 3, 4]
    depth = pack_depth(maps, shifts, margin=0.5)
    for i, (cells, shift) in enumerate(zip(maps, shifts, strict=True)):
        height, width = ((n << shift) - 1 if n << shift > 1 else 1 for n in cells.shape)
        wanted = np.kron(cells, np.ones((1 << shift, 1 << shift)))[:height, :width] + 0.5
        found = limits_of(depth, i, height, width).numpy()
        seen = np.isfinite(wanted)
        assert (np.isfinite(found) == seen).all()
        assert np.abs(found[seen] - wanted[seen]).max(initial=0) < 6e-4
    far = pack_depth([np.array([[1.0, 100.0]])], [0], margin=0.0)
    assert limits_of(far, 0, 1, 2).tolist()[0] == pytest.approx([1.0, 66.534])
    with pytest.raises(ValueError, match=r"maps: expected .rows, columns. of cells"):
        pack_depth([np.zeros(3)], [0])
    with pytest.raises(ValueError, match=r"depth.shift: expected 0 .. 12"):
        pack_depth([np.zeros((2, 2))], [13])


def test_the_band_holds_votes_at_the_limit_alone() -> None:
    field, images, group, _ = several_groups(20, (5, 5, 5))
    _, z = reference_votes.project(field, images, field.dense_weights(), field.centres())
    far = pack_depth([np.full((h, w), float(z.max()) + 9) for h, w in images.size.tolist()], [0] * 20)
    plain = reference_votes.vote_band(field, images, group, num_groups=4)
    assert torch.equal(reference_votes.hidden_band(field, images, group, depth=far, num_groups=4), plain)
