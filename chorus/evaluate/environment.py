"""What figures were measured with: versions and machine."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import chorus

PACKAGES = ("torch", "numba", "llvmlite", "numpy", "scipy", "h5py")


def versions() -> dict[str, str]:
    """Versions of the project, of Python and of the packages that figures depend on."""
    return {"chorus": chorus.__version__, "python": platform.python_version()} | {p: metadata.version(p) for p in PACKAGES}


def machine() -> dict[str, Any]:
    """What a figure was measured on: ``cpu`` model, ``cores`` that this process may use, ``memory_gib``, ``system``."""
    facts = _cpuinfo()
    model = facts.get("model name", platform.processor() or platform.machine())
    if "cpu family" in facts:  # hypervisors shorten the name; family and model tell the generation all the same
        model += f" (family {facts['cpu family']} model {facts['model']})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory: float | None = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return {"cpu": model, "cores": cores, "memory_gib": memory, "system": f"{platform.system()} {platform.machine()}"}


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    lines = path.read_text().split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
