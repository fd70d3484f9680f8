"""Contents and size of a store, in numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from chorus.store.opening import open_store
from chorus.store.schema import CODED, STORE_JSON


def store_info(path: str | Path) -> dict[str, Any]:
    """Contents and size of the store at ``path`` as a dictionary for JSON; digests are not checked.

    path, version, category, num_joints, body_hash, person_masks, id, provenance   of the store
    software         version of this software -> shards written with it
    shard_versions   version of the format -> shards of it
    images           rows in all          by_status, by_prompt, by_view   rows of each
    complete_by_prompt  those of each prompt that are complete, and so can vote
    shards           shards in all        bytes                           size of all files but pictures
    pictures         how many are kept, of which kinds, in how many files and bytes (``StorePictures.facts``)
    bytes_per_image  mean over all rows of: masks (words, boxes, offsets), person_masks, poses, cameras, scores, rest
                     (keys, codes, vocabularies, HDF5 metadata), and total

    Raises StoreError where the store's structure is damaged.
    """
    store = open_store(path, verify=False)
    counts: dict[str, Counter[str]] = {column: Counter() for column in CODED}
    parts: Counter[str] = Counter()
    software: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    complete: Counter[str] = Counter()
    groups = {"mask": "masks", "person_mask": "person_masks", "pose": "poses", "camera": "cameras", "score": "scores"}
    for shard in store.shards:
        software[str(shard.provenance.get("software"))] += 1
        versions[str(shard.version)] += 1
        for column, array in CODED.items():
            names = shard.vocabulary(column).tolist()
            numbers = np.bincount(shard.array(array), minlength=len(names)).tolist()
            counts[column].update({name: number for name, number in zip(names, numbers, strict=True) if number})
        can_vote = shard.array(CODED["prompt"])[shard.array(CODED["status"]) == 0]  # the code of COMPLETE
        names = shard.vocabulary("prompt").tolist()
        complete.update({n: int(c) for n, c in zip(names, np.bincount(can_vote, minlength=len(names)), strict=True) if c})
        parts["total"] += shard.nbytes
        for name, where in shard.arrays.items():
            group = groups.get(name.partition("/")[0])
            if group:
                parts[group] += where.nbytes
    kinds = (*groups.values(), "rest", "total")
    parts["rest"] = parts["total"] - sum(parts[group] for group in groups.values())
    n = len(store)
    return {
        "path": str(store.path),
        "version": store.version,
        "category": store.category,
        "num_joints": store.num_joints,
        "body_hash": store.body_hash,
        "person_masks": store.has_person_masks,
        "id": store.id,
        "provenance": store.provenance,
        "software": dict(software),
        "shard_versions": dict(versions),
        "images": n,
        "by_status": dict(counts["status"].most_common()),
        "by_prompt": dict(counts["prompt"].most_common()),
        "complete_by_prompt": dict(complete.most_common()),
        "by_view": dict(counts["view"].most_common()),
        "shards": len(store.shards),
        "bytes": parts["total"] + len((store.path / STORE_JSON).read_bytes()),
        "pictures": store.pictures.facts(),
        "bytes_per_image": {kind: round(parts[kind] / n, 1) if n else 0.0 for kind in kinds},
    }
