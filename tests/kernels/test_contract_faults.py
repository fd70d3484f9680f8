"""The contract's checks find what is wrong: backends that are the definition but for one fault."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from chorus.kernels.backends import CountVotes
from chorus.kernels.reference import contacts as reference_contacts
from chorus.kernels.reference import votes as reference_votes
from tests.kernels.contract import check_contacts, check_votes, contacts_are_those_of_the_votes


def count(field: Any, images: Any, group: Any, weight: Any = None, **options: Any) -> Any:
    return reference_votes.count_votes(field, images, group, weight, **options)


def num_and_den_swapped(field: Any, images: Any, group: Any, weight: Any = None, **options: Any) -> Any:
    return count(field, images, group, weight, **options)[::-1]


def weights_forgotten(field: Any, images: Any, group: Any, weight: Any = None, **options: Any) -> Any:
    count(field, images, group, weight, num_groups=options["num_groups"])  # which checks them
    return count(field, images, group, **options)


def groups_forgotten(field: Any, images: Any, group: Any, weight: Any = None, **options: Any) -> Any:
    count(field, images, group, weight, **{**options, "out": None})
    return count(field, images, torch.zeros_like(group), weight, **options)


def out_written_over(field: Any, images: Any, group: Any, weight: Any = None, *, num_groups: int, out: Any = None) -> Any:
    fresh = count(field, images, group, weight, num_groups=num_groups)
    for total, part in zip(out or (), fresh, strict=out is not None):
        total.copy_(part)
    return fresh


def pixels_rounded(field: Any, images: Any, group: Any, weight: Any = None, **options: Any) -> Any:
    K = images.K.clone()
    K[:, :2, 2] += 0.5
    return count(field, dataclasses.replace(images, K=K), group, weight, **options)


def counts_of_64_bits(field: Any, images: Any, group: Any, weight: Any = None, **options: Any) -> Any:
    return tuple(counts.long() for counts in count(field, images, group, weight, **options))


def nothing_checked(field: Any, images: Any, group: Any, weight: Any = None, **options: Any) -> Any:
    try:
        return count(field, images, group, weight, **options)
    except ValueError:
        return torch.zeros(1), torch.zeros(1)


BROKEN = (
    num_and_den_swapped,
    weights_forgotten,
    groups_forgotten,
    out_written_over,
    pixels_rounded,
    counts_of_64_bits,
    nothing_checked,
)


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_votes_are_found(broken: CountVotes) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_votes(broken)


def regions_of_the_image_alone(field: Any, regions: Any, images: Any) -> Any:
    """As if every voxel were on the mask that is in sight of the camera."""
    shown = dataclasses.replace(images, words=torch.full_like(images.words, -1))
    return reference_contacts.touched_regions(field, regions, shown)


def test_broken_contacts_are_found() -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_contacts(regions_of_the_image_alone, reference_votes.count_votes)
    with pytest.raises(AssertionError):
        contacts_are_those_of_the_votes(reference_contacts.touched_regions, num_and_den_swapped)
