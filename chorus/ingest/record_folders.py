"""A store from records: images analysed elsewhere, one folder each with masks, pose and camera (docs/records.md)."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chorus.body.model import Body
from chorus.camera.fit import check_budget
from chorus.errors import InputError, StoreError
from chorus.images import ImageBatch
from chorus.ingest.record import (
    ITERATIONS,
    MIN_CONFIDENCE,
    PERSON_MASK,
    RECORD,
    STOP_PX,
    Record,
    RecordError,
    read_record,
    record_camera,
)
from chorus.kernels.masks import PackedMasks
from chorus.picture_files import PictureError, picture_file
from chorus.provenance import with_given
from chorus.store import StoreWriter, open_store
from chorus.store.schema import COMPLETE, STORE_JSON
from chorus.units import UnitCheck

__all__ = ["IngestReport", "Record", "RecordError", "find_records", "ingest_records", "read_record"]

MAX_KEY_BYTES = 255


@dataclass(frozen=True)
class IngestReport:
    """What ``ingest_records`` did.

    added        keys of the records added to the store
    rejected     (folder, reason) of the records that could not be used
    present      keys that the store already had; their folders were not read
    residual_px  key -> mean reprojection distance in pixels, for records whose camera was fitted (Eq. 8)
    stopped      whether it was asked to stop before the end
    warnings     what can hardly be in metres, radians or pixels, a sentence a field; also warned of (``UnitsWarning``)
    """

    warnings: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    residual_px: dict[str, float] = field(default_factory=dict)
    stopped: bool = False


def find_records(folders: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[Path, Path | None]]:
    """The records' folders in the folders given: (folder, the folder given that its key is relative to).

    A folder with record.json is a record, and what is in it is not looked at; its key is its name, so that the second is None.
    Of another folder, all records in it are found, in the order of their names, links to folders among them but not followed
    further. A folder without any is yielded itself, to be rejected as a record.
    """
    for given in folders:
        top = Path(given)
        if (top / RECORD).exists() or not top.is_dir():
            yield top, None
            continue
        number = 0
        for place, names, files in os.walk(top):
            if RECORD in files:
                names.clear()
                number += 1
                yield Path(place), top
                continue
            names.sort()
            for name in names:
                path = Path(place, name)
                if path.is_symlink() and (path / RECORD).is_file():
                    number += 1
                    yield path, top
        if number == 0:
            yield top, None


def ingest_records(
    folders: Iterable[str | os.PathLike[str]],
    store_path: str | os.PathLike[str],
    body: Body,
    *,
    root: str | os.PathLike[str] | None = None,
    category: str | None = None,
    person_masks: bool | None = None,
    min_confidence: float = MIN_CONFIDENCE,
    iterations: int = ITERATIONS,
    stop_px: float = STOP_PX,
    provenance: Mapping[str, Any] | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IngestReport:
    """Read records into a new or existing store. A bad record is rejected and does not stop the rest.

    folders         of records, or folders that hold records at any depth (``find_records``); one given twice is read once
    root            keys are the folders' paths relative to it, with slashes; None: the names of records given themselves, and
                    of others the paths relative to the folder given
    category        records of another category are rejected; None: that of the store, else of the first usable record
    person_masks    whether a new store keeps masks of the person; None: if each of the folders has one. Where the store keeps
                    them, records without one are rejected
    min_confidence  least confidence of keypoints, for the camera fit of records without a camera
    iterations, stop_px  of that fit, as in ``fit_cameras``. A residual of any size is stored; filters can reject it later
    provenance      kept in the store; the options above are added to it
    stop            an event that ends the work after the record under way; what was read is committed
    progress        called with the number of folders done and of all

    The global orientation of a pose goes into the camera; betas are stored but not used by the fit. A rejected record leaves
    nothing in the store, so that it is read again once it is repaired; an image that is in the store is not. (Those that
    version 0.1.0 kept in the store as rejected are rejected: rows are never replaced.) There is no store where no record could
    be used.

    Raises StoreError where the store is of another body, category or version, InputError for options of another kind.
    """
    if not isinstance(body, Body):
        raise InputError(f"body: expected a chorus.Body, got {type(body).__name__}")
    if not 0 <= min_confidence <= 1:
        raise InputError(f"min_confidence: expected a number in 0..1, got {min_confidence!r}")
    check_budget(iterations, stop_px)
    options = {"min_confidence": min_confidence, "iterations": iterations, "stop_px": stop_px}
    stored_provenance = with_given({"ingest": options}, provenance)
    found = list(find_records(folders))
    category, person_masks = _of_store(Path(store_path), category, person_masks)
    if person_masks is None:
        person_masks = bool(found) and all(_has_person_mask(path) for path, _ in found)
    report = IngestReport()
    with ExitStack() as open_until_the_end:  # an exception drops what is not yet committed

        def open_writer(category: str) -> StoreWriter:
            writer = StoreWriter(
                Path(store_path),
                category=category,
                num_joints=body.num_joints,
                body_hash=body.hash,
                person_masks=person_masks,
                provenance=stored_provenance,
            )
            return open_until_the_end.enter_context(writer)

        ingest = _Ingest(body, options, person_masks, category, open_writer, report)
        open_until_the_end.callback(ingest.warn)
        if category is not None and (Path(store_path) / STORE_JSON).exists():
            ingest.open_store(category)  # a store that cannot take these records is refused before they are read
            ingest.rejected_before = _rejected_rows(Path(store_path))
        for number, (path, above) in enumerate(found):
            if stop is not None and stop.is_set():
                return dataclasses.replace(report, stopped=True)
            ingest.add(path, above if root is None else root)
            if progress is not None:
                progress(number + 1, len(found))
    return report


def _has_person_mask(folder: Path) -> bool:
    try:
        return picture_file(folder, Path(PERSON_MASK).stem) is not None
    except PictureError:  # said when the record is read
        return True


def _of_store(path: Path, category: str | None, person_masks: bool | None) -> tuple[str | None, bool | None]:
    """Category and ``person_masks`` as given, or else those of the store, if it exists. StoreError where they differ."""
    if not (path / STORE_JSON).exists():
        return category, person_masks
    store = open_store(path, verify=False)
    if person_masks is not None and person_masks != store.has_person_masks:
        raise StoreError(f"person_masks: expected {store.has_person_masks}, as in the store, got {person_masks}")
    return category or store.category, store.has_person_masks


def _rejected_rows(path: Path) -> dict[str, str]:
    """The keys of the store's rows that are not complete, and why they are not."""
    rows = open_store(path, verify=False).rows
    pairs = zip(rows["key"].tolist(), rows["status"].tolist(), strict=True)
    return {key.decode(errors="replace"): status for key, status in pairs if status != COMPLETE}


class _Ingest:
    """One run of ``ingest_records``: adds folders one by one and records the outcome in ``report``.

    camera_fit   options of ``record_camera``
    category     that the records must have; None: that of the first usable one
    open_writer  opens the store for a category; called at the first usable record of a store that is not there yet

    rejected_before  key -> why, for records that are in the store as rejected
    """

    def __init__(
        self,
        body: Body,
        camera_fit: Mapping[str, Any],
        person_masks: bool,
        category: str | None,
        open_writer: Callable[[str], StoreWriter],
        report: IngestReport,
    ) -> None:
        self._body, self._camera_fit, self._person_masks = body, camera_fit, person_masks
        self._category, self._open_writer, self._report = category, open_writer, report
        self._units = UnitCheck()
        self._writer: StoreWriter | None = None
        self._seen: dict[str, Path] = {}
        self.rejected_before: dict[str, str] = {}

    def open_store(self, category: str) -> StoreWriter:
        """The writer of the store, opened at the first call."""
        if self._writer is None:
            self._writer, self._category = self._open_writer(category), category
        return self._writer

    def add(self, path: Path, root: str | os.PathLike[str] | None) -> None:
        """Add one record to the store, or its reason to ``rejected``. A StoreError is not the record's fault and is raised."""
        try:
            key = _key(path, root)
            if self._given_again(key, path):
                return
            if self._writer is not None and key in self._writer:
                self._report.present.append(key)
            else:
                units = UnitCheck()
                self._add(key, self._usable(path, units))
                self._units.add(units)
                self._units.warn()  # at the first of a kind: before hours of work on them
        except StoreError:
            raise
        except InputError as error:
            self._report.rejected.append((str(path), str(error)))

    def warn(self) -> None:
        """Warn of units of which more was found since the first warning, and put them all into the report."""
        self._units.warn(again=True)
        self._report.warnings[:] = self._units.sentences()

    def _given_again(self, key: str, path: Path) -> bool:
        """Whether the folder was given before. RecordError for another of its key, and one that the store has as rejected."""
        first = self._seen.setdefault(key, path)
        if first is not path:
            if os.path.realpath(first) != os.path.realpath(path):
                raise RecordError("key", f"folder: expected folders of different keys, got {key!r} as of {str(first)!r}")
            return True
        if key in self.rejected_before:
            raise RecordError(
                "key",
                f"folder: expected a key new to the store, which has {key!r} as rejected ({self.rejected_before[key]!r}): "
                "rows are never replaced; use a new store",
            )
        return False

    def _usable(self, path: Path, units: UnitCheck) -> Record:
        record = read_record(path, units=units)
        if self._category is not None and record.category != self._category:
            raise RecordError("category", f"category: expected {self._category!r}, got {record.category!r}")
        if self._person_masks and record.person_mask is None:
            raise RecordError("person mask", f"{PERSON_MASK}: expected one, as the store keeps person masks, got none")
        return record

    def _add(self, key: str, record: Record) -> None:
        camera, residual = record_camera(record, self._body, **self._camera_fit)
        assert record.object_mask is not None  # ``read_record`` requires it; ``_usable`` checks the person's
        person = record.person_mask if self._person_masks else None
        self.open_store(record.category).append(
            ImageBatch(record.object_mask[None], camera, record.pose[None], [key], prompts=[record.prompt], warn=False),
            betas=None if record.betas is None else record.betas[None],
            residual_px=[residual],
            estimators=record.source,
            person_masks=None if person is None else PackedMasks.pack([person]),
        )
        self._report.added.append(key)
        if not math.isnan(residual):
            self._report.residual_px[key] = residual


def _key(path: Path, root: str | os.PathLike[str] | None) -> str:
    absolute = Path(os.path.abspath(path))
    if root is None:
        key = absolute.name
    else:
        try:
            key = absolute.relative_to(os.path.abspath(root)).as_posix()
        except ValueError:
            raise RecordError("key", f"folder: expected one in {os.fspath(root)!r}, got {str(path)!r}") from None
    try:
        length = len(key.encode("utf-8"))
    except UnicodeEncodeError:
        raise RecordError("key", f"folder: expected a name in UTF-8, got {key!r}") from None
    if not 0 < length <= MAX_KEY_BYTES or key == ".":
        raise RecordError("key", f"folder: expected a name of 1 to {MAX_KEY_BYTES} bytes, got {key!r}")
    return key
