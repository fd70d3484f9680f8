"""Opening stores: their shards found, read and checked."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chorus.store.reader import Store
from chorus.store.remote.cache import ShardCache
from chorus.store.remote.shards import open_shards
from chorus.store.schema import read_store_json
from chorus.store.shard import Shard, recorded_digest
from chorus.store.shard_files import shard_paths
from chorus.store.urls import StoreUrl, place_of
from chorus.store.verify import content_problems, duplicate_keys, ragged_columns, raise_first, structure_problems


def open_store(path: str | os.PathLike[str], *, verify: bool = True) -> Store:
    """Open the store at ``path`` for reading, with the shards that it has now.

    path  a folder, a zip file with one, or a URL (s3://, gs://, https://), of which what is read comes through a cache of
          bounded size (docs/stores.md)

    Versions and structure (types, shapes, offsets, boxes, codes) are always checked, from the small arrays. With
    ``verify`` every byte is read once and compared with the digests, and cameras, poses and keys are checked; of a store at
    a URL all but the masks, which are compared as they arrive, whether ``verify`` or not.

    Raises StoreError that names the shard and the array of the first problem. ``verify_store`` lists all.
    """
    return open_rest(path, frozenset(), verify=verify)[0]


def open_rest(path: str | os.PathLike[str], known: Collection[str], *, verify: bool = True) -> tuple[Store, frozenset[str]]:
    """``open_store`` without the shards whose digests are among ``known``, and the digests of those that were left out.

    Of these nothing is read but the digest that each records: what is a thirtieth of the time.
    """
    root = place_of("path", path)
    header, fields = read_store_json(root)

    def checked(shard: Shard | str) -> Shard | str:
        if isinstance(shard, str):
            return shard
        held = shard.array("image/key") if shard.at_url else None  # the columns stay in the cache for so long
        raise_first(structure_problems(shard, header), root)
        if verify or shard.at_url:
            raise_first(content_problems(shard, masks=not shard.at_url), root)
        del held
        return shard

    def read(file: Path) -> Shard | str:
        if known and (digest := recorded_digest(file)) in known:
            return digest
        return checked(Shard.read(file))

    with ThreadPoolExecutor() as pool:  # hashing releases Python's lock
        if isinstance(root, StoreUrl):
            found = list(pool.map(checked, open_shards(root, ShardCache(), known)))
        else:
            found = list(pool.map(read, shard_paths(root)))
    shards = [shard for shard in found if isinstance(shard, Shard)]
    raise_first(ragged_columns(shards), root)
    if verify:
        raise_first(duplicate_keys(shards), root)
    return Store(root, header, fields, shards), frozenset(digest for digest in found if isinstance(digest, str))
