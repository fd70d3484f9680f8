"""A set of keys as sorted arrays: what a set of Python holds, in less memory."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.store.key_set import KeySet

KEYS = st.lists(st.lists(st.binary(min_size=1, max_size=6).filter(lambda key: key[-1] != 0), max_size=20), max_size=12)


@settings(max_examples=60, deadline=None)
@given(KEYS, st.lists(st.binary(min_size=1, max_size=6).filter(lambda key: key[-1] != 0), max_size=20))
def test_it_is_a_set(shards: list[list[bytes]], asked: list[bytes]) -> None:
    expected: set[bytes] = set()
    keys = KeySet()
    for shard in shards:
        keys.add_all(np.array(shard, "S") if shard else np.zeros(0, "S1"))
        expected |= set(shard)
        assert len(keys) == len(expected)
        assert keys == expected
        assert set(keys) == expected
    for key in [*asked, *expected]:
        assert (key in keys) is (key in expected)
    both = np.array(asked, "S") if asked else np.zeros(0, "S1")
    assert keys.shared_with(both) == set(asked) & expected
    assert "text" not in keys


def test_arrays_stay_few() -> None:
    keys = KeySet()
    for first in range(0, 100_000, 100):
        keys.add_all(np.array([f"image-{i}" for i in range(first, first + 100)], "S"))
    assert len(keys) == 100_000
    assert len(keys._sorted) < 12
    assert sum(some.nbytes for some in keys._sorted) < 16 * 100_000
