"""The file of a shard, or of pictures, from a header and arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from chorus import hdf5
from chorus.store.schema import ALIGNMENT, FORMAT_VERSION, SHARD_FORMAT, Header, digest, shard_digest

_PIECE = 1 << 16  # bytes of a file that are written at a time


def shard_header(header: Header, images: int, provenance: Mapping[str, Any]) -> bytes:
    """The header of a shard, as JSON."""
    fields = {
        "format": SHARD_FORMAT,
        "version": FORMAT_VERSION,
        "images": images,
        **header.fields(),
        "provenance": provenance,
    }
    return json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()


def write_bytes_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist."""
    # In small pieces: Linux keeps one large write as one large folio of its page cache, and maps all of it into the memory of
    # a reader that touches a single byte.
    with open(path, "xb", buffering=_PIECE) as file:
        for first in range(0, len(content), _PIECE):
            file.write(memoryview(content)[first : first + _PIECE])


def write_shard(path: Path, header: bytes, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write a shard to a path that must not exist."""
    digests = {name: digest(array) for name, array in arrays.items()}

    def fill(file: h5py.File) -> None:
        file.attrs["header"] = np.bytes_(header)
        file.attrs["sha256"] = np.bytes_(shard_digest(header, digests))
        for name, array in arrays.items():
            dataset = file.create_dataset(name, data=array, track_times=False)
            dataset.attrs["sha256"] = np.bytes_(digests[name])

    # Object headers of HDF5 1.8 and later carry checksums, so that damage to metadata is noticed as well.
    layout = {"libver": ("v108", "v108"), "alignment_threshold": 1, "alignment_interval": ALIGNMENT}
    write_bytes_new(path, hdf5.image(fill, **layout))
