"""Means over repetitions and their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from chorus.errors import InputError

CONFIDENCE = 0.95
"""Level of every interval that is reported."""


def t_interval(values: Sequence[float] | NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Mean of n values and the half width of its two-sided t-interval, t(n - 1) s / sqrt(n).

    Raises InputError for fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise InputError(f"values: expected at least 2, got {n}")
    quantile = float(stats.t.ppf((1 + confidence) / 2, n - 1))
    return float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / math.sqrt(n)
