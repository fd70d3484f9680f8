"""Finds and makes stages by name: the project's, those of other packages, and any class by ``module:Class``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

from chorus.errors import InputError
from chorus.frontend import third_party
from chorus.frontend.pretrained import location, split_models, split_revisions
from chorus.frontend.stage_info import KINDS, METHODS, StageInfo
from chorus.frontend.stages import Runtime
from chorus.frontend.third_party import BrokenStage

__all__ = [
    "KINDS",
    "BrokenStage",
    "StageInfo",
    "broken_stages",
    "check",
    "find",
    "hub_models",
    "make",
    "package_of",
    "register",
    "stages",
]

_PACKAGES = ("prompting", "synthesis", "detection", "keypoints", "humans", "simulated")
"""Modules of ``chorus.frontend`` that list their stages in STAGES; importing them loads no model library."""

_REGISTERED: dict[tuple[str, str], StageInfo] = {}


def register(info: StageInfo) -> None:
    """Make a stage known by its name in this process. InputError where the name is taken or the kind is unknown."""
    if info.kind not in KINDS:
        raise InputError(f"kind: expected one of {', '.join(KINDS)}; got {info.kind!r}")
    if (info.kind, info.name) in _known():
        raise InputError(f"name: expected one that is free, got {info.name!r}, which is a stage of kind {info.kind!r}")
    _REGISTERED[info.kind, info.name] = info


def stages(kind: str | None = None) -> list[StageInfo]:
    """All stages, or those of a kind: the project's, the registered ones, then those of installed packages."""
    found = [info for info in _known().values() if kind in (None, info.kind)]
    return [*found, *(info for wanted in _kinds(kind) for info in third_party.all_installed(wanted, _names(wanted))[0])]


def broken_stages(kind: str | None = None) -> list[BrokenStage]:
    """The entry points of installed packages of which no stage can be made, of all kinds or of one."""
    return [stage for wanted in _kinds(kind) for stage in third_party.all_installed(wanted, _names(wanted))[1]]


def find(kind: str, name: str) -> StageInfo:
    """The stage of this kind and name, or the one that ``module:Class`` names.

    InputError where there is none, naming those that can be chosen, or where one of another package cannot be loaded, and why.
    """
    known = _known()
    if (kind, name) in known:
        return known[kind, name]
    entry = None if ":" in name else third_party.installed(kind).get(name)
    if entry is None and ":" not in name:
        listed = ", ".join(dict.fromkeys([*_names(kind), *third_party.installed(kind)]))
        raise InputError(f"--{kind}: expected one of {listed}, or module:Class; got {name!r}")
    try:
        return third_party.stage_of_path(kind, name) if entry is None else third_party.stage_of_entry_point(kind, entry)
    except InputError as error:
        raise InputError(f"--{kind} {name}: {error}") from error


def package_of(kind: str, name: str) -> tuple[str, str] | None:
    """Name and version of the installed package that a stage comes from by entry point; None for all other stages."""
    entry = None if (kind, name) in _known() else third_party.installed(kind).get(name)
    return None if entry is None else third_party.distribution_of(entry)


def check(kind: str, spec: str, runtime: Runtime, category: str | None = None) -> tuple[StageInfo, str | None]:
    """The stage and the model that ``NAME`` or ``NAME=MODEL`` names, NAME being a stage's or ``module:Class``.

    No model is loaded, and no network used. InputError for unknown names and options, for a model that is missing, a model
    given to a stage that has none, and whatever the stage itself finds wrong (``StageInfo.checked_by``), be it with
    ``category``; ImportError, naming what to install, where a library is missing.
    """
    name, _, model = spec.partition("=")
    info = find(kind, name)
    if info.options is None:  # not declared: the stage itself checks them
        return info, model or None
    runtime = replace(runtime, kind=kind)
    runtime.check_options([option for option, _ in info.options])
    if info.model is None and model:
        raise InputError(f"--{kind} {name}: expected no model, this stage has none; got {model!r}")
    if info.model == "" and not model:
        raise InputError(f"--{kind} {name}: expected {name}=MODEL; {info.weights}")
    if info.local and not Path(model).expanduser().exists():
        raise InputError(f"--{kind} {name}: expected a path that exists, got {model!r}")
    for module in info.requires:
        if not is_installed(module):
            raise ImportError(f"--{kind} {name}: expected the module {module}, which is not installed: {info.needs}")
    models = hub_models(kind, spec)
    for text, index in models:
        location(text, kind, index)
    if models:
        split_revisions(runtime, len(models))
    chosen = str(Path(model).expanduser()) if info.local else model or info.model
    if info.checked_by:
        _named(info.checked_by)(chosen, runtime, category)
    return info, chosen


def hub_models(kind: str, spec: str) -> list[tuple[str, str]]:
    """The hub ids or folders that a stage's models are, each with the file that such a folder holds; none for other stages.

    InputError for another number of models than the stage has.
    """
    name, _, model = spec.partition("=")
    info = find(kind, name)
    if not info.hub:
        return []
    text = model or info.model or ""
    return list(zip(split_models(text, len(info.hub), kind), info.hub, strict=True))


def is_installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None


def make(kind: str, spec: str, runtime: Runtime) -> Any:
    """The stage that ``NAME`` or ``NAME=MODEL`` names, made ready.

    InputError as ``check`` raises it, for models that cannot be loaded, and for objects without the method of their kind;
    ImportError, naming what to install, where a library is missing.
    """
    info, model = check(kind, spec, runtime)
    made = third_party.construct(_named(info.made_by), model, replace(runtime, kind=kind))
    if not third_party.has_method(kind, made):
        found = type(made).__name__
        raise InputError(
            f"--{kind} {info.name}: expected a stage with the method {METHODS[kind]}, got a {found}, which lacks it"
        )
    return made


def _named(path: str) -> Any:
    """What "module:function" or "module:Class.method" names."""
    module, _, name = path.partition(":")
    return attrgetter(name)(importlib.import_module(module))


def _known() -> dict[tuple[str, str], StageInfo]:
    return {**_built_in(), **_REGISTERED}


@lru_cache(maxsize=1)
def _built_in() -> dict[tuple[str, str], StageInfo]:
    found = [info for name in _PACKAGES for info in importlib.import_module(f"chorus.frontend.{name}").STAGES]
    return {(info.kind, info.name): info for info in found}


def _names(kind: str) -> list[str]:
    return [info.name for info in _known().values() if info.kind == kind]


def _kinds(kind: str | None) -> tuple[str, ...]:
    return KINDS if kind is None else (kind,)
