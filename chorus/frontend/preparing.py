"""Everything that was chosen is checked before any of it is loaded or downloaded; then the stages are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chorus.errors import InputError
from chorus.frontend.pretrained import reach, split_revisions
from chorus.frontend.registry import KINDS, check, hub_models, make
from chorus.frontend.stages import Runtime, check_category


def stage_options(options: Mapping[str, str], kind: str) -> dict[str, str]:
    """The options of one kind, NAME -> value, out of "KIND.NAME" -> value."""
    return {name.partition(".")[2]: value for name, value in options.items() if name.partition(".")[0] == kind}


def check_choices(specs: Mapping[str, str], options: Mapping[str, str], runtime: Runtime, category: str | None = None) -> None:
    """Raise for stages that cannot be made, as far as that can be known without loading a model or using a network.

    specs     kind -> stage, as ``registry.check`` takes it
    options   "KIND.NAME" -> text
    runtime   where and how the stages are to run; its options are not used, and ``body`` may be None where it is not known
    category  what the stages will be asked for; None where that is not known

    InputError for options of no stage, unknown names and models, paths that do not exist and values out of bounds;
    ImportError, naming what to install, for libraries that are missing.
    """
    kinds = [kind for kind in KINDS if kind in specs]
    for name in options:
        kind, dot, rest = name.partition(".")
        if kind not in kinds or not dot or not rest:
            raise InputError(f"--set {name}: expected KIND.NAME=VALUE with a kind among {', '.join(kinds)}; got {name!r}")
    for kind in kinds:
        check(kind, specs[kind], replace(runtime, options=stage_options(options, kind)), category)


def make_stages(
    specs: Mapping[str, str], options: Mapping[str, str], runtime: Runtime, category: str | None = None
) -> dict[str, Any]:
    """Kind -> stage, ready to work; arguments as of ``check_choices``, which is called first.

    What fails soonest comes first: files of this machine are read, then the hub is asked for all models before one is
    downloaded, and the detector, which may not know the category, is made before larger models.
    """
    check_choices(specs, options, runtime, category)
    runtimes = {kind: replace(runtime, options=stage_options(options, kind)) for kind in specs}
    models = {kind: hub_models(kind, specs[kind]) for kind in specs}
    made: dict[str, Any] = {}
    asked = False
    for kind in sorted(specs, key=lambda kind: (bool(models[kind]), kind != "detector", KINDS.index(kind))):
        if models[kind] and not asked:
            for other, wanted in models.items():
                revisions = split_revisions(runtimes[other], len(wanted)) if wanted else []
                for (model, index), revision in zip(wanted, revisions, strict=True):
                    reach(model, other, index, revision)
            asked = True
        made[kind] = make(kind, specs[kind], runtimes[kind])
        if kind == "detector" and category is not None:
            check_category(made[kind], category)
    return made
