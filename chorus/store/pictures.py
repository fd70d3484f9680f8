"""Reading the pictures that a store keeps: pictures/NAME.h5 beside the shard of that name (docs/store-format.md, Pictures)."""

from __future__ import annotations

import hashlib
import io
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, StoreError
from chorus.picture_files import PictureError
from chorus.pictures import read_picture
from chorus.store.picture_folder import ENDING, IMAGES, files_in_folder, picture_name, write_picture
from chorus.store.schema import SHARD_SUFFIX, Spec, digest, header_fields, is_plain
from chorus.store.shard import Location, Shard, read_index
from chorus.store.urls import Place, StoreUrl

PICTURES = "pictures"
"""The folder in a store that holds the files of pictures."""
PICTURES_FORMAT = "chorus-pictures"
PICTURES_VERSION = 1
"""Version of these files that this library writes and the only one it reads."""

MEDIA_TYPES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}
"""The kinds of pictures that are kept -> ending of the name of such a file."""

ARRAYS: dict[str, Spec] = {
    "picture/key": Spec("S", ("m",)),
    "picture/offset": Spec("<i8", ("m+1",)),
    "picture/type": Spec("|u1", ("m",)),
    "picture/sha256": Spec("|u1", ("m", 32)),
    "picture/bytes": Spec("|u1", ("total",)),
    "vocab/type": Spec("S", ("types",)),
}
"""The arrays of a file of m pictures."""

_INDEX = tuple(name for name in ARRAYS if name != "picture/bytes")


class UnknownPicture(InputError, KeyError):
    """A picture that a store does not keep."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as it is stored.

    media_type  one of ``MEDIA_TYPES``, as in "image/jpeg"      data  the bytes of such a file
    """

    media_type: str
    data: bytes

    @property
    def ending(self) -> str:
        """The ending of the name of such a file, as in ".jpg"."""
        return MEDIA_TYPES[self.media_type]


@dataclass(frozen=True, eq=False)
class PictureFile:
    """One file of m pictures: all but their bytes, in memory. Keeps no file open.

    path       the file                              nbytes   its size
    arrays     name -> Location                      keys     (m,) bytes
    offsets    (m + 1,) int64, into the bytes of all pictures
    types      media type of each                    digests  (m, 32) uint8, sha256 of each
    """

    path: Place
    nbytes: int
    arrays: dict[str, Location]
    keys: NDArray[np.bytes_]
    offsets: NDArray[np.int64]
    types: tuple[str, ...]
    digests: NDArray[np.uint8]

    @classmethod
    def read(cls, path: Place) -> PictureFile:
        """Read all but the pictures' bytes.

        Raises StoreError, naming the file and the array, for a file of another kind or version, cut short or damaged, and for
        arrays of other types or shapes, keys that are empty or there twice, offsets that do not increase from 0 to the end,
        and unknown media types.
        """
        if isinstance(path, StoreUrl):
            try:
                nbytes = path.size()
            except FileNotFoundError:
                raise StoreError(f"{path}: expected a file of a store's pictures, got nothing") from None
        else:
            if not is_plain(path, stat.S_ISREG):
                raise StoreError(f"{path}: expected a regular file, got a link or a folder")
            nbytes = path.stat().st_size
        header, arrays, _ = read_index(path, nbytes, "a file of a store's pictures")
        _check_shapes(path, _count(path, header), arrays, nbytes)
        index = {name: _read_array(path, name, arrays[name]) for name in _INDEX}
        types = _check_index(path, index, arrays["picture/bytes"].shape[0])
        return cls(path, nbytes, arrays, index["picture/key"], index["picture/offset"], types, index["picture/sha256"])

    def __len__(self) -> int:
        return len(self.keys)

    def encoded(self, index: int) -> EncodedPicture:
        """The picture of number ``index``. StoreError where its bytes cannot be read or do not have the recorded digest."""
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        data = _read_bytes(self.path, self.arrays["picture/bytes"].offset + start, end - start)
        if hashlib.sha256(data).digest() != self.digests[index].tobytes():
            raise StoreError(
                f"{self.path}: picture of {bytes(self.keys[index])!r}: damaged; its bytes do not have the recorded sha256"
            )
        return EncodedPicture(self.types[index], data)


def picture_file(root: Path, name: str) -> Path | None:
    """The path of the pictures of the shard with this file name, in the store at ``root``; None where it has none.

    StoreError where the folder ``pictures`` is a link, which could lead outside the store, or a file.
    """
    folder = root / PICTURES
    if not is_plain(folder, stat.S_ISDIR):
        if folder.exists() or folder.is_symlink():
            raise StoreError(f"{folder}: expected a folder (not a link) with the store's pictures, got a link or a file")
        return None
    path = folder / name
    return path if path.exists() or path.is_symlink() else None


def orphans(root: Path, shards: Sequence[str]) -> list[Path]:
    """Files of pictures without a shard of their name: left by a writer that died, or of a shard that was removed."""
    folder = root / PICTURES
    if not is_plain(folder, stat.S_ISDIR):
        return []
    known = set(shards)
    found = (path for path in folder.iterdir() if path.name.endswith(SHARD_SUFFIX) and path.name not in known)
    return sorted(path for path in found if not is_plain(path, stat.S_ISDIR))


class StorePictures(Mapping[bytes, NDArray[np.uint8]]):
    """The pictures that a store keeps, by key: (H, W, 3) uint8 RGB each, read and decoded when asked for.

    Keys are those of ``store.rows["key"]``, bytes; they may be given as texts. Iterating gives those that have a picture, in
    the order of the shards. Found are the files ``pictures/*.h5``, and, in a folder, the JPEGs in ``images`` of older stores.
    """

    def __init__(self, root: Place, shards: Sequence[Shard], columns: Mapping[str, NDArray[Any]]) -> None:
        self._root, self._shards, self._columns = root, shards, columns
        self._first = np.concatenate([[0], np.cumsum([len(s) for s in shards], dtype=np.int64)])
        self._files: dict[int, PictureFile | None] = {}

    def __len__(self) -> int:
        """The number of pictures."""
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[bytes]:
        for number, shard in enumerate(self._shards):
            file = self._file(number)
            kept = [] if file is None else file.keys.tolist()
            yield from kept
            if self._folder:
                known = set(kept)
                yield from (key for key in shard.array("image/key").tolist() if key not in known and self._in_folder(key))

    def __contains__(self, key: object) -> bool:
        """Whether the picture of an image is kept; False for keys that the store does not have."""
        return (
            isinstance(key, (str, bytes)) and (row := self.row(key)) is not None and self._place(_bytes(key), row) is not None
        )

    def __getitem__(self, key: str | bytes) -> NDArray[np.uint8]:
        """A picture. UnknownPicture (an InputError and a KeyError) where it is not kept, StoreError where it is damaged."""
        return self._decoded(key, self.encoded(key))

    def row(self, key: str | bytes) -> int | None:
        """The row of the store that has a key, None where none has."""
        wanted = _bytes(key)
        keys = self._columns["key"]
        if not wanted or len(wanted) > keys.dtype.itemsize or wanted.endswith(b"\0"):  # which numpy ignores
            return None
        at = int(np.searchsorted(keys, np.bytes_(wanted), sorter=self._order))
        return int(self._order[at]) if at < len(keys) and keys[self._order[at]] == wanted else None

    def encoded(self, key: str | bytes) -> EncodedPicture:
        """A picture as it is stored; its digest is checked, its bytes are not looked at. Raises as indexing does."""
        row = self.row(key)
        if row is None:
            raise UnknownPicture(f"key: expected one of the store's {len(self._columns['key'])} keys, got {key!r}")
        place = self._place(_bytes(key), row)
        if place is None:
            raise UnknownPicture(f"key: expected an image whose picture is kept in {self._root}, got {key!r}")
        if isinstance(place, Path):
            try:
                return EncodedPicture("image/jpeg", place.read_bytes())
            except OSError as error:
                raise StoreError(f"{place}: expected a picture that can be read: {error.strerror or error}") from None
        file, index = place
        return file.encoded(index)

    def find(self, key: str | bytes) -> NDArray[np.uint8] | None:
        """A picture, None where it is not kept. InputError for a key that the store does not have."""
        row = self.row(key)
        if row is not None and self._place(_bytes(key), row) is None:
            return None
        return self[key]

    def write(
        self, folder: Path, keys: Iterable[str | bytes], progress: Callable[[int], object] | None = None
    ) -> dict[str, str]:
        """Write pictures as files, byte for byte as they are stored. Returns key -> path inside the folder.

        folder    is made where it does not exist        progress  called with the number of files after each

        Files are named by ``picture_name``; those that exist are replaced. Raises as ``encoded`` does.
        """
        files: dict[str, str] = {}
        for key in keys:
            encoded, name = self.encoded(key), text_of(_bytes(key))
            files[name] = write_picture(folder, name, encoded.ending, encoded.data)
            if progress is not None:
                progress(len(files))
        return files

    def facts(self) -> dict[str, Any]:
        """How many pictures are ``kept``, how many of each of ``media_types``, in how many ``files`` and ``bytes``; and
        ``orphans``, files of pictures without a shard. JPEGs in the folder of an older store are files of their own."""
        media: Counter[str] = Counter()
        files = size = 0
        for number, shard in enumerate(self._shards):
            file = self._file(number)
            known: set[bytes] = set()
            if file is not None:
                media.update(file.types)
                files, size, known = files + 1, size + file.nbytes, set(file.keys.tolist())
            for key in shard.array("image/key").tolist() if self._folder else ():
                nbytes = self._folder.get(_name_in_folder(key))
                if nbytes is not None and key not in known:
                    media["image/jpeg"] += 1
                    files, size = files + 1, size + nbytes
        left = orphans(self._root, [s.path.name for s in self._shards]) if isinstance(self._root, Path) else []
        return {"kept": media.total(), "media_types": dict(media), "files": files, "bytes": size, "orphans": len(left)}

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        return np.argsort(self._columns["key"], kind="stable")

    @cached_property
    def _folder(self) -> dict[str, int]:
        return files_in_folder(self._root) if isinstance(self._root, Path) else {}

    def _in_folder(self, key: bytes) -> bool:
        return _name_in_folder(key) in self._folder

    def _file(self, number: int) -> PictureFile | None:
        """The pictures of a shard, with keys that are the shard's; None where it has none."""
        if number not in self._files:
            shard = self._shards[number]
            path = picture_file(self._root, shard.path.name) if isinstance(self._root, Path) else shard.beside
            file = None if path is None else PictureFile.read(path)
            if file is not None:
                check_keys(file, shard)
            self._files[number] = file
        return self._files[number]

    def _place(self, key: bytes, row: int) -> tuple[PictureFile, int] | Path | None:
        """Where the picture of a row is: a file of pictures and its number there, or the path of a JPEG."""
        file = self._file(int(np.searchsorted(self._first, row, "right")) - 1)
        if file is not None:
            found = np.flatnonzero(file.keys == key)
            if found.size:
                return file, int(found[0])
        in_folder = isinstance(self._root, Path) and self._in_folder(key)
        return Path(self._root) / IMAGES / _name_in_folder(key) if in_folder else None

    def _decoded(self, key: str | bytes, encoded: EncodedPicture) -> NDArray[np.uint8]:
        row = self.row(key)
        height, width = (int(length) for length in self._columns["size"][row])
        try:
            return read_picture(io.BytesIO(encoded.data), name="picture", size=(height, width) if height else None)
        except PictureError as error:
            raise StoreError(f"{self._root}: picture of {_bytes(key)!r}: {error}") from None


def check_keys(file: PictureFile, shard: Shard) -> None:
    """StoreError for a picture whose key is not in the shard that the file stands beside."""
    foreign = np.flatnonzero(~np.isin(file.keys, shard.array("image/key")))
    if foreign.size:
        key = bytes(file.keys[foreign[0]])
        raise StoreError(f"{file.path}: picture/key: expected keys of the shard {shard.path.name}, got {key!r}")


def _bytes(key: str | bytes) -> bytes:
    if not isinstance(key, (str, bytes)):
        raise InputError(f"key: expected a text or bytes, got a {type(key).__name__}")
    return key.encode("utf-8", "surrogateescape") if isinstance(key, str) else bytes(key)


def text_of(key: bytes) -> str:
    """A key as a text; bytes that are no UTF-8, which a damaged store may have, become lone surrogates."""
    return key.decode("utf-8", "surrogateescape")


def _name_in_folder(key: bytes) -> str:
    return str(picture_name(text_of(key), ENDING))


def _count(path: Place, header: bytes) -> int:
    """The number of pictures that a header states."""
    count = header_fields(header, PICTURES_FORMAT, (PICTURES_VERSION,), f"{path}: header").get("pictures")
    if type(count) is not int or count < 1:
        raise StoreError(f"{path}: pictures: expected a positive integer, got {count!r}")
    return count


def _check_shapes(path: Place, count: int, arrays: Mapping[str, Location], nbytes: int) -> None:
    lengths: dict[int | str, int] = {"m": count, "m+1": count + 1}
    for name, spec in ARRAYS.items():
        have = arrays.get(name)
        if have is None:
            raise StoreError(f"{path}: {name}: expected in every file of pictures, but missing")
        if have.dtype.kind != "S" if spec.dtype == "S" else have.dtype != np.dtype(spec.dtype):
            raise StoreError(f"{path}: {name}: expected dtype {spec.dtype}, got {have.dtype.str}")
        shape = tuple(lengths.get(length, length) for length in spec.shape)
        wrong = any(want != got for want, got in zip(shape, have.shape, strict=False) if isinstance(want, int))
        if len(shape) != len(have.shape) or wrong:
            raise StoreError(f"{path}: {name}: expected shape {shape}, got {have.shape}")
        if max(have.shape) > nbytes:  # products of such lengths overflow
            raise StoreError(f"{path}: {name}: expected no more elements than the file has bytes, got shape {have.shape}")


def _check_index(path: Place, index: Mapping[str, NDArray[Any]], total: int) -> tuple[str, ...]:
    """The media type of each picture; StoreError for arrays that contradict each other."""
    keys, offsets, codes = index["picture/key"], index["picture/offset"], index["picture/type"]
    if (keys == b"").any() or len(np.unique(keys)) < len(keys):
        raise StoreError(f"{path}: picture/key: expected different names, got an empty one or one twice")
    if offsets[0] != 0 or offsets[-1] != total or (offsets[1:] <= offsets[:-1]).any():
        raise StoreError(f"{path}: picture/offset: expected numbers that increase from 0 to {total}, the bytes of all pictures")
    names = [bytes(name).decode("ascii", "replace") for name in index["vocab/type"].tolist()]
    for name in names:
        if name not in MEDIA_TYPES:
            raise StoreError(f"{path}: vocab/type: expected media types among {', '.join(MEDIA_TYPES)}; got {name!r}")
    if codes.max() >= len(names):
        raise StoreError(f"{path}: picture/type: expected codes from 0 to {len(names) - 1}, got {codes.max()}")
    return tuple(names[code] for code in codes.tolist())


def _read_array(path: Place, name: str, where: Location) -> NDArray[Any]:
    if not where.nbytes:
        return np.zeros(where.shape, where.dtype)
    array = np.frombuffer(_read_bytes(path, where.offset, where.nbytes), where.dtype).reshape(where.shape)
    if digest(array) != where.sha256:
        raise StoreError(f"{path}: {name}: damaged; its bytes do not have the recorded sha256")
    return array


def _read_bytes(path: Place, offset: int, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(count)
    except OSError as error:
        raise StoreError(f"{path}: expected the file as when it was opened, but it cannot be read: {error}") from None
    if len(data) != count:
        raise StoreError(f"{path}: expected {count} bytes from {offset} on, got {len(data)}: the file is truncated")
    return data
