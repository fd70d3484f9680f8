"""Boxes of masks and their overlaps, against counting pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from chorus.boxes import area, boxes_of, boxes_of_profiles, intersection_area, iou, overlap_of_first, overlap_of_smaller

HEIGHT, WIDTH = 5, 7
MASKS = arrays.arrays(np.bool_, st.tuples(st.just(3), st.just(HEIGHT), st.just(WIDTH)))


def pixels(box: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = box
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    return (column >= x0) & (column < x1) & (row >= y0) & (row < y1)


def test_boxes_of_masks() -> None:
    masks = np.zeros((4, HEIGHT, WIDTH), bool)
    masks[0, 2, 3] = masks[1, :, :] = masks[2, 0, 6] = masks[2, 4, 1] = True
    boxes = boxes_of(masks)
    assert boxes.dtype == np.int64
    assert boxes.tolist() == [[3, 2, 4, 3], [0, 0, 7, 5], [1, 0, 7, 5], [0, 0, 0, 0]]
    assert boxes_of(masks[0]).tolist() == [3, 2, 4, 3]
    assert boxes_of(masks.reshape(2, 2, HEIGHT, WIDTH)).tolist() == boxes.reshape(2, 2, 4).tolist()
    assert boxes_of(np.zeros((0, HEIGHT, WIDTH), bool)).shape == (0, 4)


@given(MASKS)
def test_a_box_is_the_smallest_around_its_mask(masks: np.ndarray) -> None:
    for mask, box in zip(masks, boxes_of(masks), strict=True):
        rows, columns = np.nonzero(mask)
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]
        assert box.tolist() == expected
    assert np.array_equal(boxes_of_profiles(masks.any(2), masks.any(1)), boxes_of(masks))


@given(MASKS, MASKS)
def test_overlaps_are_shares_of_pixels(first: np.ndarray, second: np.ndarray) -> None:
    a, b = boxes_of(first)[:, None], boxes_of(second)[None]
    tables = [f(a, b) for f in (intersection_area, overlap_of_first, overlap_of_smaller, iou)]
    assert all(table.shape == (3, 3) and table.dtype == np.float64 for table in tables)
    for i in range(3):
        for j in range(3):
            of_a, of_b = pixels(a[i, 0]), pixels(b[0, j])
            shared, sizes = (of_a & of_b).sum(), (of_a.sum(), of_b.sum())
            assert area(a[i, 0]) == sizes[0]
            wholes = (1, sizes[0], min(sizes), (of_a | of_b).sum())
            assert [table[i, j] for table in tables] == [shared / whole if whole else 0 for whole in wholes]


def test_fractions_of_pixels_and_boxes_without_area() -> None:
    a, b = np.array([0, 0, 10, 10], np.float32), np.array([5, 5, 7.5, 25])
    assert float(area(b)) == 50
    assert float(intersection_area(a, b)) == 12.5
    assert float(overlap_of_first(a, b)) == 0.125
    assert float(overlap_of_smaller(a, b)) == float(overlap_of_smaller(b, a)) == 0.25
    assert float(iou(a, b)) == pytest.approx(12.5 / 137.5)
    touching, flat = [10, 0, 12, 10], [2, 2, 2, 4]
    for f in (intersection_area, overlap_of_first, overlap_of_smaller, iou):
        assert float(f(a, touching)) == float(f(a, flat)) == float(f(flat, a)) == float(f(flat, flat)) == 0
    boxes = np.array([[0, 0, 10, 10], [5, 5, 5, 9], [5, 0, 15, 10]], np.float32)
    assert overlap_of_smaller(boxes[:, None], boxes).tolist() == [[1, 0, 0.5], [0, 0, 0], [0.5, 0, 1]]
