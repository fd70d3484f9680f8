"""Made-up pictures as bytes, right and wrong ones, and what reading them gives."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chorus.picture_files import PictureError
from chorus.pictures import read_mask, read_picture

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
