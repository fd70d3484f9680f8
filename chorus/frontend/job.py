"""The whole job by one call: from a category's name to a filled store, or from a folder of pictures to one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chorus.body.model import load_body
from chorus.errors import InputError
from chorus.frontend.pipeline import RunReport
from chorus.frontend.plan import Description, Plan
from chorus.frontend.preparing import check_choices, stage_options
from chorus.frontend.prompting import PRESETS, VIEWS, category_name, preset, usual_count
from chorus.frontend.registry import find, make
from chorus.frontend.run import Settings, check_store, fill_store
from chorus.frontend.stage_info import KINDS
from chorus.frontend.stages import ImageRequest, Runtime
from chorus.frontend.synthesis import folder_requests
from chorus.ranks import Ranks, ranks
from chorus.store import open_store

if TYPE_CHECKING:
    from chorus.body.model import Body

SIMULATED_IMAGES = 100
"""Images of a simulated run where no number is given."""
_KNOWN_AT_ONCE = (
    "builtin",
    "file",
    "simulated",
)  # sources of prompts without a model or a server: a dry run shows their prompts
_CAMERA_FIT = {"method": "adam", "focal": "auto"}


@dataclass(frozen=True)
class StageChoices:
    """Which stage does what, each as ``NAME``, ``NAME=MODEL``, ``module:Class`` or ``module:Class=MODEL``.

    humans     3D poses; no default, because its weights must be obtained by the user
    detector, keypoints, images, prompts   as ``chorus stages`` lists them
    options    "KIND.NAME" -> text, such as "images.steps" -> "30"
    numbered   image i gets the seed i, which is how simulated worlds number their images; else a hash (``Plan``)
    """

    humans: str
    detector: str = "mask2former"
    keypoints: str = "vitpose"
    images: str = "stable-diffusion"
    prompts: str = "builtin"
    options: Mapping[str, str] = field(default_factory=dict)
    numbered: bool = False

    @classmethod
    def simulated(cls, options: Mapping[str, str] | None = None) -> StageChoices:
        """Every stage played by a simulated world, without any model."""
        one = "simulated"
        return cls(one, one, one, one, one, options or {}, numbered=True)

    def specs(self) -> dict[str, str]:
        """Kind -> stage, in the order in which they run."""
        return {kind: getattr(self, kind) for kind in KINDS}


@dataclass(frozen=True)
class PlanOptions:
    """How many images of what.

    images   in all; None: as Table 3 has for the category, SIMULATED_IMAGES for a simulated world
    prompts  most prompts to take; None: as Table 3 has, else 10; of a file all
    views    of the 22 view augmentations of A.1, "" for none; empty: all of them
    seed     of the run, at least 0
    """

    images: int | None = None
    prompts: int | None = None
    views: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """All images that a store is to hold and what they are made with: decided, but nothing made yet.

    requests  all images; those that the store has are left alone      ranks  this process among those of the run
    accept_changes  whether the store may have been made with other stages or settings
    """

    output: Path
    requests: Sequence[ImageRequest]
    description: Description
    settings: Settings
    ranks: Ranks
    accept_changes: bool = False

    def present(self) -> int:
        """The number of requested images that the store has already."""
        if not (self.output / "store.json").exists():
            return 0
        stored = set(open_store(self.output, verify=False).rows["key"].tolist())
        return sum(request.key.encode() in stored for request in self.requests)

    def run(
        self,
        body: Body,
        *,
        stop: threading.Event | None = None,
        progress: Callable[[RunReport, int], None] | None = None,
    ) -> RunReport:
        """Make what the store lacks; arguments and errors are those of ``fill_store``."""
        return fill_store(
            self.output,
            self.requests,
            self.description,
            body,
            self.settings,
            ranks=self.ranks,
            accept_changes=self.accept_changes,
            stop=stop,
            progress=progress,
        )


def synthesize(
    category: str,
    output: str | os.PathLike[str],
    stages: StageChoices,
    plan: PlanOptions | None = None,
    settings: Settings | None = None,
    *,
    body: Body | None = None,
    accept_changes: bool = False,
    stop: threading.Event | None = None,
    progress: Callable[[RunReport, int], None] | None = None,
) -> RunReport:
    """From a category's name to a filled store: prompts, images, detection, keypoints, 3D pose, camera.

    category        the object's name, as the detector knows it      output  the store, which is made or added to
    stages          which stage does what                            plan    how many images of what
    settings        device, batches, the camera fit, ...             body    the body that poses belong to; None: the mannequin
    accept_changes  add to a store that was made with other stages or settings
    stop            once set, no batch is begun; those under way are finished and committed
    progress        called after each batch with the report so far and the number of images that this process is to make

    The same call goes on where an earlier one ended, however it ended. Under ``torchrun`` every process makes the call and
    takes its share; the report is of this process. Raises InputError and StoreError for what does not fit, ImportError for
    missing libraries, StageError where a stage fails altogether.
    """
    with ranks() as processes:
        body = load_body() if body is None else body
        job = plan_synthesis(
            category, output, stages, plan, settings, body=body, processes=processes, accept_changes=accept_changes
        )
        return job.run(body, stop=stop, progress=progress)


def plan_synthesis(
    category: str,
    output: str | os.PathLike[str],
    stages: StageChoices,
    plan: PlanOptions | None = None,
    settings: Settings | None = None,
    *,
    body: Body | None = None,
    processes: Ranks | None = None,
    accept_changes: bool = False,
    ask: bool = True,
) -> Job:
    """The job of ``synthesize``. Its prompts are those of an earlier run on the store, else the source gives them now.

    body       the body that poses are to belong to, where stages are to be checked against it
    processes  as ``chorus.ranks.ranks`` gives them; the first one asks for prompts, and shares them
    ask        False: no model and no server is asked, placeholders stand for their prompts; for a dry run

    All that was chosen is checked before a prompt is asked for, and nothing is loaded or downloaded for that. Raises
    InputError, StoreError and ImportError as ``synthesize``.
    """
    output, plan, processes = Path(output), plan or PlanOptions(), processes or Ranks()
    check_views(plan.views)
    images, views = _images(category, stages, plan.images), plan.views or VIEWS
    Plan(category, ("any",), views, images, plan.seed)  # raises for numbers out of bounds, and for views that come twice
    settings, options = _settled(settings), dict(stages.options)
    device, dtype = settings.resolved(processes)
    check_choices(stages.specs(), options, Runtime(device, dtype, settings.model_batch, body=body), category)
    described = settings.described()
    description = Description(category, stages.specs(), options, (), views, plan.seed, described)
    check_store(output, description, accept_changes)
    where = (device, dtype) if ask else None
    prompts = processes.agree(lambda: _prompts(output, category, stages, plan.prompts, where))
    dealt = Plan(category, tuple(prompts), views, images, plan.seed)
    requests = [replace(request, seed=i) for i, request in enumerate(dealt)] if stages.numbered else list(dealt)
    description = replace(description, prompts=dealt.prompts)
    return Job(output, requests, description, settings, processes, accept_changes)


def plan_folder(
    folder: str | os.PathLike[str],
    category: str,
    output: str | os.PathLike[str],
    stages: StageChoices,
    settings: Settings | None = None,
    *,
    prompt: str | None = None,
    body: Body | None = None,
    processes: Ranks | None = None,
    accept_changes: bool = False,
) -> Job:
    """The job of taking a folder's pictures into a store. ``stages.images`` and ``stages.prompts`` are not used.

    prompt  the prompt of all pictures; None: the name of each picture's folder

    Other arguments, checks and errors are those of ``plan_synthesis``.
    """
    output, processes, settings, options = Path(output), processes or Ranks(), _settled(settings), dict(stages.options)
    specs = {**stages.specs(), "images": f"folder={os.fspath(folder)}"}
    del specs["prompts"]
    device, dtype = settings.resolved(processes)
    check_choices(specs, options, Runtime(device, dtype, settings.model_batch, body=body), category)
    description = Description(category, specs, options, settings=settings.described())
    check_store(output, description, accept_changes)
    requests = processes.agree(lambda: folder_requests(Path(folder), prompt))
    return Job(output, requests, description, settings, processes, accept_changes)


def check_views(views: Sequence[str]) -> None:
    """InputError for a text that is not one of the 22 view augmentations of A.1."""
    unknown = [view for view in views if view not in VIEWS]
    if unknown:
        raise InputError(f"views: expected one of the 22 view augmentations ({', '.join(VIEWS)}), got {unknown[0]!r}")


def _settled(settings: Settings | None) -> Settings:
    """The settings with every default that affects rows filled in, as the store's description keeps them."""
    settings = settings or Settings()
    _, dtype = settings.resolved(Ranks())
    calibration: dict[str, Any] = {**_CAMERA_FIT, **settings.calibration}
    return replace(settings, dtype=dtype, calibration=calibration)


def _prompts(output: Path, category: str, stages: StageChoices, count: int | None, where: tuple[str, str] | None) -> list[str]:
    """The prompts of an earlier run on the store, else those that the source gives now.

    where  device and dtype for a source that needs them; None: no model and no server is asked
    """
    source = stages.prompts
    stored = Description.load(output) if output.exists() else None
    if stored is not None and stored.category == category and stored.stages.get("prompts") == source:
        return list(stored.prompts)[:count]
    chosen, wanted = stage_options(stages.options, "prompts"), count or usual_count(category, source)
    if where is None:
        info = find("prompts", source.partition("=")[0])
        if info.name not in _KNOWN_AT_ONCE:
            return [f"(prompt {i + 1} of up to {wanted} that {source} will be asked for)" for i in range(wanted)]
    runtime = Runtime(options=chosen) if where is None else Runtime(*where, options=chosen)
    found: list[str] = make("prompts", source, runtime).prompts(category, wanted)
    return found


def _images(category: str, stages: StageChoices, images: int | None) -> int:
    """The number of images to make; InputError where none is given and the category has none in the paper."""
    if images is not None:
        return images
    if stages.numbered:
        return SIMULATED_IMAGES
    if category_name(category) not in PRESETS:
        raise InputError(f"--count: expected how many images to make, for {category!r} is not in the paper's Table 3; got none")
    return preset(category).images
