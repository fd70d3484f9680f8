"""Pictures and masks from outside: what each form of file means, and what is refused, by which reason."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from chorus.picture_files import OTHER_SUFFIXES, SUFFIXES, PictureError, looks_like_picture, picture_file
from chorus.pictures import MAX_PIXELS, read_mask, read_picture, rgb_image

ROWS, COLUMNS = 24, 40
ORIENTATION = 0x0112
EXACT: dict[str, dict[str, Any]] = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}
GREYS = np.linspace(0, 65535, ROWS * COLUMNS).reshape(ROWS, COLUMNS).astype(np.uint16)
BLACK, WHITE = [0, 0, 0], [255, 255, 255]


def scene(rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Smooth and without symmetry, so that any turn or mirroring shows."""
    x, y = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    return np.stack([255 * x, 255 * y, 127 + 127 * np.sin(9 * x + 5 * y * y)], 2).astype(np.uint8)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **{**EXACT.get(form, {}), **options})
    return out.getvalue()


def read(data: bytes, **options: Any) -> np.ndarray:
    return read_picture(io.BytesIO(data), **options)


def mask(data: bytes, **options: Any) -> np.ndarray:
    return read_mask(io.BytesIO(data), **options)


def refused(reason: str, words: str, call: Callable[[], object]) -> None:
    with pytest.raises(PictureError, match=words) as caught:
        call()
    assert caught.value.reason == reason, caught.value
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def png(depth: int, colour: int, rows: Sequence[bytes], columns: int, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for the forms that Pillow does not write. ``extra``: chunks before the pixels."""
    header = struct.pack(">IIBBBBB", columns, len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", pixels), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF data of entries (tag, type, count, four bytes), written by hand so that they may be wrong."""
    table = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)


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


# What cannot be used


def test_reasons(tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(scene()), "PNG")
    refused("missing", r"a\.png: expected a file with a picture, got none", lambda: read_picture(tmp_path / "a.png"))
    refused("missing", "got a folder, pipe or device", lambda: read_picture(tmp_path))
    os.mkfifo(tmp_path / "pipe.png")
    refused("missing", r"pipe\.png: .* got a folder, pipe or device", lambda: read_picture(tmp_path / "pipe.png"))
    refused("unreadable", "picture: .* can be read: File name too long", lambda: read_picture("x" * 5000, name="picture"))
    refused("unreadable", "got an empty file", lambda: read(b""))
    refused("unreadable", r"got a file that begins with b'<!doctype html><'", lambda: read(b"<!doctype html><p>404</p>"))
    refused("unreadable", "begins with b'P6", lambda: read(encoded(Image.new("RGB", (9, 9)), "PPM")))
    flipped = whole[:80] + bytes(b ^ 0xFF for b in whole[80:90]) + whole[90:]
    refused("unreadable", "got a damaged PNG: ", lambda: read(flipped))
    refused("truncated", f"got a truncated PNG of {len(whole) // 2} bytes", lambda: read(whole[: len(whole) // 2]))
    refused("too large", f"at most 900 pixels, got {COLUMNS} x {ROWS}", lambda: read(whole, max_pixels=900))
    refused("too small", f"at least 25 pixels, got {COLUMNS} x {ROWS}", lambda: rgb_image(io.BytesIO(whole), min_side=25))
    refused("wrong size", r"width, height 24, 40, got 40, 24$", lambda: read(whole, size=(COLUMNS, ROWS)))
    assert read(whole, size=(ROWS, COLUMNS)).shape == (ROWS, COLUMNS, 3)
    refused("unreadable", r"^photo: expected", lambda: read(b"", name="photo"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [9_000, 12_000, 100_000])
def test_bombs_are_refused_before_they_are_decoded(side: int) -> None:
    """Above our limit; above the one at which Pillow warns; above the one at which it refuses."""
    assert side**2 > MAX_PIXELS
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = bytearray(png(1, 0, [b"\0"], 1))
    data[16:29] = header
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    refused("too large", f"at most {MAX_PIXELS} pixels", lambda: read(bytes(data)))
    refused("too large", f"at most {MAX_PIXELS} pixels", lambda: mask(bytes(data)))


def forms() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    noisy = scene()
    noisy[..., 2] = rng.integers(0, 256, noisy.shape[:2])
    image = Image.fromarray(noisy)
    made = {form: encoded(image, form) for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")}
    made["progressive"] = encoded(image, "JPEG", progressive=True)
    made["16 bits"] = encoded(Image.fromarray(GREYS), "PNG")
    made["palette"] = encoded(image.quantize(16), "PNG", transparency=3)
    made["alpha"] = encoded(image.convert("RGBA"), "WEBP")
    for way in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        made[way] = encoded(image, "TIFF", compression=way)
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", forms())
def test_whatever_is_cut_off_is_said_to_be(form: str) -> None:
    """Never half a picture: of a file without its end, either all pixels, or the reason."""
    whole = forms()[form]
    pixels = read(whole)
    outcomes = {}
    for length in range(16, len(whole), max(1, len(whole) // 60)):
        try:
            outcomes[length] = "whole" if np.array_equal(read(whole[:length]), pixels) else "half"
        except PictureError as error:
            outcomes[length] = error.reason
    assert set(outcomes.values()) <= {"whole", "truncated"}, outcomes
    assert list(outcomes.values()).count("truncated") > 30


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", forms())
def test_damage_is_a_picture_error_or_none(form: str) -> None:
    whole = forms()[form]
    rng = np.random.default_rng(len(whole))
    messages = []
    for trial in range(60):
        data = bytearray(whole)
        for at in rng.integers(0, min(len(data), 300) if trial % 2 else len(data), 3):
            data[at] = rng.integers(256)
        for call in (read, mask):
            try:
                call(bytes(data))
            except PictureError as error:
                messages.append(str(error))
    assert len(messages) > 60
    assert max(map(len, messages)) < 300


# Masks

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


# Names


def test_the_picture_of_a_name(tmp_path: Path) -> None:
    assert picture_file(tmp_path, "photo") is None
    assert picture_file(tmp_path / "nowhere", "photo") is None
    for name in ("photo.txt", "photo", "photo.json", "photograph.jpg", "my photo.png"):
        (tmp_path / name).touch()
    assert picture_file(tmp_path, "photo") is None
    (tmp_path / "photo.heic").touch()
    refused(
        "unreadable",
        r"photo\.heic: expected a picture .*, got a name that ends in \.heic",
        lambda: picture_file(tmp_path, "photo"),
    )
    for suffix in (*SUFFIXES, ".JPG", ".Tiff"):
        (tmp_path / f"photo{suffix}").touch()
        assert picture_file(tmp_path, "photo") == tmp_path / f"photo{suffix}"
        (tmp_path / f"photo{suffix}").unlink()
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "Photo.PNG").touch()
    refused("ambiguous", r"photo: .* got Photo\.PNG and photo\.jpg", lambda: picture_file(tmp_path, "photo"))


def test_what_looks_like_a_picture(tmp_path: Path) -> None:
    for suffix in (*SUFFIXES, *OTHER_SUFFIXES):
        assert looks_like_picture(tmp_path / f"a{suffix}")
        assert looks_like_picture(tmp_path / f"a{suffix.upper()}")
    for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        (tmp_path / form).write_bytes(encoded(Image.fromarray(scene()), form))
        assert looks_like_picture(tmp_path / form)
    for name, content in (
        ("a.txt", b"BMW and other cars"),
        ("b", b""),
        ("c.json", b"{}"),
        ("RIFF.wav", b"RIFF\0\0\0\0WAVEfmt "),
    ):
        (tmp_path / name).write_bytes(content)
        assert not looks_like_picture(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    assert not looks_like_picture(tmp_path / "pipe")
    assert not looks_like_picture(tmp_path / "nothing")


def test_the_error_keeps_its_reason_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(PictureError("a.png: too many", "too large")))
    assert (str(error), error.reason) == ("a.png: too many", "too large")
