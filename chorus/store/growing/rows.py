"""Rows of shards as a writer takes them, the pictures kept of them, and what new shards say of where they are from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import StoreError
from chorus.store.pictures import EncodedPicture
from chorus.store.reader import Store
from chorus.store.schema import CODED, DATASETS
from chorus.store.shard import Shard
from chorus.store.table import Rows, compacted
from chorus.store.verify import content_problems, raise_first

_PLAIN = tuple(
    name for name in DATASETS if name not in CODED.values() and name.partition("/")[0] not in ("mask", "person_mask", "vocab")
)
_MOST_PROVENANCE = 1 << 14  # bytes; HDF5 keeps an attribute of up to 64 KiB


def rows_of_shard(shard: Shard, rows: NDArray[np.int64]) -> Rows:
    """Some rows of a shard, (m,) int64 numbers in it, as copies; arrays that the format does not define are left out."""
    names = [name for name in shard.arrays if name in _PLAIN or name.startswith("score/")]
    person = shard.masks(rows, "person_mask") if shard.header.person_masks else None
    return Rows(
        {name: np.array(shard.array(name)[rows]) for name in names},
        {column: shard.vocabulary(column)[shard.array(array)[rows]] for column, array in CODED.items()},
        compacted("mask", shard.masks(rows)),
        None if person is None else compacted("person_mask", person),
    )


def check_intact(store: Store, shard: Shard) -> None:
    """StoreError where a shard is damaged: rows copied into a new one get new digests, which would hide that."""
    raise_first(content_problems(shard), store.path)


def kept_pictures(store: Store, keys: Iterable[bytes]) -> list[EncodedPicture | None]:
    """The pictures that a store keeps of these rows, None where it keeps none. StoreError for a damaged one."""
    pictures = store.pictures
    return [pictures.encoded(key) if key in pictures else None for key in keys]


def origin(operation: str, stores: Sequence[Store], **facts: Any) -> dict[str, Any]:
    """Provenance for new shards: the operation, the stores, and the different provenances of their shards, as far as they fit.

    stores  opened     facts  of the operation, for JSON
    """
    provenances = [shard.provenance for store in stores for shard in store.shards]
    sources = [{"path": str(store.path), "id": store.id} for store in stores]
    return {"operation": operation, **facts, "stores": sources, "made_from": fitting(provenances)}


def fitting(provenances: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Different provenances, in order, as far as they fit a shard's header, and how many were left out for want of room."""
    texts = dict.fromkeys(json.dumps(provenance, sort_keys=True) for provenance in provenances)
    kept: list[Any] = []
    size = 0
    for text in texts:
        if size + len(text) > _MOST_PROVENANCE:
            break
        size += len(text)
        kept.append(json.loads(text))
    return {"provenances": kept, "left_out": len(texts) - len(kept)}


def check_alike(first: Store, other: Store) -> None:
    """StoreError that says what differs between stores that cannot be one: category, joints, body, masks, scores' shapes."""
    difference = first.header.difference(other.header)
    if difference:
        raise StoreError(f"{other.path}: cannot be merged with {first.path}: {difference}")
    expected = _trailing(first)
    for name, trailing in _trailing(other).items():
        if expected.get(name, trailing) != trailing:
            shapes = f"expected shape {('n', *expected[name])}, got {('n', *trailing)}"
            raise StoreError(f"{other.path}: cannot be merged with {first.path}: {name}: {shapes}")


def _trailing(store: Store) -> dict[str, tuple[int, ...]]:
    return {name: trailing for shard in store.shards for name, trailing in shard.trailing_shapes().items()}
