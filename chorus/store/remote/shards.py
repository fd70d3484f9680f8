"""Shards at URLs. Their columns are fetched when the store is opened, the words of their masks when these are asked for.

Both lie in the cache as files of the shard's size, with holes for what was not fetched, so that an array is where the shard
has it and is mapped from there. What arrives is compared with its digests before it gets a name in the cache, and what was
there already before a process uses it.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import threading
import weakref
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from chorus.errors import StoreError
from chorus.store.pictures import PICTURES
from chorus.store.remote.cache import ShardCache
from chorus.store.remote.index import Entry, entries_of, words_of
from chorus.store.schema import SHARDS, STORE_JSON, Problem
from chorus.store.shard import Shard, read_index, recorded_digest
from chorus.store.urls import StoreUrl
from chorus.store.verify import MASK_WORDS, content_problems, digest_problems

log = logging.getLogger(__name__)

AHEAD = 3
"""Shards that are fetched while one is read."""
_TRIES = 2


@dataclass(eq=False)
class RemoteShard(Shard):
    """A shard at a URL; as ``Shard``, and:

    cache   where what is fetched lies                      words  (start, end) bytes of the masks' words in the file
    beside  the file of its pictures, or None               ranges whether parts of the file can be asked for
    """

    cache: ShardCache
    words: tuple[tuple[int, int], ...]
    ranges: bool
    _head: weakref.ref[mmap.mmap] | None = field(default=None, init=False, repr=False)
    _checked: bool = field(default=False, init=False, repr=False)
    _head_checked: bool = field(default=True, init=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False)

    at_url = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapping": None, "_head": None, "_checked": False, "_head_checked": False, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def copy_to(self, path: Path) -> None:
        """Write a copy of the whole shard."""
        with path.open("wb") as file:
            file.write(self.fetch())

    def fetch(self) -> mmap.mmap:
        """The whole shard, in the cache and mapped; it is not removed from there as long as the map is referenced.

        Raises StoreError, naming the URL, where it cannot be fetched or is damaged.
        """
        with self._lock:
            mapping = _alive(self._mapping)
            if mapping is None:
                mapping = self._mapped_whole()
                self._mapping = weakref.ref(mapping)
            return mapping

    @property
    def cached_name(self) -> str:
        """The name of the whole shard in the cache."""
        return f"{self.sha256}.h5"

    def _map(self, name: str) -> mmap.mmap:
        mapping = _alive(self._mapping)
        if mapping is not None:
            return mapping
        if name in MASK_WORDS or not self.ranges:
            return self.fetch()
        with self._lock:
            head = _alive(self._head)
            if head is None and self._head_checked:
                head = self.cache.map(f"{self.sha256}.head")
            if head is None:
                head, _ = _mapped_head(self._place, self._entry, self.cache)
                self._head_checked = True
            self._head = weakref.ref(head)
            return head

    @property
    def _place(self) -> StoreUrl:
        assert isinstance(self.path, StoreUrl)
        return self.path

    @property
    def _entry(self) -> Entry:
        return Entry(self.path.name, self.nbytes, self.sha256, self.words)

    def _mapped_whole(self) -> mmap.mmap:
        mapping = self.cache.map(self.cached_name)
        if mapping is not None and not self._checked and self._problems(mapping):  # the disk's fault
            log.warning("%s: damaged; fetched anew", self.cache.folder / self.cached_name)
            self.cache.remove(self.cached_name)
            mapping = None
        if mapping is None:
            mapping = self._fetched_whole()
        self._checked = True
        return mapping

    def _fetched_whole(self) -> mmap.mmap:
        wrong = ""
        for _ in range(_TRIES):
            with self.cache.making(self.cached_name, self.nbytes) as part:
                self._fill(part)
                wrong = self._what_is_wrong(part)
                if not wrong:
                    return self.cache.hold(self.cached_name, part)
                self.cache.remove(f"{self.sha256}.head")  # which the fault may be in
                log.warning("%s: %s; fetched again", self.path, wrong)
                part.unlink()
        raise StoreError(f"{self.path}: {wrong} (fetched {_TRIES} times)")

    def _fill(self, part: Path) -> None:
        try:
            if not self.ranges:
                self._place.download(part)
                return
            head, _ = _mapped_head(self._place, self._entry, self.cache)
            with part.open("r+b") as file:
                file.truncate(self.nbytes)
                for start, end in _rest(self.words, self.nbytes):
                    file.seek(start)
                    file.write(memoryview(head)[start:end])
            for start, end in self.words:
                self._place.download(part, start, end)
        except FileNotFoundError:
            raise StoreError(f"{self.path}: expected the shard as when the store was opened, but it is gone") from None

    def _what_is_wrong(self, part: Path) -> str:
        try:
            arrived = Shard.read(part)
        except StoreError as error:
            return str(error).replace(str(part), "as it arrived")
        if arrived.sha256 != self.sha256 or arrived.arrays != self.arrays:
            return f"expected the shard of digest {self.sha256}, got that of {arrived.sha256}"
        with part.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
            problems = self._problems(mapping)
        return "; ".join(": ".join(text for text in (p.dataset, p.what) if text) for p in problems[:1])

    def _problems(self, mapping: mmap.mmap) -> list[Problem]:
        if len(mapping) != self.nbytes:
            return [Problem(self.path.name, "", f"expected {self.nbytes} bytes, got {len(mapping)}")]
        shown = Shard(self.path, self.version, self.header, self.images, self.provenance, self.arrays, self.sha256, self.nbytes)
        shown._mapping = weakref.ref(mapping)
        return list(content_problems(shown))


def open_shards(root: StoreUrl, cache: ShardCache, known: Collection[str] = ()) -> Iterator[RemoteShard | str]:
    """The shards of a store at a URL, in order, with their columns fetched and compared with their digests; of those whose
    digests are among ``known`` the digest alone.

    Raises StoreError that names the shard for one that cannot be fetched, is damaged or no shard.
    """
    entries = entries_of(root)
    ranges = (root / STORE_JSON).ranges()  # a small file: some servers send all of it

    def opened(entry: Entry) -> RemoteShard | str:
        with suppress(FileNotFoundError):  # what open_shard says better
            if known and (digest := _digest_of(root / SHARDS / entry.name, entry)) in known:
                return digest
        return open_shard(root, entry, cache, ranges)

    with ThreadPoolExecutor(8, thread_name_prefix="chorus-open") as pool:
        try:
            yield from pool.map(opened, entries)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _digest_of(place: StoreUrl, entry: Entry) -> str:
    if entry.sha256 is not None:
        return entry.sha256
    with place.errors():
        return recorded_digest(place)


def open_shard(root: StoreUrl, entry: Entry, cache: ShardCache, ranges: bool) -> RemoteShard:
    """A shard at a URL; its columns, or where parts cannot be asked for all of it, are in the cache then."""
    place = root / SHARDS / entry.name
    try:
        if entry.sha256 is None:
            entry = _told_by_itself(place, entry, cache, ranges)
        if not ranges:
            local = _read_whole(place, entry, cache)
        else:
            _, local = _mapped_head(place, entry, cache)
    except FileNotFoundError:
        raise StoreError(f"{place}: expected a shard, as the store's index or list of files has it, got nothing") from None
    shard = RemoteShard(
        place,
        local.version,
        local.header,
        local.images,
        local.provenance,
        local.arrays,
        local.sha256,
        local.nbytes,
        cache,
        words_of(local.arrays),
        ranges,
    )
    if entry.pictures:
        pictures = root / PICTURES / entry.name
        shard.beside = pictures if ranges else WholeUrl(pictures, cache)
    return shard


class WholeUrl(StoreUrl):
    """A file of which parts cannot be asked for: fetched into the cache as a whole when it is opened.

    Nobody knows its digest before; what is read of it is compared with digests of its own.
    """

    def __init__(self, place: StoreUrl, cache: ShardCache) -> None:
        super().__init__(place.shown, place.inside)
        self._cache = cache

    def open(self, mode: str = "rb", block_size: int = 0) -> IO[bytes]:
        """The file, open for reading."""
        size = self.size()
        name = f"{hashlib.sha256(f'{self} {size}'.encode()).hexdigest()}.pictures"
        path = self._cache.find(name)
        if path is not None:
            with suppress(FileNotFoundError):  # removed in this moment
                return path.open("rb")
        with self._cache.making(name, size) as part:
            self.download(part)
            return part.open("rb")


def fetched_ahead(shards: Sequence[Shard]) -> Iterator[Shard]:
    """The shards in order; of those at URLs the next ones are fetched meanwhile, as many as half the cache holds.

    Where they do not all fit the cache, one that was read is the next to go, before columns and shards that are still to come.
    """
    remote = [shard for shard in shards if isinstance(shard, RemoteShard)]
    too_many = bool(remote) and sum(shard.nbytes for shard in remote) > remote[0].cache.limit
    waiting: deque[tuple[Shard, Future[Any] | None]] = deque()
    left = deque(shards)
    pool: ThreadPoolExecutor | None = None
    try:
        while left or waiting:
            while left and (not waiting or _may_go_ahead(waiting, left[0])):
                shard = left.popleft()
                if isinstance(shard, RemoteShard):
                    pool = pool or ThreadPoolExecutor(AHEAD + 1, thread_name_prefix="chorus-fetch")
                    waiting.append((shard, pool.submit(shard.fetch)))
                else:
                    waiting.append((shard, None))
            shard, arriving = waiting.popleft()
            held = None if arriving is None else arriving.result()  # as long as it is read, it stays
            yield shard
            del held, arriving
            if too_many and isinstance(shard, RemoteShard):
                shard.cache.done_with(shard.cached_name)
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _may_go_ahead(waiting: Iterable[tuple[Shard, Any]], shard: Shard) -> bool:
    ahead = [other for other, _ in waiting]
    if not isinstance(shard, RemoteShard):
        return len(ahead) < 1
    return len(ahead) <= AHEAD and 2 * (sum(s.nbytes for s in ahead) + shard.nbytes) <= shard.cache.limit


def _told_by_itself(place: StoreUrl, entry: Entry, cache: ShardCache, ranges: bool) -> Entry:
    """The entry with the digest that the shard records, and, unless its columns are in the cache, where its words are."""
    sha256 = _digest_of(place, entry)
    if not ranges or cache.find(f"{sha256}.head"):
        return Entry(entry.name, entry.nbytes, sha256, (), entry.pictures)
    with place.errors():
        _, arrays, sha256 = read_index(place, entry.nbytes, "a shard of a store")
    return Entry(entry.name, entry.nbytes, sha256, words_of(arrays), entry.pictures)


def _read_whole(place: StoreUrl, entry: Entry, cache: ShardCache) -> Shard:
    name = f"{entry.sha256}.h5"
    wrong = ""
    for _ in range(_TRIES):
        path = cache.find(name)
        if path is not None:
            try:
                return Shard.read(path)
            except (StoreError, FileNotFoundError):
                cache.remove(name)
        with cache.making(name, entry.nbytes) as part:
            place.download(part)
            try:
                arrived = Shard.read(part)
                wrong = "" if arrived.sha256 == entry.sha256 else f"expected the digest {entry.sha256}, got {arrived.sha256}"
                wrong = wrong or "; ".join(f"{p.dataset}: {p.what}" for p in list(content_problems(arrived))[:1])
            except StoreError as error:
                wrong = str(error).replace(str(part), "as it arrived")
            if not wrong:
                return arrived
            part.unlink()
    raise StoreError(f"{place}: {wrong} (fetched {_TRIES} times)")


def _mapped_head(place: StoreUrl, entry: Entry, cache: ShardCache) -> tuple[mmap.mmap, Shard]:
    """The columns of a shard, mapped, and what it says of itself.

    From a file of its size with holes for the masks' words, which is fetched where it is not there or damaged.
    """
    name = f"{entry.sha256}.head"
    mapping = cache.map(name)
    if mapping is not None:
        head = _sound_head(cache.folder / name, entry, mapping)
        if not isinstance(head, str):
            return mapping, head
        log.warning("%s: %s; fetched anew", cache.folder / name, head)
        cache.remove(name)
    spans, wrong = _rest(entry.words or (), entry.nbytes), ""
    for _ in range(_TRIES):
        with cache.making(name, sum(end - start for start, end in spans)) as part:
            with part.open("r+b") as file:
                file.truncate(entry.nbytes)
            for start, end in spans:
                place.download(part, start, end)
            mapping = cache.hold(name, part)
            head = _sound_head(part, entry, mapping)
            if not isinstance(head, str):
                return mapping, head
            wrong = head
            log.warning("%s: %s; fetched again", place, wrong)
            part.unlink()
    raise StoreError(f"{place}: {wrong} (fetched {_TRIES} times)")


def _sound_head(path: Path, entry: Entry, mapping: mmap.mmap) -> Shard | str:
    """A shard's header and locations, from the file of its columns, which have their digests; or what is wrong with it."""
    try:
        head = Shard.read(path)
    except FileNotFoundError:
        return "removed in this moment"
    except StoreError as error:
        return str(error).replace(str(path), "as it arrived")
    if head.sha256 != entry.sha256:
        return f"expected the shard of digest {entry.sha256}, got that of {head.sha256}"
    head._mapping = weakref.ref(mapping)
    problems = list(digest_problems(head, [name for name in head.arrays if name not in MASK_WORDS]))
    return f"{problems[0].dataset}: {problems[0].what}" if problems else head


def _rest(words: Sequence[tuple[int, int]], nbytes: int) -> list[tuple[int, int]]:
    """What of a file is outside of the masks' words: (start, end) bytes."""
    edges = [0, *(at for span in words for at in span), nbytes]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end > start]


def _alive(reference: weakref.ref[mmap.mmap] | None) -> mmap.mmap | None:
    return None if reference is None else reference()
