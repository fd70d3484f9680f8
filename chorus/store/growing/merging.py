"""Several stores as one, part of a store as one, a store as several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, StoreError, check_whole
from chorus.names import file_stems
from chorus.store.filters import Filter
from chorus.store.filters.filtering import read_store_filter
from chorus.store.growing.making import SHARD_SIZE, Grown, Progress, StoreMaker, appearing
from chorus.store.growing.rows import check_alike, origin
from chorus.store.opening import open_store
from chorus.store.reader import Store, TableColumns

StoreLike = Store | str | os.PathLike[str]
"""An open store, or where one is."""


def merge_stores(
    stores: Sequence[StoreLike],
    output: str | Path,
    *,
    skip: bool = False,
    keep_filter: bool = True,
    progress: Progress | None = None,
) -> Grown:
    """Make a store of the rows of several, in their order; it appears whole or not at all.

    stores       open, or where they are; of the same category, joints, body, kind of masks and shapes of scores
    output       the new store
    skip         leave out rows whose key is in an earlier store, instead of refusing them
    keep_filter  give the new store the filter of all the others, which must have the same; False: it has none
    progress     called with the number of rows done and of all

    Shards are hard links where the file system can, else copies, with the pictures beside them; those with rows to leave out
    are written anew. Versions of shards may be mixed. Raises StoreError where stores differ (naming what), a key is there
    twice, filters differ, or a shard that must be written anew is damaged; the rest is as sound as it was
    (``verify_store``).
    """
    if not stores:
        raise InputError("stores: expected at least one, got none")
    opened = [_opened(store) for store in stores]
    for other in opened[1:]:
        check_alike(opened[0], other)
    chosen = _common_filter(opened) if keep_filter else None
    fresh = _first_of_each_key(opened, skip)
    rows = [np.flatnonzero(part).astype(np.int64) for part in fresh]
    with appearing(output) as path:
        done = _counted(progress, sum(map(len, rows)))
        with StoreMaker(path, opened[0].header, origin("merge", opened), done=done) as maker:
            for store, some in zip(opened, rows, strict=True):
                maker.add(store, some)
            if chosen is not None:
                maker.keep_filter(chosen)
    maker.made.path, maker.made.skipped = Path(output), sum(map(len, opened)) - maker.made.images
    return maker.made


def select_store(
    store: StoreLike,
    output: str | Path,
    rows: Any = None,
    *,
    where: Callable[[TableColumns], NDArray[np.bool_]] | None = None,
    prompt: str | Sequence[str] | None = None,
    status: str | Sequence[str] | None = None,
    keys: Iterable[str | bytes] | None = None,
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
) -> Grown:
    """Make a store of some rows of another, in its order; it appears whole or not at all, and keeps the other's filter.

    rows             (m,) integers; None: all        where, prompt, status  as for ``Store.select``; by default any
    keys             only rows with these keys       shard_size             images in shards that are written anew
    progress         called with the number of rows done and of all

    Raises InputError for rows, prompts, statuses or keys that the store does not have and where nothing is selected, StoreError
    as ``merge_stores``.
    """
    opened = _opened(store)
    chosen = np.zeros(len(opened), np.bool_)
    chosen[opened.select(where, prompt, status)] = True
    if rows is not None:
        chosen &= _among(opened, rows)
    if keys is not None:
        chosen &= _with_keys(opened, keys)
    selected = np.flatnonzero(chosen).astype(np.int64)
    if not selected.size:
        raise InputError(f"select: expected rows of {opened.path} to be left, got none of its {len(opened):,}")
    kept = read_store_filter(opened.path)
    with appearing(output) as path:
        made = _made(path, opened, selected, "select", kept, shard_size, _counted(progress, len(selected)))
    made.path = Path(output)
    return made


def split_store(
    store: StoreLike,
    folder: str | Path,
    *,
    parts: int | None = None,
    by_prompt: bool = False,
    progress: Progress | None = None,
) -> list[Grown]:
    """Make several stores of the rows of one, in a folder that appears whole or not at all; each keeps the filter.

    parts      so many stores of nearly the same number of bytes, ``part-0.chorus`` and so on: rows in order, cut between
               shards where one ends within a twentieth of a part from where it should, else inside one
    by_prompt  a store for each prompt instead, named after it

    Raises InputError for more parts than rows and where neither or both are asked for, StoreError as ``merge_stores``.
    """
    opened = _opened(store)
    if (parts is None) != by_prompt:
        raise InputError("split: expected parts or by_prompt, got " + ("both" if by_prompt else "neither"))
    if parts is not None:
        pieces = _fair(opened, check_whole("parts", parts, 1))
        width = len(str(parts - 1))
        named = {f"part-{i:0{width}d}.chorus": np.arange(a, b) for i, (a, b) in enumerate(pieces)}
    else:
        names = file_stems([prompt or "no prompt" for prompt in opened.prompts])
        of = {prompt: opened.select(prompt=prompt, status=None) for prompt in opened.prompts}
        named = {f"{names[prompt or 'no prompt']}.chorus": rows for prompt, rows in of.items() if len(rows)}
    kept = read_store_filter(opened.path)
    done = _counted(progress, len(opened))
    with appearing(folder) as path:
        path.mkdir()
        made = [_made(path / name, opened, rows, "split", kept, SHARD_SIZE, done) for name, rows in named.items()]
    for part, name in zip(made, named, strict=True):
        part.path = Path(folder) / name
    return made


def _made(
    path: Path, store: Store, rows: NDArray[np.int64], operation: str, kept: Filter | None, shard_size: int, done: Any
) -> Grown:
    with StoreMaker(path, store.header, origin(operation, [store], rows=len(rows)), shard_size, done) as maker:
        maker.add(store, rows)
        if kept is not None:
            maker.keep_filter(kept)
    return maker.made


def _opened(store: StoreLike) -> Store:
    return store if isinstance(store, Store) else open_store(store, verify=False)


def _counted(progress: Progress | None, total: int) -> Callable[[int], None]:
    done = [0]

    def count(more: int) -> None:
        done[0] += more
        if progress is not None:
            progress(done[0], total)

    return count


def _common_filter(stores: Sequence[Store]) -> Filter | None:
    filters = [read_store_filter(store.path) for store in stores]
    for store, chosen in zip(stores, filters, strict=True):
        if chosen != filters[0]:
            raise StoreError(
                f"{store.path}: expected the filter of {stores[0].path} ({filters[0] or 'none'}), got {chosen or 'none'}; give "
                "them the same (`chorus filter set`), or merge without filters (--no-filter)"
            )
    return filters[0]


def _first_of_each_key(stores: Sequence[Store], skip: bool) -> list[NDArray[np.bool_]]:
    """Which rows of each store are the first with their key, (n,) bool; StoreError where not all are, unless ``skip``."""
    keys = np.concatenate([store.rows["key"] for store in stores])
    ends = np.cumsum([len(store) for store in stores])
    order = np.argsort(keys, kind="stable")
    again = np.zeros(len(keys), np.bool_)
    again[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    if again.any() and not skip:
        row = int(np.flatnonzero(again)[0])
        first = int(np.flatnonzero(keys == keys[row])[0])
        places = [stores[int(np.searchsorted(ends, r, "right"))].path for r in (first, row)]
        raise StoreError(
            f"{places[1]}: expected keys that no store before it has, got {int(again.sum()):,} of them again, such as "
            f"{bytes(keys[row])!r} of {places[0]}; --skip leaves the later ones out"
        )
    return np.split(~again, ends[:-1])


def _among(store: Store, rows: Any) -> NDArray[np.bool_]:
    given = np.asarray(rows)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise InputError(f"rows: expected (m,) integers, got {given.dtype} of shape {given.shape}")
    bad = np.flatnonzero((given < 0) | (given >= len(store)))
    if bad.size:
        raise InputError(f"rows: expected numbers from 0 to {len(store) - 1}, got {given[bad[0]]}")
    chosen = np.zeros(len(store), np.bool_)
    chosen[given.astype(np.int64)] = True
    return chosen


def _with_keys(store: Store, keys: Iterable[str | bytes]) -> NDArray[np.bool_]:
    wanted = {key.encode("utf-8", "surrogateescape") if isinstance(key, str) else bytes(key) for key in keys}
    known = store.rows["key"].tolist()
    unknown = sorted(wanted - set(known))
    if unknown:
        raise InputError(f"keys: expected keys of {store.path}, got {len(unknown):,} that it lacks, such as {unknown[0]!r}")
    return np.array([key in wanted for key in known], np.bool_)


def _fair(store: Store, parts: int) -> list[tuple[int, int]]:
    """First row and end of each part, of nearly equal bytes."""
    if parts > len(store):
        raise InputError(f"parts: expected at most the {len(store):,} rows of {store.path}, got {parts}")
    first = store.first_rows
    bytes_before = np.concatenate([[0], np.cumsum([shard.nbytes for shard in store.shards], dtype=np.float64)])
    share = bytes_before[-1] / parts
    cuts = [0]
    for part in range(1, parts):
        wanted = part * share
        nearest = int(np.abs(bytes_before - wanted).argmin())
        if abs(bytes_before[nearest] - wanted) <= share / 20:
            row = int(first[nearest])
        else:
            row = round(float(np.interp(wanted, bytes_before, first)))
        cuts.append(min(max(row, cuts[-1] + 1), len(store) - (parts - part)))
    return list(zip(cuts, [*cuts[1:], len(store)], strict=True))
