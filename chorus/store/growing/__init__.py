"""Stores made of stores: merged, selected, split, compacted. Rows keep their bits; shards taken whole keep their files."""

from chorus.store.growing.compacting import compact_store
from chorus.store.growing.making import Grown
from chorus.store.growing.merging import merge_stores, select_store, split_store

__all__ = ["Grown", "compact_store", "merge_stores", "select_store", "split_store"]
