"""Writing stores: rows are collected and committed shard by shard, each whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from chorus._version import __version__
from chorus.errors import InputError, StoreError, check_path
from chorus.files import PART_SUFFIX, exclusive_lock, fsync_path, remove_leftovers, write_new
from chorus.images import ImageBatch
from chorus.kernels.masks import PackedMasks
from chorus.provenance import with_given
from chorus.store.keeping import checked_pictures, kept_beside, remove_dead
from chorus.store.key_set import KeySet
from chorus.store.pictures import EncodedPicture
from chorus.store.schema import FORMAT_VERSION, SHARDS, STORE_FORMAT, STORE_JSON, Header, digest, is_plain, read_store_json
from chorus.store.shard import Shard
from chorus.store.shard_files import finish_compaction, new_shard_name, shard_paths
from chorus.store.shard_writing import shard_header, write_bytes_new, write_shard
from chorus.store.table import Rows, joined, rejected_rows, rows_of_batch, trailing_shapes

LOCK = ".lock"


def check_output_store(name: str, path: Path) -> None:
    """StoreError where ``path`` is neither a store, nor an empty folder, nor a new name in a folder that can be written to.

    name  of the argument or option, for the message. Folders above a new store are made with it.
    """
    if not os.path.lexists(path):
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise StoreError(f"{name}: expected a new name in a folder that can be written to, got {str(path)!r}")
        return
    if not path.is_dir():
        raise StoreError(f"{name}: expected a folder or a new name, got the file {str(path)!r}")
    if (path / STORE_JSON).exists():
        return
    ours = (LOCK, SHARDS, STORE_JSON, STORE_JSON + PART_SUFFIX)
    others = sorted(p.name for p in path.iterdir() if p.name not in ours)
    if others:
        raise StoreError(f"{name}: expected a store, an empty folder or a new name, got {str(path)!r} with {others[0]!r}")


class StoreWriter:
    """Append images to a store, which is created if it does not exist. A context manager; not thread-safe.

    path          the store's folder
    category      the object, as in "surfboard"
    num_joints    joints J of the poses
    body_hash     hash of the body that the cameras were fitted with; None: that of an existing store, else unknown
    provenance    anything that JSON can hold (parameters, command line), kept in every shard that this writer makes
    shard_size    images per shard, which is also the most that a crash can lose
    person_masks  whether masks of the person are kept too; then every ``append`` must give them

    Rows are kept in memory until there are ``shard_size`` of them or ``flush`` or ``close`` is called; then they are
    committed: written under a temporary name, fsynced, renamed, the folder fsynced. Leaving the with-block normally
    commits the rest; leaving it by an exception drops the rows not yet committed. Any number of processes may write to
    one store; a lock serialises the commits. ``keys`` tells what is committed, so that an interrupted caller can resume.

    Raises StoreError where the store is of another category, number of joints, body or version, is damaged, or ``path``
    is a folder with other content; OSError where the system refuses.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        category: str,
        num_joints: int = 24,
        body_hash: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        shard_size: int = 4096,
        person_masks: bool = False,
    ) -> None:
        if not isinstance(category, str) or not category:
            raise InputError(f"category: expected a word, got {category!r}")
        for name, value in (("num_joints", num_joints), ("shard_size", shard_size)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise InputError(f"{name}: expected a positive integer, got {value!r}")
        self.path = check_path("path", path)
        self.shard_size = int(shard_size)
        self._provenance = with_given({"software": f"chorus {__version__}"}, provenance)
        self._header = Header(category, int(num_joints), body_hash, bool(person_masks))
        self._pending: list[Rows] = []
        self._pending_keys: set[bytes] = set()
        self._pictures: dict[bytes, EncodedPicture] = {}  # of pending rows
        self._committed = KeySet()
        self._shards: set[str] = set()
        self._trailing_shapes: dict[str, tuple[int, ...]] = {}
        self._closed = False
        self._make_folders()
        with exclusive_lock(self.path / LOCK):
            if not is_plain(self.path / STORE_JSON, stat.S_ISREG):
                self._create()
            else:
                self._reopen(body_hash)
            finish_compaction(self.path)
            remove_leftovers(self.path / SHARDS)
            self._read_new_shards()
            remove_dead(self.path, self._shards)

    def _make_folders(self) -> None:
        check_output_store("path", self.path)
        for folder in (self.path, self.path / SHARDS):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            fsync_path(folder.parent)

    def _create(self) -> None:
        fields = {
            "format": STORE_FORMAT,
            "version": FORMAT_VERSION,
            **self._header.fields(),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "provenance": self._provenance,
        }
        text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
        (self.path / (STORE_JSON + PART_SUFFIX)).unlink(missing_ok=True)  # left by a process that died
        write_new(self.path / STORE_JSON, lambda part: write_bytes_new(part, text.encode()))

    def _reopen(self, body_hash: str | None) -> None:
        header, _ = read_store_json(self.path)
        if body_hash is None:
            self._header = Header(self._header.category, self._header.num_joints, header.body_hash, self._header.person_masks)
        difference = header.difference(self._header)
        if difference:
            raise StoreError(f"{self.path}: cannot append to this store: {difference}")

    def _read_new_shards(self) -> None:
        """Read the keys of the shards committed since the last call, by this writer or another."""
        for path in shard_paths(self.path):
            if path.name in self._shards:
                continue
            shard = Shard.read(path)
            difference = self._header.difference(shard.header)
            if difference:
                raise StoreError(f"{path}: header other than the store's: {difference}")
            for name, trailing in shard.trailing_shapes().items():
                expected = self._trailing_shapes.setdefault(name, trailing)
                if expected != trailing:
                    raise StoreError(f"{path}: {name}: expected shape {('n', *expected)}, got {('n', *trailing)}")
            keys = shard.array("image/key")
            if digest(keys) != shard.arrays["image/key"].sha256:
                raise StoreError(f"{path}: image/key: damaged; its bytes do not have the recorded sha256")
            self._committed.add_all(keys)
            self._shards.add(path.name)

    @property
    def keys(self) -> AbstractSet[bytes]:
        """Keys committed to the store, as read when the writer was opened and at its commits. A live view."""
        return self._committed

    @property
    def num_pending(self) -> int:
        """Number of rows not yet committed."""
        return len(self._pending_keys)

    @property
    def picture_bytes(self) -> int:
        """Bytes of the pictures of rows not yet committed, which are in memory: a reason to ``flush``."""
        return sum(len(picture.data) for picture in self._pictures.values())

    def __contains__(self, key: str | bytes) -> bool:
        """Whether ``key`` is in ``keys``: committed, not merely appended."""
        return (key.encode("utf-8") if isinstance(key, str) else key) in self._committed

    def append(
        self,
        batch: ImageBatch,
        *,
        views: Any = None,
        seeds: Any = None,
        scores: Mapping[str, Any] | None = None,
        status: Any = None,
        betas: Any = None,
        residual_px: Any = None,
        estimators: Any = None,
        person_masks: PackedMasks | None = None,
        pictures: Any = None,
    ) -> None:
        """Add I images that have a mask, a pose and a camera, whether or not a filter rejected them.

        views, estimators  a str for all or (I,) str; "" where not given
        seeds              (I,) integers, -1 for none
        scores             name -> (I,) or (I, k) numbers, kept as float32; NaN in rows for which a name is not given
        status             a str for all or (I,) str: "complete", or the stage that rejected the image
        betas              (I, B) shape coefficients, kept as float32; NaN in rows for which they are not given
        residual_px        (I,) mean reprojection distance of the camera fit in pixels; NaN where not given
        person_masks       the person's masks, of the same sizes, in a store that keeps them
        pictures           None, or (I,) pictures to keep, each None, (H, W, 3) uint8 RGB (kept as JPEG), or the bytes of a
                           JPEG, PNG or WebP file; of the image's size

        Raises InputError for arrays of other shapes or types and for masks with bits outside their box, StoreError for a
        key that the store, or this writer, already has; then nothing of the batch has been added. Raises as ``flush`` where
        the batch fills a shard and that cannot be committed; ``keys`` then tells what is committed.
        """
        self._refuse_closed()
        rows = rows_of_batch(
            batch,
            self._header,
            views=views,
            seeds=seeds,
            scores=scores,
            status=status,
            betas=betas,
            residual_px=residual_px,
            estimators=estimators,
            person_masks=person_masks,
        )
        self.add_rows(rows, pictures)

    def append_rejected(
        self,
        keys: Any,
        status: Any,
        *,
        prompts: Any = None,
        views: Any = None,
        seeds: Any = None,
        sizes: Any = None,
        scores: Mapping[str, Any] | None = None,
        estimators: Any = None,
        pictures: Any = None,
    ) -> None:
        """Add I images that were rejected before they had a mask, a pose and a camera: rows with the reason, which never vote.

        keys    (I,) str or bytes          status  a str for all or (I,) str, the reasons; not "complete"
        sizes   (I, 2) height, width in pixels; 0, 0 where not given        other arguments as in ``append``

        Their mask is empty and their R, t, K and pose are NaN. Raises as ``append`` does.
        """
        self._refuse_closed()
        rows = rejected_rows(
            keys,
            status,
            self._header,
            prompts=prompts,
            views=views,
            seeds=seeds,
            sizes=sizes,
            scores=scores,
            estimators=estimators,
        )
        self.add_rows(rows, pictures)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path}: expected an open writer, but it has been closed")

    def add_rows(self, rows: Rows, pictures: Any = None) -> None:
        """Add rows as the format has them, such as those of another store; pictures and errors as of ``append``."""
        self._refuse_closed()
        keys = rows.arrays["image/key"].tolist()
        in_batch: set[bytes] = set()
        in_store = self._committed.shared_with(rows.arrays["image/key"])
        for key in keys:
            if not key:
                raise InputError("keys: expected names, got an empty string")
            for place, known in (
                ("the store", in_store),
                ("the rows not yet committed", self._pending_keys),
                ("this batch", in_batch),
            ):
                if key in known:
                    raise StoreError(f"keys: expected keys new to the store, but {key!r} is already in {place}")
            in_batch.add(key)
        for name, trailing in trailing_shapes(rows).items():
            expected = self._trailing_shapes.get(name, trailing)
            if expected != trailing:
                raise InputError(f"{name}: expected shape {('I', *expected)} as in earlier rows, got {('I', *trailing)}")
        kept = checked_pictures(pictures, keys, rows.arrays["image/size"])
        self._trailing_shapes.update(trailing_shapes(rows))
        first = 0
        while first < len(keys):
            last = min(len(keys), first + self.shard_size - len(self._pending_keys))
            self._pending.append(rows.slice(first, last))
            self._pending_keys.update(keys[first:last])
            self._pictures.update((key, kept[key]) for key in keys[first:last] if key in kept)
            if len(self._pending_keys) == self.shard_size:
                self.flush()
            first = last

    def flush(self) -> None:
        """Commit the rows appended so far as a shard of whatever size; without such rows, do nothing.

        Raises StoreError where another writer has committed one of the keys in the meantime; then none of the rows is
        committed.
        """
        self._refuse_closed()
        if not self._pending:
            return
        with exclusive_lock(self.path / LOCK):
            finish_compaction(self.path)
            self._read_new_shards()
            pending = np.array(sorted(self._pending_keys))
            clash = sorted(self._committed.shared_with(pending))
            if clash:
                raise StoreError(
                    f"keys: expected keys new to the store, but {clash[0]!r} is already in it: "
                    f"another writer has committed {len(clash)} of the {len(self._pending_keys)} rows in the meantime"
                )
            remove_leftovers(self.path / SHARDS)
            remove_dead(self.path, self._shards)
            arrays = joined(self._pending, self._header.person_masks)
            text = shard_header(self._header, len(self._pending_keys), self._provenance)
            name = new_shard_name(self._shards)
            shard = self.path / SHARDS / name
            with kept_beside(shard, self._pictures, write_shard):
                write_new(shard, lambda part: write_shard(part, text, arrays))
        self._shards.add(name)
        self._committed.add_all(pending)
        self._clear_pending()

    def _clear_pending(self) -> None:
        self._pending, self._pending_keys, self._pictures = [], set(), {}

    def close(self) -> None:
        """Commit the remaining rows and refuse further ones. May be called again."""
        if not self._closed:
            self.flush()
            self._closed = True

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._clear_pending()
            self._closed = True
        self.close()
