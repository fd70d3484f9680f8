"""Pictures that exist already: from an image search, photographs, another generator (B.1)."""

from __future__ import annotations

import logging
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
from chorus.picture_files import SUFFIXES, PictureError, Reason, looks_like_picture
from chorus.pictures import rgb_image

if TYPE_CHECKING:
    from PIL import Image

SIZE = 512
LEAST = 64
"""Least pixels of a picture's shorter side; below, no person would be found."""

CROPS = ("square", "none")
"""Option ``crop``: the shorter side resized and the centre cut out (B.1), or the picture as it is."""

FROM_FOLDERS = "from-folders"
"""Given as the prompt: each picture's prompt is the name of its folder."""

MISSING = Refusal("picture missing")
OUTSIDE = Refusal("picture outside of the folder")
UNREADABLE = Refusal("picture unreadable")
TRUNCATED = Refusal("picture truncated")
SMALL = Refusal("picture too small")
LARGE = Refusal("picture too large")
_REFUSALS: dict[Reason, Refusal] = {"missing": MISSING, "truncated": TRUNCATED, "too small": SMALL, "too large": LARGE}
_EXAMPLES = 3  # names in the warning about files that are left out

log = logging.getLogger(__name__)


def make(model: str, runtime: Runtime) -> FolderImages:
    """The stage for the folder ``model``. InputError where there is no such folder."""
    crop = runtime.one_of("crop", CROPS) == CROPS[0]
    return FolderImages(model, whole(runtime, "size", SIZE, 1, 8192), whole(runtime, "least", LEAST, 1, 8192), crop)


class FolderImages:
    """An ImageSource that reads pictures: a request's key is the path of one in the folder, with forward slashes.

    Each is made upright RGB by ``chorus.pictures.rgb_image``, and resized and cropped by ``square``; left as it is without
    ``crop``.
    """

    def __init__(self, folder: str | Path, size: int = SIZE, least: int = LEAST, crop: bool = True) -> None:
        self.root = _root(folder)
        self.size, self.least, self.crop = size, least, crop

    def images(self, requests: Sequence[ImageRequest]) -> list[Picture | Refusal]:
        """Pictures, (size, size) if cropped, one for each request in order; Refusal, with the reason, for what is no use."""
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
        try:
            image = rgb_image(path, min_side=self.least)
        except PictureError as error:
            return _REFUSALS.get(error.reason, UNREADABLE)
        return Picture(request, np.asarray(square(image, self.size) if self.crop else image))


def square(image: Image.Image, size: int) -> Image.Image:
    """The shorter side resized to ``size`` with Lanczos, antialiased, and the centre cropped: (size, size) (B.1).

    Both in one step, from the square at the centre, so that a panorama takes no more memory than a portrait.
    """
    from PIL import Image

    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def folder_requests(folder: str | Path, prompt: str | None = None) -> list[ImageRequest]:
    """A request for every picture in the folder and its sub-folders, sorted by key: the files whose names end as
    ``chorus.picture_files.SUFFIXES`` says. A warning is logged that counts the other files that look like pictures, and names
    some.

    ``prompt`` is that of all of them. None or "from-folders": the name of the sub-folder that a picture is in, with underscores
    as spaces; the name of the folder itself for pictures directly in it. Then a sub-folder named as a view augmentation of A.1
    gives the view, and the folder above it the prompt: ``A person rides a bicycle/side view/1.jpg``.

    Seeds are -1, since nothing is generated. Links to folders are not followed; links to files are listed, and those that
    lead out of the folder are refused when they are read. InputError where there is no such folder, no picture in it,
    or a file name that is not valid UTF-8.
    """
    root = _root(folder)
    keys, left_out = [], []
    for place, _, files in os.walk(root, onerror=_unreadable):
        for name in files:
            path = Path(place, name)
            if name.lower().endswith(SUFFIXES):
                keys.append(PurePosixPath(path.relative_to(root).as_posix()))
            elif looks_like_picture(path):
                left_out.append(path.relative_to(root).as_posix())
    others = _counted(sorted(left_out))
    if not keys:
        raise InputError(f"folder: expected pictures ({', '.join(SUFFIXES)}) in {str(folder)!r}, got {others or 'none'}")
    if others:
        log.warning("%s: left out, since their names do not end in %s: %s", folder, ", ".join(SUFFIXES), others)
    return [_request(key, prompt, root.name) for key in sorted(keys, key=str)]


def _counted(names: Sequence[str]) -> str:
    """A number of files and the first of their names; "" for none."""
    if not names:
        return ""
    shown = ", ".join(repr(name) for name in names[:_EXAMPLES])
    return f"{len(names)} other picture{'s' * (len(names) > 1)} ({shown}{', ...' * (len(names) > _EXAMPLES)})"


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
