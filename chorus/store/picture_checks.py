"""Verification of the pictures that a store keeps."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from chorus.errors import StoreError
from chorus.picture_files import PictureError
from chorus.pictures import picture_header
from chorus.store.pictures import PICTURES, PictureFile, check_keys, picture_file
from chorus.store.schema import Problem, digest
from chorus.store.shard import Shard
from chorus.store.urls import Place, StoreUrl


def picture_problems(root: Place, beside: Mapping[str, Place | None], intact: Mapping[str, Shard]) -> Iterator[Problem]:
    """What is wrong with the pictures of the store at ``root``; all their bytes are read, none is decoded.

    beside  name of each of its shards -> for a store at a URL, the file of its pictures; files of pictures without a shard are
            not part of the store
    intact  name -> the shard, of those whose keys and sizes can be relied on

    Checked are the files' structure and digests, that each key is in the shard of the same name, the digest of each picture,
    and its format and its image's size by its header.
    """
    try:
        if isinstance(root, Path):
            picture_file(root, "")
    except StoreError as error:  # the folder itself: once, not for each shard
        yield Problem(PICTURES, "", str(error))
        return
    for name, at_url in beside.items():
        try:
            path = picture_file(root, name) if isinstance(root, Path) else at_url
            if path is None:
                continue
            file = PictureFile.read(path)
            if name in intact:
                check_keys(file, intact[name])
        except StoreError as error:
            yield Problem(f"{PICTURES}/{name}", "", str(error))
            continue
        yield from _content_problems(file, intact.get(name))


def _content_problems(file: PictureFile, shard: Shard | None) -> Iterator[Problem]:
    where, sizes = f"{PICTURES}/{file.path.name}", {}
    if shard is not None:
        sizes = dict(zip(shard.array("image/key").tolist(), shard.array("image/size").tolist(), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        path = file.path
        if isinstance(path, StoreUrl):
            local = Path(folder, "pictures.h5")
            try:
                with path.open() as source, local.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            except (StoreError, FileNotFoundError) as error:
                yield Problem(where, "", str(error))
                return
            path = local
        yield from _byte_problems(file, path, where, sizes)


def _byte_problems(file: PictureFile, path: Path, where: str, sizes: Mapping[bytes, list[int]]) -> Iterator[Problem]:
    for name, location in file.arrays.items():
        if not location.nbytes:
            continue
        array = np.memmap(path, location.dtype, "r", location.offset, location.shape)
        actual = digest(array)
        if actual != location.sha256:
            yield Problem(where, name, f"damaged: expected sha256 {location.sha256}, got {actual}")
    data = np.memmap(path, np.uint8, "r", file.arrays["picture/bytes"].offset, file.arrays["picture/bytes"].shape)
    for i, key in enumerate(file.keys.tolist()):
        encoded = data[file.offsets[i] : file.offsets[i + 1]].tobytes()
        if hashlib.sha256(encoded).digest() != file.digests[i].tobytes():
            yield Problem(where, "picture/bytes", f"damaged: the picture of {key!r} does not have the recorded sha256")
            continue
        try:
            kind, width, height = picture_header(io.BytesIO(encoded), name=f"picture of {key!r}")
        except PictureError as error:
            yield Problem(where, "picture/bytes", str(error))
            continue
        if f"image/{kind.lower()}" != file.types[i]:
            yield Problem(where, "picture/type", f"expected {file.types[i]} of {key!r}, got {kind}")
        expected = sizes.get(key, [0, 0])
        if any(expected) and {height, width} != set(expected):  # EXIF orientation may turn a picture
            what = f"expected height, width {expected} of {key!r}, as its row has, got {[height, width]}"
            yield Problem(where, "picture/bytes", what)
