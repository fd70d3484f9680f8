"""The image store: a folder of immutable HDF5 shards with masks, poses, cameras and scores (docs/store-format.md)."""

from chorus.store.check import verify_store
from chorus.store.info import store_info
from chorus.store.keeping import encode_picture
from chorus.store.opening import open_store
from chorus.store.pictures import EncodedPicture, StorePictures, UnknownPicture
from chorus.store.reader import Store, TableColumns
from chorus.store.schema import COMPLETE, FORMAT_VERSION, NO_SEED, Problem
from chorus.store.writer import StoreWriter

__all__ = [
    "COMPLETE",
    "FORMAT_VERSION",
    "NO_SEED",
    "EncodedPicture",
    "Problem",
    "Store",
    "StorePictures",
    "StoreWriter",
    "TableColumns",
    "UnknownPicture",
    "encode_picture",
    "open_store",
    "store_info",
    "verify_store",
]
