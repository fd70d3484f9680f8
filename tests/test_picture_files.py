"""Files of pictures: damaged ones, by which reason they are refused, and names."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chorus.picture_files import OTHER_SUFFIXES, SUFFIXES, PictureError, looks_like_picture, picture_file
from chorus.pictures import MAX_PIXELS, read_picture, rgb_image
from tests.made_pictures import COLUMNS, GREYS, ROWS, encoded, mask, png, read, refused, scene

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
