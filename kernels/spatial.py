"""Points in an order in which neighbours in the list are neighbours in space; compiled by numba for every backend."""

from __future__ import annotations

import numpy as np

from chorus.kernels.jit import compiled


@compiled()
def spatial_order(points, run):  # type: ignore[no-untyped-def]
    """Order of (P, 3) points in which every ``run`` of them lies close together: halved across the longest side, and again."""
    order = np.arange(len(points))
    key = np.empty(len(points))
    first, last = np.empty(64, np.int64), np.empty(64, np.int64)
    first[0], last[0], depth = 0, len(points), 1
    while depth:
        depth -= 1
        a, b = first[depth], last[depth]
        tiles = (b - a + run - 1) // run
        if tiles < 2:
            continue
        axis, longest = 0, -1.0
        for c in range(3):
            low, high = np.inf, -np.inf
            for i in range(a, b):
                low, high = min(low, points[order[i], c]), max(high, points[order[i], c])
            if high - low > longest:
                axis, longest = c, high - low
        for i in range(a, b):
            key[i] = points[order[i], axis]
        middle = a + tiles // 2 * run
        select(key[a:b], order[a:b], b - a, middle - a)
        first[depth], last[depth] = a, middle
        first[depth + 1], last[depth + 1] = middle, b
        depth += 2
    return order


@compiled()
def select(key, companion, count, k):  # type: ignore[no-untyped-def]
    """Bring the k smallest of the first ``count`` keys, 1 <= k <= count, to the front, and their companions with them."""
    low, high = 0, count - 1
    while low < high:
        pivot = key[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while key[i] < pivot:
                i += 1
            while key[j] > pivot:
                j -= 1
            if i <= j:
                key[i], key[j] = key[j], key[i]
                companion[i], companion[j] = companion[j], companion[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return
