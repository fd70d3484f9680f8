"""Stores as earlier versions wrote them, for comparisons and tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from chorus import hdf5
from chorus.kernels.masks import words_in_box
from chorus.store.schema import ALIGNMENT, STORE_JSON, digest, shard_digest
from chorus.store.shard import Shard
from chorus.store.shard_files import shard_paths
from chorus.store.verify import mask_groups


def to_version_1(path: Path) -> None:
    """Make a store of version 2 one of version 1, in place: masks with 8 words for every block, as version 0.1.0 wrote them."""
    for file in shard_paths(path):
        shard = Shard.read(file)
        arrays = {name: np.array(shard.array(name)) for name in shard.arrays}
        for group in mask_groups(shard):
            masks = shard.masks(np.arange(len(shard)), group)
            arrays[f"{group}/offset"] = np.concatenate([np.zeros(1, np.int64), np.cumsum(words_in_box(masks.box))])
            arrays[f"{group}/words"] = masks.words
        with h5py.File(file) as opened:
            header = {**json.loads(opened.attrs["header"]), "version": 1}
        text = json.dumps(header, ensure_ascii=False, sort_keys=True).encode()
        layout = {"libver": ("v108", "v108"), "alignment_threshold": 1, "alignment_interval": ALIGNMENT}
        file.write_bytes(hdf5.image(_fill(text, arrays), **layout))
    fields = json.loads((path / STORE_JSON).read_text())
    (path / STORE_JSON).write_text(json.dumps({**fields, "version": 1}))


def _fill(header: bytes, arrays: dict[str, Any]) -> Callable[[h5py.File], None]:
    def fill(file: h5py.File) -> None:
        digests = {name: digest(array) for name, array in arrays.items()}
        file.attrs["header"] = np.bytes_(header)
        file.attrs["sha256"] = np.bytes_(shard_digest(header, digests))
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False).attrs["sha256"] = np.bytes_(digests[name])

    return fill
