"""Verification of stores at URLs, past the cache: what the server has, not what was fetched from it some day."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from chorus.errors import StoreError
from chorus.files import cache_folder
from chorus.store.pictures import PICTURES
from chorus.store.remote.cache import ShardCache
from chorus.store.remote.index import entries_of
from chorus.store.remote.shards import WholeUrl, open_shard
from chorus.store.schema import STORE_JSON, Problem, read_store_json
from chorus.store.urls import StoreUrl
from chorus.store.verify import problems_of


def verify_remote(root: StoreUrl) -> list[Problem]:
    """``verify_store`` of a store at a URL: everything is fetched, shard by shard, and removed again."""
    try:
        header, _ = read_store_json(root)
        entries = entries_of(root)
        ranges = (root / STORE_JSON).ranges()
    except StoreError as error:
        return [Problem("", "", str(error))]
    above = cache_folder()
    above.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=above) as folder:
        # Room for the columns, which are compared across shards, and a shard; older ones go.
        cache = ShardCache(Path(folder), limit=1 << 30)
        files = {entry.name: partial(open_shard, root, entry, cache, ranges) for entry in entries}
        beside = {e.name: WholeUrl(root / PICTURES / e.name, cache) if e.pictures else None for e in entries}
        return problems_of(root, header, files, beside)
