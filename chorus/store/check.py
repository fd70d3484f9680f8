"""Verification of a store wherever it is."""

from __future__ import annotations

import os
from functools import partial

from chorus.errors import InputError, StoreError
from chorus.ranks import Share, share_by_size
from chorus.store.remote.checking import verify_remote
from chorus.store.remote.index import index_problems
from chorus.store.schema import Problem, read_store_json
from chorus.store.shard import Shard
from chorus.store.shard_files import shard_paths
from chorus.store.urls import StoreUrl, place_of
from chorus.store.verify import problems_of


def verify_store(path: str | os.PathLike[str], share: Share | None = None) -> list[Problem]:
    """Read everything in the store at ``path`` and list what is wrong with it; of one at a URL, past the cache.

    share  of the shards, whose bytes are read; the first one also looks at what concerns several shards, and at pictures.
           Only of stores in folders; None: all

    Checked are store.json, the structure of every shard, the digests of its arrays, keys (unique in the whole store),
    cameras and poses (finite, rotations, positive focal lengths), and every mask bit by bit: each block of the class that its
    pixels have, no bit set outside the box, at least one in each of the box's outermost rows and columns; and the pictures
    that are kept, as ``picture_problems`` says. Where there is an ``index.json``, the shards that it names must be there.
    Problems are returned, never raised.
    """
    root = place_of("path", path)
    if isinstance(root, StoreUrl):
        if share is not None and not share.whole:
            raise InputError(f"share: expected all of a store at a URL, or a store in a folder, got share {share} of {root}")
        return verify_remote(root)
    try:
        header, _ = read_store_json(root)
        paths = shard_paths(root)
        files = {file.name: partial(Shard.read, file) for file in paths}
        mine = None if share is None else [paths[i].name for i in share_by_size([p.stat().st_size for p in paths], share)]
    except StoreError as error:
        return [Problem("", "", str(error))]
    beyond = index_problems(root) if share is None or share.number == 1 else []
    return [*problems_of(root, header, files, dict.fromkeys(files), mine), *beyond]
