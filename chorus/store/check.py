"""Verification of a store wherever it is."""

from __future__ import annotations

import os
from functools import partial

from chorus.errors import StoreError
from chorus.store.remote.checking import verify_remote
from chorus.store.remote.index import index_problems
from chorus.store.schema import Problem, read_store_json
from chorus.store.shard import Shard
from chorus.store.shard_files import shard_paths
from chorus.store.urls import StoreUrl, place_of
from chorus.store.verify import problems_of


def verify_store(path: str | os.PathLike[str]) -> list[Problem]:
    """Read everything in the store at ``path`` and list what is wrong with it; of one at a URL, past the cache.

    Checked are store.json, the structure of every shard, the digests of its arrays, keys (unique in the whole store),
    cameras and poses (finite, rotations, positive focal lengths), and every mask bit by bit: each block of the class that its
    pixels have, no bit set outside the box, at least one in each of the box's outermost rows and columns; and the pictures
    that are kept, as ``picture_problems`` says. Where there is an ``index.json``, the shards that it names must be there.
    Problems are returned, never raised.
    """
    root = place_of("path", path)
    if isinstance(root, StoreUrl):
        return verify_remote(root)
    try:
        header, _ = read_store_json(root)
        files = {file.name: partial(Shard.read, file) for file in shard_paths(root)}
    except StoreError as error:
        return [Problem("", "", str(error))]
    return [*problems_of(root, header, files, dict.fromkeys(files)), *index_problems(root)]
