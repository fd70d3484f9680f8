"""The rule of A.3 for duplicates, on both sides of each of its thresholds."""

import numpy as np
import pytest

from chorus.errors import InputError
from chorus.frontend.detection.duplicates import without_duplicates
from chorus.frontend.stages import Instances


def found(*rows: tuple[float, float, float, float, float] | tuple[float, float, float, float, float, str]) -> Instances:
    """Instances of x0, y0, x1, y1, score and a label; each mask has one pixel at its row, to tell them apart."""
    masks = np.zeros((len(rows), len(rows), 1), bool)
    masks[np.arange(len(rows)), np.arange(len(rows))] = True
    labels = tuple(row[5] if len(row) > 5 else "ball" for row in rows)
    return Instances(np.array([row[:4] for row in rows], np.float32), [row[4] for row in rows], labels, masks)


def which(instances: Instances) -> list[int]:
    """Which of the rows of ``found`` these are."""
    return [int(np.flatnonzero(mask[:, 0])[0]) for mask in instances.masks]


def test_less_confident_of_two_goes() -> None:
    assert which(without_duplicates(found((0, 0, 10, 10, 0.6), (0, 0, 10, 9, 0.7)))) == [1]


@pytest.mark.parametrize(("shift", "left"), [(1.99, [0]), (2.0, [0, 1]), (2.01, [0, 1])])
def test_overlap_is_a_part_of_the_smaller_box_and_exclusive(shift: float, left: list[int]) -> None:
    # The second box is 10 x 10, the first 100 x 10: (10 - shift) / 10 of the smaller one is shared.
    assert which(without_duplicates(found((0, 0, 100, 10, 0.9), (shift - 10 + 100, 0, 100 + shift, 10, 0.5)))) == left


@pytest.mark.parametrize(("score", "left"), [(0.979, [0]), (0.98, [0]), (0.981, [0, 1])])
def test_sure_ones_stay(score: float, left: list[int]) -> None:
    assert which(without_duplicates(found((0, 0, 10, 10, 0.99), (0, 0, 10, 10, score)))) == left


def test_thresholds_are_arguments() -> None:
    rows = found((0, 0, 10, 10, 0.9), (4, 0, 14, 10, 0.8))
    assert which(without_duplicates(rows, overlap=0.59)) == [0]
    assert which(without_duplicates(rows, overlap=0.61)) == [0, 1]
    assert which(without_duplicates(rows, overlap=0.59, sure=0.79)) == [0, 1]
    with pytest.raises(InputError, match=r"overlap: expected 0 \.\. 1, got 1\.5"):
        without_duplicates(rows, overlap=1.5)
    with pytest.raises(InputError, match="sure"):
        without_duplicates(rows, sure=float("nan"))


def test_other_labels_do_not_count() -> None:
    assert which(without_duplicates(found((0, 0, 10, 10, 0.9, "person"), (0, 0, 10, 10, 0.8, "ball")))) == [0, 1]


def test_order_is_by_confidence_and_ties_keep_theirs() -> None:
    rows = found((0, 0, 1, 1, 0.3), (5, 0, 6, 1, 0.8), (10, 0, 11, 1, 0.5), (15, 0, 16, 1, 0.5))
    assert which(without_duplicates(rows)) == [1, 2, 3, 0]
    assert which(without_duplicates(found((0, 0, 4, 4, 0.5), (0, 0, 4, 4, 0.5)))) == [0]


def test_what_was_dropped_drops_nothing() -> None:
    a, b, c = (0, 0, 10, 10, 0.9), (0, 0, 20, 10, 0.8), (10, 0, 20, 10, 0.7)
    assert which(without_duplicates(found(a, b, c))) == [0, 2]
    # Where the middle one is the surest, both of the others repeat it.
    assert which(without_duplicates(found(a, (*b[:4], 0.95), c))) == [1]
    # A sure one in between is kept, and so it drops.
    assert which(without_duplicates(found((*a[:4], 0.99), (*b[:4], 0.985), c))) == [0, 1]


def test_nothing_found_and_boxes_without_area() -> None:
    nothing = Instances(np.zeros((0, 4)), [], (), np.zeros((0, 3, 3), bool))
    assert len(without_duplicates(nothing)) == 0
    assert which(without_duplicates(found((0, 0, 10, 10, 0.9), (5, 5, 5, 9, 0.8)))) == [0, 1]
