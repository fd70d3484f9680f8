"""The image store: a folder of immutable HDF5 shards with masks, poses, cameras and scores (docs/store-format.md)."""

from chorus.store.info import store_info
from chorus.store.reader import Store, TableColumns, open_store
from chorus.store.schema import COMPLETE, FORMAT_VERSION, NO_SEED, Problem
from chorus.store.verify import verify_store
from chorus.store.writer import StoreWriter

__all__ = [
    "COMPLETE",
    "FORMAT_VERSION",
    "NO_SEED",
    "Problem",
    "Store",
    "StoreWriter",
    "TableColumns",
    "open_store",
    "store_info",
    "verify_store",
]
