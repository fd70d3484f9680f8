"""Stores that are not in a folder of this machine: s3://, gs://, https:// and zip files, read through fsspec (docs/stores.md).

A place is a ``pathlib.Path`` or a ``StoreUrl``, which has what readers need of a path: ``/``, ``name``, ``open``.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from chorus.errors import InputError, StoreError, check_path, is_url

_PIECE = 1 << 23  # bytes that are asked for at a time
_REMOTE = "the extra `remote` (pip install '.[remote]' in a checkout of the project)"
_GOOGLE = "the extra `gs` (pip install '.[gs]' in a checkout of the project)"

_opened: dict[tuple[int, str], tuple[Any, str]] = {}
_opening = threading.Lock()


class StoreUrl(os.PathLike[str]):
    """A place in a store at a URL, or in a zip file. Not changed, opens nothing until asked, can be pickled.

    shown    the URL, or the zip file's path, as the user gave it         inside  the path in it, with forward slashes
    """

    def __init__(self, shown: str, inside: str = "") -> None:
        self.shown, self.inside = shown.rstrip("/"), inside

    def __str__(self) -> str:
        return f"{self.shown}/{self.inside}" if self.inside else self.shown

    def __repr__(self) -> str:
        return f"StoreUrl({str(self)!r})"

    def __fspath__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreUrl) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> StoreUrl:
        return StoreUrl(self.shown, f"{self.inside}/{name}" if self.inside else name)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return str(self).rpartition("/")[2]

    @property
    def scheme(self) -> str:
        """As in "s3"; "zip" for a zip file."""
        return _url(self.shown).partition(":")[0].lower()

    def read_bytes(self) -> bytes:
        """The whole content of a small file. StoreError where it cannot be read, FileNotFoundError where it is not there."""
        with self._asked() as (system, path):
            return bytes(system.cat_file(path))

    def open(self, mode: str = "rb", block_size: int = 1 << 18) -> IO[bytes]:
        """The file, open for reading parts of it. Raises as ``read_bytes``."""
        with self._asked() as (system, path):
            return _Reading(system.open(path, mode, block_size=block_size), self)  # type: ignore[return-value]

    def size(self) -> int:
        """The number of bytes. Raises as ``read_bytes``."""
        with self._asked() as (system, path):
            return int(system.size(path))

    def files(self) -> dict[str, int]:
        """The files in this folder: name -> bytes; empty where there is none. StoreError where it cannot be listed."""
        try:
            with self._asked() as (system, path):
                system.invalidate_cache()
                entries = system.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        return {
            str(entry["name"]).rstrip("/").rpartition("/")[2]: int(entry["size"] or 0)
            for entry in entries
            if entry["type"] == "file"
        }

    def ranges(self) -> bool:
        """Whether parts of this file can be asked for, without what is before them."""
        if self.scheme == "zip":
            return False
        if not self.scheme.startswith("http"):
            return True
        with self._asked() as (system, path):
            return len(system.cat_file(path, start=0, end=8)) == 8

    def download(self, target: Path, start: int | None = None, end: int | None = None) -> None:
        """Write the file, or bytes ``start`` to ``end`` of it at their place, into a file of this machine that exists."""
        with self._asked() as (system, path):
            if start is None or end is None:
                system.get_file(path, str(target))
                return
        with target.open("r+b") as file:
            file.seek(start)
            for first in range(start, end, _PIECE):
                last = min(end, first + _PIECE)
                with self._asked() as (system, path):
                    data = system.cat_file(path, start=first, end=last)
                if len(data) != last - first:
                    raise StoreError(f"{self}: expected {last - first} bytes from {first} on, got {len(data)}")
                file.write(data)

    @contextmanager
    def _asked(self) -> Iterator[tuple[Any, str]]:
        """The file system and the path in it. What it raises becomes a StoreError, but for FileNotFoundError."""
        with self.errors():
            system, base = _file_system(self.shown)
            yield system, "/".join(part for part in (base.rstrip("/"), self.inside) if part)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """A context whose errors, of libraries of all kinds, become a StoreError with this place, but for FileNotFoundError."""
        try:
            yield
        except (StoreError, FileNotFoundError):
            raise
        except ImportError as error:
            needed = _GOOGLE if self.scheme in ("gs", "gcs") else _REMOTE
            raise StoreError(f"{self}: stores at URLs need {needed}: {error}") from None
        except Exception as error:
            if _is_refusal(error):
                raise StoreError(
                    f"{self}: expected to be let in, got {_text(error)}; credentials come from the environment as the "
                    "service's own tools have them (AWS_ACCESS_KEY_ID, ~/.aws, GOOGLE_APPLICATION_CREDENTIALS); "
                    "FSSPEC_S3_ANON=true is for public buckets"
                ) from None
            if getattr(error, "status", None) == 404:
                raise FileNotFoundError(str(self)) from None
            raise StoreError(f"{self}: expected a server that answers, got {_text(error)}") from None


class _Reading:
    """A file at a URL whose errors become StoreErrors."""

    def __init__(self, file: Any, place: StoreUrl) -> None:
        self._file, self._place = file, place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, count: int = -1) -> bytes:
        with self._place.errors():
            return bytes(self._file.read(count))

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(memoryview(buffer).cast("B")))
        memoryview(buffer).cast("B")[: len(data)] = data
        return len(data)


Place = Path | StoreUrl
"""Where a store, or a file of one, is."""


def place_of(name: str, value: Any) -> Place:
    """Where a store is: a path, or a StoreUrl for a URL or a zip file; InputError, beginning with ``name``, for neither.

    A URL that has been through ``pathlib.Path``, as in s3:/bucket/store, is understood, unless there is such a folder.
    """
    if isinstance(value, StoreUrl):
        return value
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if isinstance(text, str) and is_url(text):
        url = text if "://" in text else re.sub(r"(?<=[a-z0-9]):/(?!/)", "://", text)
        if url.lower().startswith("file://"):
            return place_of(name, url[len("file://") :])
        return StoreUrl(url)
    path = check_path(name, value)
    return StoreUrl(str(path)) if path.suffix.lower() == ".zip" and path.is_file() else path


def _url(shown: str) -> str:
    """The URL for fsspec of what a user gave."""
    if "://" not in shown:
        return f"zip://::file://{os.path.abspath(shown)}"
    scheme, _, rest = shown.partition("://")
    return f"zip://::file://{os.path.abspath(rest)}" if scheme.lower() == "zip" and "::" not in rest else shown


def _file_system(shown: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path of the store in it; one for each process, for all of its threads."""
    known = (os.getpid(), shown)
    with _opening:
        if known not in _opened:
            import fsspec.core

            try:
                system, base = fsspec.core.url_to_fs(_url(shown))
            except ValueError as error:
                if "rotocol" in str(error):  # "Protocol not known"
                    raise InputError(f"{shown}: expected a URL such as s3://, gs:// or https://, got {error}") from None
                raise
            if _url(shown).startswith("zip:"):
                base = _in_zip(system, base, shown)
            _opened[known] = system, str(base)
        return _opened[known]


def _in_zip(system: Any, base: str, shown: str) -> str:
    """The folder of the store in a zip file: what was asked for, the top, or the only folder there."""
    if system.exists(f"{base}/store.json".lstrip("/")):
        return base
    inner = list(system.glob("*/store.json" if not base else f"{base}/*/store.json"))
    if len(inner) != 1:
        raise StoreError(f"{shown}: expected a zip file with one store, got {len(inner)} of them")
    return str(inner[0]).rpartition("/")[0]


def _is_refusal(error: Exception) -> bool:
    kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
    return isinstance(error, PermissionError) or "Credential" in kinds or getattr(error, "status", None) in (401, 403)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no more is known'}"
