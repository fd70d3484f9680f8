"""Pictures from outside: what each form of file means."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from chorus.picture_files import SUFFIXES
from chorus.pictures import read_picture
from tests.made_pictures import BLACK, COLUMNS, GREYS, ORIENTATION, ROWS, WHITE, encoded, exif, png, read, refused, scene

# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_of_every_form(form: str, orientation: int) -> None:
    stored = Image.fromarray(scene())
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    plain, tagged = encoded(stored, form), encoded(stored, form, exif=tags)
    undo = Image.Exif()
    undo[ORIENTATION] = orientation
    held = Image.fromarray(read(plain))
    held.getexif()[ORIENTATION] = orientation
    upright = np.asarray(ImageOps.exif_transpose(held))
    assert np.array_equal(read(tagged), upright)
    assert upright.shape[:2] == ((COLUMNS, ROWS) if orientation >= 5 else (ROWS, COLUMNS))
    assert orientation == 1 or not np.array_equal(upright, scene())


SIDEWAYS = (ORIENTATION, 3, 1, struct.pack("<HH", 6, 0))
BROKEN = {
    "an offset before it": [(0x010F, 2, 500, struct.pack("<I", 9999)), SIDEWAYS],
    "an offset after it": [SIDEWAYS, (0x0131, 2, 500, struct.pack("<I", 9999))],
    "an unknown type": [(0x010F, 77, 3, b"abcd"), SIDEWAYS],
    "a table elsewhere": [SIDEWAYS, (0x8769, 4, 1, struct.pack("<I", 0xFFFFFF))],
    "a table that is text": [SIDEWAYS, (0x8769, 2, 4, b"abc\0")],
    "a table in a circle": [SIDEWAYS, (0x8769, 4, 1, struct.pack("<I", 8))],
    "a width that is text": [SIDEWAYS, (0x0100, 2, 4, b"abc\0")],
    "a resolution that is text": [SIDEWAYS, (0x011A, 2, 4, b"abc\0")],
    "an orientation that is a long": [(ORIENTATION, 4, 1, struct.pack("<I", 6))],
    "an orientation that is a byte": [(ORIENTATION, 1, 1, b"\6\0\0\0")],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("entries", BROKEN.values(), ids=BROKEN)
def test_orientation_beside_broken_tags(entries: list[tuple[int, int, int, bytes]], form: str) -> None:
    data = encoded(Image.fromarray(scene()), form, exif=exif(*entries))
    assert np.abs(read(data).astype(int) - np.rot90(scene(), -1)).max() <= 12


@pytest.mark.parametrize("value", [b"\0\0\0\0", b"\x09\0\0\0", b"\xff\xff\0\0"])
def test_orientations_that_are_none(value: bytes) -> None:
    assert np.array_equal(read(encoded(Image.fromarray(scene()), "PNG", exif=exif((ORIENTATION, 3, 1, value)))), scene())


# Depth


def test_sixteen_bits_are_scaled() -> None:
    expected = np.repeat((GREYS >> 8).astype(np.uint8)[..., None], 3, 2)
    grey = Image.fromarray(GREYS)
    assert np.array_equal(read(encoded(grey, "PNG")), expected)
    assert np.array_equal(read(encoded(grey, "TIFF")), expected)
    assert np.array_equal(read(encoded(Image.fromarray(GREYS.astype(">u2")), "TIFF")), expected)
    assert np.array_equal(read(encoded(Image.fromarray(GREYS.astype(np.int32)), "TIFF")), expected)
    dark = Image.fromarray(GREYS // 300)  # an all but black picture of 16 bits stays one
    assert read(encoded(dark, "PNG")).max() == 0


def test_sixteen_bit_colours() -> None:
    colours = scene().astype(np.uint16) * 257
    assert np.array_equal(read(png(16, 2, [row.astype(">u2").tobytes() for row in colours], COLUMNS)), scene())
    half = np.concatenate([colours, np.full((ROWS, COLUMNS, 1), 65535, np.uint16)], 2)
    half[: ROWS // 2, :, 3] = 0
    found = read(png(16, 6, [row.astype(">u2").tobytes() for row in half], COLUMNS))
    assert (found[: ROWS // 2] == 255).all()
    assert np.array_equal(found[ROWS // 2 :], scene()[ROWS // 2 :])
    greys = np.stack([GREYS, np.where(np.arange(ROWS)[:, None] < 12, 0, 65535) + 0 * GREYS], 2)
    found = read(png(16, 4, [row.astype(">u2").tobytes() for row in greys], COLUMNS))
    assert (found[:12] == 255).all()
    assert np.array_equal(found[12:, :, 0], GREYS[12:] >> 8)


def test_samples_of_32_bits() -> None:
    def tiff(array: np.ndarray) -> bytes:
        return encoded(Image.fromarray(array), "TIFF")

    eight = scene()[..., 0]
    assert np.array_equal(read(tiff(eight.astype(np.int32)))[..., 0], eight)
    assert np.array_equal(read(tiff((eight / 255).astype(np.float32)))[..., 0], eight)
    for wrong in (eight.astype(np.float32), eight - 1.0, np.where(eight > 9, np.nan, eight / 255)):
        refused(
            "ambiguous", r"grey samples of 0 \(black\) to 1 \(white\), got", lambda w=wrong: read(tiff(w.astype(np.float32)))
        )
    for wrong in (eight.astype(np.int32) - 1, eight.astype(np.int32) * 300):
        refused("ambiguous", r"grey samples of 0 \(black\) to 65535", lambda w=wrong: read(tiff(w)))


def test_a_tiff_whose_zero_is_white() -> None:
    """Pillow turns values over up to 8 bits; those of 16 would come out as a negative."""
    flat = np.full((8, 8), 60000, np.uint16)
    data = bytearray(encoded(Image.fromarray(flat), "TIFF"))
    at = data.index(struct.pack("<HHI", 262, 3, 1))
    data[at + 8 : at + 10] = struct.pack("<H", 0)
    refused("unreadable", "whose 0 is black", lambda: read(bytes(data)))


# Transparency


def test_what_is_transparent_becomes_white() -> None:
    rgba = np.zeros((4, 3, 4), np.uint8)
    rgba[..., :3] = 200, 30, 10
    rgba[..., 3] = np.array([0, 51, 204, 255])[:, None]
    over = np.rint(255 + (np.array([200, 30, 10]) - 255) * np.array([0, 51, 204, 255])[:, None] / 255)
    for form in ("PNG", "WEBP", "TIFF"):
        found = read(encoded(Image.fromarray(rgba), form, **({"exact": True} if form == "WEBP" else {})))
        assert np.abs(found[:, 0] - over).max() <= 1, form
    grey = Image.merge("LA", [Image.new("L", (3, 4), 0), Image.fromarray(rgba[..., 3])])
    assert read(encoded(grey, "PNG"))[:, 0, 0].tolist() == [255, 204, 51, 0]


def test_palettes() -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([9, 9, 9, 0, 120, 0, 1, 2, 3, 250, 0, 0])
    image.putdata([0, 1, 2, 3])
    plain = [[9, 9, 9], [0, 120, 0], [1, 2, 3], [250, 0, 0]]
    for form in ("PNG", "GIF", "BMP", "TIFF"):
        assert read(encoded(image, form))[0].tolist() == plain, form
    for form in ("PNG", "GIF"):
        assert read(encoded(image, form, transparency=1))[0].tolist() == [plain[0], WHITE, *plain[2:]], form
    several = encoded(image, "PNG", transparency=bytes([255, 0, 255, 51]))
    assert read(several)[0].tolist() == [plain[0], WHITE, plain[2], [254, 204, 204]]


@pytest.mark.parametrize(
    ("depth", "colour", "row", "columns", "key", "expected"),
    [
        (1, 0, b"\x40", 2, b"\0\1", [BLACK, WHITE]),
        (1, 0, b"\x40", 2, b"\0\0", [WHITE, WHITE]),
        (2, 0, b"\x18", 3, b"\0\1", [BLACK, WHITE, [170] * 3]),
        (4, 0, b"\x07\xe0", 3, b"\0\7", [BLACK, WHITE, [238] * 3]),
        (8, 0, b"\x00\x07\x08", 3, b"\0\7", [BLACK, WHITE, [8] * 3]),
        (16, 0, b"\x50\x00\x50\x01", 2, b"\x50\x01", [[80] * 3, WHITE]),
        (8, 2, b"\1\2\3\1\2\4", 2, b"\0\1\0\2\0\4", [[1, 2, 3], WHITE]),
        (16, 2, b"\x50\x50\x60\x60\x70\x70\0\0\0\0\0\0", 2, b"\x50\x50\x60\x60\x70\x70", [WHITE, BLACK]),
    ],
)
def test_one_transparent_colour(depth: int, colour: int, row: bytes, columns: int, key: bytes, expected: object) -> None:
    """The PNG's chunk tRNS names a sample as the file has it, of whatever depth."""
    assert read(png(depth, colour, [row], columns, (b"tRNS", key)))[0].tolist() == expected


# Other forms


@pytest.mark.parametrize(
    ("ink", "expected"),
    [((0, 0, 0, 0), WHITE), ((0, 0, 0, 255), BLACK), ((0, 255, 255, 0), [255, 0, 0]), ((255, 0, 0, 128), [0, 127, 127])],
)
@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk(form: str, ink: tuple[int, ...], expected: list[int]) -> None:
    """A JPEG holds its inks inverted, as Adobe does, a TIFF as they are."""
    found = read(encoded(Image.new("CMYK", (16, 16), ink), form)).reshape(-1, 3)
    assert np.abs(found.astype(int) - expected).max() <= 2
    if form == "JPEG":
        assert b"Adobe" in encoded(Image.new("CMYK", (16, 16), ink), form)


def test_the_first_of_several() -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ((0, 120, 0), (120, 0, 0)))
    for form in ("GIF", "PNG", "WEBP", "TIFF", "MPO"):
        found = read(encoded(first, form, save_all=True, append_images=[second]))
        assert np.abs(found.astype(int) - [0, 120, 0]).max() <= 2, form


def test_one_bit() -> None:
    pixels = scene()[..., 0] > 100
    for form in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(read(encoded(Image.fromarray(pixels), form))[..., 1] == 255, pixels), form


def test_the_content_decides(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        for form in ("JPEG", "PNG", "GIF", "TIFF"):
            path = tmp_path / f"a{suffix}"
            path.write_bytes(encoded(Image.new("RGB", (8, 6), "lime"), form))
            assert read_picture(path).shape == (6, 8, 3), (suffix, form)
