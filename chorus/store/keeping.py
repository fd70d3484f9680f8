"""Keeping pictures: what is given with rows, checked, and written as pictures/NAME.h5 before the shard of that name."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, check_array, to_numpy
from chorus.files import fsync_path, remove_leftovers, write_new
from chorus.picture_files import PictureError
from chorus.pictures import MAX_PIXELS, picture_header, read_picture
from chorus.store.pictures import (
    MEDIA_TYPES,
    PICTURES,
    PICTURES_FORMAT,
    PICTURES_VERSION,
    EncodedPicture,
    orphans,
    picture_file,
)

JPEG_QUALITY = 90
FORMATS = ("jpeg", "png")
"""What pictures are encoded as: JPEG of quality JPEG_QUALITY, or PNG, which loses nothing."""


def encode_picture(pixels: Any, kind: Literal["jpeg", "png"] = "jpeg") -> bytes:
    """A picture (H, W, 3) uint8 RGB as the bytes of a file of a ``kind`` in FORMATS. InputError for other shapes and kinds."""
    from PIL import Image

    if kind not in FORMATS:
        raise InputError(f"kind: expected one of {', '.join(FORMATS)}; got {kind!r}")
    array = check_array("picture", pixels, ("H", "W", 3), np.uint8)
    if not array.size or array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise InputError(f"picture: expected 1 to {MAX_PIXELS} pixels, got an array of shape {array.shape}")
    file = io.BytesIO()
    try:
        Image.fromarray(array).save(file, kind, **({"quality": JPEG_QUALITY} if kind == "jpeg" else {}))
    except (OSError, ValueError) as error:  # a JPEG has at most 65,535 pixels along a side
        raise InputError(f"picture: expected one that {kind} can hold, got an array of shape {array.shape} ({error})") from None
    return file.getvalue()


def checked_pictures(pictures: Any, keys: Sequence[bytes], sizes: NDArray[np.int32]) -> dict[bytes, EncodedPicture]:
    """Pictures given with rows, by the rows' keys, encoded; rows without one are left out.

    pictures  None, or one for each row: None, (H, W, 3) uint8 RGB, the bytes of a JPEG, PNG or WebP file, or an EncodedPicture
    sizes     (I, 2) int32 height, width of the rows, which the upright pictures must have; 0, 0 where not known

    Raises InputError that names the first picture of another kind or size, and where there are more or fewer than rows.
    """
    if pictures is None:
        return {}
    if isinstance(pictures, (str, bytes)) or not hasattr(pictures, "__len__") or len(pictures) != len(keys):
        got = f"{len(pictures)}" if hasattr(pictures, "__len__") else f"a {type(pictures).__name__}"
        raise InputError(f"pictures: expected {len(keys)}, one or None for each image, got {got}")
    found = {}
    for key, picture, size in zip(keys, pictures, sizes.tolist(), strict=True):
        if picture is not None:
            name = f"pictures: of {key!r}"
            try:
                found[key] = _checked(name, picture, (size[0], size[1]) if size[0] else None)
            except PictureError:
                raise  # names the picture already
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
    return found


def _checked(name: str, picture: Any, size: tuple[int, int] | None) -> EncodedPicture:
    if isinstance(picture, EncodedPicture):  # of another store, which checked it when it was kept
        return picture
    if isinstance(picture, (bytes, bytearray, memoryview)):
        data = bytes(picture)
        media_type = f"image/{picture_header(io.BytesIO(data), name=name)[0].lower()}"
        if media_type not in MEDIA_TYPES:
            raise InputError(f"expected {', '.join(MEDIA_TYPES)}; got {media_type}")
        read_picture(io.BytesIO(data), name=name, size=size)  # what is kept can be shown
        return EncodedPicture(media_type, data)
    array = to_numpy(picture)
    if size is not None and array.shape[:2] != size:
        raise InputError(f"expected the image's height, width {size}, got an array of shape {array.shape}")
    return EncodedPicture("image/jpeg", encode_picture(array))


@contextmanager
def kept_beside(
    shard: Path, pictures: Mapping[bytes, EncodedPicture], write: Callable[[Path, bytes, Mapping[str, NDArray[Any]]], object]
) -> Iterator[None]:
    """A context in which a shard is written; its pictures are there, flushed to the disk, from the beginning.

    shard     the shard's path; the caller holds the store's lock
    pictures  those of its rows; nothing is written where there are none
    write     makes a file of a header and arrays, as a shard's

    A row that is there has its picture, too, whenever a writer dies; what it may leave is a file of pictures without a shard,
    which readers ignore and ``remove_dead`` removes. Where the shard cannot be written its pictures are removed at once.
    """
    if not pictures:
        yield
        return
    root = shard.parent.parent
    if picture_file(root, shard.name) is None and not (root / PICTURES).exists():
        (root / PICTURES).mkdir()
        fsync_path(root)
    path = root / PICTURES / shard.name
    header, arrays = _table(pictures)
    write_new(path, lambda part: write(part, header, arrays))
    try:
        yield
    except BaseException:
        if not shard.exists():
            path.unlink(missing_ok=True)
        raise


def remove_dead(root: Path, shards: AbstractSet[str]) -> None:
    """Remove what writers that died left among the pictures of the store at ``root``, whose lock the caller must hold.

    shards  file names of all its shards
    """
    if (root / PICTURES).is_dir() and not (root / PICTURES).is_symlink():
        remove_leftovers(root / PICTURES)
        for path in orphans(root, list(shards)):
            path.unlink()


def _table(pictures: Mapping[bytes, EncodedPicture]) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """Header and arrays of a file of pictures."""
    encoded = list(pictures.values())
    vocabulary = sorted({picture.media_type for picture in encoded})
    digests = b"".join(hashlib.sha256(picture.data).digest() for picture in encoded)
    arrays: dict[str, NDArray[Any]] = {
        "picture/key": np.array(list(pictures)),
        "picture/offset": np.cumsum([0, *(len(picture.data) for picture in encoded)], dtype=np.int64),
        "picture/type": np.array([vocabulary.index(picture.media_type) for picture in encoded], np.uint8),
        "picture/sha256": np.frombuffer(digests, np.uint8).reshape(-1, 32),
        "picture/bytes": np.frombuffer(b"".join(picture.data for picture in encoded), np.uint8),
        "vocab/type": np.array([name.encode() for name in vocabulary]),
    }
    header = {"format": PICTURES_FORMAT, "version": PICTURES_VERSION, "pictures": len(encoded)}
    return json.dumps(header, sort_keys=True).encode(), arrays
