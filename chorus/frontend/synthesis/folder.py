"""Pictures that exist already: from an image search, photographs, another generator (B.1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from chorus.errors import InputError
from chorus.frontend.stages import ImageRequest, Picture, Refusal, Runtime
from chorus.frontend.synthesis.loading import whole
from chorus.frontend.synthesis.views import OPPOSITES

if TYPE_CHECKING:
    from PIL import Image

SIZE = 512
LEAST = 64
"""Least pixels of a picture's shorter side; below, no person would be found."""

MOST_PIXELS = 80_000_000
"""Most pixels of a picture, checked before it is decoded: a small file can claim any size. Below Pillow's own limit."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""The formats that a file may have, whatever its name says. JPEG includes files with a second picture, as of some cameras."""

FROM_FOLDERS = "from-folders"
"""Given as the prompt: each picture's prompt is the name of its folder."""

MISSING = Refusal("picture missing")
OUTSIDE = Refusal("picture outside of the folder")
UNREADABLE = Refusal("picture unreadable")
SMALL = Refusal("picture too small")
LARGE = Refusal("picture too large")


def make(model: str, runtime: Runtime) -> FolderImages:
    """The stage for the folder ``model``. InputError where there is no such folder."""
    return FolderImages(model, whole(runtime, "size", SIZE, 1, 8192), whole(runtime, "least", LEAST, 1, 8192))


class FolderImages:
    """An ImageSource that reads pictures: a request's key is the path of one in the folder, with forward slashes.

    Each is turned as its EXIF orientation says, made RGB (alpha onto white, 16 bits to 8, CMYK without its colour profile), and
    resized and cropped by ``square``.
    """

    def __init__(self, folder: str | Path, size: int = SIZE, least: int = LEAST) -> None:
        self.root = _root(folder)
        self.size = size
        self.least = least

    def images(self, requests: Sequence[ImageRequest]) -> list[Picture | Refusal]:
        """(size, size) pictures, one for each request and in order; Refusal, with the reason, for what cannot be used."""
        # Decoding and resizing release Python's global lock, so threads do run at the same time.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            return list(threads.map(self._read, requests))

    def _read(self, request: ImageRequest) -> Picture | Refusal:
        try:
            path = (self.root / request.key).resolve()
            if not path.is_relative_to(self.root):
                return OUTSIDE
            if not path.is_file():
                return MISSING
        except (OSError, ValueError, RuntimeError):  # a loop of links, a name too long, a null in it
            return MISSING
        image = self._decode(path)
        if isinstance(image, Refusal):
            return image
        return Picture(request, np.asarray(square(_rgb(_upright(image)), self.size)))

    def _decode(self, path: Path) -> Image.Image | Refusal:
        """The picture, its pixels in memory."""
        from PIL import Image

        try:
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    return LARGE
                if min(image.size) < self.least:
                    return SMALL
                image.load()
                return image
        except Image.DecompressionBombError:
            return LARGE
        except Exception:  # decoders raise nearly anything on damaged data: OSError, SyntaxError, struct.error, IndexError, ...
            return UNREADABLE


def square(image: Image.Image, size: int) -> Image.Image:
    """The shorter side resized to ``size`` with Lanczos, antialiased, and the centre cropped: (size, size) (B.1).

    Both in one step, from the square at the centre, so that a panorama takes no more memory than a portrait.
    """
    from PIL import Image

    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; as it is where the EXIF data is damaged."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # its parser raises as decoders do
        return image


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB: what is transparent becomes white, 16-bit grey keeps its high bytes."""
    from PIL import Image

    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255. Of these formats only PNG has such values, of 16 bits.
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def folder_requests(folder: str | Path, prompt: str | None = None) -> list[ImageRequest]:
    """A request for every picture (.jpg, .jpeg, .png, .webp, .bmp) in the folder and its sub-folders, sorted by key.

    ``prompt`` is that of all of them. None or "from-folders": the name of the sub-folder that a picture is in, with underscores
    as spaces; the name of the folder itself for pictures directly in it. Then a sub-folder named as a view augmentation of A.1
    gives the view, and the folder above it the prompt: ``A person rides a bicycle/side view/1.jpg``.

    Seeds are -1, since nothing is generated. Links to folders are not followed; links to files are listed, and those that
    lead out of the folder are refused when they are read. InputError where there is no such folder, no picture in it,
    or a file name that is not valid UTF-8.
    """
    root = _root(folder)
    keys = []
    for place, _, files in os.walk(root, onerror=_unreadable):
        for name in files:
            if name.lower().endswith(SUFFIXES):
                keys.append(PurePosixPath(Path(place, name).relative_to(root).as_posix()))
    if not keys:
        raise InputError(f"folder: expected pictures ({', '.join(SUFFIXES)}) in {str(folder)!r}, got none")
    return [_request(key, prompt, root.name) for key in sorted(keys, key=str)]


def _request(key: PurePosixPath, prompt: str | None, root: str) -> ImageRequest:
    try:
        str(key).encode()
    except UnicodeEncodeError:
        raise InputError(f"folder: expected file names in UTF-8, got {str(key)!r}") from None
    if prompt is not None and prompt != FROM_FOLDERS:
        return ImageRequest(str(key), prompt)
    above = [name.replace("_", " ").strip() for name in (root, *key.parts[:-1])]
    view = ""
    if len(above) > 1 and above[-1] in OPPOSITES:
        view = above.pop()
    return ImageRequest(str(key), above[-1], view)


def _root(folder: str | Path) -> Path:
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"folder: expected a folder of pictures, got {str(folder)!r}")
    return root.resolve()


def _unreadable(error: OSError) -> Any:
    raise InputError(f"folder: expected one that can be read, got {error.filename!r}: {error.strerror}") from error
