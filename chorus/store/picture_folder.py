"""Pictures as files of a folder: names for keys of any kind, and the folder ``images`` that stores had before ``pictures``."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from chorus.files import write_atomically
from chorus.names import digest, file_stem

IMAGES = "images"
"""The folder of JPEGs in stores that were made before pictures were kept beside the shards."""
ENDING = ".jpg"
"""The ending of each file in it."""

_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9_.-]{0,198}[a-z0-9_-])?")
"""Names that every file system takes as they are; with an ending and while they are written, too."""


def picture_name(key: str, ending: str = ENDING) -> PurePosixPath:
    """The path, inside a folder of pictures, of the file for an image: its key and ``ending``.

    A key may be the path of a file with any name, so each of its parts that some file system would not take, would hide or
    would not tell from another one is written as its letters and digits and a part of its SHA-256: different keys have
    different paths also where case is ignored, and none leads out of the folder.
    """
    *folders, name = key.split("/")
    # A folder's name with a dot could be that of another key's picture.
    return PurePosixPath(*(_safe(folder, dots=False) for folder in folders), f"{_safe(name)}{ending}")


def _safe(name: str, dots: bool = True) -> str:
    """A name as it is where every file system takes it so, else a ``file_stem`` with a digest."""
    first, dot, _ = name.partition(".")
    reserved = file_stem(first) == f"{first}-file"  # as "con" is on Windows, with any ending
    if _PLAIN.fullmatch(name) and not reserved and (dots or not dot):
        return name
    return f"{file_stem(name)}-{digest(name)[:16]}"


def write_picture(folder: Path, key: str, ending: str, data: bytes) -> str:
    """Write the bytes of a picture into a folder, whole or not at all. Returns its ``picture_name``."""
    name = picture_name(key, ending)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda part: part.write_bytes(data))
    return str(name)


def files_in_folder(root: Path) -> dict[str, int]:
    """The files in the folder ``images`` of the store at ``root``: path inside it, with forward slashes -> bytes.

    Links are left out, of folders as well: a store never reaches outside its own. Empty where there is no such folder.
    """
    found: dict[str, int] = {}
    waiting = [(root / IMAGES, "")]
    while waiting:
        folder, prefix = waiting.pop()
        if folder.is_symlink() or not folder.is_dir():
            continue
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((folder / entry.name, f"{prefix}{entry.name}/"))
                elif entry.name.endswith(ENDING) and entry.is_file(follow_symlinks=False):
                    found[prefix + entry.name] = entry.stat(follow_symlinks=False).st_size
    return found
