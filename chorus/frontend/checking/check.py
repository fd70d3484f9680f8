"""Tries a stage: made as a run makes it, given one picture, measured, and held to the contract of its kind."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from chorus.body.model import Body, load_body
from chorus.errors import InputError, StageError
from chorus.frontend.checking import weights
from chorus.frontend.checking.contract import ContractError
from chorus.frontend.checking.memory import Peak, peak_memory
from chorus.frontend.checking.picture import CATEGORY, draw
from chorus.frontend.checking.trial import trial
from chorus.frontend.checking.weights import Weights
from chorus.frontend.preparing import check_choices, make_stages
from chorus.frontend.pretrained import HubUnreachableError, split_revisions
from chorus.frontend.registry import KINDS, StageInfo, find, hub_models, is_installed, stages
from chorus.frontend.stage_info import WeightsMissingError
from chorus.frontend.stages import Runtime
from chorus.texts import shortened

FEW_STEPS = "4"
"""Denoising steps of a trial, where none are set: the picture is poor, and comes soon."""

_LONGEST = 900  # characters of an error, those of its middle being cut


@dataclass(frozen=True)
class StageReport:
    """What came of a stage's trial.

    kind, name  of the stage             weights   of each of its models; none where it has none
    device, dtype  where models ran      options   as the stage was given them
    given       what it was given        found     what came, as sentences
    contract    what obeyed its contract
    loading_s, running_s  seconds        memory    the most that both took
    """

    kind: str
    name: str
    weights: tuple[Weights, ...]
    device: str
    dtype: str
    options: dict[str, str]
    given: str
    found: tuple[str, ...]
    contract: str
    loading_s: float
    running_s: float
    memory: Peak


@dataclass(frozen=True)
class Outcome:
    """One line about a stage: its report, or why there is none.

    state  "works"; "failed"; or "not here": it cannot run on this machine as it is     reason  "" where it works
    """

    kind: str
    name: str
    state: str
    reason: str = ""
    report: StageReport | None = None


def choice(text: str, kind: str | None = None) -> tuple[str, str]:
    """Kind and NAME or NAME=MODEL of a stage that a text names as NAME, KIND:NAME or either with =MODEL.

    kind  the kind that is meant where the text has none. InputError for a name that no kind or several kinds have.
    """
    name, equals, model = text.partition("=")
    first, colon, rest = name.partition(":")
    if colon and first in KINDS and kind in (None, first):
        kind, name = first, rest
    if kind is None:
        having = [info.kind for info in stages() if info.name == name]
        if len(having) > 1:
            raise InputError(f"--check: expected {' or '.join(f'{other}:{name}' for other in having)}, got {name!r} alone")
        if not having:
            known = ", ".join(dict.fromkeys(info.name for info in stages()))
            raise InputError(f"--check: expected all, one of {known}, or KIND:module:Class; got {name!r}")
        kind = having[0]
    find(kind, name)
    return kind, f"{name}{equals}{model}"


def check_stage(
    kind: str, spec: str, runtime: Runtime | None = None, category: str = CATEGORY, body: Body | None = None
) -> StageReport:
    """Make the stage that ``NAME`` or ``NAME=MODEL`` names, have it work on one picture, and look at what comes.

    runtime   device, dtype, batch size and the stage's own options; None: the CPU, no options
    category  what prompts and detectors are asked for
    body      the body of the picture and of poses; None: the mannequin

    What is missing of a model of the hub is downloaded. Raises InputError as ``make_stages`` does, HubUnreachableError where
    the hub cannot be asked, ContractError where what comes is not what the kind must give, StageError for any error of the
    stage itself, and ImportError, naming what to install. Messages are one line.
    """
    body = load_body() if body is None else body
    runtime = runtime or Runtime()
    name = spec.partition("=")[0]
    with _one_line(kind, name):
        info = find(kind, name)
        options = _with_few_steps(info, dict(runtime.options))
        runtime = replace(runtime, kind=kind, options=options, body=body)
        named = {f"{kind}.{option}": value for option, value in options.items()}
        check_choices({kind: spec}, named, runtime, category)
        shown, before = draw(body), {model: weights.held(model) for model, _ in hub_models(kind, spec)}
        with peak_memory(runtime.device) as memory:
            began = time.perf_counter()
            stage = make_stages({kind: spec}, named, runtime, category)[kind]
            loaded = time.perf_counter()
            tried = trial(kind, stage, shown, category, body)
            found = tried.work()
            done = time.perf_counter()
        told, obeyed = tried.look(found)
        used = tuple(
            replace(one, downloaded=max(weights.held(one.model) - before.get(one.model, 0), 0))
            for one in _weights(kind, spec, runtime)
        )
    return StageReport(
        kind,
        name,
        used,
        runtime.device,
        runtime.dtype,
        options,
        tried.given,
        tuple(told),
        obeyed,
        loading_s=loaded - began,
        running_s=done - loaded,
        memory=memory,
    )


def check_all(
    runtime: Runtime | None = None, kind: str | None = None, begin: Callable[[str, str], None] | None = None
) -> Iterator[Outcome]:
    """Try every stage that can run here with its default model, one after the other, and say why others cannot.

    runtime  device, dtype and batch size of all; options are not used      kind  only of this one
    begin    called with kind and name before a stage is tried
    """
    body = load_body()
    for info in stages(kind):
        reason = _known_reason(info)
        if reason:
            yield Outcome(info.kind, info.name, "not here", reason)
            continue
        if begin is not None:
            begin(info.kind, info.name)
        yield _outcome(info, replace(runtime or Runtime(), options={}), body)
        gc.collect()  # a model may hold itself in a circle, and the next one needs its memory


def _known_reason(info: StageInfo) -> str:
    """Why a stage cannot be tried as it is, as far as that is known without trying; "" for none."""
    missing = [module for module in info.requires if not is_installed(module)]
    if missing:
        return f"{missing[0]} is not installed"
    return f"has no default model: --check {info.kind}:{info.name} --weights MODEL" if info.model == "" else ""


def _outcome(info: StageInfo, runtime: Runtime, body: Body) -> Outcome:
    try:
        report = check_stage(info.kind, info.name, runtime, body=body)
    except HubUnreachableError as error:
        reason = f"not on this machine, and the hub cannot be reached: {error.model}"
        return Outcome(info.kind, info.name, "not here", reason)
    except (ImportError, WeightsMissingError) as error:
        return Outcome(info.kind, info.name, "not here", shortened(str(error), _LONGEST))
    except (InputError, StageError) as error:
        return Outcome(info.kind, info.name, "failed", str(error))
    return Outcome(info.kind, info.name, "works", report=report)


def _with_few_steps(info: StageInfo, options: dict[str, str]) -> dict[str, str]:
    """The options of a trial: few denoising steps, unless some were asked for."""
    takes = [name for name, _ in info.options or ()]
    return {"steps": FEW_STEPS, **options} if info.kind == "images" and "steps" in takes else options


def _weights(kind: str, spec: str, runtime: Runtime) -> list[Weights]:
    """What this machine holds of the stage's models, once it is made."""
    models = hub_models(kind, spec)
    if models:
        revisions = split_revisions(runtime, len(models))
        return [weights.find(m, index, revision) for (m, index), revision in zip(models, revisions, strict=True)]
    info = find(kind, spec.partition("=")[0])
    model = spec.partition("=")[2] or info.model
    return [weights.find(model)] if model else []


@contextmanager
def _one_line(kind: str, name: str) -> Iterator[None]:
    """Errors inside, whatever raised them, as one line that names the stage."""
    try:
        yield
    except ContractError as error:
        raise ContractError(f"{kind} {name}: contract: {shortened(str(error), _LONGEST)}") from error
    except HubUnreachableError as error:
        words = f"{shortened(str(error), _LONGEST)}; here: --weights FOLDER"
        raise HubUnreachableError(words, error.model) from error
    except WeightsMissingError:
        raise
    except InputError as error:
        text = str(error) if str(error).startswith("--") else f"{kind} {name}: {error}"
        raise InputError(shortened(text, _LONGEST)) from error
    except (ImportError, StageError, MemoryError):
        raise
    except Exception as error:  # of the stage, which may be anyone's
        text = shortened(f"{type(error).__name__}: {error}", _LONGEST)
        raise StageError(f"{kind} {name}: expected it to work on one picture, got {text}") from error
