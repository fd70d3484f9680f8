"""Provenance of results: versions, command line, machine, and what users add to them."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from chorus._version import __version__
from chorus.errors import InputError

PACKAGES = ("torch", "numba", "llvmlite", "numpy", "scipy", "h5py")
"""Packages whose versions are kept with measured figures."""


def provenance() -> dict[str, Any]:
    """Versions and command line, for the files that the project writes."""
    import numpy as np
    import torch

    return {
        "chorus": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "command": sys.argv,
    }


def versions() -> dict[str, str]:
    """Versions of the project, of Python and of PACKAGES, for measured figures."""
    return {"chorus": __version__, "python": platform.python_version(), **installed_versions(PACKAGES)}


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version, for the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The machine: ``cpu`` model, number of ``cores`` that this process may use, ``memory_gib`` or None, ``system``."""
    facts = _cpuinfo()
    model = facts.get("model name", platform.processor() or platform.machine())
    if "cpu family" in facts:  # hypervisors shorten the name; family and model still tell the generation
        model += f" (family {facts['cpu family']} model {facts['model']})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory: float | None = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return {"cpu": model, "cores": cores, "memory_gib": memory, "system": f"{platform.system()} {platform.machine()}"}


def with_given(facts: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The project's facts merged with those that a user gives, which take precedence.

    Raises InputError, which shows ``given``, where JSON cannot hold the result; NaN and infinities are refused, too.
    """
    merged = {**facts, **(given or {})}
    try:
        json.dumps(merged, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"provenance: expected what JSON can hold, got {given!r} ({error})") from None
    return merged


def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo; empty on systems without it."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    lines = path.read_text().split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
