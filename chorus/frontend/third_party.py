"""Stages of other packages: found by entry point, or by ``module:Class`` where a stage is chosen.

What an entry point in the group of its kind (``GROUPS``), or the name after the colon, stands for is one of these:

* a ``StageInfo``, which declares model, licences and options as the project's stages do;
* a callable ``(model, runtime) -> stage``, such as a class with that constructor. ``model`` is the text after ``=``, or None;
* a class that can be made without arguments.

Nothing of another package is imported before a stage of it is chosen, or all are listed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from chorus.errors import InputError
from chorus.frontend.stage_info import METHODS, StageInfo
from chorus.frontend.stages import Runtime

GROUPS = {
    "prompts": "chorus.prompts",
    "images": "chorus.images",
    "detector": "chorus.detectors",
    "keypoints": "chorus.keypoints",
    "humans": "chorus.humans",
}
"""Kind of stage -> group of entry points."""

_UNDECLARED = "not declared"


@dataclass(frozen=True)
class BrokenStage:
    """An installed entry point of which no stage can be made: its kind, its name, and what is wrong."""

    kind: str
    name: str
    error: str


def stage_of_path(kind: str, path: str) -> StageInfo:
    """The stage that ``module:Class`` names; the module is imported, the current directory being searched last.

    InputError where there is no such module or name, the module cannot be imported, or the name is not that of a stage.
    """
    if "" not in sys.path and os.getcwd() not in sys.path:  # the script `chorus`, other than `python -m`, leaves it out
        sys.path.append(os.getcwd())
    return _described(kind, path, path, _UNDECLARED, "")


def installed(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """The entry points of a kind's group by name; of several with the same name the first that Python finds."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for entry in importlib.metadata.entry_points(group=GROUPS[kind]):
        found.setdefault(entry.name, entry)
    return found


def stage_of_entry_point(kind: str, entry: importlib.metadata.EntryPoint) -> StageInfo:
    """The stage that an entry point names. InputError as ``stage_of_path`` raises it, naming the package."""
    distribution, licence = distribution_of(entry), _UNDECLARED
    if entry.dist is not None:
        facts = entry.dist.metadata
        declared = [facts[name].strip() for name in ("License-Expression", "License") if name in facts]
        licence = next((text.splitlines()[0] for text in declared if text), _UNDECLARED)
    path = entry.value.partition("[")[0].strip()  # "module:Class [extra]" is a form of entry points
    try:
        return _described(kind, entry.name, path, licence, " ".join(distribution or ()))
    except InputError as error:
        package = f" of {distribution[0]}" if distribution else ""
        raise InputError(f"{error} (entry point {entry.value!r}{package})") from error


def distribution_of(entry: importlib.metadata.EntryPoint) -> tuple[str, str] | None:
    """Name and version of the package that an entry point comes from; None where Python does not know."""
    return None if entry.dist is None else (entry.dist.name, entry.dist.version)


def all_installed(kind: str, taken: Collection[str]) -> tuple[list[StageInfo], list[BrokenStage]]:
    """The stages of all entry points of a kind, and those not loadable, or with a name that is ``taken`` or repeated."""
    working: list[StageInfo] = []
    broken: list[BrokenStage] = []
    names = set(taken)
    for entry in importlib.metadata.entry_points(group=GROUPS[kind]):
        try:
            if ":" in entry.name or entry.name in names:
                raise InputError(f"expected a name that is free and without a colon, got {entry.name!r} (of {entry.value!r})")
            names.add(entry.name)
            working.append(stage_of_entry_point(kind, entry))
        except InputError as error:
            broken.append(BrokenStage(kind, entry.name, str(error)))
    return working, broken


def construct(make: Callable[..., Any], model: str | None, runtime: Runtime) -> Any:
    """The stage that a callable makes, called with model and runtime or without arguments (see ``takes_nothing``)."""
    return make() if takes_nothing(make) else make(model, runtime)


def takes_nothing(make: Callable[..., Any]) -> bool:
    """Whether a callable is to be called without arguments: it requires none, and none is named ``runtime``."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return False
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p for p in parameters if p.default is p.empty and p.kind not in optional]
    return not required and all(p.name != "runtime" for p in parameters)


def has_method(kind: str, stage: object) -> bool:
    """Whether a stage, or the class of one, has the method of its kind."""
    return callable(getattr(stage, METHODS[kind], None))


def _described(kind: str, name: str, path: str, licence: str, needs: str) -> StageInfo:
    """The stage at ``module:name``: its StageInfo, or one made from its class or callable. InputError for anything else."""
    found = _imported(path)
    if isinstance(found, StageInfo):
        if found.kind != kind:
            raise InputError(f"expected a stage of kind {kind!r}, got a StageInfo of kind {found.kind!r}")
        return replace(found, name=name)
    if not callable(found):
        raise InputError(f"expected a StageInfo, a class or a callable (model, runtime) -> stage, got a {type(found).__name__}")
    if isinstance(found, type) and not has_method(kind, found):
        raise InputError(f"expected a class with the method {METHODS[kind]}, got {found.__name__}, which lacks it")
    what = (getattr(found, "__doc__", None) or "").strip().partition("\n")[0] or "(not described)"
    nothing = takes_nothing(found)
    return StageInfo(kind, name, path, what, None, licence, "as its author says", needs, () if nothing else None)


def _imported(path: str) -> Any:
    """What ``module:name`` names; ``name`` is dotted where it lies in a class. InputError where it cannot be imported."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise InputError(f"expected module:Class, got {path!r}")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # a module may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and (module == missing or module.startswith(f"{missing}.")):
            raise InputError(f"expected a module that Python finds, got {module!r}") from error
        raise InputError(f"expected a module that can be imported, got {module!r}: {type(error).__name__}: {error}") from error
    try:
        return attrgetter(name)(found)
    except AttributeError:
        raise InputError(f"expected a name in the module {module}, got {name!r}, which it lacks") from None
