"""Which body parts the object touches in which image (Eq. 13), computed once and kept beside the store.

The contacts of a shard are cached in ``<store>/contacts/<regions>/<shard>.npz``, named by the digests of the regions and of the
shard, so that a cached file is never out of date; for a store at a URL in the cache's folder (CHORUS_CACHE) instead of the
store's. Where that cannot be written, they are computed anew each time.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from chorus.errors import MismatchError
from chorus.field import CanonicalField
from chorus.files import cache_folder, warn_once, write_atomically
from chorus.images import ImageBatch, vote_images
from chorus.kernels.backends import Backend, choose_backend
from chorus.npz import read_npz
from chorus.store import Store
from chorus.store.remote.shards import fetched_ahead
from chorus.votes.parts import InteractionRegions

log = logging.getLogger(__name__)

FOLDER = "contacts"
"""Name of the cache's folder in a store."""


def regions_digest(regions: InteractionRegions) -> str:
    """Identity of the regions: sha256 in hexadecimal of the field's hash and the voxels' bits; names of parts are left out."""
    return hashlib.sha256(regions.field_hash.encode() + regions.bits.tobytes()).hexdigest()


def image_contacts(
    images: ImageBatch, field: CanonicalField, regions: InteractionRegions, backend: Backend | str = "auto"
) -> NDArray[np.int32]:
    """The interaction regions that each image's object touches (Eq. 13), (I,) int32, bit r for part r.

    A region is touched where one of its voxels, warped by the image's pose, projects onto the object's mask.

    Raises MismatchError for regions of another field or images of another body.
    """
    if regions.field_hash != field.hash:
        raise MismatchError(f"regions: expected those of field {field.hash[:12]}, got those of field {regions.field_hash[:12]}")
    if images.poses.shape[1] != field.body.num_joints:
        raise MismatchError(
            f"poses: expected the {field.body.num_joints} joints of the field's body, got {images.poses.shape[1]}"
        )
    chosen = choose_backend(backend) if isinstance(backend, str) else backend
    bits = chosen.touched_regions(field.arrays, torch.tensor(regions.bits), vote_images(images))
    contacts: NDArray[np.int32] = bits.cpu().numpy()
    return contacts


def store_contacts(
    store: Store,
    field: CanonicalField,
    regions: InteractionRegions,
    backend: str = "auto",
    *,
    rows: NDArray[np.int64] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.int32]:
    """The contacts of all rows of a store, (rows,) int32; 0 for rows without mask, pose and camera.

    rows  (m,) the rows that are asked for; those of shards that have none of them may be 0. None: all

    Shards computed before are read from the cache in the store's folder; new ones are added to it. ``progress`` is called with
    the number of images computed and of all to compute. Raises as ``image_contacts`` does.
    """
    folder = (store.path if isinstance(store.path, Path) else cache_folder()) / FOLDER / regions_digest(regions)[:24]
    known = [_load(_path(folder, shard.sha256), len(shard)) for shard in store.shards]
    usable = store.rows["has_camera"] if len(store) else np.zeros(0, np.bool_)
    first = np.concatenate([[0], np.cumsum([len(shard) for shard in store.shards])])
    asked = range(len(known)) if rows is None else np.unique(np.searchsorted(first, rows, "right") - 1).tolist()
    missing = [s for s in asked if known[s] is None]
    total = int(sum(usable[first[s] : first[s + 1]].sum() for s in missing))
    done = 0
    chosen = choose_backend(backend)
    for s, _ in zip(missing, fetched_ahead([store.shards[s] for s in missing]), strict=True):
        bits = np.zeros(len(store.shards[s]), np.int32)
        of_shard = first[s] + np.flatnonzero(usable[first[s] : first[s + 1]])
        at = 0
        for batch in store.batches(of_shard):
            bits[of_shard[at : at + len(batch)] - first[s]] = image_contacts(batch, field, regions, chosen)
            at += len(batch)
            done += len(batch)
            if progress is not None:
                progress(done, total)
        known[s] = bits
        _save(folder, store.shards[s].sha256, bits, regions)
    of_shards = [np.zeros(len(store.shards[s]), np.int32) if bits is None else bits for s, bits in enumerate(known)]
    return np.concatenate([np.zeros(0, np.int32), *of_shards])


def _path(folder: Path, shard: str) -> Path:
    return folder / f"{shard[:24]}.npz"


def _load(path: Path, count: int) -> NDArray[np.int32] | None:
    try:
        cached = read_npz(path)
        bits, digest = cached["bits"], str(cached["sha256"])
        if bits.shape != (count,) or bits.dtype != np.int32 or hashlib.sha256(bits.tobytes()).hexdigest() != digest:
            raise ValueError(f"expected ({count},) int32 that match their sha256")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # whatever is wrong with the file, its content can be computed again
        warn_once(log, f"read {path.parent}", f"contacts in {path} could not be read ({error}); they are computed anew")
        return None
    contacts: NDArray[np.int32] = bits
    return contacts


def _save(folder: Path, shard: str, bits: NDArray[np.int32], regions: InteractionRegions) -> None:
    facts = {"parts": list(regions.names), "epsilon": regions.epsilon, "field": regions.field_hash}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "regions.json", lambda part: part.write_text(json.dumps(facts, indent=1), encoding="utf-8"))
        digest = hashlib.sha256(bits.tobytes()).hexdigest()
        write_atomically(_path(folder, shard), lambda part: np.savez(part, bits=bits, sha256=np.array(digest)))
    except Exception as error:  # a full disk makes zipfile raise more than OSError
        warn_once(log, f"write {folder}", f"contacts are not cached in {folder} ({error}); each run computes them anew")
