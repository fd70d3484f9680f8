"""One shard of a store: the locations of its arrays in the file, and memory-mapped views of them."""

from __future__ import annotations

import math
import mmap
import shutil
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from chorus import hdf5
from chorus.errors import StoreError
from chorus.kernels.masks import PackedMasks
from chorus.store.schema import SHARD_FORMAT, Header, parse_header, shard_digest, spec_of
from chorus.store.urls import Place, StoreUrl


@dataclass(frozen=True)
class Location:
    """Where an array lies: ``offset`` bytes into the file (0 for one without elements), and its recorded sha256."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    sha256: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize  # of lengths whose product int64 cannot hold


@dataclass(eq=False)
class Shard:
    """A shard's header and the locations of its arrays. Keeps neither an open file nor an array in memory.

    path       the file
    version    of the format, which says how masks lie in their words
    header     what it shares with its store
    images     number of images, by the header
    provenance what it was written with
    arrays     name -> Location of every array, such as "mask/words"
    sha256     digest of the shard
    nbytes     size of the file
    """

    path: Place
    version: int
    header: Header
    images: int
    provenance: dict[str, Any]
    arrays: dict[str, Location]
    sha256: str
    nbytes: int
    _mapping: weakref.ref[mmap.mmap] | None = field(default=None, init=False, repr=False)

    at_url = False
    """Whether the shard is not in a folder of this machine; then what is fetched of it is checked as it arrives."""
    beside: StoreUrl | None = field(default=None, init=False, repr=False)
    """The file of its pictures, of a shard at a URL that has one."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapping": None}  # another process maps the file anew

    @classmethod
    def read(cls, path: Path) -> Shard:
        """Read the header and the locations of the arrays; the bytes of the arrays are not read.

        Raises StoreError, naming the shard and the array, for a file that is not a shard, of another version or cut short,
        for an array that cannot be memory-mapped or lacks its digest, and where the shard's digest is not that of its header
        and its arrays' digests.
        """
        nbytes = path.stat().st_size
        header, arrays, sha256 = read_index(path, nbytes, "a shard of a store")
        parsed, fields = parse_header(header, SHARD_FORMAT, str(path))
        images = fields.get("images")
        if type(images) is not int or images < 1:
            raise StoreError(f"{path}: images: expected a positive integer, got {images!r}")
        return cls(path, fields["version"], parsed, images, fields.get("provenance") or {}, arrays, sha256, nbytes)

    def __len__(self) -> int:
        return self.images

    def copy_to(self, path: Path) -> None:
        """Write a copy of the whole shard."""
        shutil.copyfile(self.path, path)

    def array(self, name: str) -> NDArray[Any]:
        """An array of the shard, memory-mapped and read-only.

        The mapping lives as long as one of its arrays does, so that a store of thousands of shards keeps no file open.
        """
        where = self.arrays[name]
        if where.nbytes == 0:
            return np.zeros(where.shape, where.dtype)
        count = int(np.prod(where.shape, dtype=np.int64))
        return np.frombuffer(self._map(name), where.dtype, count, where.offset).reshape(where.shape)

    def _map(self, name: str) -> mmap.mmap:
        """The file, or one with the array of this name at its place in it, memory-mapped."""
        mapping = None if self._mapping is None else self._mapping()
        if mapping is not None:
            return mapping
        try:
            with self.path.open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self.path}: expected the shard as when the store was opened, but it cannot be read: {error}"
            ) from None
        if len(mapping) != self.nbytes:
            raise StoreError(f"{self.path}: expected {self.nbytes} bytes as when opened, got {len(mapping)}")
        self._mapping = weakref.ref(mapping)
        return mapping

    def masks(self, rows: NDArray[np.int64], group: str = "mask") -> PackedMasks:
        """The masks of the object ("mask") or the person ("person_mask") in some rows, in the order given.

        Of version 1 the words are memory-mapped, from the first to the last of the rows; of version 2 they are expanded into
        memory. Raises StoreError for a mask whose words do not fit its classes.
        """
        size, box, offset = (self.array(name) for name in ("image/size", f"{group}/box", f"{group}/offset"))
        size, box, words = size[rows], box[rows], self.array(f"{group}/words")
        if self.version == 1:
            low, high = (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 0)
            return PackedMasks(size, box, offset[rows] - offset[low], words[int(offset[low]) : int(offset[high])])
        from chorus.store import sparse

        masks, wrong = sparse.decode(size, box, offset[rows], offset[rows + 1], words)
        if wrong >= 0:
            raise StoreError(
                f"{self.path}: {group}/words: expected words that fit the classes of the mask's blocks, "
                f"not so in row {rows[wrong]}; `chorus store verify` tells more"
            )
        return masks

    def vocabulary(self, column: str) -> NDArray[np.str_]:
        """The strings that the codes of a column ("prompt", "view", "estimator", "status") stand for."""
        strings: NDArray[np.str_] = np.char.decode(self.array(f"vocab/{column}"), "utf-8")
        return strings

    def trailing_shapes(self) -> dict[str, tuple[int, ...]]:
        """Betas and scores: array -> its shape without the first axis, which must agree among the shards of a store."""
        return {
            name: where.shape[1:] for name, where in self.arrays.items() if name == "pose/betas" or name.startswith("score/")
        }

    def has_camera(self) -> NDArray[np.bool_]:
        """(n,) bool: rows that have a mask, a pose and a camera; the rest are images rejected before that."""
        has_camera: NDArray[np.bool_] = ~np.isnan(self.array("camera/R")[:, 0, 0])
        return has_camera


def recorded_digest(path: Place) -> str:
    """The digest that a shard's file records; whether it is that of its arrays is not looked at.

    Raises StoreError for a file that is not a shard, FileNotFoundError for a URL where nothing is.
    """
    with hdf5.reading(path, "a shard of a store", StoreError) as file:
        recorded = _text(file, "sha256", str(path))
    if len(recorded) != 64 or not recorded.isalnum():
        raise StoreError(f"{path}: expected a sha256 of 64 digits, got {recorded!r}")
    return recorded.decode()


def read_index(path: Place, nbytes: int, what: str) -> tuple[bytes, dict[str, Location], str]:
    """Header, locations of the arrays, and digest of a file as shards are; ``nbytes`` is its size, ``what`` it should be.

    Raises StoreError as ``Shard.read`` does; what the header says is not looked at.
    """
    arrays: dict[str, Location] = {}

    def visit(name: str, item: Any) -> None:  # follows hard links only: nothing outside this file
        if isinstance(item, h5py.Dataset):
            arrays[name] = where = _locate(item, f"{path}: {name}", nbytes)
            ours = spec_of(name, item.ndim) is not None or name.startswith("picture/")  # of others nobody asks for alignment
            alignment = 1 if where.dtype.kind == "S" else where.dtype.itemsize
            if ours and where.offset % alignment:
                raise StoreError(f"{path}: {name}: expected an offset that is a multiple of {alignment}, got {where.offset}")

    with hdf5.reading(path, what, StoreError) as file:
        header = _text(file, "header", str(path))
        recorded = _text(file, "sha256", str(path)).decode("ascii", "replace")
        file.visititems(visit)
    actual = shard_digest(header, {name: array.sha256 for name, array in arrays.items()})
    if actual != recorded:
        raise StoreError(
            f"{path}: sha256: expected {recorded}, as it records, got {actual} from its header and its arrays' digests"
        )
    return header, arrays, actual


def _text(item: Any, name: str, where: str) -> bytes:
    value = hdf5.attribute(item, name, fixed=True)
    if not isinstance(value, bytes):
        raise StoreError(f"{where}: expected an attribute {name!r} of fixed-length text, got {value!r}")
    return bytes(value)


def _locate(dataset: Any, where: str, file_size: int) -> Location:
    created = dataset.id.get_create_plist()
    if created.get_layout() != h5py.h5d.CONTIGUOUS or created.get_external_count():
        raise StoreError(f"{where}: expected a contiguous, uncompressed array in the file itself")
    dtype = np.dtype(dataset.dtype)
    if dtype.hasobject or dtype.fields is not None or not isinstance(dataset.shape, tuple):
        raise StoreError(f"{where}: expected an array of numbers or fixed-width bytes, got {dtype}")
    location = Location(dtype, dataset.shape, dataset.id.get_offset() or 0, _text(dataset, "sha256", where).decode())
    if location.nbytes and location.offset == 0:
        raise StoreError(f"{where}: expected {location.nbytes} bytes in the file, got none")
    if location.offset + location.nbytes > file_size:
        raise StoreError(
            f"{where}: expected bytes {location.offset} to {location.offset + location.nbytes}, "
            f"but the file is truncated at {file_size}"
        )
    return location
