"""Whether votes can be asked which of them the body hides: the weight of those, and a backend that counts them."""

from __future__ import annotations

from typing import Any

import numpy as np

from chorus.errors import InputError
from chorus.kernels.backends import Backend, BackendUnavailableError


def checked_weight(weight: Any) -> float:
    """The weight of hidden votes as a float; InputError for what is no number from 0 to 1."""
    if isinstance(weight, bool) or not isinstance(weight, (int, float, np.integer, np.floating)) or not 0 <= weight <= 1:
        raise InputError(f"hidden_weight: expected a number from 0 (left out) to 1 (as others), got {weight!r}")
    return float(weight)


def check_backend(backend: Backend) -> None:
    """BackendUnavailableError for a backend of others that counts no hidden votes."""
    if not backend.counts_hidden:
        raise BackendUnavailableError(f"backend: {backend.name} counts no hidden votes. What does: triton, numba, reference")
