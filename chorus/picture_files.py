"""Files of pictures: what they are called, what their first bytes say, and what is wrong with one that cannot be read."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from chorus.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Endings of the names of pictures that are read, in lower case; names may be written in upper case."""

OTHER_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".mpo", ".apng", ".pjpeg", ".pjp", ".dib", ".ico"),
    *(".psd", ".svg", ".eps", ".tga", ".pcx", ".dds", ".exr", ".hdr", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
)
"""Endings of pictures' names that are not read: callers that choose files by name say so where they leave one out."""

Reason = Literal["missing", "unreadable", "truncated", "too large", "too small", "wrong size", "ambiguous"]
Source = str | os.PathLike[str] | BinaryIO
_KINDS = "JPEG, PNG, WebP, BMP, GIF or TIFF"
_TAIL = 4096  # bytes at the end of a file among which its end mark is looked for
_TIFF_BYTES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 0])  # of a value of each type; 13: of no known type


class PictureError(InputError):
    """A picture or mask that cannot be used.

    reason  "missing", "unreadable", "truncated", "too large" (in pixels), "too small", "wrong size" (other than asked for), or
            "ambiguous" (values without one meaning; two files for one picture)
    """

    def __init__(self, message: str, reason: Reason = "unreadable") -> None:
        super().__init__(message)
        self.reason: Reason = reason


def picture_file(folder: str | os.PathLike[str], stem: str) -> Path | None:
    """The picture named ``stem`` with one of SUFFIXES in a folder, whatever the case of its letters; None where there is none.

    Raises PictureError where there are two, and where the only one has one of OTHER_SUFFIXES.
    """
    folder = Path(folder)
    try:
        names = sorted(name for name in os.listdir(folder) if os.path.splitext(name)[0].lower() == stem)
    except OSError:
        return None
    found = [name for name in names if name.lower().endswith(SUFFIXES)]
    if len(found) > 1:
        raise PictureError(f"{stem}: expected one picture of that name, got {' and '.join(found)}", "ambiguous")
    other = [name for name in names if name.lower().endswith(OTHER_SUFFIXES)]
    if other and not found:
        raise PictureError(f"{other[0]}: expected a picture as {_KINDS}, got a name that ends in {Path(other[0]).suffix}")
    return folder / found[0] if found else None


def looks_like_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name or its first bytes are those of a picture. The name may be one that ``SUFFIXES`` leaves out."""
    path = Path(path)
    if path.name.lower().endswith((*SUFFIXES, *OTHER_SUFFIXES)):
        return True
    try:
        if not path.is_file():  # opening a pipe would wait
            return False
        with path.open("rb") as file:
            return _kind(file.read(16)) != ""
    except OSError:
        return False


@contextmanager
def opened(source: Source, name: str | None) -> Iterator[tuple[BinaryIO, str]]:
    """A context with the file, opened where it is a path, and the name for errors. PictureError where it cannot be opened."""
    if not isinstance(source, (str, os.PathLike)):
        yield source, name or "picture"
        return
    path = Path(source)
    name = name or path.name or str(path)
    try:
        if not path.is_file():  # opening a pipe would wait
            got = "a folder, pipe or device" if path.exists() else "none of this name"
            raise PictureError(f"{name}: expected a file with a picture, got {got}", "missing")
        file = path.open("rb")
    except OSError as error:
        raise PictureError(f"{name}: expected a file that can be read: {error.strerror or error}") from None
    with file:
        yield file, name


def damage(name: str, file: BinaryIO, image: Image.Image | None, error: Exception) -> PictureError:
    """The error for a file that cannot be decoded: truncated, or what it is instead."""
    try:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - _TAIL))
        tail = file.read(_TAIL)
        file.seek(0)
        head = file.read(16)
    except (OSError, ValueError) as broken:
        return PictureError(f"{name}: expected a file that can be read: {brief(broken)}")
    reason: Reason = "unreadable"
    kind = _kind(head)
    if not kind:
        got = f"a file that begins with {head!r}" if head else "an empty file"
    elif "truncated" in str(error).lower() or _ends_early(kind, head, tail, length, file, image):
        reason, got = "truncated", f"a truncated {kind} of {length} bytes"
    else:
        got = f"a damaged {kind}: {brief(error)}"
    return PictureError(f"{name}: expected a picture ({_KINDS}), got {got}", reason)


def brief(error: Exception) -> str:
    """An error's message on one short line."""
    # Pillow's own words for a file that no format takes name an object in memory.
    text = "" if type(error).__name__ == "UnidentifiedImageError" else str(error)
    return textwrap.shorten(text, 80) or "its header cannot be read"


def _kind(head: bytes) -> str:
    """The format that the first 16 bytes of a file announce, or ""."""
    for kind, signature in (("JPEG", b"\xff\xd8\xff"), ("PNG", b"\x89PNG"), ("GIF", b"GIF8")):
        if head.startswith(signature):
            return kind
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    return "BMP" if head.startswith(b"BM") and head[6:10] == bytes(4) else ""  # many a text begins with these two letters


def _ends_early(kind: str, head: bytes, tail: bytes, length: int, file: BinaryIO, image: Image.Image | None) -> bool:
    """Whether a file that cannot be decoded lacks its end. Decoders do not always say so."""
    if kind == "JPEG":
        return b"\xff\xd9" not in tail
    if kind == "PNG":
        return b"IEND" not in tail
    if kind == "GIF":
        return not tail.rstrip(b"\0").endswith(b";")
    if kind == "WebP":
        return int.from_bytes(head[4:8], "little") + 8 > length
    if kind == "BMP":
        return int.from_bytes(head[2:6], "little") > length
    return _end_of_tiff(head, file, image) > length


def _end_of_tiff(head: bytes, file: BinaryIO, image: Image.Image | None) -> float:
    """The length that a TIFF needs for its first page, as far as it says so: its table of tags and what that points to.

    image  what Pillow made of the table, or None
    """
    order: Literal["little", "big"] = "little" if head.startswith(b"II") else "big"
    if 43 in head[2:4]:  # a BigTIFF, whose numbers are of other lengths
        return 0
    file.seek(int.from_bytes(head[4:8], order))
    count = int.from_bytes(file.read(2), order)
    table = file.read(12 * count)
    if len(head) < 8 or not count or len(table) < 12 * count:
        return math.inf
    tags = np.frombuffer(table, np.dtype("u2, u2, u4, u4").newbyteorder(order))
    long = _TIFF_BYTES[np.minimum(tags["f1"], 13)] * tags["f2"].astype(np.int64)
    ends = np.where(long > 4, tags["f3"] + long, 0)  # shorter values stand in the table itself
    known = getattr(image, "tag_v2", {})
    try:  # of damaged tags anything may come
        pixels = [np.add(known[start], known[size]).max() for start, size in ((273, 279), (324, 325)) if start in known]
    except Exception:
        pixels = []
    return float(max([*ends, *pixels]))
