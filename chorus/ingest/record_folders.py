"""A store from records: images analysed elsewhere, one folder each with masks, pose and camera (docs/records.md)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
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
    STOP_PX,
    Record,
    RecordError,
    read_record,
    record_camera,
)
from chorus.kernels.masks import PackedMasks
from chorus.provenance import with_given
from chorus.store import StoreWriter, open_store
from chorus.store.schema import STORE_JSON
from chorus.units import UnitCheck

__all__ = ["IngestReport", "Record", "RecordError", "ingest_records", "read_record"]

MAX_KEY_BYTES = 255


@dataclass(frozen=True)
class IngestReport:
    """What ``ingest_records`` did.

    added        keys of the records added to the store
    rejected     (folder, reason) of the records that could not be used
    present      keys that the store already had; their folders were not read
    residual_px  key -> mean reprojection distance in pixels, for records whose camera was fitted (Eq. 8)
    warnings     what can hardly be in metres, radians or pixels, a sentence a field; also warned of (``UnitsWarning``)
    """

    warnings: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    residual_px: dict[str, float] = field(default_factory=dict)


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
    progress: Callable[[int, int], None] | None = None,
) -> IngestReport:
    """Read records into a new or existing store. A bad record is rejected and does not stop the rest.

    root            keys are the folders' paths relative to it, with slashes; None: the folders' names
    category        records of another category are rejected; None: that of the store, else of the first usable record
    person_masks    whether a new store keeps masks of the person; None: if each of the folders has one. Where the store keeps
                    them, records without one are rejected
    min_confidence  least confidence of keypoints, for the camera fit of records without a camera
    iterations, stop_px  of that fit, as in ``fit_cameras``. A residual of any size is stored; filters can reject it later
    provenance      kept in the store; the options above are added to it
    progress        called with the number of folders done and of all

    The global orientation of a pose goes into the camera; betas are stored but not used by the fit. A rejected record gets
    a row in the store with the stage that failed as its status, unless it is of another category, its key is taken, or no
    record could be used so that there is no store. An image that is in the store, rejected or not, is not read again.

    Raises StoreError where the store is of another body, category or version, InputError for options of another kind.
    """
    if not isinstance(body, Body):
        raise InputError(f"body: expected a chorus.Body, got {type(body).__name__}")
    if not 0 <= min_confidence <= 1:
        raise InputError(f"min_confidence: expected a number in 0..1, got {min_confidence!r}")
    check_budget(iterations, stop_px)
    options = {"min_confidence": min_confidence, "iterations": iterations, "stop_px": stop_px}
    stored_provenance = with_given({"ingest": options}, provenance)
    paths = [Path(folder) for folder in folders]
    category, person_masks = _of_store(Path(store_path), category, person_masks)
    if person_masks is None:
        person_masks = bool(paths) and all((path / PERSON_MASK).is_file() for path in paths)
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

        ingest = _Ingest(body, options, person_masks, open_writer, report)
        open_until_the_end.callback(ingest.warn)
        if category is not None:
            ingest.open_store(category)
        for number, path in enumerate(paths):
            ingest.add(path, root)
            if progress is not None:
                progress(number + 1, len(paths))
        ingest.append_rejected()
    return report


def _of_store(path: Path, category: str | None, person_masks: bool | None) -> tuple[str | None, bool | None]:
    """Category and ``person_masks`` as given, or else those of the store, if it exists. StoreError where they differ."""
    if not (path / STORE_JSON).exists():
        return category, person_masks
    store = open_store(path, verify=False)
    if person_masks is not None and person_masks != store.has_person_masks:
        raise StoreError(f"person_masks: expected {store.has_person_masks}, as in the store, got {person_masks}")
    return category or store.category, store.has_person_masks


class _Ingest:
    """One run of ``ingest_records``: adds folders one by one and records the outcome in ``report``.

    camera_fit   options of ``record_camera``
    open_writer  opens the store for a category; called at the first usable record where the category is not known before
    """

    def __init__(
        self,
        body: Body,
        camera_fit: Mapping[str, Any],
        person_masks: bool,
        open_writer: Callable[[str], StoreWriter],
        report: IngestReport,
    ) -> None:
        self._body, self._camera_fit, self._person_masks = body, camera_fit, person_masks
        self._open_writer, self._report = open_writer, report
        self._units = UnitCheck()
        self._writer: StoreWriter | None = None
        self._category: str | None = None
        self._seen: set[str] = set()
        self._failed: list[tuple[str, str]] = []  # key and stage of the rows to write at the end

    def open_store(self, category: str) -> StoreWriter:
        """The writer of the store, opened at the first call."""
        if self._writer is None:
            self._writer, self._category = self._open_writer(category), category
        return self._writer

    def add(self, path: Path, root: str | os.PathLike[str] | None) -> None:
        """Add one record to the store, or its reason to ``rejected``. A StoreError is not the record's fault and is raised."""
        key = None
        try:
            key = self._new_key(path, root)
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
            stage = error.stage if isinstance(error, RecordError) else "record"
            if key is not None and stage not in ("key", "category"):
                self._failed.append((key, stage))

    def append_rejected(self) -> None:
        """Write the rows of the records that failed, if there is a store."""
        if self._writer is not None and self._failed:
            self._writer.append_rejected([key for key, _ in self._failed], [stage for _, stage in self._failed])

    def warn(self) -> None:
        """Warn of units of which more was found since the first warning, and put them all into the report."""
        self._units.warn(again=True)
        self._report.warnings[:] = self._units.sentences()

    def _new_key(self, path: Path, root: str | os.PathLike[str] | None) -> str:
        key = _key(path, root)
        if key in self._seen:
            raise RecordError("key", f"folder: expected folders of different keys, got {key!r} again")
        self._seen.add(key)
        return key

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
