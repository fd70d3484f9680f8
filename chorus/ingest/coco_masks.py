"""COCO's segmentations as masks: polygons and run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.ingest.record import short_repr

LARGEST = 1e5
"""Bound of all coordinates, in pixels."""


def decode_mask(segmentation: Any, size: tuple[int, int], left_out: list[str] | None = None) -> NDArray[np.bool_]:
    """A COCO segmentation (polygons, or run lengths, compressed or not) as an (H, W) bool mask.

    size      height, width in pixels
    left_out  gains what is wrong with each polygon that cannot be used beside others that can

    Raises InputError for anything else and for empty masks, ImportError for polygons without pycocotools, which decides what
    pixels they cover.
    """
    height, width = size
    if isinstance(segmentation, list):
        polygons, wrong = _polygons(segmentation, size)
        if not polygons:
            raise InputError(wrong[0] if wrong else "segmentation: expected polygons, got none")
        if left_out is not None:
            left_out += wrong
        tools = pycocotools()
        counts = _run_lengths(tools.merge(tools.frPyObjects(polygons, height, width))["counts"])
    elif isinstance(segmentation, dict):
        if segmentation.get("size") not in ([height, width], (height, width)):
            raise InputError(f"segmentation: expected the size {[height, width]}, got {short_repr(segmentation.get('size'))}")
        given = segmentation.get("counts")
        if isinstance(given, list):
            counts = [int(c) if isinstance(c, float) and c.is_integer() else c for c in given]
        elif isinstance(given, bytes) or (isinstance(given, str) and given.isascii()):  # bytes: pycocotools' own form
            counts = _run_lengths(given if isinstance(given, bytes) else given.encode("ascii"))
        else:
            raise InputError(f"segmentation: expected run lengths, got {short_repr(given)}")
    else:
        raise InputError(f"segmentation: expected polygons or run lengths, got {short_repr(segmentation)}")
    if not all(type(c) is int and c >= 0 for c in counts) or sum(counts) != height * width:
        raise InputError(f"segmentation: expected run lengths that add up to {height * width} pixels, got {short_repr(counts)}")
    runs = np.arange(len(counts)) % 2 == 1  # background first, down the columns
    mask = np.ascontiguousarray(np.repeat(runs, counts).reshape(width, height).T)
    if not mask.any():
        raise InputError("segmentation: expected pixels of the image, got none")
    return mask


def _run_lengths(text: bytes) -> list[int]:
    """COCO's compressed run lengths: numbers of 5 bits a character, the low ones first, from "0" on.

    Bit 5 tells that more characters follow, bit 4 of the last one is the sign; from the fourth run on, numbers are
    differences to the run before the last. (pycocotools reads beyond the end of a truncated string.)
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise InputError("segmentation: expected compressed run lengths, got other characters")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise InputError("segmentation: expected compressed run lengths, got a string that is cut off")
    return counts


def encode_run_lengths(mask: NDArray[np.bool_]) -> str:
    """COCO's compressed run lengths of a mask (H, W) bool, the inverse of ``decode_mask``; runs go down the columns."""
    flat = np.asarray(mask, np.bool_).T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    start = [0, 0] if flat.size and flat[0] else [0]  # the background comes first, be it of no pixel
    counts = np.diff(np.concatenate([start, edges, [flat.size]])).tolist()
    text = []
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(48 + (bits | 32 if more else bits)))
            if not more:
                break
    return "".join(text)


def _polygons(values: list[Any], size: tuple[int, int]) -> tuple[list[list[float]], list[str]]:
    """The polygons that can be used, and what is wrong with the others."""
    polygons: list[list[float]] = []
    wrong: list[str] = []
    for value in values:
        fits = isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0
        if not fits or not all(type(c) in (int, float) and abs(c) <= LARGEST for c in value):
            wrong.append(f"segmentation: expected polygons of three or more points x, y in pixels, got {short_repr(value)}")
            continue
        x, y = np.reshape(value, (-1, 2)).astype(np.float64).T
        if x.max() <= 0 or y.max() <= 0 or x.min() >= size[1] or y.min() >= size[0]:
            wrong.append(f"segmentation: expected polygons in an image of {size[1]} x {size[0]} px, got {short_repr(value)}")
        elif not (x * np.roll(y, 1) - y * np.roll(x, 1)).sum():
            wrong.append(f"segmentation: expected polygons with an area, got {short_repr(value)}")
        else:
            polygons.append([float(c) for c in value])
    return polygons, wrong


def pycocotools() -> Any:
    """The module ``pycocotools.mask``. ImportError, naming what to install, without it."""
    try:
        from pycocotools import mask
    except ImportError:
        raise ImportError(
            "COCO's masks need pycocotools, which is not installed: pip install '.[coco]' in a checkout"
        ) from None
    return mask
