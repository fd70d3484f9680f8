"""The stages one after the other: requests in, rows of a store out. An image that fails becomes a row with a reason."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from chorus.errors import InputError, StageError, StoreError
from chorus.frontend.cameras import calibrate
from chorus.frontend.detection.duplicates import without_duplicates
from chorus.frontend.flow import Flow, StageTime
from chorus.frontend.rows import PendingRow, append, take_human, take_instances, take_keypoints
from chorus.frontend.stage_units import StageUnits
from chorus.frontend.stages import (
    Detector,
    Human,
    HumanEstimator,
    ImageRequest,
    ImageSource,
    Instances,
    KeypointEstimator,
    Picture,
    Refusal,
)
from chorus.keypoints import COCO_KEYPOINTS
from chorus.store import COMPLETE, StoreWriter, encode_picture
from chorus.store.keeping import FORMATS

if TYPE_CHECKING:
    from chorus.body.model import Body

KEEP = ("none", "complete", "all")
"""Which pictures are kept beside the shards."""
FAILED = "failed: "
"""Begins the status of an image for which a stage raised an error."""
FAILURES_IN_A_ROW = 16
"""After errors for so many images in a row the stage is taken to be broken, and the run ends."""
MOST_PICTURE_BYTES = 1 << 26
"""Rows are committed once their pictures take so many bytes: until then they are held in memory."""
_REASON = 120  # characters of an error that a status shows
_REASONS = 100  # different statuses with details in a run; a shard's vocabulary has room for 256
_RESULTS: dict[str, tuple[type, ...]] = {
    "images": (Picture, Refusal),
    "detector": (Instances,),
    "keypoints": (np.ndarray,),
    "humans": (Human, Refusal),
}
"""The types of each stage's result for one image."""
_R = TypeVar("_R")


@dataclass
class Stages:
    """The stages of a run, ready to work."""

    images: ImageSource
    detector: Detector
    keypoints: KeypointEstimator
    humans: HumanEstimator


@dataclass
class RunReport:
    """What a run did.

    rows     status -> number of images         seconds  from the first request to the last commit
    times    of the stages                      stopped  whether it was asked to stop and left something undone
    warnings what can hardly be in metres, radians or pixels, a sentence a field; also warned of (``UnitsWarning``)
    """

    rows: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    times: list[StageTime] = field(default_factory=list)
    stopped: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        return sum(self.rows.values())


class Pipeline:
    """Runs batches of requests through the stages into a store.

    category       the object that the images are to show, by the name that the detector knows it by
    body           the body that poses belong to, and whose joints cameras are fitted to
    calibration    arguments of ``chorus.frontend.cameras.calibrate``
    duplicates     overlap and confidence of the rule of A.3, as in ``without_duplicates``
    estimator      name of the 3D pose stage, kept in the store for each Human that names no ``estimator``
    person_masks   whether the store keeps masks of the person
    keep_images    pictures that the store keeps: "none", "complete" (those that get a mask, a pose and a camera) or "all"
    keep_format    how: "jpeg", or "png", which loses nothing
    commit_images, commit_seconds   rows are committed once there are so many, or the last commit is so many seconds
                   ago: what a crash can lose
    """

    def __init__(
        self,
        stages: Stages,
        category: str,
        body: Body,
        *,
        calibration: dict[str, Any] | None = None,
        duplicates: tuple[float, float] = (0.8, 0.98),
        estimator: str = "",
        person_masks: bool = False,
        keep_images: str = "none",
        keep_format: str = "jpeg",
        commit_images: int = 4096,
        commit_seconds: float = 120.0,
    ) -> None:
        if keep_images not in KEEP:
            raise InputError(f"keep_images: expected one of {', '.join(KEEP)}; got {keep_images!r}")
        if keep_format not in FORMATS:
            raise InputError(f"keep_format: expected one of {', '.join(FORMATS)}; got {keep_format!r}")
        self.stages, self.category, self.body = stages, category, body
        self._calibration, self._duplicates = calibration or {}, duplicates
        self._estimator, self._person_masks = estimator, person_masks
        self._keep, self._keep_format = keep_images, keep_format
        self._commit_images, self._commit_seconds = commit_images, commit_seconds
        self._failures: Counter[str] = Counter()
        self._reasons: set[str] = set()
        self._units = StageUnits()

    def run(
        self,
        batches: Iterable[Sequence[ImageRequest]],
        writer: StoreWriter,
        *,
        stop: threading.Event | None = None,
        progress: Callable[[RunReport], None] | None = None,
    ) -> RunReport:
        """Make the images of the batches and append their rows, in order.

        stop      once set, no further batch is begun; those under way are finished and committed
        progress  called after each batch

        Rows are committed in whole batches, and what has been appended is committed also when an error ends the run.
        Raises StageError where a stage fails for FAILURES_IN_A_ROW images in a row; batches just before that of which every
        image failed are not written, so that the next run tries them again.
        """
        report, stop = RunReport(), stop or threading.Event()
        began = committed = time.perf_counter()
        flow = Flow(
            ([PendingRow(request) for request in batch] for batch in batches),
            [
                ("images", self._make),
                ("detector", self._detect),
                ("keypoints", self._find_keypoints),
                ("humans", self._find_humans),
                ("camera", self._fit_cameras),
            ],
            stop=stop,
        )
        report.times = [*flow.times, StageTime("store")]
        held: list[list[PendingRow]] = []
        pending = 0
        try:
            for batch in flow:
                start = time.perf_counter()
                held.append(batch)
                if all(row.reason.startswith(FAILED) for row in batch):
                    continue
                pending += self._write(writer, held, report)
                full = pending >= self._commit_images or writer.picture_bytes >= MOST_PICTURE_BYTES
                if full or time.perf_counter() - committed > self._commit_seconds:
                    writer.flush()
                    pending, committed = 0, time.perf_counter()
                report.times[-1].batches += 1
                report.times[-1].busy += time.perf_counter() - start
                if progress is not None:
                    progress(report)
            self._write(writer, held, report)
        except (StoreError, OSError):  # the store itself failed: nothing more can be written
            flow.close()
            raise
        except Exception:
            try:
                writer.flush()
            finally:
                flow.close()
            raise
        except BaseException:  # a second Ctrl-C: at once means not to wait for the batches under way
            writer.flush()
            raise
        start = time.perf_counter()
        writer.flush()
        report.times[-1].busy += time.perf_counter() - start
        report.warnings = self._units.finish()
        report.seconds, report.stopped = time.perf_counter() - began, flow.cut_short
        return report

    def _write(self, writer: StoreWriter, held: list[list[PendingRow]], report: RunReport) -> int:
        """Write the held batches and empty the list. Returns how many images they had."""
        count = 0
        while held:
            batch = held.pop(0)
            for row in batch:
                row.reason = self._limited(row.reason)
                if self._keep == "all" or (self._keep == "complete" and not row.reason):
                    self._keep_picture(row)
            append(writer, batch, self._estimator, self._person_masks)
            report.rows.update(row.reason or COMPLETE for row in batch)
            count += len(batch)
        return count

    def _keep_picture(self, row: PendingRow) -> None:
        """Have the writer keep an image's picture, which is committed with its row."""
        if row.picture is not None:
            pixels = row.picture.pixels
            row.kept = pixels if self._keep_format == "jpeg" else encode_picture(pixels, "png")

    def _limited(self, reason: str) -> str:
        """A reason, without its details once _REASONS different ones have been used: the store's vocabulary is limited."""
        if reason not in self._reasons and len(self._reasons) >= _REASONS:
            reason = ": ".join(reason.split(": ")[:2])[:_REASON] if reason.startswith(FAILED) else reason.split(": ")[0]
        self._reasons.add(reason)
        return reason

    def _make(self, batch: list[PendingRow]) -> None:
        for row, made in self._each("images", batch, lambda live: self.stages.images.images([row.request for row in live])):
            if isinstance(made, Refusal):
                row.reason = made.reason
            else:
                row.picture = made

    def _detect(self, batch: list[PendingRow]) -> None:
        def find(live: list[PendingRow]) -> Sequence[Instances]:
            return self.stages.detector.detect([row.picture for row in live if row.picture is not None], self.category)

        overlap, sure = self._duplicates
        for row, found in self._each("detector", batch, find):
            if found.masks.shape[1:] != row.size:
                raise StageError(
                    f"detector: expected masks of height, width {row.size}, as the picture, got {found.masks.shape[1:]}"
                )
            take_instances(row, without_duplicates(found, overlap, sure), self.category)
        self._units.look_at("detector", batch)

    def _find_keypoints(self, batch: list[PendingRow]) -> None:
        def find(live: list[PendingRow]) -> Sequence[Any]:
            return list(self.stages.keypoints.keypoints([row.picture for row in live if row.picture is not None], _boxes(live)))

        for row, keypoints in self._each("keypoints", batch, find):
            if keypoints.shape != (len(COCO_KEYPOINTS), 3):
                raise StageError(f"keypoints: expected ({len(COCO_KEYPOINTS)}, 3) of each image, got {keypoints.shape}")
            take_keypoints(row, keypoints)
        self._units.look_at("keypoints", batch)

    def _find_humans(self, batch: list[PendingRow]) -> None:
        def find(live: list[PendingRow]) -> Sequence[Any]:
            return self.stages.humans.humans([row.picture for row in live if row.picture is not None], _boxes(live))

        for row, human in self._each("humans", batch, find):
            if isinstance(human, Refusal):
                row.reason = human.reason
            elif len(human.pose) != self.body.num_joints:
                raise StageError(f"humans: expected {self.body.num_joints} joints, as the body has, got {len(human.pose)}")
            else:
                take_human(row, human)
        self._units.look_at("humans", batch)

    def _fit_cameras(self, batch: list[PendingRow]) -> None:
        def fit(live: list[PendingRow]) -> Sequence[Any]:
            humans = [row.human for row in live if row.human is not None]
            sizes = np.array([row.size for row in live], np.int32)
            found = calibrate(humans, sizes, self.body, **self._calibration)
            rows = [np.array([i]) for i in range(len(live))]
            return [
                (found.cameras[row], float(residual), reason)
                for row, residual, reason in zip(rows, found.residual_px, found.reasons, strict=True)
            ]

        for row, (camera, residual, reason) in self._each("camera", batch, fit):
            if reason:
                row.reason = "no camera"
            else:
                row.camera, row.residual_px = camera, residual

    def _each(
        self, stage: str, batch: list[PendingRow], call: Callable[[list[PendingRow]], Sequence[_R]]
    ) -> list[tuple[PendingRow, _R]]:
        """A stage's results for the images without a reason. If it raises, each is tried alone, and its error is its reason."""
        live = [row for row in batch if not row.reason]
        if not live:
            return []
        try:
            found = self._called(stage, live, call)
        except StageError:
            raise
        except Exception as error:
            if len(live) == 1:
                self._blame(stage, live[0], error)
                return []
            return [pair for row in live for pair in self._each(stage, [row], call)]
        self._failures[stage] = 0
        return list(zip(live, found, strict=True))

    @staticmethod
    def _called(stage: str, live: list[PendingRow], call: Callable[[list[PendingRow]], Sequence[_R]]) -> Sequence[_R]:
        """The results of one call, checked. StageError for a wrong number or type of them."""
        found = call(live)
        if len(found) != len(live):
            raise StageError(f"{stage}: expected {len(live)} results, one an image, got {len(found)}")
        for result in found:
            if stage in _RESULTS and not isinstance(result, _RESULTS[stage]):
                expected = " or ".join(kind.__name__ for kind in _RESULTS[stage])
                raise StageError(f"{stage}: expected {expected} of each image, got {type(result).__name__}")
        return found

    def _blame(self, stage: str, row: PendingRow, error: Exception) -> None:
        """Make an error the reason of an image. StageError after FAILURES_IN_A_ROW of them."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        row.reason = f"{FAILED}{stage}: {text}"[:_REASON]
        self._failures[stage] += 1
        if self._failures[stage] >= FAILURES_IN_A_ROW:
            raise StageError(f"{stage}: failed for {FAILURES_IN_A_ROW} images in a row, at last with {text}") from error


def _boxes(rows: Sequence[PendingRow]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The persons' boxes (I, 4) float32 x0, y0, x1, y1 pixels."""
    return np.stack([row.person.boxes[0] for row in rows if row.person is not None])
