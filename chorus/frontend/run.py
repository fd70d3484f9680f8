"""A whole run: makes the images that a store lacks, in one process or several, and records in it what made them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chorus.errors import InputError, StoreError
from chorus.files import exclusive_lock
from chorus.frontend.devices import resolve
from chorus.frontend.pipeline import Pipeline, RunReport, Stages
from chorus.frontend.plan import Description, batches
from chorus.frontend.preparing import make_stages
from chorus.frontend.registry import KINDS, find, package_of
from chorus.frontend.stages import ImageRequest, Runtime
from chorus.ranks import Ranks
from chorus.store import StoreWriter
from chorus.store.filters.filtering import Filter, read_store_filter, write_store_filter
from chorus.store.shard_files import shard_paths

if TYPE_CHECKING:
    from chorus.body.model import Body

log = logging.getLogger(__name__)

RUN_LOCK = ".run.lock"
"""The file in a store that the run at work on it keeps locked."""
STAGE_KINDS = tuple(kind for kind in KINDS if kind != "prompts")
"""The stages that an image goes through; prompts are known before."""


@dataclass(frozen=True)
class Settings:
    """How a run is done; the settings that affect rows are also kept in the store's ``Description``.

    device        a torch device, or "auto": CUDA where there is one; of several this process's
    dtype         of the models, or "auto": float16 on CUDA, else float32
    batch         images that go through the stages together
    model_batch   most images a model is given at a time; None: as many of a batch as its memory holds
    calibration   arguments of ``calibrate``     duplicates  overlap and confidence of A.3's rule
    person_masks, keep_images, keep_format, commit_images, commit_seconds   as in ``Pipeline``
    """

    device: str = "auto"
    dtype: str = "auto"
    batch: int = 16
    model_batch: int | None = None
    calibration: dict[str, Any] = field(default_factory=dict)
    duplicates: tuple[float, float] = (0.8, 0.98)
    person_masks: bool = False
    keep_images: str = "none"
    keep_format: str = "jpeg"
    commit_images: int = 4096
    commit_seconds: float = 120.0

    def resolved(self, ranks: Ranks) -> tuple[str, str]:
        """Device and dtype with "auto" replaced by what this machine has; InputError as of ``devices.resolve``."""
        return resolve(self.device, self.dtype, ranks.local_rank)

    def described(self) -> dict[str, Any]:
        """The settings that affect rows, for the store's description."""
        return {
            "dtype": self.dtype,
            "calibration": dict(self.calibration),
            "duplicates": list(self.duplicates),
            "person_masks": self.person_masks,
        }


def make_all(description: Description, settings: Settings, ranks: Ranks, body: Body) -> Stages:
    """The stages of a description, ready to work; raises as ``make_stages`` does."""
    device, dtype = settings.resolved(ranks)
    specs = {kind: description.stages[kind] for kind in STAGE_KINDS}
    options = {name: value for name, value in description.options.items() if name.partition(".")[0] in specs}
    made = make_stages(specs, options, Runtime(device, dtype, settings.model_batch, body=body), description.category)
    return Stages(**made)


def check_store(path: Path, description: Description, accept_changes: bool = False) -> None:
    """StoreError where a store at ``path`` was made with other stages or settings than the description's."""
    if not (path / "store.json").exists():
        return
    stored = Description.load(path)
    if stored is None:
        if not shard_paths(path):  # empty: that of a run that was killed before it could say what it makes
            return
        raise StoreError(f"{path}: expected a store of the front end or a new name, got a store made by something else")
    difference = stored.difference(description)
    if difference and not accept_changes:
        raise StoreError(f"{path}: cannot add to this store: {difference} (--accept-changes adds all the same)")


def fill_store(
    path: Path,
    requests: Sequence[ImageRequest],
    description: Description,
    body: Body,
    settings: Settings | None = None,
    *,
    ranks: Ranks | None = None,
    stages: Stages | None = None,
    store_filter: Filter | None = None,
    accept_changes: bool = False,
    stop: threading.Event | None = None,
    progress: Callable[[RunReport, int], None] | None = None,
) -> RunReport:
    """Make the requested images that the store at ``path`` lacks, through all stages, and add their rows.

    requests      all images the store is to hold; those that it has already are left alone
    description   what they are made with; a store made with something else is refused, unless ``accept_changes``
    ranks         this process among several; each takes every ``world``-th of the batches missing at the start
    stages        stages to use instead of making those that the description names
    store_filter  the filter that a new store gets (``filter.json``); default: the paper's
    stop          once set, no batch is begun; those under way are finished and committed
    progress      called after each batch with the report so far and the number of images that this process is to make

    After a crash at any moment the same call goes on from the last commit. Raises InputError and StoreError for what does not
    fit, ImportError for missing libraries, StageError where a stage fails altogether.
    """
    settings, ranks = settings or Settings(), ranks or Ranks()
    ranks.agree(lambda: check_store(path, description, accept_changes))
    stages = stages or make_all(description, settings, ranks, body)

    def open_writer() -> StoreWriter:
        return StoreWriter(
            path,
            category=description.category,
            num_joints=body.num_joints,
            body_hash=body.hash,
            person_masks=settings.person_masks,
            shard_size=1 << 30,  # whole batches: the pipeline says when to commit
            provenance={"frontend": _provenance(description)},
        )

    def prepare() -> list[list[int]]:
        """The store made ready by the first process, and the images that it lacks, in batches."""
        with open_writer() as writer:
            try:
                held.enter_context(exclusive_lock(path / RUN_LOCK, wait=False))
            except BlockingIOError:
                raise StoreError(f"{path}: expected to be alone on this store, but another run is at work on it") from None
            description.save(path)
            if read_store_filter(path) is None:
                write_store_filter(path, store_filter or Filter.paper())
            index = {request.key: i for i, request in enumerate(requests)}
            if len(index) < len(requests):
                repeated = next(request.key for i, request in enumerate(requests) if index[request.key] != i)
                raise InputError(f"requests: expected different keys, got {repeated!r} twice")
            missing = [[index[r.key] for r in batch if r.key not in writer] for batch in batches(requests, settings.batch)]
        return [batch for batch in missing if batch]

    with ExitStack() as held:  # the lock of the run, in the first process
        share = ranks.share(ranks.agree(prepare))
        total = sum(map(len, share))
        pipeline = Pipeline(
            stages,
            description.category,
            body,
            calibration=settings.calibration,
            duplicates=settings.duplicates,
            estimator=description.stages["humans"].partition("=")[0] if description.stages else "",
            person_masks=settings.person_masks,
            keep_images=settings.keep_images,
            keep_format=settings.keep_format,
            commit_images=settings.commit_images,
            commit_seconds=settings.commit_seconds,
        )
        with open_writer() as writer:
            return pipeline.run(
                ([requests[i] for i in batch] for batch in share),
                writer,
                stop=stop,
                progress=None if progress is None else lambda report: progress(report, total),
            )


def _provenance(description: Description) -> dict[str, Any]:
    """Stages with their licences, options and versions of the libraries they use or come from, for the shards' headers."""
    import platform

    from chorus.provenance import installed_versions

    versions = installed_versions(("torch", "diffusers", "transformers"))
    packages = [package_of(kind, spec.partition("=")[0]) for kind, spec in description.stages.items()]
    versions.update(package for package in packages if package is not None)
    return {
        "stages": dict(description.stages),
        "licences": {kind: find(kind, spec.partition("=")[0]).licence for kind, spec in description.stages.items()},
        "options": dict(description.options),
        "seed": description.seed,
        "settings": description.settings,
        "versions": {"python": platform.python_version(), **versions},
    }
