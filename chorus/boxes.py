"""Axis-aligned boxes in images: the boxes of masks, and how far two boxes overlap.

A box is x0, y0, x1, y1 in pixels, half open: it covers columns x0 <= x < x1 and rows y0 <= y < y1, so that its area is
(x1 - x0) (y1 - y0). Arrays of boxes are (..., 4); functions of two arrays broadcast over the leading axes, so that
``f(a[:, None], b[None])`` is the table of all pairs. They compute in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def boxes_of(masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The smallest boxes (..., 4) int64 around the pixels of masks (..., H, W); all zero for an empty mask."""
    return boxes_of_profiles(np.asarray(masks.any(-1)), np.asarray(masks.any(-2)))


def boxes_of_profiles(rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> NDArray[np.int64]:
    """``boxes_of`` from which rows (..., H) bool and columns (..., W) bool of the masks have a pixel."""
    boxes = np.zeros((*rows.shape[:-1], 4), np.int64)
    for low, high, hit in ((0, 2, columns), (1, 3, rows)):
        boxes[..., low] = hit.argmax(-1)
        boxes[..., high] = hit.shape[-1] - hit[..., ::-1].argmax(-1)
    boxes[~(rows.any(-1) & columns.any(-1))] = 0
    return boxes


def area(boxes: Any) -> NDArray[np.float64]:
    """Areas (...,) in square pixels."""
    b = np.asarray(boxes, np.float64)
    return np.asarray((b[..., 2:] - b[..., :2]).prod(-1))


def intersection_area(a: Any, b: Any) -> NDArray[np.float64]:
    """Areas (...,) of the intersections in square pixels; 0 for disjoint boxes."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.asarray(np.clip(sides, 0, None).prod(-1))


def overlap_of_first(a: Any, b: Any) -> NDArray[np.float64]:
    """The shares (...,) of the boxes ``a`` that ``b`` covers, |a & b| / |a|, 0 to 1; 0 where a has no area."""
    return _ratio(intersection_area(a, b), area(a))


def overlap_of_smaller(a: Any, b: Any) -> NDArray[np.float64]:
    """|a & b| / min(|a|, |b|) (...,), 0 to 1; 0 where the smaller box has no area."""
    return _ratio(intersection_area(a, b), np.minimum(area(a), area(b)))


def iou(a: Any, b: Any) -> NDArray[np.float64]:
    """Intersection over union, |a & b| / |a | b| (...,), 0 to 1; 0 where neither box has an area."""
    shared = intersection_area(a, b)
    return _ratio(shared, area(a) + area(b) - shared)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
