"""Where models run and in which type: what was asked for, checked against what this machine has."""

from __future__ import annotations

from typing import Any

from chorus.errors import InputError

DTYPES = ("float32", "float16", "bfloat16")


def resolve(device: str = "auto", dtype: str = "auto", local_rank: int = 0) -> tuple[str, str]:
    """Device and dtype with "auto" replaced by what this machine has; of several GPUs the ``local_rank``-th.

    InputError for a device that this machine does not have and for an unknown dtype.
    """
    import torch

    if dtype not in ("auto", *DTYPES):
        raise InputError(f"dtype: expected auto, {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, got {dtype!r}")
    if device == "auto":
        device = f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    else:
        _check_device(device)
    if dtype == "auto":
        dtype = "float16" if device.startswith("cuda") else "float32"
    return device, dtype


def _check_device(device: str) -> None:
    import torch

    try:
        asked = torch.device(device)
    except (RuntimeError, ValueError):
        raise InputError(f"device: expected auto, cpu, cuda, cuda:1 or the like, got {device!r}") from None
    if asked.type == "cpu":
        return
    backend: Any = getattr(torch, asked.type, None)  # torch.cuda, torch.mps, torch.xpu
    count = backend.device_count() if backend is not None and getattr(backend, "is_available", lambda: True)() else 0
    if (asked.index or 0) >= count:
        has = ", ".join(["cpu", *(f"{asked.type}:{i}" for i in range(count))])
        raise InputError(f"device: expected one that this machine has ({has}), got {device!r}")
