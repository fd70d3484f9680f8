"""The stages by name: what each does, whose code and weights it uses and under which licence, and how it is made."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from chorus.errors import InputError
from chorus.frontend.stages import Runtime

_PACKAGES = ("prompting", "synthesis", "detection", "keypoints", "humans", "simulated")
"""Each has STAGES, its implementations, and imports no model library."""

KINDS = ("prompts", "images", "detector", "keypoints", "humans")
"""The stages that can be chosen, in the order in which they run."""


@dataclass(frozen=True)
class StageInfo:
    """One implementation of a stage.

    kind      one of KINDS                    name      by which it is chosen
    made_by   "module:function", or a class's method; called with the model (a hub id, a local folder or a file) and a Runtime
    what      what it does, in a line         model     the default model; "" where there is none and one must be named;
                                              None where the stage has no model
    licence   of the code and of the weights  weights   where they come from
    needs     what to install for it
    options   what ``--set KIND.NAME=VALUE`` can say, name -> meaning
    local     the model is a path of this machine, which must be there
    """

    kind: str
    name: str
    made_by: str
    what: str
    model: str | None
    licence: str
    weights: str
    needs: str = ""
    options: tuple[tuple[str, str], ...] = ()
    local: bool = False


_STAGES: dict[tuple[str, str], StageInfo] = {}


def register(info: StageInfo) -> None:
    """Make a stage known by its name. InputError where the name is taken, or the kind is none."""
    if info.kind not in KINDS:
        raise InputError(f"kind: expected one of {', '.join(KINDS)}; got {info.kind!r}")
    if (info.kind, info.name) in _STAGES:
        raise InputError(f"name: expected one that is free, got {info.name!r}, which is a stage of kind {info.kind!r}")
    _STAGES[info.kind, info.name] = info


def stages(kind: str | None = None) -> list[StageInfo]:
    """All stages, or those of a kind."""
    _load_catalogue()
    return [info for info in _STAGES.values() if kind in (None, info.kind)]


def find(kind: str, name: str) -> StageInfo:
    """The stage of this kind and name. InputError, naming those there are, where there is none."""
    _load_catalogue()
    try:
        return _STAGES[kind, name]
    except KeyError:
        known = ", ".join(info.name for info in stages(kind))
        raise InputError(f"--{kind}: expected one of {known}; got {name!r}") from None


def check(kind: str, spec: str, runtime: Runtime) -> tuple[StageInfo, str | None]:
    """The stage and the model that ``NAME`` or ``NAME=MODEL`` names; nothing is loaded.

    InputError for unknown names and options, and where a model is missing or one is named that the stage has no use for.
    """
    name, _, model = spec.partition("=")
    info = find(kind, name)
    replace(runtime, kind=kind).check_options([option for option, _ in info.options])
    if info.model is None and model:
        raise InputError(f"--{kind} {name}: expected no model, this stage has none; got {model!r}")
    if info.model == "" and not model:
        raise InputError(f"--{kind} {name}: expected {name}=MODEL; {info.weights}")
    if info.local and not Path(model).expanduser().exists():
        raise InputError(f"--{kind} {name}: expected a path that is there, got {model!r}")
    return info, model or info.model


def make(kind: str, spec: str, runtime: Runtime) -> Any:
    """The stage that ``NAME`` or ``NAME=MODEL`` names, made ready.

    InputError as of ``check`` and for models that cannot be loaded; ImportError, naming what to install, where a library is
    missing.
    """
    info, model = check(kind, spec, runtime)
    module, _, path = info.made_by.partition(":")
    return attrgetter(path)(importlib.import_module(module))(model, replace(runtime, kind=kind))


def _load_catalogue() -> None:
    for package in _PACKAGES:
        for info in importlib.import_module(f"chorus.frontend.{package}").STAGES:
            if (info.kind, info.name) not in _STAGES:
                register(info)
