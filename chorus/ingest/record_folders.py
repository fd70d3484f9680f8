"""Images analysed elsewhere, a folder each with masks, pose and camera (docs/records.md), into a store."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.body.model import Body
from chorus.camera.cameras import Cameras
from chorus.camera.fit import MIN_JOINTS, check_budget, fit_cameras, keypoint_targets
from chorus.errors import InputError, StoreError
from chorus.images import ImageBatch
from chorus.ingest.record import PERSON_MASK, RECORD, Record, RecordError, read_record
from chorus.kernels.masks import PackedMasks
from chorus.provenance import with_given
from chorus.store import StoreWriter, open_store

__all__ = ["IngestReport", "Record", "RecordError", "ingest_records", "read_record"]

MAX_KEY_BYTES = 255


@dataclass(frozen=True)
class IngestReport:
    """What ``ingest_records`` did.

    added        keys of the records that are now in the store
    rejected     (folder, reason) of those that could not be used
    present      keys that the store had before; their folders were not read
    residual_px  key -> mean reprojection distance in pixels, of the cameras fitted here (Eq. 8)
    """

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
    min_confidence: float = 0.3,
    iterations: int = 2400,
    stop_px: float = 0.7,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IngestReport:
    """Read records into a store, made or added to. One bad record does not stop the others.

    root            keys are the folders' paths relative to it, with slashes; None: the folders' names
    category        records of another one are rejected; None: that of the store, or else of the first usable record
    person_masks    whether a new store keeps these; None: if each of the folders has one. Where the store keeps them, a
                    record without is rejected
    min_confidence  of keypoints, for the camera fit of records without a camera
    iterations, stop_px  of that fit, as in ``fit_cameras``. A residual of any size is stored, for filters to judge
    provenance      kept in the store; the options above are added to it
    progress        called with the number of folders done and of all

    Poses are kept, the global orientation goes into the camera; betas are stored and take no part in the fit. A rejected
    record gets a row in the store with the stage that failed, unless it is of another category, its key is taken or
    there is no store because no record could be used; an image once in the store, rejected or not, is not read again.

    Raises StoreError where the store is of another body, category or version, InputError for options of another kind.
    """
    if not isinstance(body, Body):
        raise InputError(f"body: expected a chorus.Body, got {type(body).__name__}")
    if not 0 <= min_confidence <= 1:
        raise InputError(f"min_confidence: expected a number in 0..1, got {min_confidence!r}")
    check_budget(iterations, stop_px)
    ingest = {"min_confidence": min_confidence, "iterations": iterations, "stop_px": stop_px}
    options = with_given({"ingest": ingest}, provenance)
    paths = [Path(folder) for folder in folders]
    destination = Path(store_path)
    if (destination / "store.json").exists():
        store = open_store(destination, verify=False)
        if person_masks is not None and person_masks != store.has_person_masks:
            raise StoreError(f"person_masks: expected {store.has_person_masks}, as in the store, got {person_masks}")
        category, person_masks = category or store.category, store.has_person_masks
    if person_masks is None:
        person_masks = bool(paths) and all((path / PERSON_MASK).is_file() for path in paths)
    report = IngestReport()
    failed: list[tuple[str, str]] = []  # key and stage of the rows to write at the end
    seen: set[str] = set()
    with ExitStack() as stack:  # an exception drops what is not yet committed

        def open_writer(category: str) -> StoreWriter:
            return stack.enter_context(
                StoreWriter(
                    destination,
                    category=category,
                    num_joints=body.num_joints,
                    body_hash=body.hash,
                    person_masks=person_masks,
                    provenance=options,
                )
            )

        writer = None if category is None else open_writer(category)
        for number, path in enumerate(paths):
            key = None
            try:
                key = _key(path, root)
                if key in seen:
                    raise RecordError("key", f"folder: expected folders of different keys, got {key!r} again")
                seen.add(key)
                if writer is not None and key in writer:
                    report.present.append(key)
                    continue
                record = read_record(path)
                if category is not None and record.category != category:
                    raise RecordError("category", f"category: expected {category!r}, got {record.category!r}")
                if person_masks and record.person_mask is None:
                    raise RecordError("person mask", f"{PERSON_MASK}: missing, but the store keeps person masks")
                camera, residual = _camera(record, body, min_confidence, iterations, stop_px)
                if writer is None:
                    category = record.category
                    writer = open_writer(category)
                _append(writer, key, record, camera, residual, record.person_mask if person_masks else None)
                report.added.append(key)
                if not math.isnan(residual):
                    report.residual_px[key] = residual
            except StoreError:
                raise  # the store's fault, not the record's
            except InputError as error:
                report.rejected.append((str(path), str(error)))
                stage = error.stage if isinstance(error, RecordError) else "record"
                if key is not None and stage not in ("key", "category"):
                    failed.append((key, stage))
            finally:
                if progress is not None:
                    progress(number + 1, len(paths))
        if writer is not None and failed:
            writer.append_rejected([key for key, _ in failed], [stage for _, stage in failed])
    return report


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


def _camera(record: Record, body: Body, min_confidence: float, iterations: int, stop_px: float) -> tuple[Cameras, float]:
    """The record's camera, or one fitted to its keypoints (Eq. 8) and the residual in pixels, NaN where not fitted."""
    if len(record.pose) != body.num_joints:
        raise InputError(f"pose_axis_angle: expected {body.num_joints} joints, as the body, got {len(record.pose)}")
    if record.camera is not None:
        return record.camera, math.nan
    if record.keypoints is None:
        raise RecordError("camera", f"{RECORD}: expected a camera or keypoints_openpose25, got neither")
    targets, valid = keypoint_targets(record.keypoints[None], body.joint_names, min_confidence=min_confidence)
    if valid.sum() < MIN_JOINTS:
        raise RecordError(
            "camera",
            f"keypoints_openpose25: expected at least {MIN_JOINTS} keypoints of joints with a confidence of "
            f"{min_confidence:g}, got {valid.sum()}",
        )
    try:
        fit = fit_cameras(
            body.posed_joints(record.pose[None]),
            targets,
            valid,
            [record.image_size],
            R0=None if record.orientation is None else record.orientation[None],
            iterations=iterations,
            stop_px=stop_px,
        )
    except InputError as error:
        raise RecordError("camera", f"camera fit: {error}") from None
    return fit.cameras, float(fit.residual_px[0])


def _append(
    writer: StoreWriter, key: str, record: Record, camera: Cameras, residual: float, person: NDArray[np.bool_] | None
) -> None:
    writer.append(
        ImageBatch(record.object_mask[None], camera, record.pose[None], [key], prompts=[record.prompt]),
        betas=None if record.betas is None else record.betas[None],
        residual_px=[residual],
        estimators=record.source,
        person_masks=None if person is None else PackedMasks.pack([person]),
    )
