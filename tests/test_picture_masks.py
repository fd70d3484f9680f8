"""Masks from outside: what each form of file means, and which are refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.made_pictures import COLUMNS, ORIENTATION, ROWS, encoded, mask, png, read, refused, scene

INSIDE = np.zeros((ROWS, COLUMNS), bool)
INSIDE[4:15, 10:22] = INSIDE[20, 3] = True


def painted(outside: object, inside: object, dtype: Any = np.uint8) -> Image.Image:
    return Image.fromarray(np.where(INSIDE[..., None], inside, outside).astype(dtype).squeeze())


def palette(outside: int, inside: int, *colours: int) -> Image.Image:
    image = Image.fromarray(np.where(INSIDE, inside, outside).astype(np.uint8)).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(colours)
    return image


MASKS = {
    "0 and 255": (painted(0, 255), "PNG", {}),
    "0 and 1": (painted(0, 1), "PNG", {}),
    "0 and 7": (painted(0, 7), "BMP", {}),
    "1 bit": (Image.fromarray(INSIDE), "PNG", {}),
    "1 bit, fax": (Image.fromarray(INSIDE), "TIFF", {"compression": "group4"}),
    "16 bits, full": (painted(0, 65535, np.uint16), "PNG", {}),
    "16 bits, 1": (painted(0, 1, np.uint16), "PNG", {}),
    "32 bits": (painted(0, 1, np.int32), "TIFF", {}),
    "floats": (painted(0, 1, np.float32), "TIFF", {}),
    "grey in colour": (painted([0, 0, 0], [255, 255, 255]), "PNG", {}),
    "red on black": (painted([0, 0, 0], [255, 0, 0]), "WEBP", {}),
    "blue of 1": (painted([0, 0, 0], [0, 0, 1]), "PNG", {}),
    "palette": (palette(0, 1, 0, 0, 0, 128, 0, 0), "PNG", {}),
    "palette, white first": (palette(1, 0, 255, 255, 255, 0, 0, 0), "PNG", {}),
    "palette of an animation": (palette(0, 1, 0, 0, 0, 128, 0, 0), "GIF", {}),
    "opaque": (painted([0, 0, 0, 255], [9, 9, 9, 255]), "PNG", {}),
    "alpha alone": (painted([0, 0, 0, 0], [0, 0, 0, 255]), "PNG", {}),
    "white, alpha alone": (painted([255, 255, 255, 0], [255, 255, 255, 255]), "PNG", {}),
    "alpha and colour agree": (painted([0, 0, 0, 0], [255, 255, 255, 255]), "TIFF", {}),
    "grey and alpha": (painted([0, 0], [0, 255]), "PNG", {}),
    "alpha of 1": (painted([0, 0, 0, 0], [0, 0, 0, 1]), "PNG", {}),
    "alpha the same everywhere": (painted([0, 0, 0, 77], [255, 255, 255, 77]), "PNG", {}),
    "a cut-out": (Image.fromarray(np.dstack([scene(), INSIDE * np.uint8(255)])), "PNG", {}),
    "a transparent colour": (palette(0, 1, 200, 200, 200, 0, 0, 0), "PNG", {"transparency": 0}),
}


@pytest.mark.parametrize(("image", "form", "options"), MASKS.values(), ids=MASKS)
def test_masks_of_every_kind(image: Image.Image, form: str, options: dict[str, Any]) -> None:
    found = mask(encoded(image, form, **options), size=(ROWS, COLUMNS))
    assert found.dtype == bool
    assert np.array_equal(found, INSIDE)


def test_masks_by_hand() -> None:
    """16-bit colour, and a transparent grey of 16 bits: forms that Pillow does not write."""
    rows = [np.repeat(row[:, None] * 65535, 3, 1).astype(">u2").tobytes() for row in INSIDE]
    assert np.array_equal(mask(png(16, 2, rows, COLUMNS)), INSIDE)
    low = [np.repeat(row[:, None] * 1, 3, 1).astype(">u2").tobytes() for row in INSIDE]
    refused("ambiguous", "colours of 8 bits", lambda: mask(png(16, 2, low, COLUMNS)))
    greys = [np.where(row, 300, 301).astype(">u2").tobytes() for row in INSIDE]
    assert np.array_equal(mask(png(16, 0, greys, COLUMNS, (b"tRNS", struct.pack(">H", 301)))), INSIDE)


def test_masks_without_pixels_and_without_others() -> None:
    assert not mask(encoded(painted(0, 0), "PNG")).any()
    assert mask(encoded(painted(255, 255), "PNG")).all()
    assert mask(encoded(painted([9, 0, 0], [9, 0, 0]), "PNG")).all()


def ramp(count: int) -> Image.Image:
    return Image.fromarray(np.tile(np.arange(COLUMNS) % count, (ROWS, 1)).astype(np.uint8))


AMBIGUOUS = {
    "soft": (ramp(40), "PNG", "got 40 values; threshold"),
    "a label map": (ramp(3), "PNG", "got 3 values"),
    "two labels without 0": (painted(1, 2), "PNG", "got 2 values"),
    "soft colours": (ramp(40).convert("RGB"), "PNG", "got 40 values"),
    "two colours": (painted([0, 0, 9], [9, 0, 0]), "PNG", "got 2 values"),
    "three colours of a palette": (ramp(3).convert("P"), "PNG", "got 3 values"),
    "a JPEG": (painted(0, 255), "JPEG", "a JPEG blurs edges, save the mask as PNG"),
    "soft alpha": (Image.merge("LA", [ramp(1), ramp(40)]), "PNG", "got 40 values"),
    "alpha without 0": (painted([0, 100], [0, 255]), "PNG", "got 2 values"),
    "NaN": (painted(0, np.nan, np.float32), "TIFF", "values"),
    "alpha and colour": (Image.merge("LA", [ramp(2), painted(0, 255)]), "PNG", "in transparency or in colours, got both"),
}


@pytest.mark.parametrize(("image", "form", "words"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_masks_that_could_mean_several_things(image: Image.Image, form: str, words: str) -> None:
    refused("ambiguous", words, lambda: mask(encoded(image, form)))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_mask_is_turned_as_its_photograph(form: str) -> None:
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    data = encoded(painted(0, 255), form, exif=tags)
    assert np.array_equal(mask(data, size=(COLUMNS, ROWS)), np.rot90(INSIDE, -1))
    words = r"height 40, 24, got 24, 40, turned as the EXIF orientation 6 says; the file has 40, 24"
    refused("wrong size", words, lambda: mask(data, size=(ROWS, COLUMNS)))
    refused("wrong size", words, lambda: read(data, size=(ROWS, COLUMNS)))
