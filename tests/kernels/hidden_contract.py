"""The contract of hidden votes as checks that any ``count_votes`` with ``depth`` can be held to, as those of ``contract``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from chorus.kernels import arrays
from chorus.kernels.arrays import VoteImages, VoxelField
from chorus.kernels.backends import CountVotes
from chorus.kernels.depth import BodyDepth, pack_depth
from chorus.kernels.reference import votes as reference_votes
from tests.kernels.contract import INTERPRETED, Counts, equal, several_groups, small_world
from tests.kernels.random_inputs import one_voxel, pictures, random_depth

WORLDS = 6 if INTERPRETED else 60
"""Six in the interpreter, which takes some ten seconds for each."""


def hidden_within_band(
    counts: Counts,
    field: VoxelField,
    images: VoteImages,
    group: torch.Tensor,
    weight: torch.Tensor | None,
    depth: BodyDepth,
    num_groups: int,
) -> bool:
    """|counts - definition| <= band, count for count, of all four; images on the CPU, counts on any device."""
    definition = reference_votes.count_votes(field, images, group, weight, depth=depth, num_groups=num_groups)
    band = reference_votes.vote_band(field, images, group, weight, num_groups=num_groups)
    hidden = reference_votes.hidden_band(field, images, group, weight, depth=depth, num_groups=num_groups)
    return len(counts) == 4 and all(
        have.dtype == torch.int32 and have.shape == want.shape and bool(((have.cpu() - want).abs() <= most).all())
        for have, want, most in zip(counts, definition, (band, band, hidden, hidden), strict=True)
    )


def hidden_votes_of_random_worlds(count_votes: CountVotes) -> None:
    """Count for count within the band of the definition; totals are the bits of votes without depth."""
    met = np.zeros(4, np.int64)
    for seed in range(WORLDS):
        field, images, group, weight = small_world(seed)
        depth = random_depth(np.random.default_rng([seed, 11]), field, images, margin=(0.06, 0.0)[seed % 2])
        counts = count_votes(field, images, group, weight, depth=depth, num_groups=2)
        assert hidden_within_band(counts, field, images, group, weight, depth, 2), f"world {seed}"
        assert equal(counts[:2], count_votes(field, images, group, weight, num_groups=2)), f"world {seed}"
        met += [int(c.sum()) for c in counts]
    assert met.min() > 1000
    assert met[0] > met[2]
    assert met[1] > met[3]


def hidden_votes_are_the_same_bits_however_they_are_split(count_votes: CountVotes) -> None:
    """One call, calls with a few images each, and any order of the images."""
    for seed in (1, 9):
        field, images, group, weight = small_world(seed)
        depth = random_depth(np.random.default_rng([seed, 11]), field, images)
        weight = torch.ones(len(images), dtype=torch.uint8) if weight is None else weight
        whole = count_votes(field, images, group, weight, depth=depth, num_groups=2)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        shuffled = count_votes(field, images[order], group[order], weight[order], depth=depth[order], num_groups=2)
        assert equal(whole, shuffled)
        parts = arrays.empty_counts(field, 2, "cpu", hidden=True)
        for first in range(0, len(images), 7):
            rows = slice(first, first + 7)
            count_votes(field, images[rows], group[rows], weight[rows], depth=depth[rows], num_groups=2, out=parts)
        assert equal(whole, parts)


def hidden_votes_of_one_voxel_by_hand(count_votes: CountVotes) -> None:
    """A voxel in front of, at, and behind the body, beside it, off the mask, outside the image; margins of 0 and more."""
    # u = 8 x / z + 4, v = 8 y / z + 4 in an image 8 wide and 8 high, as in the votes by hand; cells of 2 x 2 pixels.
    mask = np.zeros((8, 8), bool)
    mask[4, 5] = True
    body = np.full((4, 4), np.inf)
    body[2, 2] = 1.5  # pixels 4 and 5 of rows 4 and 5
    cases = [
        ((0.375, 0.125, 2.0), 1.5, 0.25, (1, 1, 1, 1)),  # on the mask, behind the body
        ((0.375, 0.125, 2.0), 1.5, 0.5, (1, 1, 0, 0)),  # exactly at the limit
        ((0.375, 0.125, 2.0), 2.5, 0.0, (1, 1, 0, 0)),  # in front of the body
        ((0.125, 0.125, 2.0), 1.5, 0.25, (0, 1, 0, 1)),  # off the mask, behind the body
        ((-0.375, 0.125, 2.0), 1.5, 0.25, (0, 1, 0, 0)),  # beside the body: u = 2.5
        ((0.5, 0.125, 2.0), 1.5, 0.25, (0, 1, 0, 0)),  # u = 6: the first pixel beyond the body's cell
        ((0.25, 0.25, 2.0), 1.5, 0.25, (0, 1, 0, 1)),  # (5, 5): the cell's last row
        ((1.0, 0.0, 2.0), 1.5, 0.25, (0, 0, 0, 0)),  # outside the image
        ((-0.375, -0.125, -2.0), -3.0, 0.0, (0, 0, 0, 0)),  # behind the camera
    ]
    field, images = one_voxel(), pictures([t for t, _, _, _ in cases], mask)
    for margin in {m for _, _, m, _ in cases}:
        rows = [i for i, case in enumerate(cases) if case[2] == margin]
        depth = pack_depth([np.where(np.isfinite(body), cases[i][1], np.inf) for i in rows], [1] * len(rows), margin)
        group = torch.arange(len(rows))
        counts = count_votes(field, images[torch.tensor(rows)], group, depth=depth, num_groups=len(rows))
        found = torch.stack([c[:, 0].cpu() for c in counts], 1).tolist()
        assert found == [list(cases[i][3]) for i in rows]


def no_body_hides_nothing(count_votes: CountVotes) -> None:
    """Without a body no vote is hidden, however far; behind a wall at the camera every vote is; weights and groups hold."""
    field, images, group, weight = several_groups(20, (3, 5, 4))
    sizes = images.size.tolist()
    shapes = [(((h - 1) >> 2) + 1, ((w - 1) >> 2) + 1) for h, w in sizes]
    none = pack_depth([np.full(s, np.inf) for s in shapes], [2] * len(sizes))
    counts = count_votes(field, images, group, weight, depth=none, num_groups=4)
    assert not counts[2].any()
    assert not counts[3].any()
    wall = pack_depth([np.full(s, -100.0) for s in shapes], [2] * len(sizes))
    counts = count_votes(field, images, group, weight, depth=wall, num_groups=4)
    assert equal(counts[:2], counts[2:])
    assert counts[0].any()
    poison = -1234567
    room = torch.full((4, 6, field.num_voxels), poison, dtype=torch.int32)  # a guard row above and below
    count_votes(field, images, group, weight, depth=wall, num_groups=4, out=tuple(r[1:5] for r in room))
    assert equal(tuple(r[1:5] - poison for r in room), counts)
    assert (room[:, [0, 5]] == poison).all()
    empty = count_votes(field, images[:0], group[:0], depth=wall[:0], num_groups=2)
    assert [c.sum() for c in empty] == [0] * 4


def depth_arguments_are_checked(count_votes: CountVotes) -> None:
    """ValueError, with the name of what does not fit and what was expected."""
    field, images, group, _ = several_groups(6, (3, 5, 4))
    depth = random_depth(np.random.default_rng(0), field, images)
    two = arrays.empty_counts(field, 4, "cpu")
    good: dict[str, Any] = {"depth": depth, "num_groups": 4}
    for change, words in (
        ({"depth": depth[:5]}, "depth: expected that of 6 images, got that of 5"),
        ({"depth": dataclasses.replace(depth, shift=depth.shift + 13)}, "depth.shift: expected 0 .. 12"),
        ({"depth": dataclasses.replace(depth, values=depth.values.int())}, "depth.values: expected torch.int16"),
        ({"depth": dataclasses.replace(depth, start=depth.start + len(depth.values))}, "depth.start: expected blocks within"),
        ({"depth": dataclasses.replace(depth, near=depth.near * torch.nan)}, "depth.near: expected finite"),
        ({"depth": dataclasses.replace(depth, margin=-1.0)}, "depth.margin: expected a length"),
        ({"out": two}, "out: expected 4 tensors with depth, got 2"),
        ({"depth": None, "out": (*two, *two)}, "out: expected 2 tensors without depth, got 4"),
    ):
        with pytest.raises(ValueError, match=words):
            count_votes(field, images, group, **{**good, **change})


HIDDEN_CHECKS: tuple[Callable[[CountVotes], None], ...] = (
    hidden_votes_of_one_voxel_by_hand,
    no_body_hides_nothing,
    hidden_votes_of_random_worlds,
    hidden_votes_are_the_same_bits_however_they_are_split,
    depth_arguments_are_checked,
)


def check_hidden_votes(count_votes: CountVotes) -> None:
    """Hold a ``count_votes`` with ``depth`` to its contract: fails where it breaks it."""
    for check in HIDDEN_CHECKS:
        check(count_votes)
